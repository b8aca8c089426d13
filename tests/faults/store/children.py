"""Starts the worker, kills it, and looks at what it left."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from tests.faults.store.worker import D_EMBED, KEYS, ROW_KEYS, ROWS
from whatchanged.keys import file_digest
from whatchanged.store import atomic
from whatchanged.store.artifacts import ArtifactStore
from whatchanged.store.embeddings import EmbeddingCache
from whatchanged.store.runs import is_unfinished, load_run

KILLED = -9
ROOT = Path(__file__).parents[3]


def start(folder: Path, *more: str, fault: str = "") -> subprocess.Popen[bytes]:
    """A worker that has begun its work."""
    child = subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "tests.faults.store.worker", str(folder), *more],
        env=os.environ | {"WHATCHANGED_FAULT": fault},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"ready\n"
    return child


def finish(child: subprocess.Popen[bytes]) -> int:
    """The exit status: 0, or -9 for a kill. Anything else fails with the worker's own words."""
    _, errors = child.communicate(timeout=60)
    assert child.returncode in (0, KILLED), errors.decode()
    return child.returncode


def seconds(folder: Path) -> float:
    """How long an undisturbed worker works after "ready"."""
    child = start(folder)
    begun = time.perf_counter()
    assert finish(child) == 0
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
