// What several screens show: sides, quotes, notices of what is missing, lists of texts.
import type { ComponentChildren } from "preact";
import type { Manifest, TextRow } from "./pack";
import { SIDES } from "./pack";
import { changed, href, useRoute } from "./route";
import { useRows, type Awaited } from "./use";
import { Marked, Shown, type Mark } from "./text";
import { count, decimal, plural } from "./numbers";
import { paged, Pages } from "./table";

export interface Finding {
  id: string;
  statement: string;
  criterion: string;
  direction: string;
  scope: string | null;
  cluster: string | null;
  status: string;
  effect: number | null;
  ci_low: number | null;
  ci_high: number | null;
  share_base: number | null;
  share_intervention: number | null;
  auc: number | null;
  p_value: number | null;
  p_adjusted: number | null;
  n_texts: number | null;
  n_unscored: number | null;
  incomplete: boolean;
  judge_calls: number | null;
  cost_usd: number | null;
  evidence_terms: string[];
}

export interface Context {
  manifest: Manifest;
  verdict: any;
  findings: Finding[];
}

export function Side({ side }: { side: 0 | 1 }) {
  return <span class={`side ${SIDES[side]}`}>{SIDES[side]}</span>;
}

export function tone(finding: Finding): "base" | "intervention" | "muted" {
  if (finding.status !== "confirmed") return "muted";
  return (finding.effect ?? 0) > 0 ? "intervention" : "base";
}

/** What the tests say, in a line whose parts have styles of their own. */
export function Spans({ line }: { line: [string, string][] }) {
  return <>{line.map(([text, style]) =>
    style === "strong" ? <strong><Shown text={text} /></strong>
      : style === "data" ? <bdi class="data"><Shown text={text} /></bdi>
        : <Shown text={text} />)}</>;
}

export function Failure({ error }: { error: Error }) {
  return (
    <div class="callout warning" role="alert">
      <p><strong>A part of this page could not be read.</strong> <code><Shown text={error.message} /></code></p>
      <p>Everything else still works. Copy the whole folder again, or write it again with <code>whatchanged export</code>.</p>
    </div>
  );
}

export function Waiting({ what }: { what: string }) {
  return <div class="waiting" role="status"><p>Reading {what}…</p><div class="bone" /><div class="bone" /><div class="bone short" /></div>;
}

/** What stands for something that is awaited or that failed; null where it is there. */
export function pending({ value, error }: Awaited<unknown>, what: string, title?: string) {
  if (value !== undefined && !error) return null;
  return <>{title && <Title>{title}</Title>}{error ? <Failure error={error} /> : <Waiting what={what} />}</>;
}

export function NoSuch({ noun, id, home, all }: { noun: string; id: string; home: string; all: string }) {
  return <><Title>No such {noun}</Title><Missing>This run ended without a {noun} <code><Shown text={id} /></code>. <a href={href([home])}>{all}</a></Missing></>;
}

/** A table that scrolls by itself where it is wide; "#" marks a column of numbers. */
export function Grid({ caption, label, head, children }: { caption: ComponentChildren; label?: string; head: string[]; children: ComponentChildren }) {
  return (
    <div class="wrap" tabIndex={0} role="region" aria-label={label ?? String(caption)}>
      <table>
        <caption>{caption}</caption>
        <thead><tr>{head.map((name) => <th scope="col" class={name[0] === "#" ? "n" : ""}>{name.replace("#", "")}</th>)}</tr></thead>
        <tbody>{children}</tbody>
      </table>
    </div>
  );
}

export function Numbers({ of }: { of: ComponentChildren[] }) {
  return <>{of.map((value) => <td class="n">{value}</td>)}</>;
}

/** A screen's heading, which a new screen is read from. */
export function Title(props: { class?: string; dir?: "auto"; children: ComponentChildren }) {
  return <h1 tabIndex={-1} {...props} />;
}

export function Missing({ children }: { children: ComponentChildren }) {
  return <p class="empty">{children}</p>;
}

export function Facts({ facts }: { facts: [string, ComponentChildren][] }) {
  return <dl class="facts">{facts.map(([name, value]) => <div><dt>{name}</dt><dd>{value}</dd></div>)}</dl>;
}

