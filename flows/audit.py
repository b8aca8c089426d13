"""The audit: what did the intervention change?

python -m flows.audit --config configs/demo.yaml
"""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner

from tasks.activations import collect
from tasks.caching import Manifest
from tasks.cluster import Screened, cluster
from tasks.collection import open_collection
from tasks.dashboard import dashboard
from tasks.decode import decode
from tasks.divergence import divergence
from tasks.embed import embed
from tasks.hypothesize import hypothesize
from tasks.job import Comparison, Job, name_run, open_job
from tasks.judge import judge
from tasks.prompts import may_control, split
from tasks.report import Explored, Found, Tested, report
from tasks.sample import allot_screen, sample
from tasks.validate import next_block, plan_fresh, validate


@flow(
    name="audit",
    flow_run_name=name_run,
    # One at a time: two models on one device would only wait for each other.
    task_runner=ThreadPoolTaskRunner(max_workers=1),  # type: ignore[arg-type]  # invariance
)
def audit(
    config: str, overrides: list[str] | None = None, run_dir: str | None = None
) -> dict[str, Any]:
    """Run the experiment of a config file; the content of `summary.json`, with the run's folder."""
    job = open_job(config, overrides or [], run_dir)
    with job.workers:
        return run_stages(job)


def run_stages(job: Job) -> dict[str, Any]:
    """Every stage of the audit, in order."""
    prompts = split(job)
    explored = explore(job, prompts, screen(job, prompts))
    allocations, clustered = explored.allocations, explored.clustered
    found = [Found(job.pair, clustered, hypothesize(job, job.pair, prompts, clustered))]
    if may_control(job, prompts):
        # Recorded halves are other chunks of texts that the pair has taken.
        known = explored.decoded if job.config.recorded else []
        clustered = repeat(job, job.null, prompts, allocations, known)
        found.append(Found(job.null, clustered, hypothesize(job, job.null, prompts, clustered)))
    tested: list[Tested] = []
    for part in found:
        tested.append(test(job, prompts, part, tested[0] if tested else None))
    summary = report(job, prompts, explored, tested)
    collect(open_collection(summary["run"], []), job.workers)
    if job.config.report.dashboard:
        dashboard(summary["run"])
    return summary


def screen(job: Job, prompts: Manifest) -> Screened:
    """Short texts on every prompt: where are the two models apart at all?"""
    allocation = allot_screen(job, prompts)
    if not allocation.n:
        return Screened()
    texts = decode(job, job.pair, prompts, allocation, "screen", 0)
    scored = divergence(job, job.pair, texts, "screen", 0)
    return Screened(texts, [scored], [embed(job, job.pair, texts, "screen", 0)])


def explore(job: Job, prompts: Manifest, screened: Screened) -> Explored:
    """Decode a little, cluster, and decode more only where it is still uncertain."""
    allocations: list[Manifest] = []
    decoded: list[Manifest] = []
    embedded: list[Manifest] = []
    scored = list(screened.scored)
    clustered: Manifest | None = None
    while (allocation := sample(job, prompts, scored, embedded, clustered, allocations)).n:
        round_index = len(allocations)
        allocations.append(allocation)
        texts = decode(job, job.pair, prompts, allocation, "discovery", round_index)
        decoded += texts
        scored.append(divergence(job, job.pair, texts, "discovery", round_index))
        embedded.append(embed(job, job.pair, texts, "discovery", round_index))
        clustered = cluster(job, job.pair, decoded, embedded, clustered, round_index, screened)
    assert clustered is not None, "the seed round always decodes"
    return Explored([*allocations, allocation], decoded, scored, clustered)


def repeat(
    job: Job,
    comparison: Comparison,
    prompts: Manifest,
    allocations: list[Manifest],
    known: list[Manifest],
) -> Manifest:
    """The same texts per prompt for another comparison, clustered once; none of the `known` texts
    is decoded again."""
    decoded: list[Manifest] = []
    embedded: list[Manifest] = []
    for round_index, allocation in enumerate(allocations[:-1]):
        texts = decode(job, comparison, prompts, allocation, "discovery", round_index, known)
        decoded += texts
        embedded.append(embed(job, comparison, texts, "discovery", round_index))
    return cluster(job, comparison, decoded, embedded, None, len(allocations) - 2, Screened())


def test(job: Job, prompts: Manifest, found: Found, beside: Tested | None) -> Tested:
    """Fresh texts of unseen prompts, judged blind and tested, in blocks until every hypothesis is
    decided; for a null control, within what was decoded `beside` it."""
    comparison, hypotheses = found.comparison, found.hypotheses
    plan = plan_fresh(job, comparison, prompts, hypotheses, beside.blocks if beside else [])
    known = beside.fresh if beside else []
    blocks: list[Manifest] = []
    fresh: list[Manifest] = []
    verdicts: list[Manifest] = []
    while (block := next_block(job, comparison, hypotheses, plan, verdicts, fresh, len(blocks))).n:
        fresh += decode(job, comparison, prompts, block, "validation", len(blocks), known)
        verdicts += judge(job, comparison, hypotheses, block, fresh)
        blocks.append(block)
    findings = validate(job, comparison, hypotheses, plan, verdicts, fresh)
    return Tested(found, plan, blocks, fresh, verdicts, findings)


if __name__ == "__main__":
    import argparse

    parser = argparse.ArgumentParser(description="Run the audit of a config file.")
    parser.add_argument("--config", required=True)
    parser.add_argument("--set", action="append", default=[], metavar="a.b=c", dest="overrides")
    parser.add_argument("--run-dir")
    audit(**vars(parser.parse_args()))
