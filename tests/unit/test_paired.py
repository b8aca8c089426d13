from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import multinomial, norm

from whatchanged.errors import UsageError
from whatchanged.paired import (
    mcnemar_z,
    paired_exact_p_value,
    paired_min_effect_p_value,
    paired_share_difference,
    pairs_needed,
)
from whatchanged.records import Direction
from whatchanged.stats import MAX_TEXTS_NEEDED, min_effect_p_value, texts_needed

FloatArray = NDArray[np.float64]
COUNTS = st.tuples(*[st.integers(0, 60)] * 4)


def tables(n: int) -> FloatArray:
    """Every (gains, losses) of n pairs, `(n_tables, 2)`."""
    gains, losses = np.meshgrid(np.arange(n + 1), np.arange(n + 1), indexing="ij")
    return np.stack([gains, losses], axis=-1)[gains + losses <= n]


def probabilities(n: int, found: FloatArray, gain: float, loss: float) -> FloatArray:
    cells = np.column_stack([found, n - found.sum(axis=1)])
    return np.asarray(multinomial.pmf(cells, n, [gain, loss, max(0.0, 1 - gain - loss)]))


# Published examples ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("both", "first_only", "second_only", "neither", "confidence", "low", "high"),
    [
        # Fagerland, Lydersen and Laake 2014, airway reactivity: 95%, first minus second.
        (1, 1, 7, 12, 0.95, -0.517, -0.026),
        # Agresti and Min 2005, crossover trial.
        (53, 16, 8, 9, 0.95, -0.020, 0.207),
        # Tang and others 2010, 14 pairs.
        (8, 3, 1, 2, 0.95, -0.1670, 0.4327),
        # Chang and others 2024, 102 pairs.
        (7, 25, 2, 68, 0.95, 0.139, 0.321),
        # Tango 1998, sleeping difficulties: 32 pairs, of which 9 and 3 are discordant.
        (0, 9, 3, 20, 0.95, -0.027, 0.390),
    ],
)
def test_the_interval_is_the_published_one(
    both: int,
    first_only: int,
    second_only: int,
    neither: int,
    confidence: float,
    low: float,
    high: float,
) -> None:
    found = paired_share_difference(both, second_only, first_only, neither, confidence=confidence)
    # Published with three decimals, two of them with four.
    assert (found.ci_low, found.ci_high) == pytest.approx((low, high), abs=6e-4)


def test_the_lower_limit_with_an_empty_cell_is_tangos() -> None:
    # Tango 1998, disinfection of contact lenses: 43 both, 1 the old only; lower 95% limit -0.096.
    found = paired_share_difference(43, 1, 0, 0, confidence=0.90)
    assert found.ci_low == pytest.approx(-0.096, abs=5e-4)


# The interval ------------------------------------------------------------------------------------


def test_shares_and_effect_are_the_marginal_ones() -> None:
    found = paired_share_difference(10, 5, 20, 65)
    assert (found.share_base, found.share_intervention) == (0.15, 0.30)
    assert found.effect == 0.15
    assert (found.n_base, found.n_intervention) == (100, 100)


def test_no_pairs_know_nothing() -> None:
    found = paired_share_difference(0, 0, 0, 0)
    assert math.isnan(found.share_base)
    assert math.isnan(found.effect)
    assert (found.ci_low, found.ci_high, found.n_base) == (-1, 1, 0)


@pytest.mark.parametrize("n_both", [0, 50, 100])
def test_pairs_that_all_agree_leave_room_for_what_they_may_have_missed(n_both: int) -> None:
    # z^2 / (n + z^2) = 3.8415 / 103.8415, about the "rule of three" over 100.
    found = paired_share_difference(n_both, 0, 0, 100 - n_both)
    assert found.effect == 0
    assert (found.ci_low, found.ci_high) == pytest.approx((-0.036994, 0.036994), abs=1e-6)


def test_pairs_that_all_disagree_alike_reach_the_end_of_the_scale() -> None:
    assert paired_share_difference(0, 0, 8, 0).ci_high == 1
    found = paired_share_difference(0, 8, 0, 0)
    assert found.ci_low == -1
    assert -1 < found.ci_high < 0


@settings(deadline=None)
@given(COUNTS, st.sampled_from([0.5, 0.9, 0.95, 0.999]))
def test_the_interval_holds_the_effect_has_a_width_and_mirrors(
    counts: tuple[int, int, int, int], confidence: float
) -> None:
    both, base, intervention, neither = counts
    found = paired_share_difference(both, base, intervention, neither, confidence=confidence)
    mirrored = paired_share_difference(both, intervention, base, neither, confidence=confidence)
    assert -1 <= found.ci_low < found.ci_high <= 1
    assert (mirrored.ci_low, mirrored.ci_high) == pytest.approx((-found.ci_high, -found.ci_low))
    if sum(counts):
        assert found.ci_low <= found.effect <= found.ci_high


