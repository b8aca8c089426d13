"""Clusters of embeddings, joint over both sides, with a defined answer for every input.

An array is one source of rows, chunks that are read one by one are another, and both go the same
way: a uniform sample that fits into memory is clustered, every other row then moves its centroid
once, and every row is labelled. Degenerate inputs of `fit_clusters`:

    input                             minibatch_kmeans                 hdbscan
    no rows, or all weights zero      no clusters, labels -1           no clusters, labels -1
    one distinct row                  one cluster, no structure        no clusters, labels -1
    fewer distinct rows than k        one cluster per distinct row     as it finds
    fewer distinct rows than `start`  the centroids that have rows     as it finds
    fewer rows than min_cluster_size  as it finds                      no clusters, labels -1
    one cloud                         k parts, no structure            labels -1, no structure
    no new row, or none but new ones  no cluster joins `start`         as it finds
    a row with nan or infinity        InputError naming the row        InputError naming the row
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from whatchanged.chunks import Chunks, PickedRows, Survey, read_chunks, survey_chunks
from whatchanged.density import fit_density, scale_min_size
from whatchanged.errors import InputError, UsageError
from whatchanged.grow import count_room, found_clusters
from whatchanged.means import fit_sample, stream
from whatchanged.nearest import (
    Assignment,
    FloatRows,
    Labels,
    assign,
    blocks,
    check_rows,
    label_rows,
    limit_threads,
)
from whatchanged.quality import (
    Lineage,
    Quality,
    cohesion,
    describe_lineage,
    has_structure,
    label_agreement,
    measure_quality,
)
from whatchanged.records import NOISE

__all__ = [
    "Assignment",
    "Clustering",
    "Lineage",
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

# Rows held in memory: 200 MB at 384 columns.
_MAX_SAMPLE = 131_072


@dataclass(frozen=True, slots=True)
class Clustering:
    """Labels `(n,)` in {-1, 0 .. k-1}, margins `(n,)` in [0, 1] and centroids `(k, d)`.

    A margin is the distance to the nearest centroid over the distance to the second nearest: 1 is
    a row on a boundary, and a row that belongs to no cluster at all; 0 a row without a rival.
    Every cluster has a member. `structure_found` is False where the clusters only cut up one
    cloud, or where there are fewer than two. `settled` is the share of rows whose label in the
    last training pass, at the moment that they passed, is their label still; 1 where none trained.
    """

    labels: Labels
    margins: FloatRows
    centroids: FloatRows
    structure_found: bool
    settled: float = 1.0


class _Facts(NamedTuple):
    """What is known of each row `(n,)`: its weight, its side, its weight in the earlier round."""

    weights: NDArray[np.float64]
    sides: NDArray[np.bool_]
    earlier: NDArray[np.float64]

    def of(self, numbers: NDArray[np.intp]) -> _Facts:
        """The facts of some rows."""
        return _Facts(self.weights[numbers], self.sides[numbers], self.earlier[numbers])


class _Options(NamedTuple):
    """The arguments of `fit_clusters` that are not about rows."""

    method: Method
    n_clusters: int
    min_cluster_size: int
    seed: int
    max_passes: int
    max_sample: int
    start: FloatRows | None
    max_growth: float


class _Distinct(NamedTuple):
    """Distinct rows with their facts, and which of them each row equals `(n,)`."""

    rows: PickedRows
    facts: _Facts
    inverse: NDArray[np.intp]


class _Sample(NamedTuple):
    """The same of a sample, whose distinct rows `(m, d)` lie in memory."""

    rows: FloatRows
    facts: _Facts
    inverse: NDArray[np.intp]


def fit_clusters(
    embeddings: FloatRows | Chunks,
    *,
    weights: Weights | None,
    is_intervention: NDArray[np.bool_] | None,
    method: Method,
    n_clusters: int,
    min_cluster_size: int,
    seed: int,
    max_passes: int = 20,
    max_sample: int = _MAX_SAMPLE,
    start: FloatRows | None = None,
    earlier_weights: Weights | None = None,
    max_growth: float = 0.0,
) -> Clustering:
    """The clusters of `embeddings (n, d)`; the table above says what degenerate inputs give.

    `embeddings` are an array, rows picked from one (`chunks.PickedRows`), or chunks that can be
    read again (`chunks.Chunks`): they are read three times, in any order, one at a time. `weights
    (n,)` says how often a row occurs (None: once); a row of weight zero is labelled but moves no
    centroid. `is_intervention (n,)` is the side: k-means seeks its start in rows of both sides in
    proportion. `n_clusters` is for k-means, `min_cluster_size`, in texts, for HDBSCAN and for
    clusters that join.

    k-means starts from breathing k-means++ (`means.find_start`) on a uniform sample of at most
    `max_sample` rows, passes over the sample until fewer than 1% of its rows change their label,
    and, where there are more rows, once over all of them as mini-batches (Sculley 2010). Of equal
    rows in an array only one is clustered, with the weight of all.

    `start (k, d)` continues k-means from the centroids of an earlier round: label i stays label i.
    Then clusters may join, up to `n_clusters * (1 + max_growth)` in all, where rows that the
    earlier round did not have call for them (`grow.found_clusters`); `earlier_weights (n,)` says
    how often it had each (None: as often as there are now).

    HDBSCAN (Campello et al. 2013) sees at most 4000 occurrences on 20 principal axes; other rows
    join the nearest centroid within that cluster's radius or are noise. The same input gives the
    same bytes on one machine, whatever the number of threads.

    Raises InputError for rows that are not finite and UsageError for impossible arguments.
    """
    options = _Options(
        method, n_clusters, min_cluster_size, seed, max_passes, max_sample, start, max_growth
    )
    _check_options(options)
    if isinstance(embeddings, np.ndarray):
        rows = check_rows(embeddings)
        embeddings = PickedRows(rows, np.arange(len(rows)))
    if not isinstance(embeddings, PickedRows):
        if not (hasattr(embeddings, "__len__") and hasattr(embeddings, "__getitem__")):
            raise UsageError(
                "expected an array or chunks that can be read again, found "
                f"{type(embeddings).__name__}: give a list of arrays, or chunks.NpyChunks"
            )
        return _fit(embeddings, weights, is_intervention, earlier_weights, options)
    facts = _complete(weights, is_intervention, earlier_weights, len(embeddings.picks))
    distinct = _collapse(embeddings, facts)
    fit = _fit(distinct.rows, *distinct.facts, options)
    return replace(fit, labels=fit.labels[distinct.inverse], margins=fit.margins[distinct.inverse])


def check_n_clusters(n_clusters: int, n_texts: int) -> None:
    """Raises InputError where more clusters are asked for than there are texts."""
    if n_clusters > n_texts:
        raise InputError(
            f"expected at least as many texts as clusters, found {n_clusters} clusters for "
            f"{n_texts} texts: lower cluster.n_clusters or decode more texts"
        )


def _check_options(options: _Options) -> None:
    if options.method not in ("minibatch_kmeans", "hdbscan"):
        raise UsageError(f"expected method minibatch_kmeans or hdbscan, found {options.method!r}")
    if options.n_clusters < 1:
        raise UsageError(f"expected at least one cluster, found n_clusters {options.n_clusters}")
    if options.max_growth < 0:
        raise UsageError(f"expected a growth of at least 0, found {options.max_growth}")


def _complete(
    weights: Weights | None,
    is_intervention: NDArray[np.bool_] | None,
    earlier_weights: Weights | None,
    n: int,
) -> _Facts:
    """The facts about n rows, defaults filled in; UsageError for what does not fit them."""
    named = {
        "weights": weights, "is_intervention": is_intervention, "earlier_weights": earlier_weights,
    }  # fmt: skip
    for name, values in named.items():
        if values is not None and len(values) != n:
            raise UsageError(f"expected {n} {name}, one per row, found {len(values)}")
    for counts in (weights, earlier_weights):
        if counts is not None and not (np.isfinite(counts).all() and (counts >= 0).all()):
            raise UsageError("expected finite weights of at least 0, found others: use counts")
    counts = np.ones(n) if weights is None else np.asarray(weights, dtype=np.float64)
    return _Facts(
        counts,
        np.zeros(n, dtype=bool) if is_intervention is None else np.asarray(is_intervention),
        counts if earlier_weights is None else np.asarray(earlier_weights, dtype=np.float64),
    )


def _collapse(rows: PickedRows, facts: _Facts) -> _Distinct:
    """Equal rows as one row that carries their weights; its side is that of the first."""
    first, inverse = _find_distinct(rows)
    weights, earlier = (
        np.bincount(inverse, weights=counts, minlength=len(first)).astype(np.float64)
        for counts in (facts.weights, facts.earlier)
    )
    picked = PickedRows(rows.rows, rows.picks[first])
    return _Distinct(picked, _Facts(weights, facts.sides[first], earlier), inverse)


def _find_distinct(picked: PickedRows) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """One place per distinct row `(m,)`, in an order that does not depend on theirs, and which of
    these each row equals `(n,)`."""
    rows, picks = picked.rows, picked.picks
    n, d = len(picks), rows.shape[1]
    if n == 0 or d == 0:
        return np.zeros(min(n, 1), dtype=np.intp), np.zeros(n, dtype=np.intp)
    # Adding zero turns -0.0 into 0.0, so that equal rows have equal bytes. Rows that differ in
    # their first eight bytes need no more to be told apart, and sort many times faster by them.
    begun = (rows[:, :2][picks] + np.float32(0)).view(f"u{4 * min(d, 2)}").ravel()
    _, first, inverse, counts = np.unique(
        begun, return_index=True, return_inverse=True, return_counts=True
    )
    if len(first) == n or d <= 2:
        return first, inverse
    # All bytes decide the order; only of rows that begin alike more than the first eight do.
    alike = np.flatnonzero(counts[inverse] > 1)
    whole = (rows[picks[alike]] + np.float32(0)).view(np.dtype((np.void, 4 * d))).ravel()
    rank = np.zeros(n, dtype=np.intp)
    rank[alike[np.argsort(whole, kind="stable")]] = np.arange(len(alike))
    order = np.lexsort((rank, begun.view(">u8")))
    is_new = np.ones(n, dtype=np.bool_)
    for part in blocks(n - 1):
        above, below = rows[picks[order[:-1][part]]], rows[picks[order[1:][part]]]
        is_new[1:][part] = (above != below).any(axis=1)
    inverse = np.empty(n, dtype=np.intp)
    inverse[order] = np.cumsum(is_new) - 1
    return order[is_new], inverse


def _no_clusters(n: int, d: int) -> Clustering:
    return Clustering(
        np.full(n, NOISE, dtype=np.int32),
        np.ones(n, dtype=np.float32),
        np.zeros((0, d), dtype=np.float32),
        False,
    )


def _fit(
    chunks: Chunks,
    weights: Weights | None,
    is_intervention: NDArray[np.bool_] | None,
    earlier_weights: Weights | None,
    options: _Options,
) -> Clustering:
    """The one way to fit: a survey, a fit of the sample, a pass over what the sample lacks, and a
    pass that labels every row."""
    rng = np.random.default_rng(options.seed)
    is_wanted = None if weights is None else np.asarray(weights, dtype=np.float64) > 0
    survey = survey_chunks(chunks, is_wanted, options.max_sample, rng)
    n, d = int(survey.starts[-1]), survey.rows.shape[1]
    facts = _complete(weights, is_intervention, earlier_weights, n)
    start = options.start
    if start is not None and (start.ndim != 2 or start.shape[1] != d or not len(start)):
        raise UsageError(f"expected start centroids of shape (k, {d}), found {start.shape}")
    if not len(survey.rows):
        return _no_clusters(n, d)
    everything = PickedRows(survey.rows, np.arange(len(survey.rows)))
    distinct = _collapse(everything, facts.of(survey.numbers))
    sample = _Sample(survey.rows[distinct.rows.picks], distinct.facts, distinct.inverse)
    is_dense = options.method == "hdbscan"
    with limit_threads("hdbscan" if is_dense else "sklearn.cluster"):
        if is_dense:
            return _fit_density(chunks, survey, sample, facts, options)
        return _fit_means(chunks, survey, sample, facts, options, rng)


def _fit_means(
    chunks: Chunks,
    survey: Survey,
    sample: _Sample,
    facts: _Facts,
    options: _Options,
    rng: np.random.Generator,
) -> Clustering:
    """k-means: the sample's, then streamed over the rows that the sample lacks."""
    weights = sample.facts.weights
    fit = fit_sample(
        sample.rows, weights, sample.facts.sides, n_clusters=options.n_clusters,
        start=_grow(sample, facts, options), max_passes=options.max_passes, rng=rng,
    )  # fmt: skip
    passed, trained = fit.labels[sample.inverse], survey.numbers
    if len(trained) < np.count_nonzero(facts.weights):
        fit = stream(chunks, survey.starts, facts.weights, fit.means, rng)
        passed, trained = fit.labels, np.arange(survey.starts[-1])
    centroids = fit.means.centroids
    labels, margins = _label(chunks, survey.starts, centroids)
    settled = float((labels[trained] == passed).mean())
    kept = np.unique(labels[facts.weights > 0])
    if len(kept) < len(centroids):
        centroids = centroids[kept]
        labels, margins = _label(chunks, survey.starts, centroids)
    found = len(centroids) > 1 and has_structure(sample.rows, weights, len(centroids), options.seed)
    return Clustering(labels, margins, centroids, found, settled)


