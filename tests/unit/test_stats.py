import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest, norm, permutation_test

from whatchanged.errors import UsageError
from whatchanged.stats import (
    MAX_TEXTS_NEEDED,
    auc,
    benjamini_hochberg,
    difference_posterior,
    min_effect_p_value,
    permutation_p_value,
    share_difference,
    shrunk_share,
    texts_needed,
    wilson_interval,
)


def test_auc_counts_pairs_and_halves_ties():
    # Pairs (base, intervention): 0.1<0.2, 0.1<0.5, 0.5>0.2, 0.5=0.5 -> (1 + 1 + 0 + 0.5) / 4.
    assert auc([0.1, 0.5], [0.2, 0.5]) == 0.625
    assert auc([0.0, 0.0], [1.0]) == 1.0
    assert auc([1.0], [0.0]) == 0.0


def test_auc_of_an_empty_side_is_nan():
    assert math.isnan(auc([], [0.3]))
    assert math.isnan(auc([0.3], []))


def exact_p_values(scores, sides, strata):
    """Both tails over every labelling that keeps each stratum's counts, one by one."""
    ranks = np.array([(scores < s).sum() + ((scores == s).sum() + 1) / 2 for s in scores])
    choices = []
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
        choices.append(itertools.combinations(members, int(sides[members].sum())))
    sums = [
        sum(ranks[list(chosen)].sum() for chosen in labelling)
        for labelling in itertools.product(*choices)
    ]
    observed = ranks[sides].sum()
    return np.mean(np.array(sums) >= observed), np.mean(np.array(sums) <= observed)


def test_permutation_agrees_with_every_labelling_written_out():
    scores = np.array([0.9, 0.2, 0.4, 0.4, 0.8, 0.1, 0.7, 0.3, 0.6, 0.5])
    sides = np.array([1, 0, 0, 1, 1, 0, 1, 0, 0, 1], dtype=bool)
    strata = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 3])
    above, below = exact_p_values(scores, sides, strata)
    rng = np.random.default_rng(1)
    found = [
        permutation_p_value(scores, sides, strata, n_draws=200_000, rng=rng, alternative=tail)
        for tail in ("greater", "less", "two-sided")
    ]
    assert found == pytest.approx([above, below, 2 * min(above, below)], abs=0.005)


def test_permutation_of_a_stratum_cut_into_blocks_agrees_with_every_labelling():
    # 14 texts need two blocks; C(14, 4) * C(3, 1) = 3003 labellings.
    scores = np.array([3, 9, 1, 9, 4, 7, 2, 8, 8, 5, 1, 6, 9, 2, 4, 6, 1], dtype=float)
    sides = np.isin(np.arange(17), [1, 5, 8, 11, 15])
    strata = np.array([0] * 14 + [1] * 3)
    above, below = exact_p_values(scores, sides, strata)
    rng = np.random.default_rng(4)
    found = [
        permutation_p_value(scores, sides, strata, n_draws=200_000, rng=rng, alternative=tail)
        for tail in ("greater", "less")
    ]
    assert found == pytest.approx([above, below], abs=0.005)


def test_permutation_in_one_large_stratum_agrees_with_scipy():
    rng = np.random.default_rng(2)
    base, intervention = rng.normal(size=20), rng.normal(0.35, size=25)
    scores, sides = np.concatenate([base, intervention]), np.arange(45) >= 20
    for tail in ("greater", "less", "two-sided"):
        reference = permutation_test(
            (intervention, base), lambda x, y: auc(y, x),
            n_resamples=4000, alternative=tail, rng=np.random.default_rng(3),
        ).pvalue  # fmt: skip
        found = permutation_p_value(
            scores, sides, np.zeros(45, dtype=int), n_draws=50_000, rng=rng, alternative=tail
        )
        # Four standard errors of a share near 0.1 from 4000 draws, doubled for two sides.
        assert found == pytest.approx(reference, abs=0.04)


