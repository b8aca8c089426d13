"""Small batches of activations, made up, and what a plain triple loop would keep of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from whatchanged.activations.groups import ComponentGroups, group_components
from whatchanged.keys import content_key
from whatchanged.store.text_batch import TextBatch


@dataclass(frozen=True)
class MadeUp:
    """A batch; `columns` are the components that are alive in it."""

    activations: np.ndarray
    columns: np.ndarray
    texts: TextBatch


def make_groups(sizes, rule="sum", n_alone=0, seed=0) -> ComponentGroups:
    """Clusters of these sizes, whose components are scattered, and components of no cluster."""
    labels = [f"layer.{i % 3}:{i}" for i in range(sum(sizes) + n_alone)]
    order = np.random.default_rng(seed).permutation(len(labels))[: sum(sizes)]
    parts = np.split(order, np.cumsum(sizes)[:-1])
    members = {f"run-7-{c}": [labels[i] for i in sorted(part)] for c, part in enumerate(parts)}
    return group_components(labels, members, rule)


def make_batch(groups, lengths, rng, *, first=0, density=0.2, is_signed=False, share_alive=0.8):
    """A batch of texts of these lengths; text keys count on from `first`."""
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    n_alive = rng.binomial(groups.n_components, share_alive)
    columns = np.sort(rng.permutation(groups.n_components)[:n_alive])
    values = rng.lognormal(0, 2, (starts[-1], n_alive)).astype(np.float32)
    if is_signed:
        values *= rng.choice([-1, 1], values.shape).astype(np.float32)
    activations = np.where(rng.random(values.shape) < density, values, np.float32(0))
    keys = tuple(content_key("text", first + i) for i in range(len(lengths)))
    token_ids = rng.integers(0, 50, starts[-1])
    return MadeUp(
        activations, columns, TextBatch(keys, rng.random(len(lengths)) < 0.5, starts, token_ids)
    )


def make_batches(groups, n, rng, *, max_texts=5, max_tokens=9, **options):
    batches, first = [], 0
    for _ in range(n):
        lengths = rng.integers(0, max_tokens + 1, rng.integers(1, max_texts + 1))
        batches.append(make_batch(groups, lengths, rng, first=first, **options))
        first += len(lengths)
    return batches


def cluster_column(batch: MadeUp, groups: ComponentGroups, cluster: int) -> np.ndarray:
    """A cluster's activations: member after member in float32, dead ones as zero."""
    members = np.flatnonzero(groups.cluster_of == cluster)
    rows = np.zeros((len(members), len(batch.activations)), np.float32)
    for place, component in enumerate(members):
        if component in batch.columns:
            rows[place] = batch.activations[:, list(batch.columns).index(component)]
    if groups.rule == "max":
        return rows.max(axis=0, initial=-np.inf) if len(members) else np.zeros(rows.shape[1])
    total = np.zeros(rows.shape[1], np.float32)
    share = np.float32(1 / max(1, len(members))) if groups.rule == "mean" else np.float32(1)
    for row in rows:
        total += row * share
    return total


def loop_over_everything(batches, groups):
    """What the original triple loop keeps, per cluster and per component of a cluster.

    A list of (text key, token ids, activations): of all texts of every batch in which the cluster
    is active.
    """
    clusters = {name: [] for name in groups.clusters}
    components = {label: [] for label in groups.labels}
    for batch in batches:
        for number, name in enumerate(groups.clusters):
            column = cluster_column(batch, groups, number)
            if not np.abs(column).max(initial=0) > 0:
                continue
            for text, key in enumerate(batch.texts.keys):
                part = slice(*batch.texts.starts[text : text + 2])
                token_ids = batch.texts.token_ids[part]
                clusters[name].append((key, token_ids, column[part]))
                for place, component in enumerate(batch.columns):
                    if groups.cluster_of[component] == number:
                        row = (key, token_ids, batch.activations[part, place])
                        components[groups.labels[component]].append(row)
    return clusters, components
