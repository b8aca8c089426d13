// The first screen: what was found, how sure it is, and the same procedure where nothing changed.
import { Axis, Effect, Rug, fitScale, type Scale } from "../marks";
import { count, decimal, duration, interval, isNumber, money, pValue, percent, points } from "../numbers";
import { Missing, Spans, Title, tone, type Context, type Finding } from "../pieces";
import { href } from "../route";
import { Shown } from "../text";
import { DataTable, type Column } from "../table";

export function effectScale(context: Context): Scale {
  const all = [...context.findings, ...context.verdict.null_findings];
  return fitScale(all.flatMap((f) => [f.ci_low, f.ci_high]));
}

export function VerdictScreen(context: Context) {
  const { manifest, verdict, findings } = context;
  const confirmed = findings.filter((f) => f.status === "confirmed");
  const nulls = verdict.null_findings as Finding[];
  const scale = effectScale(context);
  return (
    <>
      <p class="eyebrow"><span>audit of <bdi><Shown text={manifest.models[1]} /></bdi></span></p>
      <Title>{verdict.headline}</Title>
      <p class="lead"><Spans line={verdict.lead} /></p>
      {verdict.warnings.map((line: [string, string][]) => <p class="callout warning"><Spans line={line} /></p>)}
      <Tiles {...context} />
      {confirmed.length > 0 ? (
        <Findings findings={confirmed} nulls={nulls} scale={scale} context={context} />
      ) : verdict.nothing ? <p><Spans line={verdict.nothing} /></p> : <Missing>Texts of both sides are needed before anything is tested.</Missing>}
      <p><Spans line={verdict.null} /></p>
      {findings.length > confirmed.length && (
        <p><a href={href(["hypotheses"], { filter: null })}>All {count(findings.length)} tested hypotheses</a>, with the {count(findings.length - confirmed.length)} that were not confirmed.</p>
      )}
    </>
  );
}

function Findings({ findings, nulls, scale, context }: { findings: Finding[]; nulls: Finding[]; scale: Scale; context: Context }) {
  const minEffect = context.verdict.validate.min_effect;
  return (
    <section aria-labelledby="changed">
      <h2 id="changed">What changed</h2>
      <div class="wrap" tabIndex={0} role="region" aria-label="Confirmed findings">
        <table class="forest">
          <caption>Share of intervention texts minus share of base texts that meet each claim, in percentage points, with 95% intervals.
            {isNumber(minEffect) && minEffect > 0 && <> The band is the smallest effect of interest, ±{points(minEffect, "").slice(1)}.</>}</caption>
          <thead><tr><th scope="col" class="n">#</th><th scope="col">Finding</th><th scope="col"><span class="sr">Effect drawn</span><Axis scale={scale} /></th><th scope="col" class="n">Base</th><th scope="col" class="n">Intervention</th><th scope="col" class="n">Effect</th><th scope="col" class="n">Adj. p</th></tr></thead>
          <tbody>
            {findings.map((f, i) => (
              <tr data-row>
                <td class="n quiet">{i + 1}</td>
                <th scope="row"><a href={href(["h", f.id])} data-open dir="auto"><Shown text={f.statement} /></a></th>
                <td><Effect scale={scale} effect={f.effect} low={f.ci_low} high={f.ci_high} tone={tone(f)} minEffect={minEffect} /></td>
                <td class="n">{percent(f.share_base)}</td>
                <td class="n">{percent(f.share_intervention)}</td>
                <td class="n"><strong>{points(f.effect, "")}</strong><br /><span class="quiet">{interval(f.ci_low, f.ci_high)}</span></td>
                <td class="n">{pValue(f.p_adjusted)}</td>
              </tr>
            ))}
            {nulls.length > 0 && (
              <tr class="null">
                <td />
                <th scope="row">Null control: base against base, {count(nulls.length)} hypotheses tested, {count(nulls.filter((f) => f.status === "confirmed").length)} confirmed</th>
                <td><Rug scale={scale} effects={nulls.map((f) => f.effect)} /></td>
                <td /><td />
                <td class="n">{points(extreme(nulls), "")}<br /><span class="quiet">largest</span></td>
                <td />
              </tr>
            )}
          </tbody>
        </table>
      </div>
    </section>
  );
}

