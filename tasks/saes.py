"""SAEs: what they find in categorized texts, whether the model uses it, and what changed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import permutations
from typing import Any

from prefect import Task, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.utilities.annotations import quote

from tasks.caching import CACHED, RETRIED, Manifest, recall, remember, start
from tasks.sae_comparison import Comparison, load_analysis, load_features
from whatchanged.errors import MissingDependencyError
from whatchanged.keys import Keyable
from whatchanged.models.sae_loading import read_saes
from whatchanged.models.sae_trials import run_trials
from whatchanged.models.saes import Sae
from whatchanged.models.token_pieces import load_token_pieces
from whatchanged.records import Side
from whatchanged.saes.ablations import AblatedSpecialist, judge_effects, plan_trials
from whatchanged.saes.category_tests import measure_categories
from whatchanged.saes.changes import FeatureChange, FeatureChanges, compare_sides
from whatchanged.saes.comparison import RECORDS, analyze_sae, from_rows, to_rows
from whatchanged.saes.features import ZERO
from whatchanged.saes.highlights import (
    explored_features,
    highlight_features,
    tabulate_highlights,
    tabulate_texts,
)
from whatchanged.saes.overlap import Overlap, measure_overlap
from whatchanged.saes.report import (
    Compared,
    draw_figures,
    make_tables,
    summarize_comparison,
    write_report,
)
from whatchanged.saes.stored import pack_features
from whatchanged.saes.tables import to_csv, to_frame, to_latex, to_markdown
from whatchanged.summary import json_row, machine_facts

EXTRACT, ANALYZE, ABLATE, CHANGES, OVERLAP = "extract", "analyze", "ablate", "compare", "overlap"


Manifests = Mapping[str, Manifest]


@dataclass(frozen=True)
class Found:
    """What was stored, by side and SAE, by SAE, and of pairs of SAEs."""

    extracted: Mapping[Side, Manifests]
    analyzed: Manifests
    ablated: Manifests
    changed: Manifests
    overlaps: tuple[Manifest, ...]


def extract(comparison: Comparison, side: Side) -> Manifests:
    """The features of each SAE in one model; all that are not stored come from one pass."""
    keys = {sae.name: comparison.features_key(side, sae) for sae in comparison.saes.values()}
    found = {
        name: known.model_copy(update={"cached": True})
        for name, key in keys.items()
        if (known := recall(comparison.store, key))
    }
    if missing := [name for name in keys if name not in found]:
        with comparison.progress.stage(EXTRACT, side):
            named = _extract.with_options(
                task_run_name=f"extract features {side}",
                tags={"gpu"} if comparison.on_gpu else set(),
            )
            # Quoted: Prefect need not look into what holds the weights of all SAEs.
            inputs: dict[str, Any] = {"names": missing, "comparison": quote(comparison)}
            made = named.submit(side, **inputs).result()
            found |= dict(zip(missing, made, strict=True))
    return found


# Every SAE has a key of its own, and the store says which are missing: Prefect need not know.
@task(name="extract features", cache_policy=NO_CACHE, **RETRIED)
def _extract(side: Side, names: list[str], comparison: Comparison) -> list[Manifest]:
    config, store = comparison.config, comparison.store
    saes = [comparison.saes[name] for name in names]
    started = time.perf_counter()
    read = read_saes(
        comparison.models[side], config.run.device, saes, comparison.corpus.texts,
        pooling=config.pooling,
        batch_size=None if config.batch_size == "auto" else config.batch_size,
    )  # fmt: skip
    seconds = time.perf_counter() - started
    n_passes = read.extraction.n_forward_passes
    get_run_logger().info("%d SAEs from %d forward passes", len(saes), n_passes)
    made = []
    for sae in saes:
        found, key = read.extraction.features[sae.name], comparison.features_key(side, sae)
        store.put_arrays(key, pack_features(found, read.extraction))
        figures = {
            "explained_variance": found.reconstruction.explained_variance,
            "l0": found.reconstruction.l0,
            "dead_share": found.reconstruction.dead_share,
            "loss_recovered": read.recovered[sae.name],
            "n_tokens": found.reconstruction.n_tokens,
            "n_forward_passes": n_passes,
        }
        n_texts = len(comparison.corpus.texts)
        manifest = Manifest(key=key, n=n_texts, seconds=seconds, counts=json_row(figures))
        made.append(remember(store, manifest))
    return made


def analyze(comparison: Comparison, extracted: Manifests) -> Manifests:
    """What each SAE says of the categories and concepts."""
    settings = comparison.config.thresholds.model_dump(mode="json")
    return {
        sae.name: _run(
            comparison, _analyze, ANALYZE, sae, settings, extracted=extracted[sae.name]
        )
        for sae in comparison.saes.values()
    }  # fmt: skip


@task(name="analyze SAE", **CACHED)
def _analyze(key: str, sae: str, comparison: Comparison, extracted: Manifest) -> Manifest:
    store, config = comparison.store, comparison.config
    if known := recall(store, key):
        return known
    started = time.perf_counter()
    analysis = analyze_sae(
        load_features(comparison, sae, extracted), comparison.corpus,
        quantiles=config.thresholds.quantiles, alpha=config.alpha, seed=config.seed,
    )  # fmt: skip
    store.put_json(key, {name: to_rows(getattr(analysis, name)) for name in RECORDS})
    seconds = time.perf_counter() - started
    return remember(store, Manifest(key=key, n=len(analysis.specialists), seconds=seconds))


def ablate(comparison: Comparison, extracted: Manifests, analyzed: Manifests) -> Manifests:
    """What the best specialists of each category do in the model."""
    settings = comparison.config.ablation.model_dump(mode="json")
    return {
        sae.name: _run(
            comparison, _ablate, ABLATE, sae, settings, on_gpu=comparison.on_gpu,
            extracted=extracted[sae.name], analyzed=analyzed[sae.name],
        )
        for sae in comparison.saes.values()
    }  # fmt: skip


@task(name="ablate specialists", **CACHED, **RETRIED)
def _ablate(
    key: str, sae: str, comparison: Comparison, extracted: Manifest, analyzed: Manifest
) -> Manifest:
    store, config = comparison.store, comparison.config
    if known := recall(store, key):
        return known
    started = time.perf_counter()
    read = load_features(comparison, sae, extracted)
    specialists = load_analysis(comparison, analyzed).specialists
    trials = plan_trials(
        [row for row in specialists if row.threshold == ZERO.name],
        measure_categories(comparison.corpus.categorized(read), comparison.corpus.groups),
        alpha=config.alpha,
        n_best=config.ablation.specialists_per_category,
        n_texts=config.ablation.texts_per_category,
        seed=config.seed,
    )
    effects = run_trials(
        config.model, config.run.device, comparison.saes[sae],
        read, comparison.corpus.texts, trials,
        n_controls=config.ablation.n_controls, seed=config.seed,
    )  # fmt: skip
    judged = judge_effects(sae, trials, effects, seed=config.seed, alpha=config.alpha)
    store.put_json(key, to_rows(judged))
    seconds = time.perf_counter() - started
    return remember(store, Manifest(key=key, n=len(judged), seconds=seconds))


def compare(comparison: Comparison, extracted: Mapping[Side, Manifests]) -> Manifests:
    """How the intervention changed the features of each SAE; nothing without an intervention."""
    if "intervention" not in extracted:
        return {}
    return {
        name: _run(
            comparison, _compare, CHANGES, sae,
            sides=[extracted[side][name] for side in ("base", "intervention")],
        )
        for name, sae in comparison.saes.items()
    }  # fmt: skip


@task(name="compare sides", **CACHED)
def _compare(key: str, sae: str, comparison: Comparison, sides: list[Manifest]) -> Manifest:
    store, config = comparison.store, comparison.config
    if known := recall(store, key):
        return known
    base, intervention = (
        comparison.corpus.categorized(load_features(comparison, sae, side)) for side in sides
    )
    changes = compare_sides(
        base, intervention, comparison.corpus.groups, seed=config.seed, alpha=config.alpha
    )
    store.put_json(
        key,
        {
            "n_features": changes.n_features,
            "n_by_kind": changes.n_by_kind,
            "largest": to_rows(changes.largest),
        },
    )
    return remember(store, Manifest(key=key, n=len(changes.largest)))


def overlap(comparison: Comparison, extracted: Manifests) -> tuple[Manifest, ...]:
    """What SAEs of one hook point share, for every ordered pair of them."""
    return tuple(
        _run(
            comparison, _overlap, OVERLAP, one, other.name,
            other=other.name, sides=[extracted[one.name], extracted[other.name]],
        )
        for one, other in permutations(comparison.saes.values(), 2)
        if one.settings.hook_name == other.settings.hook_name
    )  # fmt: skip


@task(name="overlap of SAEs", **CACHED)
def _overlap(
    key: str, sae: str, other: str, comparison: Comparison, sides: list[Manifest]
) -> Manifest:
    if known := recall(comparison.store, key):
        return known
    corpus = comparison.corpus
    measured = measure_overlap(
        corpus.categorized(load_features(comparison, sae, sides[0])),
        corpus.categorized(load_features(comparison, other, sides[1])),
        comparison.saes[sae].decoder,
        comparison.saes[other].decoder,
    )
    comparison.store.put_json(key, to_rows([measured]))
    return remember(comparison.store, Manifest(key=key, n=1))


def report(comparison: Comparison, found: Found) -> dict[str, Any]:
    """Write the run folder and its report; the summary, with the folder's path under "run"."""
    with comparison.progress.stage("report"):
        compared = _load(comparison, found)
        summary = summarize_comparison(
            compared,
            [list(side.values()) for side in found.extracted.values()],
            seed=comparison.config.seed,
            facts=machine_facts(),
        )
        notes = _write(comparison, compared)
    summary |= {"notes": notes, "seconds": comparison.progress.seconds}
    comparison.folder.write_json("summary.json", summary)
    stages = {
        f"{stage} {name}": manifest.key
        for stage, manifests in (
            *found.extracted.items(), (ANALYZE, found.analyzed), (ABLATE, found.ablated)
        )
        for name, manifest in manifests.items()
    }  # fmt: skip
    comparison.folder.finish(stages, summary["versions"])
    return {**summary, "run": str(comparison.folder.path)}


