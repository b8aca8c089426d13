"""The best texts of very many units at once, kept while texts stream past."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

_COLUMNS = {"keys": np.float64, "values": np.float32, "texts": np.int64, "positions": np.int32}
_NO_TEXT = -1


class ExampleTable:
    """For each of `n_units` the `k` texts with the largest keys, ties to the text that came first.

    Arrays `(n_units, k)`, best first: `keys` (-inf where there are fewer texts), `values`, `texts`
    (numbers, -1 where there is none) and `positions` of the value's token. With a text's peak as
    its key these are the top k; with a random number that is the text's own, a uniform sample.
    Both depend neither on batches nor on how texts are spread over tables that are merged.
    """

    def __init__(self, n_units: int, k: int) -> None:
        self.k = k
        self.keys = np.full((n_units, k), -np.inf)
        self.values = np.zeros((n_units, k), np.float32)
        self.texts = np.full((n_units, k), _NO_TEXT, np.int64)
        self.positions = np.zeros((n_units, k), np.int32)

    def offer(
        self,
        units: NDArray[np.integer[Any]],
        keys: NDArray[np.floating[Any]],
        values: NDArray[np.float32],
        texts: NDArray[np.int64],
        positions: NDArray[np.integer[Any]],
    ) -> None:
        """Take what belongs into the table of `(n,)` candidates.

        A unit's texts come in ascending order, each once, none before those it already has.
        """
        good = np.flatnonzero(keys > self.keys[:, -1].take(units))
        if not len(good):
            return
        good = good[np.argsort(units[good], kind="stable")]
        who, first, counts = np.unique(units[good], return_index=True, return_counts=True)
        place = np.repeat(np.arange(len(who)), counts)
        rank = np.arange(len(good)) - np.repeat(first, counts) + self.k
        shape = (len(who), self.k + int(counts.max()))
        best = np.full(shape, -np.inf)
        best[:, : self.k] = self.keys[who]
        best[place, rank] = keys[good]
        # What is there comes first, and the sort is stable: an equal key never displaces it.
        order = np.argsort(-best, axis=1, kind="stable")[:, : self.k]
        self.keys[who] = np.take_along_axis(best, order, axis=1)
        offered: dict[str, NDArray[Any]] = {
            "values": values,
            "texts": texts,
            "positions": positions,
        }
        for name, column in offered.items():
            kept = getattr(self, name)
            wide = np.full(shape, _NO_TEXT, kept.dtype)
            wide[:, : self.k] = kept[who]
            wide[place, rank] = column[good]
            kept[who] = np.take_along_axis(wide, order, axis=1)

    def spread(self, n_units: int, places: NDArray[np.int64]) -> ExampleTable:
        """The table of `n_units` in which the units of this one have the `places (n,)`."""
        wide = ExampleTable(n_units, self.k)
        for name in _COLUMNS:
            getattr(wide, name)[places] = getattr(self, name)
        return wide

    def merge(self, later: ExampleTable, first_text: int, places: NDArray[np.int64]) -> None:
        """Take in a table of later texts, whose text 0 is this one's text `first_text`, and whose
        unit i is this one's unit `places[i]`."""
        # Equal keys in ascending text number, so that `offer` keeps the earlier one.
        order = np.argsort(later.texts, axis=1, kind="stable")
        flat = {
            name: np.take_along_axis(getattr(later, name), order, 1).ravel() for name in _COLUMNS
        }
        there = flat["texts"] != _NO_TEXT
        units = np.repeat(places, later.k)
        self.offer(
            units[there],
            flat["keys"][there],
            flat["values"][there],
            flat["texts"][there] + first_text,
            flat["positions"][there],
        )

    def of_unit(self, unit: int) -> dict[str, NDArray[Any]]:
        """The columns of one unit, without its empty places."""
        there = self.texts[unit] != _NO_TEXT
        return {name: getattr(self, name)[unit][there] for name in _COLUMNS}

    def all_texts(self) -> NDArray[np.int64]:
        """The numbers of all texts in the table, ascending, each once."""
        return np.unique(self.texts[self.texts != _NO_TEXT])

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The table for storing."""
        return {name: getattr(self, name) for name in _COLUMNS}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> ExampleTable:
        """The table that `arrays` gave."""
        table = cls(0, arrays["keys"].shape[1])
        for name in _COLUMNS:
            setattr(table, name, np.array(arrays[name]))
        return table
