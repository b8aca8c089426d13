import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whatchanged.cascade import choose_wave, permanent_order, stratify_texts
from whatchanged.errors import UsageError
from whatchanged.paired import paired_share_difference
from whatchanged.prediction import (
    predict_pairs,
    predict_sides,
    predicted_difference,
    predicted_p_value,
)
from whatchanged.stats import share_difference


def sides_from(cells):
    """Texts of (side, stratum, size, judged, hits, calibrated score), as `predict_sides` wants."""
    labels, side, calibrated, meets, judged = [], [], [], [], []
    for intervention, label, size, n_judged, hits, score in cells:
        labels += [label] * size
        side += [intervention] * size
        calibrated += [score] * size
        judged += [True] * n_judged + [False] * (size - n_judged)
        meets += [True] * hits + [False] * (size - hits)
    return (
        np.array(labels), np.array(side, bool), np.array(calibrated), np.array(meets, bool),
        np.array(judged, bool),
    )  # fmt: skip


def test_verdicts_count_by_the_inverse_of_their_probability():
    # Base: 8 texts of which 1 of 4 judged met, 2 of which 1 of 2: 0.8 * 1/4 + 0.2 * 1/2 = 0.3.
    # Intervention: 0.5 * 1/5 + 0.5 * 4/5 = 0.5.
    found = predict_sides(
        *sides_from([(0, 0, 8, 4, 1, 0.9), (0, 1, 2, 2, 1, 0.9), (1, 0, 5, 5, 1, 0.9),
                     (1, 1, 5, 5, 4, 0.9)])
    )  # fmt: skip
    assert (found.share_base, found.share_intervention) == pytest.approx((0.3, 0.5))
    assert found.effect == pytest.approx(0.2)
    # Between the strata: (0.8/16 + 0.2/4 - 0.09) / 10 + (0.5/25 + 0.5 * 16/25 - 0.25) / 10.
    assert found.spread == pytest.approx((0.1 - 0.09) / 10 + (0.34 - 0.25) / 10)


def test_with_one_stratum_and_every_verdict_the_interval_is_newcombes():
    found = predict_sides(*sides_from([(0, 0, 80, 80, 48, 0.5), (1, 0, 70, 70, 56, 0.5)]))
    expected = share_difference(48, 80, 56, 70)
    interval = predicted_difference(found)
    assert (interval.ci_low, interval.ci_high) == pytest.approx((expected.ci_low, expected.ci_high))


def test_a_cell_without_a_verdict_may_be_anything():
    # Half of the intervention's texts were not asked about: its share is 0.5 * 0 + 0.5 * 0.4, and
    # could be up to half more.
    found = predict_sides(
        *sides_from([(0, 0, 9000, 9000, 0, 0.0), (1, 0, 4500, 4500, 0, 0.0),
                     (1, 1, 4500, 0, 0, 0.4)])
    )  # fmt: skip
    interval = predicted_difference(found)
    assert found.effect == pytest.approx(0.2)
    assert (interval.ci_low, interval.ci_high) == pytest.approx((0.0, 0.5), abs=0.01)


def test_no_error_among_few_verdicts_still_leaves_a_wide_interval():
    # 0 of 4 could be 0.49 by Wilson's limit, 3.84 / (4 + 3.84): no normal interval says so.
    found = predict_sides(*sides_from([(0, 0, 100, 4, 0, 0.0), (1, 0, 100, 100, 100, 1.0)]))
    assert predicted_difference(found).ci_low == pytest.approx(1 - 0.49, abs=0.01)


def test_a_side_without_texts_has_no_effect():
    found = predict_sides(*sides_from([(0, 0, 10, 10, 5, 0.5)]))
    assert math.isnan(found.effect)
    interval = predicted_difference(found)
    assert (interval.ci_low, interval.ci_high) == (-1.0, 1.0)
    assert predicted_p_value(found, min_effect=0.01, direction="more") == 1.0


