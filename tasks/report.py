"""The run folder: every table, the summary, the report, and last of all the manifest."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from prefect import get_run_logger, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE

from tasks.caching import Manifest
from tasks.cluster import load_discovered
from tasks.decode import load_texts
from tasks.divergence import load_pairs, load_scores
from tasks.hypothesize import summarize
from tasks.job import Comparison, Job
from tasks.judge import close_bill, load_inquiry, load_verdicts
from tasks.prompts import load_prompts
from tasks.showing import read_retries
from tasks.tracking import track
from whatchanged.bank import describe_recording
from whatchanged.divergence import estimate_divergence, name_method
from whatchanged.overview import write_overview
from whatchanged.report import build_report
from whatchanged.summary import (
    RunContent,
    assemble_run,
    describe_coupling,
    machine_facts,
    summarize_run,
    tabulate_judging,
)
from whatchanged.truth import read_ground_truth
from whatchanged.validate import select_texts


@dataclass(frozen=True)
class Explored:
    """The allocations of all rounds, the last one empty; the texts of these rounds; the divergences
    of the screen and of each round; the texts clustered at the end."""

    allocations: list[Manifest]
    decoded: list[Manifest]
    scored: list[Manifest]
    clustered: Manifest


@dataclass(frozen=True)
class Found:
    """A comparison, its clustered discovery texts and the hypotheses that they gave."""

    comparison: Comparison
    clustered: Manifest
    hypotheses: Manifest


@dataclass(frozen=True)
class Tested:
    """What was found, the plan of fresh texts, the blocks of it that were decoded, these texts, the
    verdicts on them, and the findings."""

    found: Found
    plan: Manifest
    blocks: list[Manifest]
    fresh: list[Manifest]
    verdicts: list[Manifest]
    findings: Manifest


def report(job: Job, prompts: Manifest, explored: Explored, tested: list[Tested]) -> dict[str, Any]:
    """Write the run folder and its report; the summary, with the folder's path under "run"."""
    themes = summarize(job, tested[0].findings)
    with job.progress.stage("report"):
        content = _write_report(job, prompts, explored, tested, themes)
        address = (job.folder.path.resolve() / "report.html").as_uri()
        overview = write_overview(
            job.folder.path.name, address, content.summary, content.findings, read_retries()
        )
        create_markdown_artifact(overview, key="overview")
    # The last stage's own seconds are known only now.
    summary = {**content.summary, "seconds": job.progress.seconds}
    summary["tracking"] = track(job, replace(content, summary=summary))
    job.folder.write_json("summary.json", summary)
    job.folder.finish(
        stage_keys={
            "prompts": prompts.key,
            "cluster": tested[0].found.clustered.key,
            "hypothesize": tested[0].found.hypotheses.key,
            "validate": tested[0].findings.key,
        },
        versions=content.summary["versions"],
    )
    return {**summary, "run": str(job.folder.path)}


@task(name="report", task_run_name="report", cache_policy=NO_CACHE)
def _write_report(
    job: Job, prompts: Manifest, explored: Explored, tested: list[Tested], themes: dict[str, Any]
) -> RunContent:
    content = _assemble(job, prompts, explored, tested, themes)
    for name, table in content.tables().items():
        job.folder.write_table(f"{name}.parquet", table)
    job.folder.write_json("findings.json", content.findings)
    job.folder.write_json("null_findings.json", content.null_findings)
    truth = read_ground_truth(job.config.report.ground_truth)
    written = build_report(content, truth)
    job.folder.write_bytes("report.md", written.markdown.encode())
    job.folder.write_bytes("report.html", written.html.encode())
    for name, figure in written.figures.items():
        job.folder.write_bytes(f"figures/{name}", figure)
    address = (job.folder.path.resolve() / "report.html").as_uri()
    if job.config.apis:
        account = tabulate_judging(content.summary["judge"], content.summary["bill"])
        create_table_artifact(account, key="judging")
    get_run_logger().info("report: %s", address)
    return content


def _count_texts(job: Job, tested: list[Tested]) -> int:
    """The questions that would be asked if one judge saw every text of every hypothesis."""
    n_texts = 0
    for part in tested:
        found = part.found
        inquiry = load_inquiry(job, found.comparison, found.hypotheses, part.plan, part.fresh)
        for plan in inquiry.plans:
            # Texts that read alike are one question.
            own = select_texts(inquiry.texts, plan)
            n_texts += len(own.drop_duplicates(["prompt_key", "text"]))
    return n_texts


def _assemble(
    job: Job, prompts: Manifest, explored: Explored, tested: list[Tested], themes: dict[str, Any]
) -> RunContent:
    pair, null = tested[0], tested[1] if len(tested) > 1 else None
    store, done = job.store, job.progress.manifests
    found = load_discovered(store, pair.found.clustered, "even")
    decisions = [store.get_json(allocation.key) for allocation in explored.allocations]
    bank = load_prompts(job, prompts)
    scores, pairs = load_scores(store, explored.scored), load_pairs(store, explored.scored)
    findings = store.get_json(pair.findings.key)
    null_findings = store.get_json(null.findings.key) if null else []
    fresh = load_texts(store, pair.fresh)
    verdicts = load_verdicts(store, pair.verdicts)
    return assemble_run(
        name=job.folder.path.name,
        config=job.config.model_dump(mode="json", by_alias=True),
        prompts=bank,
        discovery=found,
        fresh=fresh,
        scores=scores,
        divergence=estimate_divergence(scores, pairs, bank),
        pairs=pairs,
        verdicts=verdicts,
        findings=findings,
        null_findings=null_findings,
        summary=summarize_run(
            decoded=list(done["decode"].values()),
            embedded=list(done["embed"].values()),
            judged=list(done.get("judge", {}).values()),
            n_texts_judged=_count_texts(job, tested),
            bills=close_bill(job),
            themes=themes,
            verdicts=verdicts,
            decisions=decisions,
            coupling=describe_coupling(
                pairs,
                pair.found.comparison.why_independent,
                name_method(scores),
                job.config.why_sampled,
            ),
            findings=findings,
            null_findings=null_findings if null else None,
            seconds=job.progress.seconds,
            recorded=describe_recording(job.config, bank),
            prompts={"n": prompts.n, **prompts.counts},
            seed=job.config.seed,
            facts=machine_facts(),
        ),
    )
