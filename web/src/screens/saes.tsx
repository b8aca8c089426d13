// Sparse autoencoders beside each other: what they say of categories, and their features on texts.
import type { ComponentChildren } from "preact";
import { useMemo } from "preact/hooks";
import { Controls, Eyebrow, Head, Note, Soft, Warning } from "../layout";
import { count, decimal, interval, isNumber, pValue, UNKNOWN, range } from "../numbers";
import { loadPart, type Part } from "../pack";
import { Choice, Grid, Missing, NoSuch, Title, pending } from "../pieces";
import { changed, href, numberOf, useQuery, useRoute } from "../route";
import { manifest, verdict } from "../run";
import { DataTable, type Column } from "../table";
import { Marked, visible } from "../text";
import { TokenText } from "../tokens";
import { useAsync, usePart } from "../use";
import { drawFired, fireMarks } from "./components";

/** An SAE by its name, with a line on how well it reconstructs. */
interface Sae { sae: string; quality: string }

type Row = Record<string, any>;

/** A table's rows: words by their places, and null for what is missing. */
function readTable({ values: { n, words }, columns }: Part): Row[] {
  return range(n).map((i) => Object.fromEntries(Object.entries(columns).map(([name, column]) =>
    [name, words[name] ? words[name][column[i] - 1] ?? null : Number.isFinite(column[i]) ? column[i] : null])));
}

function useTable(name: string) {
  const part = usePart(name);
  return { part, rows: useMemo(() => (part.value ? readTable(part.value) : []), [part.value]) };
}

function show(name: string, row: Row, isWhole: boolean): ComponentChildren {
  const value = row[name];
  if (name === "link") return /^https:/.test(value) && <a href={value} target="_blank" rel="noopener noreferrer">Neuronpedia</a>;
  if (value === null) return UNKNOWN;
  if (/sae$/.test(name)) return <a class="nowrap" href={href(["sae", value])} data-open={!row.feature}>{visible(value)}</a>;
  if (/feature$/.test(name)) return <a href={href(["feature", row.sae, value])} data-open>{value}</a>;
  if (/^is_/.test(name)) return value ? "yes" : "no";
  if (/^p_/.test(name)) return pValue(value);
  if (name === "ci_low") return interval(value, row.ci_high, decimal);
  return isNumber(value) ? (isWhole ? count(value) : decimal(value, 3)) : visible(value);
}

/** Records as a table, a column for each of their figures, the reconstruction of their SAEs below. */
function Records({ rows, caption, saes, without = [] }: { rows: Row[]; caption: string; saes: Sae[]; without?: string[] }) {
  const names = Object.keys(rows[0] ?? {}).filter((name) => ![...without, "ci_high"].includes(name) && rows.some((row) => row[name] !== null));
  const columns: Column<Row>[] = names.map((key) => {
    const isWhole = rows.every((row) => row[key] === null || Number.isInteger(row[key]));
    return {
      key, name: key === "ci_low" ? "95% interval" : key.replace("is_", "").replace(/_/g, " "), value: (row) => row[key],
      numeric: !/^is_/.test(key) && rows.some((row) => isNumber(row[key])), cell: (row) => show(key, row, isWhole),
    };
  });
  const named = new Set(rows.flatMap((row) => [row.sae, row.other_sae]));
  return <><DataTable caption={caption} noun={["row", "rows"]} columns={columns} rows={rows} sort="" /><Quality saes={saes.filter((s) => named.has(s.sae))} /></>;
}

function Quality({ saes }: { saes: Sae[] }) {
  return <>{saes.map((s) => <Note>{visible(`${s.sae}: ${s.quality}`)}</Note>)}</>;
}

const MEASURES: [string, string][] = [["best_score", "best score"], ["n_specialists", "specialists"], ["n_used", "used by the model"]];

export function SaesScreen() {
  const query = useQuery();
  const [chosen, caption] = verdict.tables.find(([name]: string[]) => name === query.get("table")) ?? verdict.tables[0];
  const { part, rows } = useTable(`table/${chosen}`);
  return (
    <>
      <Eyebrow>{visible(verdict.models)}</Eyebrow>
      <Title>{verdict.headline}</Title>
      <p class="lead">{verdict.lead}</p>
      {verdict.warnings.map((line: string) => <Warning>{visible(line)}</Warning>)}
      <Matrix saes={verdict.saes} thresholds={verdict.thresholds} />
      <h2>Tables</h2>
      <Choice name="table" label="Show" options={verdict.tables.map(([name]: string[]) => name)} chosen={chosen} />
      {pending(part, "the table")}
      {part.value && <Records saes={verdict.saes} rows={rows} caption={caption} />}
    </>
  );
}

/** What each SAE has for each category; colour says how much of the most. */
function Matrix({ saes, thresholds }: { saes: Sae[]; thresholds: string[] }) {
  const query = useQuery();
  const { part, rows } = useTable("table/categories");
  const [by, at] = [query.get("by") ?? MEASURES[0][0], query.get("at") ?? thresholds[0]];
  const own = rows.filter((r) => r.threshold === at);
  const most = Math.max(1e-9, ...own.map((r) => r[by] ?? 0));
  return (
    <>
      <h2>SAEs and categories</h2>
      <Controls>
        <Choice name="by" label="Show" options={MEASURES} chosen={by} keys={["1", "2", "3"]} />
        <Choice name="at" label="Fires above" options={thresholds} chosen={at} />
      </Controls>
      {pending(part, "the categories")}
      <Grid label="SAEs and categories" caption={verdict.matrix} head={["Category", "#Texts", ...saes.map((s) => `#${s.sae}`)]}>
        {[...new Set(own.map((r) => r.category))].map((category) => {
          const cells = saes.map(({ sae }) => own.find((r) => r.category === category && r.sae === sae) ?? {});
          return (
            <tr>
              <Head>{visible(category)}</Head><td class="n">{count(cells[0]?.n_texts)}</td>
              {cells.map((r: Row) => <td class="n" data-row><a class="fire" data-open href={href(["sae", r.sae], { category })} style={{ "--s": `${Math.round((70 * Math.max(0, r[by] ?? 0)) / most)}%` }}>{by === "best_score" ? decimal(r[by]) : count(r[by])}</a></td>)}
            </tr>
          );
        })}
      </Grid>
      <Quality saes={saes} />
    </>
  );
}

