from __future__ import annotations

from pathlib import Path

import pytest

from whatchanged.config import AuditConfig, parse_config
from whatchanged.plan import (
    NO_EARLIER_RUN,
    PromptCounts,
    Range,
    Rates,
    Unknown,
    count_prompts,
    measure_rates,
    plan_audit,
    render_plan,
)
from whatchanged.planned_calls import measure_judged
from whatchanged.prompts import PromptRow

PROMPTS = PromptCounts(discovery=30, validation=20, n_groups=4, groups_inferred=False)


def config_with(**blocks: object) -> AuditConfig:
    raw = {"base": {"model": "a"}, "intervention": {"model": "b"}, **blocks}
    return parse_config(raw, "test")


def test_active_discovery_ranges_from_the_seed_to_the_last_round() -> None:
    config = config_with(
        sample={"seed_texts": 100, "round_texts": 50, "max_rounds": 3, "max_texts": 1000}
    )
    # 100, and 100 + 3 * 50 = 250 if no stop rule ends it before.
    assert plan_audit(config, PROMPTS, None).texts["base"]["discovery"] == Range(100, 250)


def test_the_screen_is_counted_on_both_sides_and_not_in_the_null_control() -> None:
    plan = plan_audit(config_with(divergence={"texts_per_prompt": 3}), PROMPTS, None)
    assert plan.texts["base"]["screen"] == plan.texts["intervention"]["screen"] == Range(90, 90)
    assert "screen" not in plan.texts["null control"]
    without = plan_audit(config_with(divergence={"texts_per_prompt": 0}), PROMPTS, None)
    assert plan.n_texts.low == without.n_texts.low + 180
    black_box = plan_audit(config_with(divergence={"method": "sampled"}), PROMPTS, None)
    assert black_box.n_texts == without.n_texts


def test_the_limit_of_texts_holds_even_below_the_seed() -> None:
    config = config_with(sample={"seed_texts": 100, "max_texts": 60})
    assert plan_audit(config, PROMPTS, None).texts["base"]["discovery"] == Range(60, 60)


def test_uniform_discovery_takes_all_of_its_texts() -> None:
    config = config_with(sample={"strategy": "uniform", "max_texts": 20_000})
    assert plan_audit(config, PROMPTS, None).texts["base"]["discovery"] == Range(20_000, 20_000)


def test_validation_ranges_from_one_test_to_one_full_test_per_group() -> None:
    config = config_with(
        validate={"texts_per_hypothesis": 100, "max_texts_per_hypothesis": 400},
        hypothesize={"max_hypotheses": 60},
    )
    # At least a quarter of 100 / 2; at most 400 / 2 on all prompts and in each of 4 groups, and
    # two more for each of 20 prompts, whose shares are rounded up.
    assert plan_audit(config, PROMPTS, None).texts["base"]["validation"] == Range(13, 1040)


def test_few_hypotheses_bound_validation_below_the_number_of_groups() -> None:
    config = config_with(
        validate={
            "texts_per_hypothesis": 100, "max_texts_per_hypothesis": 400, "null_control": False,
        },
        hypothesize={"max_hypotheses": 1},
    )  # fmt: skip
    assert plan_audit(config, PROMPTS, None).texts["base"]["validation"] == Range(13, 220)


def test_the_null_control_decodes_a_third_stream_and_judges_once_more() -> None:
    settings = {"texts_per_hypothesis": 10, "max_texts_per_hypothesis": 10}
    sample = {"strategy": "uniform", "max_texts": 100}
    one = {"max_hypotheses": 1}
    with_null = plan_audit(
        config_with(validate=settings, sample=sample, hypothesize=one), PROMPTS, None
    )
    without = plan_audit(
        config_with(validate={**settings, "null_control": False}, sample=sample, hypothesize=one),
        PROMPTS,
        None,
    )
    assert list(with_null.texts) == ["base", "intervention", "null control"]
    assert list(without.texts) == ["base", "intervention"]
    # Two streams of 100 + 2 at least (a quarter of 5, rounded up); at most 100 + 5 + 20.
    assert without.n_texts == Range(204, 250)
    # One hypothesis on at most 2 * (5 + 20) texts; the null control may have one as well.
    assert without.calls["cheap"] == Range(3, 50)
    assert with_null.calls["cheap"] == Range(3, 100)


