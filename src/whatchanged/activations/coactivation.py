"""How often units fire on the same token: counts in 64 bits, exact at any length.

Each unit's firings in a record are one bit per row; a pair's count is the number of bits that two
of them share. That costs the same for sparse and for dense units, and needs no product of
floating-point numbers, whose counts would stop being exact.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from whatchanged.activations.events import Events
from whatchanged.activations.groups import ComponentGroups

IntArray: TypeAlias = NDArray[np.int64]
Bits: TypeAlias = NDArray[np.uint64]

_N_SIDES = 2
# The pairs of larger clusters would need more memory than everything else, and no page shows them.
MAX_MEMBERS = 64
_WORD = 64
# What is compared at once stays in a core's second-level cache.
_PAIRS_AT_ONCE = 512
_COLUMNS_AT_ONCE = 256


class ClusterPairs:
    """`counts (2, n_clusters, n_clusters)` per side: tokens on which both clusters fire."""

    def __init__(self, n_clusters: int) -> None:
        self.counts = np.zeros((_N_SIDES, n_clusters, n_clusters), np.int64)

    def add(
        self, side: int, clusters: IntArray, block: NDArray[np.float32], rows: NDArray[np.bool_]
    ) -> None:
        """Count the `rows` that are the side's in a record's `block (n_active, n_rows)`."""
        bits = _pack(block > 0) & _pack(rows[None])
        first, second = np.triu_indices(len(clusters))
        shared = _count_shared(bits, first, second)
        first, second = clusters[first], clusters[second]
        self.counts[side, first, second] += shared
        is_pair = first != second
        self.counts[side, second[is_pair], first[is_pair]] += shared[is_pair]


class MemberPairs:
    """Tokens on which two components of one cluster both fire, per side, for clusters of up to
    `MAX_MEMBERS` members; larger ones have no pairs."""

    def __init__(self, groups: ComponentGroups) -> None:
        self._is_kept = groups.n_members <= MAX_MEMBERS
        squares = np.where(self._is_kept, groups.n_members**2, 0)
        self._starts = np.concatenate([[0], np.cumsum(squares)])
        self._groups = groups
        self.counts = np.zeros((_N_SIDES, int(self._starts[-1])), np.int64)

    def of_cluster(self, side: int, cluster: int) -> NDArray[np.int64] | None:
        """`(n_members, n_members)` in ascending component number; None for a large cluster."""
        if not self._is_kept[cluster]:
            return None
        n = int(self._groups.n_members[cluster])
        return self.counts[side, self._starts[cluster] : self._starts[cluster + 1]].reshape(n, n)

    def add(self, side: int, events: Events, rows: NDArray[np.bool_]) -> None:
        """Count the `rows` that are the side's in a record's events."""
        clusters = self._groups.cluster_of_slot[events.slots]
        is_kept = np.append(self._is_kept, False)[clusters]
        first, second = _pairs_within(clusters)
        good = is_kept[first]
        first, second = first[good], second[good]
        bits = _pack_events(events) & _pack(rows[None])
        shared = _count_shared(bits, first, second)
        owner = clusters[first]
        member_1 = events.slots[first] - self._groups.first_slots[owner]
        member_2 = events.slots[second] - self._groups.first_slots[owner]
        n = self._groups.n_members[owner]
        self.counts[side, self._starts[owner] + member_1 * n + member_2] += shared
        is_pair = member_1 != member_2
        mirrored = self._starts[owner] + member_2 * n + member_1
        self.counts[side, mirrored[is_pair]] += shared[is_pair]


def _pairs_within(sorted_groups: IntArray) -> tuple[IntArray, IntArray]:
    """All index pairs i <= j of one group."""
    ends = np.searchsorted(sorted_groups, sorted_groups, side="right")
    n_after = ends - np.arange(len(ends))
    first = np.repeat(np.arange(len(ends)), n_after)
    second = first + np.arange(len(first)) - np.repeat(np.cumsum(n_after) - n_after, n_after)
    return first, second


def _pack(fires: NDArray[np.bool_]) -> Bits:
    """`(n, n_words)`: one bit per row of `(n, n_rows)`, in an order that is the same for all."""
    n, n_rows = fires.shape
    n_words = -(-n_rows // _WORD)
    packed = np.zeros((n, n_words * 8), np.uint8)
    packed[:, : -(-n_rows // 8)] = np.packbits(fires, axis=1)
    return packed.view(np.uint64)


def _pack_events(events: Events) -> Bits:
    """`_pack` of the events' columns, a few columns of it at a time as a dense block."""
    ends = np.concatenate([[0], np.cumsum(events.counts)])
    dense = np.zeros((_COLUMNS_AT_ONCE, events.n_rows), bool)
    parts: list[Bits] = [np.zeros((0, -(-events.n_rows // _WORD)), np.uint64)]
    for low in range(0, len(events.slots), _COLUMNS_AT_ONCE):
        high = min(low + _COLUMNS_AT_ONCE, len(events.slots))
        part = slice(ends[low], ends[high])
        cells = np.repeat(np.arange(high - low) * events.n_rows, events.counts[low:high])
        cells += events.rows[part]
        dense.fill(False)
        dense.reshape(-1)[cells] = events.values[part] > 0
        parts.append(_pack(dense[: high - low]))
    return np.concatenate(parts)


def _count_shared(bits: Bits, first: NDArray[Any], second: NDArray[Any]) -> IntArray:
    """For each pair of rows of `bits` the number of bits that are set in both."""
    shared = np.zeros(len(first), np.int64)
    for low in range(0, len(first), _PAIRS_AT_ONCE):
        part = slice(low, low + _PAIRS_AT_ONCE)
        both = bits.take(first[part], axis=0)
        both &= bits.take(second[part], axis=0)
        shared[part] = np.bitwise_count(both).sum(axis=1, dtype=np.uint32)
    return shared
