"""The divergence of the sides per prompt: texts scored under both models, and coupled pairs."""

from __future__ import annotations

import time
from collections.abc import Sequence

import pandas as pd
from prefect import get_run_logger, task

from tasks.caching import CACHED, RETRIED, Manifest, part_key, recall, remember, start
from tasks.decode import load_texts
from tasks.job import Comparison, Job
from whatchanged.divergence import (
    PAIR_COLUMNS,
    SCORE_COLUMNS,
    estimate_divergence,
    match_pairs,
    score_requests,
    tabulate_scores,
)
from whatchanged.keys import content_key
from whatchanged.models.loading import load_scorer
from whatchanged.records import Prompt, Purpose
from whatchanged.store.artifacts import ArtifactStore

SCORES, PAIRS = "scores", "pairs"


def divergence(
    job: Job, comparison: Comparison, texts: list[Manifest], purpose: Purpose, round_index: int
) -> Manifest:
    """Score texts of both sides under both models, and compare coupled ones."""
    with job.progress.stage("divergence", f"{purpose}, round {round_index}"):
        key = content_key(
            "divergence/2",
            "sampled" if job.config.why_sampled else "auto",
            job.config.decode.temperature,
            comparison.is_coupled,
            [part.key for part in texts],
        )
        return start(
            job.store,
            _score,
            key,
            f"divergence {purpose} {round_index}",
            on_gpu=job.on_gpu,
            texts=texts,
            is_coupled=comparison.is_coupled,
            job=job,
        ).result()


def load_scores(store: ArtifactStore, scored: list[Manifest]) -> pd.DataFrame:
    """The scores of some texts (`divergence.SCORE_COLUMNS`)."""
    return _load(store, scored, SCORES, SCORE_COLUMNS)


def load_pairs(store: ArtifactStore, scored: list[Manifest]) -> pd.DataFrame:
    """The coupled pairs among some texts (`divergence.PAIR_COLUMNS`); none where decoding was
    independent."""
    return _load(store, scored, PAIRS, PAIR_COLUMNS)


def load_divergence(
    store: ArtifactStore, scored: list[Manifest], prompts: Sequence[Prompt]
) -> pd.DataFrame:
    """The estimates per prompt (`divergence.DIVERGENCE_COLUMNS`) from some texts."""
    return estimate_divergence(load_scores(store, scored), load_pairs(store, scored), prompts)


def _load(
    store: ArtifactStore, scored: list[Manifest], part: str, columns: Sequence[str]
) -> pd.DataFrame:
    tables = [store.get_table(part_key(manifest.key, part)) for manifest in scored]
    filled = [table for table in tables if len(table)]
    return pd.concat(filled, ignore_index=True) if filled else pd.DataFrame(columns=list(columns))


@task(name="divergence", **CACHED, **RETRIED)
def _score(key: str, texts: list[Manifest], is_coupled: bool, job: Job) -> Manifest:
    store, config = job.store, job.config
    if known := recall(store, key):
        return known
    table = load_texts(store, texts)
    started = time.perf_counter()
    scored = table[:0] if config.why_sampled else table[table["finish"] != "failed"]
    scores = []
    if len(scored):
        scorer = load_scorer(
            config.base, config.intervention, config.decode, config.prompts.format,
            config.run.device,
        )  # fmt: skip
        scores = scorer.score(score_requests(scored))
    # The screen's texts are cut short: that they are equal so far says nothing of whole texts.
    whole = table[table["split"] != "screen"] if is_coupled else table[:0]
    pairs = match_pairs(whole)
    seconds = time.perf_counter() - started
    store.put_table(part_key(key, SCORES), tabulate_scores(scored, scores))
    store.put_table(part_key(key, PAIRS), pairs)
    n_identical = int(pairs["is_identical"].sum())
    get_run_logger().info(
        "%d texts scored, %d of %d pairs identical, in %.1f s",
        len(scores), n_identical, len(pairs), seconds,
    )  # fmt: skip
    return remember(
        store,
        Manifest(
            key=key, parts=(SCORES, PAIRS), n=len(scores), seconds=seconds,
            counts={"n_pairs": len(pairs), "n_identical": n_identical},
        ),
    )  # fmt: skip
