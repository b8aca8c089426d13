"""Clustering: all texts of a comparison so far, once per round. Seconds long, so never resumed."""

from __future__ import annotations

import time
from dataclasses import dataclass

import pandas as pd
from prefect import get_run_logger, task
from prefect.artifacts import create_table_artifact

from tasks.caching import CACHED, Manifest, part_key, recall, remember, start
from tasks.decode import load_texts
from tasks.embed import load_segments
from tasks.job import Comparison, Job
from whatchanged.cluster import check_n_clusters
from whatchanged.discovery import (
    PreviousRound,
    cluster_texts,
    labels_by_key,
    largest_differences,
    map_texts,
)
from whatchanged.keys import content_key
from whatchanged.store.artifacts import ArtifactStore

TABLES = ("texts", "segments", "clusters", "map")
CENTROIDS = "centroids"


@dataclass(frozen=True)
class Discovered:
    """A clustered round as tables: `records.TEXT_COLUMNS` (less what only the run folder has),
    `SEGMENT_COLUMNS`, `discovery.CLUSTER_COLUMNS` and `MAP_COLUMNS`."""

    texts: pd.DataFrame
    segments: pd.DataFrame
    clusters: pd.DataFrame
    map: pd.DataFrame


def cluster(
    job: Job,
    comparison: Comparison,
    decoded: list[Manifest],
    embedded: list[Manifest],
    previous: Manifest | None,
    round_index: int,
) -> Manifest:
    """Cluster every text and segment decoded so far, both sides jointly."""
    with job.progress.stage("cluster", f"{comparison.name}, round {round_index}"):
        check_n_clusters(job.config.cluster.n_clusters, sum(part.n for part in decoded))
        key = content_key(
            "cluster/3",
            job.config.cluster.model_dump(mode="json"),
            job.config.seed,
            [part.key for part in decoded],
            [part.key for part in embedded],
            previous.key if previous else None,
        )
        return start(
            job.store,
            _cluster,
            key,
            f"cluster {comparison.name} {round_index}",
            decoded=decoded,
            embedded=embedded,
            previous=previous,
            round_index=round_index,
            job=job,
        ).result()


def load_discovered(store: ArtifactStore, clustered: Manifest) -> Discovered:
    """The tables of a clustered round."""
    return Discovered(*(store.get_table(part_key(clustered.key, name)) for name in TABLES))


@task(name="cluster", **CACHED)
def _cluster(
    key: str,
    decoded: list[Manifest],
    embedded: list[Manifest],
    previous: Manifest | None,
    round_index: int,
    job: Job,
) -> Manifest:
    if known := recall(job.store, key):
        return known
    texts = load_texts(job.store, decoded)
    segments, vectors = load_segments(job, embedded)
    started = time.perf_counter()
    result = cluster_texts(
        texts,
        segments,
        vectors,
        job.config.cluster,
        previous=_load_round(job.store, previous) if previous else None,
        round_index=round_index,
        seed=job.config.seed,
    )
    seconds = time.perf_counter() - started
    tables = (result.texts, result.segments, result.clusters, map_texts(texts, segments, vectors))
    for name, table in zip(TABLES, tables, strict=True):
        job.store.put_table(part_key(key, name), table)
    job.store.put_arrays(part_key(key, CENTROIDS), result.centroids)
    create_table_artifact(
        largest_differences(result.clusters),
        key="clusters",
        description=f"Clusters that differ most between the sides, round {round_index}",
    )
    get_run_logger().info("%d clusters in %.1f s", len(result.clusters), seconds)
    return remember(
        job.store,
        Manifest(
            key=key,
            parts=(*TABLES, CENTROIDS),
            n=len(result.clusters),
            seconds=seconds,
            counts={
                "silhouette": result.silhouette,
                "davies_bouldin": result.davies_bouldin,
                "label_agreement": result.label_agreement,
            },
        ),
    )


def _load_round(store: ArtifactStore, clustered: Manifest) -> PreviousRound:
    found = load_discovered(store, clustered)
    centroids = store.get_arrays(part_key(clustered.key, CENTROIDS))
    return PreviousRound(labels_by_key(found.texts, found.segments), centroids, found.clusters)
