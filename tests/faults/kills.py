"""Starts audits in a nursery, kills them, and counts what the kills lost."""

from __future__ import annotations

import random
import shutil
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from tests.faults.nursery import KILLED, Child
from whatchanged.keys import file_digest
from whatchanged.store import atomic
from whatchanged.store.artifacts import ArtifactStore
from whatchanged.store.embeddings import EmbeddingCache
from whatchanged.store.runs import is_unfinished, load_run

# A fault point with its number ("store.mid_write:3"), or seconds.
Kill = str | float


@dataclass
class Kills:
    """What was killed so far, and what became of what had been finished by then.

    `begin(home, fault)` starts an audit whose cache and run folder (`run`) lie in `home`, with this
    WHATCHANGED_FAULT.
    """

    begin: Callable[[Path, str], Child]
    n_kills: int = 0
    n_lost: int = 0
    n_torn: int = 0

    def start(self, home: Path, kill: Kill | None = None) -> None:
        """Start an audit, and kill it at this point or after so many seconds, or not at all. What
        was finished must stay what it was, and nothing may be torn."""
        before = finished(home)
        child = self.begin(home, kill if isinstance(kill, str) else "")
        if isinstance(kill, float):
            time.sleep(kill)
            child.kill()
        status = child.wait()
        assert status == 0 or (status == KILLED and kill is not None), child.said()
        self.n_kills += status == KILLED
        after = finished(home)
        self.n_lost += sum(after.get(name) != digest for name, digest in before.items())
        self.n_torn += count_torn(home)

    def follow(self, home: Path, kills: Sequence[Kill]) -> None:
        """Start after start, each killed and the recovery from the one before it; the last one ends
        in peace."""
        for kill in kills:
            self.start(home, kill)
        self.start(home)

    def record(self, record_property: Callable[[str, object], None], name: str) -> None:
        """Put the counts into the report of the tests, the kills under a name of their own."""
        record_property(name, self.n_kills)
        record_property("results_lost", self.n_lost)
        record_property("files_torn", self.n_torn)
        assert (self.n_lost, self.n_torn) == (0, 0)


def at_random_moments(
    kills: Kills, folder: Path, n_kills: int, chain: int, check: Callable[[Path], object]
) -> None:
    """At least so many kills, `chain` starts in a row, at moments that are spread over the time
    that an audit takes; `check` looks at what each row of starts leaves."""
    begun = time.perf_counter()
    kills.follow(folder / "timed", ())
    duration = time.perf_counter() - begun
    draw, home = random.Random(n_kills), folder / "killed"
    while kills.n_kills < n_kills:
        n_before = kills.n_kills
        kills.follow(home, [draw.random() * duration for _ in range(chain)])
        check(home)
        shutil.rmtree(home)
        # A machine that others use is not always as slow as when the duration was taken.
        duration *= 1 if kills.n_kills == n_before + chain else 0.9


def finished(home: Path) -> dict[str, str]:
    """The digest of every artifact and of every paid answer."""
    store = ArtifactStore(home / "cache")
    return {
        **{f"artifact {key}": file_digest(store.path(key)) for key in store.list_keys()},
        **{f"answer {key}": digest for key, digest in read_answers(home / "cache")},
    }


def read_answers(cache: Path) -> list[tuple[str, str]]:
    """Key and digest of every paid answer, read without the ledger's own code."""
    if not (cache / "calls.sqlite").exists():
        return []
    with closing(sqlite3.connect(cache / "calls.sqlite")) as opened:
        if not opened.execute("SELECT * FROM sqlite_schema WHERE name = 'calls'").fetchall():
            return []
        wanted = "SELECT key, reply_digest FROM calls WHERE state = 'answered'"
        return opened.execute(wanted).fetchall()


def n_answers(found: Mapping[str, str]) -> int:
    return sum(name.startswith("answer ") for name in found)


def count_torn(home: Path) -> int:
    """How many files have a final name and are not whole."""
    store = ArtifactStore(home / "cache")
    n_torn = sum(not store.has(key) for key in store.list_keys())
    n_torn += EmbeddingCache(home / "cache").check().n_damaged
    run = home / "run"
    if (run / "manifest.json").exists():
        load_run(run)
    elif run.exists() and any(run.iterdir()):
        n_torn += not (
            is_unfinished(run) or all(atomic.is_temporary(path.name) for path in run.iterdir())
        )
    return n_torn


def sweep(home: Path) -> None:
    """Remove the temporaries that kills leave: they are known as such."""
    atomic.sweep(home)
    assert not any(atomic.is_temporary(path.name) for path in home.rglob("*"))
