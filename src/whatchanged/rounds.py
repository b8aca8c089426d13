"""The rounds of active sampling as decisions: what to decode next, or why to stop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from whatchanged.config import SampleConfig
from whatchanged.keys import content_key, seed_from_key
from whatchanged.records import Prompt
from whatchanged.sample import (
    Evidence,
    RoundQuality,
    allocate,
    cluster_uncertainty,
    prompt_scores,
    seed_allocation,
    share_resolved,
    stop_reason,
)


@dataclass(frozen=True, slots=True)
class Decision:
    """New texts per prompt key and side (`counts`), and those decoded before (`already`).

    `stop_reason` is empty while there is something to decode. `quality` describes the round that
    led here; the seed round has none.
    """

    counts: dict[str, int]
    already: dict[str, int]
    quality: RoundQuality | None
    stop_reason: str


def open_rounds(bank: Sequence[Prompt], config: SampleConfig, seed: int) -> Decision:
    """The seed round, spread evenly; `uniform` sampling decodes all of `max_texts` here."""
    n_texts = config.max_texts if config.strategy == "uniform" else config.seed_texts
    counts = seed_allocation(len(bank), min(n_texts, config.max_texts), _seed(seed, 0))
    return Decision(_by_key(bank, counts), {}, None, "")


def close_round(
    bank: Sequence[Prompt],
    evidence: Evidence,
    history: Sequence[RoundQuality],
    config: SampleConfig,
    *,
    silhouette: float | None,
    agreement: float | None,
    min_effect: float,
    seed: int,
) -> Decision:
    """The decision after a round; `evidence` rows follow `bank`, `history` are earlier rounds."""
    quality = RoundQuality(
        round=len(history),
        n_texts_per_side=int(evidence.n_base.sum()),
        label_agreement=agreement,
        silhouette=silhouette,
        share_resolved=share_resolved(evidence, min_effect=min_effect),
    )
    already = _by_key(bank, evidence.n_base)
    if config.strategy == "uniform":
        return Decision({}, already, quality, "uniform sampling decodes every text in one round")
    reason = stop_reason(
        [*history, quality], max_rounds=config.max_rounds, max_texts=config.max_texts
    )
    if reason:
        return Decision({}, already, quality, reason)
    groups = _group_codes(bank)
    uncertainty = cluster_uncertainty(evidence, min_effect=min_effect, groups=groups)
    counts = allocate(
        prompt_scores(evidence, uncertainty, groups=groups),
        min(config.round_texts, config.max_texts - quality.n_texts_per_side),
        exploration_share=config.exploration_share,
        seed=_seed(seed, len(history) + 1),
        n_sampled=evidence.n_base,
    )
    return Decision(_by_key(bank, counts), already, quality, "")


def _group_codes(bank: Sequence[Prompt]) -> NDArray[np.intp]:
    names = sorted({prompt.group for prompt in bank})
    code = {name: number for number, name in enumerate(names)}
    return np.array([code[prompt.group] for prompt in bank], dtype=np.intp)


def _by_key(bank: Sequence[Prompt], counts: NDArray[np.int64]) -> dict[str, int]:
    return {prompt.key: int(n) for prompt, n in zip(bank, counts, strict=True) if n}


def _seed(seed: int, round_index: int) -> int:
    return seed_from_key(content_key("sample/1", seed, round_index))
