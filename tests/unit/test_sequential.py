import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr, ndtri

from whatchanged.calibration import Calibration
from whatchanged.cascade import choose_wave, permanent_order, stratify_texts
from whatchanged.errors import UsageError
from whatchanged.sequential import (
    Look,
    chance_to_confirm,
    correlate_looks,
    decide,
    look_at_pairs,
    look_at_sides,
    margin_p_value,
    merge_scores,
    repeated_confidence,
    sequential_p_value,
)
from whatchanged.stats import permutation_p_value


def test_one_look_gives_its_p_value_back():
    assert sequential_p_value([0.013], [], [1.0]) == pytest.approx(0.013, rel=1e-6)
    # Half of alpha: the level must be twice the p-value.
    assert sequential_p_value([0.013], [], [0.5]) == pytest.approx(0.026, rel=1e-3)


def test_the_boundary_is_the_textbook_one_of_four_equal_looks():
    # O'Brien-Fleming-like spending at one-sided 0.025 (Lan and DeMets 1983): z of 4.333, 2.963,
    # 2.359 and 2.014. A p-value just there has the sequential p-value 0.025.
    times = np.array([0.25, 0.5, 0.75, 1.0])
    spent = [float(2 * ndtr(ndtri(0.0125) / math.sqrt(t)) / 0.025) for t in times]
    between = np.sqrt(times[:-1] / times[1:]).tolist()
    for look, z in enumerate((4.3326, 2.9631, 2.3590, 2.0140), start=1):
        p_values = [0.9] * (look - 1) + [float(ndtr(-z))]
        found = sequential_p_value(p_values, between[: look - 1], spent[:look])
        assert found == pytest.approx(0.025, rel=0.02)


def test_intervals_of_all_looks_together_hold_as_often_as_they_say():
    # One look that may spend all is a plain interval; half of the error makes it 97.5 %.
    assert repeated_confidence([], []) == 0.95
    assert repeated_confidence([], [1.0]) == pytest.approx(0.95, abs=1e-3)
    assert repeated_confidence([], [0.5]) == pytest.approx(0.975, abs=1e-3)
    # The textbook's last of four equal looks, as above: z of 2.014.
    times = np.array([0.25, 0.5, 0.75, 1.0])
    spent = [float(2 * ndtr(ndtri(0.0125) / math.sqrt(t)) / 0.025) for t in times]
    between = np.sqrt(times[:-1] / times[1:]).tolist()
    found = repeated_confidence(between, spent)
    assert found == pytest.approx(1 - 2 * float(ndtr(-2.0140)), abs=1e-3)


def test_many_looks_reject_no_more_often_than_they_say():
    rng = np.random.default_rng(1)
    times = np.array([0.55, 0.62, 0.75, 0.9])
    steps = rng.standard_normal((4000, 4)) * np.sqrt(np.diff(times, prepend=0))
    p_values = ndtr(-steps.cumsum(axis=1) / np.sqrt(times))
    between = np.sqrt(times[:-1] / times[1:]).tolist()
    found = np.array([sequential_p_value(p, between, (0.6, 0.75, 0.9, 1.0)) for p in p_values])
    for level in (0.02, 0.1):
        # Three standard errors of 4,000.
        assert np.mean(found <= level) == pytest.approx(
            level, abs=3 * math.sqrt(level / 4000) + 0.1 * level
        )
    # Looking four times and taking the smallest would reject more often.
    assert np.mean(p_values.min(axis=1) <= 0.1) > 0.14


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(-1, 1)), min_size=2, max_size=4))
def test_another_look_never_raises_the_p_value(looks):
    p_values, between = [p for p, _ in looks], [r for _, r in looks[1:]]
    spent = np.linspace(0.4, 1.0, len(looks)).tolist()
    found = [
        sequential_p_value(p_values[:k], between[: k - 1], spent[:k])
        for k in range(1, len(looks) + 1)
    ]
    assert all(later <= earlier for earlier, later in pairwise(found))


def test_looks_that_do_not_match_are_refused():
    with pytest.raises(UsageError, match="found 1, 1 and 2"):
        sequential_p_value([0.1], [0.9, 0.9], [1.0])
    with pytest.raises(UsageError, match="shares of alpha"):
        sequential_p_value([0.1, 0.1], [0.9], [0.6, 0.5])
    with pytest.raises(UsageError, match="correlations"):
        sequential_p_value([0.1, 0.1], [math.nan], [0.6, 1.0])


def test_looks_correlate_as_their_scores_do_within_strata():
    # About the means of their strata: (-1, 1, -1, 1) and (-1, 1, 1, -1): 0; with itself 1.
    before, strata = np.array([0.0, 2.0, 10.0, 12.0]), np.array([0, 0, 1, 1])
    assert correlate_looks(before, np.array([0.0, 2.0, 3.0, 1.0]), strata) == pytest.approx(0)
    assert correlate_looks(before, before, strata) == pytest.approx(1)
    assert correlate_looks(before, np.ones(4), strata) == 0.0


def test_verdicts_replace_calibrated_scores():
    found = merge_scores(
        np.array([0.2, 0.8, 0.5]), np.array([True, False, True]), np.array([True, True, False])
    )
    assert found.tolist() == [1.0, 0.0, 0.5]


