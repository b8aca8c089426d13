import numpy as np
import pytest
from scipy.sparse import csr_array
from scipy.stats import rankdata

from tests.unit.saes.synthetic import features_of, groups_of, planted
from whatchanged.errors import UsageError
from whatchanged.saes.concepts import centred_ranks, search_concept
from whatchanged.saes.features import group_texts
from whatchanged.stats import auc


def example(seed, *, n_planted, n_concept=15, n_background=60, d_sae=400):
    values, categories = planted(
        np.random.default_rng(seed), sizes=(n_concept, n_background), d_sae=d_sae,
        n_planted=n_planted, inside=0.9, outside=0.05,
    )  # fmt: skip
    return features_of(values), groups_of(categories)


def test_ranks_are_midranks_less_that_of_the_zeros():
    values = np.array([[0, 2, 0], [5, 2, 0], [0, 0, 0], [7, 1, 0], [5, 0, 0]], dtype=np.float32)
    expected = rankdata(values, axis=0)
    expected -= np.where(values == 0, expected, 0).max(axis=0)
    found = centred_ranks(csr_array(values)).toarray().T
    assert found.tolist() == np.where(values > 0, expected, 0).tolist()


def test_the_auc_is_that_of_the_activations():
    sae, groups = example(0, n_planted=1)
    values = sae.values.toarray()
    found = search_concept(sae, groups, "topic 0", seed=0, n_shown=400)
    assert len(found) == np.count_nonzero(values.any(axis=0))
    for one in found:
        column = values[:, one.feature]
        assert one.auc == pytest.approx(auc(column[15:], column[:15]), abs=1e-6)


def test_a_planted_feature_is_found_and_described():
    sae, groups = example(1, n_planted=1)
    best, *others = search_concept(sae, groups, "topic 0", seed=0)
    column = sae.values.toarray()[:, 0]
    assert (best.feature, best.is_confirmed) == (0, True)
    assert best.p_adjusted == pytest.approx(1 / 1001)
    assert best.mean_concept == pytest.approx(column[:15].mean())
    assert best.share_background == pytest.approx((column[15:] > 0).mean())
    assert (best.n_concept, best.n_background) == (15, 60)
    assert not any(other.is_confirmed for other in others)


def test_unrelated_features_are_confirmed_in_few_searches():
    confirmed = 0
    for seed in range(40):
        sae, groups = example(100 + seed, n_planted=0)
        found = search_concept(sae, groups, "topic 0", seed=seed, n_permutations=200)
        confirmed += found[0].is_confirmed
    # At a level of 0.05 two are expected; 6 or more have a chance of 0.014.
    assert confirmed <= 5


def test_a_feature_that_fires_once_does_not_hide_a_real_one():
    # 2,000 features that fire on one text each, 10 of them on a concept text.
    rng = np.random.default_rng(4)
    values = np.zeros((300, 2001), dtype=np.float32)
    values[rng.integers(300, size=2000), np.arange(2000)] = 1.0
    values[:10, 2000] = rng.random(10) < 0.8
    sae, groups = features_of(values), groups_of(["concept"] * 10 + ["other"] * 290)
    best = search_concept(sae, groups, "concept", seed=0)[0]
    assert (best.feature, best.is_confirmed) == (2000, True)


def test_copies_of_a_text_do_not_make_a_feature_significant():
    texts = ["same"] * 30 + [f"other {i}" for i in range(30)]
    groups = group_texts(texts, ["concept"] * 30 + ["background"] * 30)
    (found,) = search_concept(features_of([[1.0]] * 30 + [[0.0]] * 30), groups, "concept", seed=0)
    # One text of 31: chance puts it there in 1 of 31 shuffles.
    assert found.n_concept == 1
    assert found.p_adjusted == pytest.approx(1 / 31, abs=0.02)


def test_a_silent_sae_gives_none():
    sae = features_of(np.zeros((4, 3)))
    assert search_concept(sae, groups_of(list("xxyy")), "x", seed=0) == ()


def test_a_feature_that_is_the_same_everywhere_separates_nothing():
    rng = np.random.default_rng(6)
    values = np.full((97, 3), 0.3)
    values[:, 1:] = rng.random((97, 2))
    found = search_concept(features_of(values), groups_of(["x"] * 13 + ["y"] * 84), "x", seed=0)
    same = next(one for one in found if one.feature == 0)
    assert same.auc == pytest.approx(0.5)
    assert same.p_adjusted > 0.5


def test_two_texts_can_show_nothing():
    (found,) = search_concept(features_of([[1.0], [0.0]]), groups_of(["x", "y"]), "x", seed=0)
    assert found.auc == 1.0
    assert found.p_adjusted == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize(
    ("categories", "message"),
    [
        (["y", "z"], "expected texts of the category 'x', found none; there are y, z"),
        (["x", "x"], "expected background texts beside the category 'x', found none"),
        ([], "there are no texts"),
    ],
)
def test_a_search_needs_concept_and_background_texts(categories, message):
    sae = features_of(np.ones((len(categories), 1)))
    with pytest.raises(UsageError, match=message):
        search_concept(sae, groups_of(categories), "x", seed=0)


def test_a_text_that_is_both_concept_and_background_is_refused():
    groups = group_texts(["a", "a", "b"], ["x", "y", "y"])
    with pytest.raises(UsageError, match="found 1 that are both"):
        search_concept(features_of(np.ones((3, 1))), groups, "x", seed=0)
