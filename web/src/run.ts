// The run that the page shows: what every screen may read of it.
import type { Manifest } from "./pack";
import type { Finding } from "./pieces";

export let manifest: Manifest;
/** The first screen's values: those of an audit, or of a comparison of SAEs. */
export let verdict: any;
export let findings: Finding[];

/** Called before any screen is drawn, and again when a live run has new results. */
export function setRun(about: Manifest, first: any): void {
  [manifest, verdict, findings] = [about, first, first.findings];
}
