// The clusters: how both sides are spread over kinds of replies and kinds of sentences.
import { useMemo } from "preact/hooks";
import { Effect, Histogram, History, fitScale, makeBins } from "../marks";
import { count, decimal, interval, isNumber, percent, points, signed, range } from "../numbers";
import { loadPart, readRows, shardOf, type TextRow } from "../pack";
import { Choice, Facts, Grid, Missing, NoSuch, Numbers, SideChoice, Steps, TextList, Title, beside, passes, pending } from "../pieces";
import { changed, href, numberOf, useQuery } from "../route";
import { manifest } from "../run";
import { DataTable, figure, type Column } from "../table";
import { findTerms, shorten, visible } from "../text";
import { useAsync, usePart } from "../use";
import { Inside } from "./components";
import { Controls, Eyebrow, Head, Note, Soft } from "../layout";

interface Cluster {
  id: string;
  level: "text" | "segment";
  label: number;
  exemplar: string | null;
  n_base: number;
  n_intervention: number;
  share_base: number | null;
  share_intervention: number | null;
  difference: number | null;
  ci_low: number | null;
  ci_high: number | null;
  cohesion: number | null;
  silhouette: number | null;
  lineage_share: number | null;
  rows: [number, number] | null;
  part: number | null;
  findings: string[];
  history: { round: number[]; difference: number[]; ci_low: number[]; ci_high: number[] };
  ids: string[];
}

const LEVELS: [string, string][] = [["segment", "sentences"], ["text", "whole replies"]];

export function ClustersScreen() {
  const query = useQuery();
  const part = usePart("clusters");
  const level = query.get("level") ?? "segment";
  const clusters: Cluster[] = part.value?.values.clusters.filter((c: Cluster) => c.level === level) ?? [];
  const scale = fitScale(clusters.flatMap((c) => [c.ci_low, c.ci_high]));
  const columns: Column<Cluster>[] = [
    { key: "example", name: "Most typical", value: (c) => c.exemplar, cell: (c) => <a href={href(["c", c.id])} data-open dir="auto">{c.exemplar ? visible(shorten(c.exemplar)) : visible(c.id)}</a> },
    { key: "drawn", name: "Difference and 95% interval", value: null, cell: (c) => <Effect scale={scale} effect={c.difference} low={c.ci_low} high={c.ci_high} tone={toneOf(c)} width={170} /> },
    { key: "size", name: "Size of difference", numeric: true, value: (c) => (isNumber(c.difference) ? Math.abs(c.difference) : null), cell: (c) => points(c.difference, "") },
    figure("base", "Base", (c) => c.n_base),
    figure("intervention", "Intervention", (c) => c.n_intervention),
    figure("cohesion", "Cohesion", (c) => c.cohesion, decimal),
    figure("claims", "Claims", (c) => c.findings.length),
    { key: "id", name: "Cluster", value: (c) => c.id, cell: (c) => <span class="quiet nowrap">{visible(c.id)}</span> },
  ];
  return (
    <>
      <Eyebrow>at the end of discovery{part.value && `, round ${part.value.values.round}`}</Eyebrow>
      <Title>Clusters</Title>
      <p>Texts were sampled where a difference seemed likely, so these differences are leads for hypotheses, never tests.</p>
      <Choice name="level" label="Clusters of" options={LEVELS} chosen={level} keys={["1", "2"]} />
      {pending(part, "the clusters")}
      {part.value && <DataTable caption="Clusters; colour marks intervals that leave out zero" noun={["cluster", "clusters"]} columns={columns} rows={clusters} sort="-size" />}
    </>
  );
}

/** The side that has more of it, where the interval leaves out zero. */
function toneOf(c: Cluster) {
  return isNumber(c.ci_low) && c.ci_low > 0 ? "intervention" : isNumber(c.ci_high) && c.ci_high < 0 ? "base" : "muted";
}

