"""What is shown of a finding's insides: selective units, contributions, groups, and tables."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from whatchanged.activations.evidence import (
    CONTRIBUTION_COLUMNS,
    SELECTIVE_COLUMNS,
    attribute_finding,
    choose_shown,
    describe_collection,
    is_control,
    join_contributions,
    no_contributions,
    select_units,
    tabulate_selective,
)
from whatchanged.activations.grouping import group_firings, summarize_groups
from whatchanged.activations.groups import ComponentGroups, group_components
from whatchanged.activations.processing import ComponentTable, ProcessedActivations
from whatchanged.activations.reading import TextContrast
from whatchanged.activations.selectivity import TextSummaries
from whatchanged.activations.tables import (
    COMPONENT_COLUMNS,
    TOKEN_COLUMNS,
    best_units,
    count_sources,
    tabulate_components,
    tabulate_tokens,
)
from whatchanged.errors import UsageError

# Selective units: 12 prompts with 4 texts each, of which 2 show a finding ------------------------

N_PROMPTS = 12
PROMPTS = [f"p{i // 4}" for i in range(4 * N_PROMPTS)]
IS_SHOWN = np.arange(4 * N_PROMPTS) % 4 < 2
SHOWS = IS_SHOWN.astype(float)


def summaries(**columns: np.ndarray) -> TextSummaries:
    """Components whose maximum in each text is the column; the other statistics are 0."""
    labels = tuple(name.replace("__", "/") + ":0" for name in columns)
    values = np.zeros((len(PROMPTS), 3, len(columns)), np.float32)
    values[:, 0] = np.stack(list(columns.values()), axis=1)
    return TextSummaries(tuple(f"t{i}" for i in range(len(PROMPTS))), labels, values)


NOISE = np.random.default_rng(0).standard_normal((3, len(PROMPTS)))
COMPONENTS = summaries(knows=SHOWS, noise=NOISE[0], random__a=NOISE[1], random__b=-SHOWS)
CLUSTERS = TextSummaries(
    COMPONENTS.text_keys, ("run-0-3",), summaries(c=NOISE[2] / 9 - SHOWS).values
)


def whole(rows: np.ndarray | None = None) -> TextContrast:
    rows = np.arange(len(PROMPTS)) if rows is None else rows
    return TextContrast("finding", "h1", "texts", rows, IS_SHOWN[rows])


def test_labels_and_modules_that_begin_as_random_directions_are_controls() -> None:
    labels = ("random/a:0", "randomly/a:0", "mlp/random/a:0", "random/model.layers.0", "")
    assert is_control(labels).tolist() == [True, False, False, True, False]
    assert is_control(()).tolist() == []


def test_components_and_clusters_are_chosen_and_corrected_together_without_controls() -> None:
    rows = select_units(COMPONENTS, CLUSTERS, [whole()], PROMPTS, seed=0, n_shown=8)
    assert {row["unit"]: row["is_cluster"] for row in rows} == {
        "knows:0": False, "run-0-3": True, "noise:0": False,
    }  # fmt: skip
    by_unit = {row["unit"]: row for row in rows}
    assert (by_unit["knows:0"]["auc"], by_unit["run-0-3"]["auc"]) == (1.0, 0.0)
    # The second p-value is corrected for three units, of which it is the second.
    p_values = sorted(row["p_value"] for row in rows)
    assert p_values[1] * 3 / 2 == pytest.approx(sorted(row["p_adjusted"] for row in rows)[1])
    assert {(row["kind"], row["name"], row["contrast"]) for row in rows} == {
        ("finding", "h1", "texts")
    }


def test_the_best_direction_drawn_at_random_stands_beside_each_unit() -> None:
    (row,) = select_units(COMPONENTS, CLUSTERS, [whole()], PROMPTS, seed=0, n_shown=1)
    assert row["control_auc"] == 0.0


def test_without_random_directions_there_is_no_control() -> None:
    (row,) = select_units(summaries(m=NOISE[0]), CLUSTERS, [whole()], PROMPTS, seed=0, n_shown=1)
    assert np.isnan(row["control_auc"])


def test_only_the_texts_of_the_contrast_count() -> None:
    # On the first six prompts the component is turned around.
    turned = np.where(np.arange(len(PROMPTS)) < 24, 1 - SHOWS, SHOWS)
    found = select_units(
        summaries(m=turned), CLUSTERS, [whole(np.arange(24, 48))], PROMPTS, seed=0, n_shown=2
    )
    assert {row["unit"]: row["auc"] for row in found} == {"m:0": 1.0, "run-0-3": 0.0}
    assert {row["n_prompts"] for row in found} == {3}


def test_the_rows_are_a_table_even_without_any() -> None:
    rows = select_units(COMPONENTS, CLUSTERS, [whole()], PROMPTS, seed=0, n_shown=2)
    assert tuple(tabulate_selective(rows).columns) == SELECTIVE_COLUMNS
    assert not tabulate_selective(rows).isna().any().any()
    assert tuple(tabulate_selective([]).columns) == SELECTIVE_COLUMNS


# Contributions: 2 prompts with a supporting and another text each --------------------------------


def attribute() -> tuple[pd.DataFrame, dict[str, object]]:
    return attribute_finding(
        "h1",
        ("up:0", "up:1"),
        np.array([[3.0, 1.0], [1.0, 0.0], [4.0, 2.0], [2.0, 1.0]]),
        np.array([[0.1, 0.2], [0.0, 0.0], [0.1, 0.2], [0.0, 0.0]]),
        np.array([1.0, 1.0]),
        np.array([5.0, 1.0, 6.0, 2.0]),
        ["p", "p", "q", "q"],
        np.array([True, False, True, False]),
    )


def test_a_findings_figures_say_what_its_directions_carried_together() -> None:
    table, figures = attribute()
    # Supporting texts exceed the others by 4 nats, of which the directions carried 2 and 1.
    assert figures == {
        "finding": "h1", "n_texts": 4, "n_supporting": 2, "n_prompts": 2, "log_ratio_nats": 4.0,
        "share": 0.75, "n_directions": 2, "n_significant": 0,
    }  # fmt: skip
    assert tuple(table.columns) == CONTRIBUTION_COLUMNS
    assert table.set_index("label")["nats"].to_dict() == {"up:0": 2.0, "up:1": 1.0}
    assert set(table["finding"]) == {"h1"}


def test_a_finding_without_contributions_has_an_empty_table() -> None:
    table, figures = no_contributions("h2")
    assert (len(table), figures) == (0, {"finding": "h2", "n_texts": 0})
    assert tuple(table.columns) == CONTRIBUTION_COLUMNS


def test_contributions_to_all_findings_are_joined_and_none_is_a_table_too() -> None:
    table, _ = attribute()
    empty, _ = no_contributions("h2")
    assert join_contributions([empty, table, empty]).equals(table)
    assert tuple(join_contributions([empty]).columns) == CONTRIBUTION_COLUMNS
    assert len(join_contributions([])) == 0


# Which components are shown on which texts -------------------------------------------------------


def test_the_best_single_components_are_shown_on_the_quoted_texts() -> None:
    selective = pd.DataFrame(
        [
            ("finding", "h1", "texts", "run-0-0", True),
            ("finding", "h1", "texts", "mlp:4", False),
            ("finding", "h1", "texts", "mlp:2", False),
            ("finding", "h1", "texts", "mlp:7", False),
            ("finding", "h1", "sides", "mlp:9", False),
            ("cluster", "h1", "texts", "mlp:8", False),
        ],
        columns=["kind", "name", "contrast", "unit", "is_cluster"],
    )
    findings = [
        {"id": "h1", "supporting": ["s"], "contradicting": ["c"]},
        {"id": "h2", "supporting": ["s"], "contradicting": None},
    ]
    shown = choose_shown(selective, findings, 2)
    assert list(shown.itertuples(index=False, name=None)) == [
        ("h1", "s", "mlp:4"), ("h1", "s", "mlp:2"), ("h1", "c", "mlp:4"), ("h1", "c", "mlp:2"),
    ]  # fmt: skip
    assert choose_shown(selective, [], 2).empty


# Groups and tables: 5 tokens of 2 texts, 4 components and a dead one ------------------------------

TABLE = ComponentTable(("n/mlp",), (5,), np.array([4, 0, 4, 4, 4], np.float32))
BLOCK = np.array(
    [[4, 4, 0, 0], [3, 3, 0, 0], [0, 0, -4, 0], [4, 4, 0, 0], [0, 0, 0, 4]], np.float32
)
CHUNKS = [
    ProcessedActivations(BLOCK[:3], np.array([0, 3]), TABLE),
    ProcessedActivations(BLOCK[3:], np.array([0, 2]), TABLE),
]
THRESHOLDS = np.full(4, 2, np.float32)


def groups() -> ComponentGroups:
    return group_firings(CHUNKS, TABLE, THRESHOLDS, "run")


def test_components_that_fire_together_are_a_group_and_one_alone_is_none() -> None:
    found = groups()
    assert found.labels == ("n/mlp:0", "n/mlp:2", "n/mlp:3", "n/mlp:4")
    assert found.clusters == ("run-0-0",)
    assert found.cluster_of.tolist() == [0, 0, -1, -1]


def test_without_a_living_component_nothing_can_be_grouped() -> None:
    dead = ComponentTable(("n/mlp",), (2,), np.zeros(2, np.float32))
    with pytest.raises(UsageError, match="none alive"):
        group_firings([], dead, np.zeros(0, np.float32), "run")


def test_a_groups_activation_is_the_sum_and_it_fires_where_any_member_does() -> None:
    found = summarize_groups(CHUNKS, [["a"], ["b"]], TABLE, groups())
    assert (found.text_keys, found.labels) == (("a", "b"), ("run-0-0",))
    # Sums are 8, 6, 0 and 8, 0: maximum, reverse maximum, firing rate.
    assert found.values[:, :, 0] == pytest.approx(np.array([[8, 0, 2 / 3], [8, 0, 1 / 2]]))


def test_without_a_group_there_is_a_summary_of_none() -> None:
    alone = group_components(TABLE.labels, {})
    found = summarize_groups(CHUNKS, [["a"], ["b"]], TABLE, alone)
    assert found.values.shape == (2, 3, 0)


def test_the_table_of_components_has_their_rates_per_side_and_their_group() -> None:
    whole = ComponentTable(("n/mlp", "random/m"), (5, 1), np.array([4, 0, 4, 4, 4, 1], np.float32))
    values = np.zeros((2, 3, 5), np.float32)
    values[:, 2] = [[0.5, 0.5, 0.25, 0, 1], [0.5, 0.5, 0, 0.75, 0]]
    found = tabulate_components(
        TextSummaries(("a", "b"), whole.labels, values),
        np.array([False, True]),
        whole,
        np.array([2, 2, 2, 2, 0.5], np.float32),
        groups(),
    )
    assert tuple(found.columns) == COMPONENT_COLUMNS
    assert found["source"].tolist() == ["n", "n", "n", "n", "random"]
    assert found["maximum"].tolist() == [4, 4, 4, 4, 1]
    assert found["threshold"].tolist() == [2, 2, 2, 2, 0.5]
    assert found["rate_base"].tolist() == [0.5, 0.5, 0.25, 0, 1]
    assert found["rate_intervention"].tolist() == [0.5, 0.5, 0, 0.75, 0]
    assert found["cluster"].fillna("none").tolist() == ["run-0-0", "run-0-0"] + 3 * ["none"]


def test_a_side_without_texts_has_no_rate() -> None:
    found = tabulate_components(
        TextSummaries(("a",), TABLE.labels, np.ones((1, 3, 4), np.float32)),
        np.array([True]), TABLE, THRESHOLDS, groups(),
    )  # fmt: skip
    assert found["rate_base"].isna().all()
    assert found["rate_intervention"].tolist() == [1, 1, 1, 1]


def test_the_table_of_tokens_says_where_and_how_strongly_a_component_fires() -> None:
    shown = pd.DataFrame(
        [
            ("h1", "b", "n/mlp:4"),
            ("h1", "a", "n/mlp:0"),
            ("h1", "a", "n/mlp:3"),
            ("h2", "a", "n/mlp:4"),
            ("h2", "unread", "n/mlp:0"),
            ("h2", "a", "n/mlp:1"),
        ],
        columns=["finding", "text_key", "unit"],
    )
    found = tabulate_tokens(shown, zip([["a"], ["b"]], CHUNKS, strict=True))
    assert tuple(found.columns) == TOKEN_COLUMNS
    rows = [
        (finding, key, unit, positions.tolist(), values.tolist())
        for finding, key, unit, positions, values in found.itertuples(index=False)
    ]
    # The text that was not read and the dead component are left out.
    assert rows == [
        ("h1", "a", "n/mlp:0", [0, 1], [4, 3]),
        ("h1", "a", "n/mlp:3", [2], [-4]),
        ("h2", "a", "n/mlp:4", [], []),
        ("h1", "b", "n/mlp:4", [1], [4]),
    ]


# In words ----------------------------------------------------------------------------------------


def test_the_collection_is_described_with_what_was_not_read_and_what_was_carried() -> None:
    _, figures = attribute()
    said = describe_collection(
        {
            "n_components": 1888, "n_texts": 2400, "sources": ["weight_delta"],
            "skipped": {"neurons": "no MLP was recognized"},
            "contributions": [figures | {"share": None}, no_contributions("h2")[1]],
        }
    )  # fmt: skip
    assert said.startswith("1,888 components read on 2,400 texts (weight_delta).\n")
    assert "Not read: neurons: no MLP was recognized." in said
    assert "| h1 | 4.00 | - | 0 of 2 |" in said
    assert "h2" not in said


def test_the_collection_is_described_by_source_and_with_the_best_unit_beside_the_control() -> None:
    labels = ["saes@base/topk:7", "saes@base/topk:9", "weight_delta/m.q_proj:0"]
    assert count_sources(labels) == {"saes@base": 2, "weight_delta": 1}
    assert count_sources([]) == {}
    rows = [
        ("finding", "h1", "sides", "n/mlp:1", 0.7),
        ("finding", "h1", "texts", "saes@base/topk:7", 0.9),
        ("finding", "h1", "texts", "n/mlp:1", 0.8),
        ("cluster", "r-0-1", "texts", "n/mlp:2", 0.6),
        ("finding", "h2", "texts", "n/mlp:3", float("nan")),
    ]
    table = pd.DataFrame(rows, columns=["kind", "name", "contrast", "unit", "auc"])
    best = best_units(table.assign(control_auc=0.75, p_adjusted=0.01))
    assert [(row["finding"], row["unit"]) for row in best] == [("h1", "saes@base/topk:7")]
    said = describe_collection(
        {
            "n_components": 3, "n_texts": 4, "sources": ["saes"], "skipped": {},
            "contributions": [], "n_by_source": count_sources(labels), "selective": best,
        }
    )  # fmt: skip
    assert "Of them: 2 saes@base, 1 weight_delta." in said
    assert "| h1 | saes@base/topk:7 | 0.90 | 0.75 |" in said
    assert said.endswith("texts that differ in words differ in everything.")


def test_a_collection_of_nothing_is_one_line() -> None:
    nothing = {"n_components": 0, "n_texts": 5, "sources": [], "skipped": {}, "contributions": []}
    assert describe_collection(nothing) == "0 components read on 5 texts (no source)."
