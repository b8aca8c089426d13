// Prompts by how far the models are apart on them, and both sides of one prompt side by side.
import { Choice, Facts, Missing, NoSuch, Quote, Side, SideChoice, TextList, Title, Unread, passes, pending, textLink } from "../pieces";
import { Svg } from "../marks";
import { bySides, count, decimal, isNumber, percent } from "../numbers";
import { findKey, loadPart, type Part, type TextRow } from "../pack";
import { changed, href, numberOf, setState, useQuery } from "../route";
import { manifest } from "../run";
import { DataTable, figure, type Column } from "../table";
import { shorten, visible } from "../text";
import { commonStart, diffWords } from "../diff";
import { keyAt } from "../pack";
import { useAsync, usePart, useParts, useRows } from "../use";
import { Controls, Eyebrow, Note, Soft } from "../layout";

interface Prompt {
  number: number;
  prompt: string;
  group: string;
  split: string;
  parting?: number | null;
  kl_base?: number | null;
  kl_intervention?: number | null;
  n_pairs?: number | null;
  n_differing?: number | null;
  n_texts: number;
}

export function PromptsScreen() {
  const parts = useParts("prompts", manifest.n_prompt_parts);
  const keys = usePart("prompt_keys");
  const error = parts.error ?? keys.error;
  const prompts: Prompt[] = parts.value?.flatMap(({ values, columns }) => values.prompts.map((p: any, i: number) => ({
    ...p, number: values.start + i, n_texts: columns.text_start[i + 1] - columns.text_start[i],
  }))) ?? [];
  const link = (p: Prompt): string => href(["p", keyAt(keys.value!.columns.key as Uint8Array, p.number)]);
  const columns: Column<Prompt>[] = [
    { key: "prompt", name: "Prompt", value: (p) => p.prompt, cell: (p) => <a href={link(p)} data-open dir="auto">{visible(shorten(p.prompt) || "(empty prompt)")}</a> },
    { key: "group", name: "Group", value: (p) => p.group },
    { key: "used", name: "Used for", value: (p) => p.split, cell: (p) => (p.split === "validation" ? "tests" : "discovery") },
    figure("texts", "Texts", (p) => p.n_texts),
    { key: "parting", name: "Models part", numeric: true, value: (p) => p.parting, cell: (p) => isNumber(p.parting) ? percent(p.parting, 0) : <Soft>not scored</Soft> },
    { key: "kl", name: "KL from base", numeric: true, value: (p) => p.kl_base, cell: (p) => isNumber(p.kl_base) ? `${decimal(p.kl_base)} nats` : "" },
    { key: "differ", name: "Pairs that differ", numeric: true, value: (p) => (p.n_pairs ? p.n_differing! / p.n_pairs : null), cell: (p) => p.n_pairs ? `${count(p.n_differing)} of ${count(p.n_pairs)}` : "" },
  ];
  return (
    <>
      <Title>Prompts</Title>
      <p>How far the two models are apart on each prompt. “Models part” is about the probability that the two, coupled as tightly as they can be, write different texts.</p>
      {pending({ value: parts.value && keys.value, error }, "the prompts")}
      {parts.value && keys.value && <DataTable caption="Furthest apart first" noun={["prompt", "prompts"]} columns={columns} rows={prompts} sort="" />}
    </>
  );
}

export function PromptScreen({ id }: { id: string }) {
  const found = useAsync(async () => {
    const keys = await loadPart("prompt_keys");
    const number = /^[0-9a-f]{32,64}$/.test(id) ? findKey(keys.columns.key as Uint8Array, id) : -1;
    if (number < 0) return null;
    return { part: await loadPart(`prompts/${Math.floor(number / manifest.prompts_per_part)}`), number, keys };
  }, [manifest, id]);
  if (found.value === undefined) return pending(found, "the prompt", "Prompt");
  if (found.value === null) return <NoSuch noun="prompt" id={id} home="prompts" all="All prompts" />;
  return <Known {...found.value} />;
}

interface Pair { base: number; intervention: number; first: number }

function pairsOf(part: Part, i: number): Pair[] {
  const { columns: c } = part;
  return Array.from(c.pair_prompt).flatMap((p, j) => p === i ? [{ base: c.pair_base[j], intervention: c.pair_intervention[j], first: c.pair_first[j] }] : []);
}

