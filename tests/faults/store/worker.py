"""A small run that stores something through every door; resumable, the same at every start.

`python worker.py FOLDER` does the whole of it below FOLDER and prints "ready" before it begins.
`python worker.py FOLDER race` puts values of its own under keys that all racers share.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np

from whatchanged.keys import content_key
from whatchanged.store.artifacts import ArtifactStore
from whatchanged.store.embeddings import EmbeddingCache
from whatchanged.store.runs import RunFolder

D_EMBED = 48
N_ROWS = 240
KEYS = [content_key("artifact", i) for i in range(4)]
ROW_KEYS = [content_key("row", i) for i in range(N_ROWS)]
ROWS = np.random.default_rng(0).standard_normal((N_ROWS, D_EMBED)).astype(np.float32)
PAYLOAD = list(range(3000))


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
    run.finish({"decode": KEYS[0]}, {"whatchanged": "test"}, now=_epoch())


def race(folder: Path) -> None:
    store, cache = ArtifactStore(folder), EmbeddingCache(folder, map_bytes=256 * 1024)
    mine = os.getpid()
    seen: dict[str, object] = {}
    keys = [content_key("race", i) for i in range(60)]
    draw = np.random.default_rng(mine)
    for turn in range(3):
        for key in draw.permutation(keys):
            store.put_json(str(key), {"writer": mine, "turn": turn})
            value = store.get_json(str(key))
            assert seen.setdefault(str(key), value) == value, "a published value changed"
            rows = np.full((1, D_EMBED), mine, np.float32)
            cache.put_many("model", [str(key)], rows)
            known, stored = cache.get_many("model", [str(key)], D_EMBED)
            assert known.all(), "a row that was put is not there"
            assert seen.setdefault("row " + str(key), stored[0, 0]) == stored[0, 0]
    assert store.n_damaged == cache.n_damaged == 0


def _epoch():
    from datetime import UTC, datetime

    return datetime.fromtimestamp(0, UTC)


if __name__ == "__main__":
    print("ready", flush=True)
    (race if sys.argv[2:] == ["race"] else work)(Path(sys.argv[1]))
