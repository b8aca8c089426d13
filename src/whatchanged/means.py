"""k-means in two parts: a sample in memory settles the centroids, then every row counts once.

The second part is mini-batch k-means with the learning rate of Sculley (2010): a centroid is the
running mean of the rows that it has met. `MiniBatchKMeans.partial_fit` makes the same step; made
here, it costs one assignment instead of two, tells the labels, and starts from centroids that
already stand for the sample.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from whatchanged.chunks import Chunks, read_chunks
from whatchanged.nearest import Distances, FloatRows, Labels, blocks, measure_distances

Weights: TypeAlias = NDArray[np.float64]

# The start is sought on a few thousand rows: enough to see the space, and quickly gone through.
_START_ROWS = 8192
_SEED_ROWS = 2048
_SEED_ROWS_PER_CLUSTER = 5
_N_BREATHS = 6
_BREATH_PASSES = 2
# Moving the centroids costs as much as assigning a few hundred rows.
_BATCH_ROWS = 4096
# Passes end when a smaller share of the rows changes its label.
_MOVING = 0.01


class Means(NamedTuple):
    """Centroids `(k, d)` and the weight `(k,)` of the rows that each is the mean of."""

    centroids: FloatRows
    masses: Weights


class Fit(NamedTuple):
    """Means of k clusters, and the label `(n,)` that each row had when it last moved them."""

    means: Means
    labels: Labels


def fit_sample(
    rows: FloatRows,
    weights: Weights,
    sides: NDArray[np.bool_],
    *,
    n_clusters: int,
    start: FloatRows | None,
    max_passes: int,
    rng: np.random.Generator,
) -> Fit:
    """k-means of distinct rows `(n, d)` from `start (k, d)`, or from `find_start`.

    Passes go on until fewer than 1% of the rows change their label. A cluster without rows moves
    onto a row that fits badly, so that labels stay with the clusters that they had. Without a
    `start`, at most `n_clusters` rows are their own centroids.
    """
    if start is None and n_clusters >= len(rows):
        return Fit(Means(rows, weights), np.arange(len(rows), dtype=np.int32))
    if start is None:
        part = interleave(sides, rng)[: max(_START_ROWS, _SEED_ROWS_PER_CLUSTER * n_clusters)]
        start = find_start(rows[part], weights[part], n_clusters, rng)
    means = _unweighted(start)
    labels = np.full(len(rows), -1, dtype=np.int32)
    for _ in range(max_passes):
        means, found = absorb(_unweighted(means.centroids), rows, weights)
        n_moved = np.count_nonzero(found.labels != labels)
        labels = found.labels.astype(np.int32)
        means, n_refilled = _refill(means, rows, found.nearest)
        if n_refilled == 0 and n_moved < _MOVING * len(rows):
            break
    return Fit(means, labels)


def stream(
    chunks: Chunks,
    starts: NDArray[np.intp],
    weights: Weights,
    means: Means,
    rng: np.random.Generator,
) -> Fit:
    """One pass over all rows, the chunks in random order, from means that a sample has settled.

    A centroid weighs as much as its part of the sample from the outset: no chunk, however
    one-sided, carries it away.
    """
    labels = np.empty(int(starts[-1]), dtype=np.int32)
    for place, chunk in read_chunks(chunks, starts, rng.permutation(len(chunks))):
        chunk_weights, chunk_labels = weights[place], labels[place]
        for part in blocks(len(chunk), _BATCH_ROWS):
            means, found = absorb(means, chunk[part], chunk_weights[part])
            chunk_labels[part] = found.labels
    return Fit(means, labels)


def absorb(means: Means, rows: FloatRows, weights: Weights) -> tuple[Means, Distances]:
    """The means after a batch `(n, d)`, and how far from them it was before they moved.

    A centroid of mass zero becomes the mean of its rows; one without rows stays where it is.
    """
    found = measure_distances(rows, means.centroids)
    k = len(means.centroids)
    masses = means.masses + np.bincount(found.labels, weights=weights, minlength=k)
    sums = _sum_by_label(rows, weights, found.labels, k)
    sums += means.centroids * means.masses[:, None]
    centroids = means.centroids.astype(np.float64)
    np.divide(sums, masses[:, None], out=centroids, where=masses[:, None] > 0)
    return Means(centroids.astype(np.float32), masses), found


def find_start(rows: FloatRows, weights: Weights, k: int, rng: np.random.Generator) -> FloatRows:
    """Centroids `(k, d)` of fewer than n distinct rows `(n, d)` from which k-means ends well.

    k-means++ (Arthur and Vassilvitskii 2007) leaves some groups without a centroid and gives
    others two, and passes do not mend that. So the centroids breathe (breathing k-means, Fritzke
    2020): as many again are added where rows fit badly, all are moved, and the least useful are
    taken away; of six such breaths and the start, the centroids of least inertia.
    """
    from sklearn.cluster import kmeans_plusplus

    seeds = slice(max(_SEED_ROWS, _SEED_ROWS_PER_CLUSTER * k))
    centroids = kmeans_plusplus(
        rows[seeds], k, sample_weight=weights[seeds], random_state=int(rng.integers(2**31))
    )[0]
    best = centroids = _move(rows, weights, np.asarray(centroids, dtype=np.float32))
    squared = measure_distances(rows, best).nearest
    lowest = float(weights @ squared)
    for _ in range(_N_BREATHS):
        chances = weights * squared
        n_added = min(k, int(np.count_nonzero(chances)))
        if n_added == 0:
            break
        added = rng.choice(len(rows), n_added, replace=False, p=chances / chances.sum())
        centroids = _move(rows, weights, np.concatenate([best, rows[added]]))
        centroids = _move(rows, weights, _drop_least_useful(rows, weights, centroids, n_added))
        moved = measure_distances(rows, centroids).nearest
        if float(weights @ moved) < lowest:
            best, squared, lowest = centroids, moved, float(weights @ moved)
    return best


def interleave(sides: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.intp]:
    """A random order in which every stretch holds both sides in the proportion of the whole."""
    position = np.empty(len(sides))
    for side in (False, True):
        members = rng.permutation(np.flatnonzero(sides == side))
        position[members] = (np.arange(len(members)) + rng.random()) / max(1, len(members))
    return np.argsort(position, kind="stable")


def _move(rows: FloatRows, weights: Weights, centroids: FloatRows) -> FloatRows:
    for _ in range(_BREATH_PASSES):
        centroids = absorb(_unweighted(centroids), rows, weights)[0].centroids
    return centroids


def _drop_least_useful(
    rows: FloatRows, weights: Weights, centroids: FloatRows, n_dropped: int
) -> FloatRows:
    """All but `n_dropped` centroids; useful is what lowers the inertia.

    The rows of a dropped centroid go to their second nearest. The one that gets most of them is
    kept until usefulness has been measured anew: of two that share a group, one must stay.
    """
    while n_dropped:
        k = len(centroids)
        found = measure_distances(rows, centroids)
        gain = weights * (found.second - found.nearest)
        useful = np.bincount(found.labels, weights=gain, minlength=k)
        pairs = np.bincount(found.labels * k + found.rivals, weights=weights, minlength=k * k)
        heirs = pairs.reshape(k, k).argmax(axis=1)
        is_kept = np.ones(k, dtype=bool)
        is_heir = np.zeros(k, dtype=bool)
        for label in np.argsort(useful, kind="stable").tolist():
            if n_dropped and not is_heir[label]:
                is_kept[label], is_heir[heirs[label]] = False, True
                n_dropped -= 1
        centroids = centroids[is_kept]
    return centroids


def _refill(means: Means, rows: FloatRows, squared: FloatRows) -> tuple[Means, int]:
    """The means, those without rows moved onto the rows that fit worst, and how many moved."""
    empty = np.flatnonzero(means.masses == 0)
    worst = np.argsort(-squared, kind="stable")[: len(empty)]
    worst = worst[squared[worst] > 0]
    centroids = means.centroids.copy()
    centroids[empty[: len(worst)]] = rows[worst]
    return Means(centroids, means.masses), len(worst)


def _unweighted(centroids: FloatRows) -> Means:
    """Centroids that the next batch replaces by the means of its rows."""
    return Means(np.ascontiguousarray(centroids, dtype=np.float32), np.zeros(len(centroids)))


def _sum_by_label(
    rows: FloatRows, weights: Weights, labels: NDArray[np.intp], k: int
) -> NDArray[np.float64]:
    """The weighted sum of each label's rows, `(k, d)`."""
    from scipy.sparse import csc_array

    sums = np.zeros((k, rows.shape[1]))
    for part in blocks(len(rows)):
        n = part.stop - part.start
        values = weights[part].astype(np.float32)
        sums += csc_array((values, labels[part], np.arange(n + 1)), shape=(k, n)) @ rows[part]
    return sums
