"""Which texts the expensive judge sees: the borderline, and of the others a random share that grows
with the cheap judge's uncertainty, wave by wave.

Nothing here knows a side. A text's chance to be asked about depends on its calibrated cheap score
alone, so that the sides of one prompt stay exchangeable wherever the intervention changed nothing,
and the permutation test of the merged scores stays exact.

A unit is a text, or a coupled pair: of a pair, both texts are asked about or neither. Every unit
has one random number for good (permanent random numbers, Ohlsson 1995); a wave asks about those
with the smallest in each stratum. So waves are nested, each is a simple random sample of its
stratum, and a run that was killed asks about the same texts again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from whatchanged.errors import UsageError

FloatArray: TypeAlias = NDArray[np.float64]
BoolArray: TypeAlias = NDArray[np.bool_]
Labels: TypeAlias = NDArray[np.int64]

# Calibrated scores nearer than this to 0 or 1 are beyond doubt.
_SURE = 0.05
# A sure text is asked about at least as often as if the cheap judge were wrong in one of 100.
_LEAST_UNCERTAINTY = 0.1
_BORDERLINE = 2


@dataclass(frozen=True, slots=True)
class Strata:
    """Units of like scores: `labels (n_units,)`, and per stratum `(n_strata,)` its size, the mean
    uncertainty in [0.1, 1/2] of its units and whether it is borderline."""

    labels: Labels
    sizes: Labels
    uncertainty: FloatArray
    is_borderline: BoolArray


def stratify_texts(calibrated: ArrayLike, borderline: tuple[float, float]) -> Strata:
    """Texts by calibrated score `(n_texts,)`: surely not, rather not, borderline (bounds included),
    rather yes, surely yes. Raises UsageError for scores outside [0, 1]."""
    scores = _checked(calibrated)
    return _strata(_degree(scores, borderline), np.sqrt(scores * (1 - scores)), 5, [_BORDERLINE])


def stratify_pairs(
    calibrated: ArrayLike, is_identical: BoolArray, borderline: tuple[float, float]
) -> Strata:
    """Coupled pairs by the calibrated scores `(n_pairs, 2)` of their texts, in either order.

    A pair is borderline where one of its texts is. Else what counts is whether both are sure, and
    whether they fall on different sides of 1/2. Pairs of identical texts `(n_pairs,)` have no
    difference to ask about, and are a stratum of no uncertainty. Raises UsageError for scores
    outside [0, 1].
    """
    scores = _checked(calibrated)
    degrees = _degree(scores, borderline)
    is_borderline = (degrees == _BORDERLINE).any(axis=1)
    is_sure = np.isin(degrees, (0, 4)).all(axis=1)
    differ = (degrees > _BORDERLINE).any(axis=1) & (degrees < _BORDERLINE).any(axis=1)
    both_meet = (degrees > _BORDERLINE).all(axis=1)
    kind = np.where(differ, 2, np.where(both_meet, 1, 0))
    labels = np.where(is_identical, 7, np.where(is_borderline, 6, 2 * kind + ~is_sure))
    strata = _strata(labels, np.sqrt((scores * (1 - scores)).mean(axis=1)), 8, [6])
    strata.uncertainty[7] = 0.0
    return strata


def permanent_order(n_units: int, seed: int) -> Labels:
    """The place `(n_units,)` of every unit in the random order in which it is asked about.

    Sort units by their text keys before, so that the order depends on nothing but the set.
    """
    return np.random.default_rng(seed).permutation(n_units).astype(np.int64)


def choose_pilot(order: Labels, share: float, is_identical: BoolArray | None = None) -> BoolArray:
    """The units of the pilot audit `(n_units,)`: a random `share`, rounded up, of all alike; of
    pairs, of those that are not identical."""
    asked = np.ones(len(order), dtype=np.bool_) if is_identical is None else ~is_identical
    n_pilot = math.ceil(share * int(asked.sum()) - 1e-9)
    chosen = np.zeros(len(order), dtype=np.bool_)
    chosen[np.argsort(np.where(asked, order, len(order)), kind="stable")[:n_pilot]] = True
    return chosen


def choose_wave(
    strata: Strata, order: Labels, share: float, borderline_share: float, chosen: BoolArray
) -> BoolArray:
    """The units asked about up to this wave `(n_units,)`, the ones `chosen` before among them.

    `borderline_share` of the borderline, and of every other stratum a share that is proportional to
    its uncertainty, `share` of them on average, rounded up: the least variance for the money
    (Neyman 1934; Zrnic and Candès 2024, "Active statistical inference"). A `share` of 1 asks about
    all but identical pairs.
    """
    if share >= 1:
        return strata.uncertainty[strata.labels] > 0
    outside = strata.sizes * ~strata.is_borderline * (strata.uncertainty > 0)
    mean = (outside * strata.uncertainty).sum() / max(1, outside.sum())
    shares = np.minimum(1.0, share * strata.uncertainty / max(mean, _LEAST_UNCERTAINTY))
    shares[strata.is_borderline] = borderline_share
    wanted = np.ceil(shares * strata.sizes - 1e-9)
    asked: BoolArray = chosen | (_place_in_stratum(strata, order) < wanted[strata.labels])
    return asked


def _strata(labels: Labels, uncertainty: FloatArray, n: int, borderline: list[int]) -> Strata:
    sizes = np.bincount(labels, minlength=n)
    mean = np.bincount(labels, weights=uncertainty, minlength=n) / np.maximum(sizes, 1)
    return Strata(
        labels.astype(np.int64),
        sizes.astype(np.int64),
        np.maximum(mean, _LEAST_UNCERTAINTY),
        np.isin(np.arange(n), borderline),
    )


def _degree(scores: FloatArray, borderline: tuple[float, float]) -> Labels:
    """0 surely not, 1 rather not, 2 borderline, 3 rather yes, 4 surely yes, in the shape given."""
    low, high = borderline
    degree = np.where(scores < low, 1, np.where(scores > high, 3, _BORDERLINE))
    degree = np.where((degree == 1) & (scores < _SURE), 0, degree)
    return np.where((degree == 3) & (scores > 1 - _SURE), 4, degree).astype(np.int64)


def _place_in_stratum(strata: Strata, order: Labels) -> Labels:
    by_stratum = np.lexsort((order, strata.labels))
    starts = np.cumsum(strata.sizes) - strata.sizes
    places = np.empty(len(order), dtype=np.int64)
    places[by_stratum] = np.arange(len(order)) - starts[strata.labels[by_stratum]]
    return places


def _checked(calibrated: ArrayLike) -> FloatArray:
    scores = np.asarray(calibrated, dtype=np.float64)
    if not ((scores >= 0) & (scores <= 1)).all():
        raise UsageError("expected calibrated scores in [0, 1]: leave unanswered texts out")
    return scores
