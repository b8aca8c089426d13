// The judges: what they cost, how often they agree, and where they do not.
import { Calibration } from "../marks";
import { count, interval, decimal, isNumber, money, percent } from "../numbers";
import { Failure, Grid, Missing, Numbers, Quote, Title, pending } from "../pieces";
import { href, useQuery } from "../route";
import { findings } from "../run";
import { paged, Pages } from "../table";
import { visible } from "../text";
import { usePart, useRows } from "../use";
import { Head, Soft } from "../layout";

export function JudgesScreen() {
  const part = usePart("judges");
  if (!part.value) return pending(part, "the judges", "Judges");
  const { tiers, calls, agreement, calibration, disagreements, max_disagreements } = part.value.values;
  const audit = calls?.audit;
  return (
    <>
      <Title>Judges</Title>
      {isNumber(audit?.n_audited) && audit.n_audited > 0 && (
        <p class="lead">The expensive judge saw a random {count(audit.n_audited)} of the cheap judge's decisions again and disagreed with {count(audit.n_disagree)}: {percent(audit.rate)} (95% interval {interval(audit.ci_low, audit.ci_high, percent)}).</p>
      )}
      {tiers.length === 0 ? <Missing>This run holds no verdicts: no hypothesis was tested.</Missing> : (
        <Grid caption="Judgements on the texts of this audit; calls and cost are of the null control as well" head={["Tier", "Judge", "#Judgements", "#Not scored", "#Calls", "#From cache", "#Cost", "#Per call"]}>
            {tiers.map((t: any) => {
              const own = calls?.[t.tier];
              const failed = Object.entries(t.outcomes).filter(([name, n]) => name !== "answered" && n) as [string, number][];
              return (
                <tr>
                  <Head>{t.tier}</Head><td>{t.judges.map((j: string) => <Judge name={j} />)}</td>
                  <Numbers of={[count(t.n), failed.map(([name, n]) => `${count(n)} ${name.replace("_", " ")}`).join(", ") || "0", count(own?.n_calls), count(own?.n_cached), money(own?.cost_usd),
                    money(isNumber(own?.cost_usd) && own.n_calls ? own.cost_usd / own.n_calls : own?.cost_usd)]} />
                </tr>
              );
            })}
        </Grid>
      )}
      {agreement.map((a: any) => (
        <section>
          <h2>Agreement of the {a.of} and the {a.against} judge</h2>
          <p>Both scored {count(a.n)} texts and agree on {a.n ? percent(a.n_same / a.n) : "none"}{isNumber(a.kappa) && <>, kappa {decimal(a.kappa)}</>}. These are the texts that the {a.of} judge could not decide, and a random audit of the others: agreement over all texts is higher.</p>
          <div class="pair-of-figures">
            <table class="matrix">
              <caption>Texts by what each judge says of the claim</caption>
              <thead><tr><td /><th scope="col">{a.against}: not met</th><th scope="col">{a.against}: met</th></tr></thead>
              <tbody>{["not met", "met"].map((said, i) => <tr><Head>{a.of}: {said}</Head><Numbers of={a.cells[i].map(count)} /></tr>)}</tbody>
            </table>
            {calibration.filter((c: any) => c.of === a.of && c.against === a.against).map((c: any) => (
              <figure><Calibration bins={c.bins} /><figcaption>Across: score of the {c.of} judge. Up: share of these texts that meet the claim for the {c.against} judge, with 95% intervals. On the dashed line, a score would be a probability.</figcaption></figure>
            ))}
          </div>
        </section>
      ))}
      {agreement.length > 0 && <Disagreements all={disagreements} max={max_disagreements} />}
    </>
  );
}

/** A judge's identity can be long: its first words, and all of it on demand. */
function Judge({ name }: { name: string }) {
  const short = name.split(" {")[0];
  if (short === name) return visible(name);
  return <details class="inline"><summary>{visible(short)}</summary><code>{visible(name)}</code></details>;
}

const PER_PAGE = 10;

function Disagreements({ all, max }: { all: any[]; max: number }) {
  const query = useQuery();
  const { page, n_pages, shown } = paged(query, all, PER_PAGE);
  const found = useRows(shown.map((d) => d.row));
  return (
    <section>
      <h2>Where they disagree <Soft>{count(all.length)}{all.length >= max && " shown"}</Soft></h2>
      {all.length === 0 && <Missing>Nowhere: they agree on every text that both scored.</Missing>}
      {found.errors.map((error) => <Failure error={error} />)}
      <div class="texts">
        {shown.map((d, i) => {
          const row = found.rows[i];
          const finding = findings.find((f) => f.id === d.finding);
          return row && finding && (
            <div data-row>
              <p><a href={href(["h", finding.id])} dir="auto">{visible(finding.criterion)}</a></p>
              <Quote row={row} link={{ h: finding.id }} note={<span>{d.of} {decimal(d.score_of)}, {d.against} {decimal(d.score_against)}</span>} />
            </div>
          );
        })}
      </div>
      <Pages page={page} n_pages={n_pages} />
    </section>
  );
}