@settings(deadline=None)
@given(COUNTS, st.sampled_from([0.0, 0.01, 0.1]))
def test_interval_and_test_agree(counts: tuple[int, int, int, int], min_effect: float) -> None:
    found = paired_share_difference(*counts)
    p_value = paired_min_effect_p_value(*counts, min_effect=min_effect, direction="more")
    if abs(p_value - 0.025) > 1e-6:
        assert (p_value < 0.025) == (found.ci_low > min_effect)


@pytest.mark.parametrize("n", [30, 60, 120])
def test_the_interval_covers_nearly_as_often_as_it_says(n: int) -> None:
    limits: dict[tuple[int, int], tuple[float, float]] = {}
    found = tables(n)[tables(n).sum(axis=1) <= max(30, n // 2)]
    for gains, losses in found:
        row = paired_share_difference(0, losses, gains, n - gains - losses)
        limits[gains, losses] = (row.ci_low, row.ci_high)
    low, high = np.array([limits[gains, losses] for gains, losses in found]).T
    coverage = []
    for discordant in (0.01, 0.03, 0.06, 0.115, 0.2):
        for difference in discordant * np.array([0.0, 0.3, 0.65, 0.7, 1.0]):
            gain, loss = (discordant + difference) / 2, (discordant - difference) / 2
            held = (low <= difference + 1e-9) & (difference - 1e-9 <= high)
            coverage.append(float(probabilities(n, found, gain, loss) @ held))
    # The worst of a fine grid is 0.931; the mean lies above the nominal 0.95.
    assert min(coverage) >= 0.93
    assert np.mean(coverage) >= 0.955


@pytest.mark.parametrize("n", [120, 240])
@pytest.mark.parametrize("share", [0.01, 0.05, 0.2, 0.5])
@pytest.mark.parametrize(("effect", "share_flipped"), [(0.0, 0.1), (0.01, 0.0), (0.05, 0.1)])
def test_the_interval_covers_the_difference_of_simulated_pairs(
    n: int, share: float, effect: float, share_flipped: float
) -> None:
    rng = np.random.default_rng(11)
    # A tenth of the base's hits are lost and made up for elsewhere; the effect comes on top.
    only_base, only_intervention = share * share_flipped, share * share_flipped + effect
    cells = [share - only_base, only_base, only_intervention, 1 - share - only_intervention]
    repeats, covered = 4000, 0
    discordant = rng.multinomial(n, cells, size=repeats)[:, 1:3]
    rows, times = np.unique(discordant, axis=0, return_counts=True)
    for (base, intervention), n_times in zip(rows.tolist(), times.tolist(), strict=True):
        found = paired_share_difference(0, base, intervention, n - base - intervention)
        covered += n_times * (found.ci_low <= effect <= found.ci_high)
    # At worst 0.931, less three standard errors of 4000 repeats.
    assert covered / repeats >= 0.931 - 3 * math.sqrt(0.931 * 0.069 / repeats)


# The tests ---------------------------------------------------------------------------------------


def test_without_a_min_effect_the_score_test_is_mcnemars() -> None:
    from statsmodels.stats.contingency_tables import mcnemar

    for both, base, intervention, neither in [(1, 1, 7, 12), (53, 8, 16, 9), (0, 3, 9, 20)]:
        two_sided = mcnemar([[both, base], [intervention, neither]], exact=False, correction=False)
        p_value = paired_min_effect_p_value(
            both, base, intervention, neither, min_effect=0.0, direction="more"
        )
        assert 2 * p_value == pytest.approx(two_sided.pvalue)


def test_the_score_test_is_worked_by_hand() -> None:
    # 20 pairs, 6 gains, 2 losses against 0.1: 40 q^2 + (36 * 0.1 - 8) q - 0.18 = 0, so
    # q = (4.4 + sqrt(19.36 + 28.8)) / 80 = 0.141747; variance 20 (2 q + 0.09) = 7.46988;
    # z = (6 - 2 - 2) / sqrt(7.46988) = 0.731767.
    p_value = paired_min_effect_p_value(5, 2, 6, 7, min_effect=0.1, direction="more")
    assert p_value == pytest.approx(norm.sf(0.731767), abs=1e-6)


@pytest.mark.parametrize("p_value_of", [paired_min_effect_p_value, paired_exact_p_value])
def test_the_tests_look_in_the_direction_asked(p_value_of) -> None:  # type: ignore[no-untyped-def]
    more = p_value_of(5, 2, 30, 63, min_effect=0.01, direction="more")
    less = p_value_of(5, 2, 30, 63, min_effect=0.01, direction="less")
    assert more < 0.001
    assert less > 0.999
    assert p_value_of(5, 30, 2, 63, min_effect=0.01, direction="less") == more


@pytest.mark.parametrize("p_value_of", [paired_min_effect_p_value, paired_exact_p_value])
@pytest.mark.parametrize("min_effect", [0.0, 0.01])
def test_pairs_without_evidence_do_not_reject(p_value_of, min_effect) -> None:  # type: ignore[no-untyped-def]
    assert p_value_of(0, 0, 0, 0, min_effect=min_effect, direction="more") == 1.0
    assert p_value_of(40, 0, 0, 60, min_effect=0.0, direction="more") == 1.0
    for row in [(40, 0, 0, 60), (0, 0, 0, 10), (10, 0, 0, 0), (0, 5, 5, 0), (0, 10, 0, 0)]:
        assert p_value_of(*row, min_effect=min_effect, direction="more") >= 0.5


def test_pairs_that_agree_do_not_matter_without_a_min_effect() -> None:
    few = paired_min_effect_p_value(1, 2, 8, 1, min_effect=0.0, direction="more")
    many = paired_min_effect_p_value(900, 2, 8, 500, min_effect=0.0, direction="more")
    assert few == pytest.approx(many)


@cache
def p_values_of(n: int, min_effect: float, *, exact: bool) -> FloatArray:
    """One p-value per table; the exact ones only where the asymptotic one is at most 0.15."""
    score = np.ones(len(tables(n)))
    for index, (g, b) in enumerate(tables(n).tolist()):
        row = (0, b, g, n - g - b)
        score[index] = paired_min_effect_p_value(*row, min_effect=min_effect, direction="more")
        if exact:
            unlikely = score[index] <= 0.15
            score[index] = (
                paired_exact_p_value(*row, min_effect=min_effect, direction="more")
                if unlikely
                else 1.0
            )
    return score


def sizes(n: int, min_effect: float, level: float, *, exact: bool) -> FloatArray:
    """The exact probability of rejecting on the boundary, one per share of losses."""
    rejected = p_values_of(n, min_effect, exact=exact) <= level
    return np.array([probabilities(n, tables(n), q + min_effect, q) @ rejected for q in LOSSES])


LOSSES = [0.0, 0.001, 0.005, 0.0093, 0.012, 0.015, 0.03, 0.053, 0.1, 0.2, 0.3]


@pytest.mark.parametrize(
    ("n", "level", "largest"),
    [
        (30, 0.05, 0.053),
        (60, 0.05, 0.056),
        (100, 0.05, 0.060),
        (120, 0.05, 0.072),
        (30, 0.005, 0.005),
        (60, 0.005, 0.005),
        (100, 0.005, 0.005),
        (120, 0.005, 0.005),
    ],
)
def test_the_score_tests_size_exceeds_its_level_by_no_more_than_documented(
    n: int, level: float, largest: float
) -> None:
    found = sizes(n, 0.01, level, exact=False)
    assert found.max() <= largest + 5e-4
    # The table in the docstring is no exaggeration either.
    assert found.max() >= 0.9 * largest


@pytest.mark.parametrize(
    ("n", "min_effect"), [(30, 0.0), (30, 0.05), (60, 0.0), (60, 0.01), (60, 0.05), (100, 0.01)]
)
def test_the_exact_test_never_exceeds_its_level(n: int, min_effect: float) -> None:
    for level in (0.05, 0.025, 0.005):
        assert sizes(n, min_effect, level, exact=True).max() <= level


def test_the_exact_test_holds_inside_the_null_as_well() -> None:
    n, level = 60, 0.05
    found = tables(n)
    rejected = np.zeros(len(found), dtype=bool)
    for index, (g, b) in enumerate(found.tolist()):
        if g - b > 0.05 * n:
            rejected[index] = (
                paired_exact_p_value(0, b, g, n - g - b, min_effect=0.05, direction="more") <= level
            )
    for difference in (-0.02, 0.0, 0.03, 0.05):
        for loss in (0.02, 0.05, 0.1, 0.3):
            assert probabilities(n, found, loss + difference, loss) @ rejected <= level


def test_the_exact_test_tries_enough_discordant_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [(0, 0, 4, 116), (9, 1, 5, 105), (100, 10, 30, 1060), (0, 0, 26, 1174)]
    coarse = [paired_exact_p_value(*row, min_effect=0.01, direction="more") for row in rows]
    monkeypatch.setattr("whatchanged.paired._NUISANCE_STEPS", 1000)
    fine = [paired_exact_p_value(*row, min_effect=0.01, direction="more") for row in rows]
    assert coarse == pytest.approx(fine, rel=0.01)


def test_the_score_statistic_grows_with_the_gains_among_as_many_discordant_pairs() -> None:
    # The exact test finds its tail by bisection, which needs this.
    from whatchanged.paired import _score_z

    for n in (20, 60, 150):
        for difference in (0.0, 0.01, 0.1, 0.5):
            for discordant in range(1, n + 1):
                gains = np.arange(discordant + 1)
                assert (np.diff(_score_z(gains, discordant - gains, n, difference)) > 0).all()


@pytest.mark.parametrize("n", [120, 240])
@pytest.mark.parametrize("share", [0.01, 0.05, 0.2, 0.5])
@pytest.mark.parametrize(("level", "largest"), [(0.05, 0.072), (0.005, 0.0052)])
def test_simulated_pairs_at_the_border_of_the_null_are_rarely_confirmed(
    n: int, share: float, level: float, largest: float
) -> None:
    rng = np.random.default_rng(12)
    repeats = 20_000
    for share_flipped in (0.0, 0.2):
        only_base = share * share_flipped
        cells = [share - only_base, only_base, only_base + 0.01, 0.99 - share - only_base]
        rows, counts = np.unique(
            rng.multinomial(n, cells, size=repeats)[:, 1:3], axis=0, return_counts=True
        )
        score = np.array(
            [
                paired_min_effect_p_value(0, b, g, n - b - g, min_effect=0.01, direction="more")
                for b, g in rows.tolist()
            ]
        )
        exact = np.array(
            [
                paired_exact_p_value(0, b, g, n - b - g, min_effect=0.01, direction="more")
                if p <= 2 * level
                else 1.0
                for (b, g), p in zip(rows.tolist(), score, strict=True)
            ]
        )
        error = 3 * math.sqrt(level / repeats)
        assert counts @ (score <= level) / repeats <= largest + error
        assert counts @ (exact <= level) / repeats <= level + error


def coupled(n: int, rng: np.random.Generator, repeats: int) -> NDArray[np.int64]:
    """Cells of pairs of which 80% are the same text, met by 30%; of the others the base's texts
    meet it in 30%, the intervention's in 80%: 0.3 against 0.4, and 0.124 discordant."""
    # 0.2 * 0.3 * 0.2 = 0.012 lost, 0.2 * 0.7 * 0.8 = 0.112 gained, 0.24 + 0.2 * 0.24 = 0.288 both.
    return rng.multinomial(n, [0.288, 0.012, 0.112, 0.588], size=repeats)


def power(n: int) -> tuple[float, float, float]:
    """How often each test confirms at 0.005: of pairs, exact of pairs, of the texts as if apart."""
    confirmed = np.zeros(3)
    rows = coupled(n, np.random.default_rng(13), 250).tolist()
    for both, base, intervention, neither in rows:
        row = (both, base, intervention, neither)
        p_values = (
            paired_min_effect_p_value(*row, min_effect=0.01, direction="more"),
            paired_exact_p_value(*row, min_effect=0.01, direction="more"),
            min_effect_p_value(
                both + base, n, both + intervention, n, min_effect=0.01, direction="more"
            ),
        )
        confirmed += np.array(p_values) <= 0.005
    paired, exact, apart = confirmed / len(rows)
    return float(paired), float(exact), float(apart)


def test_pairs_confirm_with_far_fewer_texts_what_is_80_percent_identical() -> None:
    paired, exact, apart = power(240)
    assert paired > 0.9
    assert exact > 0.9
    assert apart < 0.45
    needed = pairs_needed(0.3, 0.4, 0.124, min_effect=0.01, alpha=0.005, power=0.9)
    assert 3.5 * needed < texts_needed(0.3, 0.4, min_effect=0.01, alpha=0.005, power=0.9)


# Sample sizes ------------------------------------------------------------------------------------


def test_pairs_needed_without_a_min_effect_is_connors_value() -> None:
    # Discordant 0.2, difference 0.1, z(0.05) = 1.6449, z(0.8) = 0.8416:
    # ((1.6449 * sqrt(0.2) + 0.8416 * sqrt(0.2 - 0.01)) / 0.1)^2 = 121.5 -> 122.
    assert pairs_needed(0.3, 0.4, 0.2, min_effect=0.0, alpha=0.05, power=0.8) == 122
    assert pairs_needed(0.4, 0.3, 0.2, min_effect=0.0, alpha=0.05, power=0.8) == 122


@pytest.mark.parametrize(
    ("share_base", "share_intervention", "discordant"),
    [(0.3, 0.4, 0.124), (0.05, 0.12, 0.09), (0.6, 0.45, 0.35), (0.02, 0.06, 0.05)],
)
@pytest.mark.parametrize("alpha", [0.05, 0.005])
def test_the_pairs_needed_give_the_power_asked(
    share_base: float, share_intervention: float, discordant: float, alpha: float
) -> None:
    n = pairs_needed(
        share_base, share_intervention, discordant, min_effect=0.01, alpha=alpha, power=0.8
    )
    difference = share_intervention - share_base
    direction: Direction = "more" if difference > 0 else "less"
    only_intervention = (discordant + difference) / 2
    only_base = (discordant - difference) / 2
    both = share_base - only_base
    cells = [both, only_base, only_intervention, 1 - both - discordant]
    rows = np.random.default_rng(14).multinomial(n, cells, size=4000).tolist()
    confirmed = [
        paired_min_effect_p_value(*row, min_effect=0.01, direction=direction) <= alpha
        for row in rows
    ]
    assert np.mean(confirmed) == pytest.approx(0.8, abs=0.06)


def test_identical_pairs_but_for_the_effect_need_the_fewest() -> None:
    needed = [
        pairs_needed(0.1, 0.2, discordant, min_effect=0.01, alpha=0.05, power=0.8)
        for discordant in (0.1, 0.2, 0.3)
    ]
    assert needed == sorted(set(needed))
    # Impossible values are moved to the nearest possible: no less than 0.1, no more than 0.3.
    assert pairs_needed(0.1, 0.2, 0.0, min_effect=0.01, alpha=0.05, power=0.8) == needed[0]
    assert pairs_needed(0.1, 0.2, 0.9, min_effect=0.01, alpha=0.05, power=0.8) == needed[2]


def test_no_number_of_pairs_shows_an_effect_below_the_smallest_of_interest() -> None:
    known = {"alpha": 0.05, "power": 0.8}
    assert pairs_needed(0.1, 0.105, 0.01, min_effect=0.01, **known) == MAX_TEXTS_NEEDED
    assert pairs_needed(0.1, 0.1, 0.1, min_effect=0.0, **known) == MAX_TEXTS_NEEDED
    assert pairs_needed(0.0, 1.0, 1.0, min_effect=0.0, **known) == 3


def test_impossible_values_are_refused() -> None:
    with pytest.raises(UsageError, match=r"found \(1, -1, 0, 3\)"):
        paired_share_difference(1, -1, 0, 3)
    with pytest.raises(UsageError, match=r"found 1$"):
        paired_share_difference(1, 0, 0, 3, confidence=1)
    for p_value_of in (paired_min_effect_p_value, paired_exact_p_value):
        with pytest.raises(UsageError, match=r"found 1\.5"):
            p_value_of(1, 1, 1, 1, min_effect=1.5, direction="more")
    with pytest.raises(UsageError, match="shares"):
        pairs_needed(0.1, 1.2, 0.1, min_effect=0.0, alpha=0.05, power=0.8)
    with pytest.raises(UsageError, match="alpha and power"):
        pairs_needed(0.1, 0.2, 0.1, min_effect=0.0, alpha=0.0, power=0.8)


# The z-score of discordant pairs -----------------------------------------------------------------


def test_mcnemar_z_is_signed_shrunk_and_broadcasts() -> None:
    assert mcnemar_z(0, 1) == pytest.approx(1 / math.sqrt(2))
    assert mcnemar_z(3, 0) == pytest.approx(-1.5)
    assert mcnemar_z(0, 0) == 0
    found = mcnemar_z(np.array([[0], [8]]), np.array([0, 8, 24]))
    # Rows: 0, 8/3, 24/5; -8/3, 0, 16/sqrt(33).
    assert found == pytest.approx(np.array([[0, 8 / 3, 24 / 5], [-8 / 3, 0, 16 / math.sqrt(33)]]))


def test_mcnemar_z_has_unit_variance_where_many_pairs_differ_by_chance() -> None:
    rng = np.random.default_rng(15)
    gains = rng.binomial(400, 0.5, size=4000)
    assert np.std(mcnemar_z(400 - gains, gains)) == pytest.approx(1, abs=0.04)
