"""Tests, intervals and sample sizes: what the difference between two sides is worth.

Shares are of texts; `hits` texts of `n` meet a criterion. A difference (`effect`) is always the
intervention's share minus the base's, in [-1, 1].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from whatchanged.errors import UsageError
from whatchanged.permute import Alternative, permutation_p_value
from whatchanged.records import Direction

__all__ = [
    "MAX_TEXTS_NEEDED",
    "Alternative",
    "DifferencePosterior",
    "Interval",
    "ShareDifference",
    "auc",
    "benjamini_hochberg",
    "difference_posterior",
    "min_effect_p_value",
    "permutation_p_value",
    "share_difference",
    "shrunk_share",
    "texts_needed",
    "wilson_interval",
]

FloatArray: TypeAlias = NDArray[np.float64]

# The answer of `texts_needed` where no number of texts is enough.
MAX_TEXTS_NEEDED = 1_000_000


class Interval(NamedTuple):
    """A closed interval."""

    low: float
    high: float


class DifferencePosterior(NamedTuple):
    """Mean and standard deviation of a share difference, with the shape of the counts."""

    mean: FloatArray
    sd: FloatArray


@dataclass(frozen=True, slots=True)
class ShareDifference:
    """Two shares and their difference with its interval; nan shares where a side has no text."""

    share_base: float
    share_intervention: float
    effect: float
    ci_low: float
    ci_high: float
    n_base: int
    n_intervention: int


def auc(
    scores_base: Sequence[float] | FloatArray, scores_intervention: Sequence[float] | FloatArray
) -> float:
    """The probability that a random intervention score exceeds a random base score.

    Ties count half. This is the Mann-Whitney statistic divided by the number of pairs; 0.5 means
    no tendency. An empty side gives nan.
    """
    from scipy.stats import rankdata

    n_base, n_intervention = len(scores_base), len(scores_intervention)
    if n_base == 0 or n_intervention == 0:
        return math.nan
    ranks = rankdata(np.concatenate([scores_base, scores_intervention]))
    u = ranks[n_base:].sum() - n_intervention * (n_intervention + 1) / 2
    return float(u / (n_base * n_intervention))


def share_difference(
    hits_base: int,
    n_base: int,
    hits_intervention: int,
    n_intervention: int,
    *,
    confidence: float = 0.95,
) -> ShareDifference:
    """Both shares and their difference with Newcombe's hybrid score interval (1998, method 10).

    The interval never leaves [-1, 1], has a positive width at shares of 0 and 1, and takes the
    texts as independent: on equal prompt sets for both sides that is conservative. A side
    without texts gives nan shares, a nan effect and the interval [-1, 1].

    Raises UsageError for counts below zero or hits above n.
    """
    from statsmodels.stats.proportion import confint_proportions_2indep

    _check_counts(hits_base, n_base)
    _check_counts(hits_intervention, n_intervention)
    share_base = hits_base / n_base if n_base else math.nan
    share_intervention = hits_intervention / n_intervention if n_intervention else math.nan
    if n_base == 0 or n_intervention == 0:
        return ShareDifference(
            share_base, share_intervention, math.nan, -1.0, 1.0, n_base, n_intervention
        )
    low, high = confint_proportions_2indep(
        hits_intervention, n_intervention, hits_base, n_base,
        method="newcomb", compare="diff", alpha=1 - confidence,
    )  # fmt: skip
    effect = share_intervention - share_base
    return ShareDifference(
        share_base,
        share_intervention,
        effect,
        min(max(-1.0, float(low)), effect),
        max(min(1.0, float(high)), effect),
        n_base,
        n_intervention,
    )


def min_effect_p_value(
    hits_base: int,
    n_base: int,
    hits_intervention: int,
    n_intervention: int,
    *,
    min_effect: float,
    direction: Direction,
) -> float:
    """The one-sided p-value in [0, 1] of H0: the difference in `direction` is at most `min_effect`.

    For "more" the difference is intervention minus base, for "less" base minus intervention. The
    score test of Miettinen and Nurminen (1985): the variance is the one of the shares that fit
    best while differing by exactly `min_effect`. A side without texts, or shares whose variance
    under H0 is zero (no text of either side hits, or all do), give 1.0.

    Raises UsageError for impossible counts or a `min_effect` outside [0, 1).
    """
    from statsmodels.stats.proportion import score_test_proportions_2indep

    _check_counts(hits_base, n_base)
    _check_counts(hits_intervention, n_intervention)
    _check_min_effect(min_effect)
    if n_base == 0 or n_intervention == 0:
        return 1.0
    high, low = (hits_intervention, n_intervention), (hits_base, n_base)
    if direction == "less":
        high, low = low, high
    with np.errstate(invalid="ignore", divide="ignore"):
        result = score_test_proportions_2indep(
            *high, *low, value=min_effect, compare="diff", alternative="larger"
        )
    p_value = float(result.pvalue)
    return p_value if math.isfinite(p_value) else 1.0


def benjamini_hochberg(p_values: Sequence[float] | FloatArray) -> FloatArray:
    """The adjusted p-values `(n,)`, in the order given (Benjamini and Hochberg 1995).

    Rejecting all that are at most q keeps the expected share of false discoveries at most q, for
    independent and for positively dependent tests. No p-values give none.

    Raises UsageError for a p-value outside [0, 1] or nan.
    """
    from scipy.stats import false_discovery_control

    values = np.asarray(p_values, dtype=np.float64)
    if values.size == 0:
        return values
    if not ((values >= 0) & (values <= 1)).all():
        raise UsageError(f"expected p-values in [0, 1], found {values.tolist()}")
    return np.asarray(false_discovery_control(values, method="bh"), dtype=np.float64)


def texts_needed(
    share_base: float, share_intervention: float, *, min_effect: float, alpha: float, power: float
) -> int:
    """The texts per side with which `min_effect_p_value` is at most `alpha` with this `power`.

    The direction is the one in which the shares differ. Normal approximation of Farrington and
    Manning (1990), equal sides: n = ((z_alpha s0 + z_power s1) / (|difference| - min_effect))^2,
    with s0^2 and s1^2 the summed Bernoulli variances under H0 and at the shares given. Shares
    straight from few texts are too extreme: pass `shrunk_share`s. At least 2, at most
    MAX_TEXTS_NEEDED, which is also the answer where the difference does not exceed `min_effect`.

    Raises UsageError for shares outside [0, 1], or alpha or power outside (0, 1).
    """
    from scipy.special import ndtri

    if not (0 <= share_base <= 1 and 0 <= share_intervention <= 1):
        raise UsageError(f"expected shares in [0, 1], found {share_base} and {share_intervention}")
    if not (0 < alpha < 1 and 0 < power < 1):
        raise UsageError(f"expected alpha and power in (0, 1), found {alpha} and {power}")
    _check_min_effect(min_effect)
    low, high = sorted((share_base, share_intervention))
    excess = high - low - min_effect
    if excess <= 0:
        return MAX_TEXTS_NEEDED
    z_alpha, z_power = float(-ndtri(alpha)), float(ndtri(power))
    spread = z_alpha * math.sqrt(_null_variance(high, low, min_effect)) + z_power * math.sqrt(
        high * (1 - high) + low * (1 - low)
    )
    needed = (max(0.0, spread) / excess) ** 2
    return max(2, math.ceil(min(needed, MAX_TEXTS_NEEDED)))


def wilson_interval(hits: int, n: int, confidence: float = 0.95) -> Interval:
    """Wilson's score interval (1927) for a share; no texts give [0, 1].

    Raises UsageError for counts below zero or hits above n.
    """
    from statsmodels.stats.proportion import proportion_confint

    _check_counts(hits, n)
    if n == 0:
        return Interval(0.0, 1.0)
    low, high = proportion_confint(hits, n, alpha=1 - confidence, method="wilson")
    return Interval(max(0.0, float(low)), min(1.0, float(high)))


def shrunk_share(hits: int, n: int) -> float:
    """The posterior mean of a share under Jeffreys' prior Beta(1/2, 1/2); no texts give 0.5."""
    _check_counts(hits, n)
    return (hits + 0.5) / (n + 1)


