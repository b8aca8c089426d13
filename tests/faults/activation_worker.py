"""Stores the same made-up activations at every start, from where the last one ended.

`main(FOLDER, KEEP)`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas  # noqa: F401

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


def main(folder: str, keep: str) -> None:
    store_rest(Path(folder), keep)
