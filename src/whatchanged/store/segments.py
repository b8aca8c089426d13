"""Segments: files of a fixed size that hold the activations of some texts, column by column.

A segment is a valid safetensors file, so any program reads it. Its arrays:

    records           (n_records, 6): batch, n_texts, n_columns, n_events, n_tokens, alive set
    alive             one bit per component and alive set: the components that a batch had
    numbers, keys, is_intervention, n_tokens    one row per text; `tokens` of all texts in a row
    slots, counts     one per component with an event in a record; counts are stored less one
    scales            see `activations.events.encode_values`
    rows, values      one per event, in the order of slot and row, rows counted within the record
"""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from whatchanged.activations.events import VALUE_TYPES, Events, Precision, decode_values
from whatchanged.errors import InputError
from whatchanged.store import codec
from whatchanged.store.text_batch import N_KEY_BYTES

_N_FIELDS = 6
_SAFETENSORS = {
    "int64": "I64", "float64": "F64", "float32": "F32", "int32": "I32", "uint32": "U32",
    "uint16": "U16", "float16": "F16", "int8": "I8", "uint8": "U8",
}  # fmt: skip
_DTYPES = {name: np.dtype(dtype) for dtype, name in _SAFETENSORS.items()}
_ALIGNMENT = 8


@dataclass(frozen=True, eq=False, slots=True)
class Record:
    """The texts of a batch, or a part of them, with their events as they are stored.

    `alive (ceil(n_components / 8),)` bits by component number; `keys (n_texts, 32)` bytes;
    `token_ids` of all texts in a row; `counts` of `slots`; `codes` and `scales` as encoded.
    """

    batch: int
    alive: NDArray[np.uint8]
    numbers: NDArray[np.integer[Any]]
    keys: NDArray[np.uint8]
    is_intervention: NDArray[Any]
    n_tokens: NDArray[np.integer[Any]]
    token_ids: NDArray[np.integer[Any]]
    slots: NDArray[np.integer[Any]]
    counts: NDArray[np.integer[Any]]
    rows: NDArray[np.integer[Any]]
    codes: NDArray[Any]
    scales: NDArray[np.float32]

    @property
    def starts(self) -> NDArray[np.int64]:
        """`(n_texts + 1,)`: the rows of text i are `starts[i]` up to `starts[i + 1]`."""
        return np.concatenate([[0], np.cumsum(self.n_tokens, dtype=np.int64)])

    def events(self) -> Events:
        """The events with decoded values."""
        counts = self.counts.astype(np.int64)
        values = decode_values(self.codes, self.scales, counts)
        n_rows = int(self.n_tokens.sum(dtype=np.int64))
        return Events(n_rows, self.slots.astype(np.int64), counts, self.rows, values)

    def only(self, texts: NDArray[np.bool_]) -> Record:
        """The record of some of its texts, the same numbers and codes."""
        of_row = np.repeat(texts, self.n_tokens)
        kept = of_row[self.rows]
        new_row = np.cumsum(of_row) - 1
        column = np.repeat(np.arange(len(self.slots)), self.counts)[kept]
        counts = np.bincount(column, minlength=len(self.slots))
        there = counts > 0
        scales = self.scales[there] if len(self.scales) == len(self.slots) > 1 else self.scales
        return Record(
            self.batch, self.alive, self.numbers[texts], self.keys[texts],
            self.is_intervention[texts], self.n_tokens[texts], self.token_ids[of_row],
            self.slots[there], counts[there], new_row[self.rows[kept]].astype(np.uint16),
            self.codes[kept], scales if there.any() else self.scales[:0],
        )  # fmt: skip