export function textLink(row: TextRow, more: Record<string, string | number | null> = {}): string {
  return href(["t", row.key], more);
}

const MAX_QUOTED = 700;

interface QuoteProps {
  row: TextRow;
  marks?: (text: string) => Mark[];
  note?: ComponentChildren;
  link?: Record<string, string | number | null>;
  isBlind?: boolean;
}

/** A text with its prompt; what is cut is counted, and the link opens all of it. */
export function Quote({ row, marks, note, link = {}, isBlind = false }: QuoteProps) {
  const text = row.text;
  const found = text === null ? [] : (marks?.(text) ?? []);
  const start = found.length && found[0].end > MAX_QUOTED ? Math.max(0, found[0].start - MAX_QUOTED / 3) : 0;
  const shown = text?.slice(start, start + MAX_QUOTED) ?? "";
  const cut = (text?.length ?? 0) - shown.length;
  const moved = found.map((m) => ({ ...m, start: m.start - start, end: Math.min(m.end - start, shown.length) })).filter((m) => m.start >= 0);
  return (
    <blockquote class={isBlind ? "" : SIDES[row.side]}>
      <p class="prompt" dir="auto"><Shown text={row.prompt.text.trim()} /></p>
      <p class="body" dir="auto">
        {start > 0 && "… "}
        {text === null ? <span class="quiet">This file holds the figures of this text, not its words.</span>
          : text.trim() === "" ? <span class="quiet">(empty text)</span>
            : <Marked text={shown} marks={moved} />}
        {start + shown.length < (text?.length ?? 0) && " …"}
      </p>
      {!isBlind && (
        <footer>
          <Side side={row.side} />{note}
          {cut > 0 && <span>{count(cut)} more characters</span>}
          <a href={textLink(row, link)} data-open>open text<span class="sr"> {row.key.slice(0, 8)}</span></a>
        </footer>
      )}
    </blockquote>
  );
}

const TEXTS_PER_PAGE = 20;

interface TextListProps {
  manifest: Manifest;
  rows: number[];
  marks?: (text: string) => Mark[];
  note?: (row: number) => ComponentChildren;
  link?: Record<string, string | number | null>;
  name?: string;
}

/** Texts by row number, a page at a time; only the shards of that page are read. */
export function TextList({ manifest, rows, marks, note, link, name = "page" }: TextListProps) {
  const { query } = useRoute();
  const { page, n_pages, shown } = paged(query, rows, TEXTS_PER_PAGE, name);
  const found = useRows(manifest, shown);
  return (
    <div class="texts">
      {found.errors.map((error) => <Failure error={error} />)}
      {!found.isComplete && <Waiting what={plural(shown.length, "text")} />}
      {found.rows.map((row) => row && (
        <div data-row><Quote row={row} marks={marks} note={note?.(row.row)} link={link} /></div>
      ))}
      <Pages page={page} n_pages={n_pages} name={name} />
    </div>
  );
}

/** Links between which exactly one is chosen; the choice stands in the URL. */
export function Choice({ name, label, options, chosen, keys = [] }: {
  name: string; label: string; options: [string, string][]; chosen: string; keys?: string[];
}) {
  return (
    <nav class="choice" aria-label={label}>
      <span>{label}</span>
      {options.map(([value, shown], i) => (
        <a href={changed({ [name]: i === 0 ? null : value, page: null })} data-key={keys[i]}
          aria-current={value === chosen ? "true" : undefined}>{shown}</a>
      ))}
    </nav>
  );
}

const CHOSEN_SIDES: [string, string][] = [["both", "both"], ["base", "base"], ["intervention", "intervention"]];

/** Both sides or one of them; `passes` says whether a side is among the chosen. */
export function SideChoice({ chosen, name = "side", label = "Side" }: { chosen: string; name?: string; label?: string }) {
  return <Choice name={name} label={label} options={CHOSEN_SIDES} chosen={chosen} keys={["3", "1", "2"]} />;
}

export function passes(chosen: string, side: number): boolean {
  return chosen === "both" || (chosen === "base") === (side === 0);
}

export function score(value: number | null): string {
  return value === null ? "no score" : `score ${decimal(value)}`;
}
