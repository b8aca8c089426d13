// The charts, drawn as SVG by hand: they take their colours from the page's style, in light and dark.
import type { ComponentChildren } from "preact";
import { count, decimal, duration, isNumber, percent, points, range } from "./numbers";
import { SIDES } from "./pack";
import { Head, Region, Soft } from "./layout";

/** A drawing of this size; without a label it only repeats what is written beside it. */
export function Svg({ width, height, label, as = "plot", children }: { width: number; height: number; label?: string; as?: string; children: ComponentChildren }) {
  return <svg class={as} viewBox={`0 0 ${width} ${height}`} width={width} height={height} role={label ? "img" : undefined} aria-label={label} aria-hidden={label ? undefined : true}>{children}</svg>;
}

export interface Scale {
  low: number;
  high: number;
  ticks: number[];
}

/** A common axis for share differences: holds all values and zero, in round steps. */
export function fitScale(values: unknown[], least = 0.02): Scale {
  const known = values.filter(isNumber);
  const low = Math.min(-least, ...known);
  const high = Math.max(least, ...known);
  const step = roundStep((high - low) / 6);
  const first = Math.floor(low / step + 1e-9);
  const last = Math.ceil(high / step - 1e-9);
  const ticks = range(last - first + 1).map((i) => (first + i) * step);
  return { low: ticks[0], high: ticks[ticks.length - 1], ticks };
}

function roundStep(least: number): number {
  const power = 10 ** Math.floor(Math.log10(least));
  return power * ([1, 2, 5].find((n) => n * power >= least) ?? 10);
}

export function at(scale: Scale, value: number, width: number): number {
  const share = (Math.min(Math.max(value, scale.low), scale.high) - scale.low) /
    (scale.high - scale.low || 1);
  return PAD + share * (width - 2 * PAD);
}

const PAD = 10;

interface EffectProps {
  scale: Scale;
  effect: unknown;
  low: unknown;
  high: unknown;
  tone: "base" | "intervention" | "muted";
  minEffect?: unknown;
  width?: number;
}

/** The lines of an axis behind one row, the one at zero stronger. */
function Ticks({ scale, width }: { scale: Scale; width: number }) {
  return <>{[...scale.ticks, 0].map((t, i) => <line class={i < scale.ticks.length ? "grid" : "zero"} x1={at(scale, t, width)} x2={at(scale, t, width)} y1={0} y2={26} />)}</>;
}

/** One row of a forest plot: dot and interval on a common axis. */
export function Effect({ scale, effect, low, high, tone, minEffect, width = 260 }: EffectProps) {
  const x = (value: number): number => at(scale, value, width);
  const known = isNumber(effect);
  const label = known ? `${points(effect)}, 95% interval ${points(low, "")} to ${points(high, "")}` : "unknown";
  return (
    <Svg as="effect" width={width} height={26} label={label}>
      {isNumber(minEffect) && (
        <rect class="band" x={x(-minEffect)} width={x(minEffect) - x(-minEffect)} y={0} height={26} />
      )}
      <Ticks scale={scale} width={width} />
      {isNumber(low) && isNumber(high) && (
        <line class={`ci ${tone}`} x1={x(low)} x2={x(high)} y1={13} y2={13} />
      )}
      {known && <Dot x={x(effect)} y={13} tone={tone} />}
    </Svg>
  );
}

/** Shape says the side as well as colour: a ring for the base, a disc for the intervention. */
function Dot({ x, y, tone }: { x: number; y: number; tone: string }) {
  return <circle class={`dot ${tone}`} cx={x} cy={y} r={tone === "muted" ? 3.5 : 5} />;
}

export function Axis({ scale, width = 260 }: { scale: Scale; width?: number }) {
  const every = scale.ticks.length > 6 ? 2 : 1;
  const zero = scale.ticks.findIndex((t) => Math.abs(t) < 1e-9);
  return (
    <Svg as="axis" width={width} height={16}>
      {scale.ticks.map((t, i) => (i - zero) % every === 0 && (
        <text x={at(scale, t, width)} y={12} text-anchor="middle">{points(t, "").replace(".0", "")}</text>
      ))}
    </Svg>
  );
}

/** Many effects as dots on one line: what the null control gave. */
export function Rug({ scale, effects, width = 260 }: { scale: Scale; effects: unknown[]; width?: number }) {
  const known = effects.filter(isNumber);
  return (
    <Svg as="effect" width={width} height={26}
      label={`${known.length} effects between ${points(Math.min(...known))} and ${points(Math.max(...known))}`}>
      <Ticks scale={scale} width={width} />
      {known.map((e) => <circle class="dot muted" cx={at(scale, e, width)} cy={13} r={3.5} />)}
    </Svg>
  );
}

