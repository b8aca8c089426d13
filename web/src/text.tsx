// What a model wrote, as text nodes and nothing else. Characters that cannot be seen are named.
import type { ComponentChildren } from "preact";

export interface Mark {
  start: number;
  end: number;
  /** CSS class of the mark. */
  as: string;
  /** How it looks, where a class alone does not say it. */
  look?: { class: string; style?: Record<string, string> };
  title?: string;
}

// Controls, format characters, surrogates, line and paragraph separators; noncharacters; and the
// variation selectors that carry nothing but hidden data. Those with a shape of their own, newlines
// and tabs stay.
const HIDDEN =
  /(?![\n\t\u0600-\u0605\u06dd\u070f\u08e2\u{110bd}])[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}\p{Noncharacter_Code_Point}\u{E0100}-\u{E01EF}]/u;
const HIDDEN_RUN = new RegExp(`(${HIDDEN.source})\\1*`, "gu");
const JOINER = /[\u200c\u200d]/;

/** The text with every hidden character as a visible name, `U+202E`. */
export function visible(text: string) {
  const parts: ComponentChildren[] = [];
  let end = 0;
  for (const match of text.matchAll(HIDDEN_RUN)) {
    const [run, char] = match;
    if (JOINER.test(char) && run === char && isBetweenLetters(text, match.index)) continue;
    parts.push(text.slice(end, match.index), <i class="hidden">{hiddenName(run, char)}</i>);
    end = match.index + run.length;
  }
  if (!parts.length) return <>{text}</>;
  parts.push(text.slice(end));
  return <>{parts}</>;
}

/** The first line's worth of a text. */
export function shorten(text: string, n = 120): string {
  const line = text.trim().replace(/\s+/g, " ");
  return line.length > n ? `${line.slice(0, n - 1).trimEnd()}…` : line;
}

/** The same as one string, for titles and places without markup. */
export function plain(text: string): string {
  return text.replace(HIDDEN_RUN, (run, char, at: number) =>
    JOINER.test(char) && run === char && isBetweenLetters(text, at)
      ? run
      : `\u27e8${hiddenName(run, char)}\u27e9`,
  );
}

function isBetweenLetters(text: string, at: number): boolean {
  return text.charAt(at - 1) > "\x7f" && text.charAt(at + 1) > "\x7f";
}

function hiddenName(run: string, char: string): string {
  const n = run.length / char.length;
  const code = (char.codePointAt(0) ?? 0).toString(16).toUpperCase().padStart(4, "0");
  return n > 1 ? `U+${code} \u00d7${n}` : `U+${code}`;
}

/** A text with marks; where marks overlap, the first one counts. */
export function Marked({ text, marks }: { text: string; marks: Mark[] }) {
  const parts: ComponentChildren[] = [];
  let end = 0;
  for (const mark of [...marks].sort((a, b) => a.start - b.start)) {
    if (mark.start < end || mark.end <= mark.start) continue;
    parts.push(visible(text.slice(end, mark.start)));
    parts.push(<mark class={mark.as} title={mark.title} {...mark.look}>{visible(text.slice(mark.start, mark.end))}</mark>);
    end = mark.end;
  }
  parts.push(visible(text.slice(end)));
  return <>{parts}</>;
}

/** Where the terms stand in a text: whole words, any case, any spaces or signs between words. */
export function findTerms(text: string, terms: string[], as = "term"): Mark[] {
  const pattern = termPattern(terms);
  return pattern ? findPattern(text, pattern, as) : [];
}

export function findPattern(text: string, pattern: RegExp, as: string): Mark[] {
  return [...text.matchAll(pattern)]
    .filter((match) => match[0].length > 0)
    .map((match) => ({ start: match.index, end: match.index + match[0].length, as }));
}

function termPattern(terms: string[]): RegExp | null {
  const patterns = [...new Set(terms.filter((term) => term.trim()))]
    .sort((a, b) => b.length - a.length)
    .map((term) => {
      const words = term.trim().split(/\s+/).map((w) => escapeRegExp(w).replace(/'/g, "['\u2019]"));
      const opening = isSpacedLetter(term.trim()[0]) ? "(?<![\\p{L}\\p{N}_])" : "";
      const closing = isSpacedLetter(term.trim().slice(-1)) ? "(?![\\p{L}\\p{N}_])" : "";
      return opening + words.join("[^\\p{L}\\p{N}_]{1,3}") + closing;
    });
  return patterns.length ? new RegExp(patterns.join("|"), "giu") : null;
}

export function escapeRegExp(text: string): string {
  return text.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&");
}

function isSpacedLetter(char: string): boolean {
  return char < "\u0e00" && /[\p{L}\p{N}_]/u.test(char);
}
