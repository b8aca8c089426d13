"""The calls to judges and to a proposer that an audit would make, and what they would cost.

What is expected comes from an earlier run of the same pair, else from the assumptions below.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from whatchanged.api_config import ApiConfig
from whatchanged.config import AuditConfig, JudgeConfig
from whatchanged.model_config import ModelConfig
from whatchanged.models.chat import ChatRequest
from whatchanged.models.prices import Price, expected_tokens_in, load_prices, max_tokens_in
from whatchanged.models.rubric import Asking, score_request
from whatchanged.records import Question, Side

# What calls are expected to come to where no earlier run says: figures of the demo pair.
_LIKELY_HYPOTHESES, _LIKELY_TEXTS, _LIKELY_CLUSTERS = 32, 3.0, 12
# The shares of those texts that the cheap and the expensive judge are asked about.
_LIKELY_SHARES = {"cascade": (1.0, 0.2), "waves": (0.8, 0.05), "expensive": (0.0, 1.0)}
_LIKELY_LENGTH = 0.54  # of a text, as a share of decode.max_new_tokens
# A verdict is one number in JSON. Models that reason before they answer bill that too: only an
# earlier run can tell how much.
_TOKENS_OUT, _PROPOSAL_TOKENS_OUT = 4, 60
_BYTES_PER_TOKEN, _MOST_BYTES_PER_TOKEN = 4, 16
# A proposer is asked about at most so many clusters, each with instructions and replies, and once
# for the themes of what was confirmed.
_MOST_CLUSTERS, _N_REPLIES, _PROPOSAL_BYTES = 100, 16, 3000
_CRITERION = 'The reply contains the words "an ordinary day", or nearly the same words.'
_PROMPT = "Describe an ordinary day by the sea."


@dataclass(frozen=True, slots=True)
class Range:
    """At least `low`, at most `high`."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Unknown:
    """A quantity that cannot be known before the run, and why."""

    why: str


Estimate: TypeAlias = Range | Unknown
# Tokens in and out of one call.
Tokens: TypeAlias = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Judged:
    """What an earlier run of the same pair judged: `n_texts` in all, of all hypotheses together,
    and where the same models were asked in the same way, calls and US dollars per judge and for the
    proposer."""

    n_texts: float
    calls: Mapping[str, float]
    usd: Mapping[str, float]
    source: str


@dataclass(frozen=True, slots=True)
class Subject:
    """A side behind an API: the texts that it writes, one call each, and the lengths of their
    prompts in bytes."""

    n_texts: Range
    mean_bytes: float
    most_bytes: int


@dataclass(frozen=True, slots=True)
class PlannedCalls:
    """Calls and US dollars by name ("base", "intervention", "cheap", "expensive", "proposer"):
    their range, what is expected (dollars None where a price is unknown), and what that rests
    on."""

    calls: Mapping[str, Range]
    usd: Mapping[str, Estimate]
    expected_calls: Mapping[str, float]
    expected_usd: Mapping[str, float | None]
    source: str


def plan_calls(
    config: AuditConfig,
    n_validation_prompts: int,
    tokens_per_text: float | None,
    judged: Judged | None,
    subjects: Mapping[Side, Subject],
) -> PlannedCalls:
    """The calls of an audit whose texts have about so many tokens (None: unknown)."""
    calls = {str(side): subject.n_texts for side, subject in subjects.items()}
    calls |= _count_calls(config, n_validation_prompts)
    expected, source = _expect_calls(config, judged, subjects)
    paid = judged.usd if judged else {}
    tokens = {name: _tokens(config, name, tokens_per_text, subjects) for name in calls}
    most = {name: _tokens(config, name, None, subjects)[1] for name in calls}
    return PlannedCalls(
        calls,
        {name: _dollars(config, name, calls[name], tokens[name][0], most[name]) for name in calls},
        expected,
        {
            name: paid.get(name, _expected_usd(config, name, n, tokens[name][0]))
            for name, n in expected.items()
        },
        source,
    )


def measure_judged(
    summary: Mapping[str, Any], settings: Mapping[str, Any], source: str, *, is_same: bool
) -> Judged | None:
    """What a finished run judged, from its `summary.json` and config. None where that is unknown.

    With `is_same` (the same models, asked in the same way) its bill is what to expect, unless the
    cache or the ledger answered.
    """
    judge = summary.get("judge") or {}
    tiers = [judge.get(tier) or {} for tier in ("cheap", "expensive")]
    n_cheap, n_expensive = (
        sum(int(tier.get(name) or 0) for name in ("n_calls", "n_cached")) for tier in tiers
    )
    bills = (summary.get("bill") or {}) if is_same else {}
    fresh = sum(int(tier.get("n_cached") or 0) for tier in tiers) == 0
    if bills and fresh and all(bill["n_calls"] for bill in bills.values()):
        calls = {name: float(bill["n_calls"]) for name, bill in bills.items()}
        known = {name: bill["spent_usd"] for name, bill in bills.items()}
        usd = {name: float(spent) for name, spent in known.items() if spent is not None}
        return Judged(max(n_cheap, n_expensive), calls, usd, source)
    way = JudgeConfig.model_validate(settings.get("judge") or {}).way
    if way == "waves" or max(n_cheap, n_expensive) == 0:
        return None
    return Judged(max(n_cheap, n_expensive), {}, {}, source)


def n_comparisons(config: AuditConfig) -> int:
    """The pair, and the null control."""
    return 2 if config.validation.null_control else 1


def most_texts(config: AuditConfig) -> int:
    """Fresh texts of one hypothesis, at most."""
    return max(config.validation.max_texts_per_hypothesis, config.validation.texts_per_hypothesis)


