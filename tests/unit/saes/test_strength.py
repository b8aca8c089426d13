import math

import numpy as np
import pytest

from tests.unit.saes.synthetic import features_of, groups_of, planted
from whatchanged.saes.category_tests import measure_categories
from whatchanged.saes.features import group_texts
from whatchanged.saes.strength import rank_features


def ranked(values, categories, **settings):
    sae, groups = features_of(values), groups_of(categories)
    rows = rank_features(sae, measure_categories(sae, groups), **settings)
    return {
        name: [row for row in rows if row.ranking == name]
        for name in ("strongest", "most frequent", "most selective")
    }


def test_each_ranking_has_its_own_order():
    # Feature 0 is frequent, 1 is strong, 2 fires on x alone, 3 is silent.
    values = [[1, 0, 2, 0], [1, 9, 2, 0], [1, 3, 0, 0], [1, 0, 0, 0]]
    rows = ranked(values, list("xxyy"))
    # Sums over four texts: 4, 12, 4; firing texts: 4, 2, 2; scores: 0, 0 and 1.
    assert [row.feature for row in rows["strongest"]] == [1, 0, 2]
    assert [row.feature for row in rows["most frequent"]] == [0, 1, 2]
    assert rows["most selective"][0].feature == 2
    first = rows["strongest"][0]
    assert (first.mean, first.mean_when_firing, first.peak) == (3.0, 6.0, 9.0)
    assert (first.share_firing, first.rank) == (0.5, 1)
    assert (rows["most selective"][0].category, rows["most selective"][0].score) == ("x", 1.0)


def test_a_feature_that_fires_once_does_not_lead_the_selective_ones():
    values, categories = planted(np.random.default_rng(2), sizes=(30, 60), d_sae=40, n_planted=2)
    values = np.hstack([values, np.zeros((90, 1), dtype=np.float32)])
    values = np.vstack([values, np.zeros((1, 41), dtype=np.float32)])
    values[-1, 40] = 5.0
    rows = ranked(values, [*categories, "one text"], n_shown=41)["most selective"]
    # Its score is the largest, 1 of 1 text, but chance explains it.
    chance = next(row for row in rows if row.feature == 40)
    assert (chance.score, chance.category) == (1.0, "one text")
    assert chance.p_adjusted > 0.05
    assert {row.feature for row in rows[:2]} == {0, 1}


def test_rows_of_duplicates_count():
    sae = features_of([[3, 0], [3, 0], [0, 4]])
    groups = group_texts(["a", "a", "b"], ["x", "x", "y"])
    first = rank_features(sae, measure_categories(sae, groups))[0]
    assert (first.feature, first.mean, first.share_firing) == (0, 2.0, pytest.approx(2 / 3))


def test_one_category_alone_has_strong_features_and_none_selective():
    rows = ranked([[1.0], [2.0]], ["x", "x"])
    assert rows["most selective"] == []
    assert rows["strongest"][0].category is None
    assert math.isnan(rows["strongest"][0].score)
    assert math.isnan(rows["strongest"][0].p_adjusted)


def test_a_silent_sae_and_no_texts_rank_nothing():
    assert not any(ranked(np.zeros((3, 4)), list("xxy")).values())
    assert not any(ranked(np.zeros((0, 4)), []).values())
