"""Files that appear whole or not at all, whatever kills the process or fills the disk.

Bytes go to a temporary file in the same folder, reach the disk, and only then get their final
name. The temporary's name states its host and process, so that `sweep` removes what a killed
process left and touches nobody's work in progress.
"""

from __future__ import annotations

import errno
import itertools
import os
import re
import shutil
import socket
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from whatchanged.errors import StorageError
from whatchanged.store.faults import point

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_FORBIDDEN = frozenset({errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST})
_NO_HARD_LINKS = frozenset(
    {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EACCES}
)
_TEMPORARY = re.compile(r"\..*\.(?P<owner>[A-Za-z0-9_-]+)\.(?P<pid>\d+)\.\d+\.tmp")
_FOREIGN_AGE_S = 86_400
_serial = itertools.count()


def publish(path: Path, *parts: bytes | memoryview) -> bool:
    """Whether these bytes are now at `path`: False where another file already was, untouched.

    Of several publishers the first one wins, and no reader ever sees a change. On a file system
    without hard links the last check and the move are two steps: there, two publishers at the
    very same moment may both return True, and the later one's file stays.

    Raises StorageError where the disk refuses; then nothing is left at `path`.
    """
    if os.path.lexists(path):
        return False
    n_bytes = sum(len(part) for part in parts)
    try:
        temporary = _write_temporary(path, parts)
        try:
            point("store.before_publish")
            published = _name_if_absent(temporary, path)
            point("store.after_publish")
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(path.parent)
    except OSError as error:
        raise storage_error(error, path, n_bytes) from error
    return published


def replace(path: Path, *parts: bytes | memoryview) -> None:
    """Put these bytes at `path`, over whatever is there; the old file stays until then.

    Raises StorageError where the disk refuses; the old file is then still there.
    """
    n_bytes = sum(len(part) for part in parts)
    try:
        temporary = _write_temporary(path, parts)
        try:
            point("store.before_publish")
            temporary.replace(path)
            point("store.after_publish")
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(path.parent)
    except OSError as error:
        raise storage_error(error, path, n_bytes) from error


def ensure_folder(folder: Path) -> Path:
    """The folder, made where it is missing. Raises StorageError where that is refused."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(error, folder, 0) from error
    return folder


def sweep(folder: Path) -> int:
    """How many stray temporaries below `folder` were removed.

    A temporary is stray when its process is gone, or, where another host wrote it, after a day.
    """
    n_swept = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            if (match := _TEMPORARY.fullmatch(name)) and _is_stray(Path(parent, name), match):
                Path(parent, name).unlink(missing_ok=True)
                n_swept += 1
    return n_swept


def is_temporary(name: str) -> bool:
    """Whether a file of this name is a temporary of `publish` or `replace`."""
    return _TEMPORARY.fullmatch(name) is not None


def refusal_code(error: OSError) -> int | None:
    """The error's number where it means that the disk refused a write, else None."""
    return error.errno if error.errno in _FULL | _FORBIDDEN else None


def storage_error(error: OSError, path: Path, n_bytes: int) -> Exception:
    """The StorageError that says what to do; the error itself where it is no refusal to write."""
    code = refusal_code(error)
    if code is None:
        return error
    return StorageError(refusal_sentence(code, path, n_bytes))


def refusal_sentence(code: int, path: Path, n_bytes: int) -> str:
    """What was being written, how much of it, how much is free, and what to do."""
    elsewhere = "set WHATCHANGED_CACHE (the cache) or --run-dir (a run) to another folder"
    if code in _FORBIDDEN:
        advice = f"make {path.parent} a folder that you may write to, or {elsewhere}"
    else:
        limit = " or raise the file size limit (ulimit -f)" if code == errno.EFBIG else ""
        advice = f"free space{limit}, or {elsewhere}"
    return (
        f"cannot write {path} ({n_bytes:,} bytes): {os.strerror(code)}; {_free_bytes(path):,} bytes"
        f" are free there; {advice}, then run again: nothing that was stored is lost"
    )


def _write_temporary(path: Path, parts: Sequence[bytes | memoryview]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    point("store.before_write")
    temporary, file = _open_temporary(path)
    try:
        try:
            for part in parts:
                middle = len(part) // 2
                _write_all(file, memoryview(part)[:middle])
                point("store.mid_write")
                _write_all(file, memoryview(part)[middle:])
            os.fsync(file)
        finally:
            os.close(file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    point("store.after_write")
    return temporary


def _open_temporary(path: Path) -> tuple[Path, int]:
    # A recycled process number may meet a stray of the same name: the serial moves past it.
    while True:
        name = f".{path.name[:100]}.{_owner()}.{os.getpid()}.{next(_serial)}.tmp"
        temporary = path.with_name(name)
        try:
            return temporary, os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            continue


def _write_all(file: int, data: memoryview) -> None:
    while data:
        data = data[os.write(file, data) :]


def _name_if_absent(temporary: Path, path: Path) -> bool:
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        if os.path.lexists(path):
            return False
        temporary.rename(path)
    return True


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some network and user-space file systems cannot sync a folder; the file itself is synced.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP):
            raise
    finally:
        os.close(handle)


@cache
def _owner() -> str:
    """Where this process's number means something: the host, and its namespace of processes."""
    try:
        namespace = Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        namespace = 0
    return re.sub(r"[^A-Za-z0-9_-]", "-", socket.gethostname())[:64] + f"-{namespace}"


def _is_stray(temporary: Path, match: re.Match[str]) -> bool:
    if match["owner"] == _owner():
        return not _is_alive(int(match["pid"]))
    try:
        return time.time() - temporary.stat().st_mtime > _FOREIGN_AGE_S
    except FileNotFoundError:
        return False


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _free_bytes(path: Path) -> int:
    folder = next(parent for parent in path.absolute().parents if parent.is_dir())
    return shutil.disk_usage(folder).free
