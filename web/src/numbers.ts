// Values as people read them, in the words of the report. What is missing is "unknown", never zero.

const MINUS = "\u2212";
export const UNKNOWN = "unknown";

export function isNumber(value: unknown): value is number {
  return typeof value === "number" && Number.isFinite(value);
}

export function count(value: unknown): string {
  return isNumber(value) ? Math.round(value).toLocaleString("en-US").replace("-", MINUS) : UNKNOWN;
}

export function percent(value: unknown, digits = 1): string {
  return isNumber(value) ? `${(100 * value).toFixed(digits)}%`.replace("-", MINUS) : UNKNOWN;
}

export function points(value: unknown, unit = " pp"): string {
  if (!isNumber(value)) return UNKNOWN;
  const shown = (100 * value).toFixed(1);
  if (shown === "0.0" || shown === "-0.0") return `0.0${unit}`;
  return (value > 0 ? `+${shown}` : shown.replace("-", MINUS)) + unit;
}

export function interval(low: unknown, high: unknown, show = (value: unknown) => points(value, "")): string {
  return isNumber(low) && isNumber(high) ? `${show(low)} to ${show(high)}` : UNKNOWN;
}

/** Two counts, of the base and of the intervention. */
export function bySides([base, intervention]: number[]): string {
  return `${count(base)} base, ${count(intervention)} intervention`;
}

export function decimal(value: unknown, digits = 2): string {
  return isNumber(value) ? value.toFixed(digits).replace("-", MINUS) : UNKNOWN;
}

export function signed(value: number, digits = 2): string {
  return (value > 0 ? "+" : "") + decimal(value, digits);
}

export function pValue(value: unknown): string {
  if (!isNumber(value)) return UNKNOWN;
  if (value < 0.0001) return "< 0.0001";
  if (value >= 0.995) return "1";
  return value.toFixed(Math.max(2, 1 - Math.floor(Math.log10(value))));
}

export function money(value: unknown): string {
  if (!isNumber(value)) return UNKNOWN;
  if (value === 0 || Math.abs(value) >= 0.01) return `$${value.toFixed(2)}`;
  return value > 0 && value < 0.0001 ? "< $0.0001" : `$${value.toPrecision(2)}`;
}

export function duration(value: unknown): string {
  if (!isNumber(value)) return UNKNOWN;
  if (value < 10) return `${value.toFixed(1)} s`;
  const s = Math.round(value);
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${String(s % 60).padStart(2, "0")} s`;
  return `${Math.floor(s / 3600)} h ${String(Math.floor((s % 3600) / 60)).padStart(2, "0")} min`;
}

export function size(value: unknown): string {
  if (!isNumber(value)) return UNKNOWN;
  let n = value;
  for (const unit of ["B", "kB", "MB", "GB"]) {
    if (Math.abs(n) < 1000) return unit === "B" ? `${n.toFixed(0)} B` : `${n.toFixed(1)} ${unit}`;
    n /= 1000;
  }
  return `${n.toFixed(1)} TB`;
}

export function plural(n: number, noun: string, nouns = `${noun}s`): string {
  return `${count(n)} ${n === 1 ? noun : nouns}`;
}

/** The whole numbers from 0 to below n. */
export function range(n: number): number[] {
  return Array.from({ length: n }, (_, i) => i);
}
