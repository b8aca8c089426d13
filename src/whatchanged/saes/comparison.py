"""Everything that one SAE says of categorized texts, and records as JSON and back."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar

import numpy as np

from whatchanged.saes.category_tests import (
    CategoryTests,
    count_chance_specialists,
    measure_categories,
)
from whatchanged.saes.concepts import ConceptFeature, search_concept
from whatchanged.saes.features import ZERO, quantile_thresholds
from whatchanged.saes.specialists import (
    CategorySummary,
    LayerSummary,
    Specialist,
    confirmed,
    find_specialists,
    summarize_categories,
    summarize_layers,
)
from whatchanged.saes.stored import ReadFeatures
from whatchanged.saes.strength import RankedFeature, rank_features
from whatchanged.saes.texts import Corpus
from whatchanged.summary import json_row

N_SHUFFLES = 20

Record = TypeVar("Record")


@dataclass(frozen=True, slots=True)
class ShuffleControl:
    """The null control of an SAE at one threshold: how many specialists it has (a feature counts
    for every category), and how many where the categories are shuffled among the texts."""

    sae: str
    threshold: str
    n_specialists: int
    n_shuffles: int
    n_shuffles_with_any: int
    mean_shuffled: float
    max_shuffled: int


@dataclass(frozen=True)
class SaeAnalysis:
    """The records of one SAE, each at every threshold but rankings and concepts, which are about
    activations above zero."""

    rankings: tuple[RankedFeature, ...]
    specialists: tuple[Specialist, ...]
    controls: tuple[ShuffleControl, ...]
    categories: tuple[CategorySummary, ...]
    layers: tuple[LayerSummary, ...]
    concepts: tuple[ConceptFeature, ...]


RECORDS: Mapping[str, type] = {
    "rankings": RankedFeature,
    "specialists": Specialist,
    "controls": ShuffleControl,
    "categories": CategorySummary,
    "layers": LayerSummary,
    "concepts": ConceptFeature,
}


def analyze_sae(
    read: ReadFeatures, corpus: Corpus, *, quantiles: Sequence[float], alpha: float, seed: int
) -> SaeAnalysis:
    """All analyses of one SAE. The same arguments give the same records.

    Thresholds are corrected for features and categories, each for itself: a specialist at several
    of them is one finding, not several.
    """
    groups = corpus.groups
    sae = corpus.categorized(read)
    thresholds = (ZERO, *quantile_thresholds(sae, quantiles))
    tests = [measure_categories(sae, groups, threshold) for threshold in thresholds]
    concepts: list[ConceptFeature] = []
    for name in corpus.concepts:
        places, contrast = corpus.contrast(name)
        concepts += search_concept(read.rows(places), contrast, name, seed=seed, alpha=alpha)
    return SaeAnalysis(
        rankings=rank_features(sae, tests[0], alpha=alpha),
        specialists=tuple(
            found for one in tests for found in find_specialists(sae, one, seed=seed, alpha=alpha)
        ),
        controls=tuple(
            _control(
                one,
                count_chance_specialists(
                    sae, groups, one.threshold, seed=seed, alpha=alpha, n_shuffles=N_SHUFFLES
                ),
                alpha,
            )
            for one in tests
        ),
        categories=tuple(row for one in tests for row in summarize_categories(one, alpha)),
        layers=summarize_layers(tests, alpha),
        concepts=tuple(concepts),
    )


def to_rows(records: Iterable[Any]) -> list[dict[str, Any]]:
    """Records as JSON: null for nan."""
    return [json_row(asdict(record)) for record in records]


def from_rows(kind: type[Record], rows: Iterable[Mapping[str, Any]]) -> tuple[Record, ...]:
    """The records in `to_rows`' JSON: a null figure is nan again."""
    numbers = {field.name for field in fields(kind) if field.type in ("float", float)}  # type: ignore[arg-type]
    return tuple(
        kind(**{
            name: math.nan if value is None and name in numbers else value
            for name, value in row.items()
        })
        for row in rows
    )  # fmt: skip


def _control(tests: CategoryTests, shuffled: np.ndarray, alpha: float) -> ShuffleControl:
    return ShuffleControl(
        sae=tests.card.name,
        threshold=tests.threshold.name,
        n_specialists=int(confirmed(tests, alpha).sum()),
        n_shuffles=len(shuffled),
        n_shuffles_with_any=int(np.count_nonzero(shuffled)),
        mean_shuffled=float(shuffled.mean()),
        max_shuffled=int(shuffled.max()),
    )
