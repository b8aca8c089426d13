"""The flows of the project, called in this process: where they are, and how they are loaded."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import whatchanged
from whatchanged.cli.terminal import tell
from whatchanged.environment import prepare_environment
from whatchanged.errors import InputError, MissingDependencyError, UsageError
from whatchanged.progress import is_watched
from whatchanged.store.artifacts import cache_root

Flow: TypeAlias = Callable[..., dict[str, Any]]


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


def load_flow(name: str) -> Flow:
    """The flow `name` of `flows/<name>.py`, from the project around this folder; which Prefect
    server it will use has been said.

    Raises InputError where there is no project, MissingDependencyError without Prefect, UsageError
    where another package shadows the flows.
    """
    project = find_project(Path.cwd())
    if importlib.util.find_spec("prefect") is None:
        raise MissingDependencyError(
            'running a flow needs Prefect, which is not installed: pip install "whatchanged[flows]"'
        )
    if is_watched():
        # The bar is for people; a line per task would push it off the screen.
        os.environ.setdefault("PREFECT_LOGGING_LEVEL", "WARNING")
    prepare_environment(cache_root())
    # The flows are delivered as a clone, as Prefect's own workers deliver them; first on the path,
    # because `tasks` is a name that other folders have too.
    sys.path.insert(0, str(project))
    module = importlib.import_module(f"flows.{name}")
    found = Path(str(module.__file__)).resolve()
    if not found.is_relative_to(project):
        raise UsageError(
            f"expected flows.{name} from {project}, found {found}: another package named `flows` "
            "is imported first; uninstall it or use another environment"
        )
    _say_which_server()
    flow: Flow = getattr(module, name)
    return flow


def _say_which_server() -> None:
    # By name, like the flow: the library itself does not import Prefect.
    settings = importlib.import_module("prefect.settings").get_current_settings()
    if settings.api.url is None:
        tell(
            "temporary Prefect server: its run history may be incomplete; "
            "start `prefect server start` to monitor"
        )
