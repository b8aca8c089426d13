"""Component clusters by the tokens on which components fire."""

from __future__ import annotations

import numpy as np
import pytest

from whatchanged.activations.clusters import (
    ClusterId,
    Coactivations,
    ComponentClusters,
    cluster_components,
    firing_thresholds,
)
from whatchanged.activations.groups import group_components
from whatchanged.activations.processing import (
    ComponentTable,
    ProcessedActivations,
    process_activations,
)
from whatchanged.errors import UsageError


def batches_of(matrix: object, n_per_batch: int = 2) -> list[ProcessedActivations]:
    """Batches of texts of one token; all components are alive."""
    values = np.asarray(matrix, dtype=np.float32)
    table = ComponentTable(
        ("m",), (values.shape[1],), np.abs(values).max(axis=0, initial=0), threshold=-1.0
    )
    return [
        process_activations({"m": rows[:, None]}, np.ones((len(rows), 1), bool), table)
        for at in range(0, len(values), n_per_batch)
        if len(rows := values[at : at + n_per_batch])
    ]


def count(batches: list[ProcessedActivations], share: float = 0.5) -> Coactivations:
    table = batches[0].table
    coactivations = Coactivations(table.labels, firing_thresholds(table, share))
    for batch in batches:
        coactivations.add(batch)
    return coactivations


# m:0 and m:1 fire on tokens 0, 1, 2 and on 0, 1; m:2 and m:3 on token 3, one with reversed sign.
MATRIX = [[4, 2, 0, 0], [4, 2, 1, 0], [4, 0, 0, 0], [1, 1, 9, -3], [0, 0, 0, 1]]


def test_a_component_fires_above_half_of_its_own_maximum_in_either_sign() -> None:
    assert firing_thresholds(batches_of(MATRIX)[0].table).tolist() == [2, 1, 4.5, 1.5]
    found = count(batches_of(MATRIX))
    assert found.counts.tolist() == [[3, 2, 0, 0], [2, 2, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]
    assert found.n_tokens == 5


def test_components_that_fire_together_are_one_cluster() -> None:
    # Jaccard's index: m:0 and m:1 share 2 of 3 tokens, distance 1/3; m:2 and m:3 all of 1.
    found = cluster_components(count(batches_of(MATRIX)), "demo", iteration=2)
    assert found.clusters.tolist() == [0, 0, 1, 1]
    assert found.members() == {"demo-2-0": ("m:0", "m:1"), "demo-2-1": ("m:2", "m:3")}
    closer = cluster_components(count(batches_of(MATRIX)), "demo", max_distance=0.3)
    assert closer.clusters.tolist() == [0, 1, 2, 2]
    wider = cluster_components(count(batches_of(MATRIX)), "demo", max_distance=1.0)
    assert wider.clusters.tolist() == [0, 0, 0, 0]


def test_average_linkage_asks_for_the_mean_distance() -> None:
    # Firing tokens {0,1}, {0,1,2}, {1,2,3}: the distances are 1/3, 3/4 and 1/2. The first two
    # join, then the third lies at a mean of 5/8.
    matrix = [[1, 1, 0], [1, 1, 1], [0, 1, 1], [0, 0, 1]]
    at = [
        cluster_components(count(batches_of(matrix)), "r", max_distance=d).clusters.tolist()
        for d in (0.6, 0.63)
    ]
    assert at == [[0, 0, 1], [0, 0, 0]]


def test_clusters_do_not_depend_on_the_order_or_size_of_batches() -> None:
    rng = np.random.default_rng(5)
    matrix = rng.standard_normal((300, 3)) @ rng.standard_normal((3, 20))
    expected = cluster_components(count(batches_of(matrix, 300)), "r")
    assert 1 < expected.n_clusters < 20
    for n_per_batch in (1, 7, 128):
        batches = batches_of(matrix[rng.permutation(300)], n_per_batch)
        found = cluster_components(count(batches), "r")
        assert (found.clusters == expected.clusters).all()


def test_a_piece_longer_than_the_working_memory_is_counted_whole() -> None:
    (batch,) = batches_of(np.ones((20_000, 2)), 20_000)
    assert count([batch]).counts.tolist() == [[20_000, 20_000], [20_000, 20_000]]


def test_one_component_is_one_cluster() -> None:
    found = cluster_components(count(batches_of([[1.0], [0.0]])), "r")
    assert found.members() == {"r-0-0": ("m:0",)}


def test_silent_components_are_in_no_cluster() -> None:
    some = cluster_components(count(batches_of([[1.0, 0.0, 1.0]])), "r")
    assert some.clusters.tolist() == [0, -1, 0]
    none = cluster_components(count(batches_of(np.zeros((4, 3)))), "r")
    assert none.clusters.tolist() == [-1, -1, -1]
    assert none.members() == {}
    assert none.n_clusters == 0


def test_no_component_gives_no_cluster() -> None:
    table = ComponentTable((), (), np.zeros(0, np.float32))
    nothing = Coactivations(table.labels, firing_thresholds(table))
    assert cluster_components(nothing, "r").clusters.tolist() == []


def test_clusters_become_the_groups_that_the_store_takes() -> None:
    found = cluster_components(count(batches_of(MATRIX)), "demo")
    groups = group_components(found.labels, found.members(), "mean")
    assert groups.clusters == ("demo-0-0", "demo-0-1")
    assert groups.cluster_of.tolist() == [0, 0, 1, 1]


def test_a_cluster_id_survives_writing_though_the_run_s_name_has_hyphens() -> None:
    named = ClusterId("my-run-7", 3, 12)
    assert named.to_string() == "my-run-7-3-12"
    assert ClusterId.from_string("my-run-7-3-12") == named


@pytest.mark.parametrize("text", ["run", "run-1", "run-1-x", "-1-2", "run--1-2-", "run-1-²", ""])
def test_a_text_that_is_no_cluster_id_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        ClusterId.from_string(text)


@pytest.mark.parametrize("wrong", [("", 0, 0), ("r", -1, 0), ("r", 0, -1)])
def test_an_id_needs_a_run_and_two_numbers(wrong: tuple[str, int, int]) -> None:
    with pytest.raises(UsageError, match="at least 0"):
        ClusterId(*wrong)


def test_numbers_with_a_gap_are_refused() -> None:
    with pytest.raises(UsageError, match="without a gap"):
        ComponentClusters("r", 0, ("m:0", "m:1"), np.array([0, 2]))
    with pytest.raises(UsageError, match="for each of 2 components"):
        ComponentClusters("r", 0, ("m:0", "m:1"), np.array([0]))


def test_bad_requests_are_refused() -> None:
    table = batches_of(MATRIX)[0].table
    with pytest.raises(UsageError, match=r"share of the maximum in \[0, 1\)"):
        firing_thresholds(table, 1.0)
    with pytest.raises(UsageError, match="expected 4 thresholds"):
        Coactivations(table.labels, np.zeros(3, np.float32))
    with pytest.raises(UsageError, match="cluster fewer sources"):
        Coactivations(table.labels, np.zeros(4, np.float32), max_bytes=1000)
    with pytest.raises(UsageError, match=r"max_distance in \[0, 1\]"):
        cluster_components(count(batches_of(MATRIX)), "r", max_distance=1.5)
    with pytest.raises(UsageError, match="expected the 4 components"):
        count(batches_of(MATRIX)).add(batches_of([[1.0]])[0])
