"""What an audit would take, said before anything is spent.

A quantity is a range, or unknown with the reason: never a zero that stands for "not known".
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from whatchanged.config import MAX_GROUP_FACTOR, AuditConfig, SampleConfig
from whatchanged.planned_calls import (
    Estimate,
    Judged,
    Range,
    Subject,
    Unknown,
    most_texts,
    n_comparisons,
    plan_calls,
)
from whatchanged.prompts import MAX_GROUPS, PROMPTS_PER_GROUP, PromptRow

NO_EARLIER_RUN = "no earlier finished run of the same models and settings was found to measure from"


@dataclass(frozen=True, slots=True)
class PromptCounts:
    """Distinct prompts per split, and groups; at most so many groups where they are inferred.
    `mean_bytes` and `most_bytes` are the lengths of prompts in UTF-8."""

    discovery: int
    validation: int
    n_groups: int
    groups_inferred: bool
    mean_bytes: float = 0.0
    most_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Rates:
    """What an earlier cold run of the same models took per decoded text."""

    tokens_per_text: float
    seconds_per_text: float
    bytes_per_text: float
    source: str


@dataclass(frozen=True, slots=True)
class Plan:
    """Texts by stream ("base", "intervention", "null control") and split; tokens written by the
    models; wall seconds; bytes of the run folder; calls and US dollars per judge, and of a proposer
    and of a side behind an API. What is expected is known to `expected_from`; None where it is
    not."""

    prompts: PromptCounts
    texts: Mapping[str, Mapping[str, Range]]
    n_texts: Range
    n_tokens: Range
    seconds: Estimate
    disk_bytes: Estimate
    calls: Mapping[str, Range]
    usd: Mapping[str, Estimate]
    expected_calls: Mapping[str, float]
    expected_usd: Mapping[str, float | None]
    expected_from: str
    rates_from: str | None

    def to_json(self) -> dict[str, Any]:
        """The plan as plain values; an unknown is `{"unknown": why}`, a range `{"low", "high"}`."""
        values: dict[str, Any] = _plain(asdict(self))
        return values


def count_prompts(rows: Sequence[PromptRow], validation_share: float) -> PromptCounts:
    """How many of the rows go to each split, to within one per group.

    Where no row names a group, groups are inferred in the run, from embeddings.
    """
    n_validation = min(max(round(len(rows) * validation_share), 1), max(len(rows) - 1, 0))
    named = {row.group for row in rows}
    lengths = [len(row.prompt.encode("utf-8", "surrogatepass")) for row in rows]
    inferred = named <= {None}
    at_most = max(1, min(len(rows) // PROMPTS_PER_GROUP, MAX_GROUPS))
    return PromptCounts(
        discovery=len(rows) - n_validation,
        validation=n_validation,
        n_groups=at_most if inferred else len(named),
        groups_inferred=inferred,
        mean_bytes=sum(lengths) / max(len(rows), 1),
        most_bytes=max(lengths, default=0),
    )


def plan_audit(
    config: AuditConfig,
    prompts: PromptCounts,
    rates: Rates | None,
    judged: Judged | None = None,
    n_recorded: int | None = None,
) -> Plan:
    """What the audit of `config` takes on that many prompts; of recorded sides there are about
    `n_recorded` texts each, in equal parts per prompt.

    Texts that the cache already holds are counted: they are part of the audit, though not decoded
    again. The lower ends of validation assume one hypothesis that its first
    look decides; discovery may also propose none.
    """
    n_screen = config.n_screen_texts(prompts.discovery) * prompts.discovery
    screen = {"screen": Range(n_screen, n_screen)} if n_screen else {}
    splits = {
        "discovery": _discovery_texts(config.sample_after_screen(prompts.discovery)),
        "validation": _validation_texts(config, prompts),
    }
    n_recorded_of = _per_split(n_recorded or 0, prompts)
    if n_recorded is not None:
        splits = {name: _at_most(part, n_recorded_of[name]) for name, part in splits.items()}
    texts = {"base": {**screen, **splits}, "intervention": {**screen, **splits}}
    if config.validation.null_control:
        is_halved = n_recorded is not None and "base" in config.recorded
        texts["null control"] = {
            name: _at_most(part, n_recorded_of[name] // 2) if is_halved else part
            for name, part in splits.items()
        }
    n_texts = _total(part for parts in texts.values() for part in parts.values())
    writing = [side for side in config.sides if side not in config.recorded]
    written = _total(part for side in writing for part in _of_side(texts, side))
    tokens_per_text = rates.tokens_per_text if rates else None
    asked = {
        side: Subject(_total(_of_side(texts, side)), prompts.mean_bytes, prompts.most_bytes)
        for side in config.subjects
    }
    planned = plan_calls(config, prompts.validation, tokens_per_text, judged, asked)
    return Plan(
        prompts=prompts,
        texts=texts,
        n_texts=n_texts,
        # A reply is at least the token that ends it.
        n_tokens=Range(written.low, written.high * config.decode.max_new_tokens),
        seconds=_scaled(n_texts, rates.seconds_per_text if rates else None),
        disk_bytes=_scaled(n_texts, rates.bytes_per_text if rates else None),
        calls=planned.calls,
        usd=planned.usd,
        expected_calls=planned.expected_calls,
        expected_usd=planned.expected_usd,
        expected_from=planned.source,
        rates_from=rates.source if rates else None,
    )


def measure_rates(summary: Mapping[str, Any], n_bytes: int, source: str) -> Rates | None:
    """The rates of a finished run from its `summary.json` and the size of its folder.

    None where the run took texts from the cache: its seconds say nothing about a cold run.
    """
    decode = summary.get("decode") or {}
    sides = [side for side in decode.values() if isinstance(side, Mapping)]
    n_decoded = sum(int(side.get("n_decoded") or 0) for side in sides)
    n_cached = sum(int(side.get("n_cached") or 0) for side in sides)
    seconds = sum(
        float(value)
        for value in (summary.get("seconds") or {}).values()
        if isinstance(value, int | float)
    )
    if n_decoded == 0 or n_cached > 0 or seconds <= 0:
        return None
    n_tokens = sum(int(side.get("n_tokens") or 0) for side in sides)
    return Rates(n_tokens / n_decoded, seconds / n_decoded, n_bytes / n_decoded, source)


def render_plan(plan: Plan) -> list[tuple[str, str]]:
    """The plan as rows of a name and a sentence, for people."""
    prompts = plan.prompts
    split = f"{prompts.discovery:,} discovery, {prompts.validation:,} validation"
    at_most = "at most " if prompts.groups_inferred else ""
    rows = [("prompts", f"{split}; {at_most}{prompts.n_groups:,} groups")]
    for stream, splits in plan.texts.items():
        rows.append(
            (f"texts, {stream}", "; ".join(f"{name} {_span(r)}" for name, r in splits.items()))
        )
    rows += [
        ("texts, all", _span(plan.n_texts)),
        ("tokens written", _span(plan.n_tokens)),
        ("seconds", _shown(plan.seconds)),
        ("disk, run folder (bytes)", _shown(plan.disk_bytes)),
    ]
    for name, calls in plan.calls.items():
        rows.append((_CALLS_OF[name], f"{_calls(plan, name, calls)}; {_money(plan, name)}"))
    if any(usd != Range(0, 0) for usd in plan.usd.values()):
        rows.append(("expected from", plan.expected_from))
    rows.append(("validation", "the least is for one hypothesis; without any, it takes nothing"))
    if plan.rates_from is not None:
        rows.append(("measured from", plan.rates_from))
    return rows


_CALLS_OF = {
    "base": "calls to the base",
    "intervention": "calls to the intervention",
    "cheap": "judge calls, cheap",
    "expensive": "judge calls, expensive",
    "proposer": "proposer calls",
}


def _of_side(texts: Mapping[str, Mapping[str, Range]], side: str) -> list[Range]:
    """The texts that one model writes: a null control's second stream is the base again."""
    streams = (side, "null control") if side == "base" else (side,)
    return [part for stream in streams for part in texts.get(stream, {}).values()]