@task(name="report SAEs", task_run_name="report SAEs", cache_policy=NO_CACHE)
def _write(comparison: Comparison, compared: Compared) -> list[str]:
    """Tables, figures and the report; what is missing in them, in sentences."""
    folder, notes = comparison.folder, []
    tables = make_tables(compared)
    for name, table in tables.items():
        folder.write_table(f"saes/{name}", to_frame(table))
        for suffix, write in (("csv", to_csv), ("md", to_markdown), ("tex", to_latex)):
            folder.write_bytes(f"saes/{name}.{suffix}", write(table).encode())
    folder.write_table("saes/texts", tabulate_texts(compared.corpus, compared.pieces))
    folder.write_table("saes/highlights", tabulate_highlights(compared.highlights))
    try:
        for name, figure in draw_figures(compared).items():
            folder.write_bytes(f"figures/{name}", figure)
    except MissingDependencyError as error:
        notes.append(f"No figures were drawn: {error}")
        get_run_logger().warning(notes[-1])
    written = write_report(compared, tables, notes)
    folder.write_bytes("report.md", written.encode())
    # A run has findings, and a comparison tests no hypothesis.
    folder.write_json("findings.json", [])
    # The server is to hold no text.
    shown = write_report(compared, tables, notes, quotes_texts=False)
    create_markdown_artifact(shown, key="sae-comparison")
    get_run_logger().info("report: %s", folder.path / "report.md")
    return notes


