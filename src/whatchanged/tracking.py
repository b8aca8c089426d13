"""What a tracker of experiments gets to see of a run: counts, measures and settings; no prompt, no
text of a model, and no statement of a finding unless that is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from whatchanged.pages.headline import name_models

# What a summary holds numbers under that are measures, and the blocks of a config that say how the
# audit was made.
_MEASURED = (
    "decode", "embed", "judge", "bill", "seconds", "coupling", "null_control", "n_hypotheses",
    "n_confirmed", "n_truncated", "failed_items", "peak_memory_bytes",
)  # fmt: skip
_SET = ("decode", "divergence", "sample", "cluster", "validate")
_STATED = (
    "id", "statement", "status", "direction", "scope", "effect", "ci_low", "ci_high", "p_adjusted",
    "n_texts",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class TrackedRun:
    """A run as a tracker sees it. `key` is the same whenever the run in this folder ends again.
    `rounds` has one set of measures per round of sampling; `statements` is empty unless asked for.
    """

    name: str
    key: str
    settings: Mapping[str, str | int | float | bool]
    measures: Mapping[str, float]
    rounds: tuple[Mapping[str, float], ...]
    statements: tuple[Mapping[str, Any], ...]


def describe_run(
    name: str,
    key: str,
    config: Mapping[str, Any],
    summary: Mapping[str, Any],
    findings: Sequence[Mapping[str, Any]],
    *,
    with_statements: bool,
) -> TrackedRun:
    """The run called `name`, from its config and what `summary.json` and `findings.json` hold."""
    base, intervention = name_models(config)
    settings = dict(_leaves({block: config.get(block) for block in _SET}))
    measured = _leaves({name: summary.get(name) for name in _MEASURED})
    return TrackedRun(
        name=name,
        key=key,
        settings={
            "base": base, "intervention": intervention, "seed": config.get("seed", 0), **settings,
        },
        measures=_numbers(measured),
        rounds=tuple(_numbers(_leaves(one)) for one in summary.get("rounds") or ()),
        statements=tuple({name: found.get(name) for name in _STATED} for found in findings)
        if with_statements
        else (),
    )  # fmt: skip


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The single values at the ends of nested mappings, by dotted name; lists are left out."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        elif isinstance(value, str | int | float | bool):
            yield f"{prefix}{name}", value


def _numbers(leaves: Iterator[tuple[str, Any]]) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in leaves
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
