from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from benchmarks.judge_audit import Settings, judge_audit
from benchmarks.judge_worlds import Case, World, draw_case
from whatchanged.config import JudgeConfig, ValidateConfig, WavesConfig
from whatchanged.errors import UsageError
from whatchanged.inquiry import Ask, Inquiry, collect_cases, order_seed, permuted_mean_p
from whatchanged.records import Direction, Hypothesis
from whatchanged.validate import ValidationPlan
from whatchanged.verdicts import COLUMNS, empty_verdicts
from whatchanged.waves import next_questions, settle

VALIDATION = ValidateConfig(n_permutations=2000)
Answer = Callable[[str, str, str], float | None]


def claim(name: str, direction: Direction = "more") -> Hypothesis:
    return Hypothesis(name, "s", f"criterion {name}", direction, None, None, (), 0.1, 0.5, 3.0)


def tabulate(
    name: str, prompts: list[int], sides: list[str], samples: list[int], texts: list[str]
) -> pd.DataFrame:
    n = len(prompts)
    return pd.DataFrame(
        {
            "text_key": [f"{name}-{i:05d}" for i in range(n)],
            "prompt_key": [f"{name}-p{prompt:02d}" for prompt in prompts],
            "sample": samples,
            "side": sides,
            "prompt": [f"prompt {prompt}" for prompt in prompts],
            "text": texts,
            "finish": "stop",
        }
    )


def rows_of(ask: Ask, answer: Answer) -> pd.DataFrame:
    scores = [answer(ask.hypothesis_id, ask.tier, key) for key in ask.text_keys]
    return pd.DataFrame(
        {
            "hypothesis_id": ask.hypothesis_id,
            "text_key": list(ask.text_keys),
            "tier": ask.tier,
            "judge": ask.tier,
            "score": np.array([np.nan if s is None else s for s in scores]),
            "outcome": ["refused" if s is None else "answered" for s in scores],
            "reason": "",
            "cost_usd": 0.001 if ask.tier == "cheap" else 0.02,
            "is_audit": ask.is_audit,
        }
    )[list(COLUMNS)]


def judge_through(
    inquiry: Inquiry, answer: Answer, known: pd.DataFrame | None = None
) -> tuple[pd.DataFrame, list[list[Ask]]]:
    """All verdicts, and what was asked in each step."""
    verdicts = empty_verdicts() if known is None else known
    steps: list[list[Ask]] = []
    while asks := next_questions(inquiry, verdicts):
        assert len(steps) < 20
        steps.append(asks)
        parts = [rows_of(ask, answer) for ask in asks]
        verdicts = pd.concat([verdicts, *parts] if len(verdicts) else parts, ignore_index=True)
    return verdicts, steps


# A small audit, by hand ---------------------------------------------------------------------------


