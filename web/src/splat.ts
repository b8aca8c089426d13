// Points as pixels: a plain 2D canvas draws 200,000 of them in a few milliseconds on a CPU.
import type { Part } from "./pack";

export interface Points {
  n: number;
  x: Uint16Array;
  y: Uint16Array;
  row: Uint32Array;
  side: Uint8Array;
  label: Uint16Array;
  round: Uint8Array;
  nats: Int16Array;
}

export const NO_CLUSTER = 65_535;
const SPAN = 65_535;

/** All slices of the map as one. */
export function joinPoints(parts: Part[]): Points {
  const n = parts.reduce((sum, part) => sum + part.columns.row.length, 0);
  const joined: Points = {
    n, x: new Uint16Array(n), y: new Uint16Array(n), row: new Uint32Array(n), side: new Uint8Array(n),
    label: new Uint16Array(n), round: new Uint8Array(n), nats: new Int16Array(n),
  };
  let at = 0;
  for (const { columns } of parts) {
    for (const name of ["x", "y", "row", "side", "label", "round", "nats"] as const) joined[name].set(columns[name] as never, at);
    at += columns.row.length;
  }
  return joined;
}

/** Which part of the map is seen: its middle in [0, 1], and how many times it is enlarged. */
export interface View {
  x: number;
  y: number;
  zoom: number;
}

export const WHOLE: View = { x: 0.5, y: 0.5, zoom: 1 };
const MARGIN = 0.96;

/** From a point in [0, 1] to pixels, and back. */
export function projection(view: View, width: number, height: number) {
  const scale = Math.min(width, height) * MARGIN * view.zoom;
  const left = width / 2 - view.x * scale;
  const top = height / 2 + view.y * scale;
  return {
    scale, left, top,
    toPixel: (x: number, y: number): [number, number] => [left + x * scale, top - y * scale],
    toUnit: (px: number, py: number): [number, number] => [(px - left) / scale, (top - py) / scale],
  };
}

export type Colour = [number, number, number];

const FADED = 255;
// Beyond so many points each is drawn over what is there: mixing colours costs more than drawing.
const MAX_BLENDED = 50_000;

/** Draws every point in its colour, `colourOf[i]` of `colours`; `FADED` ones lie under all others. */
export function splat(image: ImageData, points: Points, view: View, colourOf: Uint8Array, colours: Colour[], faded: Colour): void {
  const { width, height, data } = image;
  const { scale, left, top } = projection(view, width, height);
  const unit = scale / SPAN;
  const isMany = points.n > MAX_BLENDED;
  const size = Math.round(Math.min(6, Math.max(2, (isMany ? 1.6 : 3) * Math.sqrt(view.zoom) * (width / 900))));
  const pixels = new Uint32Array(data.buffer);
  pixels.fill(0);
  const packed = colours.map(packColour);
  const packedFaded = packColour(faded, 70);
  const hasFaded = colourOf.includes(FADED);
  const step = strideOf(points.n);
  // In a mixed order, so that neither side lies on top of the other.
  for (const isFadedPass of hasFaded ? [true, false] : [false]) {
    for (let k = 0, i = 0; k < points.n; k++, i = (i + step) % points.n) {
      const c = colourOf[i];
      if ((c === FADED) !== isFadedPass) continue;
      const px = Math.round(left + points.x[i] * unit);
      const py = Math.round(top - points.y[i] * unit);
      if (px < 0 || py < 0 || px + size > width || py + size > height) continue;
      for (let dy = 0; dy < size; dy++) {
        // Without its corners a square of four pixels looks round.
        const cut = size > 3 && (dy === 0 || dy === size - 1) ? 1 : 0;
        const at = (py + dy) * width + px;
        for (let dx = cut; dx < size - cut; dx++) {
          if (isMany) pixels[at + dx] = isFadedPass ? packedFaded : packed[c];
          else blend(data, (at + dx) * 4, isFadedPass ? faded : colours[c], isFadedPass ? 70 : 190);
        }
      }
    }
  }
}

/** The colour of every point: faded where it is not shown. */
export function colourPoints(n: number, isShown: (i: number) => boolean, of: (i: number) => number): Uint8Array {
  const found = new Uint8Array(n);
  for (let i = 0; i < n; i++) {
    const c = isShown(i) ? of(i) : -1;
    found[i] = c < 0 ? FADED : c;
  }
  return found;
}

function packColour([r, g, b]: Colour, alpha = 255): number {
  return ((alpha << 24) | (b << 16) | (g << 8) | r) >>> 0;
}

