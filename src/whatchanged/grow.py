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
# So improbable must an excess in this round be: candidates are many, and the best is tried first.
_MAX_P_VALUE = 1e-5
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
    earlier: Weights,
    centroids: FloatRows,
    *,
    min_size: int,
    room: int,
) -> FloatRows:
    """The centroids `(g, d)` of the clusters that distinct rows `(n, d)` call for; g <= `room`.

    Rows occur `weights (n,)` times, and occurred `earlier (n,)` times in the round that `centroids
    (k, d)` are of; those that did not are new rows. A cluster is founded where new rows

    1. are far: beyond the reach of every centroid;
    2. are close together: within the reach of their mean, each measured against the others, and
       there at least `min_size` times;
    3. are new in more than name: of the occurrences that are nearer to that mean than to a
       centroid, more are of this round than of all occurrences (Fisher's exact test, one-sided,
       p < 0.00001). A kind of text of which no two are alike would be new in name for ever.

    Candidates are the means of neighbourhoods, the one that reaches most rows first, and what it
    reaches is taken out before the next (quality threshold clustering: Heyer, Kruglyak and Yooseph
    1999). At most 2048 far rows are looked at. Deterministic. Nothing is founded without new rows,
    without earlier ones, or without room.
    """
    founded = np.zeros((0, rows.shape[1]), dtype=np.float32)
    if room < 1:
        return founded
    squared, reach = _measure_reach(rows, earlier, centroids)
    far = np.flatnonzero((earlier == 0) & (squared > reach))
    looked_at = far[np.linspace(0, len(far) - 1, min(len(far), _MAX_FAR_ROWS)).astype(np.intp)]
    # What is counted among the rows that are looked at stands for all that are far.
    times = weights[far].sum() / max(weights[looked_at].sum(), 1.0)
    far = looked_at
    seeds = _mean_neighbours(rows[far], weights[far], min_size)
    spread = _squared_distances(seeds, rows[far])
    while len(founded) < room and len(far):
        reached = (spread <= reach) @ weights[far]
        best = int(reached.argmax())
        if reached[best] * times < min_size:
            break
        candidate = _settle(seeds[best], rows[far], weights[far], reach)
        nearer = _squared_distances(candidate.centroid[None], rows)[0]
        nearer[far] = candidate.squared
        size = weights[far] @ (candidate.squared <= reach) * times
        if size >= min_size and _is_new(nearer < squared, weights, earlier):
            founded = np.concatenate([founded, candidate.centroid[None]])
            squared = np.minimum(squared, nearer)
        left = ~candidate.is_inside & (squared[far] > reach)
        left[best] = False
        far, seeds, spread = far[left], seeds[left], spread[np.ix_(left, left)]
    return founded


def _measure_reach(rows: FloatRows, earlier: Weights, centroids: FloatRows) -> _Found:
    found = measure_distances(rows, centroids)
    masses = np.bincount(found.labels, weights=earlier, minlength=len(centroids)).astype(np.float64)
    # Without itself, a row would be nearest to the next centroid at worst; it is where it is alone.
    times = _leave_out(masses[found.labels], earlier)
    left_out = np.where(times > 0, found.nearest * times**2, np.inf)
    squared = np.where(earlier == 0, found.nearest, np.minimum(left_out, found.second))
    known = squared[(earlier > 0) & np.isfinite(squared)]
    return _Found(squared, float(np.quantile(known, _REACH_QUANTILE)) if len(known) else np.inf)


def _leave_out(masses: Weights, weights: Weights) -> Weights:
    """How many times farther a row of some weight is from the mean of the others than from the
    mean of all, which has some mass; 0 where there are no others."""
    others = masses - weights
    times = np.zeros(len(weights))
    np.divide(masses, others, out=times, where=others > 0)
    return times


def _mean_neighbours(rows: FloatRows, weights: Weights, min_size: int) -> FloatRows:
    """For every row `(m, d)` the mean of its nearest, itself first, that occur `min_size` times."""
    from scipy.sparse import csr_array

    if not len(rows):
        return rows
    n = min(min_size, len(rows))
    spread = _squared_distances(rows, rows)
    nearest = np.argpartition(spread, n - 1, axis=1)[:, :n]
    order = np.take_along_axis(spread, nearest, axis=1).argsort(axis=1, kind="stable")
    nearest = np.take_along_axis(nearest, order, axis=1)
    shares = weights[nearest]
    shares[shares.cumsum(axis=1) - shares >= min_size] = 0
    shares /= shares.sum(axis=1, keepdims=True)
    ends = np.arange(0, nearest.size + 1, n)
    weigh = csr_array((shares.ravel(), nearest.ravel(), ends), shape=spread.shape)
    return np.asarray(weigh @ rows, dtype=np.float32)


def _settle(seed: FloatRows, rows: FloatRows, weights: Weights, reach: float) -> _Candidate:
    """The seed moved to the mean of the rows within its reach, until it rests."""
    centroid, is_inside = seed, np.zeros(len(rows), dtype=bool)
    for _ in range(_MAX_MOVES):
        before, is_inside = is_inside, _squared_distances(centroid[None], rows)[0] <= reach
        if not is_inside.any() or np.array_equal(before, is_inside):
            break
        mass = weights[is_inside].sum()
        centroid = (weights[is_inside] @ rows[is_inside] / mass).astype(np.float32)
    squared = _squared_distances(centroid[None], rows)[0].astype(np.float64)
    inside = weights[is_inside]
    squared[is_inside] *= _leave_out(np.full(len(inside), inside.sum()), inside) ** 2
    return _Candidate(centroid, is_inside, squared)


def _is_new(leaves: NDArray[np.bool_], weights: Weights, earlier: Weights) -> bool:
    """Whether the occurrences of this round leave more often than those of the earlier one."""
    from scipy.stats import fisher_exact

    rounds = (np.maximum(weights - earlier, 0), earlier)
    table = [[round(part[leaves].sum()), round(part[~leaves].sum())] for part in rounds]
    return bool(fisher_exact(table, alternative="greater").pvalue < _MAX_P_VALUE)


def _squared_distances(points: FloatRows, rows: FloatRows) -> FloatRows:
    """Squared distances `(m, n)` of `points (m, d)` to `rows (n, d)`."""
    lengths = np.einsum("nd,nd->n", rows, rows)
    squared = np.einsum("md,md->m", points, points)[:, None] + lengths - 2 * (points @ rows.T)
    return np.asarray(np.maximum(squared, 0), dtype=np.float32)
