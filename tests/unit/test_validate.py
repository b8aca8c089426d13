from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from whatchanged.config import ValidateConfig
from whatchanged.interim import pool_counts
from whatchanged.records import Direction, Finding, Hypothesis, Prompt
from whatchanged.validate import (
    ValidationPlan,
    limit_plans,
    plan_validation,
    select_texts,
    validate_hypotheses,
)
from whatchanged.verdicts import COLUMNS

CONFIG = ValidateConfig(n_permutations=2000)
BANK = [
    Prompt(f"{group}{i}", f"prompt {i}", group, "validation" if i % 2 else "discovery")
    for group in ("tea", "chess")
    for i in range(8)
]


def claim(
    scope: str | None = None,
    direction: Direction = "more",
    shares: tuple[float, float] = (0.0, 0.5),
    name: str = "h1",
) -> Hypothesis:
    return Hypothesis(name, "s", "c", direction, scope, None, ("x",), *shares, 5.0)


def test_a_claim_is_tested_on_validation_prompts_of_its_scope() -> None:
    (plan,) = plan_validation([claim("tea")], BANK, CONFIG)
    assert plan.prompt_keys == ("tea1", "tea3", "tea5", "tea7")
    assert plan.n_per_prompt == 30  # 240 texts, half per side, over four prompts


def test_a_rare_behaviour_gets_more_texts_up_to_the_limit() -> None:
    rare = claim(shares=(0.0, 0.03))
    (plan,) = plan_validation([rare], BANK, CONFIG)
    assert 120 < plan.n_per_prompt * 8 <= 1200
    (least,) = plan_validation([claim(shares=(0.0, 0.011))], BANK, CONFIG)
    assert least.n_per_prompt * 8 == 1200


def test_a_claim_about_a_group_gets_at_most_four_times_the_texts() -> None:
    (rare,) = plan_validation([claim("tea", shares=(0.0, 0.011))], BANK, CONFIG)
    assert rare.n_per_prompt * 4 == 480


def test_hypotheses_share_texts() -> None:
    plans = [ValidationPlan("a", ("p", "q"), 5), ValidationPlan("b", ("q", "r"), 8)]
    assert pool_counts(plans) == {"p": 5, "q": 8, "r": 8}
    assert pool_counts([]) == {}


def test_a_null_control_gets_what_the_audit_decodes_but_a_whole_test() -> None:
    beside = {"tea1": 40, "tea3": 60}
    wide, small = ValidationPlan("a", ("tea1", "tea3"), 99), ValidationPlan("b", ("tea1",), 9)
    elsewhere = ValidationPlan("c", ("rye1", "rye3"), 99)
    limited = limit_plans([wide, small, elsewhere], beside, CONFIG)
    # 100 texts per side are fewer than half of 240, and so are none.
    assert [plan.n_per_prompt for plan in limited] == [60, 9, 60]
    plenty = limit_plans([wide], {"tea1": 70, "tea3": 90}, CONFIG)
    assert plenty == [ValidationPlan("a", ("tea1", "tea3"), 80)]


def test_a_claim_sees_only_its_own_share_of_the_pool() -> None:
    pool = pd.DataFrame(
        [
            (f"{key}{i}{side}", key, i, side, "failed" if (key, i) == ("p", 0) else "stop")
            for key in ("p", "q")
            for i in range(3)
            for side in ("base", "intervention")
        ],
        columns=["text_key", "prompt_key", "sample", "side", "finish"],
    )
    chosen = select_texts(pool, ValidationPlan("a", ("p",), 2))
    assert set(chosen["text_key"]) == {"p1base", "p1intervention"}


