"""From the firings of a run's texts to clusters of components, and to what those did in each text.

Clusters with one member say nothing that the component does not: they are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from whatchanged.activations.cluster_activations import ClusterAggregator
from whatchanged.activations.clusters import Coactivations, cluster_components
from whatchanged.activations.groups import ComponentGroups, group_components
from whatchanged.activations.processing import ComponentTable, ProcessedActivations
from whatchanged.activations.selectivity import TextSummaries, join_summaries, summarize_texts


def group_firings(
    chunks: Iterable[ProcessedActivations],
    table: ComponentTable,
    thresholds: NDArray[np.float32],
    run: str,
) -> ComponentGroups:
    """The living components of `table`, grouped by the tokens on which they fire together.

    Ids are `run-0-label`; a cluster's activation is the sum of its members'. Raises UsageError
    where no component is alive.
    """
    coactivations = Coactivations(table.labels, thresholds)
    for chunk in chunks:
        coactivations.add(chunk)
    members = cluster_components(coactivations, run).members()
    several = {name: labels for name, labels in members.items() if len(labels) > 1}
    return group_components(table.labels, several)


def summarize_groups(
    chunks: Iterable[ProcessedActivations],
    text_keys: Iterable[Sequence[str]],
    table: ComponentTable,
    groups: ComponentGroups,
) -> TextSummaries:
    """What each component cluster did in each text; it fires where any member does."""
    aggregator = ClusterAggregator(table, groups)
    silent = np.zeros(groups.n_clusters, dtype=np.float32)
    parts = []
    for chunk, keys in zip(chunks, text_keys, strict=True):
        found = aggregator.aggregate(chunk)
        parts.append(
            summarize_texts(keys, found.clusters, found.activations, chunk.text_starts, silent)
        )
    return join_summaries(parts)