def test_permutation_of_a_perfect_split_reaches_the_smallest_p_value():
    # One of C(40, 20) labellings is as extreme: no draw will meet it.
    p_value = permutation_p_value(
        np.arange(40.0), np.arange(40) >= 20, np.zeros(40, dtype=int),
        n_draws=999, rng=np.random.default_rng(0), alternative="greater",
    )  # fmt: skip
    assert p_value == 0.001


def test_permutation_never_exchanges_texts_of_different_prompts():
    # All intervention texts are on the high-scoring prompt: nothing can be exchanged.
    p_value = permutation_p_value(
        np.array([0.1, 0.2, 0.8, 0.9]), np.array([False, False, True, True]),
        np.array([0, 0, 1, 1]), n_draws=1000, rng=np.random.default_rng(0), alternative="greater",
    )  # fmt: skip
    assert p_value == 1.0


@pytest.mark.parametrize(
    ("scores", "sides"),
    [([], []), ([0.5], [True]), ([0.5, 0.5, 0.5], [True, False, True]), ([0.1, 0.2], [True, True])],
)
def test_permutation_without_an_exchangeable_text_gives_one(scores, sides):
    for tail in ("greater", "less", "two-sided"):
        p_value = permutation_p_value(
            np.array(scores), np.array(sides, dtype=bool), np.zeros(len(scores), dtype=int),
            n_draws=100, rng=np.random.default_rng(0), alternative=tail,
        )  # fmt: skip
        assert p_value == 1.0


def test_permutation_refuses_scores_that_are_not_finite():
    with pytest.raises(UsageError, match="found 1 that are not"):
        permutation_p_value(
            np.array([0.1, np.nan]), np.array([True, False]), np.zeros(2, dtype=int),
            n_draws=10, rng=np.random.default_rng(0), alternative="greater",
        )  # fmt: skip


def test_permutation_refuses_lengths_that_differ():
    with pytest.raises(UsageError, match="found 2, 2 and 1"):
        permutation_p_value(
            np.array([0.1, 0.2]), np.array([True, False]), np.zeros(1, dtype=int),
            n_draws=10, rng=np.random.default_rng(0), alternative="greater",
        )  # fmt: skip


@pytest.mark.parametrize("texts_per_stratum", [4, 40])
def test_permutation_p_values_are_uniform_when_only_the_prompt_matters(texts_per_stratum):
    rng = np.random.default_rng(5)
    n = 40
    strata = np.arange(n) // texts_per_stratum
    p_values = []
    for _ in range(400):
        scores = rng.normal(size=n) + 3 * rng.normal(size=n)[strata]
        sides = rng.permuted(np.tile([True, False], n // 2).reshape(-1, texts_per_stratum), axis=1)
        p_values.append(
            permutation_p_value(
                scores, sides.ravel(), strata, n_draws=400, rng=rng, alternative="greater"
            )
        )
    assert kstest(p_values, "uniform").pvalue > 0.001


def test_permutation_of_tied_scores_is_never_too_small():
    rng = np.random.default_rng(6)
    sides = np.arange(60) % 2 == 1
    p_values = [
        permutation_p_value(
            (rng.random(60) < 0.1).astype(float), sides, np.arange(60) // 20,
            n_draws=300, rng=rng, alternative="two-sided",
        )
        for _ in range(500)
    ]  # fmt: skip
    for level in (0.05, 0.2):
        # Three standard errors of a share of 500.
        assert np.mean(np.array(p_values) <= level) <= level + 3 * math.sqrt(level / 500)


@settings(deadline=None)
@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 30), st.integers(0, 30))
def test_interval_holds_the_effect_and_stays_within_minus_one_and_one(a, b, c, d):
    found = share_difference(min(a, b), b, min(c, d), d)
    assert -1 <= found.ci_low <= found.ci_high <= 1
    if b == 0 or d == 0:
        assert math.isnan(found.effect)
        assert (found.ci_low, found.ci_high) == (-1, 1)
    else:
        assert found.effect == pytest.approx(min(c, d) / d - min(a, b) / b)
        assert found.ci_low <= found.effect <= found.ci_high
        assert found.ci_high > found.ci_low


