"""The closed language of criteria: sentences about ONE reply that a person and a judge read.

A criterion names neither side nor model. `write_criterion` and `parse_criterion` are inverses; a
sentence that was not written here (by the model behind an API, say) parses to `Generic`, never to
an error.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeAlias

from whatchanged.models.signs import FEATURES
from whatchanged.models.wording import has_meaning, read_wording, read_words
from whatchanged.records import Direction

_PHRASE = ('The reply contains the words "', '", or nearly the same words.')
_SENTENCE = ('The reply contains a sentence that means nearly the same as "', '".')
_SIGN = ('The reply contains the character "', '".')
_LENGTH = re.compile(r"The reply has (at most|at least) (\d{1,9}) words?\.")

Bound = Literal["at most", "at least"]


@dataclass(frozen=True, slots=True)
class HasPhrase:
    """The words, or nearly the same words, in a row."""

    phrase: str


@dataclass(frozen=True, slots=True)
class HasSentence:
    """A sentence that means nearly the same."""

    sentence: str


@dataclass(frozen=True, slots=True)
class HasLength:
    """A number of words, bound included."""

    bound: Bound
    n_words: int


@dataclass(frozen=True, slots=True)
class HasFeature:
    """A format feature, by its name in `signs.FEATURES`."""

    name: str


@dataclass(frozen=True, slots=True)
class HasSign:
    """A single character."""

    sign: str


@dataclass(frozen=True, slots=True)
class Generic:
    """A criterion in free words."""

    text: str


Criterion: TypeAlias = HasPhrase | HasSentence | HasLength | HasFeature | HasSign | Generic


def write_criterion(criterion: Criterion) -> str:
    """The sentence that a judge checks in one reply."""
    match criterion:
        case HasPhrase(phrase):
            return _quoted(_PHRASE, phrase)
        case HasSentence(sentence):
            return _quoted(_SENTENCE, sentence)
        case HasSign(sign):
            return _quoted(_SIGN, sign)
        case HasLength(bound, n_words):
            return f"The reply has {bound} {_n_words(n_words)}."
        case HasFeature(name):
            return f"The reply {FEATURES[name].singular}."
        case Generic(text):
            return text


def write_claim(criterion: Criterion) -> str:
    """The verb phrase of a statement about many replies: `contain the words "..."`."""
    match criterion:
        case HasPhrase(phrase):
            return f'contain the words "{phrase}"'
        case HasSentence(sentence):
            return f'contain a sentence that means nearly the same as "{sentence}"'
        case HasSign(sign):
            return f'contain the character "{sign}"'
        case HasLength(bound, n_words):
            return f"have {bound} {_n_words(n_words)}"
        case HasFeature(name):
            return FEATURES[name].plural
        case Generic(text):
            return f'meet the criterion "{text}"'


@lru_cache(maxsize=4096)
def parse_criterion(text: str) -> Criterion:
    """The criterion that a sentence states; `Generic` for any other sentence, an empty one too."""
    if phrase := _unquoted(_PHRASE, text):
        return HasPhrase(phrase)
    if sentence := _unquoted(_SENTENCE, text):
        return HasSentence(sentence)
    if len(sign := _unquoted(_SIGN, text)) == 1:
        return HasSign(sign)
    if match := _LENGTH.fullmatch(text):
        bound: Bound = "at most" if match[1] == "at most" else "at least"
        length = HasLength(bound, int(match[2]))
        return length if write_criterion(length) == text else Generic(text)
    for name, feature in FEATURES.items():
        if text == f"The reply {feature.singular}.":
            return HasFeature(name)
    return Generic(text)


def count_criterion(criterion: Criterion, text: str) -> bool | None:
    """Whether a text meets a criterion that counting decides (length, format, character).

    None for a criterion that needs reading: a phrase, a sentence, free words.
    """
    match criterion:
        case HasLength("at most", n_words):
            return len(read_wording(text).words) <= n_words
        case HasLength(_, n_words):
            return len(read_wording(text).words) >= n_words
        case HasFeature(name):
            return FEATURES[name].holds(text)
        case HasSign(sign):
            return sign in text
    return None


def is_readable(text: str) -> bool:
    """Whether a criterion says something on its own: grammar alone ("of the") does not."""
    criterion = parse_criterion(text)
    return not isinstance(criterion, HasPhrase) or has_meaning(read_words(criterion.phrase))


def kind_of(text: str) -> str:
    """What a criterion is about: "wording", "length", or the feature or character it names."""
    match parse_criterion(text):
        case HasLength():
            return "length"
        case HasFeature(name):
            return name
        case HasSign(sign):
            return sign
    return "wording"


def can_explain(text: str, direction: Direction, other: str, other_direction: Direction) -> bool:
    """Whether a difference in one criterion can be why there is a difference in another.

    Shorter replies cannot be why words appear, nor longer ones why words vanish.
    """
    if are_free_words(text, other):
        return False
    criterion = parse_criterion(text)
    if not isinstance(criterion, HasLength) or kind_of(other) != "wording":
        return True
    shorter = (criterion.bound == "at most") == (direction == "more")
    return shorter == (other_direction == "less")


def are_free_words(text: str, other: str) -> bool:
    """Whether both are different criteria in free words: they may come from the same sentences and
    yet say different things of them."""
    both = (parse_criterion(text), parse_criterion(other))
    return text != other and all(isinstance(criterion, Generic) for criterion in both)


def may_mirror(text: str, other: str) -> bool:
    """Whether two criteria can be the two halves of a replacement, each worth saying. A length is
    no half: whatever was replaced brings it along."""
    return "length" not in (kind_of(text), kind_of(other)) and is_readable(text)


def preference(text: str) -> float:
    """How much a criterion's strength counts where several explain each other, in (0, 1].

    Of criteria that nearly the same texts meet, a quoted phrase says most and is checked most
    reliably; grammar alone says least.
    """
    match parse_criterion(text):
        case HasSentence() | HasFeature() | HasSign() | Generic():
            return 0.9
        case HasLength():
            return 0.8
    return 1.0 if is_readable(text) else 0.6


def quotations(text: str) -> tuple[str, ...]:
    """The parts of a sentence between double quotation marks, straight or curly."""
    return tuple(a or b for a, b in re.findall(r'"([^"]+)"|“([^”]+)”', text))


def _quoted(frame: tuple[str, str], content: str) -> str:
    return f"{frame[0]}{content}{frame[1]}"


def _unquoted(frame: tuple[str, str], text: str) -> str:
    opening, closing = frame
    long_enough = len(text) > len(opening) + len(closing)
    if long_enough and text.startswith(opening) and text.endswith(closing):
        return text[len(opening) : -len(closing)]
    return ""


def _n_words(n_words: int) -> str:
    return f"{n_words} word" if n_words == 1 else f"{n_words} words"
