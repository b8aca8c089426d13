import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whatchanged.background import (
    Parting,
    estimate_parting,
    pinsker_bound,
    pool_groups,
    stand_out,
)
from whatchanged.sample import no_evidence


def test_pinsker_turns_nats_into_a_total_variation():
    found = pinsker_bound([-1.0, 0.0, 0.04, 1.0, 16.0])
    assert found == pytest.approx([0, 0, 0.1, 0.5, 1])
    assert math.isnan(pinsker_bound([math.nan])[0])


@given(st.floats(0.001, 0.999), st.floats(0.001, 0.999))
def test_no_two_coins_are_further_apart_than_pinsker_allows(p, q):
    divergence = (p - q) * math.log(p * (1 - q) / (q * (1 - p)))
    assert abs(p - q) <= pinsker_bound(divergence) + 1e-9


def test_the_best_measurement_that_there_is_counts():
    pairs = replace(no_evidence(2), n_pairs=np.array([3, 0]), n_differing=np.array([0, 0]))
    # Beta(0.5, 3.5): mean 1/8, variance (1/8)(7/8)/5.
    share, error = estimate_parting(pairs)
    assert share == pytest.approx([1 / 8, math.nan], nan_ok=True)
    assert error == pytest.approx([math.sqrt(7 / 320), math.nan], nan_ok=True)
    scored = replace(pairs, divergence=np.array([0.16, 9.0]), divergence_se=np.array([0.08, 30.0]))
    # sqrt(0.16) / 2 = 0.2, with the slope 1 / (8 * 0.2); nine nats allow everything.
    assert estimate_parting(scored).estimate == pytest.approx([0.2, 1.0])
    assert estimate_parting(scored).error == pytest.approx([0.05, 1.0])
    parted = replace(scored, parting=np.array([0.3, 0.4]), parting_se=np.array([0.1, 0.2]))
    assert estimate_parting(parted).estimate.tolist() == [0.3, 0.4]
    assert np.isnan(estimate_parting(no_evidence(2)).estimate).all()


def test_a_prompt_is_drawn_towards_its_group_as_far_as_its_error_says():
    groups = np.array([0, 0, 1, 1])
    parting = Parting(np.array([0.1, 0.3, 0.6, 0.8]), np.full(4, 0.1))
    # Deviations of 0.1 sum to 0.04; errors explain 2 * 0.01 of it, so one deviation has a variance
    # of 0.01, as large as the error's: half of it is the prompt's own.
    estimate, error = pool_groups(parting, groups)
    assert estimate == pytest.approx([0.15, 0.25, 0.65, 0.75])
    # Half of the error's variance, and a quarter of the mean's: 0.02 / 2.
    assert error == pytest.approx(np.full(4, math.sqrt(0.005 + 0.0025)))
    exact = Parting(parting.estimate, np.full(4, 1e-9))
    assert pool_groups(exact, groups).estimate == pytest.approx(parting.estimate)
    vague = Parting(parting.estimate, np.full(4, 0.5))
    assert pool_groups(vague, groups).estimate == pytest.approx([0.2, 0.2, 0.7, 0.7])


def test_pooling_needs_groups_and_leaves_what_is_unknown():
    parting = Parting(np.array([0.1, 0.3, math.nan, 0.8]), np.array([0.1, 0.1, math.nan, 0.1]))
    assert pool_groups(parting, np.zeros(4, dtype=int)) is parting
    assert pool_groups(parting, np.arange(4)) is parting
    found = pool_groups(parting, np.array([0, 0, 1, 1]))
    # As above, from one group: 0.02 less 0.01.
    assert found.estimate == pytest.approx([0.15, 0.25, math.nan, 0.8], nan_ok=True)


def stands(parting, smallest=0.05):
    return stand_out(parting, np.full(len(parting.estimate), smallest))


def mixed(seed, n=150, n_changed=30, background=0.25):
    """Background of 0.25 +- 0.03 between prompts, the first ones 0.15 to 0.6 above it."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(background, 0.03, n)
    truth[:n_changed] += rng.uniform(0.15, 0.6, n_changed)
    return Parting(rng.normal(truth, 0.02), np.full(n, 0.02))


def test_prompts_with_a_change_of_their_own_stands():
    for seed in range(5):
        found = stands(mixed(seed))
        assert found[:30].min() > 0.5
        assert np.median(found[30:]) < 0.1
        assert found[30:].mean() < 0.25


def test_the_probability_is_that_of_two_groups():
    # Background 0.2, known to 0.01; an excess lies between 0.1 and 0.8, so its logarithm is spread
    # over 2.08 and its density at 0.1 is 1 / 0.208 = 4.8. An excess of 0.0545 is 5.45 errors above
    # the background (39.9 * exp(-14.85) = 1.4e-5) and 4.55 below 0.1 (4.8 * 2.7e-6 = 1.3e-5).
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(0.2, 0.01, 1000), [0.2, 0.2545, 0.3]])
    at_centre, between, above = stands(Parting(values, np.full(1003, 0.01)), 0.1)[-3:]
    assert at_centre < 1e-6
    assert 0.25 < between < 0.75
    assert above > 0.999


def test_a_spread_as_wide_as_the_difference_leaves_both_answers_open():
    rng = np.random.default_rng(0)
    found = stands(Parting(rng.normal(0.2, 0.05, 100), np.full(100, 0.01)), 0.03)
    assert 0.1 < np.median(found) < 0.4


def test_a_wide_error_keeps_a_prompt_from_being_dropped():
    known = mixed(0)
    errors = known.error.copy()
    lowest = int(np.argmin(known.estimate))
    errors[lowest] = 0.3
    assert stands(Parting(known.estimate, errors))[lowest] > 0.05
    assert stands(known)[lowest] < 0.05


def test_what_all_prompts_share_is_background_however_large():
    for background in (0.0, 0.6):
        found = stands(mixed(1, n_changed=0, background=background))
        assert np.median(found) < 0.1
        assert np.mean(found > 0.9) < 0.05


def test_equal_models_have_nothing_that_stands_out():
    found = stands(Parting(np.zeros(20), np.zeros(20)))
    assert found.max() < 0.05
    one = np.zeros(20)
    one[3] = 0.4
    assert np.flatnonzero(stands(Parting(one, np.zeros(20))) > 0.05).tolist() == [3]


def test_what_is_unknown_stands_out():
    some = mixed(2)
    unknown = some.estimate.copy()
    unknown[40] = math.nan
    assert stands(Parting(unknown, some.error))[40] == 1
    assert stands(Parting(some.estimate[:9], some.error[:9])).tolist() == [1] * 9
    assert stands(Parting(np.zeros(0), np.zeros(0))).tolist() == []


@given(st.integers(10, 40), st.integers(0, 2**32))
def test_probabilities_are_finite_for_any_measurement(n, seed):
    rng = np.random.default_rng(seed)
    values = rng.choice([0.0, 1e-9, 0.2, 0.5, 1.0, math.nan], n)
    found = stands(Parting(values, rng.choice([0.0, 1e-9, 0.1, 1.0, math.nan], n)))
    assert ((found >= 0) & (found <= 1)).all()
