import numpy as np
import pytest

from tests.unit.saes.synthetic import features_of
from whatchanged.errors import UsageError
from whatchanged.saes.features import Threshold, firing, group_texts, quantile_thresholds


def test_groups_keep_the_rows_of_duplicates_and_count_each_text_once():
    groups = group_texts(["a", "b", "a", "a"], ["x", "y", "x", "y"])
    assert groups.categories == ("x", "y")
    assert groups.text_of.tolist() == [0, 1, 0, 0]
    assert groups.category_of.tolist() == [0, 1, 0, 1]
    assert groups.first_rows.tolist() == [0, 1]
    assert groups.row_counts.tolist() == [[2, 1], [0, 1]]


def test_no_texts_give_no_groups():
    groups = group_texts([], [])
    assert (groups.n_texts, groups.n_distinct, groups.categories) == (0, 0, ())
    assert groups.row_counts.shape == (0, 0)


def test_a_category_is_needed_for_every_text():
    with pytest.raises(UsageError, match="found 2 texts and 1 categories"):
        group_texts(["a", "b"], ["x"])


def test_quantile_thresholds_are_of_the_positive_activations_alone():
    sae = features_of([[0, 1, 0], [3, 0, 0], [2, 0, 4]])
    # Positive: 1, 2, 3, 4. Halfway between 2 and 3; 0.9 * 3 = 2.7 steps above 1.
    assert quantile_thresholds(sae) == (Threshold("q50", 2.5), Threshold("q90", pytest.approx(3.7)))


def test_thresholds_follow_the_scale_of_the_sae():
    values = np.random.default_rng(0).exponential(size=(30, 8)).astype(np.float32)
    small, large = features_of(values), features_of(8 * values)
    for few, many in zip(quantile_thresholds(small), quantile_thresholds(large), strict=True):
        assert (firing(small, few) != firing(large, many)).nnz == 0


def test_a_silent_sae_has_thresholds_of_zero():
    assert [t.value for t in quantile_thresholds(features_of(np.zeros((3, 4))))] == [0.0, 0.0]


def test_a_feature_fires_above_its_threshold_and_not_at_it():
    sae = features_of([[0, 1.0], [2.0, 0.5]])
    assert firing(sae, Threshold("one", 1.0)).toarray().tolist() == [[0, 0], [1, 0]]
    assert sae.values.toarray().tolist() == [[0, 1.0], [2.0, 0.5]]


@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf])
def test_impossible_activations_are_refused(value):
    with pytest.raises(UsageError, match=r"sae-a: expected finite activations .* found 1 others"):
        features_of([[value, 1.0]])


def test_a_quantile_above_one_is_refused():
    with pytest.raises(UsageError, match=r"expected quantiles in \[0, 1\]"):
        quantile_thresholds(features_of([[1.0]]), [50])
