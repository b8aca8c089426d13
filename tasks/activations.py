"""Activations: which components of the two models fire on a finished run's texts.

The run is complete before this stage and stays loadable while it works: what is added counts once
the manifest names it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pandas as pd
from prefect import Task, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from tasks.caching import CACHED, RETRIED, Manifest, part_key, recall, remember, start
from tasks.collection import (
    STAGE,
    Collection,
    TextChunk,
    load_blocks,
    load_firings,
    load_modules,
    load_skipped,
    load_summaries,
    load_table,
)
from tasks.showing import follow
from tasks.workers import Workers
from whatchanged.activations import evidence, passes, tables
from whatchanged.activations.grouping import group_firings, summarize_groups
from whatchanged.activations.groups import ComponentGroups
from whatchanged.activations.reading import pick_balanced
from whatchanged.errors import UsageError
from whatchanged.models.component_readings import load_contributions, load_reader
from whatchanged.progress import StageBar
from whatchanged.store.collected import store_firings
from whatchanged.store.runs import RunFolder
from whatchanged.summary import json_row

GROUPS, SELECTIVE, TABLE, FIGURES = "groups", "selective", "table", "figures"
# Units per comparison, and of them those whose tokens are shown on quoted texts.
N_SHOWN, N_UNITS_PER_TEXT = 8, 3


def collect(collection: Collection, workers: Workers) -> dict[str, Any]:
    """Read the run's texts, on the workers where these are elsewhere, and add what fires on them to
    its folder; the stage's summary."""
    started = time.perf_counter()
    with StageBar(STAGE) as bar:
        surveyed = _run(collection, _survey, collection.survey_key, "survey components")
        read: list[Manifest] = []
        contributed: list[Manifest] = []
        chosen = compared = surveyed
        if surveyed.n and collection.chunks:
            measured = _over_chunks(collection, workers, _measure, "measure", bar)
            key = collection.stage_key("choose", _edges(measured))
            chosen = _run(collection, _choose, key, "choose components", measured=measured)
            read = _over_chunks(collection, workers, _read, "read", bar, chosen=chosen)
            key = collection.stage_key(
                "compare", collection.name, collection.stated_contrasts, _edges([chosen, *read])
            )
            compared = _run(
                collection, _compare, key, "compare activations", chosen=chosen, read=read
            )
            contributed = _over_findings(collection, load_skipped(collection))
        return _write(collection, surveyed, chosen, read, compared, contributed, started)


def _run(
    collection: Collection, work: Task[..., Manifest], key: str, name: str, **inputs: Any
) -> Manifest:
    started = start(
        collection.store, work, key, name, on_gpu=collection.on_gpu, collection=collection, **inputs
    )
    return started.result()


def _over_chunks(
    collection: Collection,
    workers: Workers,
    work: Task[..., Manifest],
    stage: str,
    bar: StageBar,
    **inputs: Any,
) -> list[Manifest]:
    """One task per chunk of texts, with their progress."""
    futures = []
    for number, chunk in enumerate(collection.chunks):
        key = collection.stage_key(stage, list(chunk.texts["text_key"]), _edges(inputs.values()))
        futures.append(
            start(
                collection.store, work, key, f"{stage} components {number}",
                on_gpu=collection.on_gpu, workers=workers, chunk=chunk, **inputs,
            )
        )  # fmt: skip
    return follow(futures, f"activations-{stage}", "texts", bar)


def _over_findings(collection: Collection, skipped: dict[str, str]) -> list[Manifest]:
    """What the directions of the weight change contributed to each finding."""
    own = collection.config.activations
    is_read = "weight_delta" in own.sources and "weight_delta" not in skipped
    if not is_read or not own.contributions.texts_per_finding:
        return []
    return [
        start(
            collection.store,
            _contribute,
            collection.stage_key("contribute", own.contributions.model_dump(), contrast.stated()),
            f"contributions {contrast.name}",
            on_gpu=collection.on_gpu,
            number=number,
            collection=collection,
        ).result()
        for number, contrast in enumerate(collection.contrasts)
        if (contrast.kind, contrast.contrast) == ("finding", "texts")
    ]  # fmt: skip


