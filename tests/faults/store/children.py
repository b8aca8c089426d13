"""Looks at what a worker of the store left behind when it was killed."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from tests.faults.nursery import KILLED, Nursery
from tests.faults.store.worker import D_EMBED, KEYS, ROW_KEYS, ROWS
from whatchanged.keys import file_digest
from whatchanged.store import atomic
from whatchanged.store.artifacts import ArtifactStore
from whatchanged.store.embeddings import EmbeddingCache
from whatchanged.store.runs import is_unfinished, load_run


def run(workers: Nursery, folder: Path, fault: str = "") -> int:
    """The exit status of a worker: 0, or -9 for a kill. Anything else fails with its own words."""
    child = workers.start(str(folder), WHATCHANGED_FAULT=fault)
    status = child.wait()
    assert status in (0, KILLED), child.said()
    return status


def seconds(workers: Nursery, folder: Path) -> float:
    """How long an undisturbed worker works."""
    begun = time.perf_counter()
    assert run(workers, folder) == 0
    return time.perf_counter() - begun


def assert_nothing_torn(folder: Path) -> None:
    """Every file under a final name is whole, whatever moment the worker was killed at."""
    store = ArtifactStore(folder / "cache")
    assert [key for key in store.list_keys() if not store.has(key)] == []
    cache = EmbeddingCache(folder / "cache")
    known, rows = cache.get_many("model", ROW_KEYS, D_EMBED)
    np.testing.assert_array_equal(rows[known], ROWS[known])
    assert cache.n_damaged == 0
    run = folder / "run"
    if (run / "manifest.json").exists():
        load_run(run)
    elif run.exists() and any(run.iterdir()):
        assert is_unfinished(run) or all(atomic.is_temporary(p.name) for p in run.iterdir())


def outputs(folder: Path) -> dict[str, str]:
    """What a finished worker leaves: digests of files, and that all rows are there.

    The database is compared by content: its pages depend on the number of commits.
    """
    known, rows = EmbeddingCache(folder / "cache").get_many("model", ROW_KEYS, D_EMBED)
    assert known.all()
    np.testing.assert_array_equal(rows, ROWS)
    assert all(ArtifactStore(folder / "cache").has(key) for key in KEYS)
    load_run(folder / "run")
    return {
        str(path.relative_to(folder)): file_digest(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith("embeddings.lmdb")
    }
