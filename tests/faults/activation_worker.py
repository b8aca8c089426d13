"""Stores the same made-up activations at every start, from where the last one ended.

`python -m tests.faults.activation_worker FOLDER KEEP` prints "ready" before it begins.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from tests.unit.activation_batches import make_batches, make_groups
from whatchanged.store.activations import BatchProcessingStorage

GROUPS = make_groups([4, 3, 6])
BATCHES = make_batches(GROUPS, 12, np.random.default_rng(0), density=0.3, is_signed=True)
OPTIONS = {"precision": "float32", "chunk_texts": 8, "segment_bytes": 900, "k": 2, "n_sample": 1}


def store_rest(folder: Path, keep: str) -> None:
    storage = BatchProcessingStorage.create(folder, GROUPS, keep=keep, **OPTIONS)
    n_texts = 0
    for batch in BATCHES:
        if n_texts >= storage.n_texts:
            storage.add_batch(batch.activations, batch.columns, batch.texts)
        n_texts += len(batch.texts.keys)
    storage.finalize()


if __name__ == "__main__":
    print("ready", flush=True)
    store_rest(Path(sys.argv[1]), sys.argv[2])