/** Two shares as bars, base over intervention. */
export function Shares({ base, intervention }: { base: unknown; intervention: unknown }) {
  const most = Math.max(0, ...[base, intervention].filter(isNumber));
  const top = [0.001, 0.01, 0.1, 0.25, 0.5, 1].find((t) => most <= t) ?? 1;
  return (
    <dl class="shares">
      {([["base", base], ["intervention", intervention]] as const).map(([side, share]) => (
        <div>
          <dt><span class={`side ${side}`}>{side}</span></dt>
          <dd>
            <Svg width={240} height={14}>
              <rect class="track" width="240" height="14" />
              {isNumber(share) && <rect class={`bar ${side}`} width={Math.max(1, (240 * Math.min(share, top)) / top)} height="14" />}
            </Svg>
            <span>{percent(share, top < 0.1 ? 2 : 1)}{top < 1 && side === "base" && <Soft> (bars to {percent(top, top < 0.01 ? 1 : 0)})</Soft>}</span>
          </dd>
        </div>
      ))}
    </dl>
  );
}

export interface Bin {
  low: number;
  high: number;
  counts: [number, number];
}

/** Both sides' values in up to 24 bins of equal width; no value gives no bin. */
export function makeBins(values: number[], sides: number[], n = 24): Bin[] {
  const known = values.filter(Number.isFinite);
  if (!known.length) return [];
  let low = Infinity;
  let high = -Infinity;
  for (const v of known) {
    if (v < low) low = v;
    if (v > high) high = v;
  }
  if (low === high) high = low + (Math.abs(low) || 1) * 1e-6;
  const bins: Bin[] = range(n).map((i) => ({
    low: low + ((high - low) * i) / n, high: low + ((high - low) * (i + 1)) / n, counts: [0, 0],
  }));
  values.forEach((v, i) => {
    if (Number.isFinite(v)) bins[Math.min(n - 1, Math.floor(((v - low) / (high - low)) * n))].counts[sides[i] ? 1 : 0]++;
  });
  return bins;
}

interface HistogramProps {
  title: string;
  bins: Bin[];
  /** The chosen bin, or null. */
  chosen: number | null;
  link: (bin: number | null) => string;
  show?: (value: number) => string;
}

/** A histogram of both sides whose bars are links that filter. */
export function Histogram({ title, bins, chosen, link, show = decimal }: HistogramProps) {
  const [width, height] = [300, 84];
  const top = Math.max(1, ...bins.map((b) => b.counts[0] + b.counts[1]));
  const step = width / bins.length;
  const h = (n: number): number => (n / top) * (height - 18);
  return (
    <figure class="histogram">
      <figcaption>{title}{chosen !== null && <> · <a href={link(null)}>clear</a></>}</figcaption>
      <svg viewBox={`0 0 ${width} ${height}`} width={width} height={height}>
        {bins.map((bin, i) => {
          const [base, intervention] = bin.counts;
          const label = `${show(bin.low)} to ${show(bin.high)}: ${base} base, ${intervention} intervention`;
          return (base + intervention > 0) && (
            <a href={link(chosen === i ? null : i)} aria-label={label}
              class={chosen === null || chosen === i ? "" : "faded"}>
              <title>{label}</title>
              <rect class="hit" x={i * step} y={0} width={step} height={height - 16} />
              <rect class="bar base" x={i * step + 0.5} width={step - 1} y={height - 16 - h(base)} height={h(base)} />
              <rect class="bar intervention" x={i * step + 0.5} width={step - 1}
                y={height - 16 - h(base) - h(intervention)} height={h(intervention)} />
            </a>
          );
        })}
        <text x={0} y={height - 2}>{bins.length ? show(bins[0].low) : ""}</text>
        <text x={width} y={height - 2} text-anchor="end">{bins.length ? show(bins[bins.length - 1].high) : ""}</text>
      </svg>
    </figure>
  );
}

/** How strongly something fires on either side: of the tokens on which it does, the share per bin
 * of equal factors. Base on the left of each bin. */
export function Density({ edges, bars }: { edges: number[]; bars: number[][] }) {
  const [width, height] = [300, 84];
  const n = edges.length - 1;
  if (n < 1) return null;
  const shares = bars.map((side) => side.map((k) => k / Math.max(1, side.reduce((a, b) => a + b, 0))));
  const top = Math.max(...shares.flat());
  const step = width / n;
  const show = (i: number): string => String(Number(edges[i].toPrecision(2)));
  return (
    <Svg width={width} height={height} label={`Activations from ${show(0)} to ${show(n)}`}>
      {shares.map((side, s) => side.map((share, i) => (
        <rect class={`bar ${SIDES[s]}`} x={(i + s * 0.45) * step + 0.5} width={Math.max(1, step * 0.45)} y={height - 16 - (share / top) * (height - 18)} height={(share / top) * (height - 18)}>
          <title>{`${show(i)} to ${show(i + 1)}: ${count(bars[s][i])} ${SIDES[s]} tokens, ${percent(share)}`}</title>
        </rect>
      )))}
      <text x={0} y={height - 2}>{show(0)}</text>
      <text x={width} y={height - 2} text-anchor="end">{show(n)}</text>
    </Svg>
  );
}

