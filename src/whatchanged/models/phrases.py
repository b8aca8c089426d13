"""Phrases that tell the sides apart: found as runs of words, worded as a person would quote them.

A phrase is judged as "the words, or nearly the same words". A long quotation is easy to read, but
nearly the same words can be what both sides say ("the soup was cold", "the soup was hot"). So each
wording is tried on the texts as a judge would try it, and the longest that still tells the sides
apart is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from whatchanged.contrasts import BoolArray, Sides
from whatchanged.models.ngrams import (
    END,
    IntArray,
    NgramLevel,
    TokenStream,
    extend_run,
    find_run,
    mark_texts,
)
from whatchanged.models.overlap import Needle, is_nearly, prepare_needle
from whatchanged.models.wording import has_meaning, read_wording, surface_of

# Longest quoted phrase, in words: longer ones pin down one prompt's wording.
_MAX_PHRASE = 12
# Runs of words whose texts agree to this share (Jaccard) say the same thing.
_SAME_TEXTS = 0.8
_LIKE_TEXTS = 0.7
# A longer wording may cost this much of the z-score.
_KEEPS_STRENGTH = 0.9
# Grammar alone ("of the") must stand out this many times more than words with a meaning.
_GRAMMAR_PENALTY = 1.5
_MAX_RUNS = 400
_N_SURFACES = 25
_N_OTHER_TERMS = 3


@dataclass(frozen=True, slots=True)
class Run:
    """A run of words, which texts hold it `(n_texts,)`, and its z-score."""

    word_ids: IntArray
    words: tuple[str, ...]
    held: BoolArray
    z: float


@dataclass(frozen=True, slots=True)
class Phrase:
    """A wording, the texts that hold it or nearly the same words `(n_texts,)`, and other wordings
    of the same texts."""

    phrase: str
    held: BoolArray
    others: tuple[str, ...]


def find_runs(
    stream: TokenStream,
    levels: Sequence[NgramLevel],
    sides: Sides,
    threshold: float,
    min_difference: float,
) -> list[Run]:
    """The runs beyond the threshold of |z| and of the share difference, strongest first and of
    equals the longest, at most 400."""
    found: list[tuple[float, int, int]] = []
    for index, level in enumerate(levels):
        hits_base = level.count_texts(sides.is_base)
        hits_intervention = np.diff(level.bounds) - hits_base
        n_both = level.count_pairs(sides.n_base) if sides.is_paired else 0
        z = sides.z_of_counts(hits_base, hits_intervention, n_both)
        effect = hits_intervention / sides.n_intervention - hits_base / sides.n_base
        beyond = (np.abs(z) >= threshold) & (np.abs(effect) >= min_difference)
        found += [(float(z[gram]), index, int(gram)) for gram in np.flatnonzero(beyond)]
    found.sort(key=lambda run: (-abs(run[0]), -run[1], run[2]))
    first_starts = [level.first_starts() for level in levels]
    runs = []
    for z_score, index, gram in found[:_MAX_RUNS]:
        level, start = levels[index], int(first_starts[index][gram])
        word_ids = stream.ids[start : start + level.length]
        words = _words(stream, word_ids)
        if has_meaning(words) or abs(z_score) >= _GRAMMAR_PENALTY * threshold:
            held = np.zeros(sides.n_texts, dtype=np.bool_)
            held[level.texts[level.bounds[gram] : level.bounds[gram + 1]]] = True
            runs.append(Run(word_ids, words, held, z_score))
    return runs


def group_runs(runs: Sequence[Run], max_groups: int) -> list[list[Run]]:
    """The runs, those of nearly the same texts and the same direction together, strongest first."""
    if not runs:
        return []
    groups: list[list[Run]] = []
    remaining = np.ones(len(runs), dtype=np.bool_)
    sets = np.stack([run.held for run in runs])
    sizes = sets.sum(axis=1)
    upward = np.array([run.z > 0 for run in runs], dtype=np.bool_)
    while remaining.any() and len(groups) < max_groups:
        strongest = int(remaining.argmax())
        shared = (sets & sets[strongest]).sum(axis=1)
        same = shared >= _SAME_TEXTS * (sizes + sizes[strongest] - shared)
        same &= remaining & (upward == upward[strongest])
        remaining &= ~same
        groups.append([runs[int(i)] for i in np.flatnonzero(same)])
    return groups


def word_phrase(
    stream: TokenStream, texts: Sequence[str], group: Sequence[Run], sides: Sides
) -> Phrase:
    """The most readable wording of a group of runs: the longest phrase around its longest run, or
    the next longest that a judge who accepts nearly the same words still finds on one side.

    Where no wording keeps 0.9 of the strongest run's z-score and nearly its texts, the one whose
    texts are most like that run's.
    """
    strongest = group[0]
    sign, needed = np.sign(strongest.z), _KEEPS_STRENGTH * abs(strongest.z)
    best = -1.0, strongest.word_ids, strongest.held
    for word_ids in _wordings(stream, group):
        held = _mark_nearly(stream, texts, word_ids)
        likeness = int((held & strongest.held).sum()) / int((held | strongest.held).sum())
        if likeness > best[0]:
            best = likeness, word_ids, held
        if likeness >= _LIKE_TEXTS and sign * sides.z(held) >= needed:
            best = likeness, word_ids, held
            break
    _, word_ids, held = best
    words = _words(stream, word_ids)
    rows = stream.rows[find_run(stream, word_ids)]
    said = rows[(rows >= sides.n_base) == (sign > 0)][:_N_SURFACES]
    others = [" ".join(run.words) for run in group if " ".join(run.words) not in " ".join(words)]
    surface = _usual_surface(words, [texts[row] for row in said])
    return Phrase(surface, held, tuple(others[:_N_OTHER_TERMS]))


def _wordings(stream: TokenStream, group: Sequence[Run]) -> Iterator[IntArray]:
    """Wordings to try, the most readable first, each once."""
    readable = sorted(group, key=lambda run: (not has_meaning(run.words), -len(run.words)))
    extended = extend_run(stream, readable[0].word_ids, min_share=0.9, max_words=_MAX_PHRASE)
    tried: set[tuple[int, ...]] = set()
    for word_ids in (_drop_dangling(stream, extended), extended, *(r.word_ids for r in readable)):
        key = tuple(word_ids.tolist())
        if key not in tried:
            tried.add(key)
            yield word_ids


def _drop_dangling(stream: TokenStream, word_ids: IntArray) -> IntArray:
    """The run without grammar at its end; all of it where sentences end there or all is grammar."""
    after = find_run(stream, word_ids) + len(word_ids)
    words = _words(stream, word_ids)
    if 2 * int((stream.ids[after] == END).sum()) > len(after) or not has_meaning(words):
        return word_ids
    kept = len(words)
    while not has_meaning(words[kept - 1 : kept]):
        kept -= 1
    return word_ids[:kept]


def _mark_nearly(stream: TokenStream, texts: Sequence[str], word_ids: IntArray) -> BoolArray:
    """Which texts hold the words or nearly the same words, `(n_texts,)`."""
    held = mark_texts(stream, find_run(stream, word_ids))
    needle = prepare_needle(" ".join(_words(stream, word_ids)))
    for row in np.flatnonzero(_weight_present(stream, word_ids, needle) & ~held):
        held[row] = is_nearly(needle, read_wording(texts[int(row)]).words)
    return held


def _weight_present(stream: TokenStream, word_ids: IntArray, needle: Needle) -> BoolArray:
    """Which texts hold at least half of the phrase's weight, in any order."""
    present = np.zeros(stream.n_texts, dtype=np.int64)
    for word_id, weight in zip(word_ids, needle.weights, strict=True):
        present += weight * mark_texts(stream, np.flatnonzero(stream.ids == word_id))
    return 2 * present >= needle.total


def _usual_surface(words: tuple[str, ...], texts: Sequence[str]) -> str:
    surfaces = [surface_of(words, text) for text in texts] or [" ".join(words)]
    usual = max(sorted(set(surfaces)), key=surfaces.count)
    return " ".join(usual.split())


def _words(stream: TokenStream, word_ids: NDArray[np.int64]) -> tuple[str, ...]:
    return tuple(stream.vocabulary[i] for i in word_ids)