def _edges(parts: Iterable[Manifest]) -> list[str]:
    return [part.key for part in parts]


@task(name="survey components", **CACHED, **RETRIED)
def _survey(key: str, collection: Collection) -> Manifest:
    """Which modules can be read, and why the others cannot."""
    if known := recall(collection.store, key):
        return known
    config, modules = collection.config, dict[str, int]()
    skipped: dict[str, str] = dict.fromkeys(config.activations.sources, config.why_unread)
    if config.activations.sources and not config.why_unread:
        reader = load_reader(config)
        modules, skipped = dict(reader.modules), dict(reader.skipped)
    for source, reason in skipped.items():
        get_run_logger().warning("%s is not read: %s", source, reason)
    collection.store.put_json(key, {"modules": list(modules.items()), "skipped": skipped})
    return remember(collection.store, Manifest(key=key, n=sum(modules.values())))


@task(name="measure components", **CACHED, **RETRIED)
def _measure(key: str, chunk: TextChunk) -> Manifest:
    def measure(texts: pd.DataFrame) -> passes.Arrays:
        reader = load_reader(chunk.config)
        return passes.measure_chunk(
            reader.read(list(texts["prompt"]), list(texts["token_ids"])),
            reader.modules,
            (texts["side"] == "intervention").to_numpy(),
            texts["prompt_key"].isin(chunk.choosing_prompts).to_numpy(),
        )

    return _on_chunk(key, chunk, measure)


@task(name="choose components", **CACHED)
def _choose(key: str, measured: list[Manifest], collection: Collection) -> Manifest:
    store, own = collection.store, collection.config.activations
    if known := recall(store, key):
        return known
    modules = load_modules(collection)
    parts = [store.get_arrays(part.key) for part in measured]
    table = passes.choose_table(parts, modules, own.max_components)
    store.put_arrays(key, {"maxima": table.maxima})
    return remember(store, Manifest(key=key, n=len(table.labels)))


@task(name="read components", **CACHED, **RETRIED)
def _read(key: str, chunk: TextChunk, chosen: Manifest) -> Manifest:
    def read(texts: pd.DataFrame) -> passes.Arrays:
        table, thresholds = load_table(chunk, chosen)
        batches = load_reader(chunk.config).read(list(texts["prompt"]), list(texts["token_ids"]))
        return passes.read_chunk(batches, list(texts["text_key"]), table, thresholds)

    return _on_chunk(key, chunk, read)


@task(name="compare activations", **CACHED)
def _compare(key: str, chosen: Manifest, read: list[Manifest], collection: Collection) -> Manifest:
    store = collection.store
    if known := recall(store, key):
        return known
    table, thresholds = load_table(collection, chosen)
    own = passes.without_controls(table)
    is_own = ~evidence.is_control(table.labels)
    groups = group_firings(
        load_blocks(collection, own, read), own, thresholds[is_own], collection.name
    )
    keys = [list(chunk.texts["text_key"]) for chunk in collection.chunks]
    clusters = summarize_groups(load_blocks(collection, own, read), keys, own, groups)
    summaries = load_summaries(collection, table, read)
    rows = evidence.select_units(
        summaries, clusters, collection.contrasts, list(collection.texts["prompt_key"]),
        seed=collection.config.seed, n_shown=N_SHOWN, chosen_on=collection.choosing_prompts,
    )  # fmt: skip
    store.put_json(part_key(key, GROUPS), {"clusters": groups.clusters,
                                           "cluster_of": groups.cluster_of.tolist()})  # fmt: skip
    store.put_table(part_key(key, SELECTIVE), evidence.tabulate_selective(rows))
    return remember(store, Manifest(key=key, parts=(GROUPS, SELECTIVE), n=len(rows)))


