"""`whatchanged status`: which runs are finished, in progress or interrupted."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from whatchanged.cli.terminal import aligned, say, tell
from whatchanged.errors import InputError

State = Literal["finished", "in progress", "interrupted"]

# The clock of the kernel's start times and the one in a progress file may disagree this much.
_CLOCK_SLACK_S = 5.0


@dataclass(frozen=True, slots=True)
class RunStatus:
    """What a run folder says about itself.

    `stage` and `detail` are those last worked on; `seconds` are per stage; `stop_reason` is known
    of finished runs only.
    """

    folder: Path
    state: State
    stage: str | None
    detail: str | None
    started_utc: str | None
    updated_utc: str | None
    seconds: Mapping[str, float]
    stop_reason: str | None


def show_status(path: Path | None, *, as_json: bool) -> int:
    """Prints the state of one run, or of each run in a folder (by default ./runs); returns 0."""
    folder = Path("runs") if path is None else path
    runs = list_runs(folder)
    if path is not None and not runs:
        raise InputError(
            f"expected a run folder, or a folder of runs, at {path}, found neither: "
            "a run folder holds progress.json or manifest.json"
        )
    if as_json:
        say(json.dumps([{**asdict(run), "folder": str(run.folder)} for run in runs]))
    elif runs:
        say(aligned([("run", "state", "seconds", "last news"), *map(_row, runs)]))
    else:
        tell("no runs in ./runs: start one with `whatchanged run CONFIG`")
    return 0


def list_runs(folder: Path) -> list[RunStatus]:
    """The run at `folder`, or else the runs directly below it, by name; an empty list if none."""
    if (own := read_status(folder)) is not None:
        return [own]
    below = sorted(path for path in folder.glob("*") if path.is_dir())
    return [run for path in below if (run := read_status(path)) is not None]


def read_status(folder: Path) -> RunStatus | None:
    """The state of a run folder; None where the folder is no run.

    A manifest is written last, so it means finished. Otherwise the run is in progress as long as
    the process that its progress file names is still alive, and interrupted after that.
    """
    progress = _read_object(folder / "progress.json")
    manifest = _read_object(folder / "manifest.json")
    if progress is None and manifest is None:
        return None
    progress = progress or {}
    summary = (_read_object(folder / "summary.json") or {}) if manifest is not None else {}
    return RunStatus(
        folder=folder,
        state="finished" if manifest is not None else _state_of(progress),
        stage=_text(progress.get("stage")),
        detail=_text(progress.get("detail")),
        started_utc=_text(progress.get("started_utc")),
        updated_utc=_text(progress.get("updated_utc")),
        seconds=_seconds(summary.get("seconds") or progress.get("seconds")),
        stop_reason=_text(summary.get("stop_reason")),
    )


def _state_of(progress: Mapping[str, Any]) -> State:
    pid = progress.get("pid")
    if not isinstance(pid, int) or pid <= 0:
        return "interrupted"
    alive = _is_alive(pid) and not _is_recycled(pid, _text(progress.get("started_utc")))
    return "in progress" if alive else "interrupted"


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _is_recycled(pid: int, started_utc: str | None) -> bool:
    """Whether the process is younger than the run: then it is another one with the same number.

    False where the system does not tell (no /proc).
    """
    try:
        run_started = datetime.fromisoformat(started_utc or "").astimezone(UTC).timestamp()
        # Field 22, counted from behind the command name, which may hold spaces.
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = next(
            float(line.split()[1])
            for line in Path("/proc/stat").read_text().splitlines()
            if line.startswith("btime ")
        )
        born = boot + float(after_name[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, StopIteration):
        return False
    return born > run_started + _CLOCK_SLACK_S


def _row(run: RunStatus) -> tuple[str, str, str, str]:
    news = run.stop_reason if run.state == "finished" else run.detail
    place = f"{run.stage}: {news}" if run.stage and news else news or run.stage or ""
    when = f" ({run.updated_utc})" if run.updated_utc else ""
    return run.folder.name, run.state, f"{sum(run.seconds.values()):,.0f}", place + when


def _read_object(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file; None where there is no file; empty where it is not readable."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return {} if path.is_file() else None
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _seconds(value: object) -> dict[str, float]:
    if not isinstance(value, Mapping):
        return {}
    return {str(k): float(v) for k, v in value.items() if isinstance(v, int | float)}