def _discovery_texts(sample: SampleConfig) -> Range:
    if sample.strategy == "uniform":
        return Range(sample.max_texts, sample.max_texts)
    reachable = sample.seed_texts + sample.max_rounds * sample.round_texts
    return Range(min(sample.seed_texts, sample.max_texts), min(reachable, sample.max_texts))


def _validation_texts(config: AuditConfig, prompts: PromptCounts) -> Range:
    """Per stream. Hypotheses of one scope share their texts, on all sides alike: the most is one
    full test on all prompts and one in each further scope, each prompt's share rounded up."""
    n_hypotheses = config.hypothesize.max_hypotheses * n_comparisons(config)
    in_all = most_texts(config)
    in_group = min(in_all, MAX_GROUP_FACTOR * config.validation.texts_per_hypothesis)
    n_groups = min(n_hypotheses - 1, prompts.n_groups)
    rounding = prompts.validation * (2 if n_groups else 1)
    return Range(
        math.ceil(config.tested.looks.at[0] * config.validation.texts_per_hypothesis / 2),
        math.ceil(in_all / 2) + n_groups * math.ceil(in_group / 2) + rounding,
    )


def _per_split(n_texts: int, prompts: PromptCounts) -> dict[str, int]:
    """Texts that prompts share equally, by split; rounded up."""
    n_prompts = max(prompts.discovery + prompts.validation, 1)
    of = {"discovery": prompts.discovery, "validation": prompts.validation}
    return {split: math.ceil(n_texts * n / n_prompts) for split, n in of.items()}


def _at_most(planned: Range, n: int) -> Range:
    return Range(min(planned.low, n), min(planned.high, n))


def _scaled(n_texts: Range, per_text: float | None) -> Estimate:
    if per_text is None:
        return Unknown(NO_EARLIER_RUN)
    return Range(n_texts.low * per_text, n_texts.high * per_text)


def _total(parts: Iterable[Range]) -> Range:
    known = list(parts)
    return Range(sum(part.low for part in known), sum(part.high for part in known))


def _span(value: Range) -> str:
    low, high = f"{value.low:,.0f}", f"{value.high:,.0f}"
    return low if low == high else f"{low} to {high}"


def _shown(value: Estimate) -> str:
    return f"unknown: {value.why}" if isinstance(value, Unknown) else _span(value)


def _calls(plan: Plan, name: str, calls: Range) -> str:
    expected = plan.expected_calls.get(name)
    return _span(calls) if expected is None else f"{_span(calls)}, expected {expected:,.0f}"


def _money(plan: Plan, name: str) -> str:
    usd, expected = plan.usd[name], plan.expected_usd.get(name)
    if isinstance(usd, Unknown):
        return f"dollars unknown: {usd.why}"
    if usd.high == 0:
        return "$0 (a local judge)"
    likely = "" if expected is None else f", expected ${expected:,.2f}"
    return f"${usd.low:,.2f} to ${usd.high:,.2f}{likely}"


def _plain(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    if set(value) == {"why"}:
        return {"unknown": value["why"]}
    return {key: _plain(below) for key, below in value.items()}
