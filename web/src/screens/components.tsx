// What fires inside the models: on which claims and clusters, and each component by itself.
import type { ComponentChildren } from "preact";
import { Density, Shares } from "../marks";
import { bySides, count, decimal, interval, isNumber, pValue, percent, plural } from "../numbers";
import type { Part } from "../pack";
import { Choice, Facts, Grid, Missing, NoSuch, Numbers, Quote, Side, Steps, Title, Unread, beside, pending } from "../pieces";
import { href, useQuery } from "../route";
import { findings, manifest } from "../run";
import { DataTable, figure, type Column } from "../table";
import { visible, type Mark } from "../text";
import { usePart, useRows, type Awaited } from "../use";
import { Head, Note } from "../layout";

interface Unit { label: string; source: string; cluster: string | null; n_beyond: number; maximum?: number; threshold?: number; rate_base?: number; rate_intervention?: number }

interface Selective {
  kind: string; name: string; contrast: string; unit: number | null; label: string; statistic: string; auc: number; ci_low: number; ci_high: number;
  p_adjusted: number; control_auc: number | null; is_beyond: boolean;
}

/** The part about all components; nothing is asked for where there is none. */
export function useInside() {
  return usePart(manifest.sections.activations === null ? "activations" : null);
}

/** Why there is nothing to show, or not yet. */
function Absent({ part }: { part: Awaited<Part> }) {
  const why = manifest.sections.activations;
  return why === null ? pending(part, "the components") : <Missing>There are no components here. {visible(why)}</Missing>;
}

/** A component's name, as a link where it has a part: `unit` is its number. */
function UnitLink({ unit, label }: { unit: number | null; label: string }) {
  return unit === null || unit < 0 ? visible(label) : <a href={href(["component", label])} data-open>{visible(label)}</a>;
}

const STATISTICS: Record<string, string> = { maximum: "largest value", reverse_maximum: "largest negative value", firing_rate: "share of tokens" };

const between = (row: { ci_low: number; ci_high: number }): string => interval(row.ci_low, row.ci_high, decimal);

/** What a row tells apart. */
function contrastOf({ kind, contrast }: Selective): string {
  return contrast === "sides" ? "intervention from base" : kind === "finding" ? "texts that meet the claim" : "texts of the cluster";
}

/** How well components tell texts apart, always beside a direction drawn at random. */
function SelectiveTable({ rows, first, name }: { rows: Selective[]; first: string; name: (row: Selective) => ComponentChildren }) {
  return (
    <>
      <Grid caption="How well it tells texts apart, beside the best of directions drawn at random" head={[first, "Tells apart", "By its", "#AUC", "#95% interval", "#Adj. p", "#Random control"]}>
        {rows.map((row) => (
          <tr data-row class={row.is_beyond ? "" : "null"}>
            <Head>{name(row)}</Head><td>{contrastOf(row)}</td><td>{STATISTICS[row.statistic] ?? row.statistic}</td>
            <Numbers of={[decimal(row.auc, 3), between(row), pValue(row.p_adjusted), decimal(row.control_auc, 3)]} />
          </tr>
        ))}
      </Grid>
      <Note>AUC: how often a text of the first kind has the larger value, against other texts of its prompt that did not help to choose the component. 0.5 tells nothing; 0 tells as much as 1. In grey rows the interval leaves room for the random control, or nothing is significant.</Note>
      <p class="callout">Selective is not causal: a component may read what is written and have no part in writing it.</p>
    </>
  );
}

/** The components that tell a claim's or a cluster's texts apart, and what contributed to them. */
export function Inside({ kind, name }: { kind: string; name: string }) {
  const part = useInside();
  const of = part.value?.values;
  const rows: Selective[] = of?.selective.filter((row: Selective) => row.kind === kind && row.name === name) ?? [];
  return (
    <section aria-labelledby="inside">
      <h2 id="inside">What fires inside</h2>
      <Absent part={part} />
      {of && (rows.length ? <SelectiveTable rows={rows} first="Component" name={(row) => <UnitLink {...row} />} />
        : <Missing>Nothing was compared here: {kind === "finding" ? "only confirmed claims with texts of both kinds are" : "only the clusters of whole replies that differ most are"}.</Missing>)}
      {of && kind === "finding" && <Contributions rows={of.contributions.filter((c: any) => c.finding === name)} figures={of.figures.find((f: any) => f.finding === name)} />}
    </section>
  );
}

function Contributions({ rows, figures }: { rows: any[]; figures: any }) {
  if (!figures) return null;
  return (
    <>
      <h3>What the directions of the weight change contributed</h3>
      {figures.n_directions ? <p>The texts that meet the claim exceed others of their prompt by {decimal(figures.log_ratio_nats)} nats of log-ratio. All directions together carried {percent(figures.share, 0)} of it; <strong>{count(figures.n_significant)} of {count(figures.n_directions)}</strong> carried significantly more than equally strong directions drawn at random.</p>
        : <Missing>Nothing could be attributed{figures.problem && <>: {visible(figures.problem)}</>}.</Missing>}
      {rows.length > 0 && <ContributionTable rows={rows} first="Direction" name={(c) => <UnitLink {...c} />} />}
    </>
  );
}

