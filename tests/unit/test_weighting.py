from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whatchanged.errors import UsageError
from whatchanged.stats import share_difference
from whatchanged.weighting import even_weights, reweighted_difference, reweighted_share


def column(*hits: int) -> np.ndarray:
    return np.array(hits, dtype=np.int64)[:, None]


def counts(*n_texts: int) -> np.ndarray:
    return np.array(n_texts, dtype=np.int64)


def test_every_prompt_counts_the_same_however_often_it_was_sampled() -> None:
    # 90 of 100 and 0 of 10: plain 90 / 110 = 0.82, reweighted (0.9 + 0) / 2.
    found = reweighted_share(column(90, 0), counts(100, 10))
    assert found.share == pytest.approx([0.45])


def test_an_even_allocation_gives_the_plain_share() -> None:
    hits = np.array([[3, 0], [1, 5], [0, 4]])
    found = reweighted_share(hits, counts(5, 5, 5))
    assert found.share == pytest.approx(hits.sum(axis=0) / 15)


def test_the_standard_error_is_worked_by_hand() -> None:
    # Prompt 0: 2 of 4, variance of the mean 0.25 / 3; prompt 1: 1 of 5, 0.16 / 4. No prompt lacks
    # texts, so only the scatter within them counts: (0.083333 + 0.04) / 2^2 = 0.0308333.
    found = reweighted_share(column(2, 1), counts(4, 5))
    assert found.share == pytest.approx([0.35])
    assert found.se == pytest.approx([math.sqrt(0.0308333)], abs=1e-6)


def test_a_single_text_borrows_its_groups_scatter() -> None:
    # Prompt 0: 2 of 4, a text's variance 0.25 * 4 / 3 = 1 / 3; prompt 1 has one text, so 1 / 3 as
    # well: (1 / 12 + 1 / 3) / 4. Prompt 2 is another group without scatter.
    found = reweighted_share(column(2, 1), counts(4, 1))
    assert found.se == pytest.approx([math.sqrt((1 / 12 + 1 / 3) / 4)])
    apart = reweighted_share(column(2, 1, 0), counts(4, 1, 7), groups=counts(0, 0, 1))
    assert apart.se == pytest.approx([math.sqrt((1 / 12 + 1 / 3) / 9)])


def test_single_texts_everywhere_are_as_uncertain_as_one_sample() -> None:
    # 1 of 4 texts, each of its own prompt: sqrt(0.25 * 0.75 / 4).
    found = reweighted_share(column(1, 0, 0, 0), counts(1, 1, 1, 1))
    assert found.share == pytest.approx([0.25])
    assert found.se == pytest.approx([math.sqrt(0.1875 / 4)])
    assert found.n_effective == pytest.approx([4])


def test_a_prompt_without_texts_borrows_its_groups_mean() -> None:
    # Group 0: 0.5 and 0.1, so 0.3 for the third; group 1: 0.8. (0.5 + 0.1 + 0.3 + 0.8) / 4.
    found = reweighted_share(
        column(5, 1, 0, 4), counts(10, 10, 0, 5), groups=np.array([0, 0, 0, 1])
    )
    assert found.share == pytest.approx([0.425])


def test_a_group_without_texts_borrows_the_mean_of_all_prompts_that_have_some() -> None:
    # 0.5 and 0.1 in group 0, 0.9 in group 1, nothing in group 2: (0.5 + 0.1 + 0.9 + 0.5) / 4.
    found = reweighted_share(
        column(5, 1, 9, 0), counts(10, 10, 10, 0), groups=np.array([0, 0, 1, 2])
    )
    assert found.share == pytest.approx([0.5])


def test_missing_prompts_add_the_scatter_between_prompts() -> None:
    # 50 of 100 and 10 of 100 stand for four prompts: within (0.25 + 0.09) / 99 / 2^2 = 0.00085859;
    # between prompts 2 * 0.2^2 - (0.25 + 0.09) / 99 / 2 = 0.0782828, times
    # 2 * (1/2 - 1/4)^2 + 2 / 4^2 = 1/4 (Cochran's (1 - f) / m).
    found = reweighted_share(column(50, 10, 0, 0), counts(100, 100, 0, 0))
    assert found.share == pytest.approx([0.3])
    assert found.se == pytest.approx([math.sqrt(0.00085859 + 0.0782828 / 4)], abs=1e-6)


def test_one_prompt_that_stands_for_others_says_little() -> None:
    # 50 of 100 on one of four prompts: 0.25 / 99 within, and at most 0.25 between, times 3/4.
    found = reweighted_share(column(50, 0, 0, 0), counts(100, 0, 0, 0))
    assert found.se == pytest.approx([math.sqrt(0.25 / 99 + 0.75 * 0.25)])


def test_a_share_of_zero_is_not_certain() -> None:
    # Weights 1/2 over 10 texts and 1/2 over 40: Kish 1 / (1/40 + 1/160) = 32 texts.
    found = reweighted_share(column(0, 0), counts(10, 40))
    assert (found.share, found.se) == ([0], [0])
    assert found.n_effective == pytest.approx([32])


def test_no_texts_know_nothing() -> None:
    found = reweighted_share(np.zeros((3, 2), dtype=np.int64), counts(0, 0, 0))
    assert np.isnan(found.share).all()
    assert np.isnan(found.se).all()
    assert found.n_effective.tolist() == [0, 0]
    assert reweighted_share(np.zeros((0, 2), dtype=np.int64), counts()).share.shape == (2,)
    assert reweighted_share(np.zeros((3, 0), dtype=np.int64), counts(1, 2, 0)).share.shape == (0,)


