// Where the reader is, all of it in the URL's hash: `#/screen/id?key=value`.
import { useEffect, useState } from "preact/hooks";

export interface Route {
  /** The parts of the path, decoded: `["h", "h001"]`; empty on the first screen. */
  path: string[];
  query: URLSearchParams;
}

export type Changes = Record<string, string | number | null | undefined>;

export function readRoute(hash: string = location.hash): Route {
  const [path, query] = hash.replace(/^#\/?/, "").split("?");
  return { path: path.split("/").filter(Boolean).map(unescaped), query: new URLSearchParams(query) };
}

/** A link to a screen; empty values are left out. */
export function href(path: (string | number)[], values: Changes = {}): string {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(values))
    if (value !== null && value !== undefined && value !== "") query.set(name, String(value));
  const shown = query.toString();
  return `#/${path.map((p) => encodeURIComponent(p)).join("/")}${shown && `?${shown}`}`;
}

/** A link to the present screen with some of its state changed; null takes a value away. */
export function changed(changes: Changes): string {
  const { path, query } = readRoute();
  return href(path, { ...Object.fromEntries(query), ...changes });
}

/** Changes the state. Every step can be taken back, but for typing (`replace`). */
export function setState(changes: Changes, { replace = false } = {}): void {
  const next = changed(changes);
  if (next === location.hash) return;
  if (!replace) {
    location.hash = next;
    return;
  }
  history.replaceState(null, "", next);
  dispatchEvent(new HashChangeEvent("hashchange"));
}

export function useRoute(): Route {
  const [route, setRoute] = useState(() => readRoute());
  useEffect(() => {
    const listen = (): void => setRoute(readRoute());
    addEventListener("hashchange", listen);
    return () => removeEventListener("hashchange", listen);
  }, []);
  return route;
}

export function numberOf(query: URLSearchParams, name: string, otherwise: number): number {
  const value = query.get(name);
  return value !== null && Number.isFinite(Number(value)) ? Number(value) : otherwise;
}

function unescaped(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

/** The state of the present screen. */
export function useQuery(): URLSearchParams {
  return useRoute().query;
}