def _count_calls(config: AuditConfig, n_validation_prompts: int) -> dict[str, Range]:
    """Texts that each judge may be asked about, and clusters and themes that a proposer may; an
    unreadable answer is asked for once more."""
    settings = config.judge
    least = math.ceil(config.tested.looks.at[0] * config.validation.texts_per_hypothesis)
    each = 2 * (math.ceil(most_texts(config) / 2) + n_validation_prompts)
    most = config.hypothesize.max_hypotheses * n_comparisons(config) * each
    first_block = math.ceil(least / len(settings.waves.drop_above))
    ranges = {
        "cascade": (Range(least, most), Range(0, most)),
        "waves": (Range(first_block, most), Range(0, most)),
        "expensive": (Range(0, 0), Range(least, most)),
    }[settings.way]
    calls = {}
    for name, found in zip(("cheap", "expensive"), ranges, strict=True):
        again = 2 if _api(config, name).is_api else 1
        calls[name] = Range(found.low, again * found.high)
    if config.hypothesize.is_api:
        calls["proposer"] = Range(0, 2 * (_MOST_CLUSTERS * n_comparisons(config) + 1))
    return calls


def _expect_calls(
    config: AuditConfig, judged: Judged | None, subjects: Mapping[Side, Subject]
) -> tuple[dict[str, float], str]:
    """How many calls to expect, and what that rests on. Of the texts that a side may write, the
    mean of the least and of the most on a logarithmic scale is expected."""
    if judged and judged.calls:
        return dict(judged.calls), judged.source
    n_hypotheses = min(_LIKELY_HYPOTHESES, config.hypothesize.max_hypotheses)
    each = max(_LIKELY_TEXTS * config.validation.texts_per_hypothesis, 1)
    n_texts = judged.n_texts if judged else n_hypotheses * each * n_comparisons(config)
    shares = dict(zip(("cheap", "expensive"), _LIKELY_SHARES[config.judge.way], strict=True))
    expected = {name: n_texts * share for name, share in shares.items()}
    if config.hypothesize.is_api:
        expected["proposer"] = _LIKELY_CLUSTERS * n_comparisons(config) + 1
    for side, subject in subjects.items():
        expected[side] = math.sqrt(subject.n_texts.low * subject.n_texts.high)
    known = (
        f"{judged.source}: {n_texts:,.0f} texts of its hypotheses"
        if judged
        else f"assumptions: {n_hypotheses} hypotheses per comparison, {each:,.0f} texts each"
    )
    return expected, (
        f"{known}, of which {shares['cheap']:.0%} go to the cheap and {shares['expensive']:.0%} to "
        f"the expensive judge; {_TOKENS_OUT} tokens per verdict, hidden reasoning not counted"
    )


def _dollars(config: AuditConfig, name: str, calls: Range, least: Tokens, most: Tokens) -> Estimate:
    api = _api(config, name)
    if not api.is_api:
        return Range(0, 0)
    price = _price(config, api)
    if price is None:
        return Unknown(f"no price is known for {api.model}; name a file in budget.prices")
    cap = math.inf if config.budget.max_usd is None else config.budget.max_usd
    low, high = (
        n * (price.input * tokens[0] + price.output * tokens[1]) * 1e-6
        for n, tokens in ((calls.low, least), (calls.high, most))
    )
    return Range(min(low, cap), min(high, cap))


def _expected_usd(config: AuditConfig, name: str, n_calls: float, tokens: Tokens) -> float | None:
    api = _api(config, name)
    if not api.is_api:
        return 0.0
    price = _price(config, api)
    if price is None:
        return None
    return n_calls * (price.input * tokens[0] + price.output * tokens[1]) * 1e-6


def _tokens(
    config: AuditConfig,
    name: str,
    tokens_per_text: float | None,
    subjects: Mapping[Side, Subject],
) -> tuple[Tokens, Tokens]:
    """Tokens in and out of one call: what is expected, and the most."""
    api, limit = _api(config, name), config.decode.max_new_tokens
    n_likely = tokens_per_text or _LIKELY_LENGTH * limit
    for side, subject in subjects.items():
        if side == name:
            return _subject_tokens(config.sides[side], subject, n_likely, limit)
    likely, most = round(n_likely * _BYTES_PER_TOKEN), limit * _MOST_BYTES_PER_TOKEN
    if name == "proposer":
        n_in = (_PROPOSAL_BYTES + _N_REPLIES * likely) / _BYTES_PER_TOKEN
        n_most = 4 * _PROPOSAL_BYTES + _N_REPLIES * most
        return (n_in, _PROPOSAL_TOKENS_OUT), (n_most, api.max_tokens)
    how = Asking(api.provider, str(api.model), api.max_tokens, api.temperature)
    one, worst = (
        score_request(Question(_CRITERION, _PROMPT, "x" * size), how) for size in (likely, most)
    )
    return (expected_tokens_in(one), _TOKENS_OUT), (max_tokens_in(worst), api.max_tokens)


def _subject_tokens(
    model: ModelConfig, subject: Subject, n_likely: float, limit: int
) -> tuple[Tokens, Tokens]:
    one, worst = (
        ChatRequest("", "", model.system_prompt or "", "x" * math.ceil(size), "", limit, 1.0)
        for size in (subject.mean_bytes, subject.most_bytes)
    )
    return (expected_tokens_in(one), n_likely), (max_tokens_in(worst), limit)


def _api(config: AuditConfig, name: str) -> ApiConfig:
    for side, api in config.subjects.items():
        if side == name:
            return api
    if name == "proposer":
        return config.hypothesize
    return config.judge.cheap if name == "cheap" else config.judge.expensive


def _price(config: AuditConfig, api: ApiConfig) -> Price | None:
    prices = load_prices(Path(config.budget.prices) if config.budget.prices else None)
    return prices.get(str(api.model))
