// What several screens show: sides, quotes, notices of what is missing, lists of texts.
import type { ComponentChildren } from "preact";
import type { TextRow } from "./pack";
import { SIDES } from "./pack";
import { changed, href, useQuery } from "./route";
import { useRows, type Awaited, type LoadedRows } from "./use";
import { Marked, visible, type Mark } from "./text";
import { count, decimal, plural } from "./numbers";
import { paged, Pages } from "./table";
import { Eyebrow, Region, Soft } from "./layout";

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
    style === "strong" ? <strong>{visible(text)}</strong>
      : style === "data" ? <bdi class="data">{visible(text)}</bdi>
        : visible(text))}</>;
}

export function Failure({ error }: { error: Error }) {
  return (
    <div class="callout warning" role="alert">
      <p><strong>A part of this page could not be read.</strong> <code>{visible(error.message)}</code></p>
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
  return <><Title>No such {noun}</Title><Missing>This run ended without a {noun} <code>{visible(id)}</code>. <a href={href([home])}>{all}</a></Missing></>;
}

/** A table that scrolls by itself where it is wide; "#" marks a column of numbers. */
export function Grid({ caption, label, head, children }: { caption: ComponentChildren; label?: string; head: string[]; children: ComponentChildren }) {
  return (
    <Region label={label ?? String(caption)}>
      <table>
        <caption>{caption}</caption>
        <thead><tr>{head.map((name) => <th scope="col" class={name[0] === "#" ? "n" : ""}>{name.replace("#", "")}</th>)}</tr></thead>
        <tbody>{children}</tbody>
      </table>
    </Region>
  );
}

export function Numbers({ of }: { of: ComponentChildren[] }) {
  return <>{of.map((value) => <td class="n">{value}</td>)}</>;
}

/** What a screen shows one of, with the ways to the ones before and after it in the list. */
export function Steps({ links: [previous, next], children }: { links: (string | undefined)[]; children: ComponentChildren }) {
  return (
    <Eyebrow>
      <span>{children}</span>
      {previous && <a href={previous} data-key="[">previous</a>}
      {next && <a href={next} data-key="]">next</a>}
    </Eyebrow>
  );
}

/** The links of `Steps`: to the one before and the one after place `i`. */
export function beside<T>(all: T[], i: number, link: (one: T) => string): (string | undefined)[] {
  return [all[i - 1], all[i + 1]].map((one) => one && link(one));
}

/** What of some texts cannot be read, and that they are awaited. */
export function Unread({ of, what }: { of: LoadedRows; what?: string }) {
  return <>{of.errors.map((error) => <Failure error={error} />)}{what && !of.isComplete && <Waiting what={what} />}</>;
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
      <p class="prompt" dir="auto">{visible(row.prompt.text.trim())}</p>
      <p class="body" dir="auto">
        {start > 0 && "… "}
        {text === null ? <Soft>This file holds the figures of this text, not its words.</Soft>
          : text.trim() === "" ? <Soft>(empty text)</Soft>
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
  rows: number[];
  marks?: (text: string) => Mark[];
  note?: (row: number) => ComponentChildren;
  link?: Record<string, string | number | null>;
  name?: string;
}

/** Texts by row number, a page at a time; only the shards of that page are read. */
export function TextList({ rows, marks, note, link, name = "page" }: TextListProps) {
  const query = useQuery();
  const { page, n_pages, shown } = paged(query, rows, TEXTS_PER_PAGE, name);
  const found = useRows(shown);
  return (
    <div class="texts">
      <Unread of={found} what={plural(shown.length, "text")} />
      {found.rows.map((row) => row && (
        <div data-row><Quote row={row} marks={marks} note={note?.(row.row)} link={link} /></div>
      ))}
      <Pages page={page} n_pages={n_pages} name={name} />
    </div>
  );
}

/** Links between which exactly one is chosen; the choice stands in the URL. */
export function Choice({ name, label, options, chosen, keys = [] }: {
  name: string; label: string; options: (string | [string, string])[]; chosen: string; keys?: string[];
}) {
  return (
    <nav class="choice" aria-label={label}>
      <span>{label}</span>
      {options.map((option, i) => {
        const [value, shown] = typeof option === "string" ? [option, option] : option;
        return <a href={changed({ [name]: i === 0 ? null : value, page: null })} data-key={keys[i]} aria-current={value === chosen || undefined}>{visible(shown)}</a>;
      })}
    </nav>
  );
}

/** Both sides or one of them; `passes` says whether a side is among the chosen. */
export function SideChoice({ chosen, name = "side", label = "Side" }: { chosen: string; name?: string; label?: string }) {
  return <Choice name={name} label={label} options={["both", ...SIDES]} chosen={chosen} keys={["3", "1", "2"]} />;
}

export function passes(chosen: string, side: number): boolean {
  return chosen === "both" || (chosen === "base") === (side === 0);
}

export function score(value: number | null): string {
  return value === null ? "no score" : `score ${decimal(value)}`;
}
