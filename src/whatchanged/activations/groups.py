"""Which component belongs to which cluster, and how a cluster's activation is made of its members'.

Components are numbered in the order of their labels, clusters in the order of their ids. What is
stored is ordered by *slot*: all components of the first cluster, then of the second, ..., and those
of no cluster last, each in ascending number. So the events of a cluster lie beside each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from whatchanged.errors import UsageError

Rule = Literal["sum", "mean", "max"]
IntArray: TypeAlias = NDArray[np.int64]

NO_CLUSTER = -1


@dataclass(frozen=True, eq=False)
class ComponentGroups:
    """`labels` of all components, dead ones included; `clusters`: their ids.

    `cluster_of (n_components,)`: the number of each component's cluster or `NO_CLUSTER`; `rule`:
    sum, mean or max over all members of a cluster, of which a dead or silent one counts as zero.
    """

    labels: tuple[str, ...]
    clusters: tuple[str, ...]
    cluster_of: IntArray
    rule: Rule = "sum"

    @property
    def n_components(self) -> int:
        return len(self.labels)

    @property
    def n_clusters(self) -> int:
        return len(self.clusters)

    @cached_property
    def component_of_slot(self) -> IntArray:
        """`(n_components,)`"""
        last = np.where(self.cluster_of == NO_CLUSTER, self.n_clusters, self.cluster_of)
        return np.argsort(last, kind="stable")

    @cached_property
    def slot_of_component(self) -> NDArray[np.int32]:
        """`(n_components,)`"""
        slots = np.empty(self.n_components, np.int32)
        slots[self.component_of_slot] = np.arange(self.n_components)
        return slots

    @cached_property
    def cluster_of_slot(self) -> IntArray:
        """`(n_components,)`, `n_clusters` for the slots of no cluster."""
        clusters = self.cluster_of[self.component_of_slot]
        return np.where(clusters == NO_CLUSTER, self.n_clusters, clusters)

    @cached_property
    def first_slots(self) -> IntArray:
        """`(n_clusters + 1,)`: the slots of cluster c are those from `[c]` up to `[c + 1]`."""
        return np.searchsorted(self.cluster_of_slot, np.arange(self.n_clusters + 1))

    @cached_property
    def n_members(self) -> IntArray:
        """`(n_clusters,)`"""
        return np.diff(self.first_slots)

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {label: number for number, label in enumerate(self.labels)}

    @cached_property
    def _cluster_numbers(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.clusters)}

    def component_numbers(self, labels: Sequence[str]) -> IntArray:
        """The number of each label. Raises UsageError for a label that no component has."""
        unknown = next((label for label in labels if label not in self._numbers), None)
        if unknown is not None:
            raise UsageError(
                f"expected labels of the {self.n_components:,} components of this store, found"
                f" {unknown!r}: name components as 'module:index'"
            )
        return np.array([self._numbers[label] for label in labels], np.int64)

    def cluster_number(self, cluster: str) -> int:
        """The number of a cluster's id. Raises UsageError for an id that no cluster has."""
        if cluster not in self._cluster_numbers:
            raise UsageError(
                f"expected the id of one of the {self.n_clusters:,} component clusters of this"
                f" store, found {cluster!r}: ids are 'run-iteration-label'"
            )
        return self._cluster_numbers[cluster]


def group_components(
    labels: Sequence[str], clusters: Mapping[str, Sequence[str]], rule: Rule = "sum"
) -> ComponentGroups:
    """The groups of `clusters`: id -> labels of its components. A component may be in none.

    Raises UsageError for no component at all, a label met twice, a cluster's label that is no
    component's, a component of two clusters, and an unknown rule.
    """
    if not labels:
        raise UsageError("expected components, found none alive: lower the threshold of dead ones")
    if len(set(labels)) < len(labels):
        twice = next(label for label in labels if list(labels).count(label) > 1)
        raise UsageError(f"expected one component per label, found {twice!r} twice: drop one")
    if rule not in get_args(Rule):
        raise UsageError(f"expected the rule sum, mean or max, found {rule!r}")
    plain = ComponentGroups(tuple(labels), tuple(clusters), np.full(len(labels), NO_CLUSTER), rule)
    for number, members in enumerate(clusters.values()):
        numbers = plain.component_numbers(members)
        taken = numbers[plain.cluster_of[numbers] != NO_CLUSTER]
        if len(taken) or len(set(members)) < len(members):
            label = plain.labels[int(taken[0])] if len(taken) else members[0]
            raise UsageError(
                f"expected every component in at most one cluster, found {label!r} in"
                f" {plain.clusters[number]!r} and before: group each component once"
            )
        plain.cluster_of[numbers] = number
    return plain
