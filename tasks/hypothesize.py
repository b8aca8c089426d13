"""Hypotheses from discovery texts only."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

from prefect import get_run_logger, task

from tasks.caching import CACHED, Manifest, recall, remember, start
from tasks.cluster import load_discovered
from tasks.job import Comparison, Job
from tasks.prompts import load_prompts
from whatchanged.hypothesize import build_contrasts, propose_all
from whatchanged.keys import content_key
from whatchanged.models.llm_proposer import LlmProposer
from whatchanged.models.loading import describe_proposer, load_proposer
from whatchanged.prompts import groups_in_both_splits
from whatchanged.records import Hypothesis
from whatchanged.themes import LOCAL_HAS_NONE, ask_for_themes
from whatchanged.themes import VERSION as THEMES_VERSION
from whatchanged.views import name_clusters


def hypothesize(
    job: Job, comparison: Comparison, prompts: Manifest, clustered: Manifest
) -> Manifest:
    """Write down what may have changed, strongest first."""
    with job.progress.stage("hypothesize", comparison.name):
        key = content_key(
            "hypothesize/5",
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


def summarize(job: Job, findings: Manifest) -> dict[str, Any]:
    """What the confirmed findings have in common: the fields of `themes.Themes`."""
    if not job.config.hypothesize.is_api:
        return {"themes": [], "missing": LOCAL_HAS_NONE}
    with job.progress.stage("hypothesize", "themes"):
        key = content_key(
            "themes/1",
            THEMES_VERSION,
            describe_proposer(job.config.hypothesize, job.config.embed),
            findings.key,
        )
        manifest = start(job.store, _summarize, key, "themes", findings=findings, job=job).result()
    found: dict[str, Any] = job.store.get_json(manifest.key)
    return found


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
    focus = load_discovered(job.store, clustered, "focus")
    even = load_discovered(job.store, clustered, "even")
    started = time.perf_counter()
    contrasts = build_contrasts(
        focus.texts,
        focus.segments,
        groups_in_both_splits(load_prompts(job, prompts)),
        is_paired=is_paired,
    )
    proposer = load_proposer(job.config, job.ledger.charged_to("proposer"))
    proposed = propose_all(contrasts, proposer, job.config.hypothesize.max_hypotheses)
    hypotheses = name_clusters(proposed, focus.segments, even.segments)
    seconds = time.perf_counter() - started
    get_run_logger().info("%d hypotheses in %.1f s", len(hypotheses), seconds)
    job.store.put_json(key, [asdict(hypothesis) for hypothesis in hypotheses])
    return remember(job.store, Manifest(key=key, n=len(hypotheses), seconds=seconds))


@task(name="themes", **CACHED)
def _summarize(key: str, findings: Manifest, job: Job) -> Manifest:
    if known := recall(job.store, key):
        return known
    statements = {
        finding["id"]: finding["statement"]
        for finding in job.store.get_json(findings.key)
        if finding["status"] == "confirmed"
    }
    started = time.perf_counter()
    proposer = load_proposer(job.config, job.ledger.charged_to("proposer"))
    assert isinstance(proposer, LlmProposer), "only a model behind an API is asked"
    found = ask_for_themes(statements, proposer.call, proposer.asking)
    seconds = time.perf_counter() - started
    if found.missing:
        get_run_logger().warning("no themes: %s", found.missing)
        key = content_key("unfinished/1", key, found.missing)
    job.store.put_json(key, asdict(found))
    manifest = Manifest(key=key, n=len(found.themes), seconds=seconds)
    # Without themes, the next run tries again.
    return manifest if found.missing else remember(job.store, manifest)
