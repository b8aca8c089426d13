// News of a run that is still going on, where a server sends them.
import { useEffect, useState } from "preact/hooks";

export interface News {
  state: "finished" | "in progress" | "interrupted";
  stage: string | null;
  detail: string | null;
  seconds: Record<string, number>;
  started_utc: string | null;
  updated_utc: string | null;
  /** Changes when the run has new results. */
  revision: string;
}

export interface Live {
  isServed: boolean;
  news: News | null;
  /** When the connection was lost, or null. */
  staleSince: Date | null;
}

export const live: Live = {
  isServed: document.querySelector('meta[name="whatchanged-served"]') !== null,
  news: null,
  staleSince: null,
};

const listeners = new Set<() => void>();

/** Listens to the server, where there is one; `onResults` is called when the results change. */
export function listen(onResults: () => void): void {
  if (!live.isServed) return;
  const source = new EventSource("events");
  source.onmessage = (event) => {
    const before = live.news?.revision;
    live.news = JSON.parse(event.data);
    live.staleSince = null;
    if (before !== undefined && before !== live.news?.revision) onResults();
    tell();
  };
  // The browser connects again by itself.
  source.onerror = () => {
    live.staleSince ??= new Date();
    tell();
  };
}

function tell(): void {
  for (const listener of listeners) listener();
}

export function useLive(): Live {
  const [, again] = useState(0);
  useEffect(() => {
    const listener = (): void => again((n) => n + 1);
    listeners.add(listener);
    return () => {
      listeners.delete(listener);
    };
  }, []);
  return live;
}
