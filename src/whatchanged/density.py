"""HDBSCAN clusters of a sample, and the radius within which other rows belong to them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from whatchanged.nearest import FloatRows, Labels
from whatchanged.quality import project_rows, sample_occurrences
from whatchanged.records import NOISE

# Density estimates fail in hundreds of dimensions; 20 axes and 4000 texts take about a second.
_DENSITY_DIMS = 20
_DENSITY_TEXTS = 4000
_MIN_SAMPLED_CLUSTER = 5
_RADIUS_QUANTILE = 0.95


class Density(NamedTuple):
    """Centroids `(k, d)` with their radii `(k,)`, and the rows `picks (m,)` that HDBSCAN saw, with
    the `labels (m,)` that it gave them; a row that occurs often may be there often."""

    centroids: FloatRows
    radii: NDArray[np.float64]
    picks: NDArray[np.intp]
    labels: Labels


def fit_density(
    rows: FloatRows,
    weights: NDArray[np.float64],
    *,
    min_cluster_size: int,
    total_weight: float,
    seed: int,
) -> Density:
    """HDBSCAN (Campello et al. 2013) of at most 4000 occurrences on 20 principal axes.

    `rows (n, d)` occur `weights (n,)` times, and stand for `total_weight` occurrences in all. A
    cluster's radius is the distance within which 95% of its sampled members lie.
    """
    picks = sample_occurrences(weights, _DENSITY_TEXTS)
    labels = _density_labels(rows, picks, min_cluster_size, total_weight, seed)
    members = [rows[picks[labels == label]] for label in range(int(labels.max(initial=NOISE)) + 1)]
    centroids = np.zeros((len(members), rows.shape[1]), dtype=np.float32)
    radii = np.zeros(len(members))
    for label, inside in enumerate(members):
        centroids[label] = inside.mean(axis=0)
        distances = np.linalg.norm(inside - centroids[label], axis=1)
        radii[label] = np.quantile(distances, _RADIUS_QUANTILE)
    return Density(centroids, radii, picks, labels)


def scale_min_size(min_cluster_size: int, sampled_share: float) -> int:
    """The smallest cluster of a sample that is this share of all texts: at least 2, and at least
    5 where `min_cluster_size` is, since fewer meet by chance."""
    floor = max(2, min(min_cluster_size, _MIN_SAMPLED_CLUSTER))
    return max(floor, round(min_cluster_size * sampled_share))


def _density_labels(
    rows: FloatRows,
    picks: NDArray[np.intp],
    min_cluster_size: int,
    total_weight: float,
    seed: int,
) -> Labels:
    """HDBSCAN labels `(len(picks),)`, noise -1; too few texts or one distinct row are noise."""
    import hdbscan

    size = scale_min_size(min_cluster_size, len(picks) / max(1.0, total_weight))
    if len(rows) < 2 or len(picks) <= size:
        return np.full(len(picks), NOISE, dtype=np.int32)
    projected = project_rows(rows[picks], _DENSITY_DIMS, seed).astype(np.float64)
    # Copies at distance zero have infinite density, which HDBSCAN cannot compare.
    rng = np.random.default_rng(seed)
    projected += rng.normal(scale=1e-4 * projected.std(), size=projected.shape)
    model = hdbscan.HDBSCAN(min_cluster_size=size, core_dist_n_jobs=1)
    return np.asarray(model.fit_predict(projected), dtype=np.int32)