function ContributionTable({ rows, first, name }: { rows: any[]; first: string; name: (row: any) => ComponentChildren }) {
  return (
    <Grid caption={`Contributions, the surest first${first === "Direction" ? `: ${rows.length} shown` : ""}`} head={[first, "#Nats", "#95% interval", "#Share", "#Times random", "#Adj. p"]}>
      {rows.map((c) => <tr data-row><Head>{name(c)}</Head><Numbers of={[decimal(c.nats), between(c), percent(c.share), decimal(c.times_control, 1), pValue(c.p_adjusted)]} /></tr>)}
    </Grid>
  );
}

export function ComponentsScreen() {
  const part = useInside();
  const of = part.value?.values;
  const units: Unit[] = of?.units ?? [];
  const whole: Selective[] = of?.selective.filter((row: Selective) => row.kind === "run") ?? [];
  const columns: Column<Unit>[] = [
    { key: "component", name: "Component", value: (u) => u.label, cell: (u) => <UnitLink unit={units.indexOf(u)} label={u.label} /> },
    figure("beyond", "Beyond random", (u) => u.n_beyond),
    figure("base", "Base", (u) => u.rate_base, rate),
    figure("intervention", "Intervention", (u) => u.rate_intervention, rate),
    { key: "source", name: "Source", value: (u) => u.source },
  ];
  return (
    <>
      <Title>Components</Title>
      <Absent part={part} />
      {of && (
        <>
          <p>{plural(of.n_components, "component")} ({of.sources.join(", ")}) were read on {plural(of.n_texts, "text")}, and {count(of.n_controls)} directions drawn at random as a control. Those that do best at telling texts apart are here.{Object.entries(of.skipped).map(([source, why]) => <> Not read: {visible(`${source}: ${why}`)}.</>)}</p>
          <DataTable caption="Rates are the share of a text's tokens on which it fires; beyond random counts the comparisons whose interval leaves out the random control" noun={["component", "components"]} columns={columns} rows={units} sort="-beyond" />
          {whole.length > 0 && <><h2>What tells the sides apart over the whole run</h2><SelectiveTable rows={whole} first="Component" name={(row) => <UnitLink {...row} />} /></>}
        </>
      )}
    </>
  );
}

function rate(value: unknown): string {
  return isNumber(value) ? percent(value, 2) : "";
}

export function ComponentScreen({ id }: { id: string }) {
  const part = useInside();
  if (manifest.sections.activations !== null) return <ComponentsScreen />;
  if (!part.value) return pending(part, "the components", "Component");
  const units: Unit[] = part.value.values.units;
  const i = units.findIndex((u) => u.label === id);
  if (i < 0) return <NoSuch noun="component" id={id} home="components" all="All components that are shown" />;
  const of = part.value.values;
  const own: Selective[] = of.selective.filter((row: Selective) => row.unit === i);
  const contributed = of.contributions.filter((c: any) => c.unit === i);
  return (
    <>
      <Steps links={beside(units, i, (u) => href(["component", u.label]))}>component {i + 1} of {count(units.length)}, {visible(units[i].source)}</Steps>
      <Title class="quoted">{visible(id)}</Title>
      <Fires unit={units[i]} i={i} all={units} />
      <h2>Where it is selective</h2>
      {own.length ? <SelectiveTable rows={own} first="Claim or cluster" name={(row) => <Subject {...row} />} /> : <Missing>In no comparison among the best.</Missing>}
      {contributed.length > 0 && <ContributionTable rows={contributed} first="Claim" name={(c) => <Subject kind="finding" name={c.finding} />} />}
    </>
  );
}

function Subject({ kind, name }: { kind: string; name: string }) {
  if (kind === "run") return <>the whole run</>;
  const said = findings.find((f) => f.id === name)?.statement ?? name;
  return <a href={href([kind === "finding" ? "h" : "c", name])} data-open>{visible(said)}</a>;
}

