"""One open LMDB environment per process and file, and what to do when LMDB raises.

LMDB forbids opening a file twice in one process and using an environment after a fork, needs its
map enlarged by hand, and trusts every page of the file. This module takes care of all four.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import lmdb

from whatchanged.errors import StorageError
from whatchanged.store import atomic
from whatchanged.store.artifacts import quarantine_path
from whatchanged.store.embedding_index import EmbeddingIndex
from whatchanged.store.lmdb_pages import find_damage, find_damage_in_header

# LMDB calls it an input/output error when a disk that fills up takes a part of a write.
_REFUSALS = (
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM,
)  # fmt: skip
_DAMAGE = (
    lmdb.CorruptedError,
    lmdb.InvalidError,
    lmdb.PageNotFoundError,
    lmdb.VersionMismatchError,
    lmdb.IncompatibleError,
)

# A writer may replace the header while it is read: a torn look is looked at again.
_OPEN_ATTEMPTS = 5

Result = TypeVar("Result")


class DamagedFileError(Exception):
    """The file with this inode is no sound LMDB file. Never leaves the store."""

    def __init__(self, reason: str, inode: int) -> None:
        super().__init__(reason)
        self.inode = inode


class Environment:
    """An open LMDB file and the indexes read from it. Used under `process_lock` only."""

    def __init__(self, path: Path, opened: Any) -> None:
        self.path = path
        self.indexes: dict[bytes, EmbeddingIndex] = {}
        self._opened = opened
        self._inode = path.stat().st_ino

    @contextmanager
    def begin(self, *, write: bool = False) -> Iterator[Any]:
        """A transaction that commits at the end, or leaves nothing where anything is raised."""
        with self._opened.begin(write=write, buffers=True) as transaction:
            # Reading mapped pages beyond the end of a cut file would kill the process.
            n_bytes = (self._opened.info()["last_pgno"] + 1) * self._opened.stat()["psize"]
            if self.path.stat().st_size < n_bytes:
                raise self.damaged(f"it has fewer than its {n_bytes:,} bytes")
            yield transaction

    def run(self, work: Callable[[Environment], Result], n_bytes: int) -> Result:
        """The work's result, with the map enlarged as often as it takes.

        Raises DamagedFileError, or StorageError where the disk refuses to take `n_bytes`.
        """
        while True:
            try:
                return work(self)
            except lmdb.MapFullError:
                size = self._opened.info()["map_size"]
                self._opened.set_mapsize(2 * size + n_bytes)
            except lmdb.MapResizedError:
                self._adopt_size()
            except lmdb.PanicError as error:
                self.close()
                raise StorageError(f"{self.path} could not be written: {error}") from error
            except _DAMAGE as error:
                raise self.damaged(str(error)) from error
            except lmdb.Error as error:
                raise _translated(error, self.path, n_bytes) from error

    def _adopt_size(self) -> None:
        """Take over the map size that another process stated in the file."""
        try:
            self._opened.set_mapsize(0)
        except lmdb.MemoryError as error:
            raise self.damaged(f"it states an impossible size: {error}") from error

    def is_current(self) -> bool:
        """Whether the path still leads to the file that was opened."""
        try:
            return self.path.stat().st_ino == self._inode
        except OSError:
            return False

    def damaged(self, reason: str) -> DamagedFileError:
        """The error that says why this file cannot be used."""
        return DamagedFileError(reason, self._inode)

    def check_pages(self) -> None:
        """Raises DamagedFileError where the tree of pages is not sound."""
        with self.begin() as transaction:
            if damage := find_damage(self.path, transaction.id()):
                raise self.damaged(damage)

    def close(self) -> None:
        _environments.pop(os.path.realpath(self.path), None)
        self._opened.close()


_environments: dict[str, Environment] = {}
_lock = threading.RLock()


def process_lock() -> threading.RLock:
    """The lock under which this process's threads use environments, one at a time."""
    return _lock


def open_environment(path: Path, map_bytes: int) -> Environment:
    """This process's environment of a file, which is created where missing.

    Raises DamagedFileError, or StorageError where the folder cannot be used.
    """
    known = _environments.get(os.path.realpath(path))
    if known is not None:
        if known.is_current():
            return known
        known.close()
    atomic.ensure_folder(path.parent)
    environment = _open_checked(path, map_bytes)
    _environments[os.path.realpath(path)] = environment
    return environment


def set_aside(path: Path, inode: int) -> Path | None:
    """Where the damaged file now lies in the quarantine; None where it was gone already."""
    if known := _environments.get(os.path.realpath(path)):
        known.close()
    try:
        if path.stat().st_ino != inode:
            return None
        aside = quarantine_path(path.parent, path.name)
        # A lock file states the last transaction of its data file: the two go together.
        path.with_name(f"{path.name}-lock").unlink(missing_ok=True)
        return path.rename(aside)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise atomic.storage_error(error, path, 0) from error


def _open_checked(path: Path, map_bytes: int) -> Environment:
    for _ in range(_OPEN_ATTEMPTS):
        inode, damage = _header_damage(path)
        if damage is None:
            break
    if damage is not None:
        raise DamagedFileError(damage, inode)
    try:
        # LMDB's own meminit stays on: without it, stray memory of the process gets into the file.
        opened = lmdb.open(str(path), subdir=False, map_size=map_bytes, max_readers=1024)
        opened.reader_check()
        environment = Environment(path, opened)
    except _DAMAGE as error:
        raise DamagedFileError(str(error), inode) from error
    except lmdb.Error as error:
        raise _translated(error, path, 0) from error
    try:
        environment.check_pages()
    except BaseException:
        opened.close()
        raise
    return environment


def _header_damage(path: Path) -> tuple[int, str | None]:
    try:
        with path.open("rb") as file:
            return os.fstat(file.fileno()).st_ino, find_damage_in_header(file)
    except FileNotFoundError:
        return 0, None
    except OSError as error:
        raise atomic.storage_error(error, path, 0) from error


def _translated(error: lmdb.Error, path: Path, n_bytes: int) -> Exception:
    """LMDB states the system's error in words only."""
    for code in _REFUSALS:
        if os.strerror(code) in str(error):
            return StorageError(atomic.refusal_sentence(code, path, n_bytes))
    return StorageError(f"cannot use {path}: {error}")


def _forget_after_fork() -> None:
    # An environment belongs to the process that opened it. In a child, lmdb's close only forgets
    # that the file is open, and leaves the parent's map and locks alone.
    global _lock
    for environment in list(_environments.values()):
        environment.close()
    _lock = threading.RLock()


os.register_at_fork(after_in_child=_forget_after_fork)
