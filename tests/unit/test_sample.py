import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whatchanged.errors import UsageError
from whatchanged.sample import (
    Evidence,
    RoundQuality,
    allocate,
    cluster_uncertainty,
    prompt_scores,
    seed_allocation,
    share_resolved,
    stop_reason,
)


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
    assert 0 <= share_resolved(shown, min_effect) <= 1


def test_scores_divide_a_question_over_the_prompts_where_it_lives():
    # The cluster was hit in 8 of prompt 0's 8 texts and in none of prompt 1's 8. With two texts'
    # worth of the average 0.5, the shares are 9/10 and 1/10; the cluster's uncertainty is 0.5.
    shown = evidence([[4], [0]], [[4], [0]], [4, 4], [4, 4])
    assert prompt_scores(shown, np.array([[0.5]])) == pytest.approx([0.45, 0.05])


def test_a_prompt_without_texts_scores_like_its_group():
    shown = evidence([[4], [4], [0]], [[4], [4], [0]], [8, 8, 0], [8, 8, 0])
    scores = prompt_scores(shown, np.array([[0.6]]))
    assert scores == pytest.approx([0.2, 0.2, 0.2])


@settings(deadline=None)
@given(
    st.lists(st.floats(0, 10), min_size=1, max_size=50), st.integers(0, 500), st.floats(0, 1),
    st.integers(0, 2**128),
)  # fmt: skip
def test_allocations_sum_to_exactly_what_is_asked(scores, n_texts, exploration_share, seed):
    found = allocate(
        np.array(scores), n_texts, exploration_share=exploration_share, seed=seed,
        n_sampled=np.arange(len(scores)),
    )  # fmt: skip
    assert found.sum() == n_texts
    assert (found >= 0).all()


def test_the_targeted_part_follows_the_scores_to_within_a_text():
    found = allocate(np.array([4.0, 3.0, 2.0, 1.0]), 45, exploration_share=0.0, seed=0)
    # Quotas 18, 13.5, 9, 4.5.
    assert np.abs(found - [18, 13.5, 9, 4.5]).max() < 1
    assert found.sum() == 45


def test_rounding_is_fair_over_seeds():
    totals = sum(
        allocate(np.array([0.5, 0.3, 0.2]), 1, exploration_share=0.0, seed=seed)
        for seed in range(2000)
    )
    # Three standard errors of a share of 2000 are at most 0.034.
    assert totals / 2000 == pytest.approx([0.5, 0.3, 0.2], abs=0.034)


def test_exploration_favours_prompts_with_few_texts():
    scores, n_sampled = np.array([1.0, 0.0, 0.0]), np.array([99, 0, 0])
    found = allocate(scores, 100, exploration_share=0.5, seed=0, n_sampled=n_sampled)
    # 50 targeted texts go to prompt 0; of 50 others its quota is 50 * 0.01 / 2.01 = 0.25.
    assert found[0] in (50, 51)
    assert found[1:].min() >= 24


