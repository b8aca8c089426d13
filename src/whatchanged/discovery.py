"""Discovery texts as tables: clusters of replies and of their segments, and what they show.

Segments carry the detection, whole replies (the mean of their segments) carry coverage and the
map: on aligned prompts, clusters of whole replies are topics that the prompt sets, equal on both
sides (design/0002-segments.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from whatchanged.chunks import PickedRows
from whatchanged.cluster import (
    Clustering,
    Lineage,
    Quality,
    cohesion,
    describe_lineage,
    fit_clusters,
    label_agreement,
    measure_quality,
)
from whatchanged.config import ClusterConfig
from whatchanged.embed import mean_by_text
from whatchanged.quality import inherit_labels
from whatchanged.records import NOISE
from whatchanged.weighting import ReweightedDifference, reweighted_difference

Level = Literal["text", "segment"]

CLUSTER_COLUMNS = (
    "level", "round", "cluster", "label", "n_base", "n_intervention", "share_base",
    "share_intervention", "difference", "ci_low", "ci_high", "cohesion", "silhouette", "lineage",
    "lineage_share", "origin", "exemplar",
)  # fmt: skip
MAP_COLUMNS = ("text_key", "x", "y")


@dataclass(frozen=True, slots=True)
class PreviousRound:
    """What a round leaves for the next: labels by `text_key` and by `segment_key`, centroids, and
    the clusters of all rounds so far."""

    labels: Mapping[Level, pd.Series[int]]
    centroids: Mapping[str, NDArray[np.float32]]
    clusters: pd.DataFrame


@dataclass(frozen=True, slots=True)
class ClusteredTexts:
    """Discovery texts and segments with `label` and `margin`; one row per cluster and round.

    Quality figures are of the segment clusters, and None where they are undefined: fewer than two
    clusters, no earlier round. Where `structure_found` is False, the segments form one cloud, which
    the clusters only cut up.
    """

    texts: pd.DataFrame
    segments: pd.DataFrame
    clusters: pd.DataFrame
    centroids: Mapping[str, NDArray[np.float32]]
    silhouette: float | None
    davies_bouldin: float | None
    label_agreement: float | None
    structure_found: bool


class Guide(NamedTuple):
    """Segments beside a round's own that help to place its segment clusters and belong to none:
    `keys (m,)` as in `segment_key`, `vectors (m, d_embed)`, `weights (m,)`, `is_intervention
    (m,)`."""

    keys: NDArray[np.object_]
    vectors: NDArray[np.float32]
    weights: NDArray[np.float64]
    is_intervention: NDArray[np.bool_]

    def join(self, other: Guide) -> Guide:
        """Both, one after the other."""
        return Guide(
            np.concatenate([self.keys, other.keys]),
            np.concatenate([self.vectors, other.vectors]),
            np.concatenate([self.weights, other.weights]),
            np.concatenate([self.is_intervention, other.is_intervention]),
        )


class _Way(NamedTuple):
    """How to cluster: the previous round's clusters go on, or, `is_anew`, clusters are found anew
    and named after them."""

    config: ClusterConfig
    previous: PreviousRound | None
    is_anew: bool
    seed: int


@dataclass(frozen=True, slots=True)
class _Members:
    """What one level clusters: the `contents` and `vectors` of its members, the row of the text
    that holds each, and their labels and margins."""

    level: Level
    holders: NDArray[np.intp]
    contents: pd.Series[Any]
    vectors: NDArray[np.float32]
    labels: NDArray[np.int32]
    margins: NDArray[np.float32]
    centroids: NDArray[np.float32]
    label_of: pd.Series[int]
    quality: Quality
    structure_found: bool


def cluster_texts(
    texts: pd.DataFrame,
    segments: pd.DataFrame,
    vectors: NDArray[np.float32],
    config: ClusterConfig,
    *,
    previous: PreviousRound | None,
    round_index: int,
    seed: int,
    weights: Mapping[Level, NDArray[np.float64]] | None = None,
    guide: Guide | None = None,
) -> ClusteredTexts:
    """Both levels clustered jointly over both sides.

    Every text counts once, and clusters go on from the previous round's centroids. With `weights
    (n_texts,)`, per level, texts count so often, and clusters are found anew, on the segments of
    the `guide` as well: k-means does not leave the neighbourhood in which a few early texts started
    it. Those that continue earlier clusters keep their labels. `vectors (n_segments, d_embed)`
    follow the rows of `segments`. Blank replies have no segments: they stay noise.
    """
    holders = rows_of(segments["text_key"], texts["text_key"])
    way = _Way(config, previous, weights is not None, seed)
    once = np.ones(len(texts))
    counts = weights or {"text": once, "segment": once}
    replies = _cluster_replies(texts, holders, vectors, counts["text"], way)
    parts = _cluster_segments(texts, segments, holders, vectors, counts["segment"], way, guide)
    clusters = [_describe(level, texts, previous, round_index) for level in (replies, parts)]
    return ClusteredTexts(
        texts.assign(label=replies.labels, margin=replies.margins),
        segments.assign(label=parts.labels, margin=parts.margins),
        pd.concat([*([previous.clusters] if previous else []), *clusters], ignore_index=True),
        {"text": replies.centroids, "segment": parts.centroids},
        parts.quality.silhouette,
        parts.quality.davies_bouldin,
        _agreement(previous, parts),
        parts.structure_found,
    )


def _cluster_replies(
    texts: pd.DataFrame,
    holders: NDArray[np.intp],
    vectors: NDArray[np.float32],
    weights: NDArray[np.float64],
    way: _Way,
) -> _Members:
    replies = mean_by_text(vectors, holders, len(texts))
    spoken = np.flatnonzero(np.any(replies != 0, axis=1))
    sides = (texts["side"] == "intervention").to_numpy()[spoken]
    keys = pd.Index(texts["text_key"])
    earlier = (weights * _was_there(texts, way.previous))[spoken]
    fit = _fit(
        "text", PickedRows(replies, spoken), keys[spoken], weights[spoken], earlier, sides, way,
        np.ones(len(spoken), dtype=np.bool_),
    )  # fmt: skip
    labels = np.full(len(texts), NOISE, dtype=np.int32)
    margins = np.full(len(texts), np.nan, dtype=np.float32)
    labels[spoken], margins[spoken] = fit.labels, fit.margins
    return _Members(
        "text", np.arange(len(texts)), texts["text"], replies, labels, margins, fit.centroids,
        pd.Series(labels, index=keys), measure_quality(replies, labels, seed=way.seed),
        fit.structure_found,
    )  # fmt: skip


def _cluster_segments(
    texts: pd.DataFrame,
    segments: pd.DataFrame,
    holders: NDArray[np.intp],
    vectors: NDArray[np.float32],
    weights: NDArray[np.float64],
    way: _Way,
    guide: Guide | None,
) -> _Members:
    """Each distinct segment counts as often as it occurs, on the side that said it first."""
    own = Guide(
        segments["segment_key"].to_numpy(dtype=object), vectors, weights[holders],
        (texts["side"] == "intervention").to_numpy()[holders],
    )  # fmt: skip
    every = own if guide is None else own.join(guide)
    inverse, distinct = pd.factorize(every.keys, sort=True)
    first = np.unique(inverse, return_index=True)[1]
    n_own, was_there = len(own.keys), _was_there(texts, way.previous)[holders]
    occurrences = np.bincount(inverse, weights=every.weights, minlength=len(distinct))
    earlier = np.bincount(
        inverse[:n_own], weights=own.weights * was_there, minlength=len(distinct)
    )  # fmt: skip
    is_own = np.isin(np.arange(len(distinct)), inverse[:n_own])
    fit = _fit(
        "segment", PickedRows(every.vectors, first), pd.Index(distinct),
        occurrences.astype(np.float64), earlier.astype(np.float64), every.is_intervention[first],
        way, is_own,
    )  # fmt: skip
    labels = fit.labels[is_own]
    return _Members(
        "segment", holders, segments["segment"], vectors, fit.labels[inverse[:n_own]],
        fit.margins[inverse[:n_own]], fit.centroids, pd.Series(labels, index=distinct[is_own]),
        measure_quality(every.vectors, labels, seed=way.seed, picks=first[is_own]),
        fit.structure_found,
    )  # fmt: skip


def as_previous(
    texts: pd.DataFrame,
    segments: pd.DataFrame,
    clusters: pd.DataFrame,
    centroids: Mapping[str, NDArray[np.float32]],
) -> PreviousRound:
    """A finished round (the fields of `ClusteredTexts`), as the next round's `previous`."""
    distinct = segments.drop_duplicates("segment_key")
    labels: dict[Level, pd.Series[int]] = {
        "text": texts.set_index("text_key")["label"],
        "segment": distinct.set_index("segment_key")["label"],
    }
    return PreviousRound(labels, centroids, clusters)


def map_texts(
    texts: pd.DataFrame, segments: pd.DataFrame, vectors: NDArray[np.float32]
) -> pd.DataFrame:
    """A 2-D map of the replies (`MAP_COLUMNS`): their two first principal components.

    Fewer than three replies all lie at the origin.
    """
    replies = mean_by_text(vectors, rows_of(segments["text_key"], texts["text_key"]), len(texts))
    points = np.zeros((len(texts), 2), dtype=np.float32)
    if len(texts) > 2:
        centred = replies - replies.mean(axis=0)
        _, axes = np.linalg.eigh(centred.T @ centred)
        points = centred @ axes[:, -1:-3:-1]
    return pd.DataFrame(
        {"text_key": texts["text_key"].to_numpy(), "x": points[:, 0], "y": points[:, 1]}
    )


def _fit(
    level: Level,
    vectors: PickedRows,
    keys: pd.Index[Any],
    weights: NDArray[np.float64],
    earlier_weights: NDArray[np.float64],
    is_intervention: NDArray[np.bool_],
    way: _Way,
    is_own: NDArray[np.bool_],
) -> Clustering:
    """The clusters of one level. Where they go on, what the previous round did not have may found
    new ones; where they are found anew, those that have rows of the round's own (`is_own`) stay,
    and those that continue earlier ones take over their labels."""
    config, previous = way.config, way.previous
    start = previous.centroids[level] if previous and not way.is_anew else None
    fit = fit_clusters(
        vectors,
        weights=weights,
        is_intervention=is_intervention,
        method=config.method,
        n_clusters=config.n_clusters if level == "text" else config.n_segment_clusters,
        min_cluster_size=config.min_cluster_size,
        seed=way.seed,
        start=start if start is not None and len(start) else None,
        earlier_weights=earlier_weights,
        max_growth=config.max_growth,
    )
    if not way.is_anew:
        return fit
    # Noise is looked up as the last one.
    kept = np.setdiff1d(fit.labels[is_own], [NOISE])
    order = np.full(len(fit.centroids) + 1, NOISE, dtype=np.int32)
    order[kept] = np.arange(len(kept))
    lineage = describe_lineage(
        _old_labels(previous, level, keys[is_own]), order[fit.labels][is_own]
    )
    numbers = inherit_labels(lineage)
    order[kept] = numbers
    centroids = fit.centroids[kept[np.argsort(numbers)]]
    return replace(fit, labels=order[fit.labels], centroids=centroids)


def _was_there(texts: pd.DataFrame, previous: PreviousRound | None) -> NDArray[np.bool_]:
    """Which texts the previous round had; none before the first."""
    known = previous.labels["text"].index if previous else pd.Index([])
    there: NDArray[np.bool_] = pd.Index(texts["text_key"]).isin(known)
    return there


def rows_of(keys: pd.Series, index: pd.Series) -> NDArray[np.intp]:
    """The place of each of the `keys` in `index`, -1 where it is not there."""
    rows: NDArray[np.intp] = pd.Index(index).get_indexer(pd.Index(keys))
    return rows


def _describe(
    members: _Members, texts: pd.DataFrame, previous: PreviousRound | None, round_index: int
) -> pd.DataFrame:
    """One row per cluster: its texts on each side, the difference of their shares as if every
    prompt had been decoded equally often, its exemplar."""
    on_intervention = (texts["side"] == "intervention").to_numpy()
    shares = _share_differences(members, texts, on_intervention)
    tightness = cohesion(members.vectors, members.labels, members.centroids)
    lineage = _lineage(previous, members)
    rows = []
    for label, centroid in enumerate(members.centroids):
        inside = np.flatnonzero(members.labels == label)
        sides = on_intervention[np.unique(members.holders[inside])]
        in_base, in_intervention = int((~sides).sum()), int(sides.sum())
        central = inside[np.argmax(members.vectors[inside] @ centroid)]
        rows.append(
            (
                members.level, round_index, f"{round_index}-{members.level[0]}{label}", label,
                in_base, in_intervention, float(shares.share_base[label]),
                float(shares.share_intervention[label]), float(shares.effect[label]),
                float(shares.ci_low[label]), float(shares.ci_high[label]), float(tightness[label]),
                members.quality.by_cluster.get(label, np.nan), int(lineage.ancestors[label]),
                float(lineage.shares[label]), lineage.origins[label],
                str(members.contents.iloc[central]),
            )
        )  # fmt: skip
    return pd.DataFrame(rows, columns=list(CLUSTER_COLUMNS))


def _share_differences(
    members: _Members, texts: pd.DataFrame, on_intervention: NDArray[np.bool_]
) -> ReweightedDifference:
    """The reweighted share difference of every cluster, over the prompts that were decoded."""
    prompt, keys = pd.factorize(texts["prompt_key"])
    held = np.column_stack([members.holders, members.labels])[members.labels >= 0]
    rows, labels = np.unique(held, axis=0).T
    side = on_intervention.astype(np.intp)
    hits = np.zeros((2, len(keys), len(members.centroids)), dtype=np.int64)
    np.add.at(hits, (side[rows], prompt[rows], labels), 1)
    n_texts = np.zeros((2, len(keys)), dtype=np.int64)
    np.add.at(n_texts, (side, prompt), 1)
    return reweighted_difference(hits[0], n_texts[0], hits[1], n_texts[1])


def _old_labels(
    previous: PreviousRound | None, level: Level, keys: pd.Index[Any]
) -> NDArray[np.int32]:
    """What had which label in the previous round; noise what was not there."""
    if previous is None:
        return np.full(len(keys), NOISE, dtype=np.int32)
    old = previous.labels[level].reindex(keys, fill_value=NOISE)
    return old.to_numpy().astype(np.int32)


def _agreement(previous: PreviousRound | None, members: _Members) -> float | None:
    """The label agreement with the previous round on what both rounds hold."""
    if previous is None:
        return None
    keys = members.label_of.index
    old, new = (
        _old_labels(previous, members.level, keys),
        members.label_of.to_numpy().astype(np.int32),
    )
    is_common = keys.isin(previous.labels[members.level].index)
    return label_agreement(old[is_common], new[is_common])


def _lineage(previous: PreviousRound | None, members: _Members) -> Lineage:
    """Where the clusters come from; those of the first round are new."""
    new = members.label_of
    old = _old_labels(previous, members.level, new.index)
    return describe_lineage(old, new.to_numpy().astype(np.int32))


def largest_differences(clusters: pd.DataFrame, n: int = 20) -> list[dict[str, Any]]:
    """The `n` clusters of the last round that differ most between the sides, for a person; without
    their exemplars: Prefect's server keeps this, and is to hold no text."""
    clusters = clusters[clusters["round"] == clusters["round"].max()]
    order = clusters["difference"].abs().sort_values(ascending=False, kind="stable").index[:n]
    columns = ["cluster", "n_base", "n_intervention", "difference", "ci_low", "ci_high"]
    rows = clusters.loc[order, columns].round(3).to_dict("records")
    return [{str(name): value for name, value in row.items()} for row in rows]
