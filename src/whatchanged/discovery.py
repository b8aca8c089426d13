"""Discovery texts as tables: clusters of replies and of their segments, and what they show.

Segments carry the detection, whole replies (the mean of their segments) carry coverage and the
map: on aligned prompts, clusters of whole replies are topics that the prompt sets, equal on both
sides (design/0002-segments.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from whatchanged import stats
from whatchanged.cluster import (
    Clustering,
    cohesion,
    describe_lineage,
    fit_clusters,
    label_agreement,
    measure_quality,
)
from whatchanged.config import ClusterConfig
from whatchanged.embed import mean_by_text
from whatchanged.records import NOISE, Prompt
from whatchanged.sample import Evidence

Level = Literal["text", "segment"]

CLUSTER_COLUMNS = (
    "level", "round", "cluster", "label", "n_base", "n_intervention", "share_base",
    "share_intervention", "difference", "ci_low", "ci_high", "cohesion", "silhouette", "lineage",
    "exemplar",
)  # fmt: skip
MAP_COLUMNS = ("text_key", "x", "y")


@dataclass(frozen=True, slots=True)
class PreviousRound:
    """The last round's labels, by `text_key` and by `segment_key`, and centroids, per level."""

    labels: Mapping[Level, pd.Series[int]]
    centroids: Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class ClusteredTexts:
    """Discovery texts and segments with `label` and `margin`, and one row per cluster.

    Quality figures are None where they are undefined: fewer than two clusters, no earlier round.
    """

    texts: pd.DataFrame
    segments: pd.DataFrame
    clusters: pd.DataFrame
    centroids: Mapping[str, NDArray[np.float32]]
    silhouette: float | None
    davies_bouldin: float | None
    label_agreement: float | None


def cluster_texts(
    texts: pd.DataFrame,
    segments: pd.DataFrame,
    vectors: NDArray[np.float32],
    config: ClusterConfig,
    *,
    previous: PreviousRound | None,
    round_index: int,
    seed: int,
) -> ClusteredTexts:
    """Both levels clustered jointly over both sides, going on from the previous round's centroids.

    `vectors (n_segments, d_embed)` follow the rows of `segments`. Blank replies have no segments:
    they stay noise.
    """
    text_rows = _rows_of(segments["text_key"], texts["text_key"])
    on_intervention = (texts["side"] == "intervention").to_numpy()
    replies = mean_by_text(vectors, text_rows, len(texts))
    spoken = np.flatnonzero(np.any(replies != 0, axis=1))
    start = previous.centroids if previous else {}
    text_fit = _fit(
        replies[spoken], None, on_intervention[spoken], config, config.n_clusters, seed,
        start.get("text"),
    )  # fmt: skip
    text_labels = np.full(len(texts), NOISE, dtype=np.int32)
    text_margins = np.full(len(texts), np.nan, dtype=np.float32)
    text_labels[spoken], text_margins[spoken] = text_fit.labels, text_fit.margins

    distinct, first, inverse, counts = np.unique(
        segments["segment_key"].to_numpy(dtype=str),
        return_index=True, return_inverse=True, return_counts=True,
    )  # fmt: skip
    spoken_by = on_intervention[text_rows[first]]
    segment_fit = _fit(
        vectors[first], counts.astype(np.float64), spoken_by, config, config.n_segment_clusters,
        seed, start.get("segment"),
    )  # fmt: skip
    texts = texts.assign(label=text_labels, margin=text_margins)
    segments = segments.assign(
        label=segment_fit.labels[inverse], margin=segment_fit.margins[inverse]
    )
    quality = measure_quality(vectors[first], segment_fit.labels, seed=seed)
    agreement = _agreement(previous, "segment", pd.Series(segment_fit.labels, index=distinct))
    clusters = pd.concat(
        [
            _describe(
                "text", texts, texts["text_key"], texts["text"], replies, text_fit.centroids,
                _lineage(previous, "text", pd.Series(text_labels, index=texts["text_key"])),
                round_index,
            ),
            _describe(
                "segment", texts, segments["text_key"], segments["segment"], vectors,
                segment_fit.centroids,
                _lineage(previous, "segment", pd.Series(segment_fit.labels, index=distinct)),
                round_index, labels=segments["label"].to_numpy(),
            ),
        ],
        ignore_index=True,
    )  # fmt: skip
    return ClusteredTexts(
        texts,
        segments,
        clusters,
        {"text": text_fit.centroids, "segment": segment_fit.centroids},
        quality.silhouette,
        quality.davies_bouldin,
        agreement,
    )


