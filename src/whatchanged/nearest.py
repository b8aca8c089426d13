"""The nearest centroid of every row, in blocks of bounded memory and on one thread."""

from __future__ import annotations

import importlib
from contextlib import AbstractContextManager
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from whatchanged.errors import InputError, UsageError
from whatchanged.records import NOISE

FloatRows: TypeAlias = NDArray[np.float32]
Labels: TypeAlias = NDArray[np.int32]

_BLOCK_ROWS = 4096


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


def assign(embeddings: FloatRows, centroids: FloatRows) -> Assignment:
    """The nearest centroid and the boundary margin of every row, in blocks of bounded memory.

    One centroid gives label 0 and margin 0; none gives label -1 and margin 1. Raises InputError
    for rows that are not finite.
    """
    rows = check_rows(embeddings)
    labels = np.full(len(rows), NOISE, dtype=np.int32)
    margins = np.ones(len(rows), dtype=np.float32)
    if len(centroids) == 0:
        return Assignment(labels, margins)
    with limit_threads():
        for start in range(0, len(rows), _BLOCK_ROWS):
            block = slice(start, start + _BLOCK_ROWS)
            labels[block], nearest, second = _nearest_two(rows[block], centroids)
            margins[block] = np.sqrt(
                np.divide(nearest, second, out=np.ones_like(nearest), where=second > 0)
            )
    return Assignment(labels, margins)


def check_rows(embeddings: FloatRows) -> FloatRows:
    """The embeddings as contiguous float32 `(n, d)`.

    Raises InputError naming the rows whose squared length is not finite, and UsageError for
    another shape.
    """
    rows = np.ascontiguousarray(embeddings, dtype=np.float32)
    if rows.ndim != 2:
        raise UsageError(f"expected embeddings of shape (n, d), found shape {rows.shape}")
    with np.errstate(over="ignore", invalid="ignore"):
        bad = np.flatnonzero(~np.isfinite(np.einsum("nd,nd->n", rows, rows)))
    if len(bad):
        named = ", ".join(str(row) for row in bad[:5]) + (", ..." if len(bad) > 5 else "")
        raise InputError(
            f"expected finite embeddings, found nan, infinity or overflow in {len(bad)} of "
            f"{len(rows)} rows ({named}): embed these texts again"
        )
    return rows


def _nearest_two(
    rows: FloatRows, centroids: FloatRows
) -> tuple[NDArray[np.intp], FloatRows, FloatRows]:
    """The nearest centroid of each row, and the squared distances to it and to the next one.

    With a single centroid the second distance is infinite.
    """
    squared = np.einsum("kd,kd->k", centroids, centroids) - 2 * (rows @ centroids.T)  # (n, k)
    squared += np.einsum("nd,nd->n", rows, rows)[:, None]
    np.maximum(squared, 0, out=squared)
    each = np.arange(len(rows))
    labels = squared.argmin(axis=1)
    nearest = squared[each, labels]
    squared[each, labels] = np.inf
    return labels, nearest, squared.min(axis=1)


def find_nearest(rows: FloatRows, centroids: FloatRows) -> tuple[NDArray[np.intp], FloatRows]:
    """The nearest centroid of every row and the squared distance to it."""
    parts = [
        _nearest_two(rows[start : start + _BLOCK_ROWS], centroids)[:2]
        for start in range(0, len(rows), _BLOCK_ROWS)
    ]
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])
