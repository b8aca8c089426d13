"""Padding masked out, dead components dropped, modules in one matrix."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whatchanged.activations.processing import (
    ComponentMaxima,
    ComponentTable,
    process_activations,
)
from whatchanged.errors import UsageError

# Two texts of 2 and 1 tokens; at the padding stand values that must never be seen.
MASK = np.array([[True, True], [False, True]])
BATCH = {
    "mlp": np.array([[[1, 0, -4], [2, 0, 0]], [[99, 99, 99], [3, 0, 1]]], np.float32),
    "attn": np.array([[[0, 5], [0, 6]], [[np.nan, 99], [0, -7]]], np.float32),
}


def table(threshold: float = 0.0) -> ComponentTable:
    maxima = ComponentMaxima({"mlp": 3, "attn": 2})
    maxima.add(BATCH, MASK)
    return maxima.table(threshold)


def test_padding_is_left_out_dead_components_are_dropped_and_modules_joined() -> None:
    processed = process_activations(BATCH, MASK, table())
    assert processed.labels == ("mlp:0", "mlp:2", "attn:1")
    assert processed.activations.tolist() == [[1, -4, 5], [2, 0, 6], [3, 1, -7]]
    assert processed.text_starts.tolist() == [0, 2, 3]
    assert processed.activations.dtype == np.float32


def test_modules_stand_in_the_order_of_the_table_not_of_the_batch() -> None:
    turned = dict(reversed(BATCH.items()))
    processed = process_activations(turned, MASK, table())
    assert processed.activations[0].tolist() == [1, -4, 5]


def test_a_component_is_judged_by_its_magnitude() -> None:
    assert table().maxima.tolist() == [3, 0, 4, 0, 7]
    assert table(3.0).labels == ("mlp:2", "attn:1")
    assert table(3.0).dead_labels == ("mlp:0", "mlp:1", "attn:0")


def test_a_label_has_its_column_a_dead_one_none_and_an_unknown_one_an_answer() -> None:
    processed = process_activations(BATCH, MASK, table())
    assert processed.get_label_index("attn:1") == 2
    assert processed.get_label_index("attn:0") is None
    with pytest.raises(UsageError, match=r"'atn:1'.*nearest that exists is 'attn:1'"):
        processed.get_label_index("atn:1")
    with pytest.raises(UsageError, match="'mlp:3'"):
        processed.get_label_index("mlp:3")


def test_a_token_of_the_padding_s_id_is_kept_where_the_mask_keeps_it() -> None:
    # The function is given no token ids at all: a real token 0 cannot be taken for padding.
    mask = np.ones((2, 2), dtype=bool)
    blocks = {"mlp": BATCH["mlp"], "attn": np.nan_to_num(BATCH["attn"])}
    maxima = ComponentMaxima({"mlp": 3, "attn": 2})
    maxima.add(blocks, mask)
    assert len(process_activations(blocks, mask, maxima.table()).activations) == 4


def test_a_component_that_wakes_after_the_first_pass_is_not_lost_in_silence() -> None:
    later = {"mlp": BATCH["mlp"].copy(), "attn": BATCH["attn"]}
    later["mlp"][1, 1, 1] = -0.5
    with pytest.raises(UsageError, match="mlp:1 was declared dead and fires"):
        process_activations(later, MASK, table())


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_activations_that_are_not_finite_are_refused_by_name(bad: float) -> None:
    broken = {"mlp": BATCH["mlp"].copy(), "attn": BATCH["attn"]}
    broken["mlp"][1, 1, 2] = bad
    with pytest.raises(UsageError, match=f"{bad} in mlp:2 at token 2"):
        process_activations(broken, MASK, table())
    with pytest.raises(UsageError, match=f"{bad} in mlp:2 at token 2"):
        ComponentMaxima({"mlp": 3, "attn": 2}).add(broken, MASK)


def test_infinities_of_both_signs_do_not_hide_each_other() -> None:
    broken = {"mlp": BATCH["mlp"].copy(), "attn": BATCH["attn"]}
    broken["mlp"][0, 0, :2] = np.inf, -np.inf
    with pytest.raises(UsageError, match="inf in mlp:0 at token 0"):
        process_activations(broken, MASK, table())


def test_shapes_and_modules_that_disagree_are_refused() -> None:
    with pytest.raises(UsageError, match=r"mlp: expected activations of shape \(2, 1, 3\)"):
        process_activations(BATCH, MASK[:, :1], table())
    with pytest.raises(UsageError, match="'attn' is not in both"):
        process_activations({"mlp": BATCH["mlp"]}, MASK, table())
    with pytest.raises(UsageError, match=r"mask \(batch, seq\)"):
        process_activations(BATCH, MASK.ravel(), table())


def test_with_no_component_alive_the_matrix_has_rows_and_no_column() -> None:
    silent = {name: np.zeros_like(block) for name, block in BATCH.items()}
    maxima = ComponentMaxima({"mlp": 3, "attn": 2})
    maxima.add(silent, MASK)
    processed = process_activations(silent, MASK, maxima.table())
    assert processed.activations.shape == (3, 0)
    assert processed.labels == ()
    assert processed.get_label_index("mlp:1") is None
    with pytest.raises(UsageError, match="'mlp:7'"):
        processed.get_label_index("mlp:7")


def test_a_collection_without_modules_says_that_nothing_is_there() -> None:
    with pytest.raises(UsageError, match="there are none"):
        ComponentMaxima({}).table().get_label_index("mlp:0")


def test_a_batch_of_padding_alone_is_empty() -> None:
    processed = process_activations(BATCH, np.zeros((2, 2), dtype=bool), table())
    assert processed.activations.shape == (0, 3)
    assert processed.text_starts.tolist() == [0, 0, 0]


@pytest.mark.parametrize("threshold", [-1.0, float("nan")])
def test_a_threshold_must_be_a_magnitude(threshold: float) -> None:
    with pytest.raises(UsageError, match="threshold of at least 0"):
        table(threshold)


@given(st.integers(1, 128), st.integers(0, 2**32 - 1))
def test_batches_in_any_division_give_the_same_rows(n_texts: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random((n_texts, 3)) < 0.7
    blocks = {
        name: (rng.standard_normal((n_texts, 3, n)) * (rng.random(n) < 0.5)).astype(np.float32)
        for name, n in (("a", 4), ("b", 2))
    }
    at = int(rng.integers(n_texts + 1))
    pieces = [
        ({name: block[rows] for name, block in blocks.items()}, mask[rows])
        for rows in (slice(0, at), slice(at, None))
    ]
    whole, parted = ComponentMaxima({"a": 4, "b": 2}), ComponentMaxima({"a": 4, "b": 2})
    whole.add(blocks, mask)
    for piece in reversed(pieces):
        parted.add(*piece)
    assert whole.table().labels == parted.table().labels
    joined = [process_activations(*piece, whole.table()).activations for piece in pieces]
    expected = process_activations(blocks, mask, whole.table()).activations
    assert (np.concatenate(joined) == expected).all()
