// The run itself: how far it is, where time went, what it was made with.
import { Durations } from "../marks";
import { count, decimal, duration, isNumber, percent, size } from "../numbers";
import { Facts, Grid, Missing, Numbers, Title, pending, type Context } from "../pieces";
import type { News } from "../live";
import { useLive } from "../live";
import { plain, Shown } from "../text";
import { usePart } from "../use";

export function RunScreen({ context }: { context: Context }) {
  const part = usePart("run");
  const { manifest } = context;
  return (
    <>
      <p class="eyebrow">run</p>
      <Title><Shown text={manifest.run} /></Title>
      {pending(part, "the run")}
      {part.value && <Known context={context} values={part.value.values} />}
    </>
  );
}

function Known({ context, values }: { context: Context; values: any }) {
  const { summary, config, stages, files } = values;
  const { manifest } = context;
  const [base, intervention] = manifest.models;
  return (
    <>
      <Facts facts={[
        ["base", <Shown text={base} />], ["intervention", <Shown text={intervention} />],
        ["finished", manifest.created_utc?.replace("T", " ").replace("+00:00", " UTC") ?? "unknown"],
        ["seed", count(summary.seed)], ["failed items", count(summary.failed_items)],
        ["peak memory", size(summary.peak_memory_bytes)],
        ["sampling stopped", <Shown text={summary.stop_reason ?? "unknown"} />],
        ["texts cut by the encoder's limit", count(summary.n_truncated)],
      ]} />
      <Durations seconds={summary.seconds ?? {}} />
      <Decoded decode={summary.decode ?? {}} />
      <Rounds rounds={summary.rounds ?? []} />
      {(summary.stages ?? []).length > 0 && (
        <section><h2>What was left out, and at what risk</h2>
          <ul>{summary.stages.map((s: any) => <li><strong>{s.stage}</strong>: <Shown text={s.reason} /></li>)}</ul></section>
      )}
      <section>
        <h2>What this run does not hold</h2>
        <ul>{Object.entries(manifest.sections).map(([name, why]) => why && <li><strong>{name === "saes" ? "Sparse autoencoders" : "Component activations"}</strong>: <Shown text={why} /></li>)}</ul>
      </section>
      <section>
        <h2>Reproduce it</h2>
        <p>Save the configuration as <code>audit.yaml</code> and run <code>whatchanged run audit.yaml</code>.</p>
        <details><summary>Configuration</summary><pre tabIndex={0}><code>{plain(config)}</code></pre></details>
        <details><summary>Versions</summary><table><caption class="sr">Versions</caption><tbody>{Object.entries(summary.versions ?? {}).map(([name, version]) => <tr><th scope="row"><Shown text={name} /></th><td><Shown text={String(version)} /></td></tr>)}</tbody></table></details>
        <details><summary>Files of the run, and the keys of its stages</summary>
          <table><caption class="sr">Files</caption><tbody>{Object.entries(files).map(([name, n]) => <tr><th scope="row"><Shown text={name} /></th><td class="n">{size(n)}</td></tr>)}</tbody></table>
          <table><caption class="sr">Stages</caption><tbody>{Object.entries(stages).map(([name, key]) => <tr><th scope="row"><Shown text={name} /></th><td><code><Shown text={String(key)} /></code></td></tr>)}</tbody></table>
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
        <tr><th scope="row">{names[side] ?? side}</th><Numbers of={["n_decoded", "n_cached", "n_failed", "n_tokens"].map((n) => count(decode[side][n]))} /></tr>
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
      <p class="eyebrow">run</p>
      <Title>{news.state === "in progress" ? "This audit is in progress" : "This audit was interrupted"}</Title>
      <p class="lead" role="status">{news.stage ? <>Stage <strong><Shown text={news.stage} /></strong>{news.detail && <>: <Shown text={news.detail} /></>}.</> : "No stage has begun yet."}</p>
      {news.state === "interrupted" && <p class="callout warning">Run the same command again: finished work is not repeated.</p>}
      <Facts facts={[["started", news.started_utc?.slice(0, 19).replace("T", " ") ?? "unknown"], ["last news", news.updated_utc?.slice(0, 19).replace("T", " ") ?? "none"], ["computing", duration(total)]]} />
      {Object.keys(news.seconds).length > 0 ? <Durations seconds={news.seconds} /> : <Missing>No stage has ended yet.</Missing>}
      <p class="quiet">{staleSince ? `The server has not answered since ${staleSince.toLocaleTimeString()}.` : "Findings appear here by themselves when the run has ended: a run has none before its tests are done."}</p>
    </>
  );
}
