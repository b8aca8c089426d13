"""`whatchanged run`: the flow of the project, called in this process."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import whatchanged
from whatchanged.cli.flows import load_flow
from whatchanged.cli.terminal import say, tell
from whatchanged.config_file import load_config
from whatchanged.preflight import check_audit, choose_run_dir

EXIT_FAILED_ITEMS = 3


def run_audit(
    config: Path, overrides: Sequence[str], *, run_dir: Path | None, as_json: bool
) -> int:
    """The exit code of one audit: 0, or 3 where items failed; errors are raised.

    Everything that can be wrong beforehand is checked before Prefect is imported: a mistake
    answers at once, and in one sentence.
    """
    loaded = load_config(config, overrides)
    check_audit(loaded.config, choose_run_dir(loaded, None if run_dir is None else str(run_dir)))
    audit = load_flow("audit")
    with redirect_stdout(sys.stderr):
        summary = audit(
            config=str(config),
            overrides=list(overrides),
            run_dir=None if run_dir is None else str(run_dir),
        )
    _show_result(summary, as_json=as_json)
    return EXIT_FAILED_ITEMS if n_failed_items(summary) else 0


def n_failed_items(summary: Mapping[str, Any]) -> int:
    """How many texts or judgements the run gave up on."""
    return int(summary.get("failed_items") or 0)


def _show_result(summary: Mapping[str, Any], *, as_json: bool) -> None:
    from whatchanged.report import summarize

    text = summarize(whatchanged.load(summary["run"]))
    if as_json:
        tell(text)
        say(json.dumps(summary, sort_keys=True))
    else:
        say(text)
    for name, told in (summary.get("tracking") or {}).items():
        if told["problem"]:
            tell(f"warning: {name} was not told of this run: {told['problem']}")
