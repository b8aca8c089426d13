"""The strongest, most frequent and most selective features of an SAE."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from whatchanged.saes.category_tests import ALPHA, CategoryTests
from whatchanged.saes.features import SaeFeatures, check_texts, firing
from whatchanged.saes.specialists import confirmed

Ranking = Literal["strongest", "most frequent", "most selective"]


@dataclass(frozen=True, slots=True)
class RankedFeature:
    """One place of a ranking. All figures are over rows.

    `mean` is over all texts, `mean_when_firing` over those on which the feature fires,
    `share_firing` is their share. `category` is the one of its largest `score`, and `p_adjusted`
    the p-value of that score (`category_tests`); None and nan where no category can be told.
    """

    sae: str
    ranking: Ranking
    rank: int
    feature: int
    mean: float
    mean_when_firing: float
    peak: float
    share_firing: float
    category: str | None
    score: float
    p_adjusted: float


def rank_features(
    sae: SaeFeatures, tests: CategoryTests, *, n_shown: int = 5, alpha: float = ALPHA
) -> tuple[RankedFeature, ...]:
    """The first `n_shown` features by each ranking, among those that fire on any text.

    Strongest: by the mean activation over all texts, so that one extreme text is not enough. Most
    frequent: by the share of texts. Most selective: by the largest score of any category, those
    that chance does not explain first; a feature that fires once has a large score in a small
    category. No texts, or a silent SAE, give none; one category alone gives none selective.

    Raises UsageError where `sae` has other texts than the tests.
    """
    check_texts(sae, tests.groups)
    if not tests.groups.categories:
        return ()
    figures = _describe(sae, tests)
    score, category = _best_category(tests)
    is_told, is_firing = np.isfinite(score), figures.n_firing > 0
    is_selective = confirmed(tests, alpha)[np.arange(sae.d_sae), category]
    p_adjusted = tests.p_adjusted[np.arange(sae.d_sae), category]
    orders: dict[Ranking, NDArray[np.int64]] = {
        "strongest": _first(np.argsort(-figures.mean, kind="stable"), is_firing, n_shown),
        "most frequent": _first(np.argsort(-figures.n_firing, kind="stable"), is_firing, n_shown),
        "most selective": _first(np.lexsort((-score, ~is_selective)), is_firing & is_told, n_shown),
    }
    return tuple(
        RankedFeature(
            sae=sae.card.name,
            ranking=ranking,
            rank=rank,
            feature=feature,
            mean=float(figures.mean[feature]),
            mean_when_firing=float(figures.mean_when_firing[feature]),
            peak=float(figures.peak[feature]),
            share_firing=float(figures.n_firing[feature] / sae.n_texts),
            category=tests.groups.categories[category[feature]] if is_told[feature] else None,
            score=float(score[feature]),
            p_adjusted=float(p_adjusted[feature]) if is_told[feature] else math.nan,
        )
        for ranking, order in orders.items()
        for rank, feature in enumerate(order.tolist(), start=1)
    )


def _first(
    order: NDArray[np.int64], is_listed: NDArray[np.bool_], n_shown: int
) -> NDArray[np.int64]:
    """The first `n_shown` features of the order that are listed at all."""
    return order[is_listed[order]][:n_shown]


class _Figures(NamedTuple):
    """Activations and firing texts of every feature, each `(d_sae,)`."""

    mean: NDArray[np.float64]
    mean_when_firing: NDArray[np.float64]
    peak: NDArray[np.float32]
    n_firing: NDArray[np.float64]


def _describe(sae: SaeFeatures, tests: CategoryTests) -> _Figures:
    fires = firing(sae, tests.threshold)
    n_firing = np.asarray(fires.sum(axis=0), dtype=np.float64)
    when_firing = np.asarray(sae.values.multiply(fires).sum(axis=0, dtype=np.float64))
    return _Figures(
        mean=np.asarray(sae.values.sum(axis=0, dtype=np.float64)) / sae.n_texts,
        mean_when_firing=when_firing / np.maximum(n_firing, 1),
        peak=sae.values.max(axis=0).toarray().ravel(),
        n_firing=n_firing,
    )


def _best_category(tests: CategoryTests) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The largest score of each feature, nan where there is none, and its category."""
    scores = np.where(np.isfinite(tests.scores), tests.scores, -np.inf)
    category = scores.argmax(axis=1)
    best = scores[np.arange(len(scores)), category]
    return np.where(np.isfinite(best), best, np.nan), category
