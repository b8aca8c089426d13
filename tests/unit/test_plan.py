from __future__ import annotations

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
    # At least 100 / 2; at most 400 / 2 on all prompts and in each of 4 groups, and two more for
    # each of 20 prompts, whose shares are rounded up.
    assert plan_audit(config, PROMPTS, None).texts["base"]["validation"] == Range(50, 1040)


def test_few_hypotheses_bound_validation_below_the_number_of_groups() -> None:
    config = config_with(
        validate={
            "texts_per_hypothesis": 100, "max_texts_per_hypothesis": 400, "null_control": False,
        },
        hypothesize={"max_hypotheses": 1},
    )  # fmt: skip
    assert plan_audit(config, PROMPTS, None).texts["base"]["validation"] == Range(50, 220)


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
    # Two streams of 100 + 5 at least; at most 100 + 5 + 20.
    assert without.n_texts == Range(210, 250)
    # One hypothesis on at most 2 * (5 + 20) texts; the null control may have one as well.
    assert without.judge_calls["cheap"] == Range(10, 50)
    assert with_null.judge_calls["cheap"] == Range(10, 100)


def test_a_text_takes_between_one_token_and_the_limit() -> None:
    config = config_with(
        sample={"strategy": "uniform", "max_texts": 100},
        validate={
            "texts_per_hypothesis": 10, "max_texts_per_hypothesis": 10, "null_control": False,
        },
        hypothesize={"max_hypotheses": 1},
        decode={"max_new_tokens": 8},
    )  # fmt: skip
    assert plan_audit(config, PROMPTS, None).n_tokens == Range(210, 250 * 8)


def test_what_cannot_be_known_is_unknown_with_a_reason_and_never_zero() -> None:
    plan = plan_audit(config_with(), PROMPTS, None)
    assert plan.seconds == Unknown(NO_EARLIER_RUN)
    assert plan.disk_bytes == Unknown(NO_EARLIER_RUN)
    assert plan.to_json()["seconds"] == {"unknown": NO_EARLIER_RUN}
    shown = dict(render_plan(plan))
    assert shown["seconds"] == f"unknown: {NO_EARLIER_RUN}"


def test_local_judges_are_known_to_cost_nothing() -> None:
    plan = plan_audit(config_with(), PROMPTS, None)
    assert plan.judge_usd == {"cheap": Range(0, 0), "expensive": Range(0, 0)}
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
    assert plan.seconds == Range(105, 125)
    assert plan.disk_bytes == Range(210_000, 250_000)
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
    assert count_prompts(rows, 0.3) == PromptCounts(7, 3, 2, groups_inferred=False)


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
    assert count_prompts(rows, 0.01) == PromptCounts(1, 1, 1, groups_inferred=False)
    assert count_prompts(rows, 0.99) == PromptCounts(1, 1, 1, groups_inferred=False)
