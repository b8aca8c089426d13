"""Runs of words and the texts that hold them, counted level by level.

A run of n words is looked at only where both runs of n - 1 words inside it are frequent enough
(the Apriori rule), so that five levels cost little more than one. Runs never cross the end of a
sentence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from whatchanged.models.wording import read_wording

IntArray = NDArray[np.int64]
END = -1


@dataclass(frozen=True, slots=True)
class TokenStream:
    """All texts as one row of word ids `(n_tokens,)`, `END` after each sentence; `rows (n_tokens,)`
    is the text of each token, and `vocabulary[id]` its word."""

    ids: IntArray
    rows: IntArray
    vocabulary: tuple[str, ...]
    n_texts: int


@dataclass(frozen=True, slots=True)
class NgramLevel:
    """The frequent runs of `length` words.

    `starts (n_occurrences,)` are positions in the stream and `grams` their run ids in
    `0 .. n_grams - 1`. The texts of run g are `texts[bounds[g]:bounds[g + 1]]`, ascending.
    """

    length: int
    starts: IntArray
    grams: IntArray
    texts: IntArray
    bounds: IntArray

    @property
    def n_grams(self) -> int:
        """Number of runs."""
        return len(self.bounds) - 1

    def count_texts(self, marked: NDArray[np.bool_]) -> IntArray:
        """How many `marked (n_texts,)` texts hold each run, `(n_grams,)`."""
        sums = np.concatenate([[0], np.cumsum(marked[self.texts])])
        return np.asarray(sums[self.bounds[1:]] - sums[self.bounds[:-1]], dtype=np.int64)

    def count_pairs(self, n_pairs: int) -> IntArray:
        """How many pairs hold each run on both sides, `(n_grams,)`. The first `n_pairs` texts are
        one side's, the next `n_pairs` the other's, in the same order."""
        gram_of = np.repeat(np.arange(self.n_grams), np.diff(self.bounds))
        held = np.sort(gram_of * n_pairs + self.texts % n_pairs)
        twice = held[1:][held[1:] == held[:-1]]
        return np.bincount(twice // n_pairs, minlength=self.n_grams)

    def digest_texts(self, numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """One number per run, equal where the sets of texts are equal: the sum of the texts' random
        `numbers (n_texts,)`, modulo 2^64."""
        sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(numbers[self.texts])])
        return np.asarray(sums[self.bounds[1:]] - sums[self.bounds[:-1]], dtype=np.uint64)

    def first_starts(self) -> IntArray:
        """The position of the first occurrence of each run, `(n_grams,)`."""
        _, first = np.unique(self.grams, return_index=True)
        return np.asarray(self.starts[first], dtype=np.int64)


def read_stream(texts: Sequence[str]) -> TokenStream:
    """The words of all texts in one row."""
    sentences = [read_wording(text).sentences for text in texts]
    ids_of: dict[str, int] = {}
    words = chain.from_iterable((*s, "") for parts in sentences for s in parts)
    ids = np.fromiter(
        (ids_of.setdefault(word, len(ids_of)) if word else END for word in words), dtype=np.int64
    )
    lengths = [sum(len(s) + 1 for s in parts) for parts in sentences]
    rows = np.repeat(np.arange(len(texts), dtype=np.int64), lengths)
    return TokenStream(ids, rows, tuple(ids_of), len(texts))


def count_ngrams(stream: TokenStream, *, max_words: int, min_texts: int) -> list[NgramLevel]:
    """The runs of 1 to `max_words` words that at least `min_texts` texts hold, a level per length.

    Levels without runs are left out.
    """
    levels: list[NgramLevel] = []
    starts = np.flatnonzero(stream.ids != END)
    codes = stream.ids[starts]
    while len(levels) < max_words and len(starts):
        level = _count_level(stream, len(levels) + 1, starts, codes, min_texts)
        if level.n_grams == 0:
            break
        levels.append(level)
        gram_at = np.full(len(stream.ids) + 1, END, dtype=np.int64)
        gram_at[level.starts] = level.grams
        starts = level.starts[gram_at[level.starts + 1] != END]
        codes = gram_at[starts] * level.n_grams + gram_at[starts + 1]
    return levels


def find_run(stream: TokenStream, word_ids: IntArray) -> IntArray:
    """The positions at which the words occur in a row, ascending."""
    last = len(stream.ids) - len(word_ids) + 1
    if last <= 0:
        return np.empty(0, dtype=np.int64)
    starts = np.flatnonzero(stream.ids[:last] == word_ids[0])
    for offset, word_id in enumerate(word_ids[1:], start=1):
        starts = starts[stream.ids[starts + offset] == word_id]
    return starts


def mark_texts(stream: TokenStream, starts: IntArray) -> NDArray[np.bool_]:
    """Which texts hold one of the positions, `(n_texts,)`."""
    marked = np.zeros(stream.n_texts, dtype=np.bool_)
    marked[stream.rows[starts]] = True
    return marked


def extend_run(
    stream: TokenStream, word_ids: IntArray, *, min_share: float, max_words: int
) -> IntArray:
    """The longest run around the words that at least `min_share` of their texts hold."""
    starts = find_run(stream, word_ids)
    enough = min_share * int(mark_texts(stream, starts).sum())
    padded = np.concatenate([[END], stream.ids, [END]])
    length = len(word_ids)
    while length < max_words:
        after = _commonest(stream, starts, padded[starts + length + 1], enough)
        if after is not None:
            starts, length = after, length + 1
            continue
        before = _commonest(stream, starts, padded[starts], enough)
        if before is None:
            break
        starts, length = before - 1, length + 1
    return np.asarray(stream.ids[starts[0] : starts[0] + length], dtype=np.int64)


def _count_level(
    stream: TokenStream, length: int, starts: IntArray, codes: IntArray, min_texts: int
) -> NgramLevel:
    _, grams = np.unique(codes, return_inverse=True)
    pairs = np.unique(grams * stream.n_texts + stream.rows[starts])
    gram_of_pair, text_of_pair = np.divmod(pairs, stream.n_texts)
    n_texts = np.bincount(gram_of_pair)
    kept = n_texts >= min_texts
    new_id = np.cumsum(kept) - 1
    frequent = kept[grams]
    return NgramLevel(
        length=length,
        starts=starts[frequent],
        grams=new_id[grams[frequent]],
        texts=text_of_pair[kept[gram_of_pair]],
        bounds=np.concatenate([[0], np.cumsum(n_texts[kept])]),
    )


def _commonest(
    stream: TokenStream, starts: IntArray, neighbours: IntArray, enough: float
) -> IntArray | None:
    """The starts whose neighbour is the commonest one, if at least `enough` texts hold those."""
    inside = neighbours[neighbours != END]
    if len(inside) == 0:
        return None
    with_it = starts[neighbours == np.bincount(inside).argmax()]
    return with_it if int(mark_texts(stream, with_it).sum()) >= enough else None
