"""The ledger of paid calls: an intent before each call, its result after, both on the disk.

One SQLite file, `calls.sqlite`, in WAL mode with `synchronous=FULL`: what is committed survives a
kill and a power cut. An answer that was paid for is never paid for again. The file belongs on a
local disk: SQLite's shared memory does not work across machines, and nothing is promised there.

What the budget counts for a call (`held_usd`) is its worst case while it is in flight, then its
cost. A call whose bill nobody knows (its process was killed, the connection broke) stays at its
worst case until a reply to the same request comes in the same run, then counts like that one.
"""

from __future__ import annotations

import copy
import sqlite3
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from whatchanged.models.call_ledger import CallEntry, CallIntent, CallOutcome, PaidReply
from whatchanged.models.chat import ChatReply
from whatchanged.store import codec
from whatchanged.store.ledger_file import LedgerFile, is_sound, reply_digest

# Dollars are floats: a budget of 1.00 takes ten calls of 0.10.
_TOLERANCE = 1e-9


@dataclass(frozen=True, slots=True)
class LedgerTotals:
    """What a run's calls came to. Every try is a call; what the ledger answered is none.

    `n_open` calls have no result: they are in flight, or their process was killed. `n_unusable`
    got a reply that is no answer, `n_failed` none. `spent_usd` is the sum of the known costs;
    `n_unknown` calls ended and may have cost something that nobody stated. `held_usd` is what the
    budget counts for all of them. `n_tokens_in` and `n_tokens_out` are what the replies state, None
    where none does.
    """

    n_calls: int
    n_answered: int
    n_unusable: int
    n_failed: int
    n_open: int
    n_unknown: int
    spent_usd: float
    held_usd: float
    n_tokens_in: int | None
    n_tokens_out: int | None


