// One table for every list: sorting, filtering and the page stand in the URL.
import type { ComponentChildren } from "preact";
import { changed, numberOf, setState, useQuery } from "./route";
import { download } from "./download";
import { count, plural } from "./numbers";
import { visible } from "./text";
import { Controls, Region } from "./layout";

export interface Column<T> {
  key: string;
  name: string;
  numeric?: boolean;
  /** What is sorted and filtered by; null for columns that are only looked at. */
  value: ((row: T) => number | string | null | undefined) | null;
  /** How it is shown, where not as a count or as text. */
  cell?: (row: T) => ComponentChildren;
}

/** A column of numbers, written as counts where `show` does not write them. */
export function figure<T>(key: string, name: string, value: (row: T) => number | null | undefined, show: (value: unknown) => string = count): Column<T> {
  return { key, name, numeric: true, value, cell: (row) => show(value(row)) };
}

export const ROWS_PER_PAGE = 50;

interface Props<T> {
  caption: string;
  noun: [string, string];
  columns: Column<T>[];
  rows: T[];
  /** As in the URL: a column's key, with "-" in front for the largest first. */
  sort: string;
  hasFilter?: boolean;
}

export function DataTable<T>({ caption, noun, columns, rows, sort, hasFilter = true }: Props<T>) {
  const query = useQuery();
  const order = query.get("sort") ?? sort;
  const filter = query.get("filter") ?? "";
  const kept = sorted(rows.filter(makeTest(filter, columns)), order, columns);
  const { page, n_pages, shown } = paged(query, kept, ROWS_PER_PAGE);
  const example = columns.find((c) => c.numeric && c.value)?.key;
  return (
    <>
      {hasFilter && rows.length > 1 && (
        <Controls>
          <label>Filter <input type="search" value={filter} data-focus="filter" size={34}
            placeholder={example ? `words, or ${example}>0` : "words"}
            onInput={(e) => setState({ filter: e.currentTarget.value, page: null }, { replace: true })} /></label>
          <button data-key="e" onClick={() => download(`${noun[1]}.csv`, asCsv(kept, columns), "text/csv")}>Save as CSV <kbd>e</kbd></button>
          <span class="quiet" role="status">{filter ? `${count(kept.length)} of ` : ""}{plural(rows.length, ...noun)}</span>
        </Controls>
      )}
      {kept.length === 0 ? (
        <p class="empty">{rows.length
          ? <>No {noun[0]} passes this filter. <a href={changed({ filter: null, page: null })}>Clear the filter</a></>
          : <>There are no {noun[1]} in this run.</>}</p>
      ) : (
        <Region label={caption}>
          <table>
            <caption>{caption}</caption>
            <thead><tr>{columns.map((c) => <Head column={c} order={order} />)}</tr></thead>
            <tbody>
              {shown.map((row) => (
                <tr data-row>{columns.map((c) => <td class={c.numeric ? "n" : ""}>{c.cell ? c.cell(row) : c.numeric ? count(c.value!(row)) : visible(String(c.value!(row)))}</td>)}</tr>
              ))}
            </tbody>
          </table>
        </Region>
      )}
      <Pages page={page} n_pages={n_pages} />
    </>
  );
}

/** The page of a list that the URL asks for, from 1. */
export function paged<T>(query: URLSearchParams, all: T[], perPage: number, name = "page"): { page: number; n_pages: number; shown: T[] } {
  const n_pages = Math.max(1, Math.ceil(all.length / perPage));
  const page = Math.min(Math.max(1, numberOf(query, name, 1)), n_pages);
  return { page, n_pages, shown: all.slice((page - 1) * perPage, page * perPage) };
}

export function Pages({ page, n_pages, name = "page" }: { page: number; n_pages: number; name?: string }) {
  if (n_pages < 2) return null;
  return (
    <nav class="pages" aria-label="Pages of this list">
      {page > 1 ? <a href={changed({ [name]: page - 1 })}>Previous</a> : <span>Previous</span>}
      <span>page {count(page)} of {count(n_pages)}</span>
      {page < n_pages ? <a href={changed({ [name]: page + 1 })}>Next</a> : <span>Next</span>}
    </nav>
  );
}

function Head<T>({ column, order }: { column: Column<T>; order: string }) {
  const { key, name, numeric, value } = column;
  if (!value) return <th scope="col" class={numeric ? "n" : ""}>{name}</th>;
  const is = order === key ? "ascending" : order === `-${key}` ? "descending" : "none";
  const next = is === "descending" || (is === "none" && !numeric) ? key : `-${key}`;
  return (
    <th scope="col" class={numeric ? "n" : ""} aria-sort={is}>
      <a href={changed({ sort: next, page: null })}>{name}<span aria-hidden="true">{is === "ascending" ? " ↑" : is === "descending" ? " ↓" : ""}</span></a>
    </th>
  );
}

function sorted<T>(rows: T[], order: string, columns: Column<T>[]): T[] {
  const down = order.startsWith("-");
  const value = columns.find((c) => c.key === order.replace(/^-/, ""))?.value;
  if (!value) return rows;
  const known = rows.map((row) => ({ row, v: value(row) }));
  known.sort((a, b) => {
    if (a.v === b.v) return 0;
    // What is unknown comes last in either direction.
    if (a.v === null || a.v === undefined) return 1;
    if (b.v === null || b.v === undefined) return -1;
    return (a.v < b.v ? -1 : 1) * (down ? -1 : 1);
  });
  return known.map((one) => one.row);
}

/** What is shown, as a file: numbers in full, and no text that a spreadsheet would calculate. */
function asCsv<T>(rows: T[], columns: Column<T>[]): string {
  const known = columns.filter((c) => c.value);
  const cell = (v: number | string | null | undefined): string => {
    if (typeof v === "number") return String(v);
    const text = (v ?? "").replace(/"/g, '""');
    return `"${/^[=+\-@\t\r]/.test(text) ? "'" : ""}${text}"`;
  };
  return [known.map((c) => cell(c.key)), ...rows.map((row) => known.map((c) => cell(c.value!(row))))].map((line) => line.join(",")).join("\r\n") + "\r\n";
}

/** Words that a row must hold, and conditions on its numbers: `tea n>50 difference<=-0.02`. */
function makeTest<T>(filter: string, columns: Column<T>[]): (row: T) => boolean {
  const tests = filter.trim().split(/\s+/).filter(Boolean).map((word) => {
    const [, key, sign, bound] = /^(\w+)(>=|<=|>|<|=)(-?[\d.]+)$/.exec(word) ?? [];
    const value = columns.find((c) => c.key === key && c.numeric)?.value;
    if (value) return (row: T) => compare(value(row), sign, Number(bound));
    const wanted = word.toLowerCase();
    return (row: T) => columns.some((c) => String(c.value?.(row) ?? "").toLowerCase().includes(wanted));
  });
  return (row) => tests.every((test) => test(row));
}

function compare(value: unknown, sign: string, bound: number): boolean {
  if (typeof value !== "number") return false;
  if (sign === ">") return value > bound;
  if (sign === "<") return value < bound;
  if (sign === ">=") return value >= bound;
  if (sign === "<=") return value <= bound;
  return value === bound;
}