@given(
    st.lists(
        st.tuples(st.booleans(), st.integers(0, 3), st.floats(0, 1), st.booleans(), st.booleans()),
        min_size=1,
        max_size=40,
    )
)
def test_the_p_value_agrees_with_the_interval(texts):
    side, labels, calibrated, meets, judged = (
        np.array(column) for column in zip(*texts, strict=True)
    )
    found = predict_sides(labels.astype(np.int64), side, calibrated, meets, judged)
    interval = predicted_difference(found, 0.9)
    assert -1 <= interval.ci_low <= interval.ci_high <= 1
    if math.isnan(found.effect):
        return
    more = predicted_p_value(found, min_effect=0.01, direction="more")
    less = predicted_p_value(found, min_effect=0.01, direction="less")
    assert (more < 0.05) == (interval.ci_low > 0.01) or more == pytest.approx(0.05, abs=1e-6)
    assert (less < 0.05) == (interval.ci_high < -0.01) or less == pytest.approx(0.05, abs=1e-6)


@pytest.mark.parametrize("fooled", [0.0, 0.3])
def test_the_interval_covers_also_where_the_cheap_judge_errs_on_one_side_only(fooled):
    rng = np.random.default_rng(5)
    n, repeats, covered = 400, 400, 0
    side = np.arange(n) % 2 == 1
    for seed in range(repeats):
        meets = rng.random(n) < np.where(side, 0.3, 0.2)
        said = meets ^ (rng.random(n) < 0.1) | (side & (rng.random(n) < fooled))
        calibrated = np.where(said, 0.8, 0.1)
        strata = stratify_texts(calibrated, (0.4, 0.6))
        order, none = permanent_order(n, seed), np.zeros(n, dtype=bool)
        judged = choose_wave(strata, order, 0.15, 1.0, none)
        found = predicted_difference(predict_sides(strata.labels, side, calibrated, meets, judged))
        covered += found.ci_low <= 0.1 <= found.ci_high
    # 0.95 less three standard errors of 400 repeats.
    assert covered / repeats >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / repeats)


def pairs_from(kinds):
    """Judged pairs of (count, base meets, intervention meets, is identical)."""
    meets = np.array([[b, i] for count, b, i, _ in kinds for _ in range(count)], dtype=bool)
    same = np.array([s for count, *_, s in kinds for _ in range(count)], dtype=bool)
    labels = np.where(same, 7, 0)
    return labels, meets.astype(float), meets, ~same, same


def test_the_effect_of_pairs_is_gains_less_losses():
    # 6 gains and 2 losses of 20 pairs, 4 of which are one text twice.
    found = predict_pairs(*pairs_from([(6, 0, 1, 0), (2, 1, 0, 0), (8, 0, 0, 0), (4, 1, 1, 1)]))
    assert found.effect == pytest.approx(0.2)
    assert (found.share_base, found.share_intervention) == pytest.approx((0.3, 0.5))


def test_identical_pairs_are_known_without_a_verdict():
    found = predict_pairs(*pairs_from([(50, 1, 1, 1), (50, 0, 0, 1)]))
    interval = predicted_difference(found)
    assert (interval.effect, interval.ci_low, interval.ci_high) == (0.0, 0.0, 0.0)


def test_with_every_verdict_the_interval_of_pairs_is_near_tangos():
    found = predicted_difference(
        predict_pairs(*pairs_from([(30, 0, 1, 0), (10, 1, 0, 0), (160, 0, 0, 0)]))
    )
    expected = paired_share_difference(0, 10, 30, 160)
    assert found.effect == pytest.approx(expected.effect)
    assert (found.ci_low, found.ci_high) == pytest.approx(
        (expected.ci_low, expected.ci_high), abs=0.02
    )


def test_no_pairs_have_no_effect():
    none = np.zeros(0, dtype=bool)
    found = predict_pairs(
        np.zeros(0, dtype=np.int64), np.zeros((0, 2)), np.zeros((0, 2), dtype=bool), none, none
    )
    assert math.isnan(found.effect)
    assert predicted_difference(found).ci_low == -1.0


def test_a_confidence_of_one_is_refused():
    found = predict_pairs(*pairs_from([(3, 0, 1, 0)]))
    with pytest.raises(UsageError, match="confidence"):
        predicted_difference(found, 1.0)
