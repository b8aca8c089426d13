"""Exports: files made from a run for other people, written where the user says."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from whatchanged.errors import InputError
from whatchanged.store import atomic

INDEX = "index.html"
_MARKER = "data/manifest.js"


def write_export_folder(folder: Path, files: Iterable[tuple[str, bytes]]) -> int:
    """Write these files into a folder of their own; how many bytes they have together.

    An earlier export there is replaced: what it had and this one has not is removed. `index.html`
    must come last: where it is, everything else is. Raises InputError where the folder holds
    something else, and StorageError where the disk refuses.
    """
    if folder.is_dir() and any(folder.iterdir()) and not (folder / _MARKER).exists():
        raise InputError(
            f"expected an empty folder or an earlier export at {folder}, found "
            f"{min(entry.name for entry in folder.iterdir())!r}: choose another --out"
        )
    if folder.exists() and not folder.is_dir():
        raise InputError(f"expected a folder at {folder}, found a file: choose another --out")
    (folder / INDEX).unlink(missing_ok=True)
    written: set[Path] = set()
    n_bytes = 0
    for name, data in files:
        path = folder / name
        atomic.replace(path, data)
        written.add(path)
        n_bytes += len(data)
    for path in (folder / "data").rglob("*.js"):
        if path not in written:
            path.unlink()
    return n_bytes


def write_export_file(path: Path, data: bytes) -> int:
    """Write one file over whatever is there; how many bytes it has."""
    if path.is_dir():
        raise InputError(f"expected a file name at {path}, found a folder: choose another --out")
    atomic.replace(path, data)
    return len(data)
