"""The ledger's SQLite file: its tables, how it is opened, and what is done when it is damaged."""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from whatchanged.errors import InputError, StorageError
from whatchanged.keys import content_key
from whatchanged.store import atomic
from whatchanged.store.artifacts import quarantine_path

SCHEMA_VERSION = 3
# The sums that every call is checked against, kept by SQLite itself: of a run, and under
# run/purpose of what is charged to one purpose.
_SUMS = (
    """CREATE TRIGGER hold AFTER INSERT ON calls BEGIN
        INSERT INTO runs VALUES
            (new.run, ifnull(new.held_usd, 0.0)),
            (new.run || '/' || new.purpose, ifnull(new.held_usd, 0.0))
        ON CONFLICT (run) DO UPDATE SET held_usd = held_usd + excluded.held_usd;
    END""",
    """CREATE TRIGGER settle AFTER UPDATE OF held_usd ON calls BEGIN
        UPDATE runs SET held_usd = held_usd + ifnull(new.held_usd, 0.0) - ifnull(old.held_usd, 0.0)
        WHERE run IN (new.run, new.run || '/' || new.purpose);
    END""",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)
_SCHEMA = (
    """CREATE TABLE calls (
        id INTEGER PRIMARY KEY,
        token TEXT NOT NULL,
        key TEXT NOT NULL,
        run TEXT NOT NULL,
        provider TEXT NOT NULL,
        model TEXT NOT NULL,
        state TEXT NOT NULL,
        reason TEXT NOT NULL,
        reply BLOB,
        reply_digest TEXT,
        cost_usd REAL,
        held_usd REAL,
        started_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP,
        finished_at TEXT,
        purpose TEXT NOT NULL DEFAULT ''
    )""",
    "CREATE UNIQUE INDEX calls_by_key ON calls (key, token)",
    "CREATE INDEX calls_by_run ON calls (run)",
    "CREATE TABLE runs (run TEXT PRIMARY KEY, held_usd REAL NOT NULL) WITHOUT ROWID",
    *_SUMS,
)
# By the version to upgrade from. Version 1 did not say what a call was for, version 2 kept no sum
# per purpose.
_UPGRADES = {
    1: ("ALTER TABLE calls ADD COLUMN purpose TEXT NOT NULL DEFAULT ''",),
    2: (
        "DROP TRIGGER hold",
        "DROP TRIGGER settle",
        "INSERT INTO runs SELECT run || '/' || purpose, total(held_usd) FROM calls"
        " GROUP BY run, purpose",
        *_SUMS,
    ),
}
_N_COLUMNS = 15
# Statements are constant: where SQLite finds one wrong (ERROR) or a constraint broken, the tables
# are not those that were made.
_DAMAGE = frozenset({
    sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CONSTRAINT,
})  # fmt: skip
_REFUSALS = {
    sqlite3.SQLITE_FULL: errno.ENOSPC,
    sqlite3.SQLITE_READONLY: errno.EACCES,
    sqlite3.SQLITE_CANTOPEN: errno.EACCES,
    sqlite3.SQLITE_PERM: errno.EACCES,
    # How SQLite tells of a limit on the size of files, and of a disk that takes a part of a write.
    sqlite3.SQLITE_IOERR_WRITE: errno.EIO,
    sqlite3.SQLITE_IOERR_TRUNCATE: errno.EIO,
    sqlite3.SQLITE_IOERR_FSYNC: errno.EIO,
    sqlite3.SQLITE_IOERR_SHMSIZE: errno.EIO,
}
_PAGE_BYTES = 4096
# The texts of a row that every call has are longer than this together.
_MIN_ROW_BYTES = 160

Result = TypeVar("Result")


