"""Judging: every hypothesis on its fresh texts, the cheap judge first."""

from __future__ import annotations

import time

import pandas as pd
from prefect import get_run_logger, task

from tasks.caching import CACHED, RETRIED, Manifest, recall, remember, start
from tasks.decode import load_texts
from tasks.hypothesize import load_hypotheses
from tasks.job import Comparison, Job
from whatchanged.keys import content_key
from whatchanged.models.loading import describe_judge, load_judge
from whatchanged.store.artifacts import ArtifactStore
from whatchanged.validate import ValidationPlan, select_texts
from whatchanged.verdicts import count_calls, empty_verdicts, grade_texts

HYPOTHESES_PER_TASK = 15


def judge(
    job: Job, comparison: Comparison, hypotheses: Manifest, plan: Manifest, fresh: list[Manifest]
) -> list[Manifest]:
    """Judge the hypotheses on the texts that are planned for them, in batches: one manifest of
    verdicts per batch."""
    with job.progress.stage("judge", comparison.name):
        ids = [hypothesis.id for hypothesis in load_hypotheses(job, hypotheses)]
        batches = [
            ids[first : first + HYPOTHESES_PER_TASK]
            for first in range(0, len(ids), HYPOTHESES_PER_TASK)
        ]
        futures = [
            start(
                job.store,
                _judge,
                content_key(
                    "judge/2",
                    job.config.judge.model_dump(mode="json"),
                    describe_judge(job.config.judge.cheap, job.config.embed),
                    describe_judge(job.config.judge.expensive, job.config.embed),
                    job.config.seed,
                    hypotheses.key,
                    plan.key,
                    batch,
                    [part.key for part in fresh],
                ),
                f"judge {comparison.name} {number}",
                batch=batch,
                hypotheses=hypotheses,
                plan=plan,
                fresh=fresh,
                job=job,
            )
            for number, batch in enumerate(batches)
        ]
        return [job.progress.note("judge", future.result()) for future in futures]


def load_plans(store: ArtifactStore, manifest: Manifest) -> list[ValidationPlan]:
    """The plans that `validate.plan_fresh` stored, one per hypothesis."""
    return [
        ValidationPlan(**{**row, "prompt_keys": tuple(row["prompt_keys"])})
        for row in store.get_json(manifest.key)["plans"]
    ]


def load_verdicts(store: ArtifactStore, judged: list[Manifest]) -> pd.DataFrame:
    """The verdicts of some batches: `records.VERDICT_COLUMNS`."""
    tables = [store.get_table(part.key) for part in judged]
    return pd.concat(tables, ignore_index=True) if tables else empty_verdicts()


@task(name="judge", **CACHED, **RETRIED)
def _judge(
    key: str,
    batch: list[str],
    hypotheses: Manifest,
    plan: Manifest,
    fresh: list[Manifest],
    job: Job,
) -> Manifest:
    if known := recall(job.store, key):
        return known
    texts = load_texts(job.store, fresh)
    claims = {claim.id: claim for claim in load_hypotheses(job, hypotheses)}
    plans = [own for own in load_plans(job.store, plan) if own.hypothesis_id in batch]
    cheap = load_judge(job.config.judge.cheap, job.config, job.ledger)
    expensive = load_judge(job.config.judge.expensive, job.config, job.ledger)
    started = time.perf_counter()
    verdicts = pd.concat(
        [
            grade_texts(
                claims[own.hypothesis_id], select_texts(texts, own), cheap, expensive,
                job.config.judge, seed=job.config.seed,
            )
            for own in plans
        ],
        ignore_index=True,
    )  # fmt: skip
    seconds = time.perf_counter() - started
    job.store.put_table(key, verdicts)
    get_run_logger().info("%d verdicts in %.1f s", len(verdicts), seconds)
    return remember(
        job.store,
        Manifest(key=key, n=len(batch), seconds=seconds, counts=count_calls(verdicts)),
    )
