"""New clusters in a later round: of texts far from every centroid, close together, and new.

The rule has one length, the *reach*: how far rows of the earlier rounds are from their centroid.
Each is left out of its own centroid for that, because a row that helped to place a centroid is
nearer to it than a row that did not.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from whatchanged.nearest import FloatRows, measure_distances

Weights: TypeAlias = NDArray[np.float64]

# One in twenty of the earlier rows lies beyond the reach.
_REACH_QUANTILE = 0.95
# As improbable must an excess of new rows be: many candidates are tried.
_MAX_P_VALUE = 1e-3
_MAX_FAR_ROWS = 2048
_MAX_MOVES = 10


class _Found(NamedTuple):
    """Squared distances `(n,)` to the nearest centroid, the row itself left out, and the squared
    reach."""

    squared: FloatRows
    reach: float


class _Candidate(NamedTuple):
    """A centroid `(d,)`, the rows `is_inside (m,)` that it is the mean of, and the squared
    distances `(m,)` to it, each row left out."""

    centroid: FloatRows
    is_inside: NDArray[np.bool_]
    squared: Weights


def count_room(n_clusters: int, max_growth: float, k: int) -> int:
    """How many clusters may join k others: `max_growth` is a share of the `n_clusters` asked."""
    return max(0, int(n_clusters * (1 + max_growth)) - k)


def found_clusters(
    rows: FloatRows,
    weights: Weights,
    is_new: NDArray[np.bool_],
    centroids: FloatRows,
    *,
    min_size: int,
    room: int,
) -> FloatRows:
    """The centroids `(g, d)` of the clusters that distinct rows `(n, d)` call for; g <= `room`.

    `centroids (k, d)` are of the rows that are not `is_new (n,)`; `weights (n,)` say how often a
    row occurs. A cluster is founded where new rows are

    1. far: beyond the reach of every centroid;
    2. close together: within the reach of their mean, each measured against the others, and there
       at least `min_size` times;
    3. new: of the rows to which that mean is nearer than their centroid, more are new than
       their share of all rows explains (Fisher's exact test, one-sided, p < 0.001).

    Candidates are the means of neighbourhoods, the one that reaches most rows first, and what it
    reaches is taken out before the next (quality threshold clustering: Heyer, Kruglyak and Yooseph
    1999). At most 2048 far rows are looked at. Deterministic. Nothing is founded without new rows,
    without earlier ones, or without room.
    """
    founded = np.zeros((0, rows.shape[1]), dtype=np.float32)
    if room < 1 or is_new.all() or not is_new.any():
        return founded
    squared, reach = _measure_reach(rows, weights, is_new, centroids)
    far = np.flatnonzero(is_new & (squared > reach))
    far = far[np.linspace(0, len(far) - 1, min(len(far), _MAX_FAR_ROWS)).astype(np.intp)]
    seeds = _mean_neighbours(rows[far], weights[far], min_size)
    spread = _squared_distances(seeds, rows[far])
    while len(founded) < room and len(far):
        reached = (spread < np.minimum(squared[far], reach)) @ weights[far]
        best = int(reached.argmax())
        if reached[best] < min_size:
            break
        candidate = _settle(seeds[best], rows[far], weights[far], np.minimum(squared[far], reach))
        nearer = _squared_distances(candidate.centroid[None], rows)[0]
        nearer[far] = candidate.squared
        size = weights[far] @ (candidate.squared < np.minimum(squared[far], reach))
        if size >= min_size and _is_new(nearer < squared, weights, is_new):
            founded = np.concatenate([founded, candidate.centroid[None]])
            squared = np.minimum(squared, nearer)
        left = ~candidate.is_inside
        left[best] = False
        far, seeds, spread = far[left], seeds[left], spread[np.ix_(left, left)]
    return founded


def _measure_reach(
    rows: FloatRows, weights: Weights, is_new: NDArray[np.bool_], centroids: FloatRows
) -> _Found:
    found = measure_distances(rows, centroids)
    known = np.where(is_new, 0.0, weights)
    masses = np.bincount(found.labels, weights=known, minlength=len(centroids)).astype(np.float64)
    # Without itself, a row would be nearest to the next centroid at worst.
    left_out = found.nearest * _leave_out(masses[found.labels], known, np.inf) ** 2
    squared = np.where(is_new, found.nearest, np.fmin(left_out, found.second))
    return _Found(squared, float(np.quantile(squared[~is_new], _REACH_QUANTILE)))


def _leave_out(masses: Weights, weights: Weights, alone: float) -> Weights:
    """How many times farther a row of some weight is from the mean of the others than from the
    mean of all, which has some mass; `alone` where there are no others."""
    others = masses - weights
    times = np.full(len(weights), alone)
    np.divide(masses, others, out=times, where=others > 0)
    return times


def _mean_neighbours(rows: FloatRows, weights: Weights, n: int) -> FloatRows:
    """For every row `(m, d)` the weighted mean of itself and its nearest, n rows in all."""
    n = min(n, len(rows))
    if n == 0:
        return rows
    nearest = np.argpartition(_squared_distances(rows, rows), n - 1, axis=1)[:, :n]
    sums = np.einsum("mn,mnd->md", weights[nearest], rows[nearest])
    return np.asarray(sums / weights[nearest].sum(axis=1, keepdims=True), dtype=np.float32)


def _settle(seed: FloatRows, rows: FloatRows, weights: Weights, limits: FloatRows) -> _Candidate:
    """The seed moved to the mean of the rows within their `limits (m,)` of it, until it rests."""
    centroid, is_inside = seed, np.zeros(len(rows), dtype=bool)
    for _ in range(_MAX_MOVES):
        squared = _squared_distances(centroid[None], rows)[0]
        before, is_inside = is_inside, squared < limits
        if not is_inside.any() or np.array_equal(before, is_inside):
            break
        mass = weights[is_inside].sum()
        centroid = (weights[is_inside] @ rows[is_inside] / mass).astype(np.float32)
    squared = _squared_distances(centroid[None], rows)[0].astype(np.float64)
    inside = weights[is_inside]
    squared[is_inside] *= _leave_out(np.full(len(inside), inside.sum()), inside, 0.0) ** 2
    return _Candidate(centroid, is_inside, squared)


def _is_new(leaves: NDArray[np.bool_], weights: Weights, is_new: NDArray[np.bool_]) -> bool:
    """Whether new rows are among those that leave more often than earlier ones."""
    from scipy.stats import fisher_exact

    table = [
        [round(weights[chosen & leaves].sum()), round(weights[chosen & ~leaves].sum())]
        for chosen in (is_new, ~is_new)
    ]
    return bool(fisher_exact(table, alternative="greater").pvalue < _MAX_P_VALUE)


def _squared_distances(points: FloatRows, rows: FloatRows) -> FloatRows:
    """Squared distances `(m, n)` of `points (m, d)` to `rows (n, d)`."""
    lengths = np.einsum("nd,nd->n", rows, rows)
    squared = np.einsum("md,md->m", points, points)[:, None] + lengths - 2 * (points @ rows.T)
    return np.asarray(np.maximum(squared, 0), dtype=np.float32)
