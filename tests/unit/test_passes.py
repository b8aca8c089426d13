"""The two passes over a run's texts: what each component reaches, then where it fires."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whatchanged.activations.clusters import firing_thresholds
from whatchanged.activations.passes import (
    Arrays,
    choose_table,
    dense_firings,
    join_chunks,
    measure_chunk,
    read_chunk,
    without_controls,
)
from whatchanged.activations.processing import ComponentTable
from whatchanged.activations.selectivity import choosing_prompts, find_selective
from whatchanged.errors import UsageError

MODULES = {"mlp": 3, "random/mlp": 1}
TEXTS = ("a", "b", "c")
IS_INTERVENTION = np.array([False, True, True])
IS_CHOOSING = np.array([True, True, False])


@dataclass(frozen=True)
class Read:
    """What a reader gives of some of a chunk's texts."""

    rows: tuple[int, ...]
    activations: dict[str, np.ndarray]
    mask: np.ndarray


def batch(rows: tuple[int, ...], *texts: list[list[float]]) -> Read:
    """Texts of tokens of 4 components, the last one a control; at the padding stands NaN."""
    longest = max(len(text) for text in texts)
    block = np.full((len(texts), longest, 4), np.nan, np.float32)
    for row, text in enumerate(texts):
        block[row, : len(text)] = text
    mask = np.arange(longest) < np.array([[len(text)] for text in texts])
    return Read(rows, {"mlp": block[..., :3], "random/mlp": block[..., 3:]}, mask)


# Text "b" has one token, "a" two, "c" three; the reader gives the longest first.
A = [[1, 0, -8, 1], [3, 0, 0, 1]]
B = [[6, 0, 2, -4]]
C = [[0, 0, 1, 0], [9, 0, 1, 0], [0, 0, 1, 2]]
BATCHES = (batch((2, 0), C, A), batch((1,), B))


def measured(batches: tuple[Read, ...] = BATCHES) -> Arrays:
    return measure_chunk(batches, MODULES, IS_INTERVENTION, IS_CHOOSING)


def table_of(max_components: int = 9) -> ComponentTable:
    return choose_table([measured()], MODULES, max_components)


def read(batches: tuple[Read, ...], table: ComponentTable) -> Arrays:
    return read_chunk(batches, TEXTS, table, firing_thresholds(table))


# The first pass ----------------------------------------------------------------------------------


def test_the_first_pass_takes_the_largest_magnitude_over_all_texts() -> None:
    assert measured()["maxima"].tolist() == [9, 0, 8, 4]


def test_the_sides_are_told_apart_on_the_mean_tokens_of_choosing_texts_alone() -> None:
    # "c" is not one. The base has "a" with means 2, 0, -4, 1, the intervention "b".
    found = measured()
    assert found["n"].tolist() == [1, 1]
    assert found["sums"].tolist() == [[2, 0, -4, 1], [6, 0, 2, -4]]
    assert found["squares"].tolist() == [[4, 0, 16, 1], [36, 0, 4, 16]]


def test_a_component_that_is_zero_on_all_tokens_is_dead() -> None:
    assert table_of().labels == ("mlp:0", "mlp:2", "random/mlp:0")
    assert table_of().dead_labels == ("mlp:1",)


def test_what_tells_the_sides_apart_least_is_left_out_and_controls_stay() -> None:
    # A second text per side, so that something varies: means of component 0 are 2, 2 and 6, 8 (a
    # distance of 5 / sqrt(1/2) = 7.1), of component 2 are -4, 0 and 2, 0 (3 / sqrt(2.5) = 1.9).
    more = measure_chunk(
        [batch((0, 1), [[2, 0, 0, 0]], [[8, 0, 0, 0]])],
        MODULES,
        np.array([False, True]),
        np.array([True, True]),
    )
    table = choose_table([measured(), more], MODULES, 1)
    assert table.labels == ("mlp:0", "random/mlp:0")
    assert table.maxima.tolist() == [9, 0, 0, 4]


def test_the_table_without_controls_keeps_the_columns_of_the_others() -> None:
    table = without_controls(table_of())
    assert (table.modules, table.sizes) == (("mlp",), (3,))
    assert table.labels == ("mlp:0", "mlp:2")
    alone = ComponentTable(("random/mlp",), (1,), np.array([4], np.float32))
    assert without_controls(alone).labels == ()


# The second pass ---------------------------------------------------------------------------------


def test_a_component_fires_where_it_exceeds_its_share_of_the_largest() -> None:
    # Thresholds are 4.5 and 4: only -8, 6 and 9 exceed them. Rows are a's 2 tokens, b's, c's 3.
    chunk = read(BATCHES, table_of())
    block = dense_firings(chunk, without_controls(table_of()))
    assert block.activations.tolist() == [[0, -8], [0, 0], [6, 0], [0, 0], [9, 0], [0, 0]]
    assert block.text_starts.tolist() == [0, 2, 3, 6]
    assert block.labels == ("mlp:0", "mlp:2")


