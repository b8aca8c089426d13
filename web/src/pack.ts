// The web pack as the page reads it: parts by name, loaded once, from wherever the page is.
// A part is gzip in base64: in a data block of this file, or in a script beside it, because a page
// on file:// may load scripts and nothing else.

export type Column =
  | Uint8Array | Uint16Array | Uint32Array | Int16Array | Int32Array | Float32Array;

export interface Part {
  values: any;
  columns: Record<string, Column>;
}

export interface Manifest {
  version: number;
  run: string;
  created_utc: string | null;
  models: [string, string];
  n_texts: number;
  n_kept: number;
  shards: number[];
  n_key_buckets: number;
  n_findings: number;
  n_points: number;
  n_point_parts: number;
  n_prompts: number;
  n_prompt_parts: number;
  prompts_per_part: number;
  has_pairs: boolean;
  no_pieces: string | null;
  /** Kinds of data: null where they are here, else why not. */
  sections: Record<string, string | null>;
}

export const PACK_VERSION = 1;
const KEY_BYTES = 16;
const TIMEOUT_MS = 30_000;
// Shards beyond these are let go: a search through everything must not keep everything.
const MAX_SHARDS_KEPT = 48;

const READERS: Record<string, new (b: ArrayBuffer, o: number, n: number) => Column> = {
  Uint8Array, Uint16Array, Uint32Array, Int16Array, Int32Array, Float32Array,
};

const arrivals = new Map<string, (base64: string) => void>();
const cache = new Map<string, Promise<Part>>();
let revision = 0;

declare global {
  interface Window {
    whatchangedPart: (name: string, base64: string) => void;
  }
}

window.whatchangedPart = (name, base64) => arrivals.get(name)?.(base64);

/** A part of the pack. Rejects with an Error that names the part and what is wrong with it. */
export function loadPart(name: string): Promise<Part> {
  let found = cache.get(name);
  if (found) {
    cache.delete(name);
  } else {
    tellBusy(1);
    found = fetchText(name).then((text) => decode(name, text)).finally(() => tellBusy(-1));
    // What failed is asked for again when the reader comes back.
    found.catch(() => cache.delete(name));
  }
  cache.set(name, found);
  if (name.startsWith("texts/")) dropOldShards();
  return found;
}

let n_awaited = 0;

/** Readers that hear the page are told while parts are on their way. */
function tellBusy(change: number): void {
  n_awaited += change;
  document.getElementById("app")?.setAttribute("aria-busy", String(n_awaited > 0));
}

/** Forgets everything: the run has changed. */
export function forgetParts(): void {
  revision += 1;
  cache.clear();
}

function dropOldShards(): void {
  const shards = [...cache.keys()].filter((name) => name.startsWith("texts/"));
  for (const name of shards.slice(0, Math.max(0, shards.length - MAX_SHARDS_KEPT)))
    cache.delete(name);
}

function fetchText(name: string): Promise<string> {
  const inline = document.getElementById(`part:${name}`);
  if (inline) return Promise.resolve(inline.textContent ?? "");
  return new Promise((resolve, reject) => {
    const script = document.createElement("script");
    const file = `data/${name}.js`;
    const finish = (act: () => void): void => {
      clearTimeout(timer);
      arrivals.delete(name);
      script.remove();
      act();
    };
    const fail = (why: string): void => finish(() => reject(new Error(`${file} ${why}`)));
    const timer = setTimeout(() => fail("did not arrive within 30 seconds"), TIMEOUT_MS);
    arrivals.set(name, (base64) => finish(() => resolve(base64)));
    script.onerror = () => fail("could not be loaded");
    script.onload = () => arrivals.has(name) && fail("holds no data");
    script.src = revision ? `${file}?${revision}` : file;
    document.head.append(script);
  });
}

async function decode(name: string, base64: string): Promise<Part> {
  try {
    const stream = new Blob([fromBase64(base64.trim())]).stream().pipeThrough(new DecompressionStream("gzip"));
    return readPart(await new Response(stream).arrayBuffer());
  } catch (error) {
    throw new Error(`data/${name}.js is damaged (${(error as Error).message})`);
  }
}

function fromBase64(text: string): Uint8Array<ArrayBuffer> {
  // Newer browsers decode by themselves, ten times faster.
  const own = (Uint8Array as unknown as { fromBase64?: (text: string) => Uint8Array<ArrayBuffer> }).fromBase64;
  if (own) return own.call(Uint8Array, text);
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes;
}

