"""The map of a run as a table that embedding-atlas opens.

Its command takes the names of columns: `--text text --x x --y y`; all others become charts and
filters. Neighbours (`--neighbors`) are left out: a run folder does not keep the embeddings, and
neighbours in two principal components are not those of the texts (design/0012).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from whatchanged.errors import InputError
from whatchanged.exports.facts import last_round
from whatchanged.store import codec

if TYPE_CHECKING:
    from whatchanged.report import RunTables

ATLAS_COLUMNS = (
    "text_key", "x", "y", "text", "prompt", "group", "side", "cluster", "exemplar", "round",
    "n_tokens", "finish", "margin", "nats_per_token",
)  # fmt: skip


def place_texts(run: RunTables) -> pd.DataFrame:
    """The texts that have a finite place on the map, in its order, with the columns of the texts
    table and `x`, `y`."""
    placed = run.map.merge(run.texts, on="text_key")
    xy = placed[["x", "y"]].to_numpy(dtype=np.float64)
    finite: pd.DataFrame = placed[np.isfinite(xy).all(axis=1)].reset_index(drop=True)
    return finite


def tabulate_atlas(run: RunTables) -> pd.DataFrame:
    """One row (`ATLAS_COLUMNS`) per text on the map; x and y are its principal components.

    `cluster` is the id of its cluster of whole replies, "noise" for none, `exemplar` the reply in
    the middle of that; `nats_per_token` is how much likelier the intervention finds the text than
    the base does, missing where it was not scored. Raises InputError where the run has no map.
    """
    texts = place_texts(run)
    if texts.empty:
        raise InputError(
            "expected a run with a map of its texts, found no text on it: embedding-atlas needs "
            "places; export tables instead"
        )
    clusters = last_round(run.clusters, "text").drop_duplicates("label").set_index("label")
    groups = run.prompts.drop_duplicates("prompt_key").set_index("prompt_key")["group"]
    difference = texts["logprob_intervention"].astype(float) - texts["logprob_base"].astype(float)
    table = texts.assign(
        x=texts["x"].astype(np.float32),
        y=texts["y"].astype(np.float32),
        group=texts["prompt_key"].map(groups).fillna("unknown"),
        cluster=texts["label"].map(clusters["cluster"]).fillna("noise"),
        exemplar=texts["label"].map(clusters["exemplar"]).fillna(""),
        nats_per_token=(difference / texts["n_tokens"].clip(lower=1)).astype(np.float32),
    )
    return table[list(ATLAS_COLUMNS)]


def write_atlas(run: RunTables) -> bytes:
    """The table as Parquet."""
    return codec.table_bytes(tabulate_atlas(run))
