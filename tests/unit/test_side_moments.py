"""How far the sides are apart on each component, and which components are kept for it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whatchanged.activations.side_moments import SideMoments, choose_components

# Base: 0, 2 and 4, 4; intervention: 4, 6 and 4, 4. So means 1 and 5 with variances of 1, and a
# component that never varies.
MEANS = np.array([[0, 4], [4, 4], [2, 4], [6, 4]], np.float32)
SIDES = np.array([False, True, False, True])


def moments_of(means: np.ndarray, sides: np.ndarray) -> SideMoments:
    moments = SideMoments(means.shape[1])
    moments.add(means, sides)
    return moments


def test_the_moments_of_each_side_are_counted_apart() -> None:
    moments = moments_of(MEANS, SIDES)
    assert moments.n.tolist() == [2, 2]
    assert moments.sums.tolist() == [[2, 8], [10, 8]]
    assert moments.squares.tolist() == [[4, 32], [52, 32]]


def test_the_distance_is_that_of_the_means_in_pooled_standard_deviations() -> None:
    assert moments_of(MEANS, SIDES).distance().tolist() == [4, 0]
    # Variances of 1 and 9 pool to 5: means 1 and 3 are 2 / sqrt(5) apart.
    spread = np.array([[0], [2], [0], [6]], np.float32)
    found = moments_of(spread, np.array([False, False, True, True])).distance()
    assert found == pytest.approx([2 / 5**0.5])


def test_the_sign_of_a_difference_does_not_matter() -> None:
    assert moments_of(MEANS, ~SIDES).distance().tolist() == [4, 0]


def test_without_a_text_of_one_side_nothing_is_apart() -> None:
    assert moments_of(MEANS, np.ones(4, bool)).distance().tolist() == [0, 0]
    assert SideMoments(3).distance().tolist() == [0, 0, 0]


def test_a_constant_of_any_size_is_not_taken_for_a_difference() -> None:
    # In floating point the mean square of 1000.1 is not the square of its mean.
    means = np.full((7, 1), 1000.1, np.float32)
    assert moments_of(means, np.arange(7) < 3).distance()[0] < 1e-6


@given(st.lists(st.booleans(), min_size=1, max_size=30), st.integers(0, 30))
def test_merged_parts_are_the_whole(sides: list[bool], cut: int) -> None:
    is_intervention = np.array(sides)
    means = np.random.default_rng(len(sides)).integers(-9, 9, (len(sides), 3)).astype(np.float32)
    parts = [
        moments_of(means[rows], is_intervention[rows]).arrays()
        for rows in (slice(0, cut), slice(cut, None))
    ]
    whole = moments_of(means, is_intervention).arrays()
    merged = SideMoments.merged(parts).arrays()
    assert all((merged[name] == whole[name]).all() for name in ("n", "sums", "squares"))


def test_the_candidates_farthest_apart_are_kept_and_all_that_are_no_candidates() -> None:
    distance = np.array([0.1, 9, 0.3, 0.2, 0])
    is_candidate = np.array([True, False, True, True, False])
    kept = choose_components(distance, is_candidate, 2)
    assert kept.tolist() == [False, True, True, True, True]


def test_of_equals_the_first_are_kept() -> None:
    kept = choose_components(np.ones(4), np.ones(4, bool), 2)
    assert kept.tolist() == [True, True, False, False]


def test_more_room_than_candidates_keeps_all() -> None:
    assert choose_components(np.zeros(3), np.ones(3, bool), 10).all()
