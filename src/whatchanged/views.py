"""A round of discovery clustered twice, from the same texts (design/0006-acquisition.md).

`focus`: every text counts once, so clusters gather where sampling went and tell small changes
apart there. They steer the rounds, and hypotheses are proposed from them. `even`: every prompt
counts the same, so clusters are about those that decoding everything would give. They are what a
run shows, and what findings are named after.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from whatchanged.config import ClusterConfig
from whatchanged.discovery import ClusteredTexts, PreviousRound, cluster_texts
from whatchanged.quality import describe_lineage
from whatchanged.records import NOISE, Hypothesis
from whatchanged.weighting import even_weights


@dataclass(frozen=True, slots=True)
class PreviousViews:
    """What both views of a round leave for the next."""

    even: PreviousRound
    focus: PreviousRound


@dataclass(frozen=True, slots=True)
class Views:
    """Both clusterings of a round; one and the same where its texts are even and it is the
    first."""

    even: ClusteredTexts
    focus: ClusteredTexts


def cluster_views(
    texts: pd.DataFrame,
    segments: pd.DataFrame,
    vectors: NDArray[np.float32],
    config: ClusterConfig,
    *,
    previous: PreviousViews | None,
    round_index: int,
    seed: int,
) -> Views:
    """All texts so far, clustered by `discovery.cluster_texts` in both ways."""
    prompts = pd.factorize(texts["prompt_key"])[0].astype(np.int64)
    weights = even_weights(prompts, (texts["side"] == "intervention").to_numpy().astype(np.int64))
    focus = cluster_texts(
        texts, segments, vectors, config, previous=previous.focus if previous else None,
        round_index=round_index, seed=seed,
    )  # fmt: skip
    if previous is None and (weights == 1).all():
        return Views(focus, focus)
    even = cluster_texts(
        texts, segments, vectors, config, previous=previous.even if previous else None,
        round_index=round_index, seed=seed, weights=weights,
    )  # fmt: skip
    return Views(even, focus)


def name_clusters(
    hypotheses: Sequence[Hypothesis], focus: pd.DataFrame, even: pd.DataFrame
) -> list[Hypothesis]:
    """The hypotheses, whose clusters are labels of the `focus` segments, named after the cluster of
    the `even` ones that holds most of the same distinct segments; None where none holds any."""
    first = focus.drop_duplicates("segment_key")
    there = even.drop_duplicates("segment_key").set_index("segment_key")["label"]
    old = there.reindex(first["segment_key"], fill_value=NOISE).to_numpy().astype(np.int32)
    holders = describe_lineage(old, first["label"].to_numpy().astype(np.int32)).ancestors
    names = {str(label): str(holder) for label, holder in enumerate(holders) if holder != NOISE}
    return [replace(h, cluster=names.get(h.cluster) if h.cluster else None) for h in hypotheses]
