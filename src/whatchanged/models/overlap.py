"""How much of a phrase or of a sentence a text repeats, word by word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from whatchanged.models.wording import pad_words, read_words, word_weight

CHANCE = 0.3
NOT_IN_A_ROW = 0.95


@dataclass(frozen=True, slots=True)
class Overlap:
    """`share` in [0, 1] of the phrase's weight that the window repeats in order; the window is
    `words[start:end]`, empty where nothing is repeated."""

    share: float
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Needle:
    """A phrase made ready for search: its words, their weights, and itself padded by spaces."""

    words: tuple[str, ...]
    weights: tuple[int, ...]
    padded: str
    total: int


@lru_cache(maxsize=4096)
def prepare_needle(phrase: str) -> Needle:
    """The phrase as words and weights; a phrase without words has total weight 0."""
    words = read_words(phrase)
    weights = tuple(word_weight(word) for word in words)
    return Needle(words, weights, pad_words(words), sum(weights))


def overlap_phrase(needle: Needle, words: Sequence[str]) -> Overlap:
    """The window of `words` that repeats most of the phrase, in order.

    A window is up to half again as long as the phrase, so that a word may be put in between. A
    single word is repeated or not. A phrase without words is repeated nowhere.
    """
    known = dict.fromkeys(needle.words)
    places = [place for place, word in enumerate(words) if word in known]
    span = len(needle.words) + (len(needle.words) + 1) // 2 if len(needle.words) > 1 else 1
    best = Overlap(0.0, 0, 0)
    for first in places:
        inside = [place for place in places if first <= place < first + span]
        window = [words[place] for place in inside]
        share = _repeated_in_order(needle, window) / needle.total
        if share > best.share:
            best = Overlap(share, first, inside[-1] + 1)
    return best


def is_nearly(needle: Needle, words: Sequence[str]) -> bool:
    """Whether the words hold the phrase or nearly the same words, as the lexical judge decides."""
    return grade_overlap(overlap_phrase(needle, words).share) >= 0.5


def grade_overlap(share: float) -> float:
    """The score in [0, 1) of a share of a phrase that is repeated in order but not in a row: words
    in order are nearly the same words, never quite. Below 0.3 the words in common are chance: 0."""
    return NOT_IN_A_ROW * share if NOT_IN_A_ROW * share >= CHANCE else 0.0


def grade_sentence(f1: float) -> float:
    """The score in [0, 1] of the F1 of two sentences: 0 up to 0.3, 0.4 at 0.5, 0.6 at 0.8, 1 at 1,
    straight lines between. Only near equality is a sure yes."""
    knots = ((0.0, 0.0), (CHANCE, 0.0), (0.5, 0.4), (0.8, 0.6), (1.0, 1.0))
    for (x0, y0), (x1, y1) in pairwise(knots):
        if f1 <= x1:
            return y0 + (y1 - y0) * (f1 - x0) / (x1 - x0)
    return 1.0


def overlap_sentences(first: Sequence[str], second: Sequence[str]) -> float:
    """The F1 of the distinct words of two sentences, by weight, in [0, 1].

    Equal sentences give 1; a sentence without words gives 0.
    """
    words_a, weight_a = _bag(tuple(first))
    words_b, weight_b = _bag(tuple(second))
    both = words_a & words_b
    if not both:
        return 0.0
    return 2 * sum(word_weight(word) for word in both) / (weight_a + weight_b)


@lru_cache(maxsize=65_536)
def _bag(words: tuple[str, ...]) -> tuple[frozenset[str], int]:
    bag = frozenset(words)
    return bag, sum(word_weight(word) for word in bag)


def _repeated_in_order(needle: Needle, window: Sequence[str]) -> int:
    """The weight of the heaviest common subsequence of the phrase and the window."""
    row = [0] * (len(window) + 1)
    for word, weight in zip(needle.words, needle.weights, strict=True):
        diagonal = 0
        for column, other in enumerate(window, start=1):
            above = row[column]
            row[column] = max(above, row[column - 1], diagonal + weight if word == other else 0)
            diagonal = above
    return row[-1]
