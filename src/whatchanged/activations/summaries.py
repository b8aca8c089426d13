"""Streaming summaries of activations: all that a dashboard needs, in memory that does not grow.

A *unit* is a component (its number) or a component cluster (n_components + its number). Everything
is kept per side and unit, so arrays begin `(2, n_units, ...)`, the base first. A unit *fires* on a
token where its activation is not 0, at the *pole* of that sign; its *peak* on a text at a pole is
its activation of the largest magnitude there. Tokens and pairs of units that fire together are
counted at the positive pole alone.

Summaries of shards merge. Counts, histograms, examples and samples then equal those of one run to
the bit, whatever the batches were; sums to rounding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whatchanged.activations.coactivation import ClusterPairs, MemberPairs
from whatchanged.activations.events import Events, Extractor, cluster_block
from whatchanged.activations.groups import ComponentGroups
from whatchanged.activations.poles import (
    N_SIDES,
    POLES,
    Arrays,
    IntArray,
    Pairs,
    PoleName,
    PoleSummaries,
    TextRows,
    part_of,
)
from whatchanged.activations.token_counts import TokenCounts
from whatchanged.errors import UsageError


@dataclass(frozen=True, eq=False, slots=True)
class _UnitEvents:
    """Non-zeros of units, ordered by unit and row; `counts` of each of `units`."""

    units: IntArray
    counts: IntArray
    rows: NDArray[np.integer[Any]]
    values: NDArray[np.float32]


class Summaries:
    """What has been seen of every unit; `poles` has what is kept per pole, the examples included.

    `n_tokens`, `n_texts (2,)`: all that was seen. `n_firing`, `n_firing_texts`, `sums` and
    `squares (2, n_units)`: over all tokens, silent ones included, and both poles.
    """

    def __init__(self, groups: ComponentGroups, k: int = 20, n_sample: int = 50) -> None:
        self.groups = groups
        self.n_units = groups.n_components + groups.n_clusters
        shape = (N_SIDES, self.n_units)
        self.n_tokens, self.n_texts = np.zeros(N_SIDES, np.int64), np.zeros(N_SIDES, np.int64)
        self.n_firing, self.n_firing_texts = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        self.sums, self.squares = np.zeros(shape), np.zeros(shape)
        self.poles: dict[PoleName, PoleSummaries] = {
            pole: PoleSummaries(pole, self.n_units, k, n_sample) for pole in POLES
        }
        # Nearly every unit fires there: room at once, or it would grow batch after batch.
        self.poles["positive"].hold(np.arange(self.n_units))
        self.tokens = TokenCounts(N_SIDES * groups.n_clusters)
        self.cluster_pairs = ClusterPairs(groups.n_clusters)
        self.member_pairs = MemberPairs(groups)
        self._extractor = Extractor()

    def update(self, events: Events, texts: TextRows) -> None:
        """Take one record: the events of its components, and its texts."""
        side_of_row = np.repeat(texts.is_intervention, np.diff(texts.starts))
        n_rows = np.bincount(side_of_row, minlength=N_SIDES)
        self.n_tokens += n_rows
        self.n_texts += np.bincount(texts.is_intervention, minlength=N_SIDES)
        if not len(events.values):
            return
        clusters, block = cluster_block(events, self.groups)
        cells, values = self._extractor.cells(block)
        of_cluster = np.searchsorted(cells, np.arange(len(clusters) + 1) * events.n_rows)
        counts = np.diff(of_cluster)
        rows = cells - np.repeat(np.arange(len(clusters)) * events.n_rows, counts)
        components = self.groups.component_of_slot[events.slots]
        parts = (
            _UnitEvents(components, events.counts, events.rows, events.values),
            _UnitEvents(self.groups.n_components + clusters, counts, rows, values),
        )
        for part in parts:
            self._count(part, texts)
        fires = values > 0
        whose = np.repeat(clusters, counts)[fires]
        rows = rows[fires]
        self.tokens.add(texts.token_ids, rows, whose + side_of_row[rows] * self.groups.n_clusters)
        for side in np.flatnonzero(n_rows).tolist():
            self.cluster_pairs.add(side, clusters, block, side_of_row == side)
            self.member_pairs.add(side, events, side_of_row == side)

    def _count(self, found: _UnitEvents, texts: TextRows) -> None:
        """Statistics of the pairs of a unit and a text, and what their poles keep."""
        if not len(found.values):
            return
        n_texts = len(texts.numbers)
        text_of_row = np.repeat(np.arange(n_texts, dtype=np.int32), np.diff(texts.starts))
        pair_of_event = np.repeat(
            np.arange(len(found.units), dtype=np.int32) * n_texts, found.counts
        )
        pair_of_event += text_of_row.take(found.rows)
        starts = np.concatenate([[0], np.flatnonzero(np.diff(pair_of_event)) + 1])
        which, text = np.divmod(pair_of_event[starts], n_texts)
        sizes = np.diff(starts, append=len(pair_of_event))
        pairs = Pairs(found.units[which], text, sizes, found.rows, found.values)
        place = texts.is_intervention[text] * self.n_units + pairs.units
        wide = found.values.astype(np.float64)
        self._add_flat("sums", place, np.add.reduceat(wide, starts))
        self._add_flat("squares", place, np.add.reduceat(np.square(wide, out=wide), starts))
        self._add_flat("n_firing", place, sizes)
        self._add_flat("n_firing_texts", place, None)
        self.poles["positive"].add(pairs.at("positive"), texts)
        if found.values.min() < 0:
            self.poles["negative"].add(pairs.at("negative"), texts)

    def _add_flat(self, name: str, place: IntArray, weights: NDArray[Any] | None) -> None:
        """Add weights (or ones) at `side * n_units + unit`. Counts below 2^53 are exact."""
        table = getattr(self, name)
        added = np.bincount(place, weights, minlength=table.size).reshape(table.shape)
        table += added.astype(table.dtype, copy=False)

    def merge(self, later: Summaries) -> None:
        """Take in the summaries of later texts; their text 0 becomes the next text of these.

        Raises UsageError where the two are of other components, clusters or sizes.
        """
        mine, theirs = self._shape(), later._shape()
        if mine != theirs:
            raise UsageError(
                f"expected summaries of the same components, clusters and sizes {mine}, found"
                f" {theirs}: collect all shards with one set of components"
            )
        first = int(self.n_texts.sum())
        for pole in POLES:
            self.poles[pole].merge(later.poles[pole], first)
        for name in _STORED:
            table = getattr(self, name)
            table += getattr(later, name)
        self.tokens.merge(later.tokens)
        self.cluster_pairs.counts += later.cluster_pairs.counts
        self.member_pairs.counts += later.member_pairs.counts

    def example_texts(self) -> IntArray:
        """The numbers of all texts among the top and the samples of both poles, ascending."""
        return np.union1d(*(self.poles[pole].example_texts() for pole in POLES))

    def arrays(self) -> Arrays:
        """Everything, for storing."""
        arrays: Arrays = {name: getattr(self, name) for name in _STORED}
        for pole in POLES:
            parts = self.poles[pole].arrays()
            arrays |= {f"{pole}.{name}": part for name, part in parts.items()}
        arrays |= {f"tokens.{name}": part for name, part in self.tokens.arrays().items()}
        arrays["cluster_pairs"] = self.cluster_pairs.counts
        arrays["member_pairs"] = self.member_pairs.counts
        return arrays

    @classmethod
    def from_arrays(cls, groups: ComponentGroups, arrays: Mapping[str, NDArray[Any]]) -> Summaries:
        """What `arrays` gave."""
        k, n_sample = (arrays[f"{POLES[0]}.{name}.keys"].shape[1] for name in ("top", "sample"))
        found = cls(groups, k, n_sample)
        for name in _STORED:
            setattr(found, name, np.array(arrays[name]))
        for pole in POLES:
            found.poles[pole].restore(part_of(arrays, f"{pole}."))
        found.tokens = TokenCounts.from_arrays(part_of(arrays, "tokens."))
        found.cluster_pairs.counts = np.array(arrays["cluster_pairs"])
        found.member_pairs.counts = np.array(arrays["member_pairs"])
        return found

    def _shape(self) -> tuple[int, int, int, int]:
        own = self.poles["positive"]
        return self.groups.n_components, self.groups.n_clusters, own.top.k, own.sample.k


_STORED = ("n_tokens", "n_texts", "n_firing", "n_firing_texts", "sums", "squares")
