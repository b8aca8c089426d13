"""The rounds of active sampling as decisions: what to decode next, or why to stop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from whatchanged.acquisition import ACQUISITIONS
from whatchanged.config import SampleConfig
from whatchanged.differences import share_resolved
from whatchanged.keys import content_key, seed_from_key
from whatchanged.records import Prompt
from whatchanged.sample import (
    Counts,
    Evidence,
    RoundQuality,
    allocate,
    deal_evenly,
    seed_allocation,
    stop_reason,
)
from whatchanged.screen import StageReport, screen_clusters, screen_prompts


@dataclass(frozen=True, slots=True)
class Decision:
    """New texts per prompt key and side (`counts`), and those decoded before (`already`).

    `stop_reason` is empty while there is something to decode. `quality` describes the round that
    led here, and `stages` what the filter before targeted decoding and the one before full analysis
    dropped; the seed round has neither.
    """

    counts: dict[str, int]
    already: dict[str, int]
    quality: RoundQuality | None
    stop_reason: str
    stages: tuple[StageReport, ...] = ()


def open_rounds(
    bank: Sequence[Prompt],
    screened: Evidence,
    config: SampleConfig,
    *,
    min_effect: float,
    seed: int,
    available: Counts | None = None,
) -> Decision:
    """The seed round; `uniform` sampling decodes all of `max_texts` here, spread evenly; of
    recorded texts at most those that are `available (n_prompts,)`.

    Where a screen ran, texts go to the prompts that may have a change of their own, in proportion
    to its probability, but for the exploration share; prompts that the screen dropped get only
    their part of that. `screened` rows follow `bank`.
    """
    is_uniform = config.strategy == "uniform"
    n_texts = config.max_texts if is_uniform else min(config.seed_texts, config.max_texts)
    if available is not None:
        counts = deal_evenly(available, n_texts, _seed(seed, 0))
        return Decision(_by_key(bank, counts), {}, None, "")
    if is_uniform or screened.divergence is None:
        counts = seed_allocation(len(bank), n_texts, _seed(seed, 0))
        return Decision(_by_key(bank, counts), {}, None, "")
    groups = group_codes(bank)
    prompts = screen_prompts(screened, min_effect=min_effect, groups=groups)
    counts = allocate(
        np.where(prompts.kept, prompts.probability, 0.0),
        n_texts,
        exploration_share=config.exploration_share,
        seed=_seed(seed, 0),
    )
    return Decision(_by_key(bank, counts), {}, None, "", (prompts.report,))


def close_round(
    bank: Sequence[Prompt],
    evidence: Evidence,
    history: Sequence[RoundQuality],
    config: SampleConfig,
    *,
    silhouette: float | None,
    agreement: float | None,
    structure_found: bool,
    min_effect: float,
    seed: int,
    available: Counts | None = None,
) -> Decision:
    """The decision after a round; `evidence` and `available` (of recorded texts, per side) follow
    `bank`, `history` are earlier rounds.

    Prompts that the screen dropped get no targeted texts, only their part of the exploration.
    Raises UsageError where the acquisition needs what `evidence` does not have.
    """
    groups = group_codes(bank)
    quality = RoundQuality(
        round=len(history),
        n_texts_per_side=int(evidence.n_base.sum()),
        label_agreement=agreement,
        silhouette=silhouette,
        share_resolved=share_resolved(evidence, min_effect, groups=groups),
        structure_found=structure_found,
    )
    prompts = screen_prompts(evidence, min_effect=min_effect, groups=groups)
    clusters = screen_clusters(evidence, min_effect=min_effect, groups=groups)
    stages = (prompts.report, clusters.report)
    already = _by_key(bank, evidence.n_base)
    reason: str | None
    if available is not None:
        of_all = f"{quality.n_texts_per_side:,} of {int(available.sum()):,} per side"
        reason = f"recorded texts are taken in one round: {of_all}, at most sample.max_texts"
    elif config.strategy == "uniform":
        reason = "uniform sampling decodes every text in one round"
    else:
        reason = stop_reason(
            [*history, quality], max_rounds=config.max_rounds, max_texts=config.max_texts
        )
    if reason:
        return Decision({}, already, quality, reason, stages)
    scores = ACQUISITIONS[config.acquisition](
        evidence, groups=groups, min_effect=min_effect, seed=_seed(seed, quality.round, "scores")
    )
    counts = allocate(
        np.where(prompts.kept, scores, 0.0),
        min(config.round_texts, config.max_texts - quality.n_texts_per_side),
        exploration_share=config.exploration_share,
        seed=_seed(seed, quality.round + 1),
        n_sampled=evidence.n_base,
    )
    return Decision(_by_key(bank, counts), already, quality, "", stages)


def group_codes(bank: Sequence[Prompt]) -> NDArray[np.intp]:
    """The groups of the prompts as numbers `(n_prompts,)`, in the order of their names."""
    names = sorted({prompt.group for prompt in bank})
    code = {name: number for number, name in enumerate(names)}
    return np.array([code[prompt.group] for prompt in bank], dtype=np.intp)


def _by_key(bank: Sequence[Prompt], counts: NDArray[np.int64]) -> dict[str, int]:
    return {prompt.key: int(n) for prompt, n in zip(bank, counts, strict=True) if n}


def _seed(seed: int, round_index: int, purpose: str = "texts") -> int:
    return seed_from_key(content_key("sample/2", seed, round_index, purpose))
