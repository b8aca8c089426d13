"""Exports: files made from a run for other people, written where the user says."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from whatchanged.errors import InputError
from whatchanged.store import atomic, codec

INDEX = "index.html"
LISTING = "export.json"
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


def write_listed_folder(folder: Path, format: str, files: Iterable[tuple[str, bytes]]) -> int:
    """Write these files into a folder of their own, beside a listing; how many bytes they have.

    The listing names every file before it is there. An earlier export of this format is replaced:
    what it had and this one has not is removed. Raises InputError, and changes nothing, where the
    folder holds a file that no such listing names; StorageError where the disk refuses.
    """
    earlier = _listed_files(folder, format)
    written: dict[str, None] = {}
    n_bytes = 0
    for name, data in files:
        written[name] = None
        _write_listing(folder, format, {*earlier, *written})
        atomic.replace(folder / name, data)
        n_bytes += len(data)
    for name in earlier - written.keys():
        (folder / name).unlink(missing_ok=True)
    _write_listing(folder, format, written)
    return n_bytes


def write_export_file(path: Path, data: bytes, *, replace: bool = False) -> int:
    """Write one file; how many bytes it has.

    Raises InputError where there is a folder, or, unless it may `replace` it, a file.
    """
    if path.is_dir():
        raise InputError(f"expected a file name at {path}, found a folder: choose another --out")
    if replace:
        atomic.replace(path, data)
    elif not atomic.publish(path, data):
        raise InputError(
            f"expected no file at {path} yet, found one: remove it or choose another --out"
        )
    return len(data)


def _listed_files(folder: Path, format: str) -> set[str]:
    """The files of an earlier export of this format; none where the folder is empty or missing."""
    if not folder.exists():
        return set()
    if not folder.is_dir():
        raise InputError(f"expected a folder at {folder}, found a file: choose another --out")
    held = {path.name for path in folder.iterdir() if not atomic.is_temporary(path.name)}
    try:
        listing = json.loads((folder / LISTING).read_bytes())
        listed = set(listing["files"]) if listing["format"] == format else set()
    except (OSError, ValueError, KeyError, TypeError):
        listed = set()
    if strange := held - listed - ({LISTING} if listed else set()):
        raise InputError(
            f"expected an empty folder or an earlier export of {format} at {folder}, found "
            f"{min(strange)!r}: choose another --out"
        )
    return listed & held


def _write_listing(folder: Path, format: str, names: Iterable[str]) -> None:
    listing = {"format": format, "files": sorted(names)}
    atomic.replace(folder / LISTING, codec.json_bytes(listing, indent=1))