def test_a_text_takes_between_one_token_and_the_limit() -> None:
    config = config_with(
        sample={"strategy": "uniform", "max_texts": 100},
        validate={
            "texts_per_hypothesis": 10, "max_texts_per_hypothesis": 10, "null_control": False,
        },
        hypothesize={"max_hypotheses": 1},
        decode={"max_new_tokens": 8},
    )  # fmt: skip
    assert plan_audit(config, PROMPTS, None).n_tokens == Range(204, 250 * 8)


def test_what_cannot_be_known_is_unknown_with_a_reason_and_never_zero() -> None:
    plan = plan_audit(config_with(), PROMPTS, None)
    assert plan.seconds == Unknown(NO_EARLIER_RUN)
    assert plan.disk_bytes == Unknown(NO_EARLIER_RUN)
    assert plan.to_json()["seconds"] == {"unknown": NO_EARLIER_RUN}
    shown = dict(render_plan(plan))
    assert shown["seconds"] == f"unknown: {NO_EARLIER_RUN}"


def test_local_judges_are_known_to_cost_nothing() -> None:
    plan = plan_audit(config_with(), PROMPTS, None)
    assert plan.usd == {"cheap": Range(0, 0), "expensive": Range(0, 0)}
    assert dict(render_plan(plan))["judge calls, cheap"].endswith("$0 (a local judge)")


def test_rates_of_an_earlier_run_scale_with_the_texts() -> None:
    config = config_with(
        sample={"strategy": "uniform", "max_texts": 100},
        validate={
            "texts_per_hypothesis": 10, "max_texts_per_hypothesis": 10, "null_control": False,
        },
        hypothesize={"max_hypotheses": 1},
    )  # fmt: skip
    rates = Rates(tokens_per_text=20, seconds_per_text=0.5, bytes_per_text=1000, source="runs/x")
    plan = plan_audit(config, PROMPTS, rates)
    assert plan.seconds == Range(102, 125)
    assert plan.disk_bytes == Range(204_000, 250_000)
    assert dict(render_plan(plan))["measured from"] == "runs/x"


def test_rates_are_measured_per_decoded_text() -> None:
    summary = {
        "decode": {
            "base": {"n_decoded": 30, "n_cached": 0, "n_tokens": 600},
            "intervention": {"n_decoded": 10, "n_cached": 0, "n_tokens": 200},
        },
        "seconds": {"decode": 15.0, "embed": 5.0},
    }
    # 800 tokens, 20 seconds and 4,000 bytes over 40 texts.
    assert measure_rates(summary, 4000, "runs/x") == Rates(20.0, 0.5, 100.0, "runs/x")


@pytest.mark.parametrize(
    "summary",
    [
        {},
        {"decode": {"base": {"n_decoded": 0, "n_cached": 9, "n_tokens": 9}}, "seconds": {"x": 1}},
        {"decode": {"base": {"n_decoded": 9, "n_cached": 1, "n_tokens": 9}}, "seconds": {"x": 1}},
        {"decode": {"base": {"n_decoded": 9, "n_cached": 0, "n_tokens": 9}}, "seconds": {}},
    ],
)
def test_a_warm_or_incomplete_run_gives_no_rates(summary: dict[str, object]) -> None:
    assert measure_rates(summary, 4000, "runs/x") is None


def test_prompts_are_counted_per_split_and_group() -> None:
    rows = [PromptRow(f"p{i}", "tea" if i % 2 else "sea") for i in range(10)]
    assert count_prompts(rows, 0.3) == PromptCounts(7, 3, 2, False, 2.0, 2)


def test_without_groups_the_plan_says_how_many_may_be_inferred() -> None:
    rows = [PromptRow(f"p{i}", None) for i in range(95)]
    counts = count_prompts(rows, 0.5)
    # One group per 10 prompts at most.
    assert (counts.n_groups, counts.groups_inferred) == (9, True)
    assert (
        "at most 9 groups" in dict(render_plan(plan_audit(config_with(), counts, None)))["prompts"]
    )


def test_one_split_never_takes_the_other_ones_last_prompt() -> None:
    rows = [PromptRow("a", "g"), PromptRow("b", "g")]
    assert count_prompts(rows, 0.01) == PromptCounts(1, 1, 1, False, 1.0, 1)
    assert count_prompts(rows, 0.99) == PromptCounts(1, 1, 1, False, 1.0, 1)


