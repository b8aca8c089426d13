"""Embedding: the segments of a round's texts, each distinct one once, through the cache."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from prefect import get_run_logger, task

from tasks.caching import CACHED, RETRIED, Manifest, recall, remember, start
from tasks.decode import load_texts
from tasks.job import Comparison, Job
from whatchanged.config import EmbedConfig
from whatchanged.embed import EmbeddedBlock, embed_block, embed_texts, segment_table
from whatchanged.keys import content_key
from whatchanged.models.loading import check_embedder, describe_embedder, load_embedder
from whatchanged.records import Purpose
from whatchanged.store.artifacts import ArtifactStore


def embed(
    job: Job,
    comparison: Comparison,
    decoded: list[Manifest],
    purpose: Purpose,
    round_index: int,
) -> Manifest:
    """Embed the segments of one round's texts; the vectors lie in the embedding cache."""
    with job.progress.stage("embed", f"{comparison.name}, {purpose}, round {round_index}"):
        key = content_key(
            "embed/1", describe_embedder(job.config.embed), [part.key for part in decoded]
        )
        name = f"embed {comparison.name} {purpose} {round_index}"
        future = start(job.store, _embed, key, name, on_gpu=job.on_gpu, decoded=decoded, job=job)
        return job.progress.note("embed", future.result())


def load_segments(job: Job, embedded: list[Manifest]) -> tuple[pd.DataFrame, NDArray[np.float32]]:
    """The segments of some rounds and their vectors `(n_segments, d_embed)`."""
    segments = pd.concat([job.store.get_table(part.key) for part in embedded], ignore_index=True)
    embedder = load_embedder(job.config.embed, job.config.run.device)
    return segments, embed_texts(segments["segment"].tolist(), embedder, job.vectors).vectors


@task(name="embed", **CACHED, **RETRIED)
def _embed(key: str, decoded: list[Manifest], job: Job) -> Manifest:
    if known := recall(job.store, key):
        return known
    segments = segment_table(load_texts(job.store, decoded))
    embedder = load_embedder(job.config.embed, job.config.run.device)
    started = time.perf_counter()
    spread = partial(_spread, job) if job.workers.are_elsewhere else None
    embedded = embed_texts(segments["segment"].tolist(), embedder, job.vectors, spread=spread)
    seconds = time.perf_counter() - started
    job.store.put_table(key, segments)
    counts = {
        "n_embedded": embedded.n_embedded,
        "n_cached": embedded.n_cached,
        "n_truncated": embedded.n_truncated,
    }
    get_run_logger().info("%(n_embedded)d embedded, %(n_cached)d cached", counts)
    return remember(job.store, Manifest(key=key, n=len(segments), seconds=seconds, counts=counts))


def _spread(job: Job, blocks: list[list[str]]) -> Iterator[EmbeddedBlock]:
    """What the workers make of each block, in order."""
    settings = job.config.embed
    identity = describe_embedder(settings)
    started = [
        start(
            job.store,
            _embed_block,
            content_key("embed-block/1", identity, block),
            f"embed block {number}",
            workers=job.workers,
            texts=block,
            settings=settings,
            identity=identity,
            device=job.config.run.device,
            outputs=job.store,
        )
        for number, block in enumerate(blocks)
    ]
    for one in started:
        manifest = one.result()
        rows = job.store.get_arrays(manifest.key)["rows"]
        yield EmbeddedBlock(rows, int(manifest.measured("n_truncated") or 0))


@task(name="embed block", **CACHED, **RETRIED)
def _embed_block(
    key: str,
    texts: list[str],
    settings: EmbedConfig,
    identity: str,
    device: str,
    outputs: ArtifactStore,
) -> Manifest:
    if known := recall(outputs, key):
        return known
    check_embedder(identity, settings)
    embedder = load_embedder(settings, device)
    started = time.perf_counter()
    found = embed_block(texts, embedder)
    seconds = time.perf_counter() - started
    outputs.put_arrays(key, {"rows": found.rows})
    counts = {"n_truncated": found.n_truncated}
    get_run_logger().info("%d segments in %.1f s", len(texts), seconds)
    return remember(outputs, Manifest(key=key, n=len(texts), seconds=seconds, counts=counts))
