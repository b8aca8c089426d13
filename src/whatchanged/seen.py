"""What discovery has seen, per prompt: what acquisitions score."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from whatchanged.acquisition import classifier_scores
from whatchanged.discovery import rows_of
from whatchanged.embed import mean_by_text
from whatchanged.records import NOISE, Prompt
from whatchanged.sample import Evidence


def collect_evidence(
    texts: pd.DataFrame, segments: pd.DataFrame, prompts: Sequence[Prompt]
) -> Evidence:
    """What discovery has seen: per prompt, side and cluster, the texts that hold the cluster.

    Columns are the text clusters followed by the segment clusters; rows follow `prompts`.
    """
    row_of = {prompt.key: row for row, prompt in enumerate(prompts)}
    rows = texts["prompt_key"].map(row_of).to_numpy()
    on_intervention = (texts["side"] == "intervention").to_numpy()
    text_rows = rows_of(segments["text_key"], texts["text_key"])
    n_text_clusters = int(texts["label"].max()) + 1 if len(texts) else 0
    labels = np.concatenate(
        [
            texts["label"].to_numpy(),
            np.where(segments["label"] >= 0, segments["label"] + n_text_clusters, NOISE),
        ]
    )
    margins = np.concatenate([texts["margin"].to_numpy(), segments["margin"].to_numpy()])
    holders = np.concatenate([np.arange(len(texts)), text_rows])
    k = int(labels.max(initial=NOISE)) + 1
    held = np.unique(np.column_stack([holders, labels])[labels >= 0], axis=0)
    hits = np.zeros((2, len(prompts), k), dtype=np.int64)
    np.add.at(hits, (on_intervention[held[:, 0]].astype(int), rows[held[:, 0]], held[:, 1]), 1)
    n_texts = np.zeros((2, len(prompts)), dtype=np.int64)
    np.add.at(n_texts, (on_intervention.astype(int), rows), 1)
    known = (labels >= 0) & np.isfinite(margins)
    members = np.bincount(labels[known], minlength=k)
    sums = np.bincount(labels[known], weights=margins[known], minlength=k)
    boundary = np.divide(sums, members, out=np.zeros(k), where=members > 0)
    return Evidence(hits[0], hits[1], n_texts[0], n_texts[1], boundary)


def classify_sides(
    texts: pd.DataFrame,
    segments: pd.DataFrame,
    vectors: NDArray[np.float32],
    prompts: Sequence[Prompt],
    *,
    seed: int,
) -> NDArray[np.float64]:
    """How well a classifier tells the sides of each prompt apart (`classifier_scores`),
    `(n_prompts,)`; `vectors (n_segments, d_embed)` follow the rows of `segments`."""
    row_of = {prompt.key: row for row, prompt in enumerate(prompts)}
    replies = mean_by_text(vectors, rows_of(segments["text_key"], texts["text_key"]), len(texts))
    return classifier_scores(
        replies,
        (texts["side"] == "intervention").to_numpy(),
        texts["prompt_key"].map(row_of).to_numpy().astype(np.intp),
        len(prompts),
        seed=seed,
    )
