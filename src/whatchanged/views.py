"""A round of discovery clustered twice, from the same texts (design/0006-acquisition.md).

`focus`: every text counts once, so clusters gather where sampling went and tell small changes
apart there. They steer the rounds, and hypotheses are proposed from them. `even`: every prompt
counts the same, and the screen's texts, which are even, help to place clusters, so clusters are
about those that decoding everything would give. They are what a run shows, and what findings are
named after.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from whatchanged.config import ClusterConfig
from whatchanged.discovery import ClusteredTexts, Guide, PreviousRound, cluster_texts, rows_of
from whatchanged.quality import describe_lineage
from whatchanged.records import NOISE, Hypothesis
from whatchanged.weighting import even_weights


class Embedded(NamedTuple):
    """Texts, their segments and the vectors of these `(n_segments, d_embed)`."""

    texts: pd.DataFrame
    segments: pd.DataFrame
    vectors: NDArray[np.float32]


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
    found: Embedded,
    config: ClusterConfig,
    *,
    screened: Embedded | None,
    previous: PreviousViews | None,
    round_index: int,
    seed: int,
) -> Views:
    """All texts so far, clustered by `discovery.cluster_texts` in both ways. `screened` are those
    of the screen, of the same prompts, where one ran."""
    focus = cluster_texts(
        *found, config, previous=previous.focus if previous else None,
        round_index=round_index, seed=seed,
    )  # fmt: skip
    by_text = _weigh(found.texts)
    if previous is None and screened is None and (by_text == 1).all():
        return Views(focus, focus)
    by_segment, guide = by_text, None
    if screened is not None:
        weights = _weigh(pd.concat([found.texts, screened.texts], ignore_index=True))
        by_segment = weights[: len(found.texts)]
        guide = _guide(screened, weights[len(found.texts) :])
    even = cluster_texts(
        *found, config, previous=previous.even if previous else None, round_index=round_index,
        seed=seed, weights={"text": by_text, "segment": by_segment}, guide=guide,
    )  # fmt: skip
    return Views(even, focus)


def _weigh(texts: pd.DataFrame) -> NDArray[np.float64]:
    prompts = pd.factorize(texts["prompt_key"])[0].astype(np.int64)
    return even_weights(prompts, (texts["side"] == "intervention").to_numpy().astype(np.int64))


def _guide(screened: Embedded, weights: NDArray[np.float64]) -> Guide:
    """The screen's whole sentences. Its texts are short, and where one was cut off, it was amid its
    last sentence, which no longer text has."""
    texts, segments, vectors = screened
    holders = rows_of(segments["text_key"], texts["text_key"])
    was_cut = (texts["finish"] == "length").to_numpy()[holders]
    is_last = segments["position"] == segments.groupby("text_key")["position"].transform("max")
    whole = ~(was_cut & is_last.to_numpy())
    return Guide(
        segments["segment_key"].to_numpy(dtype=object)[whole], vectors[whole],
        weights[holders][whole],
        (texts["side"] == "intervention").to_numpy()[holders][whole],
    )  # fmt: skip


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
