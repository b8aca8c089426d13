// The first screen: what was found, how sure it is, and the same procedure where nothing changed.
import { Axis, Effect, Rug, fitScale, type Scale } from "../marks";
import { count, decimal, duration, interval, isNumber, money, pValue, percent, points } from "../numbers";
import { Missing, Spans, Title, tone, type Finding } from "../pieces";
import { href, useQuery } from "../route";
import { findings, manifest, verdict } from "../run";
import { visible } from "../text";
import { DataTable, figure, type Column } from "../table";
import { Eyebrow, Head, Region, Soft, Warning } from "../layout";

export function effectScale(): Scale {
  const all = [...findings, ...verdict.null_findings];
  return fitScale(all.flatMap((f) => [f.ci_low, f.ci_high]));
}

export function VerdictScreen() {
  const confirmed = findings.filter((f) => f.status === "confirmed");
  const nulls = verdict.null_findings as Finding[];
  const scale = effectScale();
  return (
    <>
      <Eyebrow><span>audit of <bdi>{visible(manifest.models[1])}</bdi></span></Eyebrow>
      <Title>{verdict.headline}</Title>
      <p class="lead"><Spans line={verdict.lead} /></p>
      {verdict.warnings.map((line: [string, string][]) => <Warning><Spans line={line} /></Warning>)}
      <Tiles />
      {confirmed.length > 0 ? (
        <Findings findings={confirmed} nulls={nulls} scale={scale} />
      ) : verdict.nothing ? <p><Spans line={verdict.nothing} /></p> : <Missing>Texts of both sides are needed before anything is tested.</Missing>}
      <p><Spans line={verdict.null} /></p>
      {findings.length > confirmed.length && (
        <p><a href={href(["hypotheses"], { filter: null })}>All {count(findings.length)} tested hypotheses</a>, with the {count(findings.length - confirmed.length)} that were not confirmed.</p>
      )}
    </>
  );
}

function Findings({ findings, nulls, scale }: { findings: Finding[]; nulls: Finding[]; scale: Scale }) {
  const minEffect = verdict.validate.min_effect;
  return (
    <section aria-labelledby="changed">
      <h2 id="changed">What changed</h2>
      <Region label="Confirmed findings">
        <table class="forest">
          <caption>Share of intervention texts minus share of base texts that meet each claim, in percentage points, with 95% intervals.
            {isNumber(minEffect) && minEffect > 0 && <> The band is the smallest effect of interest, ±{points(minEffect, "").slice(1)}.</>}</caption>
          <thead><tr><th scope="col" class="n">#</th><th scope="col">Finding</th><th scope="col"><span class="sr">Effect drawn</span><Axis scale={scale} /></th><th scope="col" class="n">Base</th><th scope="col" class="n">Intervention</th><th scope="col" class="n">Effect</th><th scope="col" class="n">Adj. p</th></tr></thead>
          <tbody>
            {findings.map((f, i) => (
              <tr data-row>
                <td class="n quiet">{i + 1}</td>
                <Head><a href={href(["h", f.id])} data-open dir="auto">{visible(f.statement)}</a></Head>
                <td><Effect scale={scale} effect={f.effect} low={f.ci_low} high={f.ci_high} tone={tone(f)} minEffect={minEffect} /></td>
                <td class="n">{percent(f.share_base)}</td>
                <td class="n">{percent(f.share_intervention)}</td>
                <td class="n"><strong>{points(f.effect, "")}</strong><br /><Soft>{interval(f.ci_low, f.ci_high)}</Soft></td>
                <td class="n">{pValue(f.p_adjusted)}</td>
              </tr>
            ))}
            {nulls.length > 0 && (
              <tr class="null">
                <td />
                <Head>Null control: base against base, {count(nulls.length)} hypotheses tested, {count(nulls.filter((f) => f.status === "confirmed").length)} confirmed</Head>
                <td><Rug scale={scale} effects={nulls.map((f) => f.effect)} /></td>
                <td /><td />
                <td class="n">{points(extreme(nulls), "")}<br /><Soft>largest</Soft></td>
                <td />
              </tr>
            )}
          </tbody>
        </table>
      </Region>
    </section>
  );
}

/** The null effect that is furthest from zero. */
export function extreme(nulls: Finding[]): number | null {
  const known = nulls.map((f) => f.effect).filter(isNumber);
  return known.length ? known.reduce((a, b) => (Math.abs(b) > Math.abs(a) ? b : a)) : null;
}

function Tiles() {
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

export function HypothesesScreen() {
  const isNull = useQuery().get("of") === "null";
  const shown: Finding[] = isNull ? verdict.null_findings : findings;
  const scale = effectScale();
  const columns: Column<Finding>[] = [
    { key: "claim", name: "Claim", value: (f) => f.statement, cell: (f) => isNull ? visible(f.statement) : <a href={href(["h", f.id])} data-open dir="auto">{visible(f.statement)}</a> },
    { key: "status", name: "Status", value: (f) => f.status, cell: (f) => <span class={`status ${f.status}`}>{f.status}{f.incomplete && ", incomplete"}</span> },
    { key: "scope", name: "Prompts", value: (f) => f.scope ?? "all", cell: (f) => f.scope === null ? "all" : visible(f.scope) },
    { key: "drawn", name: "Effect and 95% interval", value: null, cell: (f) => <Effect scale={scale} effect={f.effect} low={f.ci_low} high={f.ci_high} tone={isNull ? "muted" : tone(f)} width={180} /> },
    { key: "effect", name: "Effect", numeric: true, value: (f) => f.effect, cell: (f) => points(f.effect, "") },
    figure("auc", "AUC", (f) => f.auc, decimal),
    figure("p", "Adj. p", (f) => f.p_adjusted, pValue),
    figure("n", "Texts", (f) => f.n_texts),
    figure("cost", "Cost", (f) => f.cost_usd, money),
  ];
  return (
    <>
      <Eyebrow>{isNull ? "base against base" : "base against intervention"}</Eyebrow>
      <Title>{isNull ? "Hypotheses of the null control" : "Hypotheses"}</Title>
      <p>{isNull
        ? <>Nothing differs here but the random stream, so every confirmed one is a false alarm. Their texts are not part of the run. <a href={href(["hypotheses"])}>The audit's own hypotheses</a></>
        : <>{STATUSES} <a href={href(["hypotheses"], { of: "null" })}>Those of the null control</a></>}</p>
      <DataTable caption="Strongest first" noun={["hypothesis", "hypotheses"]} columns={columns} rows={shown} sort="" />
    </>
  );
}
