"""Trials of specialists, and what is read from their effects."""

import math

import numpy as np
import pytest

from tests.unit.saes.synthetic import features_of, groups_of
from whatchanged.saes.ablations import Trial, TrialEffects, judge_effects, plan_trials
from whatchanged.saes.category_tests import measure_categories
from whatchanged.saes.features import group_texts
from whatchanged.saes.specialists import find_specialists

# Features 0 and 1 fire on every text of "a" alone, feature 2 on every text of "b" alone.
CATEGORIES = ["a"] * 12 + ["b"] * 12 + ["c"] * 12
VALUES = np.array([[c == "a", 2 * (c == "a"), c == "b", 0] for c in CATEGORIES], dtype=float)


def plan(**options):
    sae = features_of(VALUES)
    tests = measure_categories(sae, groups_of(CATEGORIES))
    options = {"alpha": 0.05, "n_best": 1, "n_texts": 5, "seed": 0} | options
    return plan_trials(find_specialists(sae, tests, seed=0), tests, **options)


def judge(own, controls, elsewhere=((0.0,),)):
    own = np.atleast_2d(own).astype(float)
    features = tuple(range(len(own)))
    trial = Trial("a", features, frozenset(features), tuple(range(own.shape[1])), (20,))
    controls = np.asarray(controls, dtype=float).reshape(len(own), -1, own.shape[1])
    effects = TrialEffects(features, own, controls, np.asarray(elsewhere, dtype=float))
    return judge_effects("sae", [trial], [effects], seed=0)


def test_every_category_with_specialists_is_tried_on_its_own_texts_and_on_others():
    first, second = plan()
    assert (first.category, second.category) == ("a", "b")
    assert (first.features, second.features) == ((0,), (2,))
    # Feature 1 is no control of "a", although it is not tried.
    assert first.specialists == {0, 1}
    assert len(first.rows) == 5
    assert {CATEGORIES[row] for row in first.rows} == {"a"}
    # 5 texts from two other categories: 3 of each.
    assert [CATEGORIES[row] for row in first.elsewhere] == ["b"] * 3 + ["c"] * 3
    assert plan() == (first, second)
    assert plan(seed=1) != (first, second)


def test_no_specialist_is_tried_where_none_is_asked_for():
    assert plan(n_best=0) == ()


def test_a_text_of_two_categories_is_elsewhere_in_neither():
    texts = [f"text {i}" for i in range(36)] + ["text 0"]
    sae = features_of(np.vstack([VALUES, VALUES[:1]]))
    tests = measure_categories(sae, group_texts(texts, [*CATEGORIES, "b"]))
    trials = plan_trials(
        find_specialists(sae, tests, seed=0), tests, alpha=0.05, n_best=1, n_texts=30, seed=0
    )
    assert all(0 not in trial.elsewhere for trial in trials if trial.category in "ab")


def test_a_feature_that_costs_every_text_more_than_its_controls_is_used():
    (found,) = judge([-3] * 12, [[-1] * 12, [0] * 12], [[-0.5, 0.5, -0.6]])
    assert found.is_used
    assert (found.change, found.ci_low, found.ci_high) == pytest.approx((-3, -3, -3))
    assert (found.change_controls, found.change_strongest_control) == (-0.5, -1)
    assert found.change_elsewhere == pytest.approx(-0.2)
    # All 12 differences have one sign: about 1 of 4,096 draws of signs is as extreme.
    assert found.p_adjusted < 0.002
    assert (found.n_texts, found.n_controls, found.n_elsewhere) == (12, 2, 3)


def test_one_control_that_matters_more_is_enough_to_doubt():
    (found,) = judge([-3] * 12, [[-4] * 12, [2] * 12])
    assert found.p_adjusted < 0.002
    assert not found.is_used


def test_a_feature_that_does_nothing_is_not_used_because_its_controls_help():
    (found,) = judge([0] * 12, [[1] * 12, [2] * 12])
    assert found.p_adjusted < 0.002
    assert not found.is_used


def test_few_texts_show_nothing():
    (found,) = judge([-9] * 3, [[0] * 3])
    assert found.p_value > 0.1
    assert not found.is_used


def test_without_controls_or_other_texts_nothing_can_be_told():
    (found,) = judge([-9] * 12, np.zeros((1, 0, 12)), np.zeros((1, 0)))
    assert (found.p_value, found.is_used, found.n_controls) == (1, False, 0)
    assert math.isnan(found.change_controls)
    assert math.isnan(found.change_elsewhere)


def test_all_specialists_of_the_sae_count_in_the_correction():
    # The smallest of three p-values is multiplied by 3.
    found = judge([[-3] * 12, [1, -1] * 6, [1, -1] * 6], np.zeros((3, 1, 12)), np.zeros((3, 1)))
    assert found[0].p_adjusted == pytest.approx(3 * found[0].p_value)
    assert [one.is_used for one in found] == [True, False, False]


def test_no_trials_give_nothing():
    assert judge_effects("sae", [], [], seed=0) == ()