def small(n: int = 100, waves: WavesConfig | None = None, audit_share: float = 0.03) -> Inquiry:
    """One claim on `n` texts of one prompt and side. Of the cheap scores of both sides, texts 0 to
    19 are on the border (0.5); the intervention's others are 1, the base's 0."""
    sides = ["base", "intervention"] * n
    samples = [i // 2 for i in range(2 * n)]
    texts = tabulate("h1", [0] * (2 * n), sides, samples, [f"text {i}" for i in range(2 * n)])
    return Inquiry(
        [claim("h1")],
        [ValidationPlan("h1", ("h1-p00",), n)],
        texts,
        JudgeConfig(audit_share=audit_share, waves=waves or WavesConfig()),
        VALIDATION,
        seed=0,
        is_paired=False,
    )


def side_of(key: str) -> int:
    return int(key.split("-")[1]) % 2


def by_side(name: str, tier: str, key: str) -> float:
    number = int(key.split("-")[1])
    if number < 20:
        return 0.5 if tier == "cheap" else float(side_of(key))
    return float(side_of(key))


def test_the_cheap_judge_reads_equal_blocks_then_a_pilot_then_the_border() -> None:
    _, steps = judge_through(small(), by_side)
    tiers = [[(ask.tier, len(ask.text_keys), ask.is_audit) for ask in step] for step in steps]
    # 200 texts in two blocks; 3 % of them; 0.3 of the 20 on the border and what 0.015 of the 180
    # others come to in each stratum, rounded up, less what the pilot has asked already.
    assert tiers[:3] == [[("cheap", 100, False)], [("cheap", 100, False)], [("expensive", 6, True)]]
    assert len(steps) == 4
    asked = {key for step in steps[2:] for ask in step for key in ask.text_keys}
    border = {f"h1-{i:05d}" for i in range(20)}
    assert 6 <= len(asked & border) <= 6 + 6
    assert len(asked - border) <= 6 + 2 * 2


def test_a_clear_difference_is_confirmed_with_a_tenth_of_the_expensive_verdicts() -> None:
    inquiry = small()
    verdicts, _ = judge_through(inquiry, by_side)
    (finding,) = settle(inquiry, verdicts)
    assert (finding.status, finding.n_texts, finding.n_unscored) == ("confirmed", 200, 0)
    n_expensive = int((verdicts["tier"] == "expensive").sum())
    assert finding.judge_calls == 200 + n_expensive
    assert n_expensive <= 32
    assert finding.cost_usd == pytest.approx(0.2 + 0.02 * n_expensive)
    assert finding.effect == pytest.approx(1.0)
    # What was not asked about may still be otherwise.
    assert finding.ci_low < 1.0
    assert {side_of(key) for key in finding.supporting} == {1}


def test_a_hopeless_claim_is_dropped_after_half_of_the_cheap_pass() -> None:
    inquiry = small()
    verdicts, steps = judge_through(inquiry, lambda name, tier, key: 1.0 - side_of(key))
    assert [(ask.tier, len(ask.text_keys)) for step in steps for ask in step] == [("cheap", 100)]
    (finding,) = settle(inquiry, verdicts)
    assert (finding.status, finding.p_value, finding.n_texts) == ("inconclusive", 1.0, 100)
    # Nobody asked the expensive judge: the interval knows nothing.
    assert (finding.effect, finding.ci_low, finding.ci_high) == (-1.0, -1.0, 1.0)


def test_what_the_expensive_judge_denies_is_not_confirmed() -> None:
    inquiry = small()

    def answer(name: str, tier: str, key: str) -> float:
        return by_side(name, tier, key) if tier == "cheap" else 0.0

    verdicts, _ = judge_through(inquiry, answer)
    (finding,) = settle(inquiry, verdicts)
    assert finding.status != "confirmed"
    assert finding.effect == pytest.approx(0.0)


def test_the_borderline_is_asked_about_even_where_the_cheap_judge_is_never_wrong() -> None:
    waves = WavesConfig(drop_above=(1.0,), borderline_shares=(1.0,) * 5)
    inquiry = small(waves=waves, audit_share=0.0)
    _, steps = judge_through(inquiry, by_side)
    asked = {key for ask in steps[1] for key in ask.text_keys}
    assert {f"h1-{i:05d}" for i in range(20)} <= asked


def test_settling_before_the_end_is_refused() -> None:
    with pytest.raises(UsageError, match="found 100 texts without"):
        settle(small(), empty_verdicts())


def test_no_claims_ask_nothing_and_give_nothing() -> None:
    inquiry = replace(small(), claims=[], plans=[])
    assert next_questions(inquiry, empty_verdicts()) == []
    assert settle(inquiry, empty_verdicts()) == []


def test_a_claim_without_texts_is_inconclusive_and_incomplete() -> None:
    inquiry = replace(small(), plans=[ValidationPlan("h1", (), 5)])
    assert next_questions(inquiry, empty_verdicts()) == []
    (finding,) = settle(inquiry, empty_verdicts())
    assert (finding.status, finding.incomplete, finding.n_texts) == ("inconclusive", True, 0)


# Texts without an answer --------------------------------------------------------------------------


@pytest.mark.parametrize(("n_refused", "incomplete"), [(10, False), (11, True)])
def test_more_than_5_percent_unscored_texts_make_a_finding_incomplete(
    n_refused: int, incomplete: bool
) -> None:
    refused = {f"h1-{i:05d}" for i in range(40, 40 + n_refused)}
    inquiry = small()
    verdicts, _ = judge_through(
        inquiry, lambda name, tier, key: None if key in refused else by_side(name, tier, key)
    )
    (finding,) = settle(inquiry, verdicts)
    assert (finding.n_unscored, finding.n_texts) == (n_refused, 200 - n_refused)
    assert finding.incomplete is incomplete
    assert not refused & set(verdicts[verdicts["tier"] == "expensive"]["text_key"])


def test_what_the_expensive_judge_leaves_open_is_asked_once_and_counted() -> None:
    inquiry = small(waves=WavesConfig(borderline_shares=(1.0,) * 5))

    def answer(name: str, tier: str, key: str) -> float | None:
        silent = tier == "expensive" and int(key.split("-")[1]) < 4
        return None if silent else by_side(name, tier, key)

    verdicts, _ = judge_through(inquiry, answer)
    assert not verdicts.duplicated(["text_key", "tier"]).any()
    (finding,) = settle(inquiry, verdicts)
    assert (finding.status, finding.n_texts, finding.n_unscored) == ("confirmed", 200, 4)
    # 4 of about 30 that the expensive judge was asked about.
    assert finding.incomplete


# Coupled pairs ------------------------------------------------------------------------------------


def paired_audit(n: int = 80) -> tuple[Inquiry, Answer]:
    """Half of the pairs are identical; of the others, the intervention's text meets the claim."""
    texts = [f"same {i // 2}" if i % 4 < 2 else f"text {i}" for i in range(2 * n)]
    sides = ["base", "intervention"] * n
    rows = tabulate("h1", [0] * (2 * n), sides, [i // 2 for i in range(2 * n)], texts)
    inquiry = replace(small(n), texts=rows, is_paired=True)
    return inquiry, lambda name, tier, key: float(int(key.split("-")[1]) % 4 == 3)


def test_identical_coupled_texts_are_asked_about_once_and_never_by_the_expensive_judge() -> None:
    inquiry, answer = paired_audit()
    verdicts, _ = judge_through(inquiry, answer)
    cheap = verdicts[verdicts["tier"] == "cheap"]
    # 40 identical pairs are 40 questions, 40 others are 80.
    assert len(cheap) == 120
    numbers = verdicts[verdicts["tier"] == "expensive"]["text_key"].str[3:].astype(int)
    assert (numbers % 4 >= 2).all()
    # Of a pair, both texts are asked about or neither.
    assert set(numbers % 2) == {0, 1}
    assert (numbers // 2).value_counts().eq(2).all()
    (finding,) = settle(inquiry, verdicts)
    assert (finding.status, finding.n_texts) == ("confirmed", 160)
    assert finding.effect == pytest.approx(0.5)
    quoted = {int(key[3:]) % 4 for key in finding.supporting}
    assert quoted == {3}


def test_a_pair_with_one_unscored_text_is_left_out_whole() -> None:
    inquiry, answer = paired_audit()
    verdicts, _ = judge_through(
        inquiry, lambda name, tier, key: None if key == "h1-00002" else answer(name, tier, key)
    )
    (finding,) = settle(inquiry, verdicts)
    assert (finding.n_texts, finding.n_unscored) == (158, 1)
    assert "h1-00003" not in set(verdicts[verdicts["tier"] == "expensive"]["text_key"])


# Simulated audits ---------------------------------------------------------------------------------


def inquiry_of(cases: list[Case], world: World, judge: JudgeConfig | None = None) -> Inquiry:
    claims, plans, tables = [], [], []
    for number, case in enumerate(cases):
        name, n = f"h{number:02d}", len(case.scores)
        per_prompt = n // world.n_prompts
        same = np.repeat(case.is_identical, 2)
        tables.append(
            tabulate(
                name,
                case.prompt.tolist(),
                ["intervention" if i % 2 else "base" for i in range(n)],
                [i % per_prompt // 2 for i in range(n)],
                [f"pair {i // 2}" if same[i] else f"text {i}" for i in range(n)],
            )
        )
        claims.append(claim(name, case.direction))
        prompts = tuple(f"{name}-p{prompt:02d}" for prompt in range(world.n_prompts))
        plans.append(ValidationPlan(name, prompts, per_prompt // 2))
    return Inquiry(
        claims, plans, pd.concat(tables, ignore_index=True), judge or JudgeConfig(),
        VALIDATION, 7, world.is_paired,
    )  # fmt: skip


def answers_of(cases: list[Case]) -> Answer:
    def answer(name: str, tier: str, key: str) -> float:
        case, place = cases[int(name[1:])], int(key.split("-")[1])
        return float(case.scores[place] if tier == "cheap" else case.meets[place])

    return answer


class SameOrders:
    """Gives the benchmark the seeds by which the library orders texts."""

    def __init__(self, inquiry: Inquiry) -> None:
        self.seeds = iter([order_seed(claim, inquiry.seed) for claim in inquiry.claims])

    def integers(self, _: int) -> int:
        return next(self.seeds)


def exact_p_values(cases: list[Case], inquiry: Inquiry) -> Callable[..., float]:
    ours = collect_cases(inquiry, empty_verdicts())

    def permutation_p(case: Case, values, world: World, of_interest=slice(None)) -> float:
        (number,) = (i for i, other in enumerate(cases) if other is case)
        chosen = np.zeros(len(values), dtype=bool)
        chosen[of_interest] = True
        whole = ours[number]
        return permuted_mean_p(whole.only(whole.per_unit(chosen)), values[chosen], inquiry)

    return permutation_p


@pytest.mark.parametrize("is_paired", [False, True])
def test_an_audit_decides_what_the_benchmark_of_the_method_decides(
    is_paired: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(is_paired=is_paired)
    rng = np.random.default_rng(5)
    cases = [draw_case(world, rng) for _ in range(24)]
    inquiry = inquiry_of(cases, world)
    verdicts, _ = judge_through(inquiry, answers_of(cases))
    # The benchmark's normal p-values would differ from exact ones near a threshold.
    monkeypatch.setattr("benchmarks.judge_audit.permutation_p", exact_p_values(cases, inquiry))
    expected = judge_audit(cases, world, Settings(), SameOrders(inquiry))
    found = {finding.id: finding for finding in settle(inquiry, verdicts)}
    n_asked = verdicts.groupby(["tier", "hypothesis_id"]).size()
    for h, state in zip(inquiry.claims, expected, strict=True):
        assert (found[h.id].status == "confirmed") == state.is_confirmed
        assert n_asked["cheap"][h.id] == state.n_read
        assert n_asked["expensive"].get(h.id, 0) == state.n_asked
        if state.interval is not None:
            assert found[h.id].effect == pytest.approx(state.interval.effect)
            assert found[h.id].ci_low == pytest.approx(state.interval.ci_low)
    assert sum(state.is_confirmed for state in expected) >= 4


def test_the_settings_are_those_of_the_benchmark() -> None:
    ours, theirs = JudgeConfig(), Settings()
    assert (ours.borderline, ours.audit_share) == (theirs.borderline, theirs.audit_share)
    waves = ours.waves
    assert (waves.shares, waves.alpha_spent) == (theirs.waves, theirs.spent)
    assert waves.borderline_shares == theirs.borderline_waves
    assert (waves.drop_above, waves.least_chance) == (theirs.hopeless, theirs.least_chance)
    assert waves.max_guard == theirs.max_guard


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9])
def test_a_replay_from_part_of_the_verdicts_asks_for_the_rest_and_ends_alike(kept: float) -> None:
    world = World()
    rng = np.random.default_rng(6)
    cases = [draw_case(world, rng) for _ in range(8)]
    inquiry, answer = inquiry_of(cases, world), answers_of(cases)
    whole, _ = judge_through(inquiry, answer)
    survived = whole.sample(frac=kept, random_state=3)
    again, steps = judge_through(inquiry, answer, survived)
    columns = ["hypothesis_id", "tier", "text_key"]
    assert not again.duplicated(columns).any()
    assert set(map(tuple, again[columns].to_numpy())) == set(map(tuple, whole[columns].to_numpy()))
    assert sum(len(a.text_keys) for step in steps for a in step) == len(whole) - len(survived)
    assert settle(inquiry, again) == settle(inquiry, whole)


@pytest.mark.parametrize("is_paired", [False, True])
def test_swapping_the_sides_of_a_null_changes_nothing_in_what_is_asked(is_paired: bool) -> None:
    world = World(is_paired=is_paired, real_share=0.0, small_share=0.0)
    rng = np.random.default_rng(8)
    cases = [draw_case(world, rng) for _ in range(6)]
    # Nothing is given up and nothing confirmed: sides may decide how long a claim goes on, and
    # nothing else.
    patient = WavesConfig(drop_above=(1.0, 1.0), least_chance=0.0, max_guard=1e-9)
    inquiry = inquiry_of(cases, world, JudgeConfig(waves=patient))
    swap = {"base": "intervention", "intervention": "base"}
    texts = inquiry.texts
    flipped = np.random.default_rng(9).random(len(texts) // 2) < 0.5
    sides = texts["side"].where(~np.repeat(flipped, 2), texts["side"].map(swap))
    swapped = replace(inquiry, texts=texts.assign(side=sides))
    answer = answers_of(cases)
    one, other = judge_through(inquiry, answer)[1], judge_through(swapped, answer)[1]
    assert len(one) == 2 + 1 + len(patient.shares)
    assert [[(a.hypothesis_id, a.tier, sorted(a.text_keys)) for a in step] for step in one] == [
        [(a.hypothesis_id, a.tier, sorted(a.text_keys)) for a in step] for step in other
    ]


# The permutation test -----------------------------------------------------------------------------


def test_the_permutation_test_of_means_is_exact_on_a_table_that_fits_on_a_hand() -> None:
    # Scores 0.9 and 0.8 against 0.2 and 0.1 on one prompt: of 6 equally likely labellings one is as
    # extreme.
    rows = tabulate("h1", [0] * 4, ["intervention", "intervention", "base", "base"],
                    [0, 1, 0, 1], list("abcd"))  # fmt: skip
    inquiry = replace(
        small(),
        texts=rows,
        plans=[ValidationPlan("h1", ("h1-p00",), 2)],
        validation=ValidateConfig(n_permutations=60_000),
    )
    (case,) = collect_cases(inquiry, empty_verdicts())
    p = permuted_mean_p(case, np.array([0.9, 0.8, 0.2, 0.1]), inquiry)
    assert p == pytest.approx(1 / 6, abs=0.006)
    less = replace(case, claim=claim("h1", "less"))
    assert permuted_mean_p(less, np.array([0.9, 0.8, 0.2, 0.1]), inquiry) == 1.0
    assert permuted_mean_p(case, np.full(4, 0.3), inquiry) == 1.0


# The settings -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"shares": (0.1, 0.1), "alpha_spent": (0.5, 1.0)}, "shares must increase"),
        ({"shares": (0.1, 1.2), "alpha_spent": (0.5, 1.0)}, r"in \(0, 1\]"),
        ({"shares": ()}, r"in \(0, 1\]"),
        ({"shares": (0.1, 0.2)}, "borderline_shares must have one entry per wave"),
        ({"alpha_spent": (0.5, 1.0)}, "alpha_spent must have one entry per wave"),
        ({"alpha_spent": (0.9, 0.6, 0.9, 1.0, 1.0)}, "alpha_spent must not decrease"),
        ({"borderline_shares": (0.5, 0.3, 1.0, 1.0, 1.0)}, "borderline_shares must not decrease"),
        ({"borderline_shares": (0.0, 0.3, 1.0, 1.0, 1.0)}, r"in \(0, 1\]"),
        ({"drop_above": (0.5, 0.0)}, r"in \(0, 1\]"),
    ],
)
def test_waves_that_do_not_grow_are_refused(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        WavesConfig.model_validate(settings)


def test_auto_spends_in_waves_where_a_judge_is_paid() -> None:
    assert JudgeConfig().way == "cascade"
    paid = {"provider": "gemini", "model": "m"}
    assert JudgeConfig.model_validate({"expensive": paid}).way == "waves"
    assert JudgeConfig.model_validate({"cheap": paid, "spend": "cascade"}).way == "cascade"
