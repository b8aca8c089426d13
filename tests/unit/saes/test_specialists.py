import math

import numpy as np
import pytest
from scipy.stats import beta

from tests.unit.saes.synthetic import features_of, groups_of, planted
from whatchanged.errors import UsageError
from whatchanged.saes.category_tests import measure_categories
from whatchanged.saes.features import group_texts, quantile_thresholds
from whatchanged.saes.specialists import (
    find_specialists,
    score_intervals,
    summarize_categories,
    summarize_layers,
)


@pytest.fixture(scope="module")
def example():
    values, categories = planted(
        np.random.default_rng(1), sizes=(40, 50, 60), d_sae=300, n_planted=6
    )
    return features_of(values), groups_of(categories)


def test_specialists_are_the_planted_ones_largest_score_first(example):
    sae, groups = example
    found = find_specialists(sae, measure_categories(sae, groups), seed=0)
    assert {(one.category, one.feature) for one in found} >= {
        (f"topic {feature % 3}", feature) for feature in range(6)
    }
    for name in groups.categories:
        scores = [one.score for one in found if one.category == name]
        assert scores == sorted(scores, reverse=True)
    first = found[0]
    assert first.score == pytest.approx(first.share_inside - first.share_outside)
    assert first.ci_low < 0.77 < first.ci_high
    assert (first.n_inside, first.n_outside, first.n_distinct_inside) == (40, 110, 40)


def test_no_more_are_shown_than_asked_but_all_are_counted(example):
    sae, groups = example
    tests = measure_categories(sae, groups)
    assert len(find_specialists(sae, tests, seed=0, n_shown=1)) == 3
    assert [one.n_specialists for one in summarize_categories(tests)] == [2, 2, 2]


def test_a_threshold_of_the_saes_own_finds_the_planted_ones_too(example):
    sae, groups = example
    for threshold in quantile_thresholds(sae, [0.25]):
        found = find_specialists(sae, measure_categories(sae, groups, threshold), seed=0)
        assert {one.feature for one in found} >= set(range(6))
        assert {one.threshold for one in found} == {"q25"}


def test_intervals_without_duplicates_follow_jeffreys_posterior():
    fires = np.array([[1.0]] * 7 + [[0.0]] * 3 + [[0.0]] * 30)
    groups = groups_of(["x"] * 10 + ["y"] * 30)
    rng = np.random.default_rng(0)
    ((low, high),) = score_intervals(fires, groups, 0, rng, n_draws=100_000, confidence=0.9)
    draws = beta.rvs(7.5, 3.5, size=400_000, random_state=1) - beta.rvs(
        0.5, 30.5, size=400_000, random_state=2
    )
    assert (low, high) == pytest.approx(tuple(np.quantile(draws, [0.05, 0.95])), abs=0.005)


def test_a_perfect_specialist_has_an_interval_of_some_width():
    fires = np.array([[1.0]] * 20 + [[0.0]] * 200)
    groups = groups_of(["x"] * 20 + ["y"] * 200)
    rng = np.random.default_rng(0)
    ((low, high),) = score_intervals(fires, groups, 0, rng, n_draws=100_000, confidence=0.95)
    assert low == pytest.approx(0.88, abs=0.005)
    assert high == pytest.approx(1.0, abs=0.005)


def test_copies_of_one_text_do_not_narrow_its_interval():
    rows = [0] * 50 + [1, 2, 3]
    groups = group_texts([str(row) for row in rows], ["x"] * 51 + ["y"] * 2)
    fires = np.array([[1.0], [0.0], [0.0], [0.0]])
    rng = np.random.default_rng(0)
    ((low, high),) = score_intervals(fires, groups, 0, rng, n_draws=20_000, confidence=0.95)
    # As rows, 50 of 51 texts would give a share inside of at least 0.9.
    assert low < 0.4
    assert high > 0.9


def test_intervals_cover_the_true_score_about_as_often_as_they_say():
    rng = np.random.default_rng(7)
    groups = groups_of(["x"] * 25 + ["y"] * 100)
    fires = np.vstack([rng.random((25, 2000)) < 0.7, rng.random((100, 2000)) < 0.05])
    intervals = score_intervals(
        fires.astype(np.float64), groups, 0, rng, n_draws=1000, confidence=0.95
    )
    covered = (intervals[:, 0] <= 0.65) & (intervals[:, 1] >= 0.65)
    assert 0.93 <= covered.mean() <= 0.97


def test_one_category_alone_has_no_specialist_and_no_best_score():
    sae = features_of([[1.0], [2.0]])
    tests = measure_categories(sae, groups_of(["x", "x"]))
    assert find_specialists(sae, tests, seed=0) == ()
    (summary,) = summarize_categories(tests)
    assert (summary.n_texts, summary.n_specialists, summary.best_feature) == (2, 0, None)
    assert math.isnan(summary.best_score)


def test_no_texts_have_no_specialists():
    sae = features_of(np.zeros((0, 4)))
    tests = measure_categories(sae, groups_of([]))
    assert find_specialists(sae, tests, seed=0) == ()
    assert summarize_categories(tests) == ()
    (layer,) = summarize_layers([tests])
    assert (layer.n_specialists, layer.n_firing) == (0, 0)
    assert math.isnan(layer.share_categories)


def test_twenty_saes_are_listed_by_layer_and_one_is_too(example):
    sae, groups = example
    saes = [
        features_of(sae.values.toarray(), f"sae-{i}", layer=None if i == 0 else 20 - i)
        for i in range(20)
    ]
    rows = summarize_layers([measure_categories(one, groups) for one in saes])
    assert [row.layer for row in rows] == [*range(1, 20), None]
    assert {row.n_specialists for row in rows} == {6}
    assert {row.share_categories for row in rows} == {1.0}
    assert len(summarize_layers([measure_categories(sae, groups)])) == 1


def test_the_tests_of_another_sae_are_refused(example):
    sae, groups = example
    other = features_of(sae.values.toarray(), "sae-b")
    with pytest.raises(UsageError, match="expected the tests of SAE sae-b, found those of sae-a"):
        find_specialists(other, measure_categories(sae, groups), seed=0)