/** Density of both sides over a coarse grid: hue says which side has more, strength how much. */
export function density(image: ImageData, points: Points, view: View, colours: Colour[], paper: Colour, isShown: (i: number) => boolean): void {
  const { width, height, data } = image;
  const { scale, left, top } = projection(view, width, height);
  const unit = scale / SPAN;
  const cell = Math.max(4, Math.round(width / (points.n < 20_000 ? 70 : 180)));
  const [nx, ny] = [Math.ceil(width / cell), Math.ceil(height / cell)];
  const counts = [new Float32Array(nx * ny), new Float32Array(nx * ny)];
  const totals = [1, 1];
  for (let i = 0; i < points.n; i++) {
    if (!isShown(i)) continue;
    const cx = Math.floor((left + points.x[i] * unit) / cell);
    const cy = Math.floor((top - points.y[i] * unit) / cell);
    totals[points.side[i]]++;
    if (cx >= 0 && cy >= 0 && cx < nx && cy < ny) counts[points.side[i]][cy * nx + cx]++;
  }
  const shares = counts.map((c, side) => c.map((n) => n / totals[side]));
  const most = shares[0].reduce((top_, s, j) => Math.max(top_, s + shares[1][j]), 1e-9);
  const pixels = new Uint32Array(data.buffer);
  for (let j = 0; j < nx * ny; j++) {
    const [a, b] = [shares[0][j], shares[1][j]];
    const strength = a + b === 0 ? 0 : 0.15 + 0.85 * Math.sqrt((a + b) / most);
    const lean = a + b === 0 ? 0 : (b - a) / (a + b);
    const to = colours[lean > 0 ? 1 : 0];
    const colour = packColour(paper.map((p, k) => {
      const mixed = 128 + (to[k] - 128) * Math.min(1, Math.abs(lean) * 2);
      return Math.round(p + (mixed - p) * strength);
    }) as Colour);
    const [left_, right] = [(j % nx) * cell, Math.min(width, ((j % nx) + 1) * cell)];
    const bottom = Math.min(height, (Math.floor(j / nx) + 1) * cell);
    for (let y = Math.floor(j / nx) * cell; y < bottom; y++) pixels.fill(colour, y * width + left_, y * width + right);
  }
}

function blend(data: Uint8ClampedArray, p: number, [r, g, b]: Colour, alpha: number): void {
  const before = data[p + 3];
  if (before === 0) {
    data[p] = r; data[p + 1] = g; data[p + 2] = b; data[p + 3] = alpha;
    return;
  }
  data[p] += ((r - data[p]) * alpha) >> 8;
  data[p + 1] += ((g - data[p + 1]) * alpha) >> 8;
  data[p + 2] += ((b - data[p + 2]) * alpha) >> 8;
  data[p + 3] = Math.min(255, before + (alpha >> 1));
}

/** A step that visits every point once in an order that looks random. */
function strideOf(n: number): number {
  let step = Math.max(1, Math.floor(n * 0.6180339887));
  while (step > 1 && gcd(step, n) !== 1) step--;
  return step;
}

function gcd(a: number, b: number): number {
  return b === 0 ? a : gcd(b, a % b);
}

/** The point nearest to a place, within `reach` (both in [0, 1]); -1 for none. */
export function nearest(points: Points, x: number, y: number, reach: number): number {
  let best = -1;
  let least = (reach * SPAN) ** 2;
  const [tx, ty] = [x * SPAN, y * SPAN];
  for (let i = 0; i < points.n; i++) {
    const d = (points.x[i] - tx) ** 2 + (points.y[i] - ty) ** 2;
    if (d < least) [best, least] = [i, d];
  }
  return best;
}

/** The points inside a polygon of corners in [0, 1] (even-odd rule). */
export function inside(points: Points, polygon: [number, number][]): number[] {
  const corners = polygon.map(([x, y]) => [x * SPAN, y * SPAN]);
  const found: number[] = [];
  for (let i = 0; i < points.n; i++) {
    const [px, py] = [points.x[i], points.y[i]];
    let is = false;
    for (let a = 0, b = corners.length - 1; a < corners.length; b = a++) {
      const [ax, ay] = corners[a];
      const [bx, by] = corners[b];
      if (ay > py !== by > py && px < ((bx - ax) * (py - ay)) / (by - ay) + ax) is = !is;
    }
    if (is) found.push(i);
  }
  return found;
}

/** A polygon as a short text for the URL, and back: corners in thousandths. */
export function packPolygon(polygon: [number, number][]): string {
  return polygon.map(([x, y]) => `${Math.round(x * 1000)}.${Math.round(y * 1000)}`).join("_");
}

export function unpackPolygon(text: string | null): [number, number][] {
  const corners = (text ?? "").split("_").map((corner) => corner.split(".").map((n) => Number(n) / 1000));
  return corners.length >= 3 && corners.every((c) => c.length === 2 && c.every(Number.isFinite)) ? (corners as [number, number][]) : [];
}
