"""The scale on which proposals are compared."""

import math

import numpy as np
import pytest

from whatchanged.contrasts import (
    Sides,
    choose_diverse,
    concordant_z,
    discovery_threshold,
    log_odds_z,
    stratified_z,
    strength_left,
)


def test_the_log_odds_follow_from_the_pooled_prior():
    # 16 of 80 against 36 of 80: the prior adds 26 hits and 54 misses to each side.
    difference = math.log(62 / 98) - math.log(42 / 118)
    variance = (1 / 62 + 1 / 98 + 1 / 42 + 1 / 118) / 2

    assert log_odds_z(16, 80, 36, 80) == pytest.approx(difference / math.sqrt(variance))


def test_swapping_the_sides_turns_the_sign():
    assert log_odds_z(3, 50, 20, 70) == pytest.approx(-log_odds_z(20, 70, 3, 50))


@pytest.mark.parametrize("counts", [(0, 40, 0, 40), (40, 40, 40, 40), (0, 0, 5, 9), (2, 9, 0, 0)])
def test_sides_that_cannot_be_compared_do_not_differ(counts):
    assert log_odds_z(*counts) == 0.0


@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
@pytest.mark.parametrize(("n_base", "n_intervention"), [(80, 80), (2000, 2000), (300, 900)])
def test_equal_shares_give_a_z_of_unit_variance(share, n_base, n_intervention):
    rng = np.random.default_rng(7)
    base, intervention = (rng.binomial(n, share, 20_000) for n in (n_base, n_intervention))
    z = log_odds_z(base, n_base, intervention, n_intervention)

    assert abs(z.mean()) < 0.05
    assert 0.93 < z.std() < 1.03
    assert np.mean(np.abs(z) > 3.29) < 0.002  # nominal: 0.001


def test_a_rare_behaviour_stands_out_although_one_side_never_shows_it():
    assert log_odds_z(0, 2000, 60, 2000) > 7


def test_the_threshold_grows_with_what_is_looked_at():
    assert discovery_threshold(40, 2.0) == pytest.approx(1.96, abs=0.001)  # 2 of 40: 5 %
    assert discovery_threshold(4000, 2.0) == pytest.approx(3.481, abs=0.001)  # 2 of 4000
    assert discovery_threshold(0, 2.0) == 0.0


def test_what_follows_from_another_criterion_leaves_no_difference():
    other_base, other_intervention = np.zeros(100, bool), np.arange(100) < 60
    follows = np.arange(100) < 30  # half of the texts that meet the other one
    own = np.arange(100) % 2 == 0

    assert stratified_z(other_base, follows, other_base, other_intervention) == 0.0
    assert stratified_z(np.zeros(100, bool), own, other_base, other_intervention) > 4


def test_both_halves_of_a_replaced_wording_are_kept_and_collateral_losses_are_not():
    new_base, new_intervention = np.zeros(100, bool), np.arange(100) < 60
    old_base, old_intervention = np.arange(100) < 60, np.zeros(100, bool)
    lost_base, lost_intervention = np.arange(100) % 2 == 0, np.arange(100) >= 80

    assert strength_left(
        old_base, old_intervention, new_base, new_intervention, is_paired=False, keep_mirrored=True
    ) == float("inf")
    # 50 of 100 base texts hold it, 20 of the 40 intervention texts that could.
    assert (
        abs(
            strength_left(
                lost_base,
                lost_intervention,
                new_base,
                new_intervention,
                is_paired=False,
                keep_mirrored=True,
            )
        )
        < 0.01
    )


def test_a_strong_repetition_does_not_take_the_place_of_a_weak_novelty():
    left = {(1, 0): 0.5, (2, 0): 4.0, (2, 1): 4.0, (1, 2): 9.0}

    chosen = choose_diverse(
        [10.0, 9.0, 4.0], 2, lambda one, other: left[one, other], 2.0, is_last=[False] * 3
    )

    assert chosen == [0, 2]


def test_candidates_below_the_floor_are_left_out():
    assert choose_diverse([1.0, 3.0], 5, lambda one, other: 9.0, 2.0, is_last=[False] * 2) == [1]


def test_what_comes_last_is_explained_by_others_and_explains_none_of_them():
    left = {(0, 1): 1.0, (1, 0): 1.0, (2, 0): 5.0, (2, 1): 6.0}
    strengths = [9.0, 4.0, 7.0]

    def choose(is_last):
        return choose_diverse(
            strengths, 3, lambda one, other: left.get((one, other), 8.0), 2.0, is_last=is_last
        )

    assert choose([False] * 3) == [0, 2]
    assert choose([True, False, False]) == [2, 1]


def test_pairs_that_agree_say_nothing():
    sides = Sides(100, 100, is_paired=True)
    held = np.zeros(200, bool)
    held[:40] = True  # 40 base texts
    held[100:150] = True  # the same 40 samples and 10 more of the intervention

    assert sides.z(held) == pytest.approx(10 / 11**0.5)
    assert Sides(100, 100).z(held) < 1.5


def test_the_largest_z_of_pairs_is_reached_when_only_one_side_holds():
    sides = Sides(100, 100, is_paired=True)
    one_side, everywhere = np.arange(200) < 30, np.ones(200, bool)
    # 130 texts are at least 30 pairs on both sides: 70 are left that can differ.
    assert sides.largest_z(np.array([30, 130, 200])).tolist() == pytest.approx(
        [-sides.z(one_side), 70 / 71**0.5, sides.z(everywhere)]
    )
    assert sides.z(everywhere) == 0


def test_a_difference_that_comes_with_another_is_not_in_the_pairs_that_agree():
    shorter_base, shorter_intervention = np.zeros(100, bool), np.arange(100) < 60
    tip_base, tip_intervention = np.arange(100) % 2 == 0, np.zeros(100, bool)
    tip_intervention[60:] = tip_base[60:]

    assert concordant_z(tip_base, tip_intervention, shorter_base, shorter_intervention) == 0
    own = tip_intervention.copy()
    own[60:80] = False  # ten more tips are lost in texts that did not get shorter
    left = concordant_z(tip_base, own, shorter_base, shorter_intervention)
    assert left == pytest.approx(-10 / 11**0.5)


def test_a_new_sentence_is_not_explained_by_the_length_that_it_brings():
    sale_base, sale_intervention = np.zeros(400, bool), np.arange(400) < 24
    long_base = np.arange(400) >= 360
    long_intervention = long_base | sale_intervention

    masks = sale_base, sale_intervention, long_base, long_intervention
    assert concordant_z(*masks) == 0
    assert strength_left(*masks, is_paired=True, keep_mirrored=True) > 4
    # The other way round nothing is left: the longer replies are those with the sentence.
    turned = long_base, long_intervention, sale_base, sale_intervention
    assert strength_left(*turned, is_paired=True, keep_mirrored=True) < 1
