// The map: every discovery text as a point. A region of one colour is a lead, not a result.
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { bySides, count, percent, plural, range } from "../numbers";
import { loadPart, readRow, shardOf, SIDES } from "../pack";
import { Choice, Failure, Grid, Missing, Numbers, Quote, Side, SideChoice, TextList, Title, passes, pending } from "../pieces";
import { downloadLines } from "../download";
import { changed, href, numberOf, setState, useQuery } from "../route";
import { manifest } from "../run";
import { colourPoints, density, inside, joinPoints, nearest, NO_CLUSTER, packPolygon, projection, splat, unpackPolygon, WHOLE, type Colour, type Points, type View } from "../splat";
import { plain, shorten, visible } from "../text";
import { coloured } from "../tokens";
import { useAsync, usePart, useRows } from "../use";
import { Controls, Head, Soft } from "../layout";

const COLOURS: (string | [string, string])[] = ["side", "cluster", "round", ["nats", "log-probability difference"]];
const STYLES = ["points", "density"];
const DRAGS: [string, string][] = [["select", "selects"], ["move", "moves"]];
const N_LABELS = 9;

export function MapScreen() {
  const found = useAsync(async () => joinPoints(await Promise.all(range(manifest.n_point_parts).map((i) => loadPart(`points/${i}`)))), [manifest]);
  return (
    <>
      <Title>Map of the texts</Title>
      {pending(found, plural(manifest.n_points, "point"))}
      {found.value && (found.value.n === 0 ? <Missing>This run holds no map: it has no discovery texts.</Missing> : <Known points={found.value} />)}
    </>
  );
}

function viewOf(query: URLSearchParams): View {
  return { x: numberOf(query, "x", WHOLE.x), y: numberOf(query, "y", WHOLE.y), zoom: Math.max(1, Math.min(200, numberOf(query, "zoom", 1))) };
}

function Known({ points }: { points: Points }) {
  const query = useQuery();
  const clusters = usePart("clusters");
  const [by, style, drag] = [query.get("by") ?? "side", query.get("style") ?? "points", query.get("drag") ?? "select"];
  const side = query.get("side") ?? "both";
  const cluster = query.has("cluster") ? numberOf(query, "cluster", 0) : null;
  const lasso = query.get("in");
  const polygon = useMemo(() => unpackPolygon(lasso), [lasso]);
  const selected = useMemo(() => (polygon.length ? inside(points, polygon) : cluster === null ? [] : all(points).filter((i) => points.label[i] === cluster))
    .filter((i) => passes(side, points.side[i])), [points, polygon, cluster, side]);
  const named = useMemo(() => new Map<number, any>((clusters.value?.values.clusters ?? []).filter((c: any) => c.level === "text").map((c: any) => [c.label, c])), [clusters.value]);
  const picked = query.has("at") ? points.row.indexOf(numberOf(query, "at", -1)) : -1;
  const hasChoice = polygon.length > 0 || cluster !== null;
  const n = [0, 1].map((s) => selected.filter((i) => points.side[i] === s).length);
  return (
    <>
      <p>{plural(points.n, "discovery text")}. Near texts mean similar things; distances between far ones, and the axes, mean little. A region of one colour is a lead, not a result. The <a href={href(["clusters"], { level: "text" })}>table of clusters</a> holds the same without a picture.</p>
      <Controls>
        <Choice name="by" label="Colour" options={COLOURS} chosen={by} />
        <Choice name="style" label="Drawn as" options={STYLES} chosen={style} />
        <SideChoice chosen={side} />
        <Choice name="drag" label="Dragging" options={DRAGS} chosen={drag} />
        <label>Cluster <select value={cluster ?? ""} onChange={(e) => setState({ cluster: e.currentTarget.value, in: null, page: null })}>
          <option value="">none chosen</option>
          {[...named.values()].map((c: any) => <option value={c.label}>{c.label}: {plain((c.exemplar ?? c.id).slice(0, 60))}</option>)}
        </select></label>
      </Controls>
      <Canvas points={points} by={by} style={style} drag={drag} side={side} selected={hasChoice ? selected : null} polygon={polygon} picked={picked} named={named} query={query} />
      <Legend by={by} points={points} />
      {picked >= 0 && <Picked row={points.row[picked]} />}
      {hasChoice && (
        <section aria-label="Selection">
          <h2>{plural(selected.length, "text")} selected</h2>
          <p role="status">{bySides(n)}{selected.length > 0 && `: ${percent(n[1] / selected.length)} from the intervention`}. <a href={changed({ in: null, cluster: null, page: null })}>Clear</a>
            {" "}<button data-key="e" onClick={() => void exportRows(selected.map((i) => points.row[i]))}>Save as JSONL <kbd>e</kbd></button></p>
          <ByCluster points={points} selected={selected} named={named} />
          {selected.length > 0 ? <TextList rows={selected.map((i) => points.row[i])} /> : <Missing>No text lies in this region.</Missing>}
        </section>
      )}
    </>
  );
}