/** The specialists of one SAE, all or those of one category, the best of which is shown on texts. */
export function SaeScreen({ id }: { id: string }) {
  const category = useQuery().get("category");
  const i = verdict.saes.findIndex((s: Sae) => s.sae === id);
  const { part, rows } = useTable(`specialists/${i}`);
  if (i < 0) return <NoSuch noun="SAE" id={id} home="" all="All SAEs" />;
  const own = rows.filter((r) => category === null || r.category === category);
  return (
    <>
      <Eyebrow>specialists of an SAE</Eyebrow>
      <Title class="quoted">{visible(id)}{category !== null && <>, {visible(category)}</>}</Title>
      {category !== null && <p><a href={changed({ category: null })}>All categories</a></p>}
      {pending(part, "the specialists")}
      {part.value?.values.n_left_out > 0 && <Warning>{count(part.value!.values.n_left_out)} more, of smaller scores, are in saes/specialists.csv of the run.</Warning>}
      {category !== null && own[0] && <OnTexts sae={i} feature={own[0].feature} title={`The best, feature ${own[0].feature}, on texts`} />}
      {part.value && <Records saes={verdict.saes} rows={own} without={["sae"]} caption={verdict.specialists} />}
    </>
  );
}

export function FeatureScreen({ id }: { id: string }) {
  const feature = Number(useRoute().path[2]);
  const { saes, tables } = verdict;
  const i = saes.findIndex((s: Sae) => s.sae === id);
  const found = useAsync(() => Promise.all([[`specialists/${i}`, "Specialist"], ...tables.map(([name, caption]: string[]) => [`table/${name}`, caption])].map(async ([name, caption]) =>
    ({ name, caption, rows: readTable(await loadPart(name)).filter((r) => r.sae === id && r.feature === feature) }))), [tables, id, feature]);
  if (i < 0) return <NoSuch noun="SAE" id={id} home="" all="All SAEs" />;
  const rows = found.value?.filter((table) => table.rows.length) ?? [];
  const link = rows.flatMap((table) => table.rows).find((r) => r.link);
  return (
    <>
      <Eyebrow>of <a href={href(["sae", id])}>{visible(id)}</a></Eyebrow>
      <Title>Feature {feature}</Title>
      {link && <p>{show("link", link, false)}</p>}
      <Quality saes={[saes[i]]} />
      <OnTexts sae={i} feature={feature} title="On texts" />
      {pending(found, "its figures") ?? (rows.length ? rows.map((table) => <><h2>{table.caption}</h2><Records saes={[]} rows={table.rows} caption={table.name} without={["sae", "feature", "link"]} /></>) : <Missing>No table of this run names this feature.</Missing>)}
    </>
  );
}

/** A feature on the texts where it fires most, one of them token by token. */
function OnTexts({ sae, feature, title }: { sae: number; feature: number; title: string }) {
  const query = useQuery();
  const perPart = verdict.texts_per_part;
  const found = useAsync(async () => {
    const { columns: c } = await loadPart(`highlights/${sae}`);
    const own = Array.from(c.feature, (f, j) => (f === feature ? j : -1)).filter((j) => j >= 0);
    const largest = Math.max(1e-9, ...own.flatMap((j) => [...c.fire_value.subarray(c.fire_start[j], c.fire_start[j + 1])]));
    return Promise.all(own.map(async (j) => {
      const k = c.text[j] % perPart;
      const { values: v, columns: t } = await loadPart(`quoted/${Math.floor(c.text[j] / perPart)}`);
      const lengths = (t.token_length as Uint16Array).subarray(t.token_start[k], t.token_start[k + 1]);
      const values = new Float32Array(lengths.length);
      for (let n = c.fire_start[j]; n < c.fire_start[j + 1]; n++) values[c.fire_position[n]] = c.fire_value[n];
      return { text: v.text[k] as string, category: v.category[k] ?? "text of a concept", fired: { values, lengths, hasPieces: lengths.length > 0, peak: 1, largest } };
    }));
  }, [manifest, sae, feature]);
  const chosen = numberOf(query, "on", 0);
  return (
    <section aria-label="Texts">
      <h2>{title}</h2>
      {pending(found, "the texts")}
      {found.value?.length === 0 && <Missing>No text of it was kept: only of the first of each ranking, the best specialist of each category and the best feature of each concept.</Missing>}
      {found.value?.map(({ text, category, fired }, n) => (
        <blockquote>
          {fired.hasPieces && n === chosen ? <TokenText text={text} lengths={fired.lengths} values={fired.values} draw={(v) => drawFired(fired, v)} say={(v) => `activation ${decimal(v, 3)}`} />
            : <p class="body" dir="auto"><Marked text={text} marks={fireMarks(fired)} /></p>}
          <footer><span>{visible(category)}</span>{fired.hasPieces ? n !== chosen && <a href={changed({ on: n, token: null })} data-open>token by token</a> : <Soft>which words its tokens are is unknown</Soft>}</footer>
        </blockquote>
      ))}
    </section>
  );
}
