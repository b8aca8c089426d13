// Search through every text: in the page itself, shard after shard, so that it works without a server.
import { useEffect, useState } from "preact/hooks";
import { bySides, count, plural, range } from "../numbers";
import { loadPart } from "../pack";
import { Choice, Failure, Missing, Quote, SideChoice, Title, passes } from "../pieces";
import { changed, setState, useQuery } from "../route";
import { manifest } from "../run";
import { paged, Pages } from "../table";
import { escapeRegExp, findPattern, visible } from "../text";
import { live } from "../live";
import { useRows } from "../use";
import { Controls, Eyebrow } from "../layout";

const HITS_PER_PAGE = 25;
const MAX_HITS = 20_000;
const SHARDS_AT_ONCE = 4;

/** The pattern asked for in the URL, or what is wrong with it; null where nothing is asked. */
export function searchPattern(query: URLSearchParams): RegExp | Error | null {
  const q = query.get("q") ?? "";
  if (q === "") return null;
  const as = query.get("as") ?? "words";
  const source = as === "regex" ? q : as === "whole" ? `(?<![\\p{L}\\p{N}_])${escapeRegExp(q)}(?![\\p{L}\\p{N}_])` : escapeRegExp(q);
  try {
    return new RegExp(source, query.has("case") ? "gu" : "giu");
  } catch (error) {
    return error as Error;
  }
}

interface Hit { row: number; side: number; label: number; split: number }
interface Progress { hits: Hit[]; done: number; of: number; errors: Error[]; isDone: boolean }

/** Asks the server, where there is one, or reads every shard here, and reports as it goes. */
async function search(pattern: RegExp, query: URLSearchParams, signal: AbortSignal, report: (p: Progress) => void): Promise<void> {
  const told = await askServer(query, signal);
  if (told) {
    report({ hits: told, done: 1, of: 1, errors: [], isDone: true });
    return;
  }
  const { shards } = manifest;
  const wanted = range(shards.length - 1).map((i) => i);
  const hits: Hit[][] = [];
  const errors: Error[] = [];
  let next = 0;
  let done = 0;
  let n = 0;
  let reported = 0;
  const work = async (): Promise<void> => {
    while (next < wanted.length && !signal.aborted && n < MAX_HITS) {
      const place = next++;
      try {
        const part = await loadPart(`texts/${wanted[place]}`);
        const { start, texts } = part.values;
        const { side, label, split } = part.columns;
        const found: Hit[] = [];
        for (let i = 0; i < texts.length; i++) {
          pattern.lastIndex = 0;
          if (texts[i] !== null && pattern.test(texts[i])) found.push({ row: start + i, side: side[i], label: label[i], split: split[i] });
        }
        hits[place] = found;
        n += found.length;
      } catch (error) {
        errors.push(error as Error);
      }
      done += 1;
      // Drawing after every shard would take longer than reading it.
      if (performance.now() - reported > 250) {
        reported = performance.now();
        report({ hits: hits.flat(), done, of: wanted.length, errors, isDone: false });
        await new Promise((resolve) => setTimeout(resolve));
      }
    }
  };
  await Promise.all(Array.from({ length: SHARDS_AT_ONCE }, work));
  if (!signal.aborted) report({ hits: hits.flat(), done, of: wanted.length, errors, isDone: true });
}

/** What a server finds; null where there is none, or it cannot: it knows words, not expressions. */
async function askServer(query: URLSearchParams, signal: AbortSignal): Promise<Hit[] | null> {
  if (!live.isServed || query.get("as") === "regex") return null;
  const asked = new URLSearchParams();
  for (const name of ["q", "as", "case"]) if (query.has(name)) asked.set(name, query.get(name)!);
  try {
    const answer = await fetch(`api/search?${asked}`, { signal });
    if (!answer.ok) return null;
    const { row, side, label, split } = await answer.json();
    return row.map((r: number, i: number) => ({ row: r, side: side[i], label: label[i], split: split[i] }));
  } catch {
    return null;
  }
}

