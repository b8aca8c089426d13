import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whatchanged.sample import Evidence
from whatchanged.screen import (
    bound_by_divergence,
    bound_by_pairs,
    pinsker_bound,
    probability_by_divergence,
    probability_by_pairs,
    screen_clusters,
    screen_prompts,
)


def evidence(n_prompts, hits_base=None, hits_intervention=None, n=0, **measured):
    none = np.zeros((n_prompts, 0), dtype=int)
    hits_base = none if hits_base is None else np.array(hits_base)
    hits_intervention = none if hits_intervention is None else np.array(hits_intervention)
    n_texts = np.full(n_prompts, n)
    return Evidence(
        hits_base, hits_intervention, n_texts, n_texts, np.full(hits_base.shape[1], 0.5),
        **{name: np.array(values) for name, values in measured.items()},
    )  # fmt: skip


def test_pinsker_turns_nats_into_a_total_variation():
    found = pinsker_bound([-1.0, 0.0, 0.04, 1.0, 16.0])
    assert found == pytest.approx([0, 0, 0.1, 0.5, 1])
    assert math.isnan(pinsker_bound([math.nan])[0])


@given(st.floats(0.001, 0.999), st.floats(0.001, 0.999))
def test_no_two_coins_are_further_apart_than_pinsker_allows(p, q):
    divergence = (p - q) * math.log(p * (1 - q) / (q * (1 - p)))
    assert abs(p - q) <= pinsker_bound(divergence) + 1e-9


def test_identical_pairs_follow_the_rule_of_three():
    # 1 - 0.05^(1/20) = 0.1391, below 3/20; 2 of 10: the limit that statsmodels gives, 0.5069.
    shown = evidence(4, n_pairs=[20, 10, 5, 0], n_differing=[0, 2, 5, 0])
    assert bound_by_pairs(shown) == pytest.approx([0.1391083, 0.5069013, 1, 1])
    for n in (3, 30, 300):
        assert bound_by_pairs(evidence(1, n_pairs=[n], n_differing=[0]))[0] < 3 / n


def test_the_bound_by_divergence_is_one_sided_and_one_where_nothing_is_known():
    # 0.04 + 1.6449 * 0.02 = 0.0729, the root of which is 0.27; half of it.
    shown = evidence(2, divergence=[0.04, math.nan], divergence_se=[0.02, math.nan])
    assert bound_by_divergence(shown) == pytest.approx([0.135, 1], abs=1e-4)
    assert bound_by_divergence(evidence(2)).tolist() == [1, 1]
    assert bound_by_pairs(evidence(2)).tolist() == [1, 1]


def test_the_posterior_of_a_divergence_is_cut_off_at_zero():
    # A difference of 0.1 needs 0.04 nats. Estimate 0.04 +- 0.02: 0.5 / P(z > -2) = 0.5 / 0.97725.
    # A difference of 0.05 needs 0.01. Estimate -0.02 +- 0.02: P(z > 1.5) / P(z > 1).
    found = probability_by_divergence(
        np.array([0.1, 0.05]), np.array([0.04, -0.02]), np.array([0.02, 0.02])
    )
    assert found == pytest.approx([0.5116399, 0.4210841])


def test_few_texts_leave_more_doubt_than_many():
    # Estimate 0.01 +- 0.01, asked for 0.03 nats: P(z > 2) / P(z > -1), and the same of Student's t
    # with 3 degrees of freedom.
    asked = np.array([math.sqrt(0.03) / 2]), np.array([0.01]), np.array([0.01])
    assert probability_by_divergence(*asked) == pytest.approx([0.0270402])
    assert probability_by_divergence(*asked, n_texts=np.array([4])) == pytest.approx([0.0865918])


def test_what_was_not_measured_is_never_ruled_out():
    unknown = np.array([math.nan, 0.0]), np.array([0.1, math.nan])
    assert probability_by_divergence(np.array([0.1, 0.1]), *unknown).tolist() == [1, 1]
    assert probability_by_pairs(np.array([0.5]), np.array([0]), np.array([0])).tolist() == [1]
    # A divergence that is known exactly.
    exact = probability_by_divergence(np.array([0.1, 0.1]), np.array([0, 0.05]), np.zeros(2))
    assert exact.tolist() == [0, 1]


def test_a_prompt_is_dropped_when_one_of_its_measurements_rules_a_difference_out():
    # One group of all prompts looks for 0.1, that is 0.04 nats. Prompt 0: 0.5 +- 0.1, kept. Prompt
    # 1: 0 +- 0.001, dropped. Prompt 2: unmeasured. Prompt 3: 60 identical pairs, of which Beta(0.5,
    # 60.5) leaves 0.00037 above 0.1; its divergence does not help, so that is doubled.
    shown = evidence(
        4, divergence=[0.5, 0.0, math.nan, 0.3], divergence_se=[0.1, 0.001, math.nan, 0.2],
        n_pairs=[4, 0, 0, 60], n_differing=[4, 0, 0, 0],
    )  # fmt: skip
    screened = screen_prompts(shown, min_effect=0.1)
    assert screened.kept.tolist() == [True, False, True, False]
    assert screened.probability == pytest.approx([1, 0, 1, 2 * 0.000366338], abs=1e-3)
    report = screened.report
    assert (report.stage, report.n_in, report.n_kept, report.n_dropped) == ("prompts", 4, 2, 2)
    assert report.risk == pytest.approx(2 * 0.000366338, rel=1e-4)
    assert report.reason == (
        "2 of 4 prompts dropped: for each, the probability that the total variation between the "
        "sides exceeds 10.0%, the smallest difference looked for, is at most 5%; together they are "
        "expected to hold 0.00073 real differences"
    )


