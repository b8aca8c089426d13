// A person judges texts without knowing their side or what the judges said.
import { useState } from "preact/hooks";
import { Axis, Effect, fitScale } from "../marks";
import { count, percent, points } from "../numbers";
import { readScore, type Part } from "../pack";
import { Failure, Missing, Quote, Title, Waiting, type Finding } from "../pieces";
import { downloadLines } from "../download";
import { changed } from "../route";
import { manifest } from "../run";
import { keep, recall } from "../storage";
import { visible } from "../text";
import { useRows } from "../use";
import { Eyebrow, Head, Note } from "../layout";

const N_TEXTS = 20;
type Answer = "yes" | "no" | "unsure";

/** The same texts in the same order for everyone: half of each side, mixed by a fixed generator. */
export function drawBlind(sides: ArrayLike<number>, seed: string, n = N_TEXTS): number[] {
  const random = generator(seed);
  const all = Array.from(sides, (side, i) => ({ side, i, at: random() })).sort((a, b) => a.at - b.at);
  const half = (side: number): number[] => all.filter((one) => (one.side ? 1 : 0) === side).slice(0, n / 2).map((one) => one.i);
  const drawn = [...half(0), ...half(1)].map((i) => ({ i, at: random() }));
  return drawn.sort((a, b) => a.at - b.at).map((one) => one.i);
}

/** Numbers in [0, 1): a 32-bit generator (mulberry32), seeded by a text. */
function generator(seed: string): () => number {
  let state = [...seed].reduce((a, c) => (Math.imul(a, 31) + c.charCodeAt(0)) | 0, 7);
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

export function BlindCheck({ finding, part }: { finding: Finding; part: Part }) {
  const places = drawBlind(part.columns.side, `${manifest.run}/${finding.id}`);
  const store = `whatchanged/blind/${manifest.run}/${manifest.created_utc}/${finding.id}`;
  const [answers, setAnswers] = useState<Record<number, Answer>>(() => JSON.parse(recall(store) ?? "{}"));
  const found = useRows(places.map((j) => part.columns.row[j]));
  const at = places.findIndex((j) => !answers[part.columns.row[j]]);
  const leave = changed({ blind: null });
  const answer = (row: number, said: Answer): void => {
    const next = { ...answers, [row]: said };
    keep(store, JSON.stringify(next));
    setAnswers(next);
  };
  const text = found.rows[at];
  return (
    <>
      <Eyebrow>blind check <a href={leave}>back to the hypothesis</a></Eyebrow>
      <Title dir="auto">{visible(finding.criterion)}</Title>
      <Note>Does this hold of the reply? You see neither which model wrote it nor what the judges said. Your answers stay in this browser until you save them.</Note>
      {found.errors.map((error) => <Failure error={error} />)}
      {places.length === 0 && <Missing>No text was judged, so there is none to check.</Missing>}
      {at >= 0 && (
        <section aria-label="Text to check">
          <p role="status">Text {at + 1} of {places.length}</p>
          <progress max={places.length} value={at}>{at} of {places.length}</progress>
          {text ? <Quote row={text} isBlind /> : found.isComplete ? <Missing>This text cannot be read.</Missing> : <Waiting what="a text" />}
          <p class="answers">
            {([["yes", "1"], ["no", "2"], ["unsure", "3"]] as const).map(([said, key]) => (
              <button data-key={key} onClick={() => answer(part.columns.row[places[at]], said)}>{said} <kbd>{key}</kbd></button>
            ))}
          </p>
        </section>
      )}
      {at < 0 && places.length > 0 && <Outcome finding={finding} part={part} places={places} answers={answers}
        again={() => { keep(store, "{}"); setAnswers({}); }} />}
    </>
  );
}

function Outcome({ finding, part, places, answers, again }: {
  finding: Finding; part: Part; places: number[]; answers: Record<number, Answer>; again: () => void;
}) {
  const rows = places.map((j) => {
    const judge = readScore(part.columns.score_0[j]);
    return { row: part.columns.row[j], side: part.columns.side[j] ? "intervention" : "base", said: answers[part.columns.row[j]], judge: judge === null ? null : judge >= 0.5 };
  });
  const clear = rows.filter((r) => r.said !== "unsure");
  const share = (side: string): number => {
    const own = clear.filter((r) => r.side === side);
    return own.filter((r) => r.said === "yes").length / own.length;
  };
  const scored = clear.filter((r) => r.judge !== null);
  const same = scored.filter((r) => r.judge === (r.said === "yes")).length;
  const effect = share("intervention") - share("base");
  const scale = fitScale([finding.ci_low, finding.ci_high, effect]);
  return (
    <section aria-label="Outcome">
      <p class="lead" role="status">You agree with the judges on {count(same)} of {count(scored.length)} texts.</p>
      <table class="mini">
        <caption>You said yes to {percent(share("base"), 0)} of the base texts and {percent(share("intervention"), 0)} of the intervention texts</caption>
        <tbody>
          <tr><Head>you</Head><td><Effect scale={scale} effect={effect} low={null} high={null} tone="muted" /></td><td class="n">{points(effect)}</td></tr>
          <tr><Head>judges</Head><td><Effect scale={scale} effect={finding.effect} low={finding.ci_low} high={finding.ci_high} tone="muted" /></td><td class="n">{points(finding.effect)}</td></tr>
          <tr aria-hidden="true"><td /><td><Axis scale={scale} /></td><td /></tr>
        </tbody>
      </table>
      <p class="answers">
        <button data-key="e" onClick={() => downloadLines(`blind-${finding.id}.jsonl`, rows.map((r) => ({ run: manifest.run, hypothesis: finding.id, ...r })))}>Save the answers <kbd>e</kbd></button>
        <button onClick={again}>Start again</button>
      </p>
    </section>
  );
}
