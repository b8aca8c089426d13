"""Active sampling: where the next round decodes, and whether there is one."""

from __future__ import annotations

from dataclasses import asdict

from prefect import get_run_logger, task

from tasks.caching import CACHED, Manifest, recall, remember, start
from tasks.cluster import load_discovered
from tasks.job import Job
from tasks.prompts import load_prompts
from whatchanged.discovery import collect_evidence
from whatchanged.keys import content_key
from whatchanged.rounds import close_round, open_rounds
from whatchanged.sample import RoundQuality


def sample(
    job: Job, prompts: Manifest, clustered: Manifest | None, so_far: list[Manifest]
) -> Manifest:
    """The next allocation `{counts, already, quality, stop_reason}`; `n` is 0 where rounds stop.

    `clustered` is the last round, None before the seed round; `so_far` are earlier allocations.
    """
    with job.progress.stage("sample", f"round {len(so_far)}"):
        key = content_key(
            "sample/1",
            job.config.sample.model_dump(mode="json"),
            job.config.validation.min_effect,
            job.config.seed,
            prompts.key,
            clustered.key if clustered else None,
            [part.key for part in so_far],
        )
        return start(
            job.store,
            _sample,
            key,
            f"sample {len(so_far)}",
            prompts=prompts,
            clustered=clustered,
            so_far=so_far,
            job=job,
        ).result()


@task(name="sample", **CACHED)
def _sample(
    key: str, prompts: Manifest, clustered: Manifest | None, so_far: list[Manifest], job: Job
) -> Manifest:
    if known := recall(job.store, key):
        return known
    bank = [prompt for prompt in load_prompts(job, prompts) if prompt.split == "discovery"]
    if clustered is None:
        decision = open_rounds(bank, job.config.sample, job.config.seed)
    else:
        found = load_discovered(job.store, clustered)
        history = [job.store.get_json(part.key)["quality"] for part in so_far]
        decision = close_round(
            bank,
            collect_evidence(found.texts, found.segments, bank),
            [RoundQuality(**quality) for quality in history if quality],
            job.config.sample,
            silhouette=clustered.measured("silhouette"),
            agreement=clustered.measured("label_agreement"),
            min_effect=job.config.validation.min_effect,
            seed=job.config.seed,
        )
    job.store.put_json(key, asdict(decision))
    n_texts = sum(decision.counts.values())
    get_run_logger().info(decision.stop_reason or f"{n_texts} more texts per side")
    return remember(job.store, Manifest(key=key, n=n_texts))