export function ClusterScreen({ id }: { id: string }) {
  const part = usePart("clusters");
  if (!part.value) return pending(part, "the clusters", "Cluster");
  const all: Cluster[] = part.value.values.clusters;
  // A claim names the cluster as it was when the claim was made: of an earlier round, perhaps.
  const cluster = all.find((c) => c.id === id) ?? all.find((c) => c.ids.includes(id));
  if (!cluster) return <NoSuch noun="cluster" id={id} home="clusters" all="All clusters" />;
  const same = all.filter((c) => c.level === cluster.level);
  const i = same.indexOf(cluster);
  const scale = fitScale([cluster.ci_low, cluster.ci_high]);
  return (
    <>
      <Steps links={beside(same, i, (c) => href(["c", c.id]))}>cluster {visible(cluster.id)}, {cluster.level === "text" ? "whole replies" : "sentences"}</Steps>
      <Title dir="auto" class="quoted">{cluster.exemplar ? visible(shorten(cluster.exemplar)) : visible(cluster.id)}</Title>
      {cluster.id !== id && cluster.ids.includes(id) && <p class="callout">This is what became of {visible(id)} by the last round.</p>}
      <div class="result">
        <div>
          <p class="big">{points(cluster.difference)}</p>
          <Note>95% interval {interval(cluster.ci_low, cluster.ci_high)}<br />{percent(cluster.share_base)} of base, {percent(cluster.share_intervention)} of intervention</Note>
        </div>
        <Effect scale={scale} effect={cluster.difference} low={cluster.ci_low} high={cluster.ci_high} tone={toneOf(cluster)} />
        <figure><History history={cluster.history} /><figcaption>difference, round by round</figcaption></figure>
      </div>
      <Facts facts={[
        ["base", count(cluster.n_base)], ["intervention", count(cluster.n_intervention)],
        ["cohesion", decimal(cluster.cohesion)], ["silhouette", decimal(cluster.silhouette)],
        ["kept from the round before", percent(cluster.lineage_share, 0)],
        ["claims", cluster.findings.length ? cluster.findings.map((f) => <a href={href(["h", f])}>{visible(f)} </a>) : "none"],
      ]} />
      {cluster.level === "text"
        ? <TextsOf cluster={cluster} />
        : <SentencesOf cluster={cluster} />}
      <Inside kind="cluster" name={cluster.id} />
    </>
  );
}

const ORDERS: [string, string][] = [["central", "central first"], ["boundary", "boundary first"], ["random", "random"]];

function TextsOf({ cluster }: { cluster: Cluster }) {
  const query = useQuery();
  const [start, end] = cluster.rows ?? [0, 0];
  const { shards } = manifest;
  const found = useAsync(async () => {
    if (start === end) return [];
    const [first, last] = [shardOf(shards, start), shardOf(shards, end - 1)];
    const parts = await Promise.all(range(last - first + 1).map((i) => loadPart(`texts/${first + i}`)));
    return parts.flatMap(readRows).filter((row) => row.row >= start && row.row < end);
  }, [start, end, shards]);
  if (!found.value) return pending(found, `${count(end - start)} texts`);
  if (!found.value.length) return <Missing>This cluster holds no text.</Missing>;
  return <Filtered texts={found.value} query={query} />;
}

const FIGURES: { key: string; title: string; of: (row: TextRow) => number; show?: (v: number) => string }[] = [
  { key: "margin", title: "Nearness to another cluster: 0 centre, 1 boundary", of: (r) => r.margin },
  { key: "length", title: "Tokens", of: (r) => r.nTokens, show: (v) => v.toFixed(0) },
  { key: "nats", title: "Log-probability difference per token (nats)", of: (r) => (r.logprobs[1] - r.logprobs[0]) / Math.max(1, r.nTokens), show: (v) => signed(v) },
];

function Filtered({ texts, query }: { texts: TextRow[]; query: URLSearchParams }) {
  const side = query.get("side") ?? "both";
  const order = query.get("order") ?? "central";
  const sides = texts.map((t) => t.side);
  const histograms = FIGURES.map((figure) => ({ ...figure, bins: makeBins(texts.map(figure.of), sides) }));
  const kept = texts.filter((t) => passes(side, t.side)
    && histograms.every(({ key, of, bins }) => {
      const bin = bins[numberOf(query, key, -1)];
      return !bin || (of(t) >= bin.low && (of(t) < bin.high || bin === bins[bins.length - 1]));
    }));
  const sorted = order === "random" ? [...kept].sort((a, b) => (a.key.slice(-8) < b.key.slice(-8) ? -1 : 1))
    : [...kept].sort((a, b) => (order === "boundary" ? b.margin - a.margin : a.margin - b.margin));
  return (
    <>
      <h2>What both sides look like here</h2>
      <Note>A bar is a filter: choose it to see its texts below. Colour and order are those of the sides, base below.</Note>
      <div class="histograms">
        {histograms.map(({ key, title, bins, show }) => bins.length > 0 && (
          <Histogram title={title} bins={bins} show={show} chosen={query.has(key) ? numberOf(query, key, 0) : null}
            link={(bin) => changed({ [key]: bin, page: null })} />
        ))}
      </div>
      <TopWords texts={texts} />
      <h2>Texts <Soft>{count(kept.length)} of {count(texts.length)}</Soft></h2>
      <Controls>
        <SideChoice chosen={side} />
        <Choice name="order" label="Order" options={ORDERS} chosen={order} />
      </Controls>
      {kept.length === 0 ? <Missing>No text passes these filters. <a href={changed({ side: null, margin: null, length: null, nats: null })}>Clear them</a></Missing>
        : <TextList rows={sorted.map((t) => t.row)} />}
    </>
  );
}

