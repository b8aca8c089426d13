"""From activations per module to one matrix: padding masked out, dead components dropped.

Two passes over the texts. The first takes the largest magnitude of every component over the real
tokens (`ComponentMaxima`); the second drops the components that stayed at or below a threshold.
Only both together are exact: a component may fire for the first time in the last batch.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from whatchanged.errors import UsageError

FloatMatrix: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True)
class ComponentTable:
    """All components of a collection, module after module in the order of `modules`.

    `sizes` are the numbers of components per module; `maxima (n_components,)` the largest
    magnitude of each over the data. A component is dead where that does not exceed `threshold`.
    """

    modules: tuple[str, ...]
    sizes: tuple[int, ...]
    maxima: NDArray[np.float32]
    threshold: float = 0.0

    @cached_property
    def is_alive(self) -> NDArray[np.bool_]:
        """`(n_components,)`."""
        return np.asarray(self.maxima > self.threshold)

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """Labels `module:index` of the living components, in the order of the columns."""
        return tuple(np.array(self._all_labels, dtype=object)[self.is_alive])

    @cached_property
    def dead_labels(self) -> tuple[str, ...]:
        return tuple(np.array(self._all_labels, dtype=object)[~self.is_alive])

    def get_label_index(self, label: str) -> int | None:
        """The column of a living component, None for a dead one.

        Raises UsageError for a label that names no component of this collection.
        """
        if label in self._columns:
            return self._columns[label]
        near = difflib.get_close_matches(label, self._all_labels, n=1, cutoff=0.0)
        known = f"the nearest that exists is {near[0]!r}" if near else "there are none"
        raise UsageError(f"expected the label of a component, found {label!r}: {known}")

    @cached_property
    def _all_labels(self) -> list[str]:
        return [
            f"{module}:{i}"
            for module, size in zip(self.modules, self.sizes, strict=True)
            for i in range(size)
        ]

    @cached_property
    def _columns(self) -> dict[str, int | None]:
        columns: dict[str, int | None] = dict.fromkeys(self.dead_labels)
        columns.update((label, column) for column, label in enumerate(self.labels))
        return columns


@dataclass(frozen=True)
class ProcessedActivations:
    """A batch's activations `(n_tokens, n_alive)` over its real tokens, text after text.

    The rows of text i are `text_starts[i]` to `text_starts[i + 1]`; `text_starts (n_texts + 1,)`.
    """

    activations: FloatMatrix
    text_starts: NDArray[np.int64]
    table: ComponentTable

    @property
    def labels(self) -> tuple[str, ...]:
        return self.table.labels

    def get_label_index(self, label: str) -> int | None:
        """See `ComponentTable.get_label_index`."""
        return self.table.get_label_index(label)


class ComponentMaxima:
    """The largest magnitude of every component over the batches so far: the first pass.

    Memory is 4 bytes per component. The order of the batches does not matter.
    """

    def __init__(self, modules: Mapping[str, int]) -> None:
        """`modules` are the numbers of components by module, in the order of the columns."""
        self._sizes = dict(modules)
        self._maxima = np.zeros(sum(self._sizes.values()), dtype=np.float32)

    def add(self, activations: Mapping[str, FloatMatrix], mask: NDArray[np.bool_]) -> None:
        """Takes a batch: `(batch, seq, n_components)` per module, `mask (batch, seq)`.

        Raises UsageError for modules or shapes other than announced, and for NaN or infinity.
        """
        _check_batch(activations, mask, self._sizes)
        for (module, size), end in zip(
            self._sizes.items(), accumulate(self._sizes.values()), strict=True
        ):
            real = activations[module][mask]
            _refuse_not_finite(module, real)
            part = self._maxima[end - size : end]
            if len(real):
                np.maximum(part, np.abs(real).max(axis=0), out=part)

    def table(self, threshold: float = 0.0) -> ComponentTable:
        """The components, those dead whose largest magnitude does not exceed `threshold`."""
        if not threshold >= 0:
            raise UsageError(f"expected a threshold of at least 0, found {threshold}")
        return ComponentTable(
            tuple(self._sizes), tuple(self._sizes.values()), self._maxima.copy(), threshold
        )


def process_activations(
    activations: Mapping[str, FloatMatrix], mask: NDArray[np.bool_], table: ComponentTable
) -> ProcessedActivations:
    """A batch's activations in one matrix: the second pass.

    `activations` are `(batch, seq, n_components)` per module, `mask (batch, seq)` is true at real
    tokens; a text may have none. With no living component the matrix has no column.

    Raises UsageError for modules or shapes that are not the table's, for NaN or infinity, and for
    a component that the table calls dead and that fires: then the first pass has not seen this
    batch, and dropping would lose it.
    """
    sizes = dict(zip(table.modules, table.sizes, strict=True))
    _check_batch(activations, mask, sizes)
    real = np.asarray(mask, dtype=bool)
    n_tokens = real.sum(axis=1)
    matrix = np.empty((int(n_tokens.sum()), int(table.is_alive.sum())), dtype=np.float32)
    column = 0
    for (module, size), end in zip(sizes.items(), accumulate(table.sizes), strict=True):
        is_alive = table.is_alive[end - size : end]
        block = activations[module][real]
        _refuse_not_finite(module, block)
        if not is_alive.all():
            _refuse_fired(module, block, is_alive, table.threshold)
            block = block[:, is_alive]
        matrix[:, column : column + block.shape[1]] = block
        column += block.shape[1]
    starts = np.concatenate([[0], np.cumsum(n_tokens)]).astype(np.int64)
    return ProcessedActivations(matrix, starts, table)


def _check_batch(
    activations: Mapping[str, FloatMatrix], mask: NDArray[np.bool_], sizes: Mapping[str, int]
) -> None:
    if activations.keys() != sizes.keys():
        odd = sorted(activations.keys() ^ sizes.keys())
        raise UsageError(
            f"expected activations of {len(sizes)} modules, and {odd[0]!r} is not in both the "
            "batch and the table: use one collector for all batches"
        )
    if mask.ndim != 2:
        raise UsageError(f"expected a mask (batch, seq), found shape {mask.shape}")
    for module, size in sizes.items():
        if activations[module].shape != (*mask.shape, size):
            raise UsageError(
                f"{module}: expected activations of shape {(*mask.shape, size)}, found "
                f"{activations[module].shape}"
            )


def _refuse_not_finite(module: str, block: FloatMatrix) -> None:
    # One pass without a temporary of the block's size: a sum of finite float32 fits into float64.
    with np.errstate(invalid="ignore"):
        total = block.sum(dtype=np.float64)
    if np.isfinite(total):
        return
    row, index = np.argwhere(~np.isfinite(block))[0]
    raise UsageError(
        f"expected finite activations, found {block[row, index]} in {module}:{index} at token "
        f"{row} of the batch: run the model in a wider precision, or leave the text out"
    )


def _refuse_fired(
    module: str, block: FloatMatrix, is_alive: NDArray[np.bool_], threshold: float
) -> None:
    fired = np.abs(block[:, ~is_alive]).max(axis=0, initial=0.0) > threshold
    if fired.any():
        index = int(np.flatnonzero(~is_alive)[fired][0])
        raise UsageError(
            f"{module}:{index} was declared dead and fires in this batch: take the maxima over "
            "all texts before processing the first"
        )
