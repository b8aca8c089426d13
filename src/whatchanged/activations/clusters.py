"""Component clusters: components that fire on the same tokens.

Firing is yes or no, so that what is counted are integers: the counts, and with them the clusters,
are the same in every order and division of the batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from whatchanged.activations.processing import ComponentTable, ProcessedActivations
from whatchanged.errors import UsageError
from whatchanged.records import NOISE

# Firings are made and counted in pieces: little memory, and sums of ones exact in float32.
_TOKENS_AT_ONCE = 8192


@dataclass(frozen=True, slots=True, order=True)
class ClusterId:
    """Which cluster of which clustering: a run's name, its iteration, the label in it."""

    run: str
    iteration: int
    label: int

    def __post_init__(self) -> None:
        if not self.run or self.iteration < 0 or self.label < 0:
            raise UsageError(
                f"expected a run's name, and an iteration and a label of at least 0, found "
                f"{self.run!r}, {self.iteration} and {self.label}"
            )

    def to_string(self) -> str:
        """`run-iteration-label`."""
        return f"{self.run}-{self.iteration}-{self.label}"

    @classmethod
    def from_string(cls, text: str) -> ClusterId:
        """The id that `to_string` wrote; the run's name may hold hyphens.

        Raises UsageError for a text without two numbers at its end.
        """
        run, *numbers = text.rsplit("-", 2)
        if len(numbers) != 2 or not all(n.isascii() and n.isdecimal() for n in numbers):
            raise UsageError(f"expected a cluster id run-iteration-label, found {text!r}")
        return cls(run, int(numbers[0]), int(numbers[1]))


@dataclass(frozen=True)
class ComponentClusters:
    """The cluster of each component: `clusters (n_components,)` beside their `labels`, -1 for a
    component in none. Clusters are numbered from 0 without a gap."""

    run: str
    iteration: int
    labels: tuple[str, ...]
    clusters: NDArray[np.int64]

    def __post_init__(self) -> None:
        found = np.unique(self.clusters[self.clusters != NOISE])
        if len(self.labels) != len(self.clusters) or not (found == np.arange(len(found))).all():
            raise UsageError(
                f"expected a cluster from 0 on without a gap, or {NOISE}, for each of "
                f"{len(self.labels)} components, found {found.tolist()} for {len(self.clusters)}"
            )

    @property
    def n_clusters(self) -> int:
        return int(self.clusters.max(initial=NOISE)) + 1

    def members(self) -> dict[str, tuple[str, ...]]:
        """The labels of each cluster's components by the cluster's id as text, in the order of the
        clusters: what `groups.group_components` takes."""
        labels = np.array(self.labels, dtype=object)
        return {
            ClusterId(self.run, self.iteration, label).to_string(): tuple(
                labels[self.clusters == label]
            )
            for label in range(self.n_clusters)
        }


def firing_thresholds(table: ComponentTable, share: float = 0.5) -> NDArray[np.float32]:
    """Where each living component counts as firing: above `share` of its largest magnitude.

    `(n_alive,)`. A share of its own maximum, because the scales of components differ and because
    projections are hardly ever exactly 0. Raises UsageError for a share outside [0, 1).
    """
    if not 0 <= share < 1:
        raise UsageError(f"expected a share of the maximum in [0, 1), found {share}")
    return np.asarray(table.maxima[table.is_alive] * np.float32(share), dtype=np.float32)


class Coactivations:
    """How often each two components fire on one token, over the batches so far.

    Memory is 8 bytes per pair of components, beside 4 bytes per component and token of a piece of
    8,192 tokens; both are refused above `max_bytes` before anything is allocated.
    """

    def __init__(
        self,
        labels: Sequence[str],
        thresholds: NDArray[np.float32],
        *,
        max_bytes: int = 2**31,
    ) -> None:
        """`thresholds (n_components,)`: a component fires where its magnitude exceeds its own.

        Raises UsageError for other shapes, and for too many components.
        """
        n = len(labels)
        if thresholds.shape != (n,):
            raise UsageError(f"expected {n} thresholds, found shape {thresholds.shape}")
        n_bytes = n * (12 * n + 4 * _TOKENS_AT_ONCE)
        if n_bytes > max_bytes:
            raise UsageError(
                f"expected co-activations of {n} components within {max_bytes} bytes, and they "
                f"take {n_bytes}: raise the threshold of dead components, or cluster fewer sources"
            )
        self.labels = tuple(labels)
        self.n_tokens = 0
        self._thresholds = thresholds
        self._counts = np.zeros((n, n), dtype=np.int64)

    @property
    def counts(self) -> NDArray[np.int64]:
        """Tokens on which both fire, `(n_components, n_components)`; on the diagonal, on which
        the component fires."""
        return self._counts

    def add(self, batch: ProcessedActivations) -> None:
        """Takes a batch. Raises UsageError for other components than announced."""
        from scipy.sparse import csr_array

        if batch.labels != self.labels:
            raise UsageError(
                f"expected the {len(self.labels)} components announced, found "
                f"{len(batch.labels)}: process all batches with one table"
            )
        for at in range(0, len(batch.activations), _TOKENS_AT_ONCE):
            piece = batch.activations[at : at + _TOKENS_AT_ONCE]
            # Few components fire on one token: a sparse product counts pairs that occur alone.
            fires = csr_array((np.abs(piece) > self._thresholds).astype(np.float32))
            both = (fires.T @ fires).tocoo()
            self._counts[both.row, both.col] += both.data.astype(np.int64)
            self.n_tokens += len(piece)


def cluster_components(
    coactivations: Coactivations, run: str, *, iteration: int = 0, max_distance: float = 0.5
) -> ComponentClusters:
    """Clusters of components by the tokens on which they fire.

    The distance of two components is 1 less Jaccard's index (1912): the tokens on which both fire
    over those on which either does. Average linkage (UPGMA, Sokal and Michener 1958) merges
    clusters up to a mean distance of `max_distance` in [0, 1]. Clusters are numbered by their
    first component. A component that never fires is in no cluster; one that shares no tokens is
    one alone. Time and memory grow with the square of the components.

    Raises UsageError for a `max_distance` outside [0, 1].
    """
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    if not 0 <= max_distance <= 1:
        raise UsageError(f"expected a max_distance in [0, 1], found {max_distance}")
    n_firings = np.diag(coactivations.counts)
    (firing,) = np.nonzero(n_firings)
    clusters = np.full(len(n_firings), NOISE, dtype=np.int64)
    if len(firing) == 1:
        clusters[firing] = 0
    elif len(firing) > 1:
        both = coactivations.counts[np.ix_(firing, firing)]
        either = n_firings[firing][:, None] + n_firings[firing] - both
        distances = squareform(1 - both / either, checks=False)
        found = fcluster(linkage(distances, "average"), max_distance, criterion="distance")
        _, first, numbers = np.unique(found, return_index=True, return_inverse=True)
        clusters[firing] = np.argsort(np.argsort(first))[numbers]
    return ComponentClusters(run, iteration, coactivations.labels, clusters)