def test_without_a_screen_every_prompt_goes_on():
    screened = screen_prompts(evidence(3), min_effect=0.01, groups=np.array([0, 1, 1]))
    assert screened.kept.all()
    assert (screened.report.n_dropped, screened.report.risk) == (0, 0.0)
    assert screened.report.reason == (
        "none of 3 prompts dropped: no measurement rules a difference out"
    )
    assert screen_prompts(evidence(0), min_effect=0.01).report.n_in == 0


def test_a_prompt_of_a_small_group_may_differ_by_more():
    # 30 identical pairs: 95% say less than 0.063 (Jeffreys). Sixteen groups look for 0.04 each and
    # keep it, one hundred for 0.1 and drop it.
    for n_groups, n_kept in ((16, 16), (100, 0)):
        pairs = np.full(n_groups, 30), np.zeros(n_groups, dtype=int)
        shown = evidence(n_groups, n_pairs=pairs[0], n_differing=pairs[1])
        screened = screen_prompts(shown, min_effect=0.01, groups=np.arange(n_groups))
        assert screened.report.n_kept == n_kept


def test_as_many_dropped_prompts_differ_as_the_risk_says():
    # Total variations from the prior itself, and pairs that differ exactly as often.
    rng = np.random.default_rng(0)
    variation = rng.beta(0.5, 0.5, 40_000)
    n_pairs = np.full(40_000, 50)
    shown = evidence(40_000, n_pairs=n_pairs, n_differing=rng.binomial(n_pairs, variation))
    screened = screen_prompts(shown, min_effect=0.04)
    wrong = np.count_nonzero(variation[~screened.kept] > 0.04)
    assert screened.report.n_dropped > 1000
    # Four standard deviations of a count.
    assert abs(wrong - screened.report.risk) < 4 * math.sqrt(screened.report.risk)


def test_the_risk_bounds_what_happens_where_pairs_differ_more_often_than_they_must():
    rng = np.random.default_rng(1)
    differing_share = rng.beta(0.5, 0.5, 20_000)
    variation = differing_share * rng.uniform(0, 1, 20_000)
    n_pairs = np.full(20_000, 50)
    shown = evidence(20_000, n_pairs=n_pairs, n_differing=rng.binomial(n_pairs, differing_share))
    screened = screen_prompts(shown, min_effect=0.04)
    assert np.count_nonzero(variation[~screened.kept] > 0.04) < screened.report.risk


def test_clusters_that_are_decided_not_to_differ_are_dropped():
    # One prompt of 10,000 texts a side. Cluster 0: never seen. Cluster 1: 10 % against 20 %.
    # Cluster 2: 10 % against 11 %, as likely within 0.01 as beyond.
    shown = evidence(1, [[0, 1000, 1000]], [[0, 2000, 1100]], n=10_000)
    screened = screen_clusters(shown, min_effect=0.01)
    assert screened.kept.tolist() == [False, True, True]
    assert screened.probability == pytest.approx([0, 1, 0.5], abs=1e-3)
    report = screened.report
    assert (report.stage, report.n_in, report.n_kept, report.n_dropped) == ("clusters", 3, 2, 1)
    assert report.risk < 1e-6
    assert "1 of 3 clusters dropped" in report.reason


def test_a_cluster_that_differs_in_one_group_only_is_kept():
    # Cluster 0 rises from 10 % to 30 % in one of 40 groups, half a point over all prompts. Cluster
    # 1 is level in that group and never seen elsewhere.
    level, groups = np.full((40, 1), 100), np.arange(40)
    base, intervention = np.hstack([level, 0 * level]), np.hstack([level, 0 * level])
    intervention[0, 0] = 300
    base[0, 1] = intervention[0, 1] = 100
    shown = evidence(40, base, intervention, n=1000)
    assert screen_clusters(shown, min_effect=0.01, groups=groups).kept.tolist() == [True, False]
    assert screen_clusters(shown, min_effect=0.01).kept.tolist() == [False, False]


def test_degenerate_screens_of_clusters():
    assert screen_clusters(evidence(2), min_effect=0.01).report.n_in == 0
    no_texts = evidence(2, [[0], [0]], [[0], [0]], n=0)
    assert screen_clusters(no_texts, min_effect=0.01, groups=np.array([0, 1])).kept.tolist() == [
        True
    ]


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 6), st.integers(0, 2**32))
def test_probabilities_and_risks_are_finite_for_any_measurement(n_prompts, seed):
    rng = np.random.default_rng(seed)
    n_pairs = rng.integers(0, 5, n_prompts)
    shown = evidence(
        n_prompts,
        divergence=rng.choice([math.nan, -0.1, 0.0, 1e-9, 0.3, 1e6], n_prompts),
        divergence_se=rng.choice([math.nan, 0.0, 1e-9, 0.3, 1e6], n_prompts),
        n_pairs=n_pairs, n_differing=rng.integers(0, n_pairs + 1),
    )  # fmt: skip
    screened = screen_prompts(
        shown, min_effect=0.01, groups=np.arange(n_prompts) // 2, n_texts=n_pairs
    )
    assert ((screened.probability >= 0) & (screened.probability <= 1)).all()
    assert 0 <= screened.report.risk <= 0.05 * max(1, n_prompts)
