"""Texts as words, sentences and signs: what the local proposer counts and the local judges read.

A word is a lower-cased run of letters, digits and marks, with apostrophes, hyphens and decimal
points inside it. Scripts that are written without spaces (Chinese, Japanese, Thai, Khmer, ...) give
one word per character. Punctuation is no word; it is read as format features and signs.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from whatchanged.embed import split_segments

_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
)
_MARKS = "\u0300-\u036f\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0670\u0900-\u0963\u0966-\u0dff"
_LETTER = rf"[^\W_{_UNSPACED}]"
_INNER = r"['’\-](?=[^\W_])|(?<=\d)[.,](?=\d)"
_WORD = re.compile(rf"[{_UNSPACED}]|{_LETTER}(?:{_LETTER}|[{_MARKS}]|{_INNER})*")
_ASCII_WORD = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9]+|['\-](?=[A-Za-z0-9])|(?<=\d)[.,](?=\d))*")

# Words that carry grammar rather than meaning. Pronouns, modal verbs and negations are left out on
# purpose: "I", "cannot" and "not" can be the whole change.
_GRAMMAR = """
a an the this that these those there here and or but nor so as if than then of in on at to by for
from with into onto over under about after before between through up down out off is are was were be
been being am it's its it which who whom whose what when where while also just very some any each
such has have had do does did
"""
FUNCTION_WORDS = frozenset(_GRAMMAR.split())
# Whole numbers, so that sums do not depend on the order of a set.
_GRAMMAR_WEIGHT, _MEANING_WEIGHT = 3, 10


@dataclass(frozen=True, slots=True)
class Wording:
    """A text as words: per sentence, in one row, and as a string padded for exact search."""

    sentences: tuple[tuple[str, ...], ...]
    words: tuple[str, ...]
    padded: str


@lru_cache(maxsize=65_536)
def read_wording(text: str) -> Wording:
    """The words of a text, by sentence (as `split_segments` cuts it) and in one row.

    A blank text has no sentences and no words.
    """
    sentences = tuple(words for part in split_segments(text) if (words := read_words(part)))
    words = tuple(word for sentence in sentences for word in sentence)
    return Wording(sentences, words, pad_words(words))


def read_words(text: str) -> tuple[str, ...]:
    """The words of a text, lower-cased, in order."""
    pattern = _ASCII_WORD if text.isascii() else _WORD
    return tuple(sys.intern(word) for word in pattern.findall(text.replace("’", "'").lower()))


def pad_words(words: Sequence[str]) -> str:
    """The words between single spaces, so that a run of words is a substring of the text's."""
    return f" {' '.join(words)} "


@lru_cache(maxsize=65_536)
def word_weight(word: str) -> int:
    """How much a word means: 3 for function words and for spaced words of one or two letters (in
    most languages those are articles and prepositions), else 10."""
    short = len(word) <= 2 and word.isalpha() and word != "no" and not _is_unspaced(word)
    return _GRAMMAR_WEIGHT if short or word in FUNCTION_WORDS else _MEANING_WEIGHT


def has_meaning(words: Sequence[str]) -> bool:
    """Whether any of the words is more than grammar."""
    return any(word_weight(word) == _MEANING_WEIGHT for word in words)


def surface_of(words: Sequence[str], text: str) -> str:
    """The words as `text` writes them first, with its case and inner punctuation; where the text
    lacks the run of words, the words themselves."""
    length = len(words)
    found = list(_WORD.finditer(text))
    written = [match.group().replace("’", "'").lower() for match in found]
    for start in range(len(written) - length + 1):
        if tuple(written[start : start + length]) == tuple(words):
            return text[found[start].start() : found[start + length - 1].end()]
    return " ".join(words)


def _is_unspaced(word: str) -> bool:
    return re.fullmatch(f"[{_UNSPACED}]+", word) is not None
