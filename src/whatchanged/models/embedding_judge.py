"""The dearer local judge: meaning, as the angle between sentence embeddings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from whatchanged.embed import split_segments
from whatchanged.models.criteria import (
    HasPhrase,
    HasSentence,
    count_criterion,
    parse_criterion,
    quotations,
)
from whatchanged.models.lexical_judge import score_phrase
from whatchanged.models.overlap import overlap_phrase, prepare_needle
from whatchanged.models.protocols import Embedder
from whatchanged.models.wording import read_wording
from whatchanged.records import Judgement, Question


@dataclass(frozen=True, slots=True)
class EmbeddingJudge:
    """Scores by cosines, drawn to [0, 1] by a logistic curve: 0.5 at the midpoint, 0.73 one `scale`
    above it.

    A sentence is compared with every sentence of the text, and the best cosine counts. With
    all-MiniLM-L6-v2, paraphrases of short sentences lie near 0.8, other sentences about the same
    thing near 0.45, unrelated ones near 0.1; opposites ("opens", "closes") are as close as
    paraphrases, a limit of such embeddings.

    A phrase scores 1 where it stands in the text word for word and 0 where no word of it does.
    Otherwise the run of words that repeats most of it is compared, and what counts is the mean of
    the cosine and of the share repeated: "nearly the same words" needs words as well as meaning.
    (A cosine alone takes "kite" for "kite decides", 0.85.)

    Length, format and characters are counted, 1 or 0. Free words are compared as a sentence, or by
    the phrase that they quote.
    """

    embedder: Embedder
    midpoint: float = 0.65
    phrase_midpoint: float = 0.7
    scale: float = 0.05

    @property
    def identity(self) -> str:
        """The method's version, its calibration and the embedder's identity."""
        calibration = f"{self.midpoint} {self.phrase_midpoint} {self.scale}"
        return f"embedding/1 {calibration} {self.embedder.identity}"

    def judge(self, questions: Sequence[Question]) -> list[Judgement]:
        """One judgement per question, in the order asked; each distinct part is embedded once."""
        plans = [_plan(q.criterion, q.text) for q in questions]
        needed = dict.fromkeys(
            part for plan in plans if plan.certain is None for part in (plan.target, *plan.parts)
        )
        row_of = {part: row for row, part in enumerate(needed)}
        rows = self.embedder.embed(list(needed)) if needed else np.zeros((0, 1), np.float32)
        return [self._answer(plan, row_of, rows) for plan in plans]

    def _answer(self, plan: _Plan, row_of: dict[str, int], rows: NDArray[np.float32]) -> Judgement:
        if plan.certain is not None:
            return Judgement(plan.certain, "answered")
        cosines = rows[[row_of[part] for part in plan.parts]] @ rows[row_of[plan.target]]
        best = int(cosines.argmax())
        closeness, midpoint = float(cosines[best]), self.midpoint
        if plan.share is not None:
            closeness, midpoint = (closeness + plan.share) / 2, self.phrase_midpoint
        score = 1 / (1 + math.exp((midpoint - closeness) / self.scale))
        return Judgement(score, "answered", f"closest: {plan.parts[best]}")


@dataclass(frozen=True, slots=True)
class _Plan:
    """What to compare, or the score where nothing needs to be compared. `share` is how much of a
    phrase the only part repeats; None where a sentence is compared."""

    certain: float | None
    target: str = ""
    parts: tuple[str, ...] = ()
    share: float | None = None


def _plan(criterion: str, text: str) -> _Plan:
    parsed = parse_criterion(criterion)
    counted = count_criterion(parsed, text)
    if counted is not None:
        return _Plan(1.0 if counted else 0.0)
    match parsed:
        case HasPhrase(phrase):
            return _plan_phrase(phrase, text)
        case HasSentence(sentence):
            return _plan_sentence(sentence, text)
    quoted = quotations(criterion)
    return _plan_phrase(quoted[0], text) if quoted else _plan_sentence(criterion, text)


def _plan_sentence(sentence: str, text: str) -> _Plan:
    parts = split_segments(text)
    return _Plan(None, sentence, parts) if parts else _Plan(0.0)


def _plan_phrase(phrase: str, text: str) -> _Plan:
    if score_phrase(phrase, text) == 1.0:
        return _Plan(1.0)
    needle = prepare_needle(phrase)
    words = read_wording(text).words
    run = overlap_phrase(needle, words)
    if run.share == 0:
        return _Plan(0.0)
    return _Plan(None, phrase, (" ".join(words[run.start : run.end]),), run.share)
