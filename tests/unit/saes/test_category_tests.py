import itertools

import numpy as np
import pytest
from scipy.stats import fisher_exact

from tests.unit.saes.synthetic import features_of, groups_of, planted
from whatchanged.errors import UsageError
from whatchanged.saes.category_tests import count_chance_specialists, measure_categories
from whatchanged.saes.features import Threshold, group_texts


def test_the_score_is_the_share_inside_minus_the_share_outside():
    sae = features_of([[1, 0], [2, 0], [0, 3], [1, 3]])
    tests = measure_categories(sae, groups_of(["x", "x", "y", "y"]))
    # Feature 0 fires on 2 of 2 texts of x and 1 of 2 of y, feature 1 on none and both.
    assert tests.shares_inside.tolist() == [[1.0, 0.5], [0.0, 1.0]]
    assert tests.scores.tolist() == [[0.5, -0.5], [-1.0, 1.0]]


def test_the_p_value_is_the_share_of_labellings_with_as_many_hits():
    fires = np.array([1, 1, 1, 0, 0, 1, 0])
    tests = measure_categories(features_of(fires[:, None]), groups_of(list("xxxyyyy")))
    at_least = [fires[list(chosen)].sum() >= 3 for chosen in itertools.combinations(range(7), 3)]
    assert tests.p_values[0, 0] == pytest.approx(np.mean(at_least))


def test_p_values_are_fishers_for_every_feature_and_category():
    values, categories = planted(np.random.default_rng(0), sizes=(5, 20, 40), d_sae=40, n_planted=6)
    tests = measure_categories(features_of(values), groups_of(categories))
    for feature, category in itertools.product(range(40), range(3)):
        fires, inside = values[:, feature] > 0, np.array(categories) == f"topic {category}"
        table = [
            [(fires & inside).sum(), (~fires & inside).sum()],
            [(fires & ~inside).sum(), (~fires & ~inside).sum()],
        ]
        expected = fisher_exact(table, alternative="greater").pvalue
        assert tests.p_values[feature, category] == pytest.approx(expected, rel=1e-8)


def test_copies_of_a_text_change_the_share_and_not_the_p_value():
    fires = np.array([[1.0], [0], [0], [1], [0], [0]])
    once = measure_categories(features_of(fires), groups_of(list("xxxyyy")))
    rows = [0] * 100 + [1, 2, 3, 4, 5]
    copied = measure_categories(
        features_of(fires[rows]),
        group_texts([f"text {i}" for i in rows], ["x"] * 102 + ["y"] * 3),
    )
    assert copied.p_values.tolist() == once.p_values.tolist()
    assert copied.shares_inside[0, 0] == pytest.approx(100 / 102)
    assert copied.p_adjusted.min() > 0.5


def test_a_text_of_two_categories_is_inside_both():
    # x holds texts 0 and 1, y holds 1 and 2. The feature fires on 1 and 2.
    groups = group_texts(["0", "1", "1", "2"], ["x", "x", "y", "y"])
    tests = measure_categories(features_of([[0], [1], [1], [1]]), groups)
    assert tests.shares_inside.tolist() == [[0.5, 1.0]]
    # Two of three texts are inside y: both fire in 1 of 3 labellings; one of x does in all.
    assert tests.p_values[0] == pytest.approx([1.0, 1 / 3])


def test_planted_specialists_are_found_and_shuffled_categories_yield_none_in_19_of_20():
    values, categories = planted(
        np.random.default_rng(3), sizes=(12, 20, 30, 40, 50, 60), d_sae=2000, n_planted=30
    )
    sae, groups = features_of(values), groups_of(categories)
    found = measure_categories(sae, groups).p_adjusted <= 0.05
    assert all(found[feature, feature % 6] for feature in range(30))
    assert found[30:].sum() <= 3
    counts = count_chance_specialists(sae, groups, seed=0)
    assert len(counts) == 20
    assert np.count_nonzero(counts) <= 1


def test_the_null_control_sees_specialists_that_are_counted_without_correction():
    values, categories = planted(
        np.random.default_rng(3), sizes=(20, 30, 40), d_sae=500, n_planted=0
    )
    sae, groups = features_of(values), groups_of(categories)
    assert (measure_categories(sae, groups).p_values <= 0.05).sum() > 10
    assert np.count_nonzero(count_chance_specialists(sae, groups, seed=1, alpha=0.99)) > 1


def test_the_null_control_moves_labels_and_keeps_its_seed():
    values, categories = planted(np.random.default_rng(5), sizes=(30, 30), d_sae=50, n_planted=20)
    sae, groups = features_of(values), groups_of(categories)
    assert (measure_categories(sae, groups).p_adjusted <= 0.05).sum() >= 20
    assert np.count_nonzero(count_chance_specialists(sae, groups, seed=2)) <= 1
    counts = [
        count_chance_specialists(sae, groups, seed=seed, alpha=0.9).tolist() for seed in (2, 2, 3)
    ]
    assert counts[0] == counts[1] != counts[2]


def test_a_category_with_one_text_cannot_be_significant_among_three_features_that_fire_there():
    values = np.zeros((30, 3))
    values[0] = 1.0
    tests = measure_categories(features_of(values), groups_of(["rare"] + ["common"] * 29))
    assert tests.scores[:, 0].tolist() == [1.0, 1.0, 1.0]
    assert tests.p_values[:, 0] == pytest.approx([1 / 30] * 3)
    # Six tests, three of them at 1/30: 1/30 * 6 / 3.
    assert tests.p_adjusted[:, 0] == pytest.approx([2 / 30] * 3)


def test_one_category_alone_has_no_outside_and_p_values_of_one():
    tests = measure_categories(features_of([[1.0, 0], [2, 3]]), groups_of(["x", "x"]))
    assert np.isnan(tests.scores).all()
    assert tests.p_values.tolist() == tests.p_adjusted.tolist() == [[1.0], [1.0]]


def test_a_silent_sae_has_scores_of_zero_and_p_values_of_one():
    tests = measure_categories(features_of(np.zeros((4, 3))), groups_of(list("xxyy")))
    assert tests.scores.tolist() == [[0.0, 0.0]] * 3
    assert tests.p_adjusted.tolist() == [[1.0, 1.0]] * 3


def test_one_text_and_no_texts_have_nothing_to_show():
    assert measure_categories(features_of([[1.0]]), groups_of(["x"])).p_values.tolist() == [[1.0]]
    none = measure_categories(features_of(np.zeros((0, 5))), groups_of([]))
    assert none.p_adjusted.shape == none.scores.shape == (5, 0)
    assert (
        count_chance_specialists(features_of(np.zeros((0, 5))), groups_of([]), seed=0).tolist()
        == [0] * 20
    )


def test_features_below_the_threshold_do_not_count():
    sae = features_of([[0.5], [0.5], [2.0], [2.0]])
    tests = measure_categories(sae, groups_of(list("xxyy")), Threshold("one", 1.0))
    assert tests.scores.tolist() == [[-1.0, 1.0]]
    assert measure_categories(sae, groups_of(list("xxyy"))).scores.tolist() == [[0.0, 0.0]]


def test_features_of_other_texts_are_refused():
    with pytest.raises(UsageError, match="sae-a: expected features of 3 texts, found 2"):
        measure_categories(features_of([[1.0], [0]]), groups_of(list("xxy")))
