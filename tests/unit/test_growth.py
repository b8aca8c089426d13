"""Rounds of discovery in which a topic appears that the rounds before did not have."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from whatchanged.config import ClusterConfig
from whatchanged.discovery import ClusteredTexts, as_previous, cluster_texts
from whatchanged.embed import segment_table

CONFIG = ClusterConfig(n_clusters=3, n_segment_clusters=3, min_cluster_size=10, max_growth=0.5)
TOPICS = ("Tea", "Milk", "Rain", "Snow")


def vector_of(sentence: str) -> np.ndarray:
    """A unit vector near its topic's axis: "Tea 7." is the seventh sentence about tea."""
    topic, number = sentence.removesuffix(".").split()
    rng = np.random.default_rng([TOPICS.index(topic), int(number)])
    vector = 4 * np.eye(24)[TOPICS.index(topic)] + rng.normal(size=24) * 0.4
    return vector / np.linalg.norm(vector)


def write_replies(topics: tuple[str, ...], start: int, n: int = 30) -> pd.DataFrame:
    """`n` replies of one sentence per topic, half of them on each side, numbered from `start`."""
    rows = [
        (f"{topic}{i}", ("base", "intervention")[i % 2], f"prompt {i % 5}", f"{topic} {i}.")
        for topic in topics
        for i in range(start, start + n)
    ]
    return pd.DataFrame(rows, columns=["text_key", "side", "prompt_key", "text"])


def cluster(
    texts: pd.DataFrame, config: ClusterConfig = CONFIG, before: ClusteredTexts | None = None
) -> ClusteredTexts:
    segments = segment_table(texts)
    vectors = np.array([vector_of(s) for s in segments["segment"]], dtype=np.float32)
    previous = before and as_previous(
        before.texts, before.segments, before.clusters, before.centroids
    )
    return cluster_texts(
        texts, segments, vectors, config, previous=previous, round_index=1 if before else 0, seed=0
    )


def two_rounds(
    topics: tuple[str, ...], config: ClusterConfig = CONFIG
) -> tuple[ClusteredTexts, ClusteredTexts]:
    first_texts = write_replies(TOPICS[:3], 0)
    first = cluster(first_texts, config)
    return first, cluster(pd.concat([first_texts, write_replies(topics, 30)]), config, first)


@pytest.mark.parametrize("level", ["text", "segment"])
def test_a_topic_that_appears_gets_an_id_of_its_own(level: str) -> None:
    first, second = two_rounds(TOPICS)
    now = second.clusters[(second.clusters["round"] == 1) & (second.clusters["level"] == level)]
    assert now["cluster"].tolist() == [f"1-{level[0]}{label}" for label in range(4)]
    assert now["origin"].tolist() == ["continued"] * 3 + ["new"]
    assert now["lineage"].tolist() == [0, 1, 2, -1]
    # Each old topic had 30 texts and has 60 now.
    assert now["lineage_share"].tolist() == [0.5, 0.5, 0.5, 0.0]
    assert now["exemplar"].iloc[3].startswith("Snow ")
    assert len(first.clusters) == 6


def test_the_labels_of_texts_that_were_there_hold() -> None:
    first, second = two_rounds(TOPICS)
    old = first.texts.set_index("text_key")["label"]
    new = second.texts.set_index("text_key")["label"]
    assert (new[old.index] == old).all()
    assert (new[[f"Snow{i}" for i in range(30, 60)]] == 3).all()
    assert second.label_agreement == 1.0


def test_more_of_the_same_topics_is_no_new_cluster() -> None:
    _, second = two_rounds(TOPICS[:3])
    assert (second.clusters.groupby(["round", "level"]).size() == 3).all()


def test_the_config_can_forbid_growth() -> None:
    _, second = two_rounds(TOPICS, CONFIG.model_copy(update={"max_growth": 0.0}))
    assert (second.clusters.groupby(["round", "level"]).size() == 3).all()


def test_clusters_of_the_first_round_are_new() -> None:
    clusters = cluster(write_replies(TOPICS[:3], 0)).clusters
    assert set(clusters["origin"]) == {"new"}
    assert set(clusters["lineage"]) == {-1}
    assert set(clusters["lineage_share"]) == {0.0}
