"""Specialists: features that fire on one category of texts rather than on the others.

A specialist responds to its category. Whether the model uses it is another question, which only an
ablation answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from whatchanged.errors import UsageError
from whatchanged.saes.category_tests import ALPHA, CategoryTests, FloatArray
from whatchanged.saes.features import SaeFeatures, TextGroups, check_texts, firing

_WEIGHTS_AT_ONCE = 4_000_000


@dataclass(frozen=True, slots=True)
class Specialist:
    """A feature whose `score` (share inside minus share outside) no chance explains.

    The counts are of rows, but for `n_distinct_inside`: the texts behind them. The interval is of
    this feature alone; the best of many features is flattered, so read it with the p-value.
    """

    sae: str
    category: str
    feature: int
    threshold: str
    score: float
    ci_low: float
    ci_high: float
    share_inside: float
    share_outside: float
    p_value: float
    p_adjusted: float
    n_inside: int
    n_outside: int
    n_distinct_inside: int


@dataclass(frozen=True, slots=True)
class CategorySummary:
    """How many specialists an SAE has for a category; nan and no feature where none can be told.

    The best feature is the one of largest score, whether it is a specialist or not.
    """

    sae: str
    hook_point: str
    layer: int | None
    threshold: str
    category: str
    n_texts: int
    n_distinct: int
    n_specialists: int
    best_feature: int | None
    best_score: float


@dataclass(frozen=True, slots=True)
class LayerSummary:
    """How many specialists an SAE has, for which share of the categories."""

    layer: int | None
    hook_point: str
    sae: str
    threshold: str
    n_features: int
    n_firing: int
    n_specialists: int
    share_categories: float


def find_specialists(
    sae: SaeFeatures,
    tests: CategoryTests,
    *,
    seed: int,
    alpha: float = ALPHA,
    n_shown: int = 10,
    n_draws: int = 2000,
    confidence: float = 0.95,
) -> tuple[Specialist, ...]:
    """The specialists of each category, at most `n_shown` each, largest score first.

    A specialist has a positive score and an adjusted p-value of at most `alpha`
    (`category_tests.measure_categories`).

    Raises UsageError where `sae` is not what was tested.
    """
    if tests.card != sae.card or tests.shares_inside.shape[0] != sae.d_sae:
        raise UsageError(
            f"expected the tests of SAE {sae.card.name}, found those of {tests.card.name}: pass "
            "the features that were tested"
        )
    check_texts(sae, tests.groups)
    rng = np.random.default_rng(seed)
    fires = firing(sae, tests.threshold)[tests.groups.first_rows].tocsc()
    found: list[Specialist] = []
    for category in range(len(tests.groups.categories)):
        best = _order(tests, category, alpha)[:n_shown]
        dense = fires[:, best].toarray().astype(np.float64)
        intervals = score_intervals(
            dense, tests.groups, category, rng, n_draws=n_draws, confidence=confidence
        )
        found += [
            _specialist(tests, category, int(feature), interval)
            for feature, interval in zip(best, intervals, strict=True)
        ]
    return tuple(found)


def score_intervals(
    fires: FloatArray,
    groups: TextGroups,
    category: int,
    rng: np.random.Generator,
    *,
    n_draws: int,
    confidence: float,
) -> FloatArray:
    """Intervals of the score of features `fires (n_distinct, n_features)`: `(n_features, 2)`.

    The Bayesian bootstrap (Rubin 1981): every distinct text gets an exponential weight, which all
    its rows share. Half a text that fires and half a text that does not are added on either side,
    so that the shares of texts without duplicates follow the posterior under Jeffreys' prior, and
    a share of 0 or 1 has a width: 20 of 20 texts inside and 0 of 200 outside give 0.88 to 1.00,
    where resampling whole texts gives 1 to 1.
    """
    n_inside = groups.row_counts[:, category].astype(np.float64)
    n_outside = groups.row_counts.sum(axis=1) - n_inside
    scores = np.empty((n_draws, fires.shape[1]))
    step = max(1, _WEIGHTS_AT_ONCE // max(1, len(fires)))
    for start in range(0, n_draws, step):
        n = min(step, n_draws - start)
        weights = rng.standard_exponential((n, len(fires)))
        scores[start : start + n] = _weighted_share(fires, weights * n_inside, rng)
        scores[start : start + n] -= _weighted_share(fires, weights * n_outside, rng)
    tail = (1 - confidence) / 2
    return np.quantile(scores, [tail, 1 - tail], axis=0).T


def summarize_categories(tests: CategoryTests, alpha: float = ALPHA) -> tuple[CategorySummary, ...]:
    """The number of specialists of each category, in the order of the categories."""
    card, groups = tests.card, tests.groups
    is_specialist = confirmed(tests, alpha)
    found = []
    for category, name in enumerate(groups.categories):
        scores = tests.scores[:, category]
        best = int(np.nanargmax(scores)) if np.isfinite(scores).any() else None
        found.append(
            CategorySummary(
                sae=card.name,
                hook_point=card.hook_point,
                layer=card.layer,
                threshold=tests.threshold.name,
                category=name,
                n_texts=int(groups.row_counts[:, category].sum()),
                n_distinct=int(np.count_nonzero(groups.row_counts[:, category])),
                n_specialists=int(is_specialist[:, category].sum()),
                best_feature=best,
                best_score=float("nan") if best is None else float(scores[best]),
            )
        )
    return tuple(found)


def summarize_layers(
    all_tests: Sequence[CategoryTests], alpha: float = ALPHA
) -> tuple[LayerSummary, ...]:
    """Specialists of each SAE, by layer; SAEs without a layer come last."""
    found = []
    for tests in all_tests:
        is_specialist = confirmed(tests, alpha)
        n_categories = len(tests.groups.categories)
        fires = np.nanmax([tests.shares_inside, tests.shares_outside], axis=0) > 0
        found.append(
            LayerSummary(
                layer=tests.card.layer,
                hook_point=tests.card.hook_point,
                sae=tests.card.name,
                threshold=tests.threshold.name,
                n_features=len(is_specialist),
                n_firing=int(fires.any(axis=1).sum()),
                n_specialists=int(is_specialist.any(axis=1).sum()),
                share_categories=(
                    float(is_specialist.any(axis=0).mean()) if n_categories else float("nan")
                ),
            )
        )
    return tuple(sorted(found, key=lambda one: (one.layer is None, one.layer or 0)))


def confirmed(tests: CategoryTests, alpha: float = ALPHA) -> NDArray[np.bool_]:
    """Which feature is a specialist of which category, `(d_sae, n_categories)`."""
    return (tests.p_adjusted <= alpha) & (tests.scores > 0)


def _order(tests: CategoryTests, category: int, alpha: float) -> NDArray[np.int64]:
    """The category's specialists, largest score first; among equals the smaller p-value."""
    chosen = np.flatnonzero(confirmed(tests, alpha)[:, category])
    keys = (tests.p_values[chosen, category], -tests.scores[chosen, category])
    return chosen[np.lexsort(keys)]


