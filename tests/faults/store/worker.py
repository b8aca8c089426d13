"""A small run that stores something through every door; resumable, the same at every start.

`main(FOLDER)` does the whole of it below FOLDER. `main(FOLDER, "race", N_KEYS, N_TURNS, BEGIN_AT)`
puts values of its own under keys that all racers share, "race-objects" as artifacts only.
"""

from __future__ import annotations

import json
import os
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

# Imported here, because a nursery's children import nothing.
import pyarrow.parquet  # noqa: F401
import safetensors.numpy  # noqa: F401

from whatchanged.keys import bytes_digest, content_key
from whatchanged.store.artifacts import ArtifactStore
from whatchanged.store.embeddings import EmbeddingCache
from whatchanged.store.runs import RunFolder

D_EMBED = 48
N_ROWS = 240
KEYS = [content_key("artifact", i) for i in range(4)]
ROW_KEYS = [content_key("row", i) for i in range(N_ROWS)]
ROWS = np.random.default_rng(0).standard_normal((N_ROWS, D_EMBED)).astype(np.float32)
PAYLOAD = list(range(3000))
SLOT_S = 0.003


def work(folder: Path) -> None:
    store, cache = ArtifactStore(folder / "cache"), EmbeddingCache(folder / "cache")
    run = RunFolder.create(folder / "run")
    run.write_config("seed: 0\n")
    for i, key in enumerate(KEYS[:2]):
        if not store.has(key):
            store.put_json(key, {"index": i, "payload": PAYLOAD})
    for start in range(0, N_ROWS, 80):
        part = slice(start, start + 80)
        known, _ = cache.get_many("model", ROW_KEYS[part], D_EMBED)
        if not known.all():
            cache.put_many("model", ROW_KEYS[part], ROWS[part])
    for i, key in enumerate(KEYS[2:]):
        if not store.has(key):
            store.put_arrays(key, {"rows": ROWS + i})
    run.write_json("summary", {"stop_reason": "done"})
    run.write_json("findings", [{"id": "h1"}])
    run.write_bytes("figures/a.svg", b"<svg/>" * 2000)
    run.finish({"decode": KEYS[0]}, {"whatchanged": "test"}, now=datetime.fromtimestamp(0, UTC))


def race(folder: Path, n_keys: int, n_turns: int, begin_at: float, *, with_rows: bool) -> None:
    """Comes to each key when all racers do, `begin_at` being the time of `time.monotonic` of the
    first. Prints, as JSON, the digest of what this racer read first under each key, how often it
    read, how many reads differed from the first of their key, and what it found damaged."""
    store, cache = ArtifactStore(folder), EmbeddingCache(folder, map_bytes=256 * 1024)
    mine = os.getpid()
    seen: dict[str, str] = {}
    first_rows: dict[str, bytes] = {}
    n_reads = n_changed = 0
    for turn in range(n_turns):
        for number, key in enumerate(content_key("race", i) for i in range(n_keys)):
            time.sleep(max(0.0, begin_at + SLOT_S * number - time.monotonic()))
            store.put_json(key, {"writer": mine, "turn": turn})
            read = bytes_digest(store.path(key).read_bytes())
            n_reads += 1
            n_changed += seen.setdefault(key, read) != read
            if with_rows:
                cache.put_many("model", [key], np.full((1, D_EMBED), mine, np.float32))
                known, rows = cache.get_many("model", [key], D_EMBED)
                n_reads += 1
                n_changed += not known[0] or first_rows.setdefault(key, bytes(rows)) != bytes(rows)
    found = {"reads": n_reads, "changed": n_changed, "damaged": store.n_damaged + cache.n_damaged}
    print(json.dumps({**found, "seen": seen}))


def main(folder: str, what: str = "work", *words: str) -> None:
    if what == "work":
        work(Path(folder))
    else:
        n_keys, n_turns, begin_at = words
        race(Path(folder), int(n_keys), int(n_turns), float(begin_at), with_rows=what == "race")