class _Column:
    """An array that grows at its end and keeps its memory when it is emptied."""

    def __init__(self, dtype: Any, n: int, width: tuple[int, ...] = ()) -> None:
        self.array = np.empty((n, *width), dtype)
        # Touched now, so that memory is at its size from the first batch on.
        self.array.fill(0)
        self.size = 0

    def extend(self, values: NDArray[Any]) -> None:
        end = self.size + len(values)
        if end > len(self.array):
            self._grow(end + end // 2)
        self.array[self.size : end] = values
        self.size = end

    def widen(self, dtype: Any) -> None:
        self.array = self.array.astype(dtype)

    def filled(self) -> NDArray[Any]:
        return self.array[: self.size]

    def _grow(self, n: int) -> None:
        grown = np.zeros((n, *self.array.shape[1:]), self.array.dtype)
        grown[: self.size] = self.filled()
        self.array = grown


class SegmentBuffer:
    """One segment in memory: filled record by record, written, emptied, filled again."""

    def __init__(self, n_components: int, precision: Precision, n_bytes: int) -> None:
        value_type = np.dtype(VALUE_TYPES[precision])
        n_events = n_bytes // (2 + value_type.itemsize)
        self._limit = n_bytes
        self.columns = {
            "records": _Column(np.int64, 64, (_N_FIELDS,)),
            "numbers": _Column(np.uint32, 1024),
            "scales": _Column(np.float32, 64),
            "tokens": _Column(np.uint16, 65_536),
            "n_tokens": _Column(np.uint16, 1024),
            "slots": _Column(np.uint16 if n_components <= 65_536 else np.uint32, 4096),
            "counts": _Column(np.uint16, 4096),
            "rows": _Column(np.uint16, n_events),
            "values": _Column(value_type, n_events),
            "keys": _Column(np.uint8, 1024, (N_KEY_BYTES,)),
            "is_intervention": _Column(np.uint8, 1024),
            "alive": _Column(np.uint8, 64, (-(-n_components // 8),)),
        }

    @property
    def n_texts(self) -> int:
        return self.columns["numbers"].size

    @property
    def n_bytes(self) -> int:
        return sum(column.filled().nbytes for column in self.columns.values())

    @property
    def is_full(self) -> bool:
        return self.n_bytes >= self._limit

    def append(self, record: Record) -> None:
        """Take a record in; its counts are plain here."""
        columns = self.columns
        alive = columns["alive"]
        if not alive.size or not np.array_equal(alive.array[alive.size - 1], record.alive):
            alive.extend(record.alive[None])
        tokens = columns["tokens"]
        if record.token_ids.max(initial=0) > np.iinfo(tokens.array.dtype).max:
            tokens.widen(np.uint32)
        fields = (
            record.batch, len(record.numbers), len(record.slots), len(record.rows),
            len(record.token_ids), alive.size - 1,
        )  # fmt: skip
        columns["records"].extend(np.array([fields]))
        columns["numbers"].extend(record.numbers)
        columns["scales"].extend(record.scales)
        tokens.extend(record.token_ids)
        columns["n_tokens"].extend(record.n_tokens)
        columns["slots"].extend(record.slots)
        columns["counts"].extend(record.counts - 1)
        columns["rows"].extend(record.rows)
        columns["values"].extend(record.codes)
        columns["keys"].extend(record.keys)
        columns["is_intervention"].extend(record.is_intervention)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The columns as they are so far, views of the buffer's memory."""
        return {name: column.filled() for name, column in self.columns.items()}

    def clear(self) -> None:
        """Forget the records, keep the memory."""
        for column in self.columns.values():
            column.size = 0


def file_parts(arrays: Mapping[str, NDArray[Any]], schema_version: int) -> list[bytes | memoryview]:
    """The bytes of a safetensors file of C-contiguous arrays: the header, then their own memory,
    widest first and so aligned. Nothing is copied, so writing needs no memory."""
    names = sorted(arrays, key=lambda name: -arrays[name].itemsize)
    header: dict[str, Any] = {"__metadata__": {"schema_version": str(schema_version)}}
    end = 0
    for name in names:
        start, end = end, end + arrays[name].nbytes
        dtype = _SAFETENSORS[arrays[name].dtype.name]
        header[name] = {
            "dtype": dtype, "shape": list(arrays[name].shape), "data_offsets": [start, end]
        }  # fmt: skip
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    data = [arrays[name].reshape(-1).view(np.uint8).data for name in names]
    return [len(text).to_bytes(8, "little") + text, *data]


class Span(NamedTuple):
    """Columns of a record, counted within it, and their events, counted within the segment."""

    low: int
    high: int
    start: int
    end: int


class Segment:
    """A published segment, mapped into memory; only what is asked for is read from the disk."""

    def __init__(
        self, path: Path, n_bytes: int, bounds: tuple[int, int], schema_version: int
    ) -> None:
        """`bounds`: the first and the last text number, known without a look into the file.

        Raises InputError where the file is missing, of another size, or of a newer version."""
        try:
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError):
            raise InputError(
                f"expected the segment {path}, found none that can be read: collect again"
            ) from None
        if len(self._map) != n_bytes:
            raise InputError(
                f"the segment {path} is damaged: expected {n_bytes:,} bytes, found"
                f" {len(self._map):,}; collect again"
            )
        # Read-ahead would fetch megabytes for every few bytes asked for.
        self._advise("MADV_RANDOM", 0, n_bytes)
        n_header = int.from_bytes(self._map[:8], "little")
        header = codec.json_value(self._map[8 : 8 + n_header])
        found = int(header.pop("__metadata__")["schema_version"])
        if found > schema_version:
            raise InputError(
                f"the segment {path} has schema version {found}, this program reads up to"
                f" {schema_version}: upgrade whatchanged"
            )
        self._offsets: dict[str, int] = {}
        self._widths: dict[str, int] = {}
        self.n_bytes, self._bounds = n_bytes, bounds
        self.columns = {name: self._view(name, 8 + n_header, spec) for name, spec in header.items()}
        self.records = np.array(self.columns["records"])
        self._text_ends, self._column_ends, self._event_ends, self._token_ends = (
            np.concatenate([[0], np.cumsum(self.records[:, field])]) for field in (1, 2, 3, 4)
        )

    @property
    def n_texts(self) -> int:
        return int(self._text_ends[-1])

    def place_of(self, number: int) -> int | None:
        """The place of the text with this number in the segment; None where it is not here."""
        first, last = self._bounds
        if last - first + 1 == self.n_texts:
            return number - first if first <= number <= last else None
        place = int(np.searchsorted(self.columns["numbers"], number))
        there = place < self.n_texts and self.columns["numbers"][place] == number
        return place if there else None

    def record_of(self, place: int) -> tuple[int, int]:
        """The record of the text at `place`, and its place within the record."""
        record = int(np.searchsorted(self._text_ends, place, side="right")) - 1
        return record, place - int(self._text_ends[record])

    def text_rows(self, index: int, within: int) -> tuple[int, int]:
        """The rows of a record's text: the first, and the one after the last."""
        first = self._text_ends[index]
        n_tokens = self.columns["n_tokens"][first : first + within + 1]
        end = int(n_tokens.sum(dtype=np.int64))
        return end - int(n_tokens[-1]), end

    def token_ids(self, index: int, low: int, high: int) -> NDArray[Any]:
        """The token ids of the rows from `low` up to `high` of a record."""
        first = self._token_ends[index]
        return self.columns["tokens"][first + low : first + high]

    def record(self, index: int) -> Record:
        """A whole record; large columns are views of the file."""
        batch, *_, alive_set = self.records[index].tolist()
        texts = slice(*self._text_ends[index : index + 2])
        columns = slice(*self._column_ends[index : index + 2])
        events = slice(*self._event_ends[index : index + 2])
        tokens = slice(*self._token_ends[index : index + 2])
        part = self.columns
        return Record(
            batch, part["alive"][alive_set], part["numbers"][texts], part["keys"][texts],
            part["is_intervention"][texts], part["n_tokens"][texts], part["tokens"][tokens],
            part["slots"][columns], self._counts(columns), part["rows"][events],
            part["values"][events], self._scales(index),
        )  # fmt: skip

    def all_records(self) -> Iterator[Record]:
        """Every record in order."""
        return (self.record(index) for index in range(len(self.records)))

    def expect_text(self, index: int, place: int) -> None:
        """Let the system begin to read what `span` and `text_rows` need of a record, and what
        names the text at `place`: many small reads then wait for the disk together."""
        first, end = self._column_ends[index : index + 2].tolist()
        self._expect("slots", first, end)
        self._expect("counts", first, end)
        self._expect("n_tokens", int(self._text_ends[index]), place + 1)
        self._expect("keys", place, place + 1)
        self._expect("is_intervention", place, place + 1)
        self._expect("scales", *self._scale_ends[index : index + 2].tolist())

    def span(self, index: int, first_slot: int, end_slot: int) -> Span:
        """Where the events of a record in the slots from `first_slot` up to `end_slot` are; the
        system begins to read them."""
        columns = slice(*self._column_ends[index : index + 2].tolist())
        low, high = np.searchsorted(self.columns["slots"][columns], (first_slot, end_slot)).tolist()
        counts = self._counts(slice(columns.start, columns.start + high))
        end = int(self._event_ends[index]) + int(counts.sum())
        start = end - int(counts[low:].sum())
        self._expect("rows", start, end)
        self._expect("values", start, end)
        return Span(low, high, start, end)

    def span_events(self, index: int, span: Span) -> Events:
        """The events of a span of a record, decoded."""
        first = int(self._column_ends[index])
        columns = slice(first + span.low, first + span.high)
        inside, counts = slice(span.start, span.end), self._counts(columns)
        scales = self._scales(index)
        scales = scales if len(scales) < 2 else scales[span.low : span.high]
        values = decode_values(self.columns["values"][inside], scales, counts)
        slots = self.columns["slots"][columns].astype(np.int64)
        n_rows = int(self.records[index, 4])
        return Events(n_rows, slots, counts, self.columns["rows"][inside], values)

    def _expect(self, name: str, start: int, end: int) -> None:
        size = self._widths[name]
        low = self._offsets[name] + start * size
        low -= low % mmap.PAGESIZE
        self._advise("MADV_WILLNEED", low, self._offsets[name] + end * size - low)

    def _advise(self, advice: str, start: int, length: int) -> None:
        # Not every system has advice to take.
        if hasattr(mmap, advice) and length > 0:
            self._map.madvise(getattr(mmap, advice), start, length)

    def _counts(self, columns: slice) -> NDArray[np.int64]:
        counts = self.columns["counts"][columns].astype(np.int64)
        counts += 1
        return counts

    @cached_property
    def _scale_ends(self) -> NDArray[np.int64]:
        n_events, n_columns = self.records[:, 3], self.records[:, 2]
        kind = self.columns["values"].dtype
        each = {"float32": 0 * n_events, "float16": n_events > 0, "int8": n_columns}[kind.name]
        return np.concatenate([[0], np.cumsum(each)])

    def _scales(self, index: int) -> NDArray[np.float32]:
        return self.columns["scales"][slice(*self._scale_ends[index : index + 2])]

    def _view(self, name: str, data: int, spec: dict[str, Any]) -> NDArray[Any]:
        start, end = spec["data_offsets"]
        dtype = _DTYPES[spec["dtype"]]
        self._offsets[name] = data + start
        self._widths[name] = dtype.itemsize * math.prod(spec["shape"][1:])
        n = (end - start) // dtype.itemsize
        return np.frombuffer(self._map, dtype, n, data + start).reshape(spec["shape"])
