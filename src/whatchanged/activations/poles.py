"""Where units are strongest, streamed: histograms, the best texts and a sample, for one sign.

A projection has two poles, and about half of those that matter are strongest where they are
negative. Both poles are kept in the same way, as magnitudes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from whatchanged.activations.examples import ExampleTable
from whatchanged.activations.histograms import N_BINS, bins_of

IntArray: TypeAlias = NDArray[np.int64]
Arrays: TypeAlias = dict[str, NDArray[Any]]
PoleName: TypeAlias = Literal["positive", "negative"]

N_SIDES = 2
N_POSITIONS = 10
POLES: tuple[PoleName, ...] = ("positive", "negative")


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
class Pairs:
    """The pairs of a unit and a text (its place in the record) that have events, and those.

    `units`, `texts` and `sizes (n_pairs,)`; `rows` and `values (n_events,)` in the order of the
    pairs, rows ascending.
    """

    units: IntArray
    texts: IntArray
    sizes: IntArray
    rows: NDArray[np.integer[Any]]
    values: NDArray[np.float32]

    @property
    def starts(self) -> IntArray:
        """The first event of each pair."""
        return np.cumsum(self.sizes) - self.sizes

    def at(self, pole: PoleName) -> Pairs:
        """What has the sign of a pole: its events, as magnitudes, and the pairs that have some."""
        values = self.values if pole == "positive" else -self.values
        fires = values > 0
        if fires.all():
            return Pairs(self.units, self.texts, self.sizes, self.rows, values)
        sizes = np.add.reduceat(fires, self.starts, dtype=np.int64)
        there = sizes > 0
        return Pairs(
            self.units[there], self.texts[there], sizes[there], self.rows[fires], values[fires]
        )


class PoleSummaries:
    """What has been seen of one pole of the `units (n_held,)`, ascending numbers.

    `top` and `sample` hold `(2 * n_held, k)` examples: row `side * n_held + place`, keys are
    magnitudes or the texts' random numbers, values have their sign; `sample` is uniform over the
    texts on which the unit fires at this pole. `largest (2, n_held)` magnitude. `positions
    (2, n_held, 10)`: where in a text the peak is. `histograms (2, n_held, N_BINS)` of magnitudes,
    `peak_histograms` of the peaks, one per text.

    A unit takes its 7 kilobytes (`k` of 20, samples of 50) once it fires here, so that components
    which are never negative cost nothing at the negative pole.
    """

    def __init__(self, pole: PoleName, n_units: int, k: int, n_sample: int) -> None:
        self.pole: PoleName = pole
        self.units = np.zeros(0, np.int64)
        self._places = np.full(n_units, -1, np.int64)
        self.largest = np.zeros((N_SIDES, 0), np.float32)
        self.positions = np.zeros((N_SIDES, 0, N_POSITIONS), np.int64)
        self.histograms = np.zeros((N_SIDES, 0, N_BINS), np.uint32)
        self.peak_histograms = np.zeros((N_SIDES, 0, N_BINS), np.uint32)
        self.top, self.sample = ExampleTable(0, k), ExampleTable(0, n_sample)

    def hold(self, units: IntArray) -> None:
        """Make room for units; those that have room keep what they have."""
        if (self._places[units] >= 0).all():
            return
        known, self.units = self.units, np.union1d(self.units, units)
        n, kept = len(self.units), np.searchsorted(self.units, known)
        for name in _TABLES:
            table = getattr(self, name)
            wide = np.zeros((N_SIDES, n, *table.shape[2:]), table.dtype)
            wide[:, kept] = table
            setattr(self, name, wide)
        for name in _EXAMPLES:
            setattr(self, name, getattr(self, name).spread(N_SIDES * n, _of_both_sides(kept, n)))
        self._places[self.units] = np.arange(n)

    def add(self, pairs: Pairs, texts: TextRows) -> None:
        """Take a record's `Pairs.at` this pole."""
        if not len(pairs.units):
            return
        self.hold(pairs.units)
        place = texts.is_intervention[pairs.texts] * len(self.units) + self._places[pairs.units]
        starts = pairs.starts
        peaks = np.maximum.reduceat(pairs.values, starts)
        bins = np.repeat(place, pairs.sizes) * N_BINS
        bins += bins_of(pairs.values)
        np.add.at(self.histograms.reshape(-1), bins, np.uint32(1))
        np.add.at(self.peak_histograms.reshape(-1), place * N_BINS + bins_of(peaks), np.uint32(1))
        np.maximum.at(self.largest.reshape(-1), place, peaks)
        first = _first_of_peaks(pairs.values, peaks, pairs.sizes, starts)
        position = pairs.rows[first] - texts.starts[pairs.texts]
        lengths = np.diff(texts.starts)[pairs.texts]
        tenth = position * N_POSITIONS // lengths
        np.add.at(self.positions.reshape(-1), place * N_POSITIONS + tenth, 1)
        numbers, values = texts.numbers[pairs.texts], peaks if self.pole == "positive" else -peaks
        self.top.offer(place, peaks, values, numbers, position)
        self.sample.offer(place, texts.priorities[pairs.texts], values, numbers, position)

    def merge(self, later: PoleSummaries, first_text: int) -> None:
        """Take in the same pole of later texts, whose text 0 is this one's text `first_text`."""
        self.hold(later.units)
        places = self._places[later.units]
        for name in _ADDED:
            getattr(self, name)[:, places] += getattr(later, name)
        self.largest[:, places] = np.maximum(self.largest[:, places], later.largest)
        both = _of_both_sides(places, len(self.units))
        for name in _EXAMPLES:
            getattr(self, name).merge(getattr(later, name), first_text, both)

    def of_unit(self, name: str, unit: int) -> NDArray[Any]:
        """A unit's part `(2, ...)` of one of the arrays; zeros where it never fires here."""
        table: NDArray[Any] = getattr(self, name)
        place = int(self._places[unit])
        return table[:, place] if place >= 0 else np.zeros((N_SIDES, *table.shape[2:]), table.dtype)

    def examples(self, name: str, unit: int, side: int) -> Arrays:
        """A unit's columns of `top` or `sample`, without empty places."""
        table: ExampleTable = getattr(self, name)
        place = int(self._places[unit])
        if place < 0:
            return ExampleTable(1, table.k).of_unit(0)
        return table.of_unit(side * len(self.units) + place)

    def example_texts(self) -> IntArray:
        """The numbers of all texts among the top and the samples, ascending."""
        return np.union1d(self.top.all_texts(), self.sample.all_texts())

    def arrays(self) -> Arrays:
        """Everything, for storing."""
        arrays: Arrays = {name: getattr(self, name) for name in ("units", *_TABLES)}
        for name in _EXAMPLES:
            parts = getattr(self, name).arrays()
            arrays |= {f"{name}.{column}": part for column, part in parts.items()}
        return arrays

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Become what `arrays` gave; this one has seen nothing."""
        for name in ("units", *_TABLES):
            setattr(self, name, np.array(arrays[name]))
        for name in _EXAMPLES:
            setattr(self, name, ExampleTable.from_arrays(part_of(arrays, f"{name}.")))
        self._places[self.units] = np.arange(len(self.units))


_ADDED = ("positions", "histograms", "peak_histograms")
_TABLES = (*_ADDED, "largest")
_EXAMPLES = ("top", "sample")


def part_of(arrays: Mapping[str, NDArray[Any]], prefix: str) -> Arrays:
    """The arrays whose names begin with the prefix, by the rest of their names."""
    return {
        name.removeprefix(prefix): array
        for name, array in arrays.items()
        if name.startswith(prefix)
    }


def _of_both_sides(places: IntArray, n: int) -> IntArray:
    """The rows of an example table for `n` units: those of the base, then of the intervention."""
    return np.concatenate([places, n + places])


def _first_of_peaks(
    values: NDArray[np.float32], peaks: NDArray[np.float32], sizes: IntArray, starts: IntArray
) -> IntArray:
    """For each run of events the index of the first that has the run's largest value."""
    at_peak = np.flatnonzero(values == np.repeat(peaks, sizes))
    return at_peak[np.searchsorted(at_peak, starts)]
