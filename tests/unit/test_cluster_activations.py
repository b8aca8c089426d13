"""Activations of component clusters, against a plain loop."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from whatchanged.activations.cluster_activations import ClusterAggregator
from whatchanged.activations.groups import Rule, group_components
from whatchanged.activations.processing import (
    ComponentTable,
    ProcessedActivations,
    process_activations,
)
from whatchanged.errors import UsageError

LABELS = tuple(f"m:{i}" for i in range(5))
# m:3 is dead. The clusters are {m:0, m:2}, {m:3} and {m:1, m:3}; m:4 is in none.
BLOCK = np.array([[[1, -2, 3, 0, 50], [-4, -5, -6, 0, 60]]], np.float32)
CLUSTERS = {"r-0-0": ("m:2", "m:0"), "r-0-1": ("m:3",), "r-0-2": ("m:1",)}


def processed(block: NDArray[np.float32]) -> ProcessedActivations:
    maxima = np.abs(block).max(axis=(0, 1), initial=0)
    table = ComponentTable(("m",), (block.shape[2],), maxima)
    return process_activations({"m": block}, np.ones(block.shape[:2], bool), table)


def aggregate(
    batch: ProcessedActivations, rule: Rule, clusters: object = None
) -> list[list[float]]:
    groups = group_components(LABELS, clusters or CLUSTERS, rule)  # type: ignore[arg-type]
    return ClusterAggregator(batch.table, groups).aggregate(batch).activations.tolist()


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("sum", [[4, 0, -2], [-10, 0, -5]]),
        ("mean", [[2, 0, -2], [-5, 0, -5]]),
        ("max", [[3, 0, -2], [-4, 0, -5]]),
    ],
)
def test_a_cluster_is_the_sum_mean_or_maximum_of_its_components(
    rule: Rule, expected: list[list[float]]
) -> None:
    assert aggregate(processed(BLOCK), rule) == expected


@pytest.mark.parametrize(
    ("rule", "expected"), [("sum", [-2, -5]), ("mean", [-1, -2.5]), ("max", [0, 0])]
)
def test_a_dead_component_counts_as_zero(rule: Rule, expected: list[float]) -> None:
    found = aggregate(processed(BLOCK), rule, {"r-0-0": ("m:1", "m:3")})
    assert [row[0] for row in found] == expected


def test_columns_are_named_by_their_clusters() -> None:
    batch = processed(BLOCK)
    groups = group_components(LABELS, CLUSTERS, "sum")
    assert ClusterAggregator(batch.table, groups).aggregate(batch).clusters == tuple(CLUSTERS)


@pytest.mark.parametrize("rule", ["sum", "mean", "max"])
def test_silent_clusters_are_zero_and_keep_their_columns(rule: Rule) -> None:
    assert aggregate(processed(np.zeros((2, 1, 5), np.float32)), rule) == [[0, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize("rule", ["sum", "mean", "max"])
def test_no_cluster_gives_no_column(rule: Rule) -> None:
    batch = processed(BLOCK)
    groups = group_components(LABELS, {}, rule)
    assert ClusterAggregator(batch.table, groups).aggregate(batch).activations.shape == (2, 0)


def test_another_table_s_batch_and_an_unknown_label_are_refused() -> None:
    batch = processed(BLOCK)
    aggregator = ClusterAggregator(batch.table, group_components(LABELS, CLUSTERS, "sum"))
    with pytest.raises(UsageError, match="expected a batch with the 4 living components"):
        aggregator.aggregate(processed(np.ones_like(BLOCK)))
    with pytest.raises(UsageError, match="'other:0'"):
        ClusterAggregator(batch.table, group_components(("other:0",), {}, "sum"))


def by_a_loop(
    block: NDArray[np.float32], clusters: dict[str, list[str]], rule: Rule
) -> NDArray[np.float64]:
    rows = block.reshape(-1, block.shape[2]).astype(np.float64)
    found = np.zeros((len(rows), len(clusters)))
    for token, row in enumerate(rows):
        for column, members in enumerate(clusters.values()):
            values = [row[int(label.split(":")[1])] for label in members]
            if rule == "max":
                found[token, column] = max(values)
            else:
                found[token, column] = sum(values) / (len(values) if rule == "mean" else 1)
    return found


@given(
    st.sampled_from([1, 3, 128]),
    st.integers(1, 12),
    st.integers(1, 6),
    st.sampled_from(["sum", "mean", "max"]),
    st.integers(0, 2**32 - 1),
)
def test_random_batches_agree_with_a_plain_loop(
    n_texts: int, n_components: int, n_clusters: int, rule: Rule, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    block = rng.standard_normal((n_texts, 2, n_components)) * (rng.random(n_components) < 0.7)
    owners = rng.integers(-1, n_clusters, n_components)
    clusters = {
        f"r-0-{c}": [f"m:{i}" for i in np.flatnonzero(owners == c)]
        for c in range(n_clusters)
        if (owners == c).any()
    }
    batch = processed(block.astype(np.float32))
    groups = group_components([f"m:{i}" for i in range(n_components)], clusters, rule)
    found = ClusterAggregator(batch.table, groups).aggregate(batch).activations
    expected = by_a_loop(block.astype(np.float32), clusters, rule)
    assert found == pytest.approx(expected, abs=1e-5)
