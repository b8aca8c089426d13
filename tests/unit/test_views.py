"""A round clustered twice: as decoded, and as if every prompt had been decoded equally often."""

from __future__ import annotations

import numpy as np
import pandas as pd

from whatchanged.config import ClusterConfig
from whatchanged.discovery import ClusteredTexts, PreviousRound, as_previous, cluster_texts
from whatchanged.embed import segment_table
from whatchanged.records import Hypothesis
from whatchanged.views import Embedded, PreviousViews, Views, cluster_views, name_clusters

# Squared distances: 0.5 between tea and mint, 1 between milk and rain, 2 between the two pairs.
DIRECTIONS = {
    "Tea.": (1.0, 0.0, 0.0, 0.0),
    "Mint.": (0.75, np.sqrt(1 - 0.75**2), 0.0, 0.0),
    "Milk.": (0.0, 0.0, 1.0, 0.0),
    "Rain.": (0.0, 0.0, 0.5, np.sqrt(1 - 0.5**2)),
    "Sun.": (-1.0, 0.0, 0.0, 0.0),
}
CONFIG = ClusterConfig(n_clusters=3, n_segment_clusters=3)
# Prompt p was decoded twenty times as often as q and r.
UNEVEN = {"p": ["Tea.", "Mint."] * 10, "q": ["Milk."], "r": ["Rain."]}
EVEN = {"p": ["Tea."], "q": ["Milk."], "r": ["Rain."]}


def views_of(replies: dict[str, list[str]], before: Views | None = None) -> Views:
    rows = [
        (f"{side}{prompt}{i}", side, prompt, reply)
        for side in ("base", "intervention")
        for prompt, own in replies.items()
        for i, reply in enumerate(own)
    ]
    texts = pd.DataFrame(rows, columns=["text_key", "side", "prompt_key", "text"])
    segments = segment_table(texts)
    vectors = vectors_of(segments)
    previous = before and PreviousViews(leave(before.even), leave(before.focus))
    return cluster_views(
        Embedded(texts, segments, vectors), CONFIG, screened=None, previous=previous,
        round_index=int(bool(before)), seed=0,
    )  # fmt: skip


def vectors_of(segments: pd.DataFrame) -> np.ndarray:
    return np.array([DIRECTIONS[s] for s in segments["segment"]], dtype=np.float32)


def leave(view: ClusteredTexts) -> PreviousRound:
    return as_previous(view.texts, view.segments, view.clusters, view.centroids)


def parts(view: ClusteredTexts) -> set[frozenset[str]]:
    """The sentences that share a cluster."""
    return {frozenset(own) for _, own in view.segments.groupby("label")["segment"]}


def test_clusters_gather_where_texts_are_unless_prompts_count_the_same() -> None:
    views = views_of(UNEVEN)
    # As decoded, three clusters for four sentences join milk and rain: 2 * 2 / 4 * 1 = 1 of
    # inertia, where tea and mint would cost 20 * 20 / 40 * 0.5 = 5.
    assert parts(views.focus) == {
        frozenset({"Tea."}), frozenset({"Mint."}), frozenset({"Milk.", "Rain."})
    }  # fmt: skip
    # With 44 / 3 for each prompt, tea and mint cost 22 / 6 * 0.5 = 1.8, milk and rain 7.3.
    assert parts(views.even) == {
        frozenset({"Tea.", "Mint."}), frozenset({"Milk."}), frozenset({"Rain."})
    }  # fmt: skip


def test_even_texts_are_clustered_once() -> None:
    views = views_of(EVEN)
    assert views.even is views.focus


def test_clusters_found_anew_keep_the_labels_and_name_the_round_they_come_from() -> None:
    first = views_of(UNEVEN)
    more = {prompt: own * 2 for prompt, own in UNEVEN.items()}
    second = views_of(more, first)
    old = first.even.segments.groupby("segment")["label"].first()
    new = second.even.segments.groupby("segment")["label"].first()
    assert new.to_dict() == old.to_dict()
    clusters = second.even.clusters
    now = clusters[(clusters["round"] == 1) & (clusters["level"] == "segment")]
    assert now["cluster"].tolist() == ["1-s0", "1-s1", "1-s2"]
    assert now["lineage"].tolist() == [0, 1, 2]
    assert now["origin"].tolist() == ["continued"] * 3
    assert second.even.label_agreement == 1.0