def judged(
    base: list[float], intervention: list[float], name: str = "h1", n_prompts: int = 4
) -> tuple[pd.DataFrame, pd.DataFrame]:
    scores = [*base, *intervention]
    sides = ["base"] * len(base) + ["intervention"] * len(intervention)
    keys = [f"{name}-{i:04d}" for i in range(len(scores))]
    prompts = [f"p{i % n_prompts}" for side in (base, intervention) for i in range(len(side))]
    samples = [i // n_prompts for side in (base, intervention) for i in range(len(side))]
    texts = pd.DataFrame(
        {"text_key": keys, "prompt_key": prompts, "sample": samples, "side": sides, "text": keys}
    )
    outcomes = ["answered" if s == s else "refused" for s in scores]
    verdicts = pd.DataFrame(
        {
            "hypothesis_id": name,
            "text_key": keys,
            "tier": "cheap",
            "judge": "j",
            "score": scores,
            "outcome": outcomes,
            "reason": "",
            "cost_usd": 0.001,
            "is_audit": False,
        }
    )
    assert tuple(verdicts.columns) == COLUMNS
    return verdicts, texts


def find(base: list[float], intervention: list[float], direction: Direction = "more") -> Finding:
    verdicts, texts = judged(base, intervention)
    (finding,) = validate_hypotheses(
        [claim(direction=direction)], verdicts, texts, CONFIG, 0, is_paired=False
    )
    return finding


def shares(hits: int, n: int = 120) -> list[float]:
    return [1.0] * hits + [0.0] * (n - hits)


def test_a_clear_difference_is_confirmed_with_its_interval() -> None:
    finding = find(shares(6), shares(66))
    assert finding.status == "confirmed"
    assert finding.effect == pytest.approx(0.5)
    assert finding.ci_low < 0.5 < finding.ci_high
    assert finding.auc == pytest.approx(0.75)
    assert (finding.n_texts, finding.judge_calls) == (240, 240)
    assert finding.cost_usd == pytest.approx(0.24)


def test_the_claimed_direction_counts() -> None:
    assert find(shares(66), shares(6)).status == "rejected"
    assert find(shares(66), shares(6), "less").status == "confirmed"


def test_equal_shares_are_rejected_or_open_but_never_confirmed() -> None:
    assert find(shares(0, 1200), shares(0, 1200)).status == "rejected"
    assert find(shares(30), shares(32)).status == "inconclusive"


def test_a_real_difference_below_the_smallest_of_interest_is_not_confirmed() -> None:
    # 0 against 24 of 3,000 differ beyond doubt, by 0.8 points: less than 1 point.
    finding = find(shares(0, 3000), shares(24, 3000))
    assert finding.p_value > 0.05
    assert finding.status != "confirmed"


def test_many_true_nulls_are_not_confirmed_by_their_number() -> None:
    rng = np.random.default_rng(0)
    parts, claims = [], []
    for i in range(60):
        name = f"h{i}"
        draws = [(rng.random(120) < 0.3).astype(float).tolist() for _ in range(2)]
        parts.append(judged(draws[0], draws[1], name))
        claims.append(claim(name=name))
    findings = validate_hypotheses(
        claims,
        pd.concat([p[0] for p in parts]),
        pd.concat([p[1] for p in parts]),
        CONFIG,
        0,
        is_paired=False,
    )
    assert min(f.p_value for f in findings) < 0.05 <= min(f.p_adjusted for f in findings)
    assert not any(f.status == "confirmed" for f in findings)


def test_unscored_texts_are_counted_and_move_no_share() -> None:
    nan = float("nan")
    finding = find([*shares(6), nan, nan], shares(66))
    assert (finding.n_texts, finding.n_unscored, finding.incomplete) == (240, 2, False)
    assert finding.share_base == pytest.approx(6 / 120)
    assert find([*shares(6), *[nan] * 20], shares(66)).incomplete


def test_a_claim_without_texts_is_inconclusive_and_incomplete() -> None:
    verdicts, texts = judged([], [])
    (finding,) = validate_hypotheses([claim()], verdicts, texts, CONFIG, 0, is_paired=False)
    assert (finding.status, finding.incomplete, finding.p_value) == ("inconclusive", True, 1.0)


def test_no_claims_give_no_findings() -> None:
    assert validate_hypotheses([], *judged([], []), CONFIG, 0, is_paired=False) == []


def test_examples_come_from_the_side_that_says_more() -> None:
    verdicts, texts = judged(shares(6), shares(66))
    (finding,) = validate_hypotheses([claim()], verdicts, texts, CONFIG, 0, is_paired=False)
    side_of = dict(zip(texts["text_key"], texts["side"], strict=True))
    score_of = dict(zip(verdicts["text_key"], verdicts["score"], strict=True))
    assert {side_of[key] for key in finding.supporting} == {"intervention"}
    assert {score_of[key] for key in finding.supporting} == {1.0}
    assert {side_of[key] for key in finding.contradicting} == {"base"}
    assert {score_of[key] for key in finding.contradicting} == {1.0}


def test_without_counterexamples_texts_that_lack_it_contradict() -> None:
    finding = find(shares(0), shares(66))
    assert len(finding.contradicting) == 12
    assert not set(finding.contradicting) & set(finding.supporting)


def test_confirmed_findings_come_first_and_the_strongest_of_them() -> None:
    parts = [
        judged(shares(30), shares(32), "open"),
        judged(shares(0), shares(30), "small"),
        judged(shares(0), shares(90), "large"),
    ]
    findings = validate_hypotheses(
        [claim(name=n) for n in ("open", "small", "large")],
        pd.concat([p[0] for p in parts]),
        pd.concat([p[1] for p in parts]),
        CONFIG,
        0,
        is_paired=False,
    )
    assert [f.id for f in findings] == ["large", "small", "open"]


def find_paired(base: list[float], intervention: list[float]) -> Finding:
    """Sample i of a prompt has the i-th score on either side."""
    verdicts, texts = judged(base, intervention)
    (finding,) = validate_hypotheses([claim()], verdicts, texts, CONFIG, 0, is_paired=True)
    return finding


def test_pairs_need_far_fewer_texts_where_most_are_equal() -> None:
    # Ten of 120 samples gain the behaviour, and half of the others have it on both sides.
    base, intervention = shares(55), shares(65)
    paired, independent = find_paired(base, intervention), find(base, intervention)
    assert paired.effect == pytest.approx(10 / 120)
    assert independent.effect == pytest.approx(10 / 120)
    assert (paired.status, independent.status) == ("confirmed", "inconclusive")
    assert paired.ci_high - paired.ci_low < (independent.ci_high - independent.ci_low) / 2
    assert paired.n_texts == 240


def test_a_pair_with_one_unscored_text_is_left_out_whole() -> None:
    finding = find_paired([math.nan, *shares(0, 39)], shares(20, 40))
    assert (finding.n_texts, finding.n_unscored) == (78, 1)
    assert finding.share_intervention == pytest.approx(19 / 39)


def test_equal_pairs_confirm_nothing() -> None:
    finding = find_paired(shares(60), shares(60))
    assert (finding.status, finding.p_value) == ("inconclusive", 1.0)
    # No discordant pair of 120 leaves room for z^2 / (n + z^2), with z = 1.96.
    assert finding.ci_high == -finding.ci_low == pytest.approx(3.84 / 123.84, abs=1e-4)


def test_claims_with_few_discordant_pairs_ask_for_few_texts() -> None:
    wide = claim(shares=(0.45, 0.55))
    narrow = replace(wide, share_discordant=0.12)
    (independent,), (paired,) = (plan_validation([h], BANK, CONFIG) for h in (wide, narrow))
    assert paired.n_per_prompt < independent.n_per_prompt / 2