class Ledger:
    """The paid calls of one run, and the answers of all runs that share the cache folder.

    `run` names what the budget is counted for, over all its restarts. Safe for threads, forks and
    several processes at once. Methods raise StorageError where the disk refuses or another process
    writes for longer than `busy_s` seconds, InputError for a file that a newer version wrote. A
    damaged file is moved to `quarantine/` with a warning, and the calls that can be read are kept.
    """

    def __init__(self, root: Path, run: str, *, busy_s: float = 60.0) -> None:
        self.path = root / "calls.sqlite"
        self.run = run
        self.purpose = ""
        self._file = LedgerFile(self.path, busy_s)

    def charged_to(self, purpose: str) -> Ledger:
        """The same ledger, whose calls are counted under this name (`totals`)."""
        charged = copy.copy(self)
        charged.purpose = purpose
        return charged

    def recall(self, keys: Sequence[str]) -> dict[str, PaidReply]:
        """The usable replies to the requests of these keys, whichever run paid for them.

        A reply that is not what was written is left out.
        """

        def read(connection: sqlite3.Connection) -> dict[str, PaidReply]:
            found = ((key, _sound_reply(connection, key)) for key in keys)
            return {key: paid for key, paid in found if paid is not None}

        return self._file.use(read)

    def write(
        self,
        entries: Sequence[CallEntry],
        max_usd: float | None,
        own_max_usd: float | None = None,
    ) -> list[float | None]:
        """Commit these entries together; they are on the disk when this returns.

        For an intent that could bring the run's bill above `max_usd`, or what is charged to this
        ledger's purpose above `own_max_usd`: the dollars that are held already, and the intent is
        not written. None for everything that was.
        """
        caps = [(self.run, max_usd), (f"{self.run}/{self.purpose}", own_max_usd)]
        known = [(account, cap) for account, cap in caps if cap is not None]

        def commit(connection: sqlite3.Connection) -> list[float | None]:
            with self._file.transaction(connection):
                return [self._enter(connection, entry, known) for entry in entries]

        return self._file.use(commit)

    def totals(self, purpose: str | None = None) -> LedgerTotals:
        """What this run's calls came to so far: those of one purpose, or all."""
        which = "FROM calls WHERE run = ? AND purpose = ifnull(?, purpose)"

        def read(connection: sqlite3.Connection) -> LedgerTotals:
            row = connection.execute(
                "SELECT count(*), total(state = 'answered'), total(state = 'unusable'),"
                " total(state = 'failed'), total(state = 'open'),"
                " total(state != 'open' AND cost_usd IS NULL), total(cost_usd), total(held_usd)"
                f" {which}",
                (self.run, purpose),
            ).fetchone()
            replies = connection.execute(
                f"SELECT key, reply, reply_digest {which}",
                (self.run, purpose),
            )
            figures: list[Any] = [*map(int, row[:6]), *row[6:], *_count_tokens(replies)]
            return LedgerTotals(*figures)

        return self._file.use(read)

    def check(self) -> tuple[int, list[str]]:
        """Read the whole file back: the number of calls in it, and a sentence for each repair.

        A damaged file is set aside, and the calls and replies that are sound are kept.
        """
        with warnings.catch_warnings():
            # The caller says it.
            warnings.simplefilter("ignore")
            n_calls = self._file.check()
        return n_calls, list(self._file.repairs)

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        self._file.close()

    def _enter(
        self, connection: sqlite3.Connection, entry: CallEntry, caps: Sequence[tuple[str, float]]
    ) -> float | None:
        if isinstance(entry, CallIntent):
            return self._start(connection, entry, caps)
        self._finish(connection, entry)
        return None

    def _start(
        self, connection: sqlite3.Connection, intent: CallIntent, caps: Sequence[tuple[str, float]]
    ) -> float | None:
        for account, max_usd in caps:
            held = _held_usd(connection, account)
            if held + (intent.worst_usd or 0.0) > max_usd * (1 + _TOLERANCE):
                return held
        connection.execute(
            "INSERT INTO calls (token, key, run, provider, model, purpose, state, reason, held_usd)"
            " VALUES (?, ?, ?, ?, ?, ?, 'open', '', ?)",
            (*self._names(intent), intent.worst_usd),
        )
        return None

    def _finish(self, connection: sqlite3.Connection, outcome: CallOutcome) -> None:
        key, cost = outcome.request.key, outcome.cost_usd
        data = None if outcome.reply is None else codec.json_bytes(asdict(outcome.reply))
        state = "failed" if data is None else "answered" if outcome.is_usable else "unusable"
        digest = None if data is None else reply_digest(key, data)
        # Inserted where the intent is gone with a damaged file: a reply that was paid for is kept.
        # Without a known cost, the worst case stays held.
        connection.execute(
            "INSERT INTO calls (token, key, run, provider, model, purpose, state, reason, reply,"
            " reply_digest, cost_usd, held_usd, finished_at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, CURRENT_TIMESTAMP)"
            " ON CONFLICT (key, token) DO UPDATE SET state = excluded.state,"
            " reason = excluded.reason, reply = excluded.reply,"
            " reply_digest = excluded.reply_digest, cost_usd = excluded.cost_usd,"
            " held_usd = ifnull(excluded.cost_usd, held_usd), finished_at = excluded.finished_at",
            (*self._names(outcome), state, codec.escape_text(outcome.reason), data, digest, cost,
             cost),
        )  # fmt: skip
        if data is not None and cost is not None:
            connection.execute(
                # Left to itself, SQLite walks over all calls of the run.
                "UPDATE calls INDEXED BY calls_by_key SET held_usd = ? WHERE key = ? AND run = ?"
                " AND cost_usd IS NULL AND reply IS NULL AND held_usd > ?",
                (cost, key, self.run, cost),
            )

    def _names(self, entry: CallEntry) -> tuple[str, str, str, str, str, str]:
        request = entry.request
        return entry.token, request.key, self.run, request.provider, request.model, self.purpose


def _held_usd(connection: sqlite3.Connection, account: str) -> float:
    found = connection.execute("SELECT held_usd FROM runs WHERE run = ?", (account,))
    row = found.fetchone()
    return 0.0 if row is None else float(row[0])


def _sound_reply(connection: sqlite3.Connection, key: str) -> PaidReply | None:
    rows = connection.execute(
        "SELECT reply, reply_digest, cost_usd FROM calls WHERE key = ? AND state = 'answered'"
        " ORDER BY id DESC",
        (key,),
    )
    for data, digest, cost in rows:
        if is_sound(key, data, digest):
            return PaidReply(ChatReply(**codec.json_value(data)), cost)
    return None


def _count_tokens(
    rows: Iterable[tuple[str, object, object]],
) -> tuple[int | None, int | None]:
    """Tokens in and out of replies (key, bytes, digest); None where no sound one states them."""
    sound = [codec.json_value(cast(bytes, row[1])) for row in rows if is_sound(*row)]
    n_in, n_out = (
        [int(reply[name]) for reply in sound if reply[name] is not None]
        for name in ("n_tokens_in", "n_tokens_out")
    )
    return sum(n_in) if n_in else None, sum(n_out) if n_out else None
