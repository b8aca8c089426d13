"""Embeddings that come in chunks: read as often as needed, never held all at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from whatchanged.errors import UsageError
from whatchanged.nearest import FloatRows, as_rows, find_not_finite, refuse_rows

_ROWS_PER_CHUNK = 8192


class Chunks(Protocol):
    """Embeddings `(n, d)` as chunks `(n_i, d)`, any of which can be read at any time, repeatedly.

    A list of arrays is one; so is an object whose `__getitem__` reads a file. Chunks may come in
    any order, one side or one topic after another, and may be empty.
    """

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> FloatRows: ...


class Survey(NamedTuple):
    """What one reading of all chunks found.

    `starts (n_chunks + 1,)` are the row numbers at which chunks begin, and n at the end; `rows
    (m, d)` a uniform sample of the wanted rows, `numbers (m,)` their row numbers.
    """

    starts: NDArray[np.intp]
    numbers: NDArray[np.intp]
    rows: FloatRows


class PickedRows:
    """The rows `picks (m,)` of an array `(n, d)` as chunks; one empty chunk where m is 0. Nothing
    is copied but the chunk that is asked for."""

    def __init__(
        self, rows: FloatRows, picks: NDArray[np.intp], chunk_rows: int = _ROWS_PER_CHUNK
    ) -> None:
        self.rows, self.picks = rows, picks
        self._lows = range(0, max(1, len(picks)), chunk_rows)

    def __len__(self) -> int:
        return len(self._lows)

    def __getitem__(self, index: int, /) -> FloatRows:
        low = self._lows[index]
        return self.rows[self.picks[low : low + self._lows.step]]


class NpyChunks:
    """The float32 rows of a `.npy` file as chunks.

    Chunks are read, not mapped: mapped pages count as memory of the process for as long as the
    system likes. Raises UsageError for a file that holds anything else, or columns first.
    """

    def __init__(self, path: Path, chunk_rows: int = _ROWS_PER_CHUNK) -> None:
        mapped = np.load(path, mmap_mode="r")
        if mapped.ndim != 2 or mapped.dtype != np.float32 or not mapped.flags.c_contiguous:
            raise UsageError(
                f"expected float32 rows (n, d) in C order in {path}, found {mapped.dtype} of shape "
                f"{mapped.shape}: save np.ascontiguousarray(rows, dtype=np.float32)"
            )
        self._path, self._offset = path, int(mapped.offset)
        self._n, self._d = mapped.shape
        self._lows = range(0, max(1, self._n), chunk_rows)

    def __len__(self) -> int:
        return len(self._lows)

    def __getitem__(self, index: int, /) -> FloatRows:
        low = self._lows[index]
        n_rows = min(self._lows.step, self._n - low)
        offset = self._offset + 4 * self._d * low
        values = np.fromfile(self._path, np.float32, n_rows * self._d, offset=offset)
        return values.reshape(n_rows, self._d)


def survey_chunks(
    chunks: Chunks, is_wanted: NDArray[np.bool_] | None, max_rows: int, rng: np.random.Generator
) -> Survey:
    """Reads every chunk once; samples at most `max_rows` of the rows that are wanted (None: all).

    The sample is uniform whatever the order of the chunks (algorithm R of Vitter 1985); where all
    wanted rows fit, it is all of them, in their order. No chunks at all are no rows of no columns.

    Raises InputError naming the rows whose squared length is not finite, and UsageError for
    chunks of different widths.
    """
    rows = np.empty((0, 0), dtype=np.float32)
    numbers = np.empty(max_rows, dtype=np.intp)
    starts, bad, n_wanted = [0], [], 0
    for index in range(len(chunks)):
        chunk = as_rows(chunks[index])
        d = chunk.shape[1]
        if index == 0:
            rows = np.empty((max_rows, d), dtype=np.float32)
        if d != rows.shape[1]:
            raise UsageError(
                f"expected chunks of {rows.shape[1]} columns, found {d} in chunk {index}"
            )
        low, high = starts[-1], starts[-1] + len(chunk)
        starts.append(high)
        bad += (low + find_not_finite(chunk)).tolist()
        wanted = np.arange(len(chunk)) if is_wanted is None else np.flatnonzero(is_wanted[low:high])
        place = n_wanted + np.arange(len(wanted))
        late = place >= max_rows
        place[late] = rng.integers(0, place[late] + 1)
        taken = place < max_rows
        rows[place[taken]] = chunk[wanted[taken]]
        numbers[place[taken]] = low + wanted[taken]
        n_wanted += len(wanted)
    refuse_rows(bad, starts[-1])
    kept = min(n_wanted, max_rows)
    return Survey(np.array(starts, dtype=np.intp), numbers[:kept], rows[:kept])


def read_chunks(
    chunks: Chunks, starts: NDArray[np.intp], order: NDArray[np.intp] | None = None
) -> Iterator[tuple[slice, FloatRows]]:
    """Every chunk with the row numbers that it holds, in the `order` given (None: as they come).

    Raises UsageError for a chunk that has another length than when it was surveyed.
    """
    for index in range(len(chunks)) if order is None else order.tolist():
        chunk = as_rows(chunks[index])
        low, high = int(starts[index]), int(starts[index + 1])
        if len(chunk) != high - low:
            raise UsageError(
                f"expected {high - low} rows in chunk {index}, as when it was first read, found "
                f"{len(chunk)}: give chunks that stay as they are"
            )
        yield slice(low, high), chunk
