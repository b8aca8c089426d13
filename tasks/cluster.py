"""Clustering: all texts of a comparison so far, once per round. Seconds long, so never resumed."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Literal

import pandas as pd
from prefect import get_run_logger, task
from prefect.artifacts import create_table_artifact

from tasks.caching import CACHED, Manifest, part_key, recall, remember, start
from tasks.decode import load_texts
from tasks.embed import load_segments
from tasks.job import Comparison, Job
from whatchanged.cluster import check_n_clusters
from whatchanged.discovery import as_previous, largest_differences, map_texts
from whatchanged.keys import content_key
from whatchanged.store.artifacts import ArtifactStore
from whatchanged.views import Embedded, PreviousViews, cluster_views

View = Literal["even", "focus"]
VIEWS: tuple[View, View] = ("even", "focus")
TABLES = ("texts", "segments", "clusters")
CENTROIDS = "centroids"
MAP = "map"


@dataclass(frozen=True)
class Screened:
    """The screen's texts: their chunks, divergences and segments. Empty where no screen ran."""

    decoded: list[Manifest] = field(default_factory=list)
    scored: list[Manifest] = field(default_factory=list)
    embedded: list[Manifest] = field(default_factory=list)


@dataclass(frozen=True)
class Discovered:
    """One view of a clustered round as tables: `records.TEXT_COLUMNS` (less what only the run
    folder has), `SEGMENT_COLUMNS`, `discovery.CLUSTER_COLUMNS` and `MAP_COLUMNS`."""

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
    screened: Screened,
) -> Manifest:
    """Cluster every text and segment decoded so far, both sides jointly, beside the screen's."""
    with job.progress.stage("cluster", f"{comparison.name}, round {round_index}"):
        check_n_clusters(job.config.cluster.n_clusters, sum(part.n for part in decoded))
        key = content_key(
            "cluster/5",
            job.config.cluster.model_dump(mode="json"),
            job.config.seed,
            [part.key for part in decoded],
            [part.key for part in embedded],
            previous.key if previous else None,
            [part.key for part in (*screened.decoded, *screened.embedded)],
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
            screened=screened,
            job=job,
        ).result()


def load_discovered(store: ArtifactStore, clustered: Manifest, view: View) -> Discovered:
    """The tables of a clustered round in one view (`whatchanged.views`)."""
    keys = [*(_key(clustered.key, view, name) for name in TABLES), part_key(clustered.key, MAP)]
    return Discovered(*map(store.get_table, keys))


@task(name="cluster", **CACHED)
def _cluster(
    key: str,
    decoded: list[Manifest],
    embedded: list[Manifest],
    previous: Manifest | None,
    round_index: int,
    screened: Screened,
    job: Job,
) -> Manifest:
    if known := recall(job.store, key):
        return known
    own = _load_embedded(job, decoded, embedded)
    short = _load_embedded(job, screened.decoded, screened.embedded) if screened.decoded else None
    started = time.perf_counter()
    views = cluster_views(
        own,
        job.config.cluster,
        screened=short,
        previous=_load_previous(job.store, previous) if previous else None,
        round_index=round_index,
        seed=job.config.seed,
    )
    seconds = time.perf_counter() - started
    for view, found in zip(VIEWS, (views.even, views.focus), strict=True):
        for name in TABLES:
            job.store.put_table(_key(key, view, name), getattr(found, name))
        job.store.put_arrays(_key(key, view, CENTROIDS), found.centroids)
    job.store.put_table(part_key(key, MAP), map_texts(*own))
    create_table_artifact(
        largest_differences(views.even.clusters),
        key="clusters",
        description=f"Clusters that differ most between the sides, round {round_index}",
    )
    get_run_logger().info("%d clusters in %.1f s", len(views.even.clusters), seconds)
    return remember(
        job.store,
        Manifest(
            key=key,
            parts=(*(_part(view, n) for view in VIEWS for n in (*TABLES, CENTROIDS)), MAP),
            n=len(views.even.clusters),
            seconds=seconds,
            # Of the clusters that steer: what they say decides whether rounds go on.
            counts={
                "silhouette": views.focus.silhouette,
                "davies_bouldin": views.focus.davies_bouldin,
                "label_agreement": views.focus.label_agreement,
                "structure_found": int(views.focus.structure_found),
            },
        ),
    )


def _load_embedded(job: Job, decoded: list[Manifest], embedded: list[Manifest]) -> Embedded:
    return Embedded(load_texts(job.store, decoded), *load_segments(job, embedded))


def _load_previous(store: ArtifactStore, clustered: Manifest) -> PreviousViews:
    parts = []
    for view in VIEWS:
        found = load_discovered(store, clustered, view)
        centroids = store.get_arrays(_key(clustered.key, view, CENTROIDS))
        parts.append(as_previous(found.texts, found.segments, found.clusters, centroids))
    return PreviousViews(*parts)


def _key(key: str, view: View, name: str) -> str:
    return part_key(key, _part(view, name))


def _part(view: View, name: str) -> str:
    return f"{view}-{name}"