/** The null effect that is furthest from zero. */
export function extreme(nulls: Finding[]): number | null {
  const known = nulls.map((f) => f.effect).filter(isNumber);
  return known.length ? known.reduce((a, b) => (Math.abs(b) > Math.abs(a) ? b : a)) : null;
}

function Tiles({ manifest, verdict, findings }: Context) {
  const summary = verdict.summary;
  const seconds = Object.values(summary.seconds ?? {}).filter(isNumber);
  const costs = ["cheap", "expensive"].map((tier) => summary.judge?.[tier]?.cost_usd);
  const nulls = summary.null_control;
  const tiles: [string, string, string][] = [
    [count(findings.filter((f) => f.status === "confirmed").length), "confirmed", href(["hypotheses"], { filter: "confirmed" })],
    [count(findings.length), "hypotheses tested", href(["hypotheses"])],
    [nulls ? `${count(nulls.n_confirmed)} of ${count(nulls.n_hypotheses)}` : nulls === null ? "not run" : "unknown", "confirmed in the null control", href(["hypotheses"], { of: "null" })],
    [count(manifest.n_texts), "texts decoded", href(["texts"])],
    [seconds.length ? duration(seconds.reduce((a, b) => a + b, 0)) : "unknown", "computing", href(["run"])],
    [money(costs.every(isNumber) ? costs[0] + costs[1] : null), "spent on judges", href(["judges"])],
  ];
  return (
    <ul class="tiles">
      {tiles.map(([value, label, link]) => <li><a href={link}><strong>{value}</strong> <span>{label}</span></a></li>)}
    </ul>
  );
}

const STATUSES = "Rejected: the interval leaves no room for an effect of interest in the claimed direction. Inconclusive: the texts cannot tell.";

export function HypothesesScreen({ context, of }: { context: Context; of: string }) {
  const isNull = of === "null";
  const findings: Finding[] = isNull ? context.verdict.null_findings : context.findings;
  const scale = effectScale(context);
  const columns: Column<Finding>[] = [
    { key: "claim", name: "Claim", value: (f) => f.statement, cell: (f) => isNull ? <Shown text={f.statement} /> : <a href={href(["h", f.id])} data-open dir="auto"><Shown text={f.statement} /></a> },
    { key: "status", name: "Status", value: (f) => f.status, cell: (f) => <span class={`status ${f.status}`}>{f.status}{f.incomplete && ", incomplete"}</span> },
    { key: "scope", name: "Prompts", value: (f) => f.scope ?? "all", cell: (f) => f.scope === null ? "all" : <Shown text={f.scope} /> },
    { key: "drawn", name: "Effect and 95% interval", value: null, cell: (f) => <Effect scale={scale} effect={f.effect} low={f.ci_low} high={f.ci_high} tone={isNull ? "muted" : tone(f)} width={180} /> },
    { key: "effect", name: "Effect", numeric: true, value: (f) => f.effect, cell: (f) => points(f.effect, "") },
    { key: "auc", name: "AUC", numeric: true, value: (f) => f.auc, cell: (f) => decimal(f.auc) },
    { key: "p", name: "Adj. p", numeric: true, value: (f) => f.p_adjusted, cell: (f) => pValue(f.p_adjusted) },
    { key: "n", name: "Texts", numeric: true, value: (f) => f.n_texts },
    { key: "cost", name: "Cost", numeric: true, value: (f) => f.cost_usd, cell: (f) => money(f.cost_usd) },
  ];
  return (
    <>
      <p class="eyebrow">{isNull ? "base against base" : "base against intervention"}</p>
      <Title>{isNull ? "Hypotheses of the null control" : "Hypotheses"}</Title>
      <p>{isNull
        ? <>Nothing differs here but the random stream, so every confirmed one is a false alarm. Their texts are not part of the run. <a href={href(["hypotheses"])}>The audit's own hypotheses</a></>
        : <>{STATUSES} <a href={href(["hypotheses"], { of: "null" })}>Those of the null control</a></>}</p>
      <DataTable caption="Strongest first" noun={["hypothesis", "hypotheses"]} columns={columns} rows={findings} sort="" />
    </>
  );
}
