import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whatchanged.calibration import Calibration, cross_fit, fit_calibration
from whatchanged.errors import UsageError


def test_without_audits_a_score_is_its_own_probability():
    calibration = fit_calibration([], [])
    assert calibration == Calibration()
    # 0 and 1 are pulled in by 0.01, and 0.25 to 0.01 + 0.98 * 0.25.
    assert calibration.apply([0.0, 0.25, 0.5, 1.0]) == pytest.approx([0.01, 0.255, 0.5, 0.99])


def test_the_log_odds_are_a_line():
    # Odds of 1 times 3 are a probability of 3/4.
    assert Calibration(math.log(3), 1.0).apply([0.5]) == pytest.approx([0.75])
    assert Calibration(0.0, 0.0).apply([0.9]) == pytest.approx([0.5])


def test_a_rarer_criterion_makes_the_same_scores_smaller():
    # Pooled 1/4 where half met: the likelihood ratio is 1/3. Shares of 1/4, 1/10 and 1/28 in turn
    # make the odds 1/9, 1/27 and 1/81.
    found = Calibration(math.log(1 / 3), 1.0, share=0.5).apply([0.5, 0.5])
    assert found == pytest.approx([1 / 82, 1 / 82])
    assert Calibration(0.0, 1.0, share=0.5).apply([]).shape == (0,)


def test_audits_of_one_kind_move_the_scores_but_make_no_step():
    calibration = fit_calibration([0.9] * 6, [False] * 6)
    low, high = Calibration(calibration.intercept, calibration.slope).apply([0.1, 0.9])
    assert 0 < low < 0.5
    assert 0.01 < high < 0.5


def test_many_audits_give_the_true_line():
    rng = np.random.default_rng(1)
    truth = Calibration(-0.5, 0.6)
    scores = rng.random(20_000)
    found = fit_calibration(scores, rng.random(20_000) < truth.apply(scores))
    assert (found.intercept, found.slope) == pytest.approx((-0.5, 0.6), abs=0.05)


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), max_size=12))
def test_any_audits_give_finite_probabilities(audits):
    scores, meets = [s for s, _ in audits], [m for _, m in audits]
    found = fit_calibration(scores, meets).apply([0.0, 0.3, 1.0])
    assert ((found > 0) & (found < 1)).all()


def test_no_hypothesis_is_calibrated_by_its_own_audits():
    rng = np.random.default_rng(2)
    scores, owner = rng.random(80), np.arange(80) % 4
    meets = rng.random(80) < scores
    other = np.where(owner == 1, ~meets, meets)
    before, after = (cross_fit(scores, m, owner, 4) for m in (meets, other))
    assert before[1] == after[1]
    assert before[0] != after[0]
    assert before[3] == before[1]


def test_a_lone_hypothesis_keeps_its_scores():
    assert cross_fit([0.2, 0.9], [True, True], [0, 0], 1) == (Calibration(),)


def test_audits_that_cannot_be_are_refused():
    with pytest.raises(UsageError, match="2 scores and 1 verdicts"):
        fit_calibration([0.1, 0.2], [True])
    with pytest.raises(UsageError, match=r"scores in \[0, 1\]"):
        fit_calibration([math.nan], [True])
