"""The dashboard of a finished run as a folder that opens by double-click."""

from __future__ import annotations

from pathlib import Path

from whatchanged.dashboard.pack import pack_run
from whatchanged.dashboard.shell import write_folder
from whatchanged.store.exports import INDEX, write_export_folder
from whatchanged.store.runs import Run


def export_folder(run: Run, folder: Path | None = None) -> tuple[Path, int]:
    """The page that opens it, and the bytes of everything; by default in `dashboard/` of the run.

    Raises InputError for a folder that holds something else, StorageError where the disk refuses.
    """
    folder = run.path / "dashboard" if folder is None else folder
    parts = pack_run(run).parts()
    n_bytes = write_export_folder(folder, write_folder(run.path.resolve().name, parts))
    return folder / INDEX, n_bytes