class LedgerFile:
    """One SQLite file, opened when it is first used, by one thread of the process at a time.

    Between processes, SQLite's own lock is waited for up to `busy_s` seconds. `repairs`
    says of each repair what was damaged.
    """

    def __init__(self, path: Path, busy_s: float) -> None:
        self.path = path
        self.repairs: list[str] = []
        self._busy_s = busy_s
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._inode = 0
        self._pid = os.getpid()

    def use(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        """The work's result, on a file that is repaired where it proves damaged.

        Raises StorageError where the disk refuses, InputError for a file of a newer version.
        """
        self._forget_after_fork()
        with self._lock:
            for _ in range(3):
                try:
                    return work(self._connect())
                except _ReplacedError:
                    self._disconnect()
                except (sqlite3.Error, _DamagedError) as error:
                    self._disconnect()
                    if isinstance(error, sqlite3.Error) and _code(error) not in _DAMAGE:
                        raise self._refusal(error) from error
                    self._repair(error)
                except BaseException:
                    self._disconnect()
                    raise
        raise StorageError(f"{self.path} is damaged again and again: check the disk")

    @contextmanager
    def transaction(self, connection: sqlite3.Connection) -> Iterator[None]:
        """A transaction that is on the disk at the end, or leaves nothing."""
        connection.execute("BEGIN IMMEDIATE")
        # Another process may have repaired the file while this one waited for its lock.
        if not self._is_current():
            raise _ReplacedError
        yield
        connection.execute("COMMIT")

    def check(self) -> int:
        """Read everything back: SQLite's own check, and the digest of every reply; the number of
        calls. Damage is repaired as by `use`, and replies that are not sound are given up."""

        def scan(connection: sqlite3.Connection) -> int:
            if (problem := connection.execute("PRAGMA integrity_check(1)").fetchone()[0]) != "ok":
                raise _DamagedError(str(problem))
            rows = connection.execute("SELECT key, reply, reply_digest FROM calls")
            n_calls = n_damaged = 0
            for key, data, digest in rows:
                n_calls += 1
                n_damaged += data is not None and not is_sound(key, data, digest)
            if n_damaged:
                raise _DamagedError(f"{n_damaged:,} replies do not match their digests")
            return n_calls

        return self.use(scan)

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        self._forget_after_fork()
        with self._lock:
            self._disconnect()

    def _connect(self) -> sqlite3.Connection:
        if self._connection is not None:
            if self._is_current():
                return self._connection
            self._disconnect()
        atomic.ensure_folder(self.path.parent)
        try:
            self.path.touch()
            self._inode = self.path.stat().st_ino
        except OSError as error:
            raise atomic.storage_error(error, self.path, 0) from error
        self._connection = _connection(self.path, self._busy_s)
        _use_wal(self._connection, self._busy_s)
        self._connection.execute("PRAGMA synchronous = FULL")
        with self.transaction(self._connection):
            _check_tables(self._connection, self.path)
        return self._connection

    def _repair(self, error: Exception) -> None:
        """Set the file aside and put its readable calls into a new one, unless another process did.

        The new file takes the old one's place in one step. Writers that wait for the old file's
        lock then find it replaced.
        """
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            if not self._is_current():
                return
            with closing(_connection(self.path, self._busy_s)) as damaged:
                _lock_out_writers(damaged)
                rows = list(_readable_rows(damaged, self._n_bytes()))
                aside = self._replace(_new_file(rows))
        except OSError as refused:
            raise atomic.storage_error(refused, self.path, _PAGE_BYTES) from refused
        except sqlite3.Error as refused:
            raise self._refusal(refused) from refused
        finally:
            os.close(folder)
        reason = " ".join(str(error).split())
        self.repairs.append(
            f"the ledger of paid calls {self.path} is damaged ({reason}): moved to {aside};"
            f" {len(rows):,} of its calls can be read and were kept, any others are paid for again"
        )
        warnings.warn(self.repairs[-1], stacklevel=4)

    def _replace(self, data: bytes) -> Path:
        aside = quarantine_path(self.path.parent, self.path.name)
        wal = self.path.with_name(f"{self.path.name}-wal")
        aside.hardlink_to(self.path)
        if wal.exists() and wal.stat().st_size > 0:
            wal.rename(aside.with_name(f"{aside.name}-wal"))
        self.path.with_name(f"{self.path.name}-shm").unlink(missing_ok=True)
        atomic.replace(self.path, data)
        return aside

    def _n_bytes(self) -> int:
        wal = self.path.with_name(f"{self.path.name}-wal")
        return self.path.stat().st_size + (wal.stat().st_size if wal.exists() else 0)

    def _refusal(self, error: sqlite3.Error) -> StorageError:
        code = _code(error)
        number = _REFUSALS.get(_extended_code(error), _REFUSALS.get(code))
        if number is not None:
            return StorageError(atomic.refusal_sentence(number, self.path, _PAGE_BYTES))
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return StorageError(
                f"expected to write to {self.path} within {self._busy_s:g} s, found another process"
                " writing: wait for it or stop it, then run again: nothing that was stored is lost"
            )
        return StorageError(f"cannot use {self.path}: {error}: check the disk, then run again")

    def _is_current(self) -> bool:
        try:
            return self.path.stat().st_ino == self._inode
        except OSError:
            return False

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _forget_after_fork(self) -> None:
        # SQLite forbids a child to use, or even to close, its parent's connection.
        if self._pid != os.getpid():
            _inherited.append(self._connection)
            self._connection, self._lock, self._pid = None, threading.Lock(), os.getpid()


class _DamagedError(Exception):
    """The file is not what was written."""


class _ReplacedError(Exception):
    """The path no longer leads to the file that is open."""


_inherited: list[sqlite3.Connection | None] = []


def _connection(path: Path | str, busy_s: float) -> sqlite3.Connection:
    """A connection without implicit transactions, which reads damaged text as it is."""
    connection = sqlite3.connect(
        path, timeout=busy_s, isolation_level=None, check_same_thread=False
    )
    connection.text_factory = lambda data: data.decode("utf-8", "replace")
    return connection


def _use_wal(connection: sqlite3.Connection, busy_s: float) -> None:
    # SQLite does not wait for others while it changes the mode of a new file.
    give_up_at = time.monotonic() + busy_s
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if _code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > give_up_at:
                raise
            time.sleep(0.01)


def _check_tables(connection: sqlite3.Connection, path: Path) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (n_tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if version > SCHEMA_VERSION:
        raise InputError(
            f"expected a ledger of version {SCHEMA_VERSION} or older at {path}, found version"
            f" {version}: use the newer whatchanged, or set WHATCHANGED_CACHE to another folder"
        )
    if version == 0 and n_tables == 0:
        _create_tables(connection)
        return
    if version < 1:
        raise _DamagedError(f"it states version {version}")
    if (problem := connection.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
        raise _DamagedError(str(problem))
    for earlier in range(version, SCHEMA_VERSION):
        for statement in _UPGRADES[earlier]:
            connection.execute(statement)


def _create_tables(connection: sqlite3.Connection) -> None:
    for statement in _SCHEMA:
        connection.execute(statement)


def _new_file(rows: Iterable[tuple[Any, ...]]) -> bytes:
    with closing(_connection(":memory:", 0.0)) as connection:
        _create_tables(connection)
        places = ", ".join("?" * _N_COLUMNS)
        connection.execute("BEGIN")
        connection.executemany(f"INSERT OR IGNORE INTO calls VALUES ({places})", rows)  # noqa: S608
        connection.execute("COMMIT")
        return connection.serialize()


def _lock_out_writers(damaged: sqlite3.Connection) -> None:
    try:
        damaged.execute("BEGIN IMMEDIATE")
    except sqlite3.Error as error:
        # A file that cannot even be locked is one that nobody writes to.
        if _code(error) not in _DAMAGE:
            raise


def _readable_rows(damaged: sqlite3.Connection, n_bytes: int) -> Iterator[tuple[Any, ...]]:
    """Every call that SQLite can still read: a range that it cannot read is halved again and
    again, down to single calls. Numbers of calls are dense, so the file's size bounds them."""
    try:
        damaged.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    except sqlite3.Error:
        return
    ranges = [(0, n_bytes // _MIN_ROW_BYTES)]
    while ranges:
        low, high = ranges.pop()
        try:
            rows = damaged.execute(
                "SELECT * FROM calls NOT INDEXED WHERE id BETWEEN ? AND ?", (low, high)
            ).fetchall()
        except sqlite3.Error:
            middle = (low + high) // 2
            if low < high:
                ranges += [(middle + 1, high), (low, middle)]
        else:
            # A file of version 1 lacks the last column.
            whole = (row + ("",) * (len(row) == _N_COLUMNS - 1) for row in rows)
            yield from (_without_damaged_reply(row) for row in whole if _is_plausible(row))


def _is_plausible(row: tuple[Any, ...]) -> bool:
    if len(row) != _N_COLUMNS:
        return False
    texts, (cost, held) = (*row[1:8], row[14]), row[10:12]
    return all(isinstance(text, str) for text in texts) and all(
        usd is None or (isinstance(usd, float) and usd >= 0) for usd in (cost, held)
    )


def _without_damaged_reply(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """The call, which counts for the budget, as one that failed where its reply is not sound."""
    key, data, digest = row[2], row[8], row[9]
    if data is None or is_sound(key, data, digest):
        return row
    return (*row[:6], "failed", "the stored reply was damaged", None, None, *row[10:])


def reply_digest(key: str, data: bytes) -> str:
    """What a reply's bytes are checked against; `key` is that of its request."""
    return content_key("call-reply/1", key, data)


def is_sound(key: str, data: object, digest: object) -> bool:
    """Whether a reply's bytes are what was written."""
    return isinstance(data, bytes) and digest == reply_digest(key, data)


def _code(error: sqlite3.Error) -> int:
    return _extended_code(error) & 0xFF


def _extended_code(error: sqlite3.Error) -> int:
    return int(getattr(error, "sqlite_errorcode", 0))
