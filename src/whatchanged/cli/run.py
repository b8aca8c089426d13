"""`whatchanged run`: the flow of the project, called in this process."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, TypeAlias

import whatchanged
from whatchanged.cli.terminal import say, tell
from whatchanged.config_file import load_config
from whatchanged.environment import prepare_environment
from whatchanged.errors import InputError, MissingDependencyError, UsageError
from whatchanged.preflight import check_audit, choose_run_dir
from whatchanged.progress import is_watched
from whatchanged.store.artifacts import cache_root

EXIT_FAILED_ITEMS = 3

Audit: TypeAlias = Callable[..., dict[str, Any]]


def run_audit(
    config: Path, overrides: Sequence[str], *, run_dir: Path | None, as_json: bool
) -> int:
    """The exit code of one audit: 0, or 3 where items failed; errors are raised.

    Everything that can be wrong beforehand is checked before Prefect is imported: a mistake
    answers at once, and in one sentence.
    """
    loaded = load_config(config, overrides)
    check_audit(loaded.config, choose_run_dir(loaded, None if run_dir is None else str(run_dir)))
    audit = _load_audit(find_project(Path.cwd()))
    _say_which_server()
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


def find_project(start: Path) -> Path:
    """The folder that holds flows/audit.py: `start`, the nearest parent, or the source checkout.

    Raises InputError where there is none: the wheel does not carry the flows.
    """
    source = Path(whatchanged.__file__).resolve().parents[2]
    here = start.resolve()
    for folder in (here, *here.parents, source):
        if (folder / "flows" / "audit.py").is_file() and (folder / "tasks").is_dir():
            return folder
    raise InputError(
        f"expected flows/audit.py in {here} or above it, found none: the flows are not part of the "
        "installed package, so run this command inside a clone of the repository"
    )


def _load_audit(project: Path) -> Audit:
    if importlib.util.find_spec("prefect") is None:
        raise MissingDependencyError(
            "running an audit needs Prefect, which is not installed: "
            'pip install "whatchanged[flows]"'
        )
    if is_watched():
        # The bar is for people; a line per task would push it off the screen.
        os.environ.setdefault("PREFECT_LOGGING_LEVEL", "WARNING")
    prepare_environment(cache_root())
    # The flows are delivered as a clone, as Prefect's own workers deliver them; first on the path,
    # because `tasks` is a name that other folders have too.
    sys.path.insert(0, str(project))
    module = importlib.import_module("flows.audit")
    found = Path(str(module.__file__)).resolve()
    if not found.is_relative_to(project):
        raise UsageError(
            f"expected flows.audit from {project}, found {found}: another package named `flows` "
            "is imported first; uninstall it or use another environment"
        )
    audit: Audit = module.audit
    return audit


def _say_which_server() -> None:
    # By name, like the flow: the library itself does not import Prefect.
    settings = importlib.import_module("prefect.settings").get_current_settings()
    if settings.api.url is None:
        tell(
            "temporary Prefect server: its run history may be incomplete; "
            "start `prefect server start` to monitor"
        )


def _show_result(summary: Mapping[str, Any], *, as_json: bool) -> None:
    from whatchanged.report import summarize

    text = summarize(whatchanged.load(summary["run"]))
    if as_json:
        tell(text)
        say(json.dumps(summary, sort_keys=True))
    else:
        say(text)