PRICES = "models: {small: {input: 0.1, output: 0.4}, large: {input: 2, output: 8}}"


def paid_config(tmp_path: Path, **budget: object) -> AuditConfig:
    (tmp_path / "prices.yaml").write_text(PRICES)
    return config_with(
        hypothesize={"proposer": "gemini", "model": "large", "max_hypotheses": 10},
        judge={
            "cheap": {"provider": "gemini", "model": "small"},
            "expensive": {"provider": "gemini", "model": "large", "max_tokens": 100},
        },
        validate={"texts_per_hypothesis": 100, "max_texts_per_hypothesis": 100},
        budget={"prices": str(tmp_path / "prices.yaml"), **budget},
    )


def test_paid_calls_have_a_least_an_expected_and_a_worst_case(tmp_path: Path) -> None:
    plan = plan_audit(paid_config(tmp_path), PROMPTS, None)
    # Waves: the first of two blocks of 100 texts; at most two calls for each of 10 hypotheses'
    # 2 * (50 + 20) texts, of the pair and the null control.
    assert plan.calls["cheap"] == Range(50, 2 * 20 * 140)
    assert plan.calls["expensive"] == Range(0, 2 * 20 * 140)
    assert plan.calls["proposer"] == Range(0, 402)
    for name, calls in plan.calls.items():
        usd = plan.usd[name]
        assert isinstance(usd, Range)
        assert calls.low <= plan.expected_calls[name] <= calls.high
        expected = plan.expected_usd[name]
        assert expected is not None
        assert usd.low <= expected <= usd.high
    # Ten hypotheses of 300 texts each, twice; 85 % of them are read by the cheap judge.
    assert plan.expected_calls["cheap"] == pytest.approx(0.8 * 6000)
    assert "assumptions: 10 hypotheses" in dict(render_plan(plan))["expected from"]


def test_the_budget_caps_the_worst_case(tmp_path: Path) -> None:
    plan = plan_audit(paid_config(tmp_path, max_usd=0.5), PROMPTS, None)
    assert plan.usd["expensive"] == Range(0, 0.5)


def test_a_model_without_a_price_has_unknown_dollars_and_known_calls() -> None:
    config = config_with(judge={"expensive": {"provider": "gemini", "model": "unheard-of"}})
    plan = plan_audit(config, PROMPTS, None)
    assert isinstance(plan.usd["expensive"], Unknown)
    assert plan.expected_usd["expensive"] is None
    assert plan.expected_calls["expensive"] > 0
    assert "no price is known for unheard-of" in dict(render_plan(plan))["judge calls, expensive"]


def bill_of(n_calls: int, spent_usd: float | None) -> dict[str, object]:
    return {"model": "m", "n_calls": n_calls, "spent_usd": spent_usd}


def test_an_earlier_run_by_the_same_judges_says_what_to_expect(tmp_path: Path) -> None:
    config = paid_config(tmp_path)
    summary = {
        "judge": {
            "cheap": {"n_calls": 900, "n_cached": 0},
            "expensive": {"n_calls": 60, "n_cached": 0},
        },
        "bill": {"cheap": bill_of(890, 0.25), "expensive": bill_of(60, None)},
    }
    settings = config.model_dump(mode="json", by_alias=True)
    judged = measure_judged(summary, settings, "runs/x", is_same=True)
    assert judged is not None
    plan = plan_audit(config, PROMPTS, None, judged)
    assert (plan.expected_calls["cheap"], plan.expected_usd["cheap"]) == (890, 0.25)
    # A bill with a hole in it is priced anew.
    assert plan.expected_usd["expensive"] is not None
    # A run that took answers from the cache says nothing about one that does not.
    summary["judge"]["cheap"] = {"n_calls": 1, "n_cached": 899}
    assert measure_judged(summary, settings, "runs/x", is_same=True) is None


def test_an_earlier_run_by_local_judges_says_how_many_texts_there_are(tmp_path: Path) -> None:
    summary = {"judge": {"cheap": {"n_calls": 2000, "n_cached": 0}}}
    judged = measure_judged(summary, {}, "runs/x", is_same=False)
    assert judged is not None
    plan = plan_audit(paid_config(tmp_path), PROMPTS, None, judged)
    assert plan.expected_calls["cheap"] == pytest.approx(0.8 * 2000)
    assert plan.expected_calls["expensive"] == pytest.approx(0.05 * 2000)
