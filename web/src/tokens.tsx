// A text token by token: what each of them is worth, with its exact value at hand.
import { useQuery, setState, numberOf } from "./route";
import type { Tokens } from "./pack";
import { percent, plural, signed } from "./numbers";
import { visible } from "./text";
import { Svg } from "./marks";
import { Region, Soft } from "./layout";

type Look = { class: string; style?: Record<string, string> };

/** The style of a swatch or token in one of the page's colours. */
export const coloured = (name: string) => ({ "--c": `var(--${name})` });

const STEPS = [0.1, 0.5, 1, 2, 4];

/** How a difference is shown: in five steps to either side, strong ones for the base underlined. */
function stepOf(nats: number): Look {
  const step = STEPS.filter((bound) => Math.abs(nats) >= bound).length;
  const isLess = nats < 0;
  return { class: isLess && step > 2 ? "less" : "", style: step ? coloured(`${isLess ? "less" : "more"}-${step}`) : undefined };
}

/** The text cut at its tokens. */
export function cutTokens(text: string, lengths: ArrayLike<number>): string[] {
  let at = 0;
  return Array.from(lengths, (n) => text.slice(at, (at += n)));
}

/** How much likelier each token is under the intervention than under the base. */
export function DifferenceText({ text, tokens }: { text: string; tokens: Tokens }) {
  return <><TokenText text={text} lengths={tokens.lengths} values={tokens.nats} draw={stepOf} say={(v) => `${signed(v)} nats, ${likelier(v)}`} /><TokenLegend /></>;
}

interface TokenProps {
  text: string;
  lengths: ArrayLike<number>;
  values: ArrayLike<number>;
  draw: (value: number) => Look;
  say: (value: number) => string;
}

export function TokenText({ text, lengths, values, draw, say }: TokenProps) {
  const query = useQuery();
  const pieces = cutTokens(text, lengths);
  const n = pieces.length;
  const chosen = query.has("token") ? Math.min(n - 1, Math.max(0, numberOf(query, "token", 0))) : null;
  const move = (event: KeyboardEvent): void => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    setState({ token: Math.min(n - 1, Math.max(0, (chosen ?? (by > 0 ? -1 : n)) + by)) }, { replace: true });
  };
  return (
    <>
      <div class="tokens" tabIndex={0} role="group" aria-label="Tokens of the text; arrow keys move" dir="auto" onKeyDown={move}>
        {pieces.map((piece, i) => {
          const look = draw(values[i]);
          return (
            <span class={`token ${look.class} ${i === chosen ? "chosen" : ""}`} style={look.style} title={say(values[i])} onClick={() => setState({ token: i }, { replace: true })}>
              {piece === "" ? <i class="hidden">{i === n - 1 ? "end" : "∅"}</i> : visible(piece.replace(/\n/g, "↵\n"))}
            </span>
          );
        })}
      </div>
      <p class="readout" role="status">{chosen === null ? "Point at a token, or move with the arrow keys, for its exact value." : <>
        Token {chosen + 1} of {n}: <q>{visible(pieces[chosen] || (chosen === n - 1 ? "end of text" : ""))}</q>{" "}
        {say(values[chosen])}
      </>}</p>
    </>
  );
}

function likelier(nats: number): string {
  if (Math.abs(nats) < 0.005) return "equally likely under both models";
  const times = Math.exp(Math.abs(nats));
  const shown = times < 1.5 ? `${percent(times - 1, 0)} likelier` : `${times < 10 ? times.toFixed(1) : times < 1e4 ? Math.round(times).toLocaleString("en-US") : "over 10,000"} times as likely`;
  return `${shown} under the ${nats > 0 ? "intervention" : "base"}`;
}

function TokenLegend() {
  return (
    <p class="legend">
      <span>likelier under the base</span>
      <span class="swatches" aria-hidden="true">{[-4, -1, -0.1, 0, 0.1, 1, 4].map((v) => { const look = stepOf(v); return <span class={`token ${look.class}`} style={look.style}>{"\u00a0\u00a0"}</span>; })}</span>
      <span>likelier under the intervention</span>
      <Soft>steps at {STEPS.join(", ")} nats</Soft>
    </p>
  );
}

/** One bar per token, up where the intervention finds it likelier. */
export function TokenBars({ tokens }: { tokens: Tokens }) {
  const n = tokens.nats.length;
  const [width, height] = [Math.min(860, Math.max(200, n * 8)), 70];
  const top = Math.max(1, ...Array.from(tokens.nats, Math.abs));
  const step = width / n;
  const total = tokens.nats.reduce((a, b) => a + b, 0);
  return (
    <Region label="Difference per token">
      <Svg width={width} height={height}
        label={`Log-probability difference of ${plural(n, "token")}, ${signed(total)} nats in all`}>
        <line class="zero" x1={0} x2={width} y1={height / 2} y2={height / 2} />
        {Array.from(tokens.nats, (v, i) => {
          const h = (Math.abs(v) / top) * (height / 2 - 2);
          return <rect class={`bar ${v > 0 ? "intervention" : "base"}`} x={i * step + 0.5} width={Math.max(1, step - 1)} y={v > 0 ? height / 2 - h : height / 2} height={h} />;
        })}
      </Svg>
      <figcaption>Log-probability under the intervention minus under the base, token by token; {signed(total)} nats in all, axis to ±{top.toFixed(1)}.</figcaption>
    </Region>
  );
}