def test_share_difference_gives_newcombes_published_example():
    # Newcombe 1998, example (a): 56/70 - 48/80 = 0.2, method 10: 0.0524 to 0.3339.
    found = share_difference(48, 80, 56, 70)
    assert found.effect == pytest.approx(0.2)
    assert (found.ci_low, found.ci_high) == pytest.approx((0.0524, 0.3339), abs=5e-5)


@pytest.mark.parametrize(("p_base", "p_intervention"), [(0.0, 0.02), (0.01, 0.01), (0.3, 0.5)])
def test_interval_covers_the_true_difference_as_often_as_it_says(p_base, p_intervention):
    rng = np.random.default_rng(7)
    n, repeats, covered = 120, 600, 0
    for _ in range(repeats):
        found = share_difference(rng.binomial(n, p_base), n, rng.binomial(n, p_intervention), n)
        covered += found.ci_low <= p_intervention - p_base <= found.ci_high
    # 0.95 less three standard errors of 600 repeats.
    assert covered / repeats >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / repeats)


def test_impossible_counts_are_refused():
    with pytest.raises(UsageError, match="found 3 hits in 2 texts"):
        share_difference(3, 2, 0, 2)
    with pytest.raises(UsageError, match="found -1 hits in 2 texts"):
        wilson_interval(-1, 2)


def test_min_effect_p_value_of_a_zero_threshold_is_the_pooled_z_test():
    # 30/100 against 15/100: pooled 0.225, se = sqrt(0.225 * 0.775 * 0.02 * 200/199) = 0.0592;
    # z = 0.15 / 0.0592 = 2.5336.
    z = 0.15 / math.sqrt(0.225 * 0.775 * 0.02 * 200 / 199)
    p_value = min_effect_p_value(15, 100, 30, 100, min_effect=0.0, direction="more")
    assert p_value == pytest.approx(norm.sf(z))


def test_min_effect_p_value_looks_in_the_direction_asked():
    more = min_effect_p_value(5, 100, 30, 100, min_effect=0.01, direction="more")
    less = min_effect_p_value(5, 100, 30, 100, min_effect=0.01, direction="less")
    mirrored = min_effect_p_value(30, 100, 5, 100, min_effect=0.01, direction="less")
    assert more < 0.001
    assert less > 0.999
    assert mirrored == more


@pytest.mark.parametrize(
    "counts", [(0, 0, 0, 0), (0, 0, 5, 5), (0, 10, 0, 10), (10, 10, 10, 10), (10, 10, 0, 10)]
)
@pytest.mark.parametrize("min_effect", [0.0, 0.01])
def test_min_effect_p_value_without_evidence_does_not_reject(counts, min_effect):
    assert min_effect_p_value(*counts, min_effect=min_effect, direction="more") >= 0.5


def test_min_effect_refuses_a_threshold_beyond_one():
    with pytest.raises(UsageError, match=r"found 1\.5"):
        min_effect_p_value(0, 5, 1, 5, min_effect=1.5, direction="more")


@pytest.mark.parametrize(
    ("p_base", "n"), [(0.0, 120), (0.0, 1000), (0.05, 120), (0.05, 1000), (0.5, 120)]
)
def test_min_effect_p_values_are_rarely_small_at_the_border_of_the_null(p_base, n):
    rng = np.random.default_rng(8)
    repeats = 1000
    p_values = np.array(
        [
            min_effect_p_value(
                rng.binomial(n, p_base), n, rng.binomial(n, p_base + 0.01), n,
                min_effect=0.01, direction="more",
            )
            for _ in range(repeats)
        ]
    )  # fmt: skip
    # The score test is asymptotic: its size at 0.05 may exceed 0.05 by a little at small counts.
    assert np.mean(p_values <= 0.05) <= 0.06 + 3 * math.sqrt(0.05 * 0.95 / repeats)


