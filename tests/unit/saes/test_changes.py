import itertools

import numpy as np
import pytest

from tests.unit.saes.synthetic import features_of, groups_of
from whatchanged.errors import UsageError
from whatchanged.saes.changes import compare_sides
from whatchanged.saes.features import group_texts


def sides(seed, n_texts=80, d_sae=200):
    """Base and intervention that differ by noise alone where both fire."""
    rng = np.random.default_rng(seed)
    fires = rng.random((n_texts, d_sae)) < 0.3
    base = fires * rng.uniform(1, 2, size=fires.shape)
    other = fires * np.maximum(0.1, base + rng.normal(0, 0.2, size=fires.shape))
    return base, other


def compare(base, intervention, **settings):
    groups = groups_of(["any"] * len(base))
    return compare_sides(features_of(base), features_of(intervention), groups, seed=0, **settings)


def test_each_kind_of_change_is_found():
    base, other = sides(0)
    other[:, 0] += np.where(base[:, 0] > 0, 1.0, 0)
    other[:, 1] *= 0.3
    base[:, 2], other[:, 2] = 0.0, 0.0
    other[:40, 2] = 1.5
    other[:, 3] = 0.0
    found = compare(base, other)
    assert found.n_by_kind == {"strengthened": 1, "weakened": 1, "created": 1, "killed": 1}
    kinds = {one.feature: one.kind for one in found.largest}
    assert kinds == {0: "strengthened", 1: "weakened", 2: "created", 3: "killed"}
    created = next(one for one in found.largest if one.feature == 2)
    assert (created.share_base, created.share_intervention, created.effect) == (0.0, 0.5, 0.5)
    assert created.ci_low < 0.5 < created.ci_high
    assert created.mean_intervention == pytest.approx(0.75)
    # Stronger, but on the same texts.
    strengthened = next(one for one in found.largest if one.feature == 0)
    assert strengthened.effect == 0.0


def test_noise_changes_nothing_in_nearly_all_comparisons():
    n_changed = sum(bool(compare(*sides(200 + seed), n_draws=200).largest) for seed in range(40))
    # At a level of 0.05 two are expected; 6 or more have a chance of 0.014.
    assert n_changed <= 5


def test_the_p_value_is_the_share_of_sign_flips_with_as_large_a_sum():
    differences = np.array([[0.5], [1.0], [-0.25], [2.0], [0.75], [1.5], [0.25]])
    base = np.full((7, 1), 3.0)
    (found,) = compare(base, base + differences, alpha=1.0, n_draws=20_000).largest
    flips = np.array(list(itertools.product([-1, 1], repeat=7)))
    expected = np.mean(np.abs(flips @ differences) >= differences.sum() - 1e-9)
    assert found.p_adjusted == pytest.approx(expected, abs=0.01)


def test_no_more_are_shown_than_asked_but_all_are_counted():
    base, other = sides(1)
    other[:, :10] += 1.0
    found = compare(base, other, n_shown=3, alpha=0.01)
    assert (found.n_by_kind["strengthened"], len(found.largest), found.n_features) == (10, 3, 200)


def test_four_texts_are_too_few_and_ten_can_do():
    base = np.ones((10, 1))
    # All signs equal: 2 of 16 flips, and 2 of 1,024.
    assert compare(base[:4], 2 * base[:4]).largest == ()
    (found,) = compare(base, 2 * base, n_draws=50_000).largest
    assert found.p_adjusted == pytest.approx(2 / 1024, abs=0.001)


def test_copies_of_one_text_are_one_observation():
    groups = group_texts(["same"] * 100, ["any"] * 100)
    base, other = features_of(np.ones((100, 1))), features_of(np.full((100, 1), 2.0))
    assert compare_sides(base, other, groups, seed=0).largest == ()


def test_equal_sides_silent_saes_one_text_and_no_texts_change_nothing():
    base, _ = sides(2)
    for values in (base, np.zeros((5, 3)), np.ones((1, 3)), np.zeros((0, 3))):
        found = compare(values, values)
        assert found.largest == ()
        assert sum(found.n_by_kind.values()) == 0
    assert compare(np.ones((1, 1)), np.zeros((1, 1))).largest == ()


def test_a_change_of_scale_does_not_decide_which_change_is_larger():
    base, other = sides(3)
    other[:, 0] += 0.5
    base[:, 1], other[:, 1] = 1e-4 * base[:, 0], 1e-4 * other[:, 0]
    found = compare(base, other)
    assert {one.feature for one in found.largest} == {0, 1}


def test_saes_of_different_widths_or_texts_are_refused():
    with pytest.raises(UsageError, match="found 3 and 4 features"):
        compare(np.ones((2, 3)), np.ones((2, 4)))
    with pytest.raises(UsageError, match="expected features of 2 texts, found 3"):
        compare(np.ones((2, 3)), np.ones((3, 3)))
