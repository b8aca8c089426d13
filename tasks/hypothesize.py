"""Hypotheses from discovery texts only."""

from __future__ import annotations

import time
from dataclasses import asdict

from prefect import get_run_logger, task

from tasks.caching import CACHED, Manifest, recall, remember, start
from tasks.cluster import load_discovered
from tasks.job import Comparison, Job
from tasks.prompts import load_prompts
from whatchanged.hypothesize import build_contrasts, propose_all
from whatchanged.keys import content_key
from whatchanged.models.loading import describe_proposer, load_proposer
from whatchanged.prompts import groups_in_both_splits
from whatchanged.records import Hypothesis


def hypothesize(
    job: Job, comparison: Comparison, prompts: Manifest, clustered: Manifest
) -> Manifest:
    """Write down what may have changed, strongest first."""
    with job.progress.stage("hypothesize", comparison.name):
        key = content_key(
            "hypothesize/4",
            job.config.hypothesize.max_hypotheses,
            describe_proposer(job.config.hypothesize, job.config.embed),
            prompts.key,
            clustered.key,
            comparison.is_coupled,
        )
        return start(
            job.store,
            _hypothesize,
            key,
            f"hypothesize {comparison.name}",
            prompts=prompts,
            clustered=clustered,
            is_paired=comparison.is_coupled,
            job=job,
        ).result()


def load_hypotheses(job: Job, manifest: Manifest) -> list[Hypothesis]:
    """The hypotheses that `hypothesize` stored."""
    return [
        Hypothesis(**{**row, "evidence_terms": tuple(row["evidence_terms"])})
        for row in job.store.get_json(manifest.key)
    ]


@task(name="hypothesize", **CACHED)
def _hypothesize(
    key: str, prompts: Manifest, clustered: Manifest, is_paired: bool, job: Job
) -> Manifest:
    if known := recall(job.store, key):
        return known
    found = load_discovered(job.store, clustered)
    started = time.perf_counter()
    contrasts = build_contrasts(
        found.texts,
        found.segments,
        groups_in_both_splits(load_prompts(job, prompts)),
        is_paired=is_paired,
    )
    hypotheses = propose_all(
        contrasts, load_proposer(job.config, job.ledger), job.config.hypothesize.max_hypotheses
    )
    seconds = time.perf_counter() - started
    get_run_logger().info("%d hypotheses in %.1f s", len(hypotheses), seconds)
    job.store.put_json(key, [asdict(hypothesis) for hypothesis in hypotheses])
    return remember(job.store, Manifest(key=key, n=len(hypotheses), seconds=seconds))
