"""Active sampling: what the screen decodes, where each round decodes, and whether there is one."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
from prefect import get_run_logger, task

from tasks.caching import CACHED, Manifest, recall, remember, start
from tasks.cluster import load_discovered
from tasks.divergence import load_divergence
from tasks.embed import load_segments
from tasks.job import Job
from tasks.prompts import load_prompts
from whatchanged.divergence import add_divergence
from whatchanged.keys import content_key
from whatchanged.rounds import close_round, open_rounds
from whatchanged.sample import RoundQuality, no_evidence
from whatchanged.seen import classify_sides, collect_evidence


def allot_screen(job: Job, prompts: Manifest) -> Manifest:
    """The same number of short texts on every discovery prompt; `n` is 0 for no screen."""
    bank = [prompt for prompt in load_prompts(job, prompts) if prompt.split == "discovery"]
    each = job.config.n_screen_texts(len(bank))
    key = content_key("screen/1", prompts.key, each)
    job.store.put_json(key, {"counts": {p.key: each for p in bank if each}, "already": {}})
    return Manifest(key=key, n=each * len(bank))


def sample(
    job: Job,
    prompts: Manifest,
    scored: list[Manifest],
    embedded: list[Manifest],
    clustered: Manifest | None,
    so_far: list[Manifest],
) -> Manifest:
    """The next allocation (`rounds.Decision`); `n` is 0 where rounds stop.

    `scored` are the divergences of the screen and of earlier rounds, `embedded` the segments of
    earlier rounds, `clustered` is the last round, None before the seed round; `so_far` are earlier
    allocations.
    """
    with job.progress.stage("sample", f"round {len(so_far)}"):
        bank = [prompt for prompt in load_prompts(job, prompts) if prompt.split == "discovery"]
        there = job.available(job.pair, bank)
        key = content_key(
            "sample/5",
            job.config.sample.model_dump(mode="json"),
            job.config.validation.min_effect,
            job.config.seed,
            prompts.key,
            [part.key for part in scored],
            clustered.key if clustered else None,
            [part.key for part in so_far],
            *([there] if there is not None else []),
        )
        return start(
            job.store,
            _sample,
            key,
            f"sample {len(so_far)}",
            prompts=prompts,
            scored=scored,
            embedded=embedded,
            clustered=clustered,
            so_far=so_far,
            available=there,
            job=job,
        ).result()


@task(name="sample", **CACHED)
def _sample(
    key: str,
    prompts: Manifest,
    scored: list[Manifest],
    embedded: list[Manifest],
    clustered: Manifest | None,
    so_far: list[Manifest],
    available: dict[str, int] | None,
    job: Job,
) -> Manifest:
    if known := recall(job.store, key):
        return known
    bank = [prompt for prompt in load_prompts(job, prompts) if prompt.split == "discovery"]
    estimates = load_divergence(job.store, scored, bank)
    settings = job.config.sample_after_screen(len(bank))
    min_effect, seed = job.config.validation.min_effect, job.config.seed
    there = None if available is None else np.array([available[one.key] for one in bank])
    if clustered is None:
        screened = add_divergence(no_evidence(len(bank)), estimates)
        decision = open_rounds(
            bank, screened, settings, min_effect=min_effect, seed=seed, available=there
        )
    else:
        found = load_discovered(job.store, clustered, "focus")
        evidence = collect_evidence(found.texts, found.segments, bank)
        if settings.acquisition == "classifier":
            scores = classify_sides(found.texts, *load_segments(job, embedded), bank, seed=seed)
            evidence = replace(evidence, classifier=scores)
        history = [job.store.get_json(part.key)["quality"] for part in so_far]
        decision = close_round(
            bank,
            add_divergence(evidence, estimates),
            [RoundQuality(**quality) for quality in history if quality],
            settings,
            silhouette=clustered.measured("silhouette"),
            agreement=clustered.measured("label_agreement"),
            structure_found=bool(clustered.counts["structure_found"]),
            min_effect=min_effect,
            seed=seed,
            available=there,
        )
    job.store.put_json(key, asdict(decision))
    n_texts = sum(decision.counts.values())
    get_run_logger().info(decision.stop_reason or f"{n_texts} more texts per side")
    return remember(job.store, Manifest(key=key, n=n_texts))