function all(points: Points): number[] {
  return range(points.n).map((i) => i);
}

interface CanvasProps {
  points: Points; by: string; style: string; drag: string; side: string; selected: number[] | null; polygon: [number, number][]; picked: number; named: Map<number, any>; query: URLSearchParams;
}

function Canvas({ points, by, style, drag, side, selected, polygon, picked, named, query }: CanvasProps) {
  const ref = useRef<HTMLCanvasElement>(null);
  const [size, setSize] = useState<[number, number]>([900, 560]);
  const [path, setPath] = useState<[number, number][]>([]);
  const [moved, setMoved] = useState<View | null>(null);
  const [theme, setTheme] = useState(0);
  const pixels = useRef<ImageData | null>(null);
  const view = moved ?? viewOf(query);
  const isShown = useMemo(() => {
    const chosen = selected && new Set(selected);
    return (i: number): boolean => passes(side, points.side[i]) && (!chosen || chosen.has(i));
  }, [points, side, selected]);
  const colourOf = useMemo(() => colourPoints(points.n, isShown, colouring(points, by)), [points, by, isShown]);
  useEffect(() => {
    const observer = new ResizeObserver(([{ contentRect: { width } }]) => width >= 1 && setSize([Math.round(width), Math.round(Math.min(640, Math.max(320, width * 0.6)))]));
    observer.observe(ref.current!.parentElement!);
    const repaint = (): void => setTheme((n) => n + 1);
    const dark = matchMedia("(prefers-color-scheme: dark)");
    dark.addEventListener("change", repaint);
    addEventListener("themechange", repaint);
    return () => {
      observer.disconnect();
      dark.removeEventListener("change", repaint);
      removeEventListener("themechange", repaint);
    };
  }, []);
  const ratio = Math.min(2, devicePixelRatio || 1);
  const [width, height] = size;
  useEffect(() => {
    const canvas = ref.current!;
    const started = performance.now();
    const [w, h] = [Math.round(width * ratio), Math.round(height * ratio)];
    const pen = canvas.getContext("2d")!;
    if (pixels.current?.width !== w || pixels.current.height !== h) {
      canvas.width = w;
      canvas.height = h;
      pixels.current = pen.createImageData(w, h);
    }
    const image = pixels.current;
    const { colours, faded, paper, ink } = paint(canvas, by);
    if (style === "density") density(image, points, view, [colours[0], colours[1]], paper, isShown);
    else splat(image, points, view, colourOf, colours, faded);
    pen.putImageData(image, 0, 0);
    drawOver(pen, points, view, path.length ? path : polygon, picked, ink, ratio);
    canvas.dataset.frameMs = (performance.now() - started).toFixed(1);
    canvas.dataset.frames = String(Number(canvas.dataset.frames ?? 0) + 1);
  }, [points, by, style, isShown, colourOf, polygon, path, picked, view.x, view.y, view.zoom, width, height, theme]);

  const at = (event: MouseEvent): [number, number] => {
    const box = ref.current!.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  const toUnit = (p: [number, number]): [number, number] => projection(view, width, height).toUnit(...p);
  const settle = (next: View, replace = false): void => setState({ x: next.x.toFixed(4), y: next.y.toFixed(4), zoom: next.zoom === 1 ? null : next.zoom.toFixed(3) }, { replace });
  const zoomBy = (factor: number, around?: [number, number]): void => {
    const zoom = Math.max(1, Math.min(200, view.zoom * factor));
    const [x, y] = around ? toUnit(around) : [view.x, view.y];
    const keep = view.zoom / zoom;
    settle(zoom === 1 ? WHOLE : { x: x + (view.x - x) * keep, y: y + (view.y - y) * keep, zoom }, true);
  };
  const press = (event: PointerEvent): void => {
    if (event.button !== 0) return;
    const canvas = ref.current!;
    canvas.setPointerCapture(event.pointerId);
    canvas.focus();
    const start = at(event);
    const moves = drag === "move" || event.shiftKey;
    const line: [number, number][] = [toUnit(start)];
    let latest = view;
    const follow = (e: PointerEvent): void => {
      const p = at(e);
      if (moves) {
        const { scale } = projection(view, width, height);
        latest = { ...view, x: view.x - (p[0] - start[0]) / scale, y: view.y + (p[1] - start[1]) / scale };
        setMoved(latest);
      } else {
        line.push(toUnit(p));
        setPath([...line]);
      }
    };
    const end = (e: PointerEvent): void => {
      canvas.removeEventListener("pointermove", follow);
      canvas.removeEventListener("pointerup", end);
      const p = at(e);
      setPath([]);
      setMoved(null);
      if (Math.hypot(p[0] - start[0], p[1] - start[1]) < 4 && line.length < 8) {
        const i = nearest(points, ...toUnit(p), 9 / projection(view, width, height).scale);
        setState({ at: i < 0 ? null : points.row[i] });
      } else if (moves) settle(latest);
      else setState({ in: packPolygon(simplify(line)), cluster: null, page: null });
    };
    canvas.addEventListener("pointermove", follow);
    canvas.addEventListener("pointerup", end);
  };
  const keys = (event: KeyboardEvent): void => {
    const by_ = 0.15 / view.zoom;
    const step = { ArrowLeft: [-by_, 0], ArrowRight: [by_, 0], ArrowUp: [0, by_], ArrowDown: [0, -by_] }[event.key];
    if (step) settle({ ...view, x: view.x + step[0], y: view.y + step[1] }, true);
    else if (event.key === "+" || event.key === "=") zoomBy(1.5);
    else if (event.key === "-") zoomBy(1 / 1.5);
    else return;
    event.preventDefault();
  };
  const selectView = (): void => {
    const corners: [number, number][] = [[0, 0], [width, 0], [width, height], [0, height]];
    setState({ in: packPolygon(corners.map(toUnit)), cluster: null, page: null });
  };
  const labels = useMemo(() => placeLabels(points, named), [points, named]);
  const { toPixel } = projection(view, width, height);
  return (
    <div class="map">
      <div class="canvas">
        <canvas ref={ref} tabIndex={0} role="img" style={{ height: `${height}px` }}
          aria-label={`Map of ${count(points.n)} texts; arrow keys move, plus and minus zoom`}
          onPointerDown={press} onKeyDown={keys} onWheel={(e) => { if (document.activeElement === ref.current) { e.preventDefault(); zoomBy(e.deltaY < 0 ? 1.25 : 0.8, at(e)); } }} />
        {style === "points" && spread(labels.map((l) => ({ ...l, place: toPixel(l.x, l.y) })), width, height).map((l) => (
          <a class="maplabel" href={changed({ cluster: l.label, in: null, page: null })} style={{ left: `${l.place[0]}px`, top: `${l.place[1]}px` }}>{visible(l.name)}</a>
        ))}
      </div>
      <p class="controls">
        <button aria-label="Zoom in" onClick={() => zoomBy(1.5)}>+</button>
        <button aria-label="Zoom out" onClick={() => zoomBy(1 / 1.5)}>−</button>
        <button onClick={() => setState({ x: null, y: null, zoom: null })}>Whole map</button>
        <button data-key="v" onClick={selectView}>Select what is in view</button>
        <Soft>Drag around points to select them, click one to read it{drag === "select" && ", hold Shift to move the map"}.</Soft>
      </p>
    </div>
  );
}

/** At most 60 corners: a lasso must fit into a link. */
function simplify(line: [number, number][]): [number, number][] {
  const every = Math.ceil(line.length / 60);
  return line.filter((_, i) => i % every === 0);
}

function drawOver(pen: CanvasRenderingContext2D, points: Points, view: View, polygon: [number, number][], picked: number, ink: Colour, ratio: number): void {
  const { toPixel } = projection(view, pen.canvas.width, pen.canvas.height);
  pen.strokeStyle = `rgb(${ink.join()})`;
  pen.lineWidth = 1.5 * ratio;
  if (polygon.length > 1) {
    pen.setLineDash([5 * ratio, 4 * ratio]);
    pen.beginPath();
    polygon.forEach(([x, y], i) => (i ? pen.lineTo(...toPixel(x, y)) : pen.moveTo(...toPixel(x, y))));
    pen.closePath();
    pen.stroke();
    pen.setLineDash([]);
  }
  if (picked >= 0) {
    const [x, y] = toPixel(points.x[picked] / 65_535, points.y[picked] / 65_535);
    pen.beginPath();
    pen.arc(x, y, 8 * ratio, 0, 7);
    pen.lineWidth = 2.5 * ratio;
    pen.stroke();
  }
}

/** Colours of the page's style as numbers; a probe resolves what depends on light and dark. */
function paint(near: HTMLElement, by: string): { colours: Colour[]; faded: Colour; paper: Colour; ink: Colour } {
  const probe = document.createElement("span");
  near.parentElement!.append(probe);
  const read = (name: string): Colour => {
    probe.style.color = `var(--${name})`;
    return getComputedStyle(probe).color.match(/\d+/g)!.slice(0, 3).map(Number) as Colour;
  };
  const names = by === "cluster" ? range(10).map((i) => `hue-${i}`) : by === "round" ? range(8).map((i) => `step-${i}`)
    : by === "nats" ? ["less-4", "less-2", "faint", "more-2", "more-4"] : ["base", "intervention"];
  const found = { colours: names.map(read), faded: read("faint"), paper: read("paper"), ink: read("ink") };
  if (by !== "side") found.colours = [...found.colours];
  probe.remove();
  return found;
}

function lastRound({ round }: Points): number {
  return round.reduce((a, b) => Math.max(a, b), 0);
}

function colouring(points: Points, by: string): (i: number) => number {
  if (by === "cluster") return (i) => (points.label[i] === NO_CLUSTER ? -1 : points.label[i] % 10);
  if (by === "round") {
    const last = lastRound(points) || 1;
    return (i) => Math.round((points.round[i] / last) * 7);
  }
  if (by === "nats") return (i) => { const v = points.nats[i] / 1000; return v < -0.5 ? 0 : v < -0.05 ? 1 : v <= 0.05 ? 2 : v <= 0.5 ? 3 : 4; };
  return (i) => points.side[i];
}

function Legend({ by, points }: { by: string; points: Points }) {
  const swatch = (name: string, shown: string) => <span><span class="swatch" style={coloured(name)} aria-hidden="true" /> {shown}</span>;
  if (by === "side") return <p class="legend"><Side side={0} /><Side side={1} /></p>;
  if (by === "round") return <p class="legend">{swatch("step-0", "first round")}{swatch("step-7", `round ${lastRound(points)}`)}</p>;
  if (by === "nats") return <p class="legend">{swatch("less-4", "likelier under the base")}{swatch("faint", "alike")}{swatch("more-4", "likelier under the intervention")}<Soft>nats per token, steps at 0.05 and 0.5</Soft></p>;
  return <p class="legend quiet">Ten colours, used again and again: neighbours of one colour are mostly one cluster. Choose a cluster to see it alone.</p>;
}

interface Label { label: number; x: number; y: number; name: string }

/** Names of the largest clusters at the middle of their points. */
function placeLabels(points: Points, named: Map<number, any>): Label[] {
  const sums = new Map<number, [number, number, number]>();
  for (let i = 0; i < points.n; i++) {
    const s = sums.get(points.label[i]) ?? [0, 0, 0];
    s[0] += points.x[i]; s[1] += points.y[i]; s[2] += 1;
    sums.set(points.label[i], s);
  }
  sums.delete(NO_CLUSTER);
  return [...sums].sort((a, b) => b[1][2] - a[1][2]).slice(0, 3 * N_LABELS).map(([label, [x, y, n]]) => ({
    label, x: x / n / 65_535, y: y / n / 65_535, name: shorten(named.get(label)?.exemplar ?? String(label), 26),
  }));
}

/** The first labels that stand in the picture and on no other. */
function spread<T extends { place: [number, number] }>(labels: T[], width: number, height: number): T[] {
  const kept: T[] = [];
  for (const label of labels) {
    const [x, y] = label.place;
    if (x < 90 || y < 16 || x > width - 90 || y > height - 16) continue;
    if (kept.length < N_LABELS && kept.every((k) => Math.abs(k.place[0] - x) > 175 || Math.abs(k.place[1] - y) > 26)) kept.push(label);
  }
  return kept;
}

function Picked({ row }: { row: number }) {
  const found = useRows([row]);
  return <div class="picked">{found.errors.map((error) => <Failure error={error} />)}{found.rows[0] && <Quote row={found.rows[0]} note={<a href={changed({ at: null })}>let go</a>} />}</div>;
}

function ByCluster({ points, selected, named }: { points: Points; selected: number[]; named: Map<number, any> }) {
  const counts = new Map<number, [number, number]>();
  for (const i of selected) {
    const c = counts.get(points.label[i]) ?? [0, 0];
    c[points.side[i]]++;
    counts.set(points.label[i], c);
  }
  const rows = [...counts].sort((a, b) => b[1][0] + b[1][1] - a[1][0] - a[1][1]);
  if (rows.length < 1) return null;
  return (
    <details>
      <summary>By cluster: {plural(rows.length, "cluster")}</summary>
      <Grid caption="Selected texts by cluster" head={["Cluster", "#Base", "#Intervention"]}>
        {rows.map(([label, c]) => {
          const cluster = named.get(label);
          return <tr><Head>{cluster ? <a href={href(["c", cluster.id])}>{visible(cluster.exemplar ? shorten(cluster.exemplar, 26) : cluster.id)}</a> : "no cluster"}</Head><Numbers of={c.map(count)} /></tr>;
        })}
      </Grid>
    </details>
  );
}

async function exportRows(rows: number[]): Promise<void> {
  const lines: unknown[] = [];
  for (const row of rows) {
    const text = readRow(await loadPart(`texts/${shardOf(manifest.shards, row)}`), row);
    lines.push({ run: manifest.run, text_key: text.key, side: SIDES[text.side], prompt: text.prompt.text, text: text.text, cluster: text.label });
  }
  downloadLines("selection.jsonl", lines);
}
