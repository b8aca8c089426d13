"""Made-up activations for the benchmark of the activation store: sparse on three levels.

A share of the component clusters is active in a batch; an active cluster fires in half of the
texts; its components are positive on 1 to 5 % of the batch's tokens. Components that are zero in
all of a batch have no column in it. The store step also gets the cluster block that the historical
versions expect.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from whatchanged.activations.groups import ComponentGroups, group_components
from whatchanged.keys import content_key

N_TEXTS = 32
N_TOKENS = 128
N_VOCABULARY = 5000
_ACTIVE_TEXTS = 0.5
_LOWEST_DENSITY, _HIGHEST_DENSITY = 0.01, 0.05


@dataclass(frozen=True)
class Spec:
    """Clusters of 5 to 10 components, of which a share is active in a batch."""

    n_clusters: int
    active: float
    batch: int = N_TEXTS
    seq: int = N_TOKENS
    agg: str = "sum"


@dataclass(frozen=True)
class ClusterName:
    """The name of a cluster as the historical versions hold it."""

    run: str
    iteration: int
    label: int

    def to_string(self) -> str:
        return f"{self.run}-{self.iteration}-{self.label}"


@dataclass(frozen=True)
class Text:
    """A text as the historical versions hold it."""

    full_text: str
    tokens: list[str]

    @cached_property
    def text_hash(self) -> str:
        return content_key("text", self.full_text)


class Clustering:
    """Which components belong to which cluster; the members' numbers are scattered."""

    def __init__(self, spec: Spec, rng: np.random.Generator) -> None:
        sizes = rng.integers(5, 11, spec.n_clusters)
        self.n_clusters, self.n_components = spec.n_clusters, int(sizes.sum())
        self.owner = rng.permutation(np.repeat(np.arange(spec.n_clusters), sizes))
        self.labels = [f"layer.{i % 12}:{i}" for i in range(self.n_components)]
        self.names = {c: ClusterName("made-up", 1, c) for c in range(spec.n_clusters)}
        self.info = {
            c: [{"label": self.labels[i]} for i in np.flatnonzero(self.owner == c)]
            for c in range(spec.n_clusters)
        }


@dataclass
class Batch:
    """`comp (n_rows, n_alive)`, the numbers of its columns in `alive`, `clus (n_rows, n_clusters)`,
    `token_ids (n_texts, n_tokens)`; rows are the tokens, text after text."""

    comp: torch.Tensor
    alive: NDArray[np.int64]
    clus: torch.Tensor
    texts: list[Text]
    token_ids: NDArray[np.int64]
    batch: int
    seq: int
    label_index: dict[str, int | None]

    def get_label_index(self, label: str) -> int | None:
        return self.label_index[label]


class Workload:
    """An endless source of batches."""

    def __init__(self, spec: Spec, seed: int = 0) -> None:
        self.spec, self._rng = spec, np.random.default_rng(seed)
        self.clustering = Clustering(spec, self._rng)
        low, high = np.log([_LOWEST_DENSITY, _HIGHEST_DENSITY])
        self._density = np.exp(self._rng.uniform(low, high, self.clustering.n_components))
        self._vocabulary = [f" word{i}" for i in range(N_VOCABULARY)]
        self._n_batches = 0

    def next(self) -> Batch:
        """A new batch; its texts have been hashed, as the pipeline does before it stores."""
        dense, alive, clusters = self._activations()
        ids = self._rng.integers(0, N_VOCABULARY, (self.spec.batch, self.spec.seq))
        texts = self.texts_of(ids)
        column = {int(c): i for i, c in enumerate(alive)}
        index = {label: column.get(i) for i, label in enumerate(self.clustering.labels)}
        return Batch(
            torch.from_numpy(dense), alive, torch.from_numpy(clusters), texts, ids,
            self.spec.batch, self.spec.seq, index,
        )  # fmt: skip

    def again(self, batch: Batch) -> Batch:
        """The same activations at another scale, of texts that have not been seen."""
        factor = float(np.exp(self._rng.normal(0, 0.3)))
        return Batch(
            batch.comp * factor, batch.alive, batch.clus * factor, self.texts_of(batch.token_ids),
            batch.token_ids, batch.batch, batch.seq, batch.label_index,
        )  # fmt: skip

    def texts_of(self, ids: NDArray[np.int64]) -> list[Text]:
        """New texts of these tokens."""
        self._n_batches += 1
        texts = [
            Text(f"{self._n_batches} {i} {row}", [self._vocabulary[t] for t in row])
            for i, row in enumerate(ids.tolist())
        ]
        for text in texts:
            assert text.text_hash
        return texts

    def _activations(self) -> tuple[Any, Any, Any]:
        spec, rng, owner = self.spec, self._rng, self.clustering.owner
        n_rows = spec.batch * spec.seq
        n_active = max(1, round(spec.active * spec.n_clusters))
        clusters = rng.permutation(spec.n_clusters)[:n_active]
        components = np.flatnonzero(np.isin(owner, clusters))
        fires = rng.random((spec.n_clusters, spec.batch)) < _ACTIVE_TEXTS
        fires[np.arange(spec.n_clusters), rng.integers(0, spec.batch, spec.n_clusters)] = True
        dense = np.zeros((n_rows, len(components)), np.float32)
        for column, component in enumerate(components):
            texts = np.flatnonzero(fires[owner[component]])
            n = max(1, rng.binomial(n_rows, self._density[component]))
            rows = rng.choice(texts, n) * spec.seq + rng.integers(0, spec.seq, n)
            dense[rows, column] = rng.lognormal(-1.0, 0.7, n)
        totals = np.zeros((n_rows, spec.n_clusters), np.float32)
        for column, component in enumerate(components):
            totals[:, owner[component]] += dense[:, column]
        return dense, components, totals


def groups_of(clustering: Any, rule: Any) -> ComponentGroups:
    """The library's groups of a harness's clustering."""
    members = {
        clustering.names[c].to_string(): [member["label"] for member in info]
        for c, info in clustering.info.items()
    }
    return group_components(clustering.labels, members, rule)
