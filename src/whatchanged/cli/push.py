"""`whatchanged push`: the report and the dashboard of a run in a repository on the hub."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import whatchanged
from whatchanged.cli.terminal import aligned, say

if TYPE_CHECKING:
    from whatchanged.store.runs import Run

_REPORT = ("report.html", "report.md")
_FIGURES = "figures/"


def push_run(run_path: Path, repo: str, *, is_public: bool, is_dry: bool) -> int:
    """Pushes what people read of a finished run; with `is_dry`, says what it would push. Returns 0.

    Raises InputError where the run cannot be loaded, and what `push_files` raises.
    """
    run = whatchanged.load(run_path)
    files = dict(gather_files(run))
    n_bytes = sum(map(len, files.values()))
    if is_dry:
        say(aligned([(name, f"{len(data):,} bytes") for name, data in sorted(files.items())]))
        say(f"{len(files)} files, {n_bytes / 1e6:.1f} MB: nothing was pushed")
        return 0
    from whatchanged.models.hub import push_files

    message = f"Add the audit {_name(run)}"
    address = push_files(repo, files, is_public=is_public, message=message)
    who = "everybody can read it" if is_public else "private"
    say(f"{address} ({who}): {len(files)} files, {n_bytes / 1e6:.1f} MB")
    return 0


def gather_files(run: Run) -> Iterator[tuple[str, bytes]]:
    """The report with its figures, the dashboard, and a card that says what they are: each file
    with its name in the repository."""
    from whatchanged.dashboard.pack import pack_run
    from whatchanged.dashboard.shell import write_folder

    yield "README.md", _write_card(run).encode()
    for name in run.manifest["files"]:
        if name in _REPORT or name.startswith(_FIGURES):
            yield name, run.read_bytes(name)
    for name, data in write_folder(_name(run), pack_run(run).parts()):
        yield f"dashboard/{name}", data


def _write_card(run: Run) -> str:
    from whatchanged.escape import for_markdown
    from whatchanged.exports.model_card import write_model_card

    return (
        "---\ntags:\n- whatchanged\nviewer: false\n---\n\n"
        f"# {for_markdown(_name(run))}\n\n"
        "`report.html` and `dashboard/index.html` open in a browser, once they are downloaded. "
        "Both quote texts of the two models.\n\n"
        f"{write_model_card(run)}"
    )


def _name(run: Run) -> str:
    return run.path.resolve().name
