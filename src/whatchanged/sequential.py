"""Stopping when decided: p-values that stay valid however often the data are looked at.

The cheap judge reads every text. The expensive one reads them in waves, after each of which a
hypothesis may be confirmed, dropped, or carried on. At every look the test statistic compares the
sides' *merged* scores: what the expensive judge said where it was asked, else the calibrated cheap
score. The looks overlap, so that their z-scores are correlated, and how much can be read off the
merged scores without a look at the sides.

Confirming at several looks is paid for by spending alpha (Lan and DeMets 1983). Dropping is free:
a hypothesis that is given up, for whatever reason, cannot become a false discovery.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from whatchanged.errors import UsageError
from whatchanged.records import Direction
from whatchanged.stats import benjamini_hochberg

FloatArray: TypeAlias = NDArray[np.float64]
BoolArray: TypeAlias = NDArray[np.bool_]
Labels: TypeAlias = NDArray[np.int64]
Decision = Literal["confirmed", "dropped", "open"]

# Benjamini-Hochberg asks more of a finding than alpha: hopes are measured at a third of it.
HOPED_SHARE_OF_ALPHA = 1 / 3
# The levels at which boundaries are tabulated: a p-value between two is interpolated, one below
# the first is given as the first.
_LEVELS = np.geomspace(1e-6, 0.5, 60)
# Nodes of the integral over the looks before, and how far below zero it starts (in z).
_N_NODES = 64
_LOWEST_Z = -8.0
# Looks that are closer are taken as this close: less correlation means higher boundaries, so that
# the level holds, and the integral needs no more nodes.
_MAX_RATIO = 0.97
# Merged scores that keep less than this of the verdicts' variance tell nothing.
_LEAST_ATTENUATION = 0.01


@dataclass(frozen=True, slots=True)
class Look:
    """What the merged scores say of a difference in the claimed direction (positive: as claimed).

    `raw` is the difference of mean merged scores with its standard error `raw_error` under the
    null, `attenuation` in (0, 1] how much of a difference of verdicts the merged scores keep, and
    `full_error` the standard error of a difference of all verdicts.
    """

    raw: float
    raw_error: float
    attenuation: float
    full_error: float


def merge_scores(calibrated: FloatArray, meets: BoolArray, is_judged: BoolArray) -> FloatArray:
    """The merged scores, in the shape of the arguments: 1 or 0 where the expensive judge answered,
    else the calibrated cheap score."""
    return np.where(is_judged, meets.astype(np.float64), calibrated)


def look_at_sides(
    merged: FloatArray, is_intervention: BoolArray, prompts: Labels, direction: Direction
) -> Look:
    """The look at independent texts, `(n_texts,)` each, within the prompts that `prompts` numbers.

    Sides are compared within prompts, weighted as the permutation within prompt weights them
    (n_base n_intervention / n), and with its variance: that of texts about the mean of their
    prompt. Prompts with texts of one side only tell nothing; without others `raw` is nan.
    """
    n_intervention, n_all, of_intervention, total, squares = (
        np.bincount(prompts, weights=weights)
        for weights in (
            is_intervention, np.ones(len(merged)), merged * is_intervention, merged, merged**2,
        )
    )  # fmt: skip
    filled = np.maximum(n_all, 1)
    weight = n_intervention * (n_all - n_intervention) / filled
    if weight.sum() == 0:
        return Look(math.nan, 0.0, 1.0, 0.0)
    raw = float((of_intervention - n_intervention * total / filled).sum() / weight.sum())
    within = (squares - total**2 / filled) / np.maximum(n_all - 1, 1)
    # Rounding must not make the variance of equal scores negative.
    variance = max(0.0, float((weight * within).sum() / weight.sum()))
    whole = float(merged.var())
    verdicts = _verdict_variance(merged) * (variance / whole if whole > 0 else 1.0)
    return Look(
        raw if direction == "more" else -raw,
        math.sqrt(variance / weight.sum()),
        _attenuation(merged),
        math.sqrt(verdicts / weight.sum()),
    )


def look_at_pairs(merged: FloatArray, is_identical: BoolArray, direction: Direction) -> Look:
    """The look at coupled pairs, `(n_pairs, 2)`, base first, of which some are the same text twice
    `(n_pairs,)`. No pairs give a `raw` of nan."""
    n_pairs = len(merged)
    if n_pairs == 0:
        return Look(math.nan, 0.0, 1.0, 0.0)
    base, intervention = merged[:, 0], merged[:, 1]
    raw = float((intervention - base).mean())
    # Under the null the sides of a pair may change places: the mean difference is 0.
    variance = float(((intervention - base) ** 2).mean())
    differs = intervention * (1 - base) + base * (1 - intervention)
    discordant = float(np.where(is_identical, 0.0, differs).mean())
    return Look(
        raw if direction == "more" else -raw,
        math.sqrt(variance / n_pairs),
        _attenuation(merged),
        math.sqrt(discordant / n_pairs),
    )


def correlate_looks(before: FloatArray, after: FloatArray, strata: Labels) -> float:
    """The correlation in [-1, 1] of two looks' permuted sums, from merged scores `(n_texts,)`.

    Under a permutation of sides within strata (prompts or pairs) the sums covary as the scores do
    about the means of their stratum: exact for strata with equal numbers of texts. Looks without
    variance give 0. Sides play no part.
    """
    n_texts = np.maximum(np.bincount(strata), 1)
    first, second = (
        scores - (np.bincount(strata, weights=scores) / n_texts)[strata]
        for scores in (before, after)
    )
    scale = math.sqrt(float((first**2).sum() * (second**2).sum()))
    return float(np.clip((first * second).sum() / scale, -1, 1)) if scale > 0 else 0.0


def margin_p_value(look: Look, min_effect: float) -> float:
    """The one-sided p-value of H0: the verdicts' difference, as claimed, is at most `min_effect`.

    Merged scores keep `attenuation` of it. That holds where the cheap judge, given what the
    expensive one would say, errs alike on both sides (errors are *non-differential*); a judge that
    is fooled by the intervention's style is what `prediction` guards against. Normal: its level at
    the border is measured in `benchmarks/judge_cost.py`. No variance gives 1.0.
    """
    from scipy.special import ndtr

    if not math.isfinite(look.raw) or look.raw_error == 0:
        return 1.0
    return float(ndtr(-(look.raw - min_effect * look.attenuation) / look.raw_error))


def chance_to_confirm(look: Look, min_effect: float, level: float) -> float:
    """The chance in [0, 1] that the margin test at `level` would reject if every text had been
    asked about, given this look and no prior: the predictive power (Spiegelhalter, Freedman and
    Blackburn 1986). Stopping where it is small costs no level."""
    from scipy.special import ndtr, ndtri

    if not math.isfinite(look.raw) or look.raw_error == 0:
        return 0.0
    needed = min_effect - float(ndtri(level)) * look.full_error
    excess = look.raw / look.attenuation - needed
    left = (look.raw_error / look.attenuation) ** 2 - look.full_error**2
    if left <= 0:
        return float(excess >= 0)
    return float(ndtr(excess / math.sqrt(left)))


def sequential_p_value(
    p_values: Sequence[float], correlations: Sequence[float], spent: Sequence[float]
) -> float:
    """The p-value in [1e-6, 1] of a test that was looked at several times.

    `p_values (n_looks,)` are one-sided and each valid alone; `correlations (n_looks - 1,)` are
    those of each look with the next (`correlate_looks`); `spent (n_looks,)` is the share of alpha
    that may be spent up to each look, in (0, 1] and not decreasing. The answer is the smallest
    level at which the Lan and DeMets (1983) boundary is crossed at any look so far: it never grows
    as looks are added, so a decision that was made on it, also by Benjamini-Hochberg, is never
    taken back. A single look that may spend everything gives its p-value back.

    The looks are taken as a Gaussian Markov chain, the canonical law of group-sequential designs
    (Jennison and Turnbull 1997), which merged scores have where they are calibrated: each is then
    the best guess of the next. Raises UsageError for entries that do not match or lie outside
    their ranges.
    """
    _check_looks(p_values, correlations, spent)
    boundaries = _nominal_levels(_ratios(correlations), tuple(spent))
    smallest = 1.0
    for p_value, nominal in zip(p_values, boundaries, strict=True):
        if p_value <= nominal[-1]:
            level = np.exp(
                np.interp(math.log(max(p_value, 1e-300)), np.log(nominal), np.log(_LEVELS))
            )
            # No look is worth more than its own p-value, whatever the table's rounding says.
            smallest = min(smallest, max(float(level), p_value))
    return smallest


def repeated_confidence(
    correlations: Sequence[float], spent: Sequence[float], confidence: float = 0.95
) -> float:
    """The confidence at which to take a plain interval at the last look, so that the intervals of
    all looks together hold the truth with `confidence`: repeated confidence intervals (Jennison and
    Turnbull 1989). Without a look, and with one that may spend everything, `confidence` itself.

    Arguments and errors as in `sequential_p_value`.
    """
    if not spent:
        return confidence
    _check_looks([1.0] * len(spent), correlations, spent)
    nominal = _nominal_levels(_ratios(correlations), tuple(spent))[-1]
    tail = np.interp(math.log((1 - confidence) / 2), np.log(_LEVELS), np.log(nominal))
    return 1 - 2 * float(np.exp(tail))


def decide(
    p_values: Sequence[float],
    guards: Sequence[float],
    chances: Sequence[float],
    *,
    alpha: float,
    max_guard: float,
    least_chance: float,
) -> list[Decision]:
    """What becomes of every hypothesis of a run after a wave, in the order given.

    Confirmed: Benjamini-Hochberg at `alpha` over the sequential p-values of *all* hypotheses,
    dropped ones included (1.0 where there never was a look). A hypothesis whose prediction has a
    p-value (the guard) above `max_guard` takes part with a p-value of 1. Dropped: the chance to
    confirm is below `least_chance`. A decision stands: the caller keeps it, and keeps passing what
    the hypothesis had at its last look.

    Raises UsageError for p-values outside [0, 1].
    """
    guarded = np.where(np.asarray(guards) <= max_guard, np.asarray(p_values), 1.0)
    return [
        "confirmed" if p_value <= alpha else "dropped" if chance < least_chance else "open"
        for p_value, chance in zip(benjamini_hochberg(guarded), chances, strict=True)
    ]


@lru_cache(maxsize=4096)
def _nominal_levels(ratios: tuple[float, ...], spent: tuple[float, ...]) -> FloatArray:
    """Which p-value crosses at each look, `(n_looks, n_levels)`, for every level of the table.

    `ratios` are squared correlations of each look with the next. At look k the boundary is the z
    with P(no crossing before, Z_k >= z) = level * (spent_k - spent_(k-1)), by recursive integration
    over the score process (Armitage, McPherson and Rowe 1969).
    """
    from scipy.special import ndtr, ndtri

    nodes, weights = np.polynomial.legendre.leggauss(_N_NODES)
    # In units of the first look's, so that a later look changes no boundary before it.
    times = np.cumprod([1.0, *(1 / ratio for ratio in ratios)])
    steps = np.diff(np.asarray(spent, dtype=np.float64), prepend=0.0)
    rows = np.empty((len(times), len(_LEVELS)))
    places = density = np.empty(0)
    for look, (time, step) in enumerate(zip(times, steps, strict=True)):
        before = times[look - 1] if look else 0.0
        spread = math.sqrt(time - before)
        budget = _LEVELS * step
        if look == 0:
            bound = -ndtri(budget) * math.sqrt(time)
        else:
            bound = _solve_bound(places, density, spread, budget, math.sqrt(time))
        rows[look] = ndtr(-bound / math.sqrt(time))
        low = _LOWEST_Z * math.sqrt(time)
        half = (bound - low)[:, None] / 2
        new_places = low + half * (nodes + 1)
        if look == 0:
            new_density = _normal_density(new_places / spread) / spread
        else:
            kernel = _normal_density((new_places[:, :, None] - places[:, None, :]) / spread)
            new_density = (kernel * density[:, None, :]).sum(axis=2) / spread
        # The quadrature weights travel with the density: the next look sums, and is done.
        places, density = new_places, new_density * half * weights
    return rows


def _solve_bound(
    places: FloatArray, density: FloatArray, spread: float, budget: FloatArray, scale: float
) -> FloatArray:
    """The score `(n_levels,)` that is exceeded, without a crossing before, with `budget`."""
    from scipy.special import ndtr

    low, high = np.full(len(budget), _LOWEST_Z * scale), np.full(len(budget), -_LOWEST_Z * scale)
    for _ in range(40):
        middle = (low + high) / 2
        above = (density * ndtr((places - middle[:, None]) / spread)).sum(axis=1)
        low, high = np.where(above > budget, middle, low), np.where(above > budget, high, middle)
    return high


def _ratios(correlations: Sequence[float]) -> tuple[float, ...]:
    """Squared correlations, rounded down (which is conservative, and lets boundaries be recalled),
    in [0.01, `_MAX_RATIO`]: each look's information over the next one's."""
    return tuple(
        min(_MAX_RATIO, max(0.01, math.floor(100 * max(0.0, value) ** 2) / 100))
        for value in correlations
    )


def _attenuation(merged: FloatArray) -> float:
    """Of merged scores that are calibrated: the regression of a score on its verdict."""
    verdict_variance = _verdict_variance(merged)
    kept = float(merged.var()) / verdict_variance if verdict_variance > 0 else 1.0
    return min(1.0, max(_LEAST_ATTENUATION, kept))


def _verdict_variance(merged: FloatArray) -> float:
    share = float(merged.mean())
    return share * (1 - share)


def _normal_density(z: FloatArray) -> FloatArray:
    density: FloatArray = np.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
    return density


def _check_looks(
    p_values: Sequence[float], correlations: Sequence[float], spent: Sequence[float]
) -> None:
    if not len(p_values) == len(correlations) + 1 == len(spent):
        raise UsageError(
            "expected a p-value and a spent share per look and a correlation between looks, found "
            f"{len(p_values)}, {len(spent)} and {len(correlations)}"
        )
    if not all(0 <= p <= 1 for p in p_values):
        raise UsageError(f"expected p-values in [0, 1], found {list(p_values)}")
    if not all(-1 <= value <= 1 for value in correlations):
        raise UsageError(f"expected correlations in [-1, 1], found {list(correlations)}")
    if not all(0 < a <= b <= 1 for a, b in zip(spent, [*spent[1:], 1.0], strict=True)):
        raise UsageError(
            f"expected shares of alpha that grow from above 0 to at most 1, found {list(spent)}"
        )
