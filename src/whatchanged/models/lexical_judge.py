"""The cheap judge: words, counted. No model, no network, a few microseconds a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from whatchanged.models.criteria import (
    Generic,
    HasPhrase,
    HasSentence,
    count_criterion,
    parse_criterion,
    quotations,
)
from whatchanged.models.overlap import (
    CHANCE,
    Needle,
    grade_overlap,
    grade_sentence,
    overlap_phrase,
    overlap_sentences,
    prepare_needle,
)
from whatchanged.models.wording import read_wording, read_words, word_weight
from whatchanged.records import Judgement, Question


@dataclass(frozen=True, slots=True)
class LexicalJudge:
    """Scores by words alone.

    Length, format and characters: exactly 1 or 0. A phrase: 1 where the words stand in a row, else
    the share of it (by weight) that the best window repeats in order, 0 below 0.3. A sentence: the
    F1 of the words of the best sentence, drawn out so that only near equality is a sure yes and
    only little in common a sure no. Free words: never sure, within [0.4, 0.6], unless they quote a
    phrase, which is then what counts.
    """

    @property
    def identity(self) -> str:
        """The method's version."""
        return "lexical/1"

    def judge(self, questions: Sequence[Question]) -> list[Judgement]:
        """One judgement per question, in the order asked; every one is answered."""
        return [Judgement(score_words(q.criterion, q.text), "answered") for q in questions]


def score_words(criterion: str, text: str) -> float:
    """The lexical judge's score in [0, 1] of one text. A blank text is a text without words."""
    parsed = parse_criterion(criterion)
    match parsed:
        case HasPhrase(phrase):
            return score_phrase(phrase, text)
        case HasSentence(sentence):
            return _score_sentence(sentence, text)
        case Generic():
            return _score_free_words(criterion, text)
    return 1.0 if count_criterion(parsed, text) else 0.0


def score_phrase(phrase: str, text: str) -> float:
    """1 where the phrase's words stand in a row in the text, else the weight of the best window.

    A phrase without words (":-)") is searched as it is.
    """
    needle = prepare_needle(phrase)
    if not needle.words:
        return 1.0 if phrase in text else 0.0
    wording = read_wording(text)
    if needle.padded in wording.padded:
        return 1.0
    if _weight_present(needle, wording.padded) < CHANCE * needle.total:
        return 0.0
    return grade_overlap(overlap_phrase(needle, wording.words).share)


def _weight_present(needle: Needle, padded: str) -> int:
    pairs = zip(needle.words, needle.weights, strict=True)
    return sum(weight for word, weight in pairs if f" {word} " in padded)


def _score_sentence(sentence: str, text: str) -> float:
    words = read_words(sentence)
    if not words:
        return 1.0 if sentence in text else 0.0
    closest = max((overlap_sentences(words, s) for s in read_wording(text).sentences), default=0.0)
    return grade_sentence(closest)


def _score_free_words(criterion: str, text: str) -> float:
    if quoted := quotations(criterion):
        return max(score_phrase(phrase, text) for phrase in quoted)
    asked = {word for word in read_words(criterion) if word not in {"the", "reply"}}
    total = sum(word_weight(word) for word in asked)
    common = sum(word_weight(word) for word in asked & set(read_wording(text).words))
    # 0.4 + 0.2 is above 0.6 in floating point, and so outside of a band that ends there.
    return min(0.4 + 0.2 * common / total, 0.6) if total else 0.5
