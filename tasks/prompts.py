"""The prompt bank as an artifact: grouped and split before anything is decoded."""

from __future__ import annotations

from dataclasses import asdict

from prefect import get_run_logger, task

from tasks.caching import CACHED, Count, Manifest, recall, remember, start
from tasks.job import Job
from whatchanged.bank import open_bank, why_no_control
from whatchanged.config import AuditConfig
from whatchanged.keys import content_key
from whatchanged.models.loading import load_embedder
from whatchanged.prompt_bank import name_duplicates
from whatchanged.prompts import PromptRow, group_prompts, split_prompts
from whatchanged.records import Prompt


def split(job: Job) -> Manifest:
    """Read, group and split the prompt bank. The manifest counts what was read."""
    with job.progress.stage("prompts"):
        bank = open_bank(job.config)
        if said := name_duplicates(bank):
            get_run_logger().warning("%s", said)
        rows = bank.rows
        key = content_key(
            "prompts/1",
            [[row.prompt, row.group] for row in rows],
            job.config.prompts.validation_share,
            job.config.embed.model,
            job.config.seed,
        )
        future = start(job.store, _split, key, "prompts", rows=rows, config=job.config, job=job)
        # Of the bank as it was read now: banks that differ in duplicates alone share their key.
        counts: dict[str, Count] = {"n_duplicates": bank.n_duplicates, "format": bank.format}
        return future.result().model_copy(update={"counts": counts})


def load_prompts(job: Job, manifest: Manifest) -> tuple[Prompt, ...]:
    """The prompts that `split` stored."""
    return tuple(Prompt(**row) for row in job.store.get_json(manifest.key))


def may_control(job: Job, prompts: Manifest) -> bool:
    """Whether base is audited against base as well; where recorded texts do not allow it, the log
    says why."""
    reason = why_no_control(job.config, load_prompts(job, prompts))
    if reason:
        get_run_logger().warning("no null control: %s", reason)
    return job.config.validation.null_control and not reason


@task(name="prompts", **CACHED)
def _split(key: str, rows: tuple[PromptRow, ...], config: AuditConfig, job: Job) -> Manifest:
    if known := recall(job.store, key):
        return known
    groups = group_prompts(
        rows, lambda texts: load_embedder(config.embed, config.run.device).embed(texts)
    )
    prompts = split_prompts(
        rows, groups, validation_share=config.prompts.validation_share, seed=config.seed
    )
    job.store.put_json(key, [asdict(prompt) for prompt in prompts])
    return remember(job.store, Manifest(key=key, n=len(prompts)))
