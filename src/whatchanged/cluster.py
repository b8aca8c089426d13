"""Clusters of embeddings, joint over both sides, with a defined answer for every input.

Rows stream through k-means in shuffled chunks that hold both sides in proportion: centroids drawn
from one side alone would map the space without the other. Degenerate inputs of `fit_clusters`:

    input                             minibatch_kmeans                 hdbscan
    no rows, or all weights zero      no clusters, labels -1           no clusters, labels -1
    one distinct row                  one cluster, no structure        no clusters, labels -1
    fewer distinct rows than k        one cluster per distinct row     as it finds
    fewer rows than min_cluster_size  as it finds                      no clusters, labels -1
    one cloud                         k parts, no structure            labels -1, no structure
    a row with nan or infinity        InputError naming the row        InputError naming the row
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from whatchanged.errors import InputError, UsageError
from whatchanged.nearest import (
    Assignment,
    FloatRows,
    Labels,
    assign,
    check_rows,
    find_nearest,
    limit_threads,
)
from whatchanged.quality import (
    Quality,
    cohesion,
    describe_lineage,
    has_structure,
    label_agreement,
    measure_quality,
    project_rows,
    sample_occurrences,
)
from whatchanged.records import NOISE

__all__ = [
    "Assignment",
    "Clustering",
    "Method",
    "Quality",
    "assign",
    "check_n_clusters",
    "cohesion",
    "describe_lineage",
    "fit_clusters",
    "label_agreement",
    "measure_quality",
]

Weights: TypeAlias = NDArray[np.float64] | NDArray[np.float32] | NDArray[np.int64]
Method: TypeAlias = Literal["minibatch_kmeans", "hdbscan"]

_N_STARTS = 3
# Rows per cluster in the first chunk: enough for k-means++ to see the space.
_FIRST_CHUNK_ROWS_PER_CLUSTER = 5
# A further pass that lowers the inertia by less than this share does not pay for itself.
_PLATEAU = 0.005
_MAX_REFILLS = 10
# Density estimates fail in hundreds of dimensions; 20 axes and 4000 texts take about a second.
_DENSITY_DIMS = 20
_DENSITY_TEXTS = 4000
_MIN_SAMPLED_CLUSTER = 5
_RADIUS_QUANTILE = 0.95


@dataclass(frozen=True, slots=True)
class Clustering:
    """Labels `(n,)` in {-1, 0 .. k-1}, margins `(n,)` in [0, 1] and centroids `(k, d)`.

    A margin is the distance to the nearest centroid over the distance to the second nearest: 1 is
    a row on a boundary, and a row that belongs to no cluster at all; 0 a row without a rival.
    Every cluster has a member. `structure_found` is False where the clusters only cut up one
    cloud, or where there are fewer than two.
    """

    labels: Labels
    margins: FloatRows
    centroids: FloatRows
    structure_found: bool


class _Distinct(NamedTuple):
    """Distinct rows `(m, d)`, their weights and sides `(m,)`, and where each row went `(n,)`."""

    rows: FloatRows
    weights: NDArray[np.float64]
    sides: NDArray[np.bool_]
    inverse: NDArray[np.intp]


def fit_clusters(
    embeddings: FloatRows,
    *,
    weights: Weights | None,
    is_intervention: NDArray[np.bool_] | None,
    method: Method,
    n_clusters: int,
    min_cluster_size: int,
    seed: int,
    max_passes: int = 4,
    chunk_size: int = 2048,
    start: FloatRows | None = None,
) -> Clustering:
    """The clusters of `embeddings (n, d)`; the table above says what degenerate inputs give.

    `weights (n,)` says how often a row occurs (None: once); a row of weight zero is labelled but
    moves no centroid. `n_clusters` is for k-means and is clipped to the number of distinct rows;
    `min_cluster_size`, in texts, is for HDBSCAN. `start (k, d)` continues k-means from the
    centroids of an earlier round, which keeps cluster numbers comparable.

    k-means is MiniBatchKMeans (Sculley 2010) from the best of three k-means++ starts, for as many
    passes as lower the inertia by 0.5%. HDBSCAN (Campello et al. 2013) sees at most 4000
    occurrences on 20 principal axes; other rows join the nearest centroid within that cluster's
    radius or are noise. The same input gives the same bytes on one machine, whatever the number
    of threads.

    Raises InputError for rows that are not finite and UsageError for impossible arguments.
    """
    rows = check_rows(embeddings)
    _check_arguments(rows, weights, is_intervention, method, n_clusters, start)
    distinct = _collapse(rows, weights, is_intervention)
    used = distinct.weights > 0
    if not used.any():
        return _no_clusters(len(rows), rows.shape[1])
    usable = _Distinct(distinct.rows[used], distinct.weights[used], distinct.sides[used],
                       distinct.inverse)  # fmt: skip
    with limit_threads("hdbscan" if method == "hdbscan" else "sklearn.cluster"):
        if method == "hdbscan":
            return _fit_density(distinct, usable, min_cluster_size, seed)
        centroids = _fit_means(usable, n_clusters, seed, max_passes, chunk_size, start)
        labels, margins = assign(distinct.rows, centroids)
        found = len(centroids) > 1 and has_structure(
            usable.rows, usable.weights, len(centroids), seed
        )
    return Clustering(labels[distinct.inverse], margins[distinct.inverse], centroids, found)


def check_n_clusters(n_clusters: int, n_texts: int) -> None:
    """Raises InputError where more clusters are asked for than there are texts."""
    if n_clusters > n_texts:
        raise InputError(
            f"expected at least as many texts as clusters, found {n_clusters} clusters for "
            f"{n_texts} texts: lower cluster.n_clusters or decode more texts"
        )


def _check_arguments(
    rows: FloatRows,
    weights: Weights | None,
    is_intervention: NDArray[np.bool_] | None,
    method: str,
    n_clusters: int,
    start: FloatRows | None,
) -> None:
    if method not in ("minibatch_kmeans", "hdbscan"):
        raise UsageError(f"expected method minibatch_kmeans or hdbscan, found {method!r}")
    if n_clusters < 1:
        raise UsageError(f"expected at least one cluster, found n_clusters {n_clusters}")
    for name, values in (("weights", weights), ("is_intervention", is_intervention)):
        if values is not None and len(values) != len(rows):
            raise UsageError(f"expected {len(rows)} {name}, one per row, found {len(values)}")
    if weights is not None and not (np.isfinite(weights).all() and (weights >= 0).all()):
        raise UsageError("expected finite weights of at least 0, found others: use counts")
    if start is not None and (start.ndim != 2 or start.shape[1] != rows.shape[1] or not len(start)):
        raise UsageError(
            f"expected start centroids of shape (k, {rows.shape[1]}), found {start.shape}"
        )


def _collapse(
    rows: FloatRows,
    weights: Weights | None,
    is_intervention: NDArray[np.bool_] | None,
) -> _Distinct:
    """Equal rows as one row that carries their weights; its side is that of the first."""
    n, d = rows.shape
    counts = np.ones(n) if weights is None else np.asarray(weights, dtype=np.float64)
    sides = np.zeros(n, dtype=bool) if is_intervention is None else np.asarray(is_intervention)
    if n == 0 or d == 0:
        first = np.zeros(min(n, 1), dtype=np.intp)
        inverse = np.zeros(n, dtype=np.intp)
    else:
        # Adding zero turns -0.0 into 0.0, so that equal rows have equal bytes.
        as_bytes = (rows + np.float32(0)).view(np.dtype((np.void, 4 * d))).ravel()
        _, first, inverse = np.unique(as_bytes, return_index=True, return_inverse=True)
    merged = np.bincount(inverse, weights=counts, minlength=len(first)).astype(np.float64)
    return _Distinct(rows[first], merged, sides[first], inverse)


def _no_clusters(n: int, d: int) -> Clustering:
    return Clustering(
        np.full(n, NOISE, dtype=np.int32),
        np.ones(n, dtype=np.float32),
        np.zeros((0, d), dtype=np.float32),
        False,
    )


def _fit_means(
    usable: _Distinct,
    n_clusters: int,
    seed: int,
    max_passes: int,
    chunk_size: int,
    start: FloatRows | None,
) -> FloatRows:
    """Centroids `(k, d)` from streaming passes over the distinct rows; each holds a row."""
    from sklearn.cluster import MiniBatchKMeans

    rows, weights = usable.rows, usable.weights
    k = min(n_clusters if start is None else len(start), len(rows))
    if k == len(rows):
        return rows
    rng = np.random.default_rng(seed)
    first_chunk = max(chunk_size, _FIRST_CHUNK_ROWS_PER_CLUSTER * k)
    order = _interleaved_order(usable.sides, rng)
    centroids = (
        _best_start(rows[order[:first_chunk]], weights[order[:first_chunk]], k, rng)
        if start is None
        else np.ascontiguousarray(start[:k], dtype=np.float32)
    )
    # Re-seeding small clusters inside a pass would discard rare behaviours when one text is
    # very frequent, so it is switched off; clusters that end up empty are refilled after a pass.
    model = MiniBatchKMeans(k, init=centroids, n_init=1, random_state=0, reassignment_ratio=0.0)
    best = np.inf
    for _ in range(max_passes):
        cuts = [0, *range(first_chunk, len(rows), chunk_size), len(rows)]
        for low, high in pairwise(cuts):
            part = order[low:high]
            model.partial_fit(rows[part], sample_weight=weights[part])
        model.cluster_centers_ = _refill(rows, model.cluster_centers_)
        inertia = float(weights @ find_nearest(rows, model.cluster_centers_)[1])
        if inertia < best:
            centroids = model.cluster_centers_.copy()
        if inertia >= best * (1 - _PLATEAU):
            break
        best = inertia
        order = _interleaved_order(usable.sides, rng)
    kept = np.unique(find_nearest(rows, centroids)[0])
    return np.asarray(centroids[kept], dtype=np.float32)


def _interleaved_order(sides: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.intp]:
    """A random order in which every stretch holds both sides in the proportion of the whole."""
    position = np.empty(len(sides))
    for side in (False, True):
        members = rng.permutation(np.flatnonzero(sides == side))
        position[members] = (np.arange(len(members)) + rng.random()) / max(1, len(members))
    return np.argsort(position, kind="stable")


def _best_start(
    rows: FloatRows, weights: NDArray[np.float64], k: int, rng: np.random.Generator
) -> FloatRows:
    """The k-means++ centroids `(k, d)` (Arthur and Vassilvitskii 2007) of least inertia."""
    from sklearn.cluster import kmeans_plusplus

    starts = [
        kmeans_plusplus(rows, k, sample_weight=weights, random_state=int(rng.integers(2**31)))[0]
        for _ in range(_N_STARTS)
    ]
    inertias = [float(weights @ find_nearest(rows, centroids)[1]) for centroids in starts]
    return np.asarray(starts[int(np.argmin(inertias))], dtype=np.float32)


def _refill(rows: FloatRows, centroids: FloatRows) -> FloatRows:
    """The centroids, those without rows moved onto the rows that fit worst."""
    filled = centroids.copy()
    for _ in range(_MAX_REFILLS):
        labels, squared = find_nearest(rows, filled)
        empty = np.setdiff1d(np.arange(len(filled)), labels)
        if not len(empty):
            break
        filled[empty] = rows[np.argsort(-squared, kind="stable")[: len(empty)]]
    return filled


def _fit_density(
    distinct: _Distinct, usable: _Distinct, min_cluster_size: int, seed: int
) -> Clustering:
    """HDBSCAN on sampled occurrences; the other rows join the nearest centroid in its radius."""
    d = distinct.rows.shape[1]
    picks = sample_occurrences(usable.weights, _DENSITY_TEXTS)
    sampled = _density_labels(usable, picks, min_cluster_size, seed)
    n_clusters = int(sampled.max(initial=NOISE)) + 1
    if n_clusters == 0:
        return _no_clusters(len(distinct.inverse), d)
    members = [usable.rows[picks[sampled == label]] for label in range(n_clusters)]
    centroids = np.stack([rows.mean(axis=0) for rows in members])
    radii = np.array(
        [
            np.quantile(np.linalg.norm(rows - centroid, axis=1), _RADIUS_QUANTILE)
            for rows, centroid in zip(members, centroids, strict=True)
        ]
    )
    labels, margins = assign(distinct.rows, centroids)
    _, squared = find_nearest(distinct.rows, centroids)
    labels[np.sqrt(squared) > radii[labels]] = NOISE
    # A sampled row keeps the label that its own density gave it; the first copy decides.
    place = np.flatnonzero(distinct.weights > 0)[picks]
    labels[place[::-1]] = sampled[::-1]
    found = n_clusters > 1 and has_structure(usable.rows, usable.weights, n_clusters, seed)
    return Clustering(labels[distinct.inverse], margins[distinct.inverse], centroids, found)


def _density_labels(
    usable: _Distinct, picks: NDArray[np.intp], min_cluster_size: int, seed: int
) -> Labels:
    """HDBSCAN labels `(len(picks),)`, noise -1; too few texts or one distinct row are noise."""
    import hdbscan

    sampled_share = len(picks) / max(1.0, float(usable.weights.sum()))
    size = max(
        min(min_cluster_size, _MIN_SAMPLED_CLUSTER), round(min_cluster_size * sampled_share), 2
    )
    if len(usable.rows) < 2 or len(picks) <= size:
        return np.full(len(picks), NOISE, dtype=np.int32)
    projected = project_rows(usable.rows[picks], _DENSITY_DIMS, seed).astype(np.float64)
    # Copies at distance zero have infinite density, which HDBSCAN cannot compare.
    rng = np.random.default_rng(seed)
    projected += rng.normal(scale=1e-4 * projected.std(), size=projected.shape)
    model = hdbscan.HDBSCAN(min_cluster_size=size, core_dist_n_jobs=1)
    return np.asarray(model.fit_predict(projected), dtype=np.int32)
