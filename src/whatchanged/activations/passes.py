"""The two passes over a run's texts: what each component reaches, then where it fires.

Chunks of texts are read on their own, so that a killed collection goes on where it stopped; what a
chunk gave is plain arrays. A component fires where its magnitude exceeds a share of its largest,
over all texts: only the second pass can know.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from whatchanged.activations.evidence import is_control
from whatchanged.activations.processing import (
    ComponentMaxima,
    ComponentTable,
    ProcessedActivations,
    process_activations,
)
from whatchanged.activations.selectivity import TextSummaries, join_summaries, summarize_texts
from whatchanged.activations.side_moments import SideMoments, choose_components

Arrays: TypeAlias = dict[str, NDArray[Any]]


class Batch(Protocol):
    """Texts that a reader read: `rows` numbers them within the chunk; activations per module are
    `(batch, longest reply, n_components)`, `mask (batch, longest reply)` is true at real tokens."""

    @property
    def rows(self) -> Sequence[int]: ...
    @property
    def activations(self) -> Mapping[str, NDArray[np.float32]]: ...
    @property
    def mask(self) -> NDArray[np.bool_]: ...


def measure_chunk(
    batches: Iterable[Batch],
    modules: Mapping[str, int],
    is_intervention: NDArray[np.bool_],
    is_choosing: NDArray[np.bool_],
) -> Arrays:
    """The first pass over a chunk of texts: `maxima (n_components,)` over all of its tokens, and
    the `SideMoments` of the texts by which components are chosen, which nothing tests again (those
    of `selectivity.choosing_prompts`). Both flags are `(n_texts,)`."""
    maxima = ComponentMaxima(modules)
    moments = SideMoments(sum(modules.values()))
    for batch in batches:
        maxima.add(batch.activations, batch.mask)
        rows = np.asarray(batch.rows)
        seen = is_choosing[rows]
        means = np.concatenate(
            [_mean_activations(batch.activations[name], batch.mask) for name in modules], axis=1
        )
        moments.add(means[seen], is_intervention[rows][seen])
    return {"maxima": maxima.table().maxima, **moments.arrays()}


def choose_table(
    parts: Sequence[Mapping[str, NDArray[Any]]], modules: Mapping[str, int], max_components: int
) -> ComponentTable:
    """The components that the second pass keeps, from what the first gave for every chunk.

    Dead ones are those that are 0 on all tokens; beyond `max_components`, those on which the sides
    differ least are left out as if they were dead. Controls are always kept.
    """
    maxima = np.max([part["maxima"] for part in parts], axis=0)
    names = [f"{name}:{i}" for name, size in modules.items() for i in range(size)]
    is_candidate = (maxima > 0) & ~is_control(names)
    kept = choose_components(SideMoments.merged(parts).distance(), is_candidate, max_components)
    sizes = tuple(modules.values())
    return ComponentTable(tuple(modules), sizes, np.where(kept, maxima, np.float32(0)))


def without_controls(table: ComponentTable) -> ComponentTable:
    """The table of the modules that are no control."""
    kept = (~is_control(table.modules)).tolist()
    parts = np.split(table.maxima, np.cumsum(table.sizes)[:-1])
    return ComponentTable(
        tuple(m for m, keep in zip(table.modules, kept, strict=True) if keep),
        tuple(n for n, keep in zip(table.sizes, kept, strict=True) if keep),
        np.concatenate([np.zeros(0, np.float32)]
                       + [p for p, keep in zip(parts, kept, strict=True) if keep]),
        table.threshold,
    )  # fmt: skip


def read_chunk(
    batches: Iterable[Batch],
    text_keys: Sequence[str],
    table: ComponentTable,
    thresholds: NDArray[np.float32],
) -> Arrays:
    """The second pass over a chunk: where the components fire, and the summaries of its texts.

    `thresholds (n_alive,)` are the living components'. The firings are compressed sparse rows, one
    row per token in the order of the texts and one column per living component that is no control:
    `indptr`, `indices`, `values`, with `starts (n_texts + 1,)`. `summaries (n_texts, n_statistics,
    n_alive)` has the controls too, and all activations, not only firings.
    """
    from scipy.sparse import csr_array, vstack

    own = ~is_control(table.labels)
    firings, owners = [], []
    summaries: NDArray[np.float32] | None = None
    lengths = np.zeros(len(text_keys), dtype=np.int64)
    for batch in batches:
        block = process_activations(_silence(batch.activations, table), batch.mask, table)
        rows = np.asarray(batch.rows)
        keys = [text_keys[row] for row in rows]
        found = summarize_texts(
            keys, table.labels, block.activations, block.text_starts, thresholds
        ).values
        if summaries is None:
            summaries = np.zeros((len(text_keys), *found.shape[1:]), dtype=np.float32)
        summaries[rows] = found
        lengths[rows] = np.diff(block.text_starts)
        owners.append(np.repeat(rows, lengths[rows]))
        kept = block.activations[:, own]
        fires = np.nonzero(np.abs(kept) > thresholds[own])
        firings.append(csr_array((kept[fires], fires), shape=kept.shape))
    assert summaries is not None, "a chunk has texts"
    whole = vstack(firings, format="csr")[np.argsort(np.concatenate(owners), kind="stable")]
    return {
        "indptr": whole.indptr.astype(np.int64),
        "indices": whole.indices.astype(np.int32),
        "values": whole.data.astype(np.float32),
        "starts": np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        "summaries": summaries,
    }


def dense_firings(chunk: Mapping[str, NDArray[Any]], table: ComponentTable) -> ProcessedActivations:
    """The firings of a chunk as a block of activations, 0 where a component does not fire; `table`
    is `without_controls`."""
    from scipy.sparse import csr_array

    shape = (int(chunk["starts"][-1]), len(table.labels))
    sparse = csr_array((chunk["values"], chunk["indices"], chunk["indptr"]), shape=shape)
    return ProcessedActivations(sparse.toarray(), chunk["starts"], table)


def join_chunks(
    chunks: Iterable[Mapping[str, NDArray[Any]]],
    text_keys: Sequence[Sequence[str]],
    table: ComponentTable,
) -> TextSummaries:
    """The summaries of all chunks, controls included."""
    return join_summaries(
        [
            TextSummaries(tuple(keys), table.labels, chunk["summaries"])
            for chunk, keys in zip(chunks, text_keys, strict=True)
        ]
    )


def _mean_activations(block: NDArray[np.float32], mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Each text's mean over its real tokens `(batch, n_components)`; every text has some."""
    lengths = mask.sum(axis=1)
    first = np.cumsum(lengths) - lengths
    sums = np.add.reduceat(block[mask], first, axis=0, dtype=np.float64)
    means: NDArray[np.float64] = sums / lengths[:, None]
    return means


def _silence(
    activations: Mapping[str, NDArray[np.float32]], table: ComponentTable
) -> dict[str, NDArray[np.float32]]:
    """The activations with 0 for every component that the table leaves out."""
    parts = np.split(table.is_alive, np.cumsum(table.sizes)[:-1])
    return {
        name: activations[name] if alive.all() else activations[name] * alive.astype(np.float32)
        for name, alive in zip(table.modules, parts, strict=True)
    }
