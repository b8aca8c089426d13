// The run itself: how far it is, where time went, what it was made with.
import { Durations } from "../marks";
import { count, decimal, duration, isNumber, percent, size } from "../numbers";
import { Facts, Grid, Missing, Numbers, Title, pending } from "../pieces";
import type { News } from "../live";
import { useLive } from "../live";
import type { ComponentChildren } from "preact";
import { manifest, verdict } from "../run";
import { plain, visible } from "../text";
import { usePart } from "../use";
import { Eyebrow, Head, Note, Warning } from "../layout";

export function RunScreen() {
  const part = usePart("run");
  return (
    <>
      <Eyebrow>run</Eyebrow>
      <Title>{visible(manifest.run)}</Title>
      {pending(part, "the run")}
      {part.value && <Known values={part.value.values} />}
    </>
  );
}

function Known({ values }: { values: any }) {
  const { summary, config, stages, files } = values;
  const [base, intervention] = manifest.models;
  const isAudit = !verdict.saes;
  return (
    <>
      <Facts facts={([
        [isAudit ? "base" : "model", visible(base)], ...(intervention ? [["intervention", visible(intervention)]] : []),
        ["finished", manifest.created_utc?.replace("T", " ").replace("+00:00", " UTC") ?? "unknown"],
        ["seed", count(summary.seed)], ["peak memory", size(summary.peak_memory_bytes)],
        ...(isAudit ? [["failed items", count(summary.failed_items)], ["sampling stopped", visible(summary.stop_reason ?? "unknown")], ["texts cut by the encoder's limit", count(summary.n_truncated)]] : []),
      ]) as [string, ComponentChildren][]} />
      <Durations seconds={summary.seconds ?? {}} />
      {isAudit && <Decoded decode={summary.decode ?? {}} />}
      <Rounds rounds={summary.rounds ?? []} />
      {(summary.stages ?? []).length > 0 && (
        <section><h2>What was left out, and at what risk</h2>
          <ul>{summary.stages.map((s: any) => <li><strong>{s.stage}</strong>: {visible(s.reason)}</li>)}</ul></section>
      )}
      <section>
        <h2>What this run does not hold</h2>
        <ul>{Object.entries(manifest.sections).map(([name, why]) => why && <li><strong>{name === "saes" ? "Sparse autoencoders" : "Component activations"}</strong>: {visible(why)}</li>)}</ul>
      </section>
      <section>
        <h2>Reproduce it</h2>
        <p>Save the configuration as <code>config.yaml</code> and run <code>whatchanged {isAudit ? "run" : "compare-saes"} config.yaml</code>.</p>
        <details><summary>Configuration</summary><pre tabIndex={0}><code>{plain(config)}</code></pre></details>
        <details><summary>Versions</summary><table><caption class="sr">Versions</caption><tbody>{Object.entries(summary.versions ?? {}).map(([name, version]) => <tr><Head>{visible(name)}</Head><td>{visible(String(version))}</td></tr>)}</tbody></table></details>
        <details><summary>Files of the run, and the keys of its stages</summary>
          <table><caption class="sr">Files</caption><tbody>{Object.entries(files).map(([name, n]) => <tr><Head>{visible(name)}</Head><td class="n">{size(n)}</td></tr>)}</tbody></table>
          <table><caption class="sr">Stages</caption><tbody>{Object.entries(stages).map(([name, key]) => <tr><Head>{visible(name)}</Head><td><code>{visible(String(key))}</code></td></tr>)}</tbody></table>
        </details>
      </section>
    </>
  );
}

function Decoded({ decode }: { decode: Record<string, any> }) {
  const names: Record<string, string> = { null: "base again (null control)" };
  return (
    <Grid caption="Texts decoded" head={["Texts of", "#Decoded", "#From cache", "#Failed", "#Tokens"]}>
      {["base", "intervention", "null"].filter((side) => decode[side]).map((side) => (
        <tr><Head>{names[side] ?? side}</Head><Numbers of={["n_decoded", "n_cached", "n_failed", "n_tokens"].map((n) => count(decode[side][n]))} /></tr>
      ))}
    </Grid>
  );
}

function Rounds({ rounds }: { rounds: any[] }) {
  if (!rounds.length) return null;
  const shares = (value: unknown): string => (isNumber(value) ? percent(value) : "");
  return (
    <Grid caption="Sampling rounds" head={["#Round", "#Texts per side", "#Labels kept", "#Differences resolved", "#Silhouette"]}>
      {rounds.map((r) => <tr><Numbers of={[count(r.round), count(r.n_texts_per_side), shares(r.label_agreement), shares(r.share_resolved), decimal(r.silhouette)]} /></tr>)}
    </Grid>
  );
}

/** What there is to see before the results are there. */
export function Unfinished({ news }: { news: News }) {
  const { staleSince } = useLive();
  const total = Object.values(news.seconds).reduce((a, b) => a + b, 0);
  return (
    <>
      <Eyebrow>run</Eyebrow>
      <Title>{news.state === "in progress" ? "This run is in progress" : "This run was interrupted"}</Title>
      <p class="lead" role="status">{news.stage ? <>Stage <strong>{visible(news.stage)}</strong>{news.detail && <>: {visible(news.detail)}</>}.</> : "No stage has begun yet."}</p>
      {news.state === "interrupted" && <Warning>Run the same command again: finished work is not repeated.</Warning>}
      <Facts facts={[["started", news.started_utc?.slice(0, 19).replace("T", " ") ?? "unknown"], ["last news", news.updated_utc?.slice(0, 19).replace("T", " ") ?? "none"], ["computing", duration(total)]]} />
      {Object.keys(news.seconds).length > 0 ? <Durations seconds={news.seconds} /> : <Missing>No stage has ended yet.</Missing>}
      <Note>{staleSince ? `The server has not answered since ${staleSince.toLocaleTimeString()}.` : "Findings appear here by themselves when the run has ended: a run has none before its tests are done."}</Note>
    </>
  );
}