def test_the_summaries_are_of_all_activations_and_have_the_controls() -> None:
    found = join_chunks([read(BATCHES, table_of())], [TEXTS], table_of())
    assert found.text_keys == TEXTS
    assert found.labels == ("mlp:0", "mlp:2", "random/mlp:0")
    # Maximum, reverse maximum, firing rate; the control's threshold is 2.
    assert found.values[0].tolist() == [[3, 0, 1], [-1, 8, -1], [0, 0.5, 0]]
    assert found.values[1].tolist() == [[6, 2, -4], [-6, -2, 4], [1, 0, 1]]
    assert found.values[2, :2].tolist() == [[9, 1, 2], [0, -1, 0]]
    assert found.values[2, 2] == pytest.approx([1 / 3, 0, 0])


def test_a_component_that_was_left_out_may_fire_and_is_not_seen() -> None:
    maxima = np.array([9, 0, 0, 4], np.float32)
    table = ComponentTable(tuple(MODULES), tuple(MODULES.values()), maxima)
    block = dense_firings(read(BATCHES, table), without_controls(table))
    assert block.activations.tolist() == [[0], [0], [6], [0], [9], [0]]


def test_chunks_are_joined_in_their_order() -> None:
    table = table_of()
    parts = [
        read_chunk([batch((0,), text)], [key], table, firing_thresholds(table))
        for key, text in zip(TEXTS, (A, B, C), strict=True)
    ]
    whole = join_chunks([read(BATCHES, table)], [TEXTS], table)
    joined = join_chunks(parts, [[key] for key in TEXTS], table)
    assert joined.text_keys == whole.text_keys
    assert (joined.values == whole.values).all()


def test_activations_that_are_not_finite_are_refused() -> None:
    bad = batch((0,), [[np.inf, 0, 0, 0]])
    with pytest.raises(UsageError, match=r"found inf in mlp:0"):
        measure_chunk([bad], MODULES, IS_INTERVENTION, IS_CHOOSING)
    with pytest.raises(UsageError, match=r"found inf in mlp:0"):
        read((bad,), table_of())


def null_findings(seed: int, is_divided: bool) -> tuple[list[float], list[float]]:
    """P-values and advantages (AUC above one half, in the direction of the choice) of 8 components
    found among the 20 of 1,000 that a pass kept; no component tells the sides apart.

    40 prompts with 2 texts per side, of one token. Undivided, all texts choose the 20.
    """
    rng = np.random.default_rng(seed)
    texts = rng.standard_normal((160, 1, 1000)).astype(np.float32)
    keys = [f"t{i}" for i in range(160)]
    prompts = [f"p{i // 4}" for i in range(160)]
    sides = np.arange(160) % 2 == 1
    modules = {"mlp": 1000}
    whole = Read(tuple(range(160)), {"mlp": texts}, np.ones((160, 1), dtype=bool))
    chosen_on = choosing_prompts(prompts, [0] * 160, seed) if is_divided else frozenset(prompts)
    is_choosing = np.array([prompt in chosen_on for prompt in prompts])
    table = choose_table([measure_chunk([whole], modules, sides, is_choosing)], modules, 20)
    assert len(table.labels) == 20
    chunk = read_chunk([whole], keys, table, firing_thresholds(table))
    found = find_selective(
        join_chunks([chunk], [keys], table), prompts, sides, seed=seed, n_shown=8, n_draws=999,
        chosen_on=chosen_on if is_divided else (),
    )  # fmt: skip
    sign = [np.sign(one.auc_selection - 0.5) for one in found]
    advantages = [(one.auc - 0.5) * s for one, s in zip(found, sign, strict=True)]
    return [one.p_value for one in found], advantages


def test_components_that_were_chosen_are_tested_on_prompts_that_did_not_choose_them() -> None:
    fair, unfair = (
        np.concatenate([null_findings(seed, is_divided) for seed in range(40)], axis=1)
        for is_divided in (True, False)
    )
    # 320 tests at 5%: a share of 0.05 with a standard deviation of 0.012. An AUC of 2 against 2
    # texts has a variance of 5 / 48, a mean of 20 prompts and 320 tests a standard error of 0.004.
    assert np.mean(fair[0] <= 0.05) < 0.09
    assert abs(fair[1].mean()) < 0.012
    # Prompts that choose and test find differences where there are none.
    assert np.mean(unfair[0] <= 0.05) > 0.12
    assert unfair[1].mean() > 0.05


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_how_texts_are_batched_changes_nothing(data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    n = data.draw(st.integers(1, 7))
    texts = [rng.integers(-4, 5, (rng.integers(1, 5), 4)).tolist() for _ in range(n)]
    keys = [f"t{i}" for i in range(n)]
    sides, seen = rng.random(n) < 0.5, rng.random(n) < 0.7

    def cut(order: list[int], size: int) -> list[Read]:
        parts = [tuple(order[at : at + size]) for at in range(0, n, size)]
        return [batch(rows, *(texts[row] for row in rows)) for rows in parts]

    alone = cut(list(range(n)), 1)
    mixed = cut(rng.permutation(n).tolist(), data.draw(st.integers(1, n)))
    first, other = (measure_chunk(batches, MODULES, sides, seen) for batches in (alone, mixed))
    assert all(first[name] == pytest.approx(other[name]) for name in first)
    table = choose_table([first], MODULES, 2)
    one, two = (
        read_chunk(batches, keys, table, firing_thresholds(table)) for batches in (alone, mixed)
    )
    assert all((one[name] == two[name]).all() for name in one)
