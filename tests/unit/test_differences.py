import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whatchanged.differences import (
    cluster_uncertainty,
    decide,
    scope_posterior,
    share_resolved,
    sought_differences,
    was_seen,
)
from whatchanged.sample import Evidence, prompt_scores

ALL = np.zeros(1, dtype=int)


def evidence(hits_base, hits_intervention, n_base, n_intervention, boundary=None):
    hits_base = np.array(hits_base)
    k = hits_base.shape[1]
    return Evidence(
        hits_base, np.array(hits_intervention), np.array(n_base), np.array(n_intervention),
        np.full(k, 0.5) if boundary is None else np.array(boundary),
    )  # fmt: skip


def test_a_resolved_cluster_gets_little_and_an_undecided_one_much():
    # 20 prompts of 100 texts per side. Cluster 0: share 0.05 against 0.25, clearly more.
    # Cluster 1: never seen. Cluster 2: 0.2 against 0.21, as likely inside as outside 0.01.
    shown = evidence(
        [[5, 0, 20]] * 20, [[25, 0, 20]] * 10 + [[25, 0, 22]] * 10, [100] * 20, [100] * 20
    )
    different, absent, open_question = cluster_uncertainty(shown, min_effect=0.01)[0]
    assert different < 0.001
    assert absent < 0.001
    assert open_question > 0.3
    assert share_resolved(shown, 0.01) == pytest.approx(2 / 3)


def test_uncertainty_of_one_stratum_is_worked_by_hand():
    # One prompt, 50 texts a side, 10 and 15 hits. Mantel-Haenszel: difference 0.1, variance
    # 25 * 75 * 100 / (50 * 50 * 100 * 99) = 0.0075758. Jeffreys without hits: mean 0.5/51, its
    # variance (0.5/51)(50.5/51)/52 twice. P(more than 0.05) decides against the other answers.
    mean = 0.5 / 51
    sd = math.sqrt(0.0075757576 + 2 * mean * (1 - mean) / 52)
    more = 0.5 * math.erfc(-(0.1 - 0.05) / sd / math.sqrt(2))
    undecided = 1.5 * (1 - more)
    # Half of it always, a quarter of it times the boundary 0.8, a quarter times 1/sqrt(1 + 25).
    expected = undecided * (0.5 + 0.25 * 0.8 + 0.25 / math.sqrt(26))
    shown = evidence([[10]], [[15]], [50], [50], [0.8])
    assert cluster_uncertainty(shown, min_effect=0.05)[0, 0] == pytest.approx(expected, rel=1e-6)


def test_a_topic_that_the_prompt_sets_is_no_uncertainty():
    # Every text of prompt 0 is in cluster 0 and of prompt 1 in cluster 1, on both sides; in the
    # second case the same totals come from chance.
    topic = evidence([[300, 0], [0, 300]], [[300, 0], [0, 300]], [300, 300], [300, 300])
    chance = evidence([[150, 150]] * 2, [[150, 150]] * 2, [300, 300], [300, 300])
    assert cluster_uncertainty(topic, min_effect=0.01).max() < 0.01
    assert cluster_uncertainty(chance, min_effect=0.01).min() > 0.2


def test_boundary_and_undersampling_raise_the_uncertainty():
    shown = evidence([[20, 20]], [[21, 21]], [100], [100], [0.1, 0.9])
    sharp, fuzzy = cluster_uncertainty(shown, min_effect=0.05)[0]
    assert fuzzy > sharp
    few = cluster_uncertainty(evidence([[2]], [[2]], [10], [10]), min_effect=0.05)[0, 0]
    many = cluster_uncertainty(evidence([[20]], [[20]], [100], [100]), min_effect=0.05)[0, 0]
    assert few > many


def test_a_difference_in_one_group_is_uncertain_there():
    # Group 1 (the last 5 of 20 prompts) may differ in a cluster that is level elsewhere.
    level, suspicious = [10], [14]
    shown = evidence([level] * 20, [level] * 15 + [suspicious] * 5, [100] * 20, [100] * 20)
    groups = np.array([0] * 15 + [1] * 5)
    found = cluster_uncertainty(shown, min_effect=0.01, groups=groups)
    assert found.shape == (2, 1)
    assert found[1, 0] != found[0, 0]
    assert prompt_scores(shown, found, groups=groups).shape == (20,)


@settings(deadline=None)
@given(st.integers(0, 5), st.integers(0, 4), st.integers(0, 2**32), st.floats(0, 0.5))
def test_uncertainty_is_in_the_unit_interval_for_any_counts(n_prompts, k, seed, min_effect):
    rng = np.random.default_rng(seed)
    n_base, n_intervention = rng.integers(0, 4, n_prompts), rng.integers(0, 4, n_prompts)
    shown = Evidence(
        rng.integers(0, n_base[:, None] + 1, (n_prompts, k)),
        rng.integers(0, n_intervention[:, None] + 1, (n_prompts, k)),
        n_base, n_intervention, rng.random(k),
    )  # fmt: skip
    groups = np.arange(n_prompts) // 2
    for found in (
        cluster_uncertainty(shown, min_effect=min_effect),
        cluster_uncertainty(shown, min_effect=min_effect, groups=groups),
    ):
        assert ((found >= 0) & (found <= 1)).all()
    scores = prompt_scores(shown, found, groups=groups)
    assert scores.shape == (n_prompts,)
    assert (scores >= 0).all()
    assert 0 <= share_resolved(shown, min_effect, groups=groups) <= 1


