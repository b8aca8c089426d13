// One text: what marks it, where it stands, and which hypotheses were judged on it.
import { count, decimal, isNumber, plural, signed } from "../numbers";
import { FINISHES, SPLITS, findRow, keyAt, type TextRow } from "../pack";
import { Choice, Facts, Failure, Missing, NoSuch, Side, Title, pending, score, textLink, type Finding } from "../pieces";
import { changed, href, useQuery } from "../route";
import { findings, manifest } from "../run";
import { findPattern, Marked, shorten, visible, type Mark } from "../text";
import { DifferenceText, TokenBars, TokenText } from "../tokens";
import { useAsync, usePart, useRows } from "../use";
import { evidenceMarks, useJudgedPlace } from "./hypothesis";
import { drawFired, useFired } from "./components";
import { searchPattern } from "./search";
import { Eyebrow, Note } from "../layout";

export function TextScreen({ id }: { id: string }) {
  const place = useAsync(() => findRow(manifest, id), [manifest, id]);
  const found = useRows(isNumber(place.value) ? [place.value] : []);
  const row = found.rows[0];
  const error = place.error ?? found.errors[0];
  if (place.value === null) return <NoSuch noun="text" id={id} home="texts" all="Search all texts" />;
  if (!row) return pending({ error }, "the text", "Text");
  return <Known row={row} />;
}