def test_a_view_follows_its_own_rounds() -> None:
    first = views_of(UNEVEN)
    second = views_of(UNEVEN, first)
    assert parts(second.focus) == parts(first.focus)
    assert parts(second.even) == parts(first.even)
    assert second.focus.label_agreement == second.even.label_agreement == 1.0


def views_beside_the_screen(finish: str) -> Views:
    """Each prompt once per side, and once in the screen, whose reply to p says "Sun." last."""
    own = [("p", "Tea. Mint.", "stop"), ("q", "Milk.", "stop"), ("r", "Rain.", "stop")]
    short = [("p", "Tea. Sun.", finish), ("q", "Rain.", "stop"), ("r", "Rain.", "stop")]
    embedded = []
    for name, replies in (("own", own), ("screen", short)):
        rows = [
            (f"{name}{side}{i}", side, *reply)
            for side in ("base", "intervention")
            for i, reply in enumerate(replies)
        ]
        texts = pd.DataFrame(rows, columns=["text_key", "side", "prompt_key", "text", "finish"])
        segments = segment_table(texts)
        embedded.append(Embedded(texts, segments, vectors_of(segments)))
    return cluster_views(
        embedded[0], CONFIG, screened=embedded[1], previous=None, round_index=0, seed=0
    )


def test_the_screen_helps_to_place_clusters_and_belongs_to_none() -> None:
    views = views_beside_the_screen("stop")
    # One of the three clusters is of the sun, which only the screen has: two are left.
    assert parts(views.even) == {frozenset({"Tea.", "Mint."}), frozenset({"Milk.", "Rain."})}
    assert len(views.even.centroids["segment"]) == 2
    assert set(views.even.segments["label"]) == {0, 1}
    assert len(views.even.texts) == 6
    # Without it, tea and mint are nearest: 2 * 2 / 4 * 0.5 = 0.5 of inertia, milk and rain 1.
    assert parts(views.focus) == {
        frozenset({"Tea.", "Mint."}), frozenset({"Milk."}), frozenset({"Rain."})
    }  # fmt: skip


def test_what_steers_is_as_if_nothing_else_were_clustered() -> None:
    views = views_beside_the_screen("stop")
    texts = views.focus.texts.drop(columns=["label", "margin"])
    segments = segment_table(texts)
    alone = cluster_texts(
        texts, segments, vectors_of(segments), CONFIG, previous=None, round_index=0, seed=0
    )
    pd.testing.assert_frame_equal(views.focus.segments, alone.segments)
    pd.testing.assert_frame_equal(views.focus.clusters, alone.clusters)


def test_a_sentence_in_which_the_screen_was_cut_off_places_nothing() -> None:
    views = views_beside_the_screen("length")
    assert parts(views.even) == parts(views.focus)
    assert len(views.even.centroids["segment"]) == 3


def claim(cluster: str | None) -> Hypothesis:
    return Hypothesis("h001", "", "", "more", None, cluster, (), 0.0, 0.0, 1.0)


def test_a_hypothesis_is_named_after_the_cluster_that_holds_most_of_its_own() -> None:
    keys = ["a", "b", "c", "d", "a", "a"]
    # Focus cluster 0 is a, b, c, of which 5 holds two; a counts once. Cluster 1 is d: noise there.
    focus = pd.DataFrame({"segment_key": keys, "label": [0, 0, 0, 1, 0, 0]})
    even = pd.DataFrame({"segment_key": keys, "label": [2, 5, 5, -1, 2, 2]})
    named = name_clusters([claim("0"), claim("1"), claim(None)], focus, even)
    assert [h.cluster for h in named] == ["5", None, None]


def test_no_segments_name_no_cluster() -> None:
    none = pd.DataFrame({"segment_key": [], "label": []})
    assert name_clusters([claim(None)], none, none) == [claim(None)]
