"""Activations of component clusters: one sparse product, or one grouped maximum, per batch.

For a block of processed activations in memory. What the store keeps, it aggregates from the
non-zeros that it has found anyway (`events.cluster_block`), by the same groups and rules.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from whatchanged.activations.groups import ComponentGroups
from whatchanged.activations.processing import ComponentTable, ProcessedActivations
from whatchanged.errors import UsageError


@dataclass(frozen=True)
class ClusterActivations:
    """Activations of clusters `(n_tokens, n_clusters)`, one column per id of `clusters`."""

    activations: NDArray[np.float32]
    clusters: tuple[str, ...]


class ClusterAggregator:
    """Turns batches of processed activations into cluster activations, by the groups' rule.

    Labels are looked up once, here. A dead component stayed at 0 (or below the threshold) in all
    of the data: it counts as 0 in a sum, in a mean (whose divisor is all of the cluster's
    components) and in a maximum. So a cluster without a living component is 0, and every cluster
    has its column in every batch. The maximum is of signed values.
    """

    def __init__(self, table: ComponentTable, groups: ComponentGroups) -> None:
        """`groups` may name any of the table's components, dead ones included.

        Raises UsageError for a label that the table does not know.
        """
        columns = [table.get_label_index(label) for label in groups.labels]
        placed = sorted(
            (int(cluster), column)
            for cluster, column in zip(groups.cluster_of, columns, strict=True)
            if cluster >= 0 and column is not None
        )
        self._labels = table.labels
        self._groups = groups
        # The living components in a cluster, ordered by cluster: column and cluster of each.
        self._owners, self._columns = np.array(placed, dtype=np.int64).reshape(-1, 2).T

    def aggregate(self, batch: ProcessedActivations) -> ClusterActivations:
        """Raises UsageError for a batch that was processed with another table."""
        if batch.labels != self._labels:
            raise UsageError(
                f"expected a batch with the {len(self._labels)} living components of the table, "
                f"found {len(batch.labels)}: process all batches with one table"
            )
        find = self._maximum if self._groups.rule == "max" else self._weighted_sum
        return ClusterActivations(find(batch.activations), self._groups.clusters)

    def _weighted_sum(self, activations: NDArray[np.float32]) -> NDArray[np.float32]:
        from scipy.sparse import csr_array

        is_mean = self._groups.rule == "mean"
        divisors = self._groups.n_members[self._owners] if is_mean else np.ones(len(self._owners))
        grouping = csr_array(
            ((1 / divisors).astype(np.float32), (self._owners, self._columns)),
            shape=(self._groups.n_clusters, activations.shape[1]),
        )
        return np.ascontiguousarray((grouping @ activations.T).T, dtype=np.float32)

    def _maximum(self, activations: NDArray[np.float32]) -> NDArray[np.float32]:
        found = np.zeros((len(activations), self._groups.n_clusters), dtype=np.float32)
        if len(self._columns) == 0:
            return found
        present, starts, n_alive = np.unique(self._owners, return_index=True, return_counts=True)
        found[:, present] = np.maximum.reduceat(activations[:, self._columns], starts, axis=1)
        with_dead = present[n_alive < self._groups.n_members[present]]
        found[:, with_dead] = np.maximum(found[:, with_dead], 0)
        return found