function Known({ part, number, keys }: { part: Part; number: number; keys: Part }) {
  const query = useQuery();
  const i = number - part.values.start;
  const prompt = part.values.prompts[i];
  const { columns: c } = part;
  const rows = Array.from(c.text_row.subarray(c.text_start[i], c.text_start[i + 1]));
  const sides = Array.from(c.text_side.subarray(c.text_start[i], c.text_start[i + 1]));
  const bySide = [0, 1].map((side) => rows.filter((_, j) => (sides[j] ? 1 : 0) === side));
  const coupled = pairsOf(part, i);
  // Those that differ first: identical pairs have nothing to show.
  const pairs = [...coupled.filter((p) => p.first >= 0), ...coupled.filter((p) => p.first < 0)];
  const link = (n: number): string => href(["p", keyAt(keys.columns.key as Uint8Array, n)]);
  const shown: Pair | undefined = pairs.length ? pairs[Math.min(numberOf(query, "pair", 0), pairs.length - 1)]
    : bySide[0].length && bySide[1].length ? { base: pick(bySide[0], query, "b"), intervention: pick(bySide[1], query, "i"), first: -2 } : undefined;
  return (
    <>
      <Eyebrow>
        <span>prompt of group {visible(String(prompt.group ?? "none"))}, used for {prompt.split === "validation" ? "the tests" : "discovery"}</span>
        {number > 0 && <a href={link(number - 1)} data-key="[">previous</a>}
        {number + 1 < manifest.n_prompts && <a href={link(number + 1)} data-key="]">next</a>}
      </Eyebrow>
      <Title class="quoted" dir="auto">{visible(prompt.prompt.trim() || "(empty prompt)")}</Title>
      <Facts facts={[
        ["texts", bySides(bySide.map((rows) => rows.length))],
        ["models part", isNumber(prompt.parting) ? percent(prompt.parting) : "not scored"],
        ["KL from base", isNumber(prompt.kl_base) ? `${decimal(prompt.kl_base)} ± ${decimal(prompt.kl_base_se)} nats` : "not scored"],
        ["KL from intervention", isNumber(prompt.kl_intervention) ? `${decimal(prompt.kl_intervention)} ± ${decimal(prompt.kl_intervention_se)} nats` : "not scored"],
        ["pairs that differ", coupled.length ? `${count(coupled.filter((p) => p.first >= 0).length)} of ${count(coupled.length)}` : "no coupled pairs"],
      ]} />
      {shown ? <SideBySide pair={shown} /> : <Missing>This prompt has texts of {bySide[0].length ? "the base" : bySide[1].length ? "the intervention" : "neither side"} only, so there is nothing to lay side by side.</Missing>}
      {pairs.length > 0 && <PairStrip pairs={pairs} chosen={Math.min(numberOf(query, "pair", 0), pairs.length - 1)} />}
      {rows.length > 0 && (
        <details open={query.has("all")} onToggle={(e) => e.currentTarget.open !== query.has("all") && setState({ all: e.currentTarget.open ? 1 : null }, { replace: true })}>
          <summary>All {count(rows.length)} texts of this prompt</summary>
          {query.has("all") && <TextList rows={[...bySide[0], ...bySide[1]]} />}
        </details>
      )}
    </>
  );
}

function pick(rows: number[], query: URLSearchParams, name: string): number {
  return rows[Math.min(numberOf(query, name, 0), rows.length - 1)];
}

function PairStrip({ pairs, chosen }: { pairs: Pair[]; chosen: number }) {
  const longest = Math.max(1, ...pairs.map((p) => p.first));
  return (
    <nav aria-label="Pairs of texts with the same random numbers">
      <Note>{count(pairs.length)} pairs of texts with the same random numbers, those that differ first. The bar is how far they run together.</Note>
      <ol class="strip">
        {pairs.map((pair, i) => (
          <li><a href={changed({ pair: i === 0 ? null : i })} aria-current={i === chosen || undefined}
            aria-label={pair.first < 0 ? `pair ${i + 1}, identical` : `pair ${i + 1}, differs from token ${pair.first + 1}`}>
            <Svg width={46} height={8}><rect class="track" width="46" height="8" /><rect class="bar plain" width={pair.first < 0 ? 46 : Math.max(1, (46 * pair.first) / longest)} height="8" /></Svg>
            <span>{pair.first < 0 ? "same" : pair.first + 1}</span></a></li>
        ))}
      </ol>
    </nav>
  );
}

function SideBySide({ pair }: { pair: Pair }) {
  const query = useQuery();
  const found = useRows([pair.base, pair.intervention]);
  const isDiff = query.get("diff") !== "off";
  const [base, intervention] = found.rows;
  const show = query.get("show") ?? "both";
  return (
    <section aria-label="Side by side">
      <Controls>
      <SideChoice name="show" label="Show" chosen={show} />
      <Choice name="diff" label="Word diff" options={["on", "off"]} chosen={isDiff ? "on" : "off"} keys={isDiff ? ["", "d"] : ["d", ""]} />
      </Controls>
      <Unread of={found} what="two texts" />
      {base && intervention && (
        <div class={`columns ${show === "both" ? "" : "one"}`}>
          {[base, intervention].map((row, i) => passes(show, i) && (
            <article class={`fulltext ${i ? "intervention" : "base"}`}>
              <Eyebrow><Side side={row.side} /> <a href={textLink(row)} data-open>open text</a></Eyebrow>
              {base.text === null || intervention.text === null ? <Quote row={row} /> : <Aligned row={row} base={base.text} intervention={intervention.text} first={firstAt(base, pair.first)} isDiff={isDiff} />}
            </article>
          ))}
        </div>
      )}
      {base && intervention && <p class="quiet" role="status">{pair.first === -2 ? "These two texts were drawn independently." : base.text === intervention.text ? "The two texts are identical." : `The same random numbers wrote both; they part at token ${pair.first + 1}.`}</p>}
    </section>
  );
}

/** Where in the text its first differing token begins; null where that is not known. */
function firstAt(base: TextRow, first: number): number | null {
  if (first < 0 || !base.tokens?.hasPieces) return null;
  let at = 0;
  for (let i = 0; i < first; i++) at += base.tokens.lengths[i] ?? 0;
  return at;
}

function Aligned({ row, base, intervention, first, isDiff }: { row: TextRow; base: string; intervention: string; first: number | null; isDiff: boolean }) {
  const own = row.side ? intervention : base;
  const shared = Math.min(first ?? Infinity, commonStart(base, intervention));
  const isSame = base === intervention;
  const rest = isDiff ? diffWords(base.slice(shared), intervention.slice(shared))[row.side] : [{ text: own.slice(shared), isOnly: false }];
  return (
    <p class="body" dir="auto">
      {own === "" && <Soft>(empty text)</Soft>}
      <span class={isSame ? "" : "shared"}>{visible(own.slice(0, shared))}</span>
      {!isSame && <span class="parting" title="the texts part here"><span class="sr">[the texts part here]</span></span>}
      {rest.map((piece) => piece.isOnly ? <mark class={row.side ? "only-intervention" : "only-base"}>{visible(piece.text)}</mark> : visible(piece.text))}
    </p>
  );
}
