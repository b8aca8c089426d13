"""Validation: fresh texts for every hypothesis, and the tests on the judges' scores."""

from __future__ import annotations

from dataclasses import asdict

from prefect import get_run_logger, task

from tasks.caching import CACHED, Manifest, recall, remember, start
from tasks.decode import load_texts
from tasks.hypothesize import load_hypotheses
from tasks.job import Comparison, Job
from tasks.judge import load_verdicts
from tasks.prompts import load_prompts
from whatchanged.keys import content_key
from whatchanged.summary import json_row
from whatchanged.validate import limit_plans, plan_validation, pool_counts, validate_hypotheses


def plan_fresh(
    job: Job,
    comparison: Comparison,
    prompts: Manifest,
    hypotheses: Manifest,
    beside: Manifest | None,
) -> Manifest:
    """The fresh texts that every hypothesis is tested on, as an allocation of texts; for a null
    control, within what the plan `beside` it decodes."""
    with job.progress.stage("validate", f"plan {comparison.name}"):
        key = content_key(
            "plan_fresh/3",
            job.config.validation.model_dump(mode="json"),
            prompts.key,
            hypotheses.key,
            beside.key if beside else None,
        )
        return start(
            job.store,
            _plan_fresh,
            key,
            f"plan fresh texts {comparison.name}",
            prompts=prompts,
            hypotheses=hypotheses,
            beside=beside,
            job=job,
        ).result()


def validate(
    job: Job,
    comparison: Comparison,
    hypotheses: Manifest,
    judged: list[Manifest],
    fresh: list[Manifest],
) -> Manifest:
    """Test every hypothesis: findings, strongest first."""
    with job.progress.stage("validate", comparison.name):
        key = content_key(
            "validate/2",
            comparison.is_coupled,
            job.config.validation.model_dump(mode="json"),
            job.config.seed,
            hypotheses.key,
            [part.key for part in judged],
        )
        return start(
            job.store,
            _validate,
            key,
            f"validate {comparison.name}",
            hypotheses=hypotheses,
            judged=judged,
            fresh=fresh,
            is_paired=comparison.is_coupled,
            job=job,
        ).result()


@task(name="plan fresh texts", **CACHED)
def _plan_fresh(
    key: str, prompts: Manifest, hypotheses: Manifest, beside: Manifest | None, job: Job
) -> Manifest:
    if known := recall(job.store, key):
        return known
    config = job.config.validation
    plans = plan_validation(load_hypotheses(job, hypotheses), load_prompts(job, prompts), config)
    if beside:
        plans = limit_plans(plans, job.store.get_json(beside.key)["counts"], config)
    counts = pool_counts(plans)
    job.store.put_json(
        key, {"counts": counts, "already": {}, "plans": [asdict(plan) for plan in plans]}
    )
    return remember(job.store, Manifest(key=key, n=sum(counts.values())))


@task(name="validate", **CACHED)
def _validate(
    key: str,
    hypotheses: Manifest,
    judged: list[Manifest],
    fresh: list[Manifest],
    is_paired: bool,
    job: Job,
) -> Manifest:
    if known := recall(job.store, key):
        return known
    claims = load_hypotheses(job, hypotheses)
    findings = validate_hypotheses(
        claims,
        load_verdicts(job.store, judged),
        load_texts(job.store, fresh),
        job.config.validation,
        job.config.seed,
        is_paired=is_paired,
    )
    n_confirmed = sum(finding.status == "confirmed" for finding in findings)
    get_run_logger().info("%d of %d hypotheses confirmed", n_confirmed, len(findings))
    job.store.put_json(key, [json_row(asdict(finding)) for finding in findings])
    return remember(
        job.store, Manifest(key=key, n=len(findings), counts={"n_confirmed": n_confirmed})
    )