def _load(comparison: Comparison, found: Found) -> Compared:
    store, saes, config = comparison.store, comparison.saes, comparison.config
    extracted, corpus = found.extracted["base"], comparison.corpus
    analyses = {name: load_analysis(comparison, part) for name, part in found.analyzed.items()}
    read = {name: load_features(comparison, name, extracted[name]) for name in saes}
    splitter = load_token_pieces(config.model)
    any_read = next(iter(read.values()))
    pieces = [
        None if isinstance(splitter, str) else splitter.split(text, any_read.ids_of(row))
        for row, text in enumerate(corpus.texts)
    ]
    return Compared(
        model=config.model.model,
        intervention=None if config.intervention is None else config.intervention.model,
        corpus=corpus,
        cards=tuple(one.sae.card for one in read.values()),
        analyses=tuple(analyses.values()),
        ablated=tuple(
            row
            for part in found.ablated.values()
            for row in from_rows(AblatedSpecialist, store.get_json(part.key))
        ),
        changes={name: _changes(store.get_json(part.key)) for name, part in found.changed.items()},
        overlaps=tuple(
            row for part in found.overlaps for row in from_rows(Overlap, store.get_json(part.key))
        ),
        highlights=tuple(
            row
            for name in saes
            for row in highlight_features(read[name], corpus, explored_features(analyses[name]))
        ),
        pieces=pieces,
    )


def _changes(stored: dict[str, Any]) -> FeatureChanges:
    return FeatureChanges(
        stored["n_features"], stored["n_by_kind"], from_rows(FeatureChange, stored["largest"])
    )


def _run(
    comparison: Comparison,
    work: Task[..., Manifest],
    stage: str,
    sae: Sae,
    *settings: Keyable,
    on_gpu: bool = False,
    **inputs: Any,
) -> Manifest:
    """One stage for one SAE, under a key of the settings and of what goes in."""
    parts = [
        part
        for value in inputs.values()
        for part in (value if isinstance(value, list) else [value])
    ]
    edges = [part.key for part in parts if isinstance(part, Manifest)]
    key = comparison.stage_key(stage, sae, *settings, edges)
    with comparison.progress.stage(stage, sae.name):
        return start(
            comparison.store, work, key, f"{stage} {sae.name}", on_gpu=on_gpu,
            sae=sae.name, comparison=comparison, **inputs,
        ).result()  # fmt: skip
