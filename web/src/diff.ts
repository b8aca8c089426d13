// Where two texts part, and which words each has that the other has not.

/** How many UTF-16 code units two texts share at their start; never half of a character. */
export function commonStart(a: string, b: string): number {
  const n = Math.min(a.length, b.length);
  let i = 0;
  while (i < n && a[i] === b[i]) i++;
  return i > 0 && /[\ud800-\udbff]/.test(a[i - 1]) ? i - 1 : i;
}

export interface Piece {
  text: string;
  isOnly: boolean;
}

const MAX_WORDS = 2000;

/** Both texts in pieces; what only one has is marked (longest common subsequence of words). */
export function diffWords(a: string, b: string): [Piece[], Piece[]] {
  const [x, y] = [words(a), words(b)];
  // The table below grows with the product: beyond this, only the common start is told.
  if (x.length > MAX_WORDS || y.length > MAX_WORDS) {
    const n = commonStart(a, b);
    return [[{ text: a.slice(0, n), isOnly: false }, { text: a.slice(n), isOnly: true }],
      [{ text: b.slice(0, n), isOnly: false }, { text: b.slice(n), isOnly: true }]];
  }
  const width = y.length + 1;
  const best = new Uint16Array((x.length + 1) * width);
  for (let i = x.length - 1; i >= 0; i--)
    for (let j = y.length - 1; j >= 0; j--)
      best[i * width + j] = x[i] === y[j] ? best[(i + 1) * width + j + 1] + 1
        : Math.max(best[(i + 1) * width + j], best[i * width + j + 1]);
  const [left, right]: [Piece[], Piece[]] = [[], []];
  let [i, j] = [0, 0];
  while (i < x.length || j < y.length) {
    if (i < x.length && j < y.length && x[i] === y[j]) {
      add(left, x[i++], false);
      add(right, y[j++], false);
    } else if (j === y.length || (i < x.length && best[(i + 1) * width + j] >= best[i * width + j + 1])) add(left, x[i++], true);
    else add(right, y[j++], true);
  }
  return [left, right];
}

function words(text: string): string[] {
  return text.match(/\s+|[^\s]+/gu) ?? [];
}

function add(pieces: Piece[], text: string, isOnly: boolean): void {
  const last = pieces[pieces.length - 1];
  if (last && last.isOnly === isOnly) last.text += text;
  else pieces.push({ text, isOnly });
}