def _weighted_share(fires: FloatArray, weights: FloatArray, rng: np.random.Generator) -> FloatArray:
    """The share of the weights on texts that fire, with the prior's: `(n_draws, n_features)`."""
    firing_prior, silent_prior = rng.standard_gamma(0.5, (2, len(weights), 1))
    total = weights.sum(axis=1, keepdims=True) + firing_prior + silent_prior
    share: FloatArray = (weights @ fires + firing_prior) / total
    return share


def _specialist(
    tests: CategoryTests, category: int, feature: int, interval: FloatArray
) -> Specialist:
    counts = tests.groups.row_counts[:, category]
    score = float(tests.scores[feature, category])
    return Specialist(
        sae=tests.card.name,
        category=tests.groups.categories[category],
        feature=feature,
        threshold=tests.threshold.name,
        score=score,
        ci_low=min(float(interval[0]), score),
        ci_high=max(float(interval[1]), score),
        share_inside=float(tests.shares_inside[feature, category]),
        share_outside=float(tests.shares_outside[feature, category]),
        p_value=float(tests.p_values[feature, category]),
        p_adjusted=float(tests.p_adjusted[feature, category]),
        n_inside=int(counts.sum()),
        n_outside=tests.groups.n_texts - int(counts.sum()),
        n_distinct_inside=int(np.count_nonzero(counts)),
    )