def test_the_difference_of_evenly_sampled_single_texts_is_newcombes() -> None:
    # One text per prompt and side: as many effective texts as texts.
    hits_base, hits = np.zeros((70, 1), dtype=np.int64), np.zeros((70, 1), dtype=np.int64)
    hits_base[:42], hits[:56] = 1, 1
    found = reweighted_difference(hits_base, np.ones(70, np.int64), hits, np.ones(70, np.int64))
    plain = share_difference(42, 70, 56, 70)
    assert found.effect == pytest.approx([0.2])
    assert (found.ci_low[0], found.ci_high[0]) == pytest.approx((plain.ci_low, plain.ci_high))
    assert found.se == pytest.approx([math.sqrt((0.6 * 0.4 + 0.8 * 0.2) / 70)])


def test_a_side_without_texts_gives_the_widest_interval() -> None:
    found = reweighted_difference(column(1, 2), counts(4, 4), column(0, 0), counts(0, 0))
    assert found.share_base == pytest.approx([0.375])
    assert np.isnan(found.share_intervention).all()
    assert np.isnan(found.effect).all()
    assert (found.ci_low, found.ci_high) == ([-1], [1])


@settings(deadline=None)
@given(st.integers(1, 12), st.integers(1, 4), st.integers(0, 2**32))
def test_differences_lie_within_their_interval_whatever_was_sampled(
    n_prompts: int, n_groups: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    groups = rng.integers(n_groups, size=n_prompts)
    n_texts = rng.integers(0, 4, size=(2, n_prompts)) * rng.integers(1, 9, size=(2, n_prompts))
    hits = rng.binomial(n_texts[:, :, None], rng.random(3))
    found = reweighted_difference(hits[0], n_texts[0], hits[1], n_texts[1], groups=groups)
    assert (found.ci_low >= -1).all()
    assert (found.ci_high <= 1).all()
    assert (found.ci_low < found.ci_high).all()
    if n_texts.any(axis=1).all():
        assert (found.ci_low <= found.effect).all()
        assert (found.effect <= found.ci_high).all()
        assert (found.se >= 0).all()


@pytest.mark.parametrize("n_missing", [0, 3])
def test_the_standard_error_is_the_scatter_of_repeated_samples(n_missing: int) -> None:
    rng = np.random.default_rng(21)
    groups = np.arange(60) // 10
    rates = np.clip(np.repeat(rng.uniform(0.1, 0.6, 6), 10) + rng.normal(0, 0.1, 60), 0.01, 0.99)
    errors, se = [], []
    for _ in range(400):
        n_texts = 1 + rng.poisson(rng.choice([1, 4, 20], 60))
        # Which prompts lack texts is chance: a few of every group.
        n_texts[rng.permuted(np.arange(60).reshape(6, 10), axis=1)[:, :n_missing].ravel()] = 0
        found = reweighted_share(rng.binomial(n_texts, rates)[:, None], n_texts, groups=groups)
        errors.append(found.share[0] - rates.mean())
        se.append(found.se[0] ** 2)
    # A standard deviation of 400 repeats is known to 3.5%.
    assert np.std(errors) == pytest.approx(math.sqrt(np.mean(se)), rel=0.12)
    assert abs(np.mean(errors)) <= 3 * np.std(errors) / 20


@pytest.mark.parametrize("rate", [0.005, 0.05, 0.5])
def test_intervals_of_unevenly_sampled_prompts_cover_the_difference(rate: float) -> None:
    rng = np.random.default_rng(22)
    covered = []
    for _ in range(60):
        n_texts = rng.poisson(rng.choice([0.5, 4, 20], 60))
        rates = rate * rng.gamma(4.0, 0.25, (60, 20)).clip(0, 1.9)
        changed = np.minimum(1.0, rates + 0.02)
        hits_base, hits = (rng.binomial(n_texts[:, None], r) for r in (rates, changed))
        found = reweighted_difference(hits_base, n_texts, hits, n_texts)
        effect = (changed - rates).mean(axis=0)
        covered.append((found.ci_low <= effect) & (effect <= found.ci_high))
    # 1200 differences: 0.95 less three standard errors.
    assert np.mean(covered) >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / 1200)


def test_impossible_counts_are_refused() -> None:
    with pytest.raises(UsageError, match="0 <= hits <= texts"):
        reweighted_share(column(3), counts(2))
    with pytest.raises(UsageError, match=r"\(2, 1\), \(3,\)"):
        reweighted_share(column(1, 1), counts(2, 2, 2))
    with pytest.raises(UsageError, match=r"and \(1,\)"):
        reweighted_share(column(1, 1), counts(2, 2), groups=np.array([0]))
    with pytest.raises(UsageError, match="confidence"):
        reweighted_difference(column(1), counts(2), column(1), counts(2), confidence=1.0)


def test_even_weights_let_every_prompt_count_the_same_on_each_side() -> None:
    # Side 0: prompt 0 three times, prompt 1 once; side 1: prompt 0 and prompt 1 once.
    prompts, sides = np.array([0, 0, 0, 1, 0, 1]), np.array([0, 0, 0, 0, 1, 1])
    # 1/3, 1/3, 1/3, 1, 1, 1, over their mean 4/6.
    assert even_weights(prompts, sides) == pytest.approx([0.5, 0.5, 0.5, 1.5, 1.5, 1.5])


def test_one_text_more_is_even_and_none_at_all_has_no_weights() -> None:
    prompts, sides = np.array([0, 0, 1, 0, 1]), np.array([0, 0, 0, 1, 1])
    assert even_weights(prompts, sides).tolist() == [1.0] * 5
    assert even_weights(prompts[:0], sides[:0]).tolist() == []
