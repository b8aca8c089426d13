// One hypothesis: the effect, the texts for and against, and how the judges came to it.
import { useMemo } from "preact/hooks";
import { Axis, Effect, Rug, Shares } from "../marks";
import { count, decimal, interval, isNumber, money, pValue, percent, points } from "../numbers";
import { loadPart, readScore, UNSCORED, type Part } from "../pack";
import { Facts, Failure, Grid, Missing, NoSuch, Numbers, Quote, Side, TextList, Title, Waiting, pending, score, tone, type Context, type Finding } from "../pieces";
import { changed, href, numberOf, useRoute } from "../route";
import { findTerms, Shown, type Mark } from "../text";
import { useAsync, usePart, useRows } from "../use";
import { effectScale } from "./verdict";
import { BlindCheck } from "./blind";
import { Inside } from "./components";

export function HypothesisScreen({ context, id }: { context: Context; id: string }) {
  const i = context.findings.findIndex((f) => f.id === id);
  if (i < 0) return <NoSuch noun="hypothesis" id={id} home="hypotheses" all="All hypotheses" />;
  return <Known context={context} finding={context.findings[i]} i={i} />;
}

function Known({ context, finding, i }: { context: Context; finding: Finding; i: number }) {
  const { query } = useRoute();
  const part = usePart(`hypothesis/${i}`);
  const [previous, next] = [context.findings[i - 1], context.findings[i + 1]];
  const scale = effectScale(context);
  if (query.has("blind")) return part.value
    ? <BlindCheck context={context} finding={finding} part={part.value} />
    : pending(part, "the judged texts");
  return (
    <>
      <p class="eyebrow">
        <span>hypothesis {i + 1} of {context.findings.length}, {finding.status}{finding.incomplete && ", incomplete"}</span>
        {previous && <a href={href(["h", previous.id])} data-key="[">previous</a>}
        {next && <a href={href(["h", next.id])} data-key="]">next</a>}
      </p>
      <Title dir="auto"><Shown text={finding.statement} /></Title>
      <div class="result">
        <div>
          <p class="big">{points(finding.effect)}</p>
          <p class="quiet">95% interval {interval(finding.ci_low, finding.ci_high)}</p>
        </div>
        <Shares base={finding.share_base} intervention={finding.share_intervention} />
        <table class="mini">
          <caption class="sr">The effect beside the null control</caption>
          <tbody>
            <tr><th scope="row">this claim</th><td><Effect scale={scale} effect={finding.effect} low={finding.ci_low} high={finding.ci_high} tone={tone(finding)} width={220} /></td></tr>
            {context.verdict.null_findings.length > 0 && <tr><th scope="row">null control</th><td><Rug scale={scale} effects={context.verdict.null_findings.map((f: Finding) => f.effect)} width={220} /></td></tr>}
            <tr aria-hidden="true"><td /><td><Axis scale={scale} width={220} /></td></tr>
          </tbody>
        </table>
      </div>
      <Facts facts={[
        ["AUC", decimal(finding.auc)], ["p", pValue(finding.p_value)], ["adjusted p", pValue(finding.p_adjusted)],
        ["fresh texts", count(finding.n_texts)], ["without a score", count(finding.n_unscored)],
        ["judge calls", count(finding.judge_calls)], ["cost", money(finding.cost_usd)],
        ["prompts", finding.scope === null ? "all" : <>group <Shown text={finding.scope} /></>],
        ...(finding.cluster === null ? [] : [["found in", <a href={href(["c", finding.cluster])}><Shown text={finding.cluster} /></a>] as [string, any]]),
        ["judged as", <q dir="auto"><Shown text={finding.criterion} /></q>],
      ]} />
      {pending(part, "the evidence")}
      {part.value && <Evidence context={context} finding={finding} part={part.value} />}
      {part.value && <Judging context={context} finding={finding} part={part.value} />}
      <Inside context={context} kind="finding" name={finding.id} />
    </>
  );
}

