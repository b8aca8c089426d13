"""Discovery texts as tables: clusters of replies and of their segments, and what they show.

Segments carry the detection, whole replies (the mean of their segments) carry coverage and the
map: on aligned prompts, clusters of whole replies are topics that the prompt sets, equal on both
sides (design/0002-segments.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from whatchanged.acquisition import classifier_scores
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
from whatchanged.records import NOISE, Prompt
from whatchanged.sample import Evidence
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
    clusters, no earlier round.
    """

    texts: pd.DataFrame
    segments: pd.DataFrame
    clusters: pd.DataFrame
    centroids: Mapping[str, NDArray[np.float32]]
    silhouette: float | None
    davies_bouldin: float | None
    label_agreement: float | None


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


def cluster_texts(
    texts: pd.DataFrame,
    segments: pd.DataFrame,
    vectors: NDArray[np.float32],
    config: ClusterConfig,
    *,
    previous: PreviousRound | None,
    round_index: int,
    seed: int,
    weights: NDArray[np.float64] | None = None,
) -> ClusteredTexts:
    """Both levels clustered jointly over both sides.

    Every text counts once, and clusters go on from the previous round's centroids. With `weights
    (n_texts,)` texts count so often, and clusters are found anew: k-means does not leave the
    neighbourhood in which a few early texts started it. Those that continue earlier clusters keep
    their labels. `vectors (n_segments, d_embed)` follow the rows of `segments`. Blank replies have
    no segments: they stay noise.
    """
    holders = _rows_of(segments["text_key"], texts["text_key"])
    way = _Way(config, previous, weights is not None, seed)
    counts = np.ones(len(texts)) if weights is None else weights
    replies = _cluster_replies(texts, holders, vectors, counts, way)
    parts = _cluster_segments(texts, segments, holders, vectors, counts, way)
    clusters = [_describe(level, texts, previous, round_index) for level in (replies, parts)]
    return ClusteredTexts(
        texts.assign(label=replies.labels, margin=replies.margins),
        segments.assign(label=parts.labels, margin=parts.margins),
        pd.concat([*([previous.clusters] if previous else []), *clusters], ignore_index=True),
        {"text": replies.centroids, "segment": parts.centroids},
        parts.quality.silhouette,
        parts.quality.davies_bouldin,
        _agreement(previous, parts),
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
    fit = _fit("text", replies[spoken], keys[spoken], weights[spoken], earlier, sides, way)
    labels = np.full(len(texts), NOISE, dtype=np.int32)
    margins = np.full(len(texts), np.nan, dtype=np.float32)
    labels[spoken], margins[spoken] = fit.labels, fit.margins
    return _Members(
        "text", np.arange(len(texts)), texts["text"], replies, labels, margins, fit.centroids,
        pd.Series(labels, index=keys), measure_quality(replies, labels, seed=way.seed),
    )  # fmt: skip


def _cluster_segments(
    texts: pd.DataFrame,
    segments: pd.DataFrame,
    holders: NDArray[np.intp],
    vectors: NDArray[np.float32],
    weights: NDArray[np.float64],
    way: _Way,
) -> _Members:
    """Each distinct segment counts as often as it occurs, on the side that said it first."""
    distinct, first, inverse = np.unique(
        segments["segment_key"].to_numpy(dtype=str), return_index=True, return_inverse=True
    )
    sides = (texts["side"] == "intervention").to_numpy()[holders[first]]
    was_there = _was_there(texts, way.previous)
    occurrences, earlier = (
        np.bincount(inverse, weights=counts[holders], minlength=len(distinct)).astype(np.float64)
        for counts in (weights, weights * was_there)
    )
    fit = _fit("segment", vectors[first], pd.Index(distinct), occurrences, earlier, sides, way)
    return _Members(
        "segment", holders, segments["segment"], vectors, fit.labels[inverse],
        fit.margins[inverse], fit.centroids, pd.Series(fit.labels, index=distinct),
        measure_quality(vectors[first], fit.labels, seed=way.seed),
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


def collect_evidence(
    texts: pd.DataFrame, segments: pd.DataFrame, prompts: Sequence[Prompt]
) -> Evidence:
    """What discovery has seen: per prompt, side and cluster, the texts that hold the cluster.

    Columns are the text clusters followed by the segment clusters; rows follow `prompts`.
    """
    row_of = {prompt.key: row for row, prompt in enumerate(prompts)}
    rows = texts["prompt_key"].map(row_of).to_numpy()
    on_intervention = (texts["side"] == "intervention").to_numpy()
    text_rows = _rows_of(segments["text_key"], texts["text_key"])
    n_text_clusters = int(texts["label"].max()) + 1 if len(texts) else 0
    labels = np.concatenate(
        [
            texts["label"].to_numpy(),
            np.where(segments["label"] >= 0, segments["label"] + n_text_clusters, NOISE),
        ]
    )
    margins = np.concatenate([texts["margin"].to_numpy(), segments["margin"].to_numpy()])
    holders = np.concatenate([np.arange(len(texts)), text_rows])
    k = int(labels.max(initial=NOISE)) + 1
    held = np.unique(np.column_stack([holders, labels])[labels >= 0], axis=0)
    hits = np.zeros((2, len(prompts), k), dtype=np.int64)
    np.add.at(hits, (on_intervention[held[:, 0]].astype(int), rows[held[:, 0]], held[:, 1]), 1)
    n_texts = np.zeros((2, len(prompts)), dtype=np.int64)
    np.add.at(n_texts, (on_intervention.astype(int), rows), 1)
    known = (labels >= 0) & np.isfinite(margins)
    members = np.bincount(labels[known], minlength=k)
    sums = np.bincount(labels[known], weights=margins[known], minlength=k)
    boundary = np.divide(sums, members, out=np.zeros(k), where=members > 0)
    return Evidence(hits[0], hits[1], n_texts[0], n_texts[1], boundary)


def classify_sides(
    texts: pd.DataFrame,
    segments: pd.DataFrame,
    vectors: NDArray[np.float32],
    prompts: Sequence[Prompt],
    *,
    seed: int,
) -> NDArray[np.float64]:
    """How well a classifier tells the sides of each prompt apart (`classifier_scores`),
    `(n_prompts,)`; `vectors (n_segments, d_embed)` follow the rows of `segments`."""
    row_of = {prompt.key: row for row, prompt in enumerate(prompts)}
    replies = mean_by_text(vectors, _rows_of(segments["text_key"], texts["text_key"]), len(texts))
    return classifier_scores(
        replies,
        (texts["side"] == "intervention").to_numpy(),
        texts["prompt_key"].map(row_of).to_numpy().astype(np.intp),
        len(prompts),
        seed=seed,
    )


def map_texts(
    texts: pd.DataFrame, segments: pd.DataFrame, vectors: NDArray[np.float32]
) -> pd.DataFrame:
    """A 2-D map of the replies (`MAP_COLUMNS`): their two first principal components.

    Fewer than three replies all lie at the origin.
    """
    replies = mean_by_text(vectors, _rows_of(segments["text_key"], texts["text_key"]), len(texts))
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
    vectors: NDArray[np.float32],
    keys: pd.Index[Any],
    weights: NDArray[np.float64],
    earlier_weights: NDArray[np.float64],
    is_intervention: NDArray[np.bool_],
    way: _Way,
) -> Clustering:
    """The clusters of one level. Where they go on, what the previous round did not have may found
    new ones; where they are found anew, those that continue earlier ones take over their labels."""
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
    if not (previous and way.is_anew):
        return fit
    numbers = inherit_labels(describe_lineage(_old_labels(previous, level, keys), fit.labels))
    labels = np.full(len(fit.labels), NOISE, dtype=np.int32)
    is_member = fit.labels != NOISE
    labels[is_member] = numbers[fit.labels[is_member]]
    return replace(fit, labels=labels, centroids=fit.centroids[np.argsort(numbers)])


def _was_there(texts: pd.DataFrame, previous: PreviousRound | None) -> NDArray[np.bool_]:
    """Which texts the previous round had; none before the first."""
    known = previous.labels["text"].index if previous else pd.Index([])
    there: NDArray[np.bool_] = pd.Index(texts["text_key"]).isin(known)
    return there


def _rows_of(keys: pd.Series, index: pd.Series) -> NDArray[np.intp]:
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
    """The `n` clusters of the last round that differ most between the sides, for a person."""
    clusters = clusters[clusters["round"] == clusters["round"].max()]
    order = clusters["difference"].abs().sort_values(ascending=False, kind="stable").index[:n]
    columns = ["cluster", "n_base", "n_intervention", "difference", "ci_low", "ci_high", "exemplar"]
    rows = clusters.loc[order, columns].round(3).to_dict("records")
    return [{str(name): value for name, value in row.items()} for row in rows]
