"""Streaming summaries of activations: all that a dashboard needs, in memory that does not grow.

A *unit* is a component (its number) or a component cluster (n_components + its number). Everything
is kept per side and unit, so arrays begin `(2, n_units, ...)`, the base first. A unit *fires* on a
token where its activation is positive; its *peak* on a text is its largest activation there.

Summaries of shards merge. Counts, histograms, examples and samples then equal those of one run to
the bit, whatever the batches were; sums to rounding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from whatchanged.activations.coactivation import ClusterPairs, MemberPairs
from whatchanged.activations.events import Events, Extractor, cluster_block
from whatchanged.activations.examples import ExampleTable
from whatchanged.activations.groups import ComponentGroups
from whatchanged.activations.histograms import N_BINS, bins_of
from whatchanged.activations.token_counts import TokenCounts
from whatchanged.errors import UsageError

IntArray: TypeAlias = NDArray[np.int64]
Arrays: TypeAlias = dict[str, NDArray[Any]]

N_SIDES = 2
N_POSITIONS = 10


@dataclass(frozen=True, eq=False, slots=True)
class TextRows:
    """The texts whose tokens are the rows of a record.

    `numbers (n_texts,)` ascending over the whole store; `is_intervention (n_texts,)`;
    `priorities (n_texts,)` in [0, 1): each text's own random number; `starts (n_texts + 1,)`: the
    rows of text i are `starts[i]` up to `starts[i + 1]`; `token_ids (n_rows,)`.
    """

    numbers: IntArray
    is_intervention: NDArray[np.bool_]
    priorities: NDArray[np.float64]
    starts: IntArray
    token_ids: NDArray[np.integer[Any]]


@dataclass(frozen=True, eq=False, slots=True)
class _UnitEvents:
    """Non-zeros of units, ordered by unit and row; `counts` of each of `units`."""

    units: IntArray
    counts: IntArray
    rows: NDArray[np.integer[Any]]
    values: NDArray[np.float32]


class Summaries:
    """What has been seen of every unit. `top` and `sample` hold `(2 * n_units, k)` examples: row
    `side * n_units + unit`; `sample` is uniform over the texts on which the unit fires.

    `n_tokens`, `n_texts (2,)`: all that was seen. `n_firing`, `n_firing_texts`, `sums`, `squares`,
    `largest` and `smallest` (both at least/at most 0) `(2, n_units)`: over all tokens, silent ones
    included. `positions (2, n_units, 10)`: where in a text the peak is. `histograms (2, n_units,
    N_BINS)` of positive activations, `peak_histograms` of the clusters' and components' peaks.
    """

    def __init__(self, groups: ComponentGroups, k: int = 20, n_sample: int = 50) -> None:
        self.groups = groups
        self.n_units = groups.n_components + groups.n_clusters
        shape = (N_SIDES, self.n_units)
        self.n_tokens, self.n_texts = np.zeros(N_SIDES, np.int64), np.zeros(N_SIDES, np.int64)
        self.n_firing, self.n_firing_texts = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        self.sums, self.squares = np.zeros(shape), np.zeros(shape)
        self.largest, self.smallest = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        self.positions = np.zeros((*shape, N_POSITIONS), np.int64)
        self.histograms = np.zeros((*shape, N_BINS), np.uint32)
        self.peak_histograms = np.zeros((*shape, N_BINS), np.uint32)
        self.top = ExampleTable(N_SIDES * self.n_units, k)
        self.sample = ExampleTable(N_SIDES * self.n_units, n_sample)
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
        """Statistics, histograms and examples of the pairs of a unit and a text."""
        if not len(found.values):
            return
        n_texts = len(texts.numbers)
        text_of_row = np.repeat(np.arange(n_texts, dtype=np.int32), np.diff(texts.starts))
        pair_of_event = np.repeat(
            np.arange(len(found.units), dtype=np.int32) * n_texts, found.counts
        )
        pair_of_event += text_of_row.take(found.rows)
        starts = np.concatenate([[0], np.flatnonzero(np.diff(pair_of_event)) + 1])
        pairs = pair_of_event[starts]
        text, unit = pairs % n_texts, found.units[pairs // n_texts]
        place = texts.is_intervention[text] * self.n_units + unit
        wide = found.values.astype(np.float64)
        peaks = np.maximum.reduceat(found.values, starts)
        self._add_flat("sums", place, np.add.reduceat(wide, starts))
        self._add_flat("squares", place, np.add.reduceat(np.square(wide, out=wide), starts))
        np.maximum.at(self.largest.reshape(-1), place, peaks)
        sizes = np.diff(starts, append=len(pair_of_event))
        place_of_event = np.repeat(place, sizes)
        values = found.values
        n_firing = sizes
        if values.min() < 0:
            np.minimum.at(self.smallest.reshape(-1), place, np.minimum.reduceat(values, starts))
            fires = values > 0
            n_firing = np.add.reduceat(fires.astype(np.int64), starts)
            place_of_event, values = place_of_event[fires], values[fires]
        self._add_flat("n_firing", place, n_firing)
        bins = place_of_event * N_BINS
        bins += bins_of(values)
        np.add.at(self.histograms.reshape(-1), bins, np.uint32(1))
        good = np.flatnonzero(peaks > 0)
        first = _first_of_peaks(found.values, peaks, sizes, starts)[good]
        position = found.rows[first] - texts.starts[text[good]]
        self._take_peaks(place[good], peaks[good], text[good], position, texts)

    def _take_peaks(
        self,
        place: IntArray,
        peaks: NDArray[np.float32],
        text: IntArray,
        position: IntArray,
        texts: TextRows,
    ) -> None:
        """Everything that counts texts, from the pairs of a unit and a text on which it fires."""
        self._add_flat("n_firing_texts", place, None)
        np.add.at(self.peak_histograms.reshape(-1), place * N_BINS + bins_of(peaks), np.uint32(1))
        lengths = np.diff(texts.starts)[text]
        np.add.at(
            self.positions.reshape(-1), place * N_POSITIONS + position * N_POSITIONS // lengths, 1
        )
        numbers = texts.numbers[text]
        self.top.offer(place, peaks, peaks, numbers, position)
        self.sample.offer(place, texts.priorities[text], peaks, numbers, position)

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
        self.top.merge(later.top, first)
        self.sample.merge(later.sample, first)
        for name in ("n_tokens", "n_texts", *_UNIT_ADDED):
            table = getattr(self, name)
            table += getattr(later, name)
        np.maximum(self.largest, later.largest, out=self.largest)
        np.minimum(self.smallest, later.smallest, out=self.smallest)
        self.tokens.merge(later.tokens)
        self.cluster_pairs.counts += later.cluster_pairs.counts
        self.member_pairs.counts += later.member_pairs.counts

    def example_texts(self) -> IntArray:
        """The numbers of all texts among the top and the samples, ascending."""
        return np.union1d(self.top.all_texts(), self.sample.all_texts())

    def arrays(self) -> Arrays:
        """Everything, for storing."""
        arrays: Arrays = {name: getattr(self, name) for name in _STORED}
        arrays |= {f"top.{name}": part for name, part in self.top.arrays().items()}
        arrays |= {f"sample.{name}": part for name, part in self.sample.arrays().items()}
        arrays |= {f"tokens.{name}": part for name, part in self.tokens.arrays().items()}
        arrays["cluster_pairs"] = self.cluster_pairs.counts
        arrays["member_pairs"] = self.member_pairs.counts
        return arrays

    @classmethod
    def from_arrays(cls, groups: ComponentGroups, arrays: Mapping[str, NDArray[Any]]) -> Summaries:
        """What `arrays` gave."""
        found = cls(groups, arrays["top.keys"].shape[1], arrays["sample.keys"].shape[1])
        for name in _STORED:
            setattr(found, name, np.array(arrays[name]))
        found.top = ExampleTable.from_arrays(_part(arrays, "top."))
        found.sample = ExampleTable.from_arrays(_part(arrays, "sample."))
        found.tokens = TokenCounts.from_arrays(_part(arrays, "tokens."))
        found.cluster_pairs.counts = np.array(arrays["cluster_pairs"])
        found.member_pairs.counts = np.array(arrays["member_pairs"])
        return found

    def _shape(self) -> tuple[int, int, int, int]:
        return self.groups.n_components, self.groups.n_clusters, self.top.k, self.sample.k


_UNIT_ADDED = (
    "n_firing", "n_firing_texts", "sums", "squares", "positions", "histograms", "peak_histograms",
)  # fmt: skip
_STORED = ("n_tokens", "n_texts", *_UNIT_ADDED, "largest", "smallest")


def _first_of_peaks(
    values: NDArray[np.float32], peaks: NDArray[np.float32], sizes: IntArray, starts: IntArray
) -> IntArray:
    """For each run of events the index of the first that has the run's largest value."""
    at_peak = np.flatnonzero(values == np.repeat(peaks, sizes))
    return at_peak[np.searchsorted(at_peak, starts)]


def _part(arrays: Mapping[str, NDArray[Any]], prefix: str) -> Arrays:
    return {
        name.removeprefix(prefix): array
        for name, array in arrays.items()
        if name.startswith(prefix)
    }
