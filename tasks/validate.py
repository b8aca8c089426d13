"""Validation: fresh texts for every hypothesis, and the tests on the judges' scores."""

from __future__ import annotations

from dataclasses import asdict

from prefect import get_run_logger, task

from tasks.caching import CACHED, Manifest, recall, remember, start
from tasks.decode import load_texts
from tasks.hypothesize import load_hypotheses
from tasks.job import Comparison, Job
from tasks.judge import load_inquiry, load_plans, load_verdicts
from tasks.prompts import load_prompts
from whatchanged.interim import plan_block, sum_counts
from whatchanged.keys import content_key
from whatchanged.summary import json_row
from whatchanged.validate import (
    limit_plans,
    plan_validation,
    stand,
    validate_hypotheses,
)
from whatchanged.waves import settle


def plan_fresh(
    job: Job,
    comparison: Comparison,
    prompts: Manifest,
    hypotheses: Manifest,
    beside: list[Manifest],
) -> Manifest:
    """The fresh texts that every hypothesis is tested on, if it is not decided before; for a null
    control, within what the audit decoded in its blocks, `beside` it."""
    with job.progress.stage("validate", f"plan {comparison.name}"):
        there = job.available(comparison, load_prompts(job, prompts))
        key = content_key(
            "plan_fresh/4",
            job.config.validation.model_dump(mode="json"),
            prompts.key,
            hypotheses.key,
            [block.key for block in beside],
            *([there] if there is not None else []),
        )
        return start(
            job.store,
            _plan_fresh,
            key,
            f"plan fresh texts {comparison.name}",
            prompts=prompts,
            hypotheses=hypotheses,
            beside=beside,
            available=there,
            job=job,
        ).result()


def next_block(
    job: Job,
    comparison: Comparison,
    hypotheses: Manifest,
    plan: Manifest,
    judged: list[Manifest],
    fresh: list[Manifest],
    n_looks: int,
) -> Manifest:
    """The fresh texts to decode and look at next, after `n_looks` looks, as an allocation of texts;
    `n` is the number of hypotheses that they are for, 0 where all is decided."""
    with job.progress.stage("validate", f"look {n_looks} {comparison.name}"):
        key = content_key(
            "next_block/1",
            comparison.is_coupled,
            job.config.tested.model_dump(mode="json"),
            job.config.seed,
            n_looks,
            hypotheses.key,
            plan.key,
            [part.key for part in judged],
        )
        return start(
            job.store,
            _next_block,
            key,
            f"look {n_looks} {comparison.name}",
            hypotheses=hypotheses,
            plan=plan,
            judged=judged,
            fresh=fresh,
            n_looks=n_looks,
            comparison=comparison,
            job=job,
        ).result()


def validate(
    job: Job,
    comparison: Comparison,
    hypotheses: Manifest,
    plan: Manifest,
    judged: list[Manifest],
    fresh: list[Manifest],
) -> Manifest:
    """Test every hypothesis: findings, strongest first."""
    with job.progress.stage("validate", comparison.name):
        way = job.config.judge.way
        key = content_key(
            "validate/6",
            comparison.is_coupled,
            job.config.validation.model_dump(mode="json"),
            # How verdicts were come by decides how they are tested.
            [way, job.config.judge.model_dump(mode="json", include={"borderline", "audit_share"}),
             job.config.judge.waves.model_dump(mode="json")] if way == "waves" else [way],
            job.config.seed,
            hypotheses.key,
            plan.key,
            [part.key for part in judged],
        )  # fmt: skip
        return start(
            job.store,
            _validate,
            key,
            f"validate {comparison.name}",
            hypotheses=hypotheses,
            plan=plan,
            judged=judged,
            fresh=fresh,
            comparison=comparison,
            job=job,
        ).result()


@task(name="plan fresh texts", **CACHED)
def _plan_fresh(
    key: str,
    prompts: Manifest,
    hypotheses: Manifest,
    beside: list[Manifest],
    available: dict[str, int] | None,
    job: Job,
) -> Manifest:
    if known := recall(job.store, key):
        return known
    config = job.config.validation
    plans = plan_validation(
        load_hypotheses(job, hypotheses), load_prompts(job, prompts), config, available
    )
    if beside:
        there = [job.store.get_json(block.key)["counts"] for block in beside]
        plans = limit_plans(plans, sum_counts(there), config)
    job.store.put_json(key, {"plans": [asdict(plan) for plan in plans]})
    return remember(job.store, Manifest(key=key, n=len(plans)))


@task(name="look", **CACHED)
def _next_block(
    key: str,
    hypotheses: Manifest,
    plan: Manifest,
    judged: list[Manifest],
    fresh: list[Manifest],
    n_looks: int,
    comparison: Comparison,
    job: Job,
) -> Manifest:
    if known := recall(job.store, key):
        return known
    standings = stand(
        load_hypotheses(job, hypotheses),
        load_plans(job.store, plan),
        load_verdicts(job.store, judged),
        load_texts(job.store, fresh),
        job.config.tested,
        job.config.seed,
        is_paired=comparison.is_coupled,
        n_looks=n_looks,
    )
    block = plan_block(standings)
    job.store.put_json(key, asdict(block))
    return remember(job.store, Manifest(key=key, n=len(block.plans)))


@task(name="validate", **CACHED)
def _validate(
    key: str,
    hypotheses: Manifest,
    plan: Manifest,
    judged: list[Manifest],
    fresh: list[Manifest],
    comparison: Comparison,
    job: Job,
) -> Manifest:
    if known := recall(job.store, key):
        return known
    verdicts = load_verdicts(job.store, judged)
    if job.config.judge.way == "waves":
        findings = settle(load_inquiry(job, comparison, hypotheses, plan, fresh), verdicts)
    else:
        findings = validate_hypotheses(
            load_hypotheses(job, hypotheses),
            verdicts,
            load_texts(job.store, fresh),
            job.config.validation,
            job.config.seed,
            is_paired=comparison.is_coupled,
            plans=load_plans(job.store, plan),
        )
    n_confirmed = sum(finding.status == "confirmed" for finding in findings)
    get_run_logger().info("%d of %d hypotheses confirmed", n_confirmed, len(findings))
    job.store.put_json(key, [json_row(asdict(finding)) for finding in findings])
    return remember(
        job.store, Manifest(key=key, n=len(findings), counts={"n_confirmed": n_confirmed})
    )
