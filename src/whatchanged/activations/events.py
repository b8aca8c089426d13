"""Activations as events: the non-zeros of a dense block, component after component.

A dense block is `(n_rows, n_columns)`: one row per token, text after text; one column per
component. It is read once. Its non-zeros are found in two steps, words of eight cells first,
because finding single cells among many zeros costs four times the reading; scipy's conversion of
compressed rows to compressed columns then orders them by component and row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from whatchanged.activations.groups import ComponentGroups

Precision = Literal["float32", "float16", "int8"]
FloatArray: TypeAlias = NDArray[np.float32]
IntArray: TypeAlias = NDArray[np.int64]

PRECISIONS = get_args(Precision)
VALUE_TYPES: dict[str, type[Any]] = {"float32": np.float32, "float16": np.float16, "int8": np.int8}
# Rows are stored in 16 bits: a larger batch is cut into records of whole texts.
MAX_ROWS = 65_536
# 512 K cells: their mask and what is found in it stay in a core's second-level cache.
_TILE_CELLS = 524_288
_LANES = 8
# The half before 2^15, and the last scale whose 127-fold is finite.
_LARGEST_HALF = np.float32(2**15 - 16)
_LARGEST_SCALE = np.nextafter(np.finfo(np.float32).max / np.float32(127), np.float32(0))


@dataclass(frozen=True, eq=False, slots=True)
class Events:
    """The non-zeros of `n_rows` rows in the order of slot, then row.

    `slots (n_columns,)` ascending: those with an event; `counts (n_columns,)`: events of each;
    `rows` and `values (n_events,)`.
    """

    n_rows: int
    slots: IntArray
    counts: IntArray
    rows: NDArray[np.integer[Any]]
    values: FloatArray

    def within(self, first_slot: int, end_slot: int) -> Events:
        """The events of the slots from `first_slot` up to `end_slot`."""
        low, high = np.searchsorted(self.slots, (first_slot, end_slot))
        ends = np.concatenate([[0], np.cumsum(self.counts)])
        part = slice(ends[low], ends[high])
        return Events(
            self.n_rows, self.slots[low:high], self.counts[low:high], self.rows[part],
            self.values[part],
        )  # fmt: skip


class Extractor:
    """Finds the non-zeros of blocks; keeps its memory, which grows to the largest block's need.

    Without that, buffers of ever other sizes would leave the heap in pieces.
    """

    def __init__(self) -> None:
        self._mask = np.zeros(_TILE_CELLS, bool)
        self._any = np.zeros(_TILE_CELLS // _LANES, bool)
        self._values = np.zeros(0, np.float32)
        self._columns = np.zeros(0, np.int32)

    def extract(self, block: FloatArray, column_slots: NDArray[np.int32], n_slots: int) -> Events:
        """The events of a C-contiguous float32 block whose column j is the slot `column_slots[j]`.

        NaN and infinite values are events as well; -0.0 is a zero.
        """
        from scipy.sparse import csr_array

        n_rows = len(block)
        n_events, starts = self._scan(block, column_slots)
        if not n_events:
            none = np.zeros(0, np.int64)
            return Events(n_rows, none, none, none, np.zeros(0, np.float32))
        by_row = (self._values[:n_events], self._columns[:n_events], starts)
        by_slot = csr_array(by_row, shape=(n_rows, n_slots)).tocsc()
        counts = np.diff(by_slot.indptr).astype(np.int64)
        slots = np.flatnonzero(counts)
        return Events(n_rows, slots, counts[slots], by_slot.indices, by_slot.data)

    def cells(self, block: FloatArray) -> tuple[IntArray, FloatArray]:
        """Where the non-zeros of a C-contiguous block are, as flat ascending indices, and what."""
        flat = block.reshape(-1)
        found = [
            self._tile(flat[low : low + _TILE_CELLS]) + low
            for low in range(0, flat.size, _TILE_CELLS)
        ]
        cells = np.concatenate([np.zeros(0, np.int64), *found])
        return cells, flat[cells]

    def _scan(
        self, block: FloatArray, column_slots: NDArray[np.int32]
    ) -> tuple[int, NDArray[np.int32]]:
        """Values and slots of the non-zeros, row after row, into this object's memory: how many,
        and where each row starts."""
        n_rows, n_columns = block.shape
        n_tile = max(1, _TILE_CELLS // max(1, n_columns))
        if n_tile * n_columns > self._mask.size - _LANES:
            words = -(-n_tile * n_columns // _LANES) + 1
            self._mask, self._any = np.zeros(words * _LANES, bool), np.zeros(words, bool)
        width = np.uint32(n_columns)
        starts = np.zeros(n_rows + 1, np.int32)
        n = 0
        for low in range(0, n_rows if n_columns else 0, n_tile):
            part = block[low : low + n_tile]
            cells = self._tile(part.reshape(-1))
            end = n + len(cells)
            self._reserve(end)
            # A tile has fewer than 2^32 cells, and dividing 32-bit numbers is vectorized.
            columns = cells.astype(np.uint32)
            rows = columns // width
            columns -= rows * width
            np.take(part.reshape(-1), cells, out=self._values[n:end], mode="clip")
            np.take(column_slots, columns, out=self._columns[n:end], mode="clip")
            starts[low + 1 : low + 1 + len(part)] = np.bincount(rows, minlength=len(part))
            n = end
        np.cumsum(starts, out=starts)
        return n, starts

    def _tile(self, cells: FloatArray) -> IntArray:
        """The flat indices of the non-zeros among up to a tile of cells."""
        n_words = -(-len(cells) // _LANES)
        mask, some = self._mask[: n_words * _LANES], self._any[:n_words]
        np.not_equal(cells, 0, out=mask[: len(cells)])
        mask[len(cells) :] = False
        words = mask.view(np.uint64)
        np.not_equal(words, 0, out=some)
        filled: IntArray = some.nonzero()[0]
        lanes: IntArray = words.take(filled).view(bool).nonzero()[0]
        found = filled.take(lanes >> 3)
        found <<= 3
        lanes &= _LANES - 1
        found += lanes
        return found

    def _reserve(self, n: int) -> None:
        if n > len(self._values):
            for name in ("_values", "_columns"):
                old = getattr(self, name)
                new = np.zeros(n + n // 2, old.dtype)
                new[: len(old)] = old
                setattr(self, name, new)


def cluster_block(events: Events, groups: ComponentGroups) -> tuple[IntArray, FloatArray]:
    """The clusters with an event, ascending `(n_active,)`, and `(n_active, n_rows)` activations.

    Members are summed in ascending component number, in float32: the same bits as a plain loop.
    The maximum is over all members of the cluster, silent ones as zero.
    """
    inside = events.within(0, int(groups.first_slots[-1]))
    of_column = groups.cluster_of_slot[inside.slots]
    clusters, place = np.unique(of_column, return_inverse=True)
    cells = np.repeat(place * events.n_rows, inside.counts)
    cells += inside.rows
    n_cells = len(clusters) * events.n_rows
    if groups.rule == "max":
        flat = _largest(cells, inside.values, n_cells)
        if len(cells) and inside.values.min() < 0:
            n_members = np.repeat(groups.n_members[clusters], events.n_rows)
            has_silent = np.bincount(cells, minlength=n_cells) < n_members
            np.maximum(flat, 0, out=flat, where=has_silent)
        flat[np.isneginf(flat)] = 0
    else:
        values = inside.values
        if groups.rule == "mean":
            shares = (1 / groups.n_members[of_column]).astype(np.float32)
            values = values * np.repeat(shares, inside.counts)
        flat = np.zeros(n_cells, np.float32)
        np.add.at(flat, cells, values)
    return clusters, flat.reshape(len(clusters), events.n_rows)


def _largest(cells: IntArray, values: FloatArray, n_cells: int) -> FloatArray:
    flat = np.full(n_cells, -np.inf, np.float32)
    np.maximum.at(flat, cells, values)
    return flat


def encode_values(events: Events, precision: Precision) -> tuple[NDArray[Any], FloatArray]:
    """The events' values as they are stored, and their scales. No event becomes a zero.

    float32: as they are, no scale.
    float16: one power of two per record. |error| <= 2^-11 |x| + 2^-38 max|x| of the record.
    int8: one scale per component of a record. |error| <= max|x| / 127 of that component there;
        half of that where |x| is at least that large.
    """
    values = events.values
    if precision == "float32" or not len(values):
        return values.astype(VALUE_TYPES[precision], copy=False), np.zeros(0, np.float32)
    return _as_halves(values) if precision == "float16" else _as_bytes(events)


def _as_halves(values: FloatArray) -> tuple[NDArray[Any], FloatArray]:
    exponent = int(np.frexp(max(values.max(), -values.min()))[1])
    scale = np.ldexp(np.float32(1), max(exponent - 15, -126)).astype(np.float32)
    scaled = values / scale
    # Rounded up to 2^15, the largest 32-bit floats would come back as infinity.
    codes = np.clip(scaled, -_LARGEST_HALF, _LARGEST_HALF, out=scaled).astype(np.float16)
    # Comparing halves is slow; without its sign bit, a zero has none.
    lost = codes.view(np.uint16) << 1 == 0
    if lost.any():
        codes[lost] = np.copysign(np.float16(2.0**-24), values[lost])
    return codes, scale.reshape(1)


def _as_bytes(events: Events) -> tuple[NDArray[Any], FloatArray]:
    starts = np.cumsum(events.counts) - events.counts
    scales = np.maximum.reduceat(np.abs(events.values), starts) / np.float32(127)
    smallest = np.finfo(np.float32).smallest_subnormal
    scales = np.clip(scales, smallest, _LARGEST_SCALE)
    coded = np.rint(events.values / np.repeat(scales, events.counts))
    codes = np.clip(coded, -127, 127).astype(np.int8)
    lost = codes == 0
    codes[lost] = np.copysign(1, events.values[lost]).astype(np.int8)
    return codes, scales.astype(np.float32)


def decode_values(codes: NDArray[Any], scales: FloatArray, counts: IntArray) -> FloatArray:
    """The float32 values that `encode_values` stored; `counts`: events per scale."""
    if codes.dtype == np.float32:
        return codes
    values = codes.astype(np.float32)
    values *= scales if len(scales) == 1 else np.repeat(scales, counts)
    return values