def labels_by_key(texts: pd.DataFrame, segments: pd.DataFrame) -> dict[Level, pd.Series]:
    """Labels of a finished round, as the next round's `previous`."""
    distinct = segments.drop_duplicates("segment_key")
    return {
        "text": texts.set_index("text_key")["label"],
        "segment": distinct.set_index("segment_key")["label"],
    }


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
    vectors: NDArray[np.float32],
    weights: NDArray[np.float64] | None,
    is_intervention: NDArray[np.bool_],
    config: ClusterConfig,
    n_clusters: int,
    seed: int,
    start: NDArray[np.float32] | None,
) -> Clustering:
    return fit_clusters(
        vectors,
        weights=weights,
        is_intervention=is_intervention,
        method=config.method,
        n_clusters=n_clusters,
        min_cluster_size=config.min_cluster_size,
        seed=seed,
        start=start if start is not None and len(start) else None,
    )


def _rows_of(keys: pd.Series, index: pd.Series) -> NDArray[np.intp]:
    rows: NDArray[np.intp] = pd.Index(index).get_indexer(pd.Index(keys))
    return rows


def _describe(
    level: Level,
    texts: pd.DataFrame,
    holders: pd.Series,
    contents: pd.Series,
    vectors: NDArray[np.float32],
    centroids: NDArray[np.float32],
    lineage: NDArray[np.int64] | None,
    round_index: int,
    labels: NDArray[np.int32] | None = None,
) -> pd.DataFrame:
    """One row per cluster: its texts on each side, their share difference, its exemplar."""
    labels = texts["label"].to_numpy() if labels is None else labels
    side_of = texts.set_index("text_key")["side"]
    held = pd.DataFrame({"label": labels, "text_key": holders.to_numpy()}).drop_duplicates()
    held = held.assign(side=held["text_key"].map(side_of).to_numpy())
    sizes = held.groupby(["label", "side"]).size()
    totals = texts["side"].value_counts()
    n_base, n_intervention = int(totals.get("base", 0)), int(totals.get("intervention", 0))
    tightness = cohesion(vectors, labels, centroids)
    rows = []
    for label in range(len(centroids)):
        in_base = int(sizes.get((label, "base"), 0))
        in_intervention = int(sizes.get((label, "intervention"), 0))
        shares = stats.share_difference(in_base, n_base, in_intervention, n_intervention)
        members = np.flatnonzero(labels == label)
        central = members[np.argmax(vectors[members] @ centroids[label])] if len(members) else None
        rows.append(
            (
                level, round_index, f"{round_index}-{level[0]}{label}", label, in_base,
                in_intervention, shares.share_base, shares.share_intervention, shares.effect,
                shares.ci_low, shares.ci_high, float(tightness[label]), np.nan,
                NOISE if lineage is None else int(lineage[label]),
                "" if central is None else str(contents.iloc[central]),
            )
        )  # fmt: skip
    return pd.DataFrame(rows, columns=list(CLUSTER_COLUMNS))


def _common(
    previous: PreviousRound | None, level: Level, labels: pd.Series
) -> tuple[NDArray[np.int32], NDArray[np.int32]] | None:
    if previous is None:
        return None
    both = pd.concat(
        [previous.labels[level].rename("old"), labels.rename("new")], axis=1, join="inner"
    )
    return both["old"].to_numpy(np.int32), both["new"].to_numpy(np.int32)


def _agreement(previous: PreviousRound | None, level: Level, labels: pd.Series) -> float | None:
    common = _common(previous, level, labels)
    return None if common is None else label_agreement(*common)


def _lineage(
    previous: PreviousRound | None, level: Level, labels: pd.Series
) -> NDArray[np.int64] | None:
    common = _common(previous, level, labels)
    if common is None:
        return None
    found = describe_lineage(*common)
    lineage = np.full(int(labels.max()) + 1 if len(labels) else 0, NOISE, dtype=np.int64)
    lineage[: len(found)] = found[: len(lineage)]
    return lineage


def largest_differences(clusters: pd.DataFrame, n: int = 20) -> list[dict[str, Any]]:
    """The `n` clusters whose shares differ most between the sides, as rows for a person."""
    order = clusters["difference"].abs().sort_values(ascending=False, kind="stable").index[:n]
    columns = ["cluster", "n_base", "n_intervention", "difference", "ci_low", "ci_high", "exemplar"]
    rows = clusters.loc[order, columns].round(3).to_dict("records")
    return [{str(name): value for name, value in row.items()} for row in rows]