@task(name="contributions", **CACHED, **RETRIED)
def _contribute(key: str, number: int, collection: Collection) -> Manifest:
    store, config = collection.store, collection.config
    if known := recall(store, key):
        return known
    contrast, texts = collection.contrasts[number], collection.texts
    rows, shows = pick_balanced(
        contrast, list(texts["prompt_key"]), config.activations.contributions.texts_per_finding,
        seed=config.seed,
    )  # fmt: skip
    own = texts.iloc[rows]
    table, figures = evidence.no_contributions(contrast.name)
    try:
        if len(rows):
            found = load_contributions(config).compare(list(own["prompt"]), list(own["token_ids"]))
            table, figures = evidence.attribute_finding(
                contrast.name, found.labels, found.values, found.controls, found.strengths,
                found.log_ratios, list(own["prompt_key"]), shows,
            )  # fmt: skip
    except UsageError as error:
        get_run_logger().warning("no contributions to %s: %s", contrast.name, error)
        figures["problem"] = str(error)
    store.put_table(part_key(key, TABLE), table)
    store.put_json(part_key(key, FIGURES), json_row(figures))
    return remember(store, Manifest(key=key, parts=(TABLE, FIGURES), n=len(table)))


@task(name="store activations", task_run_name="store activations", cache_policy=NO_CACHE)
def _write(
    collection: Collection,
    surveyed: Manifest,
    chosen: Manifest,
    read: list[Manifest],
    compared: Manifest,
    contributed: list[Manifest],
    started: float,
) -> dict[str, Any]:
    """The folder `activations` of the run, in place of an earlier one; its manifest comes last."""
    store, folder = collection.store, RunFolder(collection.run.path)
    folder.retract(STAGE)
    figures = [store.get_json(part_key(part.key, FIGURES)) for part in contributed]
    summary: dict[str, Any] = {
        "sources": list(collection.config.activations.sources),
        "skipped": load_skipped(collection),
        "n_texts": len(collection.texts),
        "n_components": 0,
        "contributions": figures,
    }
    if read:
        summary |= _write_tables(collection, folder, chosen, read, compared, contributed)
    summary["seconds"] = time.perf_counter() - started
    folder.write_json(f"{STAGE}/summary.json", summary)
    folder.extend(STAGE, compared.key)
    create_markdown_artifact(evidence.describe_collection(summary), key="activations")
    return summary


def _write_tables(
    collection: Collection,
    folder: RunFolder,
    chosen: Manifest,
    read: list[Manifest],
    compared: Manifest,
    contributed: list[Manifest],
) -> dict[str, Any]:
    store = collection.store
    table, thresholds = load_table(collection, chosen)
    own = passes.without_controls(table)
    stated = store.get_json(part_key(compared.key, GROUPS))
    groups = ComponentGroups(
        own.labels, tuple(stated["clusters"]), np.array(stated["cluster_of"], dtype=np.int64)
    )
    kept = store_firings(
        folder.path / STAGE / "store", groups, load_firings(collection, own, read),
        keep=collection.config.activations.keep, seed=collection.config.seed,
    )  # fmt: skip
    is_intervention = (collection.texts["side"] == "intervention").to_numpy()
    selective = store.get_table(part_key(compared.key, SELECTIVE))
    shown = evidence.choose_shown(selective, collection.run.findings, N_UNITS_PER_TEXT)
    chunks = ((list(t["text_key"]), block) for t, block in load_firings(collection, own, read))
    written = {
        "components": tables.tabulate_components(
            load_summaries(collection, table, read), is_intervention, table, thresholds, groups
        ),
        "selective": selective,
        "contributions": evidence.join_contributions(
            [store.get_table(part_key(part.key, TABLE)) for part in contributed]
        ),
        "tokens": tables.tabulate_tokens(shown, chunks),
    }
    for name, rows in written.items():
        folder.write_table(f"{STAGE}/{name}", rows)
    return {
        "n_components": len(own.labels),
        "n_by_source": tables.count_sources(own.labels),
        "selective": [json_row(row) for row in tables.best_units(selective)],
        "n_clusters": groups.n_clusters,
        "n_events": kept.n_events,
        "store_bytes": kept.n_bytes,
    }


def _on_chunk(
    key: str, chunk: TextChunk, work: Callable[[pd.DataFrame], passes.Arrays]
) -> Manifest:
    if known := recall(chunk.store, key):
        return known
    started = time.perf_counter()
    chunk.store.put_arrays(key, work(chunk.texts))
    seconds = time.perf_counter() - started
    get_run_logger().info("%d texts in %.1f s", len(chunk.texts), seconds)
    return remember(chunk.store, Manifest(key=key, n=len(chunk.texts), seconds=seconds))
