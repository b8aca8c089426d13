"""What turns to one token in many of a prompt's texts."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from whatchanged.shift import estimate_shift

KEYS = ("p", "q", "r")
Moved = dict[int, float]


def scores(*rows: tuple[str, str, Moved], parting: float = 0.5) -> pd.DataFrame:
    """Prompt, side and moved mass by token of each text."""
    return pd.DataFrame(
        {
            "prompt_key": [prompt for prompt, *_ in rows],
            "side": [side for _, side, _ in rows],
            "parting": parting,
            "moved_tokens": [np.array(list(moved), dtype=np.int32) for *_, moved in rows],
            "moved_mass": [np.array(list(moved.values()), dtype=np.float32) for *_, moved in rows],
        }
    )


def both(prompt: str, *texts: Moved) -> list[tuple[str, str, Moved]]:
    """The same texts on both sides, as coupled models write where they agree."""
    return [(prompt, side, moved) for side in ("base", "intervention") for moved in texts]


def test_a_little_in_every_text_outweighs_all_of_one_text() -> None:
    rows = [
        *both("p", {7: 0.1}, {7: 0.1}, {7: 0.1}, {7: 0.1}),
        *both("q", {8: 1.0}, {}, {}, {}),
        *both("r", {}, {}, {}, {}),
    ]
    found = estimate_shift(scores(*rows), KEYS)
    # One text of four: mean 1/4, variance (1 - 4/16) / 3 = 1/4, so an error of 1/4 as well.
    assert found.estimate == pytest.approx([0.1, 0.0, 0.0], abs=1e-6)
    assert found.error == pytest.approx([0.0, 0.25, 0.0], abs=1e-6)


def test_what_a_side_shows_counts_half_and_so_does_its_error() -> None:
    rows = [
        ("p", "base", {7: 0.2}), ("p", "base", {7: 0.4}),
        ("p", "intervention", {}), ("p", "intervention", {}),
        *both("q", {}), *both("r", {}),
    ]  # fmt: skip
    found = estimate_shift(scores(*rows), KEYS)
    # 0.2 and 0.4: mean 0.3, variance 0.02, an error of 0.1; the other side has neither.
    assert found.estimate[0] == pytest.approx((0.3 - 0.1) / 2)
    assert found.error[0] == pytest.approx(0.1 / 2)


def test_a_side_without_texts_leaves_the_other_whole() -> None:
    rows = [("p", "base", {7: 0.2}), ("p", "base", {7: 0.2}), *both("q", {}), *both("r", {})]
    assert estimate_shift(scores(*rows), KEYS).estimate[0] == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("shared", "expected"),
    [
        ((0.3, 0.2, 0.25), [0.05, 0.0, 0.0]),
        ((0.3, 0.2, 0.0), [0.1, 0.0, 0.0]),
        ((0.3, 0.0, 0.0), [0.3, 0.0, 0.0]),
    ],
)
def test_only_what_exceeds_the_median_prompt_counts(
    shared: tuple[float, ...], expected: list[float]
) -> None:
    rows = [
        row
        for key, mass in zip(KEYS, shared, strict=True)
        for row in both(key, {7: mass} if mass else {})
    ]
    assert estimate_shift(scores(*rows), KEYS).estimate == pytest.approx(expected, abs=1e-6)


def test_what_a_token_gains_and_what_it_loses_do_not_cancel() -> None:
    rows = [*both("p", {7: -0.1}, {7: -0.1}), *both("q", {7: 0.1}, {7: 0.1}), *both("r", {}, {})]
    assert estimate_shift(scores(*rows), KEYS).estimate == pytest.approx([0.1, 0.1, 0.0], abs=1e-6)


def test_of_several_tokens_the_largest_counts() -> None:
    rows = [*both("p", {7: 0.1, 9: 0.3}, {7: 0.1, 9: 0.3}), *both("q", {}), *both("r", {})]
    assert estimate_shift(scores(*rows), KEYS).estimate[0] == pytest.approx(0.3)


def test_a_shift_is_never_above_one() -> None:
    rows = [*both("p", {7: 2.5}, {7: 2.5}), *both("q", {}), *both("r", {})]
    assert estimate_shift(scores(*rows), KEYS).estimate[0] == 1.0


def test_prompts_without_scored_tokens_are_unknown() -> None:
    found = estimate_shift(scores(*both("p", {7: 0.1}), ("z", "base", {7: 1.0})), KEYS)
    assert np.isnan(found.estimate).tolist() == [False, True, True]
    unscored = estimate_shift(scores(*both("p", {}), parting=math.nan), KEYS)
    assert np.isnan(unscored.estimate).all() and np.isnan(unscored.error).all()
    empty = scores()
    assert np.isnan(estimate_shift(empty, KEYS).estimate).all()
    assert len(estimate_shift(empty, ()).estimate) == 0