def test_a_look_compares_sides_within_prompts():
    # Prompt 0: 1 and 0 against 0 and 0; prompt 1: 1 and 1 against 1 and 0: 1/2 more in both.
    merged = np.array([0, 0, 1, 0, 1, 0, 1, 1.0])
    sides = np.array([0, 0, 1, 1, 0, 0, 1, 1], dtype=bool)
    prompts = np.repeat([0, 1], 4)
    look = look_at_sides(merged, sides, prompts, "more")
    assert look.raw == pytest.approx(0.5)
    # Both prompts: squares about the mean 3/4, over 3; weights 1 and 1: sqrt(0.25 / 2).
    assert look.raw_error == pytest.approx(math.sqrt(0.25 / 2))
    assert look.attenuation == pytest.approx(1.0)
    assert look_at_sides(merged, sides, prompts, "less").raw == pytest.approx(-0.5)


def test_a_look_at_pairs_is_worked_by_hand():
    merged = np.array([[0, 1], [0, 1], [1, 0], [0, 0], [0.3, 0.3]])
    look = look_at_pairs(merged, np.array([0, 0, 0, 0, 1], dtype=bool), "less")
    assert look.raw == pytest.approx(-0.2)
    assert look.raw_error == pytest.approx(math.sqrt(0.6 / 5))
    assert look.full_error == pytest.approx(math.sqrt(0.6 / 5))


def test_half_sure_scores_keep_half_of_a_difference():
    # Scores of 1/4 and 3/4 that are calibrated: variance 1/16 of 1/4.
    merged = np.tile([0.25, 0.75], 10)
    look = look_at_sides(merged, np.repeat([False, True], 10), np.zeros(20, dtype=int), "more")
    assert look.attenuation == pytest.approx(0.25)


def test_the_margin_shrinks_as_the_scores_do():
    look = Look(raw=0.06, raw_error=0.02, attenuation=0.5, full_error=0.03)
    # (0.06 - 0.02 * 0.5) / 0.02 = 2.5.
    assert margin_p_value(look, 0.02) == pytest.approx(float(ndtr(-2.5)))


def test_the_chance_to_confirm_is_worked_by_hand():
    look = Look(raw=0.06, raw_error=0.025, attenuation=0.5, full_error=0.03)
    # The estimate 0.12 has the error 0.05; all verdicts would leave 0.03, so 0.04 is still open.
    # Needed: 0.02 + 1.6449 * 0.03 = 0.06935; (0.12 - 0.06935) / 0.04 = 1.2663.
    assert chance_to_confirm(look, 0.02, 0.05) == pytest.approx(float(ndtr(1.2663)), abs=1e-4)
    known = Look(raw=0.12, raw_error=0.03, attenuation=1.0, full_error=0.03)
    assert chance_to_confirm(known, 0.02, 0.05) == 1.0


def test_nothing_to_compare_confirms_nothing():
    one_side = look_at_sides(np.ones(3), np.ones(3, dtype=bool), np.zeros(3, dtype=int), "more")
    equal = look_at_sides(np.full(6, 0.3), np.arange(6) % 2 == 0, np.zeros(6, dtype=int), "more")
    no_pairs = look_at_pairs(np.zeros((0, 2)), np.zeros(0, dtype=bool), "more")
    for look in (one_side, equal, no_pairs):
        assert margin_p_value(look, 0.01) > 0.999
        assert chance_to_confirm(look, 0.01, 0.05) < 0.001


def test_a_decision_needs_the_p_value_of_all_hypotheses_and_the_guard():
    # The third is vetoed: Benjamini-Hochberg of 0.001, 0.02, 1 and 1 gives 0.004, 0.04, 1 and 1.
    found = decide(
        [0.001, 0.02, 0.02, 1.0], [0.1, 0.5, 0.9, 0.1], [0.9, 0.1, 0.9, 0.1],
        alpha=0.05, max_guard=0.5, least_chance=0.4,
    )  # fmt: skip
    assert found == ["confirmed", "confirmed", "open", "dropped"]
    # A veto helps no other: 0.026 would pass as the larger of two, but not as the smaller: 0.052.
    assert decide(
        [0.01, 0.026], [0.9, 0.1], [0.9, 0.9], alpha=0.05, max_guard=0.5, least_chance=0.4
    ) == ["open", "open"]


def test_where_nothing_changed_waves_by_blinded_scores_keep_the_level():
    # A cheap judge that is mostly wrong, stopping at each of three waves, permutation within
    # prompt: the sequential p-value is small no more often than it says.
    rng = np.random.default_rng(6)
    n, repeats, small = 40, 300, 0
    side, prompts = np.arange(n) % 2 == 1, np.repeat(np.arange(5), n // 5)
    spent = (0.5, 0.75, 1.0)
    for seed in range(repeats):
        meets = rng.random(n) < np.repeat(rng.random(5), n // 5)
        scores = np.clip(np.where(rng.random(n) < 0.6, ~meets, meets) + rng.normal(0, 0.3, n), 0, 1)
        calibrated = Calibration().apply(scores)
        strata, order = stratify_texts(calibrated, (0.4, 0.6)), permanent_order(n, seed)
        judged, p_values, between, before = np.zeros(n, dtype=bool), [], [], None
        for share in (0.05, 0.2, 0.5):
            judged = choose_wave(strata, order, share, 1.0, judged)
            merged = merge_scores(calibrated, meets, judged)
            p_values.append(
                permutation_p_value(
                    merged, side, prompts, n_draws=400, rng=rng, alternative="greater"
                )
            )
            if before is not None:
                between.append(correlate_looks(before, merged, prompts))
            before = merged
        small += sequential_p_value(p_values, between, spent) <= 0.1
    # 0.1 and three standard errors of 300 repeats.
    assert small / repeats <= 0.1 + 3 * math.sqrt(0.1 * 0.9 / repeats)
