"""`whatchanged report` and `whatchanged verify`: work on runs that are there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import whatchanged
from whatchanged.cli.terminal import aligned, say, tell
from whatchanged.errors import InputError
from whatchanged.store.artifacts import cache_root
from whatchanged.store.runs import Run, RunFolder
from whatchanged.store.verify import VerifyReport, is_cache, verify

EXIT_DAMAGED = 1


def render_report(path: Path) -> int:
    """Renders the report of a finished run again, from its tables; returns 0.

    Raises InputError where the folder is no finished run, or one of its tables is damaged.
    """
    from whatchanged.report import build_report, summarize
    from whatchanged.truth import read_ground_truth

    run = whatchanged.load(path)
    kept = _checked_files(run)
    report = build_report(
        run, read_ground_truth((run.config.get("report") or {}).get("ground_truth"))
    )
    folder = RunFolder(path)
    folder.write_bytes("report.md", report.markdown.encode())
    folder.write_bytes("report.html", report.html.encode())
    for name, figure in report.figures.items():
        folder.write_bytes(f"figures/{name}", figure)
    for name in kept:
        folder.adopt(name)
    folder.finish(run.manifest["stages"], run.manifest["versions"])
    say(summarize(run))
    return 0


def verify_stored(paths: Sequence[Path], *, anew: bool) -> int:
    """Checks these runs and caches, or the usual cache where none is named; returns 1 where
    something was damaged, else 0."""
    for path in paths:
        if not path.is_dir():
            raise InputError(
                f"expected a run folder or a cache at {path}, found none: check the path"
            )
    caches = [path for path in paths if is_cache(path)] or [cache_root()]
    runs = [path for path in paths if not is_cache(path)]
    found = VerifyReport()
    for number, cache in enumerate(caches):
        found += verify(cache, [] if number else runs, anew=anew)
    rows = [
        ("checked", f"{found.n_checked:,} ({found.n_bytes:,} bytes)"),
        ("damaged", f"{found.n_damaged:,}"),
        ("quarantined", f"{found.n_quarantined:,}"),
        ("stray temporaries removed", f"{found.n_swept:,}"),
    ]
    if found.n_before:
        rows.insert(1, ("by a check that was interrupted", f"{found.n_before:,}"))
    say(aligned(rows))
    for problem in found.problems:
        tell(problem)
    return EXIT_DAMAGED if found.n_damaged else 0


def _checked_files(run: Run) -> list[str]:
    """The run's files but its report, each of them sound: a new manifest must not bless damage."""
    remade = ("report.md", "report.html", "figures/")
    names = [name for name in run.manifest["files"] if not name.startswith(remade)]
    for name in names:
        run.read_bytes(name)
    return names