/** What to mark in a text: the words the claim was built from, and what a judge said it found. */
export function evidenceMarks(finding: Finding, reason = ""): (text: string) => Mark[] {
  const quoted = /^closest: (.+)$/s.exec(reason)?.[1];
  return (text) => {
    const terms = findTerms(text, finding.evidence_terms);
    return terms.length || !quoted ? terms : findTerms(text, [quoted], "judged");
  };
}

function reasonsByRow(part: Part): Map<number, string> {
  return new Map(Array.from(part.columns.row, (row, j) => [row, part.values.reasons[part.columns.reason[j]]]));
}

function scoresByRow(part: Part, tier = 0): Map<number, number | null> {
  return new Map(Array.from(part.columns.row, (row, j) => [row, readScore(part.columns[`score_${tier}`][j])]));
}

const STEP = 3;

function Evidence({ context, finding, part }: { context: Context; finding: Finding; part: Part }) {
  const { query } = useRoute();
  const supporting: number[] = part.values.supporting;
  const contradicting: number[] = part.values.contradicting;
  const most = Math.max(supporting.length, contradicting.length);
  const n = Math.min(numberOf(query, "n", STEP), Math.max(STEP, most));
  // Both columns show the same number, unless one has no more.
  const columns = [
    { title: "Supporting texts", rows: supporting.slice(0, n), all: supporting.length },
    { title: "Contradicting texts", rows: contradicting.slice(0, n), all: contradicting.length },
  ];
  const found = useRows(context.manifest, columns.flatMap((c) => c.rows));
  const reasons = useMemo(() => reasonsByRow(part), [part]);
  const scores = useMemo(() => scoresByRow(part), [part]);
  const rows = new Map(found.rows.flatMap((row) => (row ? [[row.row, row] as const] : [])));
  return (
    <section aria-labelledby="evidence">
      <h2 id="evidence">Texts for and against</h2>
      <p class="quiet">Supporting texts meet the claim on the side that is said to show more of it. Contradicting texts meet it on the other side; where there are none, they are texts of the first side that do not meet it. All are fresh texts of prompts that discovery never saw.</p>
      {found.errors.map((error) => <Failure error={error} />)}
      <div class="columns">
        {columns.map(({ title, rows: wanted, all }) => (
          <section>
            <h3>{title} <span class="quiet">{wanted.length} of {all}</span></h3>
            {all === 0 && <Missing>None among the fresh texts.</Missing>}
            {!found.isComplete && wanted.length > 0 && <Waiting what="texts" />}
            {wanted.map((row) => {
              const text = rows.get(row);
              return text && <div data-row><Quote row={text} marks={evidenceMarks(finding, reasons.get(row))} note={<span>{score(scores.get(row) ?? null)}</span>} link={{ h: finding.id }} /></div>;
            })}
          </section>
        ))}
      </div>
      {n < most && <p><a class="button" href={changed({ n: n + STEP })}>Show {STEP} more of each</a></p>}
    </section>
  );
}

const CELLS = [
  ["base_met", "base_unmet"],
  ["intervention_met", "intervention_unmet"],
] as const;

