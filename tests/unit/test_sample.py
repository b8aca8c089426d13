import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whatchanged.differences import cluster_uncertainty
from whatchanged.errors import UsageError
from whatchanged.sample import (
    Evidence,
    RoundQuality,
    allocate,
    prompt_scores,
    seed_allocation,
    stop_reason,
)


def evidence(hits_base, hits_intervention, n_base, n_intervention, boundary=None):
    hits_base = np.array(hits_base)
    k = hits_base.shape[1]
    return Evidence(
        hits_base, np.array(hits_intervention), np.array(n_base), np.array(n_intervention),
        np.full(k, 0.5) if boundary is None else np.array(boundary),
    )  # fmt: skip


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
    assert prompt_scores(no_clusters, np.zeros((1, 0))).tolist() == [0, 0]
    no_texts = evidence([[0]], [[0]], [0], [0])
    assert prompt_scores(no_texts, np.ones((1, 1))).tolist() == [0]


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
    return RoundQuality(round_index, n_texts, agreement, silhouette, resolved, True)


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
        "differences resolved: the 95% intervals of 99.5% of them exclude zero or lie within the "
        "smallest effect of interest (99% needed)"
    )


def test_sampling_stops_when_the_quality_no_longer_changes():
    seed, first = finished(0, 500), finished(1, 750, 0.85, 0.11)
    stable = finished(2, 1000, 0.9, 0.115)
    reason = stop_reason([seed, first, stable], max_rounds=6, max_texts=2000)
    assert reason == (
        "quality sufficient: label agreement 0.85 and 0.90 in two rounds (0.80 needed), silhouette "
        "0.110 and 0.115 (within 0.01), resolved differences 50.0% and 50.0%"
    )
    for moving in (
        finished(2, 1000, 0.7, 0.115),
        finished(2, 1000, None, 0.115),
        finished(2, 1000, 0.9, 0.2),
        finished(2, 1000, 0.9, None),
        finished(2, 1000, 0.9, 0.115, resolved=0.6),
    ):
        assert stop_reason([seed, first, moving], max_rounds=6, max_texts=2000) is None


def test_a_silhouette_that_is_undefined_is_never_sufficient():
    rounds = [finished(i, 500 + 250 * i, 0.9, None) for i in range(3)]
    assert stop_reason(rounds, max_rounds=6, max_texts=2000) is None