export function SearchScreen() {
  const query = useQuery();
  const q = query.get("q") ?? "";
  const as = query.get("as") ?? "words";
  const pattern = searchPattern(query);
  const [typed, setTyped] = useState(q);
  const [progress, setProgress] = useState<Progress | null>(null);
  const [stop, setStop] = useState<AbortController | null>(null);
  const asked = `${q}\n${as}\n${query.has("case")}`;
  useEffect(() => setTyped(q), [q]);
  useEffect(() => {
    setProgress(null);
    if (!(pattern instanceof RegExp)) return;
    const controller = new AbortController();
    setStop(controller);
    void search(pattern, query, controller.signal, setProgress);
    return () => controller.abort();
  }, [manifest, asked]);
  return (
    <>
      <Eyebrow>{plural(manifest.n_kept, "text")}{manifest.n_kept < manifest.n_texts && ` of ${count(manifest.n_texts)}: this file does not hold the words of the others`}</Eyebrow>
      <Title>Search all texts</Title>
      <form class="controls" onSubmit={(e) => { e.preventDefault(); setState({ q: typed, page: null }); }}>
        <label class="grow">Find <input type="search" value={typed} data-focus="search" placeholder="words to find" onInput={(e) => setTyped(e.currentTarget.value)} /></label>
        <button type="submit">Search</button>
        {progress && !progress.isDone && <button type="button" onClick={() => { stop?.abort(); setProgress({ ...progress, isDone: true }); }}>Cancel</button>}
      </form>
      <Controls>
      <Choice name="as" label="As" chosen={as} options={[["words", "letters anywhere"], ["whole", "whole words"], ["regex", "regular expression"]]} />
      <Choice name="case" label="Case" chosen={query.has("case") ? "1" : ""} options={[["", "ignore"], ["1", "match"]]} />
      </Controls>
      {pattern === null && <Missing>Nothing is searched yet. Type some words above.</Missing>}
      {pattern instanceof Error && <p class="callout warning" role="alert">This is no regular expression: {visible(pattern.message)}</p>}
      {progress && <Results progress={progress} pattern={pattern as RegExp} query={query} />}
      {pattern instanceof RegExp && !progress && <progress class="line" aria-label="Searching" />}
    </>
  );
}

function Results({ progress, pattern, query }: { progress: Progress; pattern: RegExp; query: URLSearchParams }) {
  const side = query.get("side") ?? "both";
  const split = query.get("split") ?? "both";
  const hits = progress.hits.filter((h) => passes(side, h.side) && (split === "both" || (split === "discovery") === (h.split === 0)));
  const n = [0, 1].map((s) => hits.filter((h) => h.side === s).length);
  const { page, n_pages, shown } = paged(query, hits, HITS_PER_PAGE);
  return (
    <>
      {!progress.isDone && <progress class="line" max={progress.of} value={progress.done} aria-label="Searching" />}
      {progress.errors.slice(0, 3).map((error) => <Failure error={error} />)}
      <p role="status" data-done={progress.isDone}><strong>{plural(hits.length, "text")}</strong>: {bySides(n)}{progress.hits.length >= MAX_HITS && `, of the first ${count(MAX_HITS)} found`}</p>
      <Controls>
      <SideChoice chosen={side} />
      <Choice name="split" label="Texts of" chosen={split} options={["both", "discovery", ["validation", "the tests"]]} />
      </Controls>
      {progress.isDone && hits.length === 0 && <Missing>No text holds this. <a href={changed({ as: null, case: null, side: null, split: null })}>Search without the restrictions</a></Missing>}
      <Hits hits={shown} pattern={pattern} query={query} />
      <Pages page={page} n_pages={n_pages} />
    </>
  );
}

function Hits({ hits, pattern, query }: { hits: Hit[]; pattern: RegExp; query: URLSearchParams }) {
  const found = useRows(hits.map((h) => h.row));
  let last = "";
  return (
    <div class="texts">
      {found.rows.map((row) => {
        if (!row) return null;
        const group = row.split === 1 ? "Texts of the tests" : row.label < 0 ? "Discovery texts of no cluster" : `Discovery texts of cluster ${row.label}`;
        const head = group === last ? null : <h2>{group}</h2>;
        last = group;
        return <>{head}<div data-row><Quote row={row} marks={(text) => findPattern(text, pattern, "hit")} link={{ q: query.get("q"), as: query.get("as"), case: query.get("case") }} /></div></>;
      })}
    </div>
  );
}