function Judging({ context, finding, part }: { context: Context; finding: Finding; part: Part }) {
  const { query } = useRoute();
  const tiers: string[] = part.values.tiers;
  const tier = query.get("tier") ?? tiers[0];
  const place = Math.max(0, tiers.indexOf(tier));
  const cell = query.get("cell");
  const table: any[] = part.values.table;
  if (part.columns.row.length === 0) return <section><h2>How it was judged</h2><Missing>This run holds no verdict on this hypothesis.</Missing></section>;
  return (
    <section aria-labelledby="judging">
      <h2 id="judging">How it was judged</h2>
      <p class="quiet">Judges saw one text at a time and never its side. Accuracy is the share of texts whose side the claim tells: met by an intervention text, not met by a base text; {finding.direction === "less" ? "below" : "above"} 50% supports this claim.</p>
      <Grid caption="Validation per judge" head={["Judge", "#Texts", "#Scored", "#Accuracy", "#95% interval", "#AUC", "#Cost"]}>
        {table.map((row) => (
          <tr>
            <th scope="row"><a href={changed({ tier: row.tier === tiers[0] ? null : row.tier, page: null })} aria-current={row.tier === tier ? "true" : undefined}>{tierName(row.tier)}</a></th>
            <Numbers of={[count(row.n_judged), count(row.n_scored), percent(row.accuracy), isNumber(row.low) ? `${percent(row.low)} to ${percent(row.high)}` : "unknown", decimal(row.auc), money(row.cost_usd)]} />
          </tr>
        ))}
      </Grid>
      {part.values.agreement.map((a: any) => <p class="quiet">The {a.of} and the {a.against} judge both scored {count(a.n)} texts and agree on {count(a.n_same)}{isNumber(a.kappa) && <> (kappa {decimal(a.kappa)})</>}. The {a.against} one sees the texts that the {a.of} one could not decide, and a random audit.</p>)}
      <div class="wrap" tabIndex={0} role="region" aria-label="Confusion matrix">
        <table class="matrix">
          <caption>Confusion matrix, {tierName(tiers[place])}: choose a cell to read its texts</caption>
          <thead><tr><td /><th scope="col">meets the claim</th><th scope="col">does not</th></tr></thead>
          <tbody>{CELLS.map((names, j) => (
            <tr>
              <th scope="row"><Side side={j as 0 | 1} /></th>
              {names.map((name) => <td class="n"><a href={changed({ cell: cell === name ? null : name, page: null })} aria-current={cell === name ? "true" : undefined}>{count(table[place].cells[name])}</a></td>)}
            </tr>
          ))}</tbody>
        </table>
      </div>
      {cell && <CellTexts context={context} finding={finding} part={part} tier={place} cell={cell} />}
      <p><a class="button" href={changed({ blind: 1, cell: null, tier: null, n: null, page: null })} data-key="b">Check it yourself, blind</a></p>
    </section>
  );
}

export function tierName(tier: string): string {
  return { final: "as tested", latest: "latest verdict" }[tier] ?? `${tier} judge`;
}

function CellTexts({ context, finding, part, tier, cell }: { context: Context; finding: Finding; part: Part; tier: number; cell: string }) {
  const { columns } = part;
  const packed = columns[`score_${tier}`];
  const reasons = useMemo(() => reasonsByRow(part), [part]);
  const scores = useMemo(() => scoresByRow(part, tier), [part, tier]);
  const wanted = Array.from(columns.row).filter((_, j) => packed[j] !== UNSCORED
    && cell === `${columns.side[j] ? "intervention" : "base"}_${readScore(packed[j])! >= 0.5 ? "met" : "unmet"}`);
  return (
    <>
      <h3>{cell.startsWith("base") ? "Base" : "Intervention"} texts that {cell.endsWith("unmet") ? "do not meet" : "meet"} the claim <span class="quiet">{count(wanted.length)}</span></h3>
      <TextList manifest={context.manifest} rows={wanted} marks={evidenceMarks(finding)} link={{ h: finding.id }}
        note={(row) => <span>{score(scores.get(row) ?? null)}{reasons.get(row) && <>, <q><Shown text={reasons.get(row)!} /></q></>}</span>} />
    </>
  );
}

/** A hypothesis's part with the place of one text in it: for the text's own screen. */
export function useJudgedPlace(context: Context, id: string | null, row: number | null) {
  const i = id === null ? -1 : context.findings.findIndex((f) => f.id === id);
  return useAsync(async () => {
    if (i < 0 || row === null) return null;
    const part = await loadPart(`hypothesis/${i}`);
    const j = part.columns.row.indexOf(row as never);
    return { finding: context.findings[i], reason: j < 0 ? "" : (part.values.reasons[part.columns.reason[j]] as string) };
  }, [i, row]);
}

