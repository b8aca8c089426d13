"""`whatchanged export`: a run as a page that other people can open."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeAlias

import whatchanged
from whatchanged.cli.terminal import say, tell
from whatchanged.store.exports import INDEX, write_export_file, write_export_folder

Format: TypeAlias = Literal["folder", "html"]
TEXTS_PER_CLUSTER = 20
# A file to send by mail; a larger run leaves words out of it, and says so.
SENDABLE_BYTES = 10_000_000


def export_run(run_path: Path, format: Format, out: Path | None) -> int:
    """Writes the dashboard of a finished run into a folder or one file; returns 0.

    Raises InputError where the run cannot be loaded or `out` holds something else, UsageError where
    one file would be too large.
    """
    from whatchanged.dashboard.pack import pack_run
    from whatchanged.dashboard.shell import write_folder, write_one_file

    run = whatchanged.load(run_path)
    name = run.path.resolve().name
    if format == "folder":
        folder = run_path / "dashboard" if out is None else out
        n_bytes = write_export_folder(folder, write_folder(name, pack_run(run).parts()))
        target = folder / INDEX
    else:
        target = run_path / "dashboard.html" if out is None else out
        page = write_one_file(name, pack_run(run).parts())
        if len(page) > SENDABLE_BYTES:
            page = write_one_file(name, pack_run(run, texts_per_cluster=TEXTS_PER_CLUSTER).parts())
            tell(
                "the words of most texts are left out to keep the file small: quoted texts and "
                f"{TEXTS_PER_CLUSTER} per cluster are in it; --format folder holds all"
            )
        n_bytes = write_export_file(target, page)
    say(f"{target} ({n_bytes / 1e6:.1f} MB): open it in a browser, no server or network needed")
    return 0