const N_WORDS = 12;

/** Words by the number of texts that hold them, most uneven between the sides first. */
export function uneven(texts: TextRow[]): { word: string; counts: [number, number] }[] {
  const found = new Map<string, [number, number]>();
  for (const t of texts) {
    const words = new Set((t.text ?? "").toLowerCase().match(/[\p{L}\p{N}'\u2019]{2,}/gu) ?? []);
    for (const word of words) {
      const counts = found.get(word) ?? [0, 0];
      counts[t.side]++;
      found.set(word, counts);
    }
  }
  const n = [0, 1].map((side) => Math.max(1, texts.filter((t) => t.side === side).length));
  const gap = ([a, b]: [number, number]): number => b / n[1] - a / n[0];
  return [...found].map(([word, counts]) => ({ word, counts }))
    .sort((a, b) => Math.abs(gap(b.counts)) - Math.abs(gap(a.counts)) || (a.word < b.word ? -1 : 1));
}

function TopWords({ texts }: { texts: TextRow[] }) {
  const words = useMemo(() => uneven(texts).slice(0, N_WORDS), [texts]);
  const n = [0, 1].map((side) => texts.filter((t) => t.side === side).length);
  if (!words.length) return null;
  return (
    <details>
      <summary>Words that the sides use most unevenly</summary>
      <Grid caption="Texts of this cluster that hold the word" head={["Word", "#Base", "#Intervention"]}>
        {words.map(({ word, counts }) => <tr><Head>{visible(word)}</Head><Numbers of={counts.map((c, side) => <>{count(c)} <Soft>({percent(n[side] ? c / n[side] : null, 0)})</Soft></>)} /></tr>)}
      </Grid>
    </details>
  );
}

interface Sentence { i: number; text: string; base: number; intervention: number }

function SentencesOf({ cluster }: { cluster: Cluster }) {
  const query = useQuery();
  const part = usePart(`segments/${cluster.part}`);
  if (cluster.part === null) return <Missing>No sentence stands in this cluster.</Missing>;
  if (!part.value) return pending(part, "the sentences");
  const { values, columns } = part.value;
  const sentences: Sentence[] = values.sentences.map((text: string, i: number) => ({ i, text, base: columns.n_base[i], intervention: columns.n_intervention[i] }));
  const chosen = query.has("s") ? sentences[numberOf(query, "s", 0)] : undefined;
  const table: Column<Sentence>[] = [
    { key: "sentence", name: "Sentence", value: (s) => s.text, cell: (s) => <a href={changed({ s: s.i, texts: null })} data-open aria-current={s === chosen || undefined} dir="auto">{visible(s.text)}</a> },
    figure("base", "Base", (s) => s.base),
    figure("intervention", "Intervention", (s) => s.intervention),
    { key: "more", name: "More in intervention", numeric: true, value: (s) => s.intervention - s.base, cell: (s) => signed(s.intervention - s.base, 0) },
  ];
  const rows = chosen ? [...new Set(Array.from(columns.at_row).filter((_, j) => columns.at_sentence[j] === chosen.i))] : [];
  return (
    <>
      <h2>Sentences</h2>
      {values.n_left_out > 0 && <p class="callout">{count(values.n_left_out)} further occurrences, the ones furthest from the centre, are counted but cannot be opened here.</p>}
      <DataTable caption="Distinct sentences; choose one to read the texts that hold it" noun={["sentence", "sentences"]} columns={table} rows={sentences} sort="" />
      {chosen && (
        <section aria-live="polite">
          <h2>Texts with <q dir="auto">{visible(shorten(chosen.text))}</q> <Soft>{count(rows.length)}</Soft></h2>
          <TextList rows={rows} name="texts" marks={(text) => findTerms(text, [chosen.text])} />
        </section>
      )}
    </>
  );
}