function Known({ row }: { row: TextRow }) {
  const query = useQuery();
  const prompts = usePart("prompt_keys");
  const judged = useJudgedPlace(query.get("h"), row.row);
  const inside = useFired(row.row, query.get("unit"), findings.findIndex((f) => f.id === query.get("h")));
  const q = query.get("q");
  const modes: [string, string][] = [];
  if (judged.value) modes.push(["evidence", "words of the claim"]);
  if (q) modes.push(["hit", "search hit"]);
  if (inside.choices.length) modes.push(["component", "component"]);
  if (row.tokens?.hasPieces) modes.push(["tokens", "token differences"]);
  modes.push(["none", "nothing"]);
  const asked = query.get("mark");
  const mode = modes.some(([name]) => name === asked) ? asked! : modes[0][0];
  const next = modes[(modes.findIndex(([name]) => name === mode) + 1) % modes.length][0];
  const number = row.prompt.number;
  const promptLink = prompts.value && number !== null ? href(["p", keyAt(prompts.value.columns.key as Uint8Array, number)]) : null;
  const text = row.text;
  return (
    <>
      <Eyebrow><Side side={row.side} /><span>{SPLITS[row.split] === "validation" ? "fresh text, for testing" : `discovery text, round ${row.round}`}</span></Eyebrow>
      <Title class="quoted" dir="auto">{visible(row.prompt.text.trim() || "(empty prompt)")}</Title>
      {judged.value && (
        <p class="callout">Judged for <a href={href(["h", judged.value.finding.id])}>{visible(judged.value.finding.statement)}</a>
          {judged.value.reason && <>. The judge's reason: <q>{visible(judged.value.reason)}</q></>}</p>
      )}
      <Choice name="mark" label="Mark" chosen={mode} keys={modes.map(([name]) => (name === next ? "a" : ""))}
        options={modes.map(([name, shown]) => [name, shown])} />
      {judged.error && <Failure error={judged.error} />}
      {mode === "component" && <Component {...inside} />}
      <article class={`fulltext ${row.side ? "intervention" : "base"}`} aria-label="The text">
        {text === null ? <Missing>This file holds the figures of this text, not its words. The folder export (<code>whatchanged export RUN --format folder</code>) holds all texts.</Missing>
          : text === "" ? <Missing>The text is empty.</Missing>
            : mode === "tokens" && row.tokens ? <DifferenceText text={text} tokens={row.tokens} />
            : mode === "component" && inside.fired?.hasPieces ? <TokenText text={text} lengths={inside.fired.lengths} values={inside.fired.values} draw={(v) => drawFired(inside.fired!, v)} say={(v) => `activation ${decimal(v, 3)}`} />
              : <p class="body" dir="auto"><Marked text={text} marks={marksFor(mode, text, judged.value, query)} /></p>}
      </article>
      <Differences row={row} reason={manifest.no_pieces} />
      <Facts facts={[
        ["tokens", count(row.nTokens)], ["end", FINISHES[row.finish] ?? "unknown"],
        ["log-probability, base", nats(row.logprobs[0])], ["intervention", nats(row.logprobs[1])],
        ["cluster", row.split === 0 && row.label >= 0 ? <ClusterLink label={row.label} /> : "none"],
        ["prompt", promptLink ? <a href={promptLink} data-key="p">all texts of this prompt</a> : "unknown"],
      ]} />
      {number !== null && prompts.value && <Others row={row} number={number} />}
      <h2>Hypotheses judged on this text</h2>
      {row.judged.length === 0 && <Missing>{row.split === 0 ? "None: discovery texts are never used to test." : "None."}</Missing>}
      <Judged row={row} findings={findings} of={(s) => s !== null && s >= 0.5} />
      {row.judged.some(({ score: s }) => s === null || s < 0.5) && (
        <details><summary>Those that it does not meet</summary><Judged row={row} findings={findings} of={(s) => s === null || s < 0.5} /></details>
      )}
      <Note>Text <code>{row.key}</code></Note>
    </>
  );
}

/** Which component is marked, and where to read more of it. */
function Component({ part, label, fired, choices }: ReturnType<typeof useFired>) {
  return (
    <>
      {choices.length > 1 && <nav class="choice" aria-label="Component">{choices.map((unit) => <a href={changed({ unit, token: null })} aria-current={unit === label || undefined}>{visible(unit)}</a>)}</nav>}
      {pending(part, "its activations")}
      {part.value && <Note><a href={href(["component", label])}>{visible(label)}</a> {fired ? `fires on ${plural(fired.values.reduce((n, v) => n + (v ? 1 : 0), 0), "token")} of this text${fired.hasPieces ? "" : ", but which words they are is unknown"}.` : "was not looked at on this text."} More colour is stronger; values of the other sign than the strongest are underlined.</Note>}
    </>
  );
}

function Judged({ row, findings, of }: { row: TextRow; findings: Finding[]; of: (score: number | null) => boolean }) {
  return (
    <ul class="plainlist">
      {row.judged.map(({ finding, score: s }) => findings[finding] && of(s) && (
        <li data-row><a href={textLink(row, { h: findings[finding].id })} data-open dir="auto">{visible(findings[finding].statement)}</a> <span class="quiet nowrap">{score(s)}</span></li>
      ))}
    </ul>
  );
}

function marksFor(mode: string, text: string, judged: { finding: any; reason: string } | null | undefined, query: URLSearchParams): Mark[] {
  if (mode === "evidence" && judged) return evidenceMarks(judged.finding, judged.reason)(text);
  const pattern = mode === "hit" ? searchPattern(query) : null;
  return pattern instanceof RegExp ? findPattern(text, pattern, "hit") : [];
}

function nats(value: number): string {
  return Number.isFinite(value) ? `${decimal(value, 1)} nats` : "not scored";
}

function Differences({ row, reason }: { row: TextRow; reason: string | null }) {
  if (row.tokens) return (
    <>
      <TokenBars tokens={row.tokens} />
      {!row.tokens.hasPieces && <Note>Which words the tokens are is unknown: {reason ? visible(reason) : "the tokenizer spells this text differently"}.</Note>}
    </>
  );
  const [base, intervention] = row.logprobs;
  if (Number.isFinite(base) && Number.isFinite(intervention)) return <Note>The whole text differs by {signed(intervention - base)} nats; differences per token are not known.</Note>;
  return <Note>This text was not scored under both models{row.split === 1 && ": only discovery texts are"}, so there is no difference per token.</Note>;
}

function ClusterLink({ label }: { label: number }) {
  const part = usePart("clusters");
  const cluster = part.value?.values.clusters.find((c: any) => c.level === "text" && c.label === label);
  return cluster ? <a href={href(["c", cluster.id])}>{visible(cluster.id)}</a> : <>{label}</>;
}

const N_OTHERS = 8;

/** Other texts of the same prompt: the coupled one first, then a few of either side. */
function Others({ row, number }: { row: TextRow; number: number }) {
  const part = usePart(`prompts/${Math.floor(number / manifest.prompts_per_part)}`).value;
  let partner = -1;
  let others: number[] = [];
  if (part) {
    const { columns, values } = part;
    const [from, to] = [columns.text_start[number - values.start], columns.text_start[number - values.start + 1]];
    for (let i = 0; i < columns.pair_base.length; i++) {
      if (columns.pair_base[i] === row.row) partner = columns.pair_intervention[i];
      if (columns.pair_intervention[i] === row.row) partner = columns.pair_base[i];
    }
    const all = Array.from(columns.text_row.subarray(from, to)).filter((r) => r !== row.row && r !== partner);
    others = [...(partner >= 0 ? [partner] : []), ...all.slice(0, N_OTHERS)];
  }
  const found = useRows(others);
  if (!part || others.length === 0) return null;
  return (
    <section>
      <h2>Other texts of this prompt</h2>
      {found.errors.map((error) => <Failure error={error} />)}
      <ul class="plainlist">
        {found.rows.map((other) => other && (
          <li><a href={textLink(other)}><Side side={other.side} />{" "}{other.row === partner && <strong> the same random numbers: </strong>} <span dir="auto">{visible(shorten(other.text ?? "(words not in this file)"))}</span></a></li>
        ))}
      </ul>
    </section>
  );
}