def difference_posterior(
    hits_base: ArrayLike, n_base: ArrayLike, hits_intervention: ArrayLike, n_intervention: ArrayLike
) -> DifferencePosterior:
    """Mean and standard deviation of intervention minus base, with Beta(1/2, 1/2) priors.

    The four counts broadcast against each other. The sides are independent, so the variances of
    the two Beta posteriors add. No texts give mean 0 and sd 0.5.
    """
    mean_base, variance_base = _beta_moments(hits_base, n_base)
    mean_intervention, variance_intervention = _beta_moments(hits_intervention, n_intervention)
    return DifferencePosterior(
        mean_intervention - mean_base, np.sqrt(variance_base + variance_intervention)
    )


def _beta_moments(hits: ArrayLike, n: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Mean and variance of Beta(hits + 1/2, n - hits + 1/2)."""
    n_texts = np.asarray(n, dtype=np.float64)
    mean = (np.asarray(hits, dtype=np.float64) + 0.5) / (n_texts + 1)
    return mean, mean * (1 - mean) / (n_texts + 2)


def _null_variance(high: float, low: float, min_effect: float) -> float:
    """The summed Bernoulli variances of the likeliest shares that differ by `min_effect`."""
    from statsmodels.stats.proportion import score_test_proportions_2indep

    with np.errstate(invalid="ignore", divide="ignore"):
        fit = score_test_proportions_2indep(
            high, 1.0, low, 1.0, value=min_effect, compare="diff", alternative="larger"
        )
    variance = float(fit.prop1_null * (1 - fit.prop1_null) + fit.prop2_null * (1 - fit.prop2_null))
    return max(0.0, variance) if math.isfinite(variance) else high * (1 - high) + low * (1 - low)


def _check_counts(hits: int, n: int) -> None:
    if not 0 <= hits <= n:
        raise UsageError(f"expected 0 <= hits <= texts, found {hits} hits in {n} texts")


def _check_min_effect(min_effect: float) -> None:
    if not 0 <= min_effect < 1:
        raise UsageError(f"expected a min_effect in [0, 1), found {min_effect}")
