from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from whatchanged.config import ClusterConfig
from whatchanged.discovery import (
    CLUSTER_COLUMNS,
    ClusteredTexts,
    PreviousRound,
    as_previous,
    cluster_texts,
    largest_differences,
    map_texts,
)
from whatchanged.embed import segment_table
from whatchanged.records import Prompt
from whatchanged.seen import collect_evidence

DIRECTIONS = {"Tea.": (1.0, 0.0, 0.0), "Milk.": (0.0, 1.0, 0.0), "Rain.": (0.0, 0.0, 1.0)}
CONFIG = ClusterConfig(n_clusters=3, n_segment_clusters=3)


def replies(rows: list[tuple[str, str, str]]) -> tuple[pd.DataFrame, pd.DataFrame, np.ndarray]:
    """Texts, segments and vectors of (side, prompt key, reply) rows."""
    texts = pd.DataFrame(
        {
            "text_key": [f"t{i}" for i in range(len(rows))],
            "side": [row[0] for row in rows],
            "prompt_key": [row[1] for row in rows],
            "text": [row[2] for row in rows],
        }
    )
    segments = segment_table(texts)
    vectors = np.array([DIRECTIONS[s] for s in segments["segment"]], dtype=np.float32)
    return texts, segments, vectors.reshape(-1, 3)


ROWS = [
    ("base", "p", "Tea. Milk."),
    ("base", "p", "Tea."),
    ("base", "q", "Rain."),
    ("base", "q", ""),
    ("intervention", "p", "Tea. Tea."),
    ("intervention", "p", "Milk."),
    ("intervention", "q", "Rain. Milk."),
    ("intervention", "q", "Rain."),
]


def clustered(previous: PreviousRound | None = None, round_index: int = 0) -> ClusteredTexts:
    return cluster_texts(*replies(ROWS), CONFIG, previous=previous, round_index=round_index, seed=0)


def test_equal_segments_share_a_label_and_different_ones_do_not() -> None:
    labels = clustered().segments.groupby("segment")["label"].unique()
    assert all(len(found) == 1 for found in labels)
    assert len({found[0] for found in labels}) == 3


def test_every_cluster_has_its_silhouette() -> None:
    clusters = clustered().clusters
    parts = clusters[clusters["level"] == "text"]
    # Rows of equal vectors are as far from each other as can be from none of their own.
    assert parts["silhouette"].between(-1, 1).all()


def test_a_blank_reply_is_noise_and_belongs_to_no_cluster() -> None:
    texts = clustered().texts.set_index("text_key")
    assert texts["label"]["t3"] == -1
    assert (texts["label"].drop("t3") >= 0).all()


def test_a_cluster_counts_the_texts_that_hold_it_once() -> None:
    clusters = clustered().clusters
    assert tuple(clusters.columns) == CLUSTER_COLUMNS
    by_exemplar = clusters[clusters["level"] == "segment"].set_index("exemplar")
    # "Tea. Tea." is one text: 2 of 4 base texts hold it, 1 of 4 intervention texts.
    assert by_exemplar.loc["Tea.", ["n_base", "n_intervention"]].tolist() == [2, 1]
    assert by_exemplar.loc["Tea.", "difference"] == pytest.approx(-0.25)
    assert by_exemplar.loc["Rain.", ["n_base", "n_intervention"]].tolist() == [1, 2]


def test_evidence_counts_texts_per_prompt_side_and_cluster() -> None:
    result = clustered()
    bank = [Prompt("q", "Q", "g", "discovery"), Prompt("p", "P", "g", "discovery")]
    evidence = collect_evidence(result.texts, result.segments, bank)
    n_text_clusters = int(result.texts["label"].max()) + 1
    of = result.segments.drop_duplicates("segment").set_index("segment")["label"]
    tea, rain = n_text_clusters + of["Tea."], n_text_clusters + of["Rain."]
    assert evidence.n_base.tolist() == [2, 2]
    assert evidence.hits_base[:, tea].tolist() == [0, 2]
    assert evidence.hits_intervention[:, rain].tolist() == [2, 0]
    assert evidence.boundary.shape == (evidence.hits_base.shape[1],)


def test_an_unchanged_second_round_agrees_and_descends_from_itself() -> None:
    first = clustered()
    previous = as_previous(first.texts, first.segments, first.clusters, first.centroids)
    second = clustered(previous, round_index=1)
    assert second.label_agreement == 1.0
    now = second.clusters[second.clusters["round"] == 1]
    assert (now["lineage"] == now["label"]).all()
    assert len(second.clusters) == 2 * len(first.clusters)
    assert first.label_agreement is None
    assert (first.clusters["lineage"] == -1).all()


def test_no_segments_at_all_give_no_clusters() -> None:
    texts, segments, vectors = replies([("base", "p", ""), ("intervention", "p", " ")])
    result = cluster_texts(texts, segments, vectors, CONFIG, previous=None, round_index=0, seed=0)
    assert len(result.clusters) == 0
    assert result.silhouette is None
    evidence = collect_evidence(result.texts, result.segments, [Prompt("p", "P", "g", "discovery")])
    assert evidence.hits_base.shape == (1, 0)


def test_the_map_separates_what_differs() -> None:
    points = map_texts(*replies(ROWS)).set_index("text_key")
    tea, rain = points.loc["t1"], points.loc["t2"]
    assert np.hypot(tea["x"] - rain["x"], tea["y"] - rain["y"]) > 0.5
    assert np.allclose(points.loc["t2"], points.loc["t7"])
    lonely = map_texts(*replies(ROWS[:1]))
    assert lonely[["x", "y"]].to_numpy().tolist() == [[0.0, 0.0]]


def test_the_largest_differences_come_first() -> None:
    rows = largest_differences(clustered().clusters, n=3)
    sizes = [abs(row["difference"]) for row in rows]
    assert len(rows) == 3
    assert sizes == sorted(sizes, reverse=True)
    # Nothing that quotes a text: these rows go to a server.
    assert all(
        isinstance(value, int | float)
        for row in rows
        for value in row.values()
        if value != row["cluster"]
    )


@pytest.mark.parametrize("n_groups", [1, 4])
def test_one_cloud_of_segments_is_no_structure(n_groups: int) -> None:
    rng = np.random.default_rng(0)
    texts, segments, _ = replies([(side, "p", "Tea.") for side in ("base", "intervention")] * 60)
    segments = segments.assign(segment_key=[f"s{i}" for i in range(len(segments))])
    centres = 8 * np.eye(6, dtype=np.float32)[np.arange(len(segments)) % n_groups]
    vectors = centres + rng.standard_normal(centres.shape).astype(np.float32)
    config = ClusterConfig(n_clusters=4, n_segment_clusters=4)
    found = cluster_texts(texts, segments, vectors, config, previous=None, round_index=0, seed=0)
    assert found.structure_found == (n_groups > 1)
