"""`whatchanged plan`: what an audit would take."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from whatchanged.bank import count_comparable, open_bank
from whatchanged.cli.status import list_runs
from whatchanged.cli.terminal import aligned, say
from whatchanged.config import AuditConfig
from whatchanged.config_file import load_config
from whatchanged.plan import (
    Rates,
    count_prompts,
    measure_rates,
    plan_audit,
    render_plan,
)
from whatchanged.planned_calls import Judged, measure_judged

# What decides how long a text takes; the rest of a config changes how many there are.
_SAME = ("base", "intervention", "decode", "embed", "run")
# What decides which texts there are to judge, and who judges them.
_SAME_TEXTS = ("base", "intervention", "prompts", "decode", "validate")
_SAME_JUDGES = ("hypothesize", "judge")


def show_plan(config_path: Path, overrides: Sequence[str], *, as_json: bool) -> int:
    """Prints the plan of a config; returns 0."""
    config = load_config(config_path, overrides).config
    bank = open_bank(config)
    prompts = count_prompts(bank.rows, config.prompts.validation_share)
    runs, n_recorded = Path("runs"), count_comparable(config)
    plan = plan_audit(
        config, prompts, find_rates(config, runs), find_judged(config, runs), n_recorded
    )
    say(json.dumps(plan.to_json()) if as_json else aligned(render_plan(plan)))
    return 0


def find_rates(config: AuditConfig, runs: Path) -> Rates | None:
    """The rates of the latest finished cold run of the same models and settings, if any."""
    wanted = _deciding(config.model_dump(mode="json", by_alias=True))
    finished = [run for run in list_runs(runs) if run.state == "finished"]
    for run in sorted(finished, key=lambda run: run.updated_utc or "", reverse=True):
        settings = _read_mapping(run.folder / "config.yaml")
        if _deciding(settings) != wanted:
            continue
        summary = _read_mapping(run.folder / "summary.json")
        if rates := measure_rates(summary, _folder_bytes(run.folder), str(run.folder)):
            return rates
    return None


def find_judged(config: AuditConfig, runs: Path) -> Judged | None:
    """What the latest finished run of the same pair judged, by preference by the same judges."""
    wanted = config.model_dump(mode="json", by_alias=True)
    found: list[tuple[bool, str, Judged]] = []
    for run in list_runs(runs):
        settings = _read_mapping(run.folder / "config.yaml")
        if run.state != "finished" or any(settings.get(b) != wanted[b] for b in _SAME_TEXTS):
            continue
        is_same = all(settings.get(block) == wanted[block] for block in _SAME_JUDGES)
        summary = _read_mapping(run.folder / "summary.json")
        if judged := measure_judged(summary, settings, str(run.folder), is_same=is_same):
            found.append((is_same, run.updated_utc or "", judged))
    return max(found, key=lambda one: one[:2])[2] if found else None


def _deciding(settings: dict[str, Any]) -> dict[str, Any]:
    return {block: settings.get(block) for block in _SAME}


def _read_mapping(path: Path) -> dict[str, Any]:
    try:
        # JSON is YAML: one reader serves config.yaml and summary.json.
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return value if isinstance(value, dict) else {}


def _folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
