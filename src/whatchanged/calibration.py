"""What a cheap score is worth: the probability that the expensive judge says "meets".

The calibration is fitted on the pilot audit: texts of all hypotheses of a run, drawn at random with
one known probability, so that every text counts alike. A hypothesis is calibrated by the audits of
*other* hypotheses (cross-fitting, as in Zrnic and Candès 2024, "Cross-prediction-powered
inference"): its own verdicts never decide which of its texts are asked about.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from whatchanged.errors import UsageError

FloatArray: TypeAlias = NDArray[np.float64]

# A score of 0 or 1 is as far from 1/2 as this: judges round, and logits must stay finite.
_EDGE = 0.01
# Texts of no hypothesis on which the cheap score is exactly right: they make the fit the identity
# where nothing was audited, and are outvoted by a few dozen audits.
_PRIOR_SCORES = np.array([0.02, 0.25, 0.5, 0.75, 0.98])

# The algorithm is stopped early: run to its end it believes the calibration to the letter, and
# hypotheses whose cheap judge is worse than the average one lose power (design/0008).
_EM_STEPS = 3


@dataclass(frozen=True, slots=True)
class Calibration:
    """Platt's (1999) map: the log odds of "meets" are a line in the log odds of the cheap score.

    `share` in (0, 1) is the share of audited texts that met their criterion; None where there were
    none.
    """

    intercept: float = 0.0
    slope: float = 1.0
    share: float | None = None

    def apply(self, scores: ArrayLike) -> FloatArray:
        """The cheap scores in [0, 1] of one hypothesis' texts as probabilities in (0, 1).

        A criterion that few texts meet turns the same score into a smaller probability. How few is
        read off the hypothesis' own scores, both sides together: a few steps of the EM algorithm of
        Saerens, Latinne and Decaestecker (2002), which knows no verdict.
        """
        log_odds = self.intercept + self.slope * _log_odds(scores)
        pooled: FloatArray = 1.0 / (1.0 + np.exp(-log_odds))
        if self.share is None or pooled.size == 0:
            return pooled
        ratios = np.exp(log_odds) * (1 - self.share) / self.share
        own = pooled
        for _ in range(_EM_STEPS):
            share = float(np.clip(own.mean(), _EDGE, 1 - _EDGE))
            own = share * ratios / (share * ratios + 1 - share)
        return own


def fit_calibration(cheap_scores: ArrayLike, meets: ArrayLike) -> Calibration:
    """The calibration of audited texts, both arguments `(n_audited,)`.

    Maximum likelihood with five made-up texts on which the cheap score is the probability: no
    audits give the identity, few audits or audits of one kind only something near it, and never a
    step. A line and not a step function (isotonic regression), because a run has hundreds of audits
    and not thousands.

    Raises UsageError for lengths that differ and for scores outside [0, 1].
    """
    from sklearn.linear_model import LogisticRegression

    scores, hits = np.asarray(cheap_scores, dtype=np.float64), np.asarray(meets, dtype=bool)
    _check_audits(scores, hits)
    if len(scores) == 0:
        return Calibration()
    prior = _EDGE + (1 - 2 * _EDGE) * _PRIOR_SCORES
    model = LogisticRegression(C=np.inf).fit(
        _log_odds(np.concatenate([scores, _PRIOR_SCORES, _PRIOR_SCORES]))[:, None],
        np.concatenate([hits, np.ones(len(prior), bool), np.zeros(len(prior), bool)]),
        sample_weight=np.concatenate([np.ones(len(scores)), prior, 1 - prior]),
    )
    share = (hits.sum() + prior.sum()) / (len(hits) + len(prior))
    return Calibration(float(model.intercept_[0]), float(model.coef_[0, 0]), float(share))


def cross_fit(
    cheap_scores: ArrayLike, meets: ArrayLike, hypothesis: ArrayLike, n_hypotheses: int
) -> tuple[Calibration, ...]:
    """One calibration per hypothesis, from the audits of the other half of the hypotheses.

    `hypothesis (n_audited,)` numbers, from 0, whose text was audited; even ones are calibrated by
    odd ones and the other way round. A run with one hypothesis keeps the cheap scores as they are.

    Raises UsageError as `fit_calibration`.
    """
    scores, hits = np.asarray(cheap_scores, dtype=np.float64), np.asarray(meets, dtype=bool)
    is_odd = np.asarray(hypothesis, dtype=np.int64) % 2 == 1
    _check_audits(scores, hits)
    by_odd, by_even = (fit_calibration(scores[half], hits[half]) for half in (is_odd, ~is_odd))
    return tuple(by_even if i % 2 else by_odd for i in range(n_hypotheses))


def _log_odds(scores: ArrayLike) -> FloatArray:
    inner = _EDGE + (1 - 2 * _EDGE) * np.asarray(scores, dtype=np.float64)
    log_odds: FloatArray = np.log(inner / (1 - inner))
    return log_odds


def _check_audits(scores: FloatArray, hits: NDArray[np.bool_]) -> None:
    if scores.shape != hits.shape:
        raise UsageError(
            f"expected one verdict per audited text, found {len(scores)} scores and {len(hits)} "
            "verdicts: pass the audited texts only"
        )
    if not ((scores >= 0) & (scores <= 1)).all():
        raise UsageError("expected cheap scores in [0, 1]: leave unanswered texts out")
