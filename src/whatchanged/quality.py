"""How good a clustering is, and how it compares with the one before it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from whatchanged.errors import UsageError
from whatchanged.nearest import FloatRows, Labels, blocks, limit_threads
from whatchanged.records import NOISE

AnyLabels: TypeAlias = NDArray[np.int32] | NDArray[np.int64]

_STRUCTURE_TEXTS = 1000
_STRUCTURE_DIMS = 30
_N_REFERENCES = 4
# Measured without clusters (normal, uniform, heavy-tailed, on a sphere; 30 to 1000 rows in 2 to
# 384 dimensions) the ratio to the best reference stayed above 0.99; on 2500 sentences it was 0.71.
_STRUCTURE_RATIO = 0.95


@dataclass(frozen=True, slots=True)
class Quality:
    """Separation of clusters. `silhouette` in [-1, 1], higher is better; `davies_bouldin` at
    least 0, lower is better; None where fewer than two clusters leave them undefined.
    `by_cluster` holds the mean silhouette of each label that the sample held."""

    silhouette: float | None
    davies_bouldin: float | None
    by_cluster: Mapping[int, float]


class Lineage(NamedTuple):
    """The ancestor of every cluster `(k,)`, -1 where it has none; the share `(k,)`, in [0, 1], of
    the cluster's rows that were the ancestor's; and what became of it: "continued", "split" or
    "new"."""

    ancestors: Labels
    shares: NDArray[np.float64]
    origins: tuple[str, ...]


def measure_quality(
    embeddings: FloatRows,
    labels: AnyLabels,
    *,
    seed: int,
    max_sample: int = 2000,
    picks: NDArray[np.intp] | None = None,
) -> Quality:
    """Silhouette (Rousseeuw 1987) and Davies-Bouldin index of a seeded sample of rows. The labels
    are those of all rows, or of the `picks` among them.

    Noise rows are left out. Fewer than two clusters in the sample, or as many clusters as rows,
    give None for both: never nan.
    """
    from sklearn.metrics import davies_bouldin_score, silhouette_samples

    members = np.flatnonzero(np.asarray(labels) != NOISE)
    if len(members) > max_sample:
        rng = np.random.default_rng(seed)
        members = np.sort(rng.choice(members, max_sample, replace=False))
    rows = embeddings[members if picks is None else picks[members]]
    row_labels = labels[members]
    if not 2 <= len(np.unique(row_labels)) < len(members):
        return Quality(None, None, {})
    with limit_threads():
        silhouettes = silhouette_samples(rows, row_labels)
        davies_bouldin = float(davies_bouldin_score(rows, row_labels))
    by_cluster = {
        int(label): float(silhouettes[row_labels == label].mean())
        for label in np.unique(row_labels)
    }
    return Quality(_finite(float(silhouettes.mean())), _finite(davies_bouldin), by_cluster)


def label_agreement(labels_a: AnyLabels, labels_b: AnyLabels) -> float | None:
    """The adjusted Rand index of two labellings of the same rows, in [-0.5, 1]; 1 means the same
    partition, 0 chance (Hubert and Arabie 1985). Noise counts as one more cluster.

    Fewer than two rows give None. Raises UsageError for lengths that differ.
    """
    from sklearn.metrics import adjusted_rand_score

    _check_same_length(labels_a, labels_b)
    if len(labels_a) < 2:
        return None
    return float(adjusted_rand_score(labels_a, labels_b))


def describe_lineage(previous_labels: AnyLabels, labels: AnyLabels) -> Lineage:
    """Where every cluster comes from, by the rows that it shares with the clusters before.

    Both labellings `(n,)` are of the same rows, a row that the earlier one lacks being noise there;
    k is the highest label plus one. Of the clusters with one ancestor, the one with most of its
    rows has "continued" it. Another has "split" from it if most of its own rows are the ancestor's;
    if not, it is "new", as is a cluster without ancestor. Overlap as in MONIC (Spiliopoulou et al.
    2006), with its threshold of one half. Ties go to the lower number.

    Raises UsageError for lengths that differ.
    """
    _check_same_length(previous_labels, labels)
    k = int(labels.max(initial=NOISE)) + 1
    # One more than there were keeps the counts two-dimensional where there was no cluster.
    n_previous = int(previous_labels.max(initial=NOISE)) + 2
    both = (labels != NOISE) & (previous_labels != NOISE)
    pairs = labels[both].astype(np.int64) * n_previous + previous_labels[both]
    shared = np.bincount(pairs, minlength=k * n_previous).reshape(k, n_previous)
    sizes = np.bincount(labels[labels != NOISE], minlength=k)
    most = shared.max(axis=1, initial=0)
    ancestors = np.where(most > 0, shared.argmax(axis=1), NOISE).astype(np.int32)
    shares = most / np.maximum(sizes, 1)
    # Stable, so that of clusters with equally many rows of an ancestor the first one is its heir.
    order = np.argsort(-most, kind="stable")
    heirs = order[np.unique(ancestors[order], return_index=True)[1]]
    is_heir = np.isin(np.arange(k), heirs) & (ancestors != NOISE)
    origins = np.where(is_heir, "continued", np.where(shares > 0.5, "split", "new"))
    return Lineage(ancestors, shares, tuple(origins.tolist()))


def inherit_labels(lineage: Lineage) -> Labels:
    """The number `(k,)` that each of k clusters goes by: one that continued an earlier cluster
    takes over its number, the others fill the free ones in ascending order.

    Always a permutation of 0 to k - 1, so that a number beyond, of an earlier round with more
    clusters, is not taken over.
    """
    k = len(lineage.ancestors)
    is_heir = (np.array(lineage.origins, dtype=object) == "continued") & (lineage.ancestors < k)
    numbers = np.full(k, NOISE, dtype=np.int32)
    numbers[is_heir] = lineage.ancestors[is_heir]
    numbers[~is_heir] = np.setdiff1d(np.arange(k), numbers)
    return numbers


def cohesion(embeddings: FloatRows, labels: AnyLabels, centroids: FloatRows) -> NDArray[np.float64]:
    """The mean cosine `(k,)` of a cluster's members to its centroid, in [-1, 1].

    A row or a centroid of zero length has cosine 0 with everything. A cluster without members has
    no cohesion: nan, never an invented number.
    """
    n_clusters = len(centroids)
    members = np.flatnonzero(labels != NOISE)
    directions, cosines = _unit_rows(centroids), np.empty(len(members))
    for part in blocks(len(members)):
        rows = members[part]
        cosines[part] = np.einsum(
            "nd,nd->n", _unit_rows(embeddings[rows]), directions[labels[rows]]
        )
    sizes = np.bincount(labels[members], minlength=n_clusters)
    sums = np.bincount(labels[members], weights=cosines, minlength=n_clusters)
    tightness = np.full(n_clusters, np.nan)
    np.divide(sums, sizes, out=tightness, where=sizes > 0)
    return tightness


def has_structure(
    rows: FloatRows, weights: NDArray[np.float64], n_clusters: int, seed: int
) -> bool:
    """True where the rows `(n, d)` fall into clusters, False where they form one cloud.

    k-means splits a single cloud as readily as it finds clusters, so its inertia is compared with
    the inertia on uniform clouds of equal variance along the principal axes: the gap statistic's
    reference (Tibshirani, Walther and Hastie 2001), on at most 1000 occurrences and 30 axes, for
    2, 8 and `n_clusters` clusters. Rows count `weights (n,)` times.
    """
    from sklearn.cluster import KMeans

    picks = sample_occurrences(weights, _STRUCTURE_TEXTS)
    projected = project_rows(rows[picks], _STRUCTURE_DIMS, seed).astype(np.float64)
    spread = projected.std(axis=0)
    if len(picks) < 3 or not spread.any():
        return False
    rng = np.random.default_rng(seed)
    references = [_uniform_like(projected, spread, rng) for _ in range(_N_REFERENCES)]
    # With fewer than ten rows per cluster, k-means fits noise in any cloud.
    most = min(len(picks) // 10, len(np.unique(picks)))
    for k in sorted({2, *(k for k in (min(8, most), min(n_clusters, most)) if k > 2)}):
        inertias = [
            KMeans(k, n_init=2, max_iter=50, random_state=0).fit(cloud).inertia_
            for cloud in (projected, *references)
        ]
        if inertias[0] < _STRUCTURE_RATIO * min(inertias[1:]):
            return True
    return False


def sample_occurrences(weights: NDArray[np.float64], max_picks: int) -> NDArray[np.intp]:
    """Row numbers of at most `max_picks` evenly spaced occurrences; a row may come repeatedly.

    Row i occurs `weights[i]` times. Whole weights that fit are written out in full.
    """
    ends = np.cumsum(weights)
    n_picks = int(min(max_picks, np.ceil(ends[-1]))) if len(ends) else 0
    positions = (np.arange(n_picks) + 0.5) * (ends[-1] / n_picks) if n_picks else np.zeros(0)
    return np.minimum(np.searchsorted(ends, positions, side="right"), len(weights) - 1)


def project_rows(rows: FloatRows, max_dims: int, seed: int) -> FloatRows:
    """The rows on their first principal axes, `(n, at most max_dims)`."""
    from sklearn.decomposition import PCA

    n_dims = min(max_dims, *rows.shape)
    projected = PCA(n_dims, random_state=seed % 2**32).fit_transform(rows)
    return np.asarray(projected, dtype=np.float32)


def _uniform_like(
    rows: NDArray[np.float64], spread: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.float64]:
    cloud = rng.uniform(-1.0, 1.0, rows.shape)
    cloud -= cloud.mean(axis=0)
    return np.asarray(cloud / cloud.std(axis=0) * spread, dtype=np.float64)


def _unit_rows(rows: FloatRows) -> NDArray[np.float64]:
    values = rows.astype(np.float64)
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    directions = np.zeros_like(values)
    np.divide(values, lengths, out=directions, where=lengths > 0)
    return directions


def _finite(score: float) -> float | None:
    return score if math.isfinite(score) else None


def _check_same_length(labels_a: AnyLabels, labels_b: AnyLabels) -> None:
    if len(labels_a) != len(labels_b):
        raise UsageError(
            "expected two labellings of the same rows, found "
            f"{len(labels_a)} and {len(labels_b)} labels"
        )