def _grow(sample: _Sample, facts: _Facts, options: _Options) -> FloatRows | None:
    """The centroids of the earlier round, where there was one, and of the clusters that join."""
    start = options.start
    if start is None:
        return None
    weights = sample.facts.weights
    share = float(weights.sum() / facts.weights.sum())
    founded = found_clusters(
        sample.rows, weights, sample.facts.earlier, start,
        min_size=scale_min_size(options.min_cluster_size, share),
        room=count_room(options.n_clusters, options.max_growth, len(start)),
    )  # fmt: skip
    return np.concatenate([start, founded])


def _label(
    chunks: Chunks,
    starts: NDArray[np.intp],
    centroids: FloatRows,
    radii: NDArray[np.float64] | None = None,
) -> Assignment:
    """The nearest centroid of every row of the chunks; see `assign`."""
    found = Assignment(np.empty(starts[-1], np.int32), np.empty(starts[-1], np.float32))
    for place, rows in read_chunks(chunks, starts):
        found.labels[place], found.margins[place] = label_rows(rows, centroids, radii)
    return found


def _fit_density(
    chunks: Chunks, survey: Survey, sample: _Sample, facts: _Facts, options: _Options
) -> Clustering:
    """HDBSCAN on sampled occurrences; the other rows join the nearest centroid in its radius."""
    rows, weights = sample.rows, sample.facts.weights
    found = fit_density(
        rows, weights, min_cluster_size=options.min_cluster_size,
        total_weight=float(facts.weights.sum()), seed=options.seed,
    )  # fmt: skip
    # A sampled row keeps the label that its own density gave it; the first copy decides. Clusters
    # within the copies of one row, none of them the first, have no row then, and go.
    own = np.full(len(rows), NOISE, dtype=np.int32)
    own[found.picks[::-1]] = found.labels[::-1]
    held = np.setdiff1d(own, [NOISE])
    k = len(held)
    if k == 0:
        return _no_clusters(int(survey.starts[-1]), rows.shape[1])
    # Noise is looked up as the last one.
    numbers = np.full(len(found.centroids) + 1, NOISE, dtype=np.int32)
    numbers[held] = np.arange(k)
    centroids = found.centroids[held]
    labels, margins = _label(chunks, survey.starts, centroids, found.radii[held])
    is_picked = np.isin(sample.inverse, found.picks)
    labels[survey.numbers[is_picked]] = numbers[own][sample.inverse[is_picked]]
    return Clustering(
        labels, margins, centroids, k > 1 and has_structure(rows, weights, k, options.seed)
    )