def test_a_small_group_is_asked_for_larger_differences():
    # Three of four prompts: 0.01 / sqrt(3/4); the fourth: 0.01 / sqrt(1/4).
    found = sought_differences(np.array([0, 0, 0, 1]), 0.01)
    assert found == pytest.approx([0.0115470, 0.02])
    assert sought_differences(np.arange(4), 0.8).tolist() == [1, 1, 1, 1]
    assert sought_differences(np.array([0, 2, 2, 2]), 0.01).tolist() == pytest.approx(
        [0.02, 1, 0.0115470], rel=1e-5
    )
    assert sought_differences(np.zeros(0, dtype=int), 0.01).tolist() == [0.01]


def jeffreys_variance(n):
    mean = 0.5 / (n + 1)
    return 2 * mean * (1 - mean) / (n + 2)


def test_coupled_pairs_know_a_difference_better_than_independent_texts():
    # 50 texts a side, 10 and 15 hits, in 5 differing pairs: the difference of the counts has at
    # most the variance 5, that of the shares 5 / 50^2. Independent texts: 0.0075758 (above).
    shown = evidence([[10]], [[15]], [50], [50])
    coupled = replace(shown, n_pairs=np.array([50]), n_differing=np.array([5]))
    mean, sd = scope_posterior(coupled, ALL)
    assert mean[0, 0] == pytest.approx(0.1)
    assert sd[0, 0] ** 2 == pytest.approx(0.002 + jeffreys_variance(50))
    assert scope_posterior(shown, ALL).sd[0, 0] ** 2 == pytest.approx(
        0.0075757576 + jeffreys_variance(50)
    )
    # Where all pairs differ, their number bounds nothing; and 49 pairs are not all texts.
    for n_pairs, n_differing in ((50, 50), (49, 5)):
        other = replace(shown, n_pairs=np.array([n_pairs]), n_differing=np.array([n_differing]))
        assert scope_posterior(other, ALL).sd == pytest.approx(scope_posterior(shown, ALL).sd)


def test_identical_pairs_leave_the_doubt_of_what_was_never_seen():
    shown = evidence([[10]], [[10]], [50], [50])
    coupled = replace(shown, n_pairs=np.array([50]), n_differing=np.array([0]))
    mean, sd = scope_posterior(coupled, ALL)
    assert mean[0, 0] == 0
    assert sd[0, 0] ** 2 == pytest.approx(jeffreys_variance(50))


def test_the_answers_are_probabilities_that_add_up_to_one():
    shown = evidence([[10, 0, 50]], [[15, 0, 20]], [50], [50])
    answers = decide(shown, ALL, 0.05)
    assert np.sum(answers, axis=0) == pytest.approx(np.ones((1, 3)))
    assert answers.less[0, 2] > 0.999


def test_an_interval_that_excludes_zero_is_resolved_however_small_the_difference():
    # 10,000 texts a side, 10 % against 11 %: sd = sqrt(0.105 * 0.895 * 2 / 10,000) = 0.0043, so the
    # interval is [0.0015, 0.0185]: above zero, and as likely within 0.01 as beyond. 10 % against
    # 10.5 % gives [-0.0035, 0.0135]: neither. 0.1 % twice gives +-0.0009, within 0.01.
    shown = evidence([[1000, 1000, 10]], [[1100, 1050, 10]], [10_000], [10_000])
    assert cluster_uncertainty(shown, min_effect=0.01)[0, 0] > 0.3
    assert [
        share_resolved(replace(shown, boundary=shown.boundary[[k]], **pick(shown, k)), 0.01)
        for k in range(3)
    ] == [1, 0, 1]


def pick(shown, k):
    return {
        "hits_base": shown.hits_base[:, [k]], "hits_intervention": shown.hits_intervention[:, [k]],
    }  # fmt: skip


def test_groups_are_asked_about_the_clusters_that_they_hold():
    # Both clusters are level over all prompts. Cluster 0 lives in group 0 only, where 200 of 1000
    # against 202 resolve nothing below 0.014; cluster 1 is in every text of both groups.
    shown = evidence([[200, 1000], [0, 1000]], [[202, 1000], [0, 1000]], [1000] * 2, [1000] * 2)
    groups = np.array([0, 1])
    assert was_seen(shown, groups).tolist() == [[True, True], [False, True]]
    # Cluster 0 is open over all prompts and in group 0, cluster 1 resolved in all three scopes.
    assert share_resolved(shown, 0.01) == 0.5
    assert share_resolved(shown, 0.01, groups=groups) == pytest.approx(3 / 5)
    assert share_resolved(shown, 0.01, groups=np.zeros(2, dtype=int)) == 0.5


def test_nothing_is_resolved_where_nothing_was_seen():
    no_clusters = evidence(np.zeros((2, 0), int), np.zeros((2, 0), int), [3, 3], [3, 3])
    assert cluster_uncertainty(no_clusters, min_effect=0.01).shape == (1, 0)
    assert share_resolved(no_clusters, 0.01) == 0.0
    no_texts = evidence([[0]], [[0]], [0], [0])
    assert share_resolved(no_texts, 0.01) == 0.0
    assert cluster_uncertainty(no_texts, min_effect=0.01)[0, 0] > 0.5
    no_prompts = evidence(np.zeros((0, 2), int), np.zeros((0, 2), int), [], [])
    assert share_resolved(no_prompts, 0.01) == 0.0
