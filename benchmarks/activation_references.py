"""Three historical ways to store a batch of activations, and the statistics that followed them.

Written from their descriptions, to measure against; none of them is used by the library.

    original   three nested loops; a component's row is taken from the device one by one, and the
               cluster's name is put together in the loop
    current    the same loops; the blocks are taken from the device once per batch, and names are
               made in advance
    optimized  what a report proposed instead: lists are extended by a whole batch, columns are
               looked up once per cluster, a cluster's columns are copied together, and clusters
               that are silent are left out

The proposal keeps its look-up of columns under the address of the batch object, which another
batch may get later: then it stores wrong rows. Here batches are kept alive while it runs.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Rows = list[NDArray[np.float32]]


class ReferenceStore:
    """The dictionaries of lists that all three fill: by cluster name, and by component label."""

    def __init__(self, clustering: Any) -> None:
        self.clustering = clustering
        self.names: dict[int, str] = {c: n.to_string() for c, n in clustering.names.items()}
        self.cluster_rows: dict[str, Rows] = {name: [] for name in self.names.values()}
        self.cluster_keys: dict[str, list[str]] = {name: [] for name in self.names.values()}
        self.cluster_tokens: dict[str, list[list[str]]] = {n: [] for n in self.names.values()}
        self.component_rows: dict[str, dict[str, Rows]] = self._per_component()
        self.component_keys: dict[str, dict[str, list[str]]] = self._per_component()
        self.blocks: list[torch.Tensor] = []
        self._looked_up: dict[tuple[int, int], list[tuple[str, int]]] = {}

    def add_original(self, batch: Any) -> None:
        totals = self._begin(batch)
        for cluster in range(self.clustering.n_clusters):
            rows = totals[:, :, cluster]
            if np.abs(rows).max() == 0:
                continue
            name = self.clustering.names[cluster].to_string()
            for i in range(batch.batch):
                text = batch.texts[i]
                self.cluster_rows[name].append(rows[i])
                self.cluster_keys[name].append(text.text_hash)
                self.cluster_tokens[name].append(text.tokens)
                for member in self.clustering.info[cluster]:
                    column = batch.get_label_index(member["label"])
                    if column is not None:
                        part = batch.comp[i * batch.seq : (i + 1) * batch.seq, column]
                        self.component_rows[name][member["label"]].append(part.cpu().numpy())
                        self.component_keys[name][member["label"]].append(text.text_hash)

    def add_current(self, batch: Any) -> None:
        totals = self._begin(batch)
        components = batch.comp.cpu().numpy().reshape(batch.batch, batch.seq, -1)
        for cluster in range(self.clustering.n_clusters):
            rows = totals[:, :, cluster]
            if np.abs(rows).max() == 0:
                continue
            name = self.names[cluster]
            for i in range(batch.batch):
                text = batch.texts[i]
                self.cluster_rows[name].append(rows[i])
                self.cluster_keys[name].append(text.text_hash)
                self.cluster_tokens[name].append(text.tokens)
                for member in self.clustering.info[cluster]:
                    column = batch.get_label_index(member["label"])
                    if column is not None:
                        label = member["label"]
                        self.component_rows[name][label].append(components[i, :, column])
                        self.component_keys[name][label].append(text.text_hash)

    def add_optimized(self, batch: Any) -> None:
        totals = self._begin(batch)
        components = batch.comp.cpu().numpy().reshape(batch.batch, batch.seq, -1)
        keys = [text.text_hash for text in batch.texts]
        tokens = [text.tokens for text in batch.texts]
        is_active = np.abs(totals).max(axis=(0, 1)) > 0
        for cluster in np.flatnonzero(is_active).tolist():
            name, rows = self.names[cluster], totals[:, :, cluster]
            self.cluster_rows[name].extend([rows[i] for i in range(batch.batch)])
            self.cluster_keys[name].extend(keys)
            self.cluster_tokens[name].extend(tokens)
            place = (cluster, id(batch))
            if place not in self._looked_up:
                self._looked_up[place] = [
                    (member["label"], column)
                    for member in self.clustering.info[cluster]
                    if (column := batch.get_label_index(member["label"])) is not None
                ]
            alive = self._looked_up[place]
            if not alive:
                continue
            part = components[:, :, [column for _, column in alive]]
            for j, (label, _) in enumerate(alive):
                column_rows = part[:, :, j]
                rows_of = [column_rows[i] for i in range(batch.batch)]
                self.component_rows[name][label].extend(rows_of)
                self.component_keys[name][label].extend(keys)

    def _begin(self, batch: Any) -> NDArray[np.float32]:
        self.blocks.append(batch.clus)
        totals: NDArray[np.float32] = batch.clus.view(batch.batch, batch.seq, -1).cpu().numpy()
        return totals

    def _per_component(self) -> dict[str, dict[str, list[Any]]]:
        return {
            self.names[c]: {member["label"]: [] for member in members}
            for c, members in self.clustering.info.items()
        }


def total_per_cluster(batch: Any, clustering: Any) -> torch.Tensor:
    """The cluster block `(n_rows, n_clusters)`, cluster after cluster, as it used to be made."""
    totals = torch.zeros(len(batch.comp), clustering.n_clusters)
    for cluster, members in clustering.info.items():
        columns = [batch.get_label_index(member["label"]) for member in members]
        alive = [column for column in columns if column is not None]
        if alive:
            totals[:, cluster] = batch.comp[:, alive].sum(dim=1)
    return totals


def describe(store: ReferenceStore, n_top: int = 20, n_bins: int = 10) -> dict[str, Any]:
    """A dashboard's figures of every cluster, made from the lists at the end."""
    entries: dict[str, Any] = {}
    for name, rows in store.cluster_rows.items():
        if rows:
            entries[name] = _entry(store, name, np.stack(rows), n_top, n_bins)
    fires = (torch.cat(store.blocks) > 0).float()
    entries["coactivation"] = (fires.T @ fires).numpy()
    return entries


def _entry(store: ReferenceStore, name: str, rows: Any, n_top: int, n_bins: int) -> dict[str, Any]:
    peaks = rows.max(axis=1)
    best = sorted(range(len(peaks)), key=lambda i: peaks[i], reverse=True)[:n_top]
    counts: Counter[str] = Counter()
    for row, tokens in zip(rows, store.cluster_tokens[name], strict=True):
        for value, token in zip(row, tokens, strict=True):
            if value > 0.5:
                counts[token] += 1
    columns = [np.stack(part).ravel() for part in store.component_rows[name].values() if part]
    entry = {
        "top": [(store.cluster_keys[name][i], float(peaks[i]), rows[i]) for i in best],
        "histogram": np.histogram(rows, n_bins),
        "peaks": np.histogram(peaks, n_bins),
        "positions": np.histogram(rows.argmax(axis=1), n_bins),
        "figures": [float(f(rows)) for f in (np.mean, np.median, np.min, np.max)],
        "tokens": counts.most_common(50),
    }
    # Members that were alive in other batches have lists of other lengths: then there are none.
    if columns and len({len(column) for column in columns}) == 1:
        fires = (np.stack(columns) > 0).astype(np.float32)
        entry["member_coactivation"] = fires @ fires.T
    return entry
