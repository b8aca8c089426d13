"""The prompts of an audit, wherever they come from: its bank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from whatchanged.config import AuditConfig
from whatchanged.prompt_bank import PromptBank, PromptRow, read_prompt_bank
from whatchanged.recorded import match_prompts
from whatchanged.records import Prompt, Split


def read_bank(config: AuditConfig) -> tuple[PromptRow, ...]:
    """The rows of the bank; raises what reading it raises."""
    return open_bank(config).rows


def open_bank(config: AuditConfig) -> PromptBank:
    """The bank: of recorded texts their prompts, else those of `prompts`.

    Raises what reading them raises.
    """
    if config.recorded:
        return PromptBank(match_prompts(config.recorded).rows, 0, "recorded texts")
    return read_prompt_bank(config.prompts)


def count_comparable(config: AuditConfig) -> int | None:
    """How many recorded texts of one side have counterparts on the other, in all; None where
    nothing is recorded. Raises what reading them raises."""
    return sum(match_prompts(config.recorded).n_for_pair.values()) if config.recorded else None


def count_available(
    config: AuditConfig, prompts: Sequence[Prompt], *, is_null: bool
) -> dict[str, int] | None:
    """How many texts of each prompt (by key) a comparison may ask each of its sides for; None where
    models decode as many as are asked for. Raises what reading recorded texts raises."""
    if not config.recorded:
        return None
    bank = match_prompts(config.recorded)
    counts = bank.n_for_null if is_null else bank.n_for_pair
    return None if counts is None else {one.key: counts[one.prompt] for one in prompts}


def why_no_control(config: AuditConfig, prompts: Sequence[Prompt]) -> str:
    """Why base cannot be audited against base; empty where it can, or where no control is asked
    for. It needs prompts of both splits with two recorded base texts or more, and enough of them to
    cluster. Raises what reading recorded texts raises."""
    if not config.validation.null_control:
        return ""
    counts = count_available(config, prompts, is_null=True)
    if counts is None:
        return ""
    n_of = {split: _sum(counts, prompts, split) for split in ("discovery", "validation")}
    if not all(n_of.values()):
        return (
            "it compares disjoint halves of the recorded base texts of each prompt, and too few "
            "prompts have two of them"
        )
    n_texts = 2 * min(n_of["discovery"], config.sample.max_texts)
    if n_texts < config.cluster.n_clusters:
        return (
            f"it would have {n_texts} discovery texts, fewer than the {config.cluster.n_clusters} "
            "clusters asked for"
        )
    return ""


def describe_recording(config: AuditConfig, prompts: Sequence[Prompt]) -> dict[str, object] | None:
    """What `summary.json` says of recorded texts; None where nothing is recorded. Raises what
    reading them raises."""
    if not config.recorded:
        return None
    bank = match_prompts(config.recorded)
    return {
        "n_texts": dict(bank.n_texts),
        "n_prompts": len(bank.rows),
        "n_prompts_alone": dict(bank.n_alone),
        "n_comparable_per_side": count_comparable(config),
        "n_discovery_per_side": _sum(
            count_available(config, prompts, is_null=False) or {}, prompts, "discovery"
        ),
        "why_no_control": why_no_control(config, prompts),
    }


def _sum(counts: Mapping[str, int], prompts: Sequence[Prompt], split: Split | str) -> int:
    return sum(counts[one.key] for one in prompts if one.split == split)
