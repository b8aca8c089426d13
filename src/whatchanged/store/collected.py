"""The activation store of a collected run, from the firings of its chunks."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from whatchanged.activations.groups import ComponentGroups
from whatchanged.activations.processing import ProcessedActivations
from whatchanged.store.activation_files import Keep
from whatchanged.store.activation_reader import ActivationStore
from whatchanged.store.activations import BatchProcessingStorage
from whatchanged.store.text_batch import TextBatch


def store_firings(
    folder: Path,
    groups: ComponentGroups,
    chunks: Iterable[tuple[pd.DataFrame, ProcessedActivations]],
    *,
    keep: Keep,
    seed: int,
) -> ActivationStore:
    """A finished store in `folder`, which must hold none.

    A chunk is its texts (`reading.READ_COLUMNS`) and what fires on them. Raises what
    `BatchProcessingStorage` raises.
    """
    storage = BatchProcessingStorage.create(folder, groups, keep=keep, seed=seed)
    for texts, block in chunks:
        batch = TextBatch(
            tuple(texts["text_key"]),
            (texts["side"] == "intervention").to_numpy(),
            block.text_starts,
            np.concatenate([np.asarray(ids, dtype=np.int64) for ids in texts["token_ids"]]),
        )
        columns = groups.component_numbers(block.labels)
        storage.add_batch(block.activations, columns, batch)
    return storage.finalize()
