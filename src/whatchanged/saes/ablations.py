"""Does the model use its specialists? Which texts to try, and what the answers say.

A specialist is taken out on texts of its category. Two controls stand beside it: features that
fire as often there without being specialists of it, and the same feature on texts of the other
categories.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from whatchanged.saes.category_tests import ALPHA, CategoryTests, FloatArray
from whatchanged.saes.shuffles import family_p_values
from whatchanged.saes.specialists import Specialist, confirmed
from whatchanged.stats import benjamini_hochberg

_N_DRAWS = 10_000


@dataclass(frozen=True)
class Trial:
    """One category: the `features` to take out, best first, all its `specialists` (none of which is
    a control), rows of texts of it, and rows of texts of all others."""

    category: str
    features: tuple[int, ...]
    specialists: frozenset[int]
    rows: tuple[int, ...]
    elsewhere: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class TrialEffects:
    """Changes of the texts' log-probabilities in nats, below 0 where a feature made them likelier.

    `own (n_features, n_texts)`, `controls (n_features, n_controls, n_texts)` and `elsewhere
    (n_features, n_elsewhere)` are those of the specialists `features`; without any other feature
    that fires on the texts, n_controls is 0.
    """

    features: tuple[int, ...]
    own: FloatArray
    controls: FloatArray
    elsewhere: FloatArray


@dataclass(frozen=True, slots=True)
class AblatedSpecialist:
    """A specialist taken out: mean changes of a text's log-probability in nats.

    `change` and its interval are on texts of the category, `change_controls` is that of the
    controls there, `change_strongest_control` that of the one that matters most, and
    `change_elsewhere` the specialist's own on texts of other categories. `is_used`: without it
    the category's texts are less likely (the interval is below 0), significantly more so than
    without a control on average, and more so than without any of them.
    """

    sae: str
    category: str
    feature: int
    is_used: bool
    change: float
    ci_low: float
    ci_high: float
    change_controls: float
    change_strongest_control: float
    change_elsewhere: float
    p_value: float
    p_adjusted: float
    n_texts: int
    n_controls: int
    n_elsewhere: int


def plan_trials(
    specialists: Sequence[Specialist],
    tests: CategoryTests,
    *,
    alpha: float,
    n_best: int,
    n_texts: int,
    seed: int,
) -> tuple[Trial, ...]:
    """A trial for every category with specialists: its first `n_best` of those given, up to
    `n_texts` distinct texts of it, and about as many of the others, evenly by category.

    `tests` are those that gave them, at the level `alpha`.
    """
    groups, is_specialist = tests.groups, confirmed(tests, alpha)
    rng = np.random.default_rng(seed)
    features: dict[str, list[int]] = defaultdict(list)
    for specialist in specialists:
        features[specialist.category].append(specialist.feature)
    rows = {
        name: rng.permutation(groups.first_rows[groups.row_counts[:, place] > 0])
        for place, name in enumerate(groups.categories)
    }
    return tuple(
        Trial(
            category,
            tuple(own[:n_best]),
            frozenset(np.flatnonzero(is_specialist[:, groups.categories.index(category)]).tolist()),
            tuple(sorted(rows[category][:n_texts].tolist())),
            _elsewhere(rows, category, n_texts),
        )
        for category, own in features.items()
        if n_best
    )


def judge_effects(
    sae: str,
    trials: Sequence[Trial],
    effects: Sequence[TrialEffects],
    *,
    seed: int,
    alpha: float = ALPHA,
) -> tuple[AblatedSpecialist, ...]:
    """Whether the model uses each specialist, in the order of the trials.

    The test flips the signs of whole texts: were a specialist no more to the model than its
    controls, its change less their mean would as likely be above 0 as below. Corrected over all
    specialists of the SAE (Benjamini and Hochberg 1995). The interval is that of the mean over
    texts by the Bayesian bootstrap (Rubin 1981). Without a control nothing can be told: p is 1.
    """
    rng = np.random.default_rng(seed)
    found = [
        _judge(sae, trial.category, effect, place, rng)
        for trial, effect in zip(trials, effects, strict=True)
        for place in range(len(effect.features))
    ]
    adjusted = benjamini_hochberg([one.p_value for one in found]).tolist()
    return tuple(
        replace(
            one,
            p_adjusted=p_adjusted,
            is_used=(
                p_adjusted <= alpha
                and one.ci_high < 0
                and one.change < one.change_strongest_control
            ),
        )
        for one, p_adjusted in zip(found, adjusted, strict=True)
    )


def _elsewhere(
    rows: Mapping[str, NDArray[np.int64]], category: str, n_texts: int
) -> tuple[int, ...]:
    """Rows of the other categories, none of them also of this one."""
    own = set(rows[category].tolist())
    others = [[i for i in some.tolist() if i not in own] for some in rows.values()]
    n_each = -(-n_texts // max(1, len(rows) - 1))
    return tuple(sorted({i for some in others for i in some[:n_each]}))


def _judge(
    sae: str, category: str, effects: TrialEffects, place: int, rng: np.random.Generator
) -> AblatedSpecialist:
    own, controls = effects.own[place], effects.controls[place]
    weights = rng.standard_exponential((_N_DRAWS, len(own)))
    ci_low, ci_high = np.quantile(weights @ own / weights.sum(axis=1), [0.025, 0.975])
    p_value = 1.0
    if len(controls):
        # The gain over the controls, larger where the specialist matters more than they do.
        gain = controls.mean(axis=0) - own
        flipped = rng.choice([-1.0, 1.0], size=(_N_DRAWS, len(gain))) @ gain
        p_value = float(family_p_values(np.array([gain.sum()]), flipped)[0])
    return AblatedSpecialist(
        sae=sae,
        category=category,
        feature=effects.features[place],
        is_used=False,
        change=float(own.mean()),
        # Where all changes are equal, rounding must not put the mean outside.
        ci_low=min(float(ci_low), float(own.mean())),
        ci_high=max(float(ci_high), float(own.mean())),
        change_controls=_mean(controls),
        change_strongest_control=float(controls.mean(axis=1).min()) if len(controls) else math.nan,
        change_elsewhere=_mean(effects.elsewhere[place]),
        p_value=p_value,
        p_adjusted=1.0,
        n_texts=len(own),
        n_controls=len(controls),
        n_elsewhere=effects.elsewhere.shape[1],
    )


def _mean(changes: FloatArray) -> float:
    return float(changes.mean()) if changes.size else math.nan