def test_benjamini_hochberg_of_numbers_worked_by_hand():
    # Sorted 0.01 0.02 0.03 0.5, times 4/rank: 0.04 0.04 0.04 0.5 (running minimum from above).
    assert benjamini_hochberg([0.5, 0.01, 0.03, 0.02]) == pytest.approx([0.5, 0.04, 0.04, 0.04])
    # 0.01*3/1 = 0.03, 0.04*3/2 = 0.06, 0.9*3/3 = 0.9.
    assert benjamini_hochberg([0.01, 0.04, 0.9]) == pytest.approx([0.03, 0.06, 0.9])


def test_benjamini_hochberg_of_nothing_is_nothing():
    assert benjamini_hochberg([]).shape == (0,)


def test_benjamini_hochberg_refuses_what_is_no_p_value():
    with pytest.raises(UsageError, match="expected p-values"):
        benjamini_hochberg([0.5, math.nan])


@pytest.mark.parametrize(("p_base", "p_intervention"), [(0.05, 0.12), (0.6, 0.4), (0.01, 0.04)])
def test_the_texts_needed_give_the_power_asked(p_base, p_intervention):
    n = texts_needed(p_base, p_intervention, min_effect=0.01, alpha=0.05, power=0.8)
    direction = "more" if p_intervention > p_base else "less"
    rng = np.random.default_rng(9)
    rejected = [
        min_effect_p_value(
            rng.binomial(n, p_base), n, rng.binomial(n, p_intervention), n,
            min_effect=0.01, direction=direction,
        ) <= 0.05
        for _ in range(800)
    ]  # fmt: skip
    assert np.mean(rejected) == pytest.approx(0.8, abs=0.06)


def test_texts_needed_of_an_equality_test_is_the_textbook_value():
    # z(0.05) = 1.6449, z(0.8) = 0.8416; pooled share 0.5: s0 = sqrt(2 * 0.25) = 0.7071,
    # s1 = sqrt(2 * 0.24) = 0.6928; ((1.6449*0.7071 + 0.8416*0.6928) / 0.2)^2 = 76.2 -> 77.
    assert texts_needed(0.4, 0.6, min_effect=0.0, alpha=0.05, power=0.8) == 77


def test_no_number_of_texts_shows_an_effect_below_the_smallest_of_interest():
    assert texts_needed(0.1, 0.105, min_effect=0.01, alpha=0.05, power=0.8) == MAX_TEXTS_NEEDED
    assert texts_needed(0.1, 0.1, min_effect=0.0, alpha=0.05, power=0.8) == MAX_TEXTS_NEEDED
    assert texts_needed(0.0, 1.0, min_effect=0.01, alpha=0.05, power=0.8) >= 2


def test_wilson_interval_of_no_hits_in_ten():
    # z^2 / (n + z^2) = 3.8415 / 13.8415.
    low, high = wilson_interval(0, 10)
    assert low == 0
    assert high == pytest.approx(0.27754, abs=1e-5)
    assert wilson_interval(0, 0) == (0, 1)


def test_shrunk_share_pulls_towards_one_half():
    assert shrunk_share(0, 0) == 0.5
    assert shrunk_share(0, 9) == 0.05
    assert shrunk_share(9, 9) == 0.95


def test_difference_posterior_is_vectorised_and_worked_by_hand():
    # Beta(0.5, 0.5) twice: variances 1/8 each. Beta(1.5, 0.5): mean 0.75, variance 0.1875/3.
    mean, sd = difference_posterior([0, 0], [0, 1], [0, 1], [0, 1])
    assert mean == pytest.approx([0.0, 0.5])
    assert sd == pytest.approx([0.5, math.sqrt(2 * 0.1875 / 3)])
