// One hypothesis: the effect, the texts for and against, and how the judges came to it.
import { useMemo } from "preact/hooks";
import { Axis, Effect, Rug, Shares } from "../marks";
import { count, decimal, interval, isNumber, money, pValue, percent, points } from "../numbers";
import { loadPart, readScore, UNSCORED, type Part } from "../pack";
import { Facts, Grid, Missing, NoSuch, Numbers, Quote, Side, Steps, TextList, Title, Unread, Waiting, beside, pending, score, tone, type Finding } from "../pieces";
import { changed, href, numberOf, useQuery } from "../route";
import { findings, verdict } from "../run";
import { findTerms, visible, type Mark } from "../text";
import { useAsync, usePart, useRows } from "../use";
import { effectScale } from "./verdict";
import { BlindCheck } from "./blind";
import { Inside } from "./components";
import { Head, Note, Region, Soft } from "../layout";

export function HypothesisScreen({ id }: { id: string }) {
  const i = findings.findIndex((f) => f.id === id);
  if (i < 0) return <NoSuch noun="hypothesis" id={id} home="hypotheses" all="All hypotheses" />;
  return <Known finding={findings[i]} i={i} />;
}

function Known({ finding, i }: { finding: Finding; i: number }) {
  const query = useQuery();
  const part = usePart(`hypothesis/${i}`);
  const scale = effectScale();
  if (query.has("blind")) return part.value
    ? <BlindCheck finding={finding} part={part.value} />
    : pending(part, "the judged texts");
  return (
    <>
      <Steps links={beside(findings, i, (f) => href(["h", f.id]))}>hypothesis {i + 1} of {findings.length}, {finding.status}{finding.incomplete && ", incomplete"}</Steps>
      <Title dir="auto">{visible(finding.statement)}</Title>
      <div class="result">
        <div>
          <p class="big">{points(finding.effect)}</p>
          <Note>95% interval {interval(finding.ci_low, finding.ci_high)}</Note>
        </div>
        <Shares base={finding.share_base} intervention={finding.share_intervention} />
        <table class="mini">
          <caption class="sr">The effect beside the null control</caption>
          <tbody>
            <tr><Head>this claim</Head><td><Effect scale={scale} effect={finding.effect} low={finding.ci_low} high={finding.ci_high} tone={tone(finding)} width={220} /></td></tr>
            {verdict.null_findings.length > 0 && <tr><Head>null control</Head><td><Rug scale={scale} effects={verdict.null_findings.map((f: Finding) => f.effect)} width={220} /></td></tr>}
            <tr aria-hidden="true"><td /><td><Axis scale={scale} width={220} /></td></tr>
          </tbody>
        </table>
      </div>
      <Facts facts={[
        ["AUC", decimal(finding.auc)], ["p", pValue(finding.p_value)], ["adjusted p", pValue(finding.p_adjusted)],
        ["fresh texts", count(finding.n_texts)], ["without a score", count(finding.n_unscored)],
        ["judge calls", count(finding.judge_calls)], ["cost", money(finding.cost_usd)],
        ["prompts", finding.scope === null ? "all" : <>group {visible(finding.scope)}</>],
        ...(finding.cluster === null ? [] : [["found in", <a href={href(["c", finding.cluster])}>{visible(finding.cluster)}</a>] as [string, any]]),
        ["judged as", <q dir="auto">{visible(finding.criterion)}</q>],
      ]} />
      {pending(part, "the evidence")}
      {part.value && <Evidence finding={finding} part={part.value} />}
      {part.value && <Judging finding={finding} part={part.value} />}
      <Inside kind="finding" name={finding.id} />
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

function Evidence({ finding, part }: { finding: Finding; part: Part }) {
  const query = useQuery();
  const supporting: number[] = part.values.supporting;
  const contradicting: number[] = part.values.contradicting;
  const most = Math.max(supporting.length, contradicting.length);
  const n = Math.min(numberOf(query, "n", STEP), Math.max(STEP, most));
  // Both columns show the same number, unless one has no more.
  const columns = [
    { title: "Supporting texts", rows: supporting.slice(0, n), all: supporting.length },
    { title: "Contradicting texts", rows: contradicting.slice(0, n), all: contradicting.length },
  ];
  const found = useRows(columns.flatMap((c) => c.rows));
  const reasons = useMemo(() => reasonsByRow(part), [part]);
  const scores = useMemo(() => scoresByRow(part), [part]);
  const rows = new Map(found.rows.flatMap((row) => (row ? [[row.row, row] as const] : [])));
  return (
    <section aria-labelledby="evidence">
      <h2 id="evidence">Texts for and against</h2>
      <Note>Supporting texts meet the claim on the side that is said to show more of it. Contradicting texts meet it on the other side; where there are none, they are texts of the first side that do not meet it. All are fresh texts of prompts that discovery never saw.</Note>
      <Unread of={found} />
      <div class="columns">
        {columns.map(({ title, rows: wanted, all }) => (
          <section>
            <h3>{title} <Soft>{wanted.length} of {all}</Soft></h3>
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

function Judging({ finding, part }: { finding: Finding; part: Part }) {
  const query = useQuery();
  const tiers: string[] = part.values.tiers;
  const tier = query.get("tier") ?? tiers[0];
  const place = Math.max(0, tiers.indexOf(tier));
  const cell = query.get("cell");
  const table: any[] = part.values.table;
  if (part.columns.row.length === 0) return <section><h2>How it was judged</h2><Missing>This run holds no verdict on this hypothesis.</Missing></section>;
  return (
    <section aria-labelledby="judging">
      <h2 id="judging">How it was judged</h2>
      <Note>Judges saw one text at a time and never its side. Accuracy is the share of texts whose side the claim tells: met by an intervention text, not met by a base text; {finding.direction === "less" ? "below" : "above"} 50% supports this claim.</Note>
      <Grid caption="Validation per judge" head={["Judge", "#Texts", "#Scored", "#Accuracy", "#95% interval", "#AUC", "#Cost"]}>
        {table.map((row) => (
          <tr>
            <Head><a href={changed({ tier: row.tier === tiers[0] ? null : row.tier, page: null })} aria-current={row.tier === tier || undefined}>{tierName(row.tier)}</a></Head>
            <Numbers of={[count(row.n_judged), count(row.n_scored), percent(row.accuracy), interval(row.low, row.high, percent), decimal(row.auc), money(row.cost_usd)]} />
          </tr>
        ))}
      </Grid>
      {part.values.agreement.map((a: any) => <Note>The {a.of} and the {a.against} judge both scored {count(a.n)} texts and agree on {count(a.n_same)}{isNumber(a.kappa) && <> (kappa {decimal(a.kappa)})</>}. The {a.against} one sees the texts that the {a.of} one could not decide, and a random audit.</Note>)}
      <Region label="Confusion matrix">
        <table class="matrix">
          <caption>Confusion matrix, {tierName(tiers[place])}: choose a cell to read its texts</caption>
          <thead><tr><td /><th scope="col">meets the claim</th><th scope="col">does not</th></tr></thead>
          <tbody>{CELLS.map((names, j) => (
            <tr>
              <Head><Side side={j as 0 | 1} /></Head>
              {names.map((name) => <td class="n"><a href={changed({ cell: cell === name ? null : name, page: null })} aria-current={cell === name || undefined}>{count(table[place].cells[name])}</a></td>)}
            </tr>
          ))}</tbody>
        </table>
      </Region>
      {cell && <CellTexts finding={finding} part={part} tier={place} cell={cell} />}
      <p><a class="button" href={changed({ blind: 1, cell: null, tier: null, n: null, page: null })} data-key="b">Check it yourself, blind</a></p>
    </section>
  );
}

export function tierName(tier: string): string {
  return { final: "as tested", latest: "latest verdict" }[tier] ?? `${tier} judge`;
}

function CellTexts({ finding, part, tier, cell }: { finding: Finding; part: Part; tier: number; cell: string }) {
  const { columns } = part;
  const packed = columns[`score_${tier}`];
  const reasons = useMemo(() => reasonsByRow(part), [part]);
  const scores = useMemo(() => scoresByRow(part, tier), [part, tier]);
  const wanted = Array.from(columns.row).filter((_, j) => packed[j] !== UNSCORED
    && cell === `${columns.side[j] ? "intervention" : "base"}_${readScore(packed[j])! >= 0.5 ? "met" : "unmet"}`);
  return (
    <>
      <h3>{cell.startsWith("base") ? "Base" : "Intervention"} texts that {cell.endsWith("unmet") ? "do not meet" : "meet"} the claim <Soft>{count(wanted.length)}</Soft></h3>
      <TextList rows={wanted} marks={evidenceMarks(finding)} link={{ h: finding.id }}
        note={(row) => <span>{score(scores.get(row) ?? null)}{reasons.get(row) && <>, <q>{visible(reasons.get(row)!)}</q></>}</span>} />
    </>
  );
}

/** A hypothesis's part with the place of one text in it: for the text's own screen. */
export function useJudgedPlace(id: string | null, row: number | null) {
  const i = id === null ? -1 : findings.findIndex((f) => f.id === id);
  return useAsync(async () => {
    if (i < 0 || row === null) return null;
    const part = await loadPart(`hypothesis/${i}`);
    const j = part.columns.row.indexOf(row as never);
    return { finding: findings[i], reason: j < 0 ? "" : (part.values.reasons[part.columns.reason[j]] as string) };
  }, [i, row]);
}