/** A difference over the rounds, with its interval as a band. */
export function History({ history }: { history: { round: number[]; difference: unknown[]; ci_low: unknown[]; ci_high: unknown[] } }) {
  const n = history.round.length;
  if (n < 2) return null;
  const scale = fitScale([...history.ci_low, ...history.ci_high]);
  const [width, height] = [260, 90];
  const x = (i: number): number => 8 + (i / (n - 1)) * (width - 60);
  const y = (v: number): number => 8 + (1 - (v - scale.low) / (scale.high - scale.low)) * (height - 28);
  const known = history.difference.map((_, i) => i).filter((i) => [history.difference[i], history.ci_low[i], history.ci_high[i]].every(isNumber));
  const line = (values: unknown[]): string => known.map((i) => `${x(i)},${y(values[i] as number)}`).join(" ");
  const band = `${line(history.ci_high)} ${known.slice().reverse().map((i) => `${x(i)},${y(history.ci_low[i] as number)}`).join(" ")}`;
  const last = known[known.length - 1];
  return (
    <Svg width={width} height={height}
      label={`Difference over ${n} rounds: ${known.map((i) => points(history.difference[i])).join(", ")}`}>
      <line class="zero" x1={8} x2={width - 52} y1={y(0)} y2={y(0)} />
      <polygon class="band" points={band} />
      <polyline class="line" points={line(history.difference)} />
      {last !== undefined && <text x={width - 46} y={y(history.difference[last] as number) + 4}>{points(history.difference[last], "")}</text>}
      <text x={8} y={height - 2}>round {history.round[0]}</text>
      <text x={width - 52} y={height - 2} text-anchor="end">{history.round[n - 1]}</text>
    </Svg>
  );
}

/** Horizontal bars of seconds, longest first. */
export function Durations({ seconds }: { seconds: Record<string, number> }) {
  const rows = Object.entries(seconds).filter(([, s]) => isNumber(s)).sort((a, b) => b[1] - a[1]);
  const top = Math.max(1e-9, ...rows.map(([, s]) => s));
  return (
    <Region label="Wall time per stage"><table class="bars">
      <caption>Wall time per stage, longest first</caption>
      <tbody>
        {rows.map(([name, s]) => (
          <tr>
            <Head>{name.replace(/_/g, " ")}</Head>
            <td><Svg width={300} height={12}><rect class="bar plain" width={Math.max(1, (300 * s) / top)} height="12" /></Svg></td>
            <td class="n">{duration(s)}</td>
          </tr>
        ))}
      </tbody>
    </table></Region>
  );
}

interface CalibrationBin { low: number; high: number; n: number; n_hits: number; ci_low: number; ci_high: number }

/** How often the dearer judge says yes, by the cheaper judge's score. */
export function Calibration({ bins }: { bins: CalibrationBin[] }) {
  const [width, height, pad] = [320, 240, 34];
  const x = (v: number): number => pad + v * (width - pad - 10);
  const y = (v: number): number => height - pad - v * (height - pad - 10);
  const known = bins.filter((b) => b.n > 0);
  return (
    <Svg width={width} height={height}
      label={known.map((b) => `score ${decimal(b.low, 1)} to ${decimal(b.high, 1)}: ${percent(b.n_hits / b.n)} of ${b.n}`).join("; ")}>
      {[0, 0.5, 1].map((t) => (
        <g>
          <line class="grid" x1={x(0)} x2={x(1)} y1={y(t)} y2={y(t)} />
          <text x={pad - 6} y={y(t) + 4} text-anchor="end">{percent(t, 0)}</text>
          <text x={x(t)} y={height - pad + 16} text-anchor="middle">{t}</text>
        </g>
      ))}
      <line class="grid" x1={x(0)} x2={x(1)} y1={y(0)} y2={y(1)} stroke-dasharray="3 4" />
      {known.map((b) => {
        const middle = x((b.low + b.high) / 2);
        return (
          <g>
            <line class="ci plain" x1={middle} x2={middle} y1={y(b.ci_low)} y2={y(b.ci_high)} />
            <circle class="dot plain" cx={middle} cy={y(b.n_hits / b.n)} r={4} />
          </g>
        );
      })}
    </Svg>
  );
}
