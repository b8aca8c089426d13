"""How much of a phrase or of a sentence a text repeats, word by word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from whatchanged.models.wording import pad_words, read_words, word_weight


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
