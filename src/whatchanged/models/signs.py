"""Format features of a reply: what can be seen without reading a word of it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from whatchanged.embed import split_segments


@dataclass(frozen=True, slots=True)
class Feature:
    """A format feature: "The reply {singular}.", "replies more often {plural}", and its test."""

    singular: str
    plural: str
    holds: Callable[[str], bool]


def _contains(what: str, pattern: str, *, at_least: int = 1) -> Feature:
    compiled = re.compile(pattern, re.MULTILINE)

    def holds(text: str) -> bool:
        if at_least == 1:
            return compiled.search(text) is not None
        return len(compiled.findall(text)) >= at_least

    return Feature(f"contains {what}", f"contain {what}", holds)


def _has_capitals(text: str) -> bool:
    return any(word.isupper() for word in re.findall(r"[^\W\d_]{2,}", text))


def _starts_small(text: str) -> bool:
    return text.lstrip()[:1].islower()


def _stops_short(text: str) -> bool:
    last = text.rstrip()[-1:]
    return last.isalnum() or last in {",", "-"}


def _repeats_itself(text: str) -> bool:
    sentences = [sentence.casefold() for sentence in split_segments(text)]
    return len(set(sentences)) < len(sentences)


def _is_blank(text: str) -> bool:
    return not text.strip()


FEATURES: Mapping[str, Feature] = {
    "question": _contains("a question mark", r"[?？؟]"),
    "exclamation": _contains("an exclamation mark", r"[!！¡]"),
    "digit": _contains("a digit", r"\d"),
    "line_break": _contains("a line break", r"\S[^\S\n]*\n\s*\S"),
    "list": _contains("a list", r"^[^\S\n]*(?:[-*•‣]|\d{1,3}[.)])[^\S\n]+\S", at_least=2),
    "heading": _contains("a heading marked with #", r"^#{1,6}[^\S\n]+\S"),
    "bold": _contains("words marked as bold", r"\*\*\S[^*\n]*\*\*"),
    "code": _contains("code marked with backticks", r"`[^`\n]+`|```"),
    "address": _contains("a web address", r"https?://\S|\bwww\.\S"),
    "quotation": _contains("a quotation mark", r'["“”„«»「」]'),
    "bracket": _contains("a round bracket", r"[()（）]"),
    "colon": _contains("a colon", r"[:：]"),
    "semicolon": _contains("a semicolon", r"[;；]"),
    "dash": _contains("a dash between words", r"[—–]|\s--?\s(?=\S)"),
    "ellipsis": _contains("an ellipsis", r"…|\.\.\."),
    "emoji": _contains("an emoji or pictograph", "[\U0001f1e6-\U0001faff\u2600-\u27bf]"),
    "capitals": Feature(
        "contains an upper-case word", "contain an upper-case word", _has_capitals
    ),
    "other_script": _contains(
        "letters outside the Latin script",
        r"[\u0370-\u058f\u05d0-\u1cff\u2c00-\u2dff\u3040-\ua71f\ua800-\ud7ff]",
    ),
    "small_start": Feature(
        "starts with a lower-case letter", "start with a lower-case letter", _starts_small
    ),
    "stops_short": Feature(
        "ends in the middle of a sentence", "end in the middle of a sentence", _stops_short
    ),
    "repeats": Feature(
        "repeats one of its sentences", "repeat one of their sentences", _repeats_itself
    ),
    "blank": Feature("is empty", "are empty", _is_blank),
}  # fmt: skip

_NAMES = tuple(FEATURES)
# Everything that a named feature already sees, and the marks that nearly every text has.
_NAMED_SIGNS = frozenset("?？؟!！¡-*•‣#`\"“”„«»「」()（）:：;；—–….,'’/。、，_")


@lru_cache(maxsize=65_536)
def feature_bits(text: str) -> int:
    """Which features hold, as a bit per feature in the order of `FEATURES`."""
    return sum(1 << bit for bit, name in enumerate(_NAMES) if FEATURES[name].holds(text))


@lru_cache(maxsize=65_536)
def find_signs(text: str) -> frozenset[str]:
    """The punctuation marks and symbols of a text that no feature names."""
    return frozenset(
        sign
        for sign in set(text) - _NAMED_SIGNS
        if unicodedata.category(sign)[0] in "PS" and not FEATURES["emoji"].holds(sign)
    )