def test_the_same_seed_allocates_alike():
    scores = np.random.default_rng(0).random(30)
    first, again, other = (
        allocate(scores, 40, exploration_share=0.3, seed=seed).tolist() for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_degenerate_allocations():
    assert allocate(np.zeros(3), 6, exploration_share=0.1, seed=0).tolist() == [2, 2, 2]
    assert allocate(np.ones(3), 0, exploration_share=0.1, seed=0).tolist() == [0, 0, 0]
    assert allocate(np.ones(1), 7, exploration_share=0.3, seed=0).tolist() == [7]
    assert allocate(np.zeros(0), 0, exploration_share=0.3, seed=0).tolist() == []
    no_clusters = evidence(np.zeros((2, 0), int), np.zeros((2, 0), int), [3, 3], [3, 3])
    uncertainty = cluster_uncertainty(no_clusters, min_effect=0.01)
    assert uncertainty.shape == (1, 0)
    assert prompt_scores(no_clusters, uncertainty).tolist() == [0, 0]
    assert share_resolved(no_clusters, 0.01) == 0.0
    no_texts = evidence([[0]], [[0]], [0], [0])
    assert share_resolved(no_texts, 0.01) == 0.0
    assert cluster_uncertainty(no_texts, min_effect=0.01)[0, 0] > 0.5


def test_impossible_allocations_are_refused():
    with pytest.raises(UsageError, match="found -1"):
        allocate(np.ones(2), -1, exploration_share=0.3, seed=0)
    with pytest.raises(UsageError, match="finite scores"):
        allocate(np.array([1.0, np.nan]), 3, exploration_share=0.3, seed=0)


def test_the_seed_round_is_split_evenly():
    found = seed_allocation(7, 24, seed=5)
    assert sorted(found.tolist()) == [3, 3, 3, 3, 4, 4, 4]
    assert seed_allocation(3, 1, seed=0).sum() == 1
    assert seed_allocation(0, 0, seed=0).tolist() == []


def planted_world(seed, *, active):
    """Texts per prompt after a seed round and five rounds, with a change in the first 4 prompts.

    Each of 60 prompts has its topic's cluster (12 of them) in every text; four clusters come by
    chance everywhere; the last cluster rises from 0.3 to 0.45 in four prompts only.
    """
    rng = np.random.default_rng(seed)
    rates = np.zeros((2, 60, 17))
    rates[:, np.arange(60), np.arange(60) // 5] = 1
    rates[:, :, 12:16] = rng.uniform(0, 0.08, 4)
    rates[0, :4, 16], rates[1, :4, 16] = 0.3, 0.45
    hits, n_texts = np.zeros((2, 60, 17), dtype=int), np.zeros(60, dtype=int)
    allocation = seed_allocation(60, 300, seed)
    for round_index in range(6):
        for side in (0, 1):
            hits[side] += rng.binomial(allocation[:, None], rates[side])
        n_texts = n_texts + allocation
        shown = Evidence(hits[0], hits[1], n_texts, n_texts, np.full(17, 0.5))
        scores = prompt_scores(shown, cluster_uncertainty(shown, min_effect=0.01))
        allocation = allocate(
            scores, 150, exploration_share=0.3 if active else 1.0,
            seed=100 * seed + round_index, n_sampled=n_texts,
        )  # fmt: skip
    return n_texts


def test_sampling_concentrates_on_a_planted_difference_and_forgets_no_prompt():
    active = np.array([planted_world(seed, active=True) for seed in range(8)])
    uniform = np.array([planted_world(seed, active=False) for seed in range(8)])
    assert (active.sum(axis=1) == 1050).all()
    assert active[:, :4].mean() > 1.5 * uniform[:, :4].mean()
    # The seed round gave each prompt 5 texts: all have received more since.
    assert active.min() > 5


def finished(round_index, n_texts, agreement=None, silhouette=0.1, resolved=0.5):
    return RoundQuality(round_index, n_texts, agreement, silhouette, resolved)


def test_sampling_goes_on_while_nothing_is_settled():
    assert stop_reason([], max_rounds=6, max_texts=2000) is None
    rounds = [finished(0, 500), finished(1, 750, 0.5), finished(2, 1000, 0.6)]
    assert stop_reason(rounds, max_rounds=6, max_texts=2000) is None


def test_sampling_stops_at_its_budget():
    assert stop_reason([finished(0, 2000)], max_rounds=6, max_texts=2000) == (
        "text budget reached: 2000 texts per side of 2000 allowed"
    )
    assert stop_reason([finished(0, 500)], max_rounds=0, max_texts=2000) == (
        "round limit reached: 0 rounds after the seed round"
    )


def test_sampling_stops_when_the_differences_are_resolved_but_not_after_the_seed():
    seed, then = finished(0, 500, resolved=1.0), finished(1, 750, 0.2, resolved=0.995)
    assert stop_reason([seed], max_rounds=6, max_texts=2000) is None
    assert stop_reason([seed, then], max_rounds=6, max_texts=2000) == (
        "differences resolved: 99.5% of the clusters are decided"
    )


def test_sampling_stops_when_two_rounds_in_a_row_are_stable():
    seed, first = finished(0, 500), finished(1, 750, 0.85, 0.11)
    stable = finished(2, 1000, 0.9, 0.115)
    reason = stop_reason([seed, first, stable], max_rounds=6, max_texts=2000)
    assert reason is not None
    assert reason.startswith("clusters stable")
    for moving in (
        finished(2, 1000, 0.7, 0.115),
        finished(2, 1000, None, 0.115),
        finished(2, 1000, 0.9, 0.2),
        finished(2, 1000, 0.9, None),
        finished(2, 1000, 0.9, 0.115, resolved=0.6),
    ):
        assert stop_reason([seed, first, moving], max_rounds=6, max_texts=2000) is None
