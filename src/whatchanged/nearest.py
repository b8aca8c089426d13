"""The nearest centroid of every row, in blocks of bounded memory and on one thread."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from whatchanged.errors import InputError, UsageError
from whatchanged.records import NOISE

FloatRows: TypeAlias = NDArray[np.float32]
Labels: TypeAlias = NDArray[np.int32]

# A block's distances to a few hundred centroids stay in the processor's cache.
_BLOCK_ROWS = 1024


def limit_threads(*libraries: str) -> AbstractContextManager[object]:
    """A context in which BLAS and OpenMP use one thread, so that sums add up in one order.

    A limit misses what is loaded after it: `libraries` are imported first.
    """
    # It ships no types, and it comes with scikit-learn.
    from threadpoolctl import threadpool_limits

    for library in libraries:
        importlib.import_module(library)
    limits: AbstractContextManager[object] = threadpool_limits(limits=1)
    return limits


class Assignment(NamedTuple):
    """`labels (n,)` of the nearest centroids and `margins (n,)` in [0, 1]."""

    labels: Labels
    margins: FloatRows


class Distances(NamedTuple):
    """`labels (n,)` of the nearest centroids and `rivals (n,)` of the second nearest, with the
    squared distances to both. Where there is one centroid only, the second distance is infinite.
    """

    labels: NDArray[np.intp]
    rivals: NDArray[np.intp]
    nearest: FloatRows
    second: FloatRows


def assign(
    embeddings: FloatRows, centroids: FloatRows, radii: NDArray[np.float64] | None = None
) -> Assignment:
    """The nearest centroid and the boundary margin of every row, in blocks of bounded memory.

    One centroid gives label 0 and margin 0; none gives label -1 and margin 1. With `radii (k,)`, a
    row beyond the radius of its centroid is noise. Raises InputError for rows that are not finite.
    """
    rows = check_rows(embeddings)
    with limit_threads():
        return label_rows(rows, centroids, radii)


def label_rows(
    rows: FloatRows, centroids: FloatRows, radii: NDArray[np.float64] | None
) -> Assignment:
    """`assign` for rows that are known to be finite, where threads are limited already."""
    if len(centroids) == 0:
        return Assignment(
            np.full(len(rows), NOISE, dtype=np.int32), np.ones(len(rows), dtype=np.float32)
        )
    found = measure_distances(rows, centroids)
    labels = found.labels.astype(np.int32)
    margins = np.ones_like(found.nearest)
    np.divide(found.nearest, found.second, out=margins, where=found.second > 0)
    if radii is not None:
        labels[np.sqrt(found.nearest) > radii[labels]] = NOISE
    return Assignment(labels, np.sqrt(margins))


def measure_distances(rows: FloatRows, centroids: FloatRows) -> Distances:
    """Nearest and second nearest of at least one centroid `(k, d)`, for every row `(n, d)`."""
    found = Distances(
        np.empty(len(rows), dtype=np.intp),
        np.empty(len(rows), dtype=np.intp),
        np.empty(len(rows), dtype=np.float32),
        np.empty(len(rows), dtype=np.float32),
    )
    doubled = np.ascontiguousarray(-2 * centroids.T)
    lengths = np.einsum("kd,kd->k", centroids, centroids)
    for part in blocks(len(rows)):
        block = rows[part]
        # A row's own length moves all its distances alike, so it waits for the two that are kept.
        offsets = block @ doubled
        offsets += lengths
        each = np.arange(len(block))
        labels = offsets.argmin(axis=1)
        own = np.einsum("nd,nd->n", block, block)
        found.labels[part] = labels
        found.nearest[part] = offsets[each, labels] + own
        offsets[each, labels] = np.inf
        found.rivals[part] = rivals = offsets.argmin(axis=1)
        found.second[part] = offsets[each, rivals] + own
    np.maximum(found.nearest, 0, out=found.nearest)
    np.maximum(found.second, 0, out=found.second)
    return found


def blocks(n: int, size: int = _BLOCK_ROWS) -> Iterator[slice]:
    """Consecutive stretches of at most `size` of `n` rows."""
    return (slice(low, min(n, low + size)) for low in range(0, n, size))


def check_rows(embeddings: FloatRows) -> FloatRows:
    """The embeddings as contiguous float32 `(n, d)`.

    Raises InputError naming the rows whose squared length is not finite, and UsageError for
    another shape.
    """
    rows = as_rows(embeddings)
    refuse_rows(find_not_finite(rows).tolist(), len(rows))
    return rows


def as_rows(embeddings: FloatRows) -> FloatRows:
    """The embeddings as contiguous float32; raises UsageError where they are not `(n, d)`."""
    rows = np.ascontiguousarray(embeddings, dtype=np.float32)
    if rows.ndim != 2:
        raise UsageError(f"expected embeddings of shape (n, d), found shape {rows.shape}")
    return rows


def find_not_finite(rows: FloatRows) -> NDArray[np.intp]:
    """The numbers of the rows whose squared length is nan, infinite, or too large for a float32."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.flatnonzero(~np.isfinite(np.einsum("nd,nd->n", rows, rows)))


def refuse_rows(bad: Sequence[int], n: int) -> None:
    """Raises InputError naming the `bad` ones of `n` rows, where there are any."""
    if bad:
        named = ", ".join(str(row) for row in bad[:5]) + (", ..." if len(bad) > 5 else "")
        raise InputError(
            f"expected finite embeddings, found nan, infinity or overflow in {len(bad)} of "
            f"{n} rows ({named}): embed these texts again"
        )