function Fires({ unit, i, all }: { unit: Unit; i: number; all: Unit[] }) {
  const part = usePart(`component/${i}`);
  if (!part.value) return pending(part, "its texts");
  const of = part.value.values;
  return (
    <>
      <div class="result">
        {isNumber(unit.rate_base) && <figure><Shares base={unit.rate_base} intervention={unit.rate_intervention} /><figcaption>share of a text's tokens on which it fires</figcaption></figure>}
        <figure><Density edges={of.edges} bars={of.bars} /><figcaption>{of.edges.length ? "how strongly it fires, per side" : "It never fires."}</figcaption></figure>
      </div>
      {of.is_reversed && <Note>It is strongest where it is negative: the histogram and the texts are of its negative values.</Note>}
      <Facts facts={[
        ["tokens", bySides(of.n_firing)], ["texts", bySides(of.n_firing_texts)],
        ...(isNumber(unit.maximum) ? [["largest magnitude", decimal(unit.maximum)], ["fires beyond", decimal(unit.threshold)]] as [string, string][] : []),
        ["cluster of components", of.cluster ? <details class="inline"><summary>{visible(of.cluster)}, {plural(of.n_members, "member")}</summary>
          <ul class="plainlist">{of.members.map((label: string) => <li><UnitLink unit={all.findIndex((u) => u.label === label)} label={label} /></li>)}</ul></details> : "none"],
      ]} />
      <Examples part={part.value} label={unit.label} />
    </>
  );
}

const GROUPS: [string, string][] = [["top", "strongest"], ["quantiles", "from weak to strong"]];

function Examples({ part, label }: { part: Part; label: string }) {
  const query = useQuery();
  const group = query.get("show") === "quantiles" ? "quantiles" : "top";
  const places: number[][] = part.values[group];
  const found = useRows(places.flat().map((i) => part.columns.text_row[i]));
  return (
    <section aria-label="Texts">
      <h2>Texts on which it fires</h2>
      <Choice name="show" label="Show" options={GROUPS} chosen={group} keys={["1", "2"]} />
      <Unread of={found} what="texts" />
      <div class="columns">
        {places.map((own, side) => (
          <section>
            <h3><Side side={side as 0 | 1} /></h3>
            {!own.length && <Missing>It fires on no text of this side.</Missing>}
            {own.map((i) => {
              const row = found.rows[places.flat().indexOf(i)];
              const fired = readFired(part, i);
              return row && <div data-row><Quote row={row} marks={() => fireMarks(fired)} note={<span>{decimal(fired.peak)}{!fired.hasPieces && ", on tokens whose words are unknown"}</span>} link={{ unit: label, mark: "component" }} /></div>;
            })}
          </section>
        ))}
      </div>
    </section>
  );
}

export interface Fired {
  values: Float32Array;
  lengths: Uint16Array;
  hasPieces: boolean;
  /** The activation furthest from zero here, and how far any is on the texts of this part. */
  peak: number;
  largest: number;
}

/** The activations of a component's part on one of its texts. */
export function readFired({ columns: c }: Part, i: number): Fired {
  const [start, end] = [c.token_start[i], c.token_start[i + 1]];
  const values = (c.token_value as Float32Array).subarray(start, end);
  const far = (a: number, b: number): number => (Math.abs(b) > Math.abs(a) ? b : a);
  return {
    values, lengths: (c.token_length as Uint16Array).subarray(start, end), hasPieces: c.has_pieces[i] === 1,
    peak: values.reduce(far, 0), largest: Math.abs((c.token_value as Float32Array).reduce(far, 0)) || 1,
  };
}

/** How an activation is drawn: the stronger, the more coloured; of the other sign than the text's
 * peak, underlined. */
export function drawFired({ peak, largest }: Fired, value: number) {
  if (!value) return { class: "" };
  return { class: `fire ${value * peak < 0 ? "against" : ""}`, style: { "--s": `${Math.round(12 + (88 * Math.abs(value)) / largest)}%` } };
}

export function fireMarks(fired: Fired): Mark[] {
  let at = 0;
  return Array.from(fired.values, (value, i) => {
    const start = at;
    at += fired.lengths[i];
    return { start, end: value ? at : start, as: "", look: drawFired(fired, value), title: decimal(value, 3) };
  }).filter((m) => m.end > m.start);
}

/** The component to mark in a text, and those to choose from: of the finding (by number) first. */
export function useFired(row: number, asked: string | null, finding: number) {
  const inside = useInside().value;
  const units: Unit[] = inside?.values.units ?? [];
  const c = inside?.columns;
  const own = c ? Array.from(c.fires_unit, (unit, j) => ({ unit, j })).filter(({ j }) => c.fires_row[j] === row)
    .sort((a, b) => Number(c.fires_finding[b.j] === finding) - Number(c.fires_finding[a.j] === finding)).map(({ unit }) => unit) : [];
  const wanted = units.findIndex((u) => u.label === asked);
  const choices = [...new Set(wanted < 0 || own.includes(wanted) ? own : [wanted, ...own])];
  const chosen = wanted < 0 ? choices[0] : wanted;
  const part = usePart(chosen === undefined ? null : `component/${chosen}`);
  const place = part.value ? part.value.columns.text_row.indexOf(row as never) : -1;
  return { part, label: units[chosen]?.label ?? "", fired: part.value && place >= 0 ? readFired(part.value, place) : null, choices: choices.map((i) => units[i].label) };
}
