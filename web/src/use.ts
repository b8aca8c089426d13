// Parts and rows as hooks: what is there, what is awaited, what failed.
import { useEffect, useState } from "preact/hooks";
import { loadPart, readRow, shardOf, type Part, type TextRow } from "./pack";
import { manifest } from "./run";
import { range } from "./numbers";

export interface Awaited<T> {
  value?: T;
  error?: Error;
}

/** What a promise gives; `inputs` are all that it depends on. The last value stays until then. */
export function useAsync<T>(start: () => Promise<T>, inputs: unknown[]): Awaited<T> {
  const [state, setState] = useState<{ of: unknown[]; result: Awaited<T> }>({ of: [], result: {} });
  useEffect(() => {
    let isWanted = true;
    start().then(
      (value) => isWanted && setState({ of: inputs, result: { value } }),
      (error) => isWanted && setState({ of: inputs, result: { error } }),
    );
    return () => {
      isWanted = false;
    };
  }, inputs);
  const isCurrent = state.of.length === inputs.length && inputs.every((x, i) => x === state.of[i]);
  return isCurrent ? state.result : {};
}

/** A part by name; null asks for nothing. */
export function usePart(name: string | null): Awaited<Part> {
  return useAsync(() => (name === null ? new Promise<Part>(() => undefined) : loadPart(name)), [name]);
}

export function useParts(kind: string, n: number): Awaited<Part[]> {
  return useAsync(
    () => Promise.all(range(n).map((i) => loadPart(`${kind}/${i}`))),
    [kind, n],
  );
}

export interface LoadedRows {
  rows: (TextRow | null)[];
  errors: Error[];
  isComplete: boolean;
}

/** The texts of some rows, in the order asked; null for those that are awaited or failed. */
export function useRows(wanted: number[]): LoadedRows {
  const found = useAsync(async () => {
    const shards = [...new Set(wanted.map((row) => shardOf(manifest.shards, row)))];
    const loaded = await Promise.allSettled(shards.map((shard) => loadPart(`texts/${shard}`)));
    const parts = new Map(shards.map((shard, i) => [shard, loaded[i]]));
    const rows = wanted.map((row) => {
      const part = parts.get(shardOf(manifest.shards, row));
      return part?.status === "fulfilled" ? readRow(part.value, row) : null;
    });
    const errors = loaded.flatMap((one) => (one.status === "rejected" ? [one.reason] : []));
    return { rows, errors, isComplete: true };
  }, [manifest, wanted.join()]);
  return found.value ?? { rows: wanted.map(() => null), errors: [], isComplete: false };
}