function readPart(buffer: ArrayBuffer): Part {
  const length = new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const first = Math.ceil((4 + length) / 8) * 8;
  const columns: Record<string, Column> = {};
  for (const [name, kind, offset, size] of header.columns)
    columns[name] = new READERS[kind](buffer, first + offset, size);
  return { values: header.values, columns };
}

export const SIDES = ["base", "intervention"] as const;
export const SPLITS = ["discovery", "validation"] as const;
export const FINISHES = ["ended by itself", "cut at the limit", "failed"] as const;
export const UNSCORED = 255;

export interface Tokens {
  /** UTF-16 code units per token; all zero where the tokens' words are unknown. */
  lengths: Uint16Array;
  /** Log-probability under the intervention minus under the base, in nats. */
  nats: Float32Array;
  hasPieces: boolean;
}

export interface TextRow {
  row: number;
  key: string;
  side: 0 | 1;
  split: number;
  round: number;
  prompt: { number: number | null; text: string };
  /** null where this file holds the figures of the text but not its words. */
  text: string | null;
  nTokens: number;
  finish: number;
  label: number;
  margin: number;
  logprobs: [number, number];
  tokens: Tokens | null;
  judged: { finding: number; score: number | null }[];
}

export function shardOf(shards: number[], row: number): number {
  let low = 0;
  let high = shards.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (shards[middle] <= row) low = middle;
    else high = middle;
  }
  return low;
}

export function readRow(part: Part, row: number): TextRow {
  const i = row - part.values.start;
  const c = part.columns;
  return {
    row,
    key: keyAt(c.key as Uint8Array, i),
    side: c.side[i] ? 1 : 0,
    split: c.split[i],
    round: c.round[i],
    prompt: part.values.prompts[c.prompt[i]],
    text: part.values.texts[i],
    nTokens: c.n_tokens[i],
    finish: c.finish[i],
    label: c.label[i],
    margin: c.margin[i],
    logprobs: [c.logprob_base[i], c.logprob_intervention[i]],
    tokens: readTokens(c, i),
    judged: readJudged(c, i),
  };
}

/** All rows of a shard. */
export function readRows(part: Part): TextRow[] {
  return part.values.texts.map((_: unknown, i: number) => readRow(part, part.values.start + i));
}

function readTokens(c: Record<string, Column>, i: number): Tokens | null {
  const [start, end] = [c.token_start[i], c.token_start[i + 1]];
  if (start === end) return null;
  return {
    lengths: (c.token_length as Uint16Array).subarray(start, end),
    nats: Float32Array.from((c.token_nats as Int16Array).subarray(start, end), (n) => n / 1000),
    hasPieces: c.has_pieces[i] === 1,
  };
}

function readJudged(c: Record<string, Column>, i: number): TextRow["judged"] {
  const found = [];
  for (let j = c.judged_start[i]; j < c.judged_start[i + 1]; j++)
    found.push({ finding: c.judged_finding[j], score: readScore(c.judged_score[j]) });
  return found;
}

export function readScore(packed: number): number | null {
  return packed === UNSCORED ? null : packed / 254;
}

export function keyAt(keys: Uint8Array, i: number): string {
  let key = "";
  for (let j = i * KEY_BYTES; j < (i + 1) * KEY_BYTES; j++)
    key += keys[j].toString(16).padStart(2, "0");
  return key;
}

/** The row of a text key (at least 32 hex characters), or null where the run has no such text. */
export async function findRow(manifest: Manifest, key: string): Promise<number | null> {
  if (!/^[0-9a-f]{32,64}$/.test(key)) return null;
  const bucket = Math.floor((parseInt(key.slice(0, 2), 16) * manifest.n_key_buckets) / 256);
  const part = await loadPart(`keys/${bucket}`);
  const place = findKey(part.columns.key as Uint8Array, key);
  return place < 0 ? null : part.columns.row[place];
}

/** The place of a key among packed keys, or -1. */
export function findKey(keys: Uint8Array, key: string): number {
  const wanted = Uint8Array.from({ length: KEY_BYTES }, (_, j) =>
    parseInt(key.slice(2 * j, 2 * j + 2), 16),
  );
  for (let i = 0; i < keys.length; i += KEY_BYTES) {
    let j = 0;
    while (j < KEY_BYTES && keys[i + j] === wanted[j]) j++;
    if (j === KEY_BYTES) return i / KEY_BYTES;
  }
  return -1;
}
