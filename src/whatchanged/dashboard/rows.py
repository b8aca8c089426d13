"""Where every text stands in the pack: one row number each, in an order that makes shards local.

First the texts that findings quote, so that a claim's evidence is one part; then the discovery
texts, cluster after cluster; then the other fresh texts, prompt after prompt. A shard is a range of
rows, and a text is stored in exactly one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from whatchanged.records import NOISE

MAX_SHARD_TEXTS = 500
MAX_SHARD_BYTES = 400_000
KEYS_PER_BUCKET = 2_000
KEY_BYTES = 16
EVIDENCE_FIELDS = ("supporting", "contradicting")


@dataclass(frozen=True)
class Rows:
    """The texts in row order, with what finds them.

    `starts (n_shards + 1,)` are the rows at which shards begin, and the number of texts at the end.
    The first `n_quoted` rows are those that findings quote. `clusters` gives the rows
    `[start, end)` of each text-level label.
    """

    texts: pd.DataFrame
    starts: NDArray[np.int64]
    n_quoted: int
    clusters: Mapping[int, tuple[int, int]]
    by_key: Mapping[str, int]

    @cached_property
    def buckets(self) -> list[NDArray[np.int64]]:
        """The rows of each bucket of the key index: bucket `first byte * n_buckets // 256`."""
        n_buckets = count_buckets(len(self.texts))
        first = np.array([int(key[:2], 16) for key in self.texts["text_key"]], dtype=np.int64)
        bucket = first * n_buckets // 256
        return [np.flatnonzero(bucket == i) for i in range(n_buckets)]

    @property
    def n_shards(self) -> int:
        return len(self.starts) - 1

    def find(self, keys: Iterable[str]) -> list[int]:
        """The rows of these text keys; keys that the run does not hold are left out."""
        return [self.by_key[key] for key in keys if key in self.by_key]


def order_texts(texts: pd.DataFrame, findings: Sequence[Mapping[str, Any]]) -> Rows:
    """The rows of a run's texts. A text may be decoded twice under one key; it has one row."""
    texts = texts.drop_duplicates("text_key", ignore_index=True)
    quoted = {str(k): i for i, k in reversed(list(enumerate(_quoted_keys(findings))))}
    is_fresh = (texts["split"] == "validation").to_numpy(dtype=bool)
    rank = texts["text_key"].map(quoted).to_numpy(dtype=float, na_value=np.nan)
    is_quoted = is_fresh & ~np.isnan(rank)
    home = np.where(is_quoted, 0, np.where(is_fresh, 2, 1))
    labels = np.where(is_fresh, NOISE, texts["label"].to_numpy(dtype=np.int64))
    # Noise comes after the clusters.
    place = np.where(labels == NOISE, np.iinfo(np.int64).max, labels)
    prompt = pd.factorize(texts["prompt_key"], sort=True)[0]
    order = np.lexsort((texts["text_key"], prompt, place, np.where(is_quoted, rank, 0.0), home))
    ordered = texts.iloc[order].reset_index(drop=True)
    groups = np.stack([home[order], np.where(home[order] == 1, place[order], 0)], axis=1)
    n_bytes = [len(text.encode("utf-8", "surrogatepass")) for text in ordered["text"]]
    return Rows(
        texts=ordered,
        starts=_cut_shards(groups, np.array(n_bytes, dtype=np.int64)),
        n_quoted=int(is_quoted.sum()),
        clusters=_ranges(groups),
        by_key={str(key): row for row, key in enumerate(ordered["text_key"])},
    )


def key_bytes(keys: Sequence[str]) -> NDArray[np.uint8]:
    """The first 128 bits of each key, shape `(n, KEY_BYTES)`."""
    data = b"".join(bytes.fromhex(key[: 2 * KEY_BYTES]) for key in keys)
    return np.frombuffer(data, dtype=np.uint8).reshape(len(keys), KEY_BYTES)


def count_buckets(n_keys: int) -> int:
    """How many parts the key index has; at most 256, by the first byte of a key."""
    return min(256, max(1, -(-n_keys // KEYS_PER_BUCKET)))


def keep_words(rows: Rows, per_cluster: int | None) -> NDArray[np.bool_]:
    """Which rows travel with their words: all, or the quoted ones and the `per_cluster` texts
    nearest to the centre of each cluster."""
    kept = np.ones(len(rows.texts), dtype=np.bool_)
    if per_cluster is None:
        return kept
    kept[rows.n_quoted :] = False
    margins = rows.texts["margin"].to_numpy(dtype=float)
    for start, end in rows.clusters.values():
        nearest = np.argsort(margins[start:end], kind="stable")[:per_cluster]
        kept[start + nearest] = True
    return kept


def _quoted_keys(findings: Sequence[Mapping[str, Any]]) -> list[str]:
    return [
        str(key)
        for finding in findings
        for name in EVIDENCE_FIELDS
        for key in finding.get(name) or ()
    ]


def _cut_shards(groups: NDArray[np.int64], n_bytes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where shards begin: at every new group, and within one wherever a limit is reached."""
    starts, texts_in, bytes_in = [0], 0, 0
    for row in range(len(groups)):
        is_new = row > 0 and bool((groups[row] != groups[row - 1]).any())
        is_full = texts_in >= MAX_SHARD_TEXTS or bytes_in + n_bytes[row] > MAX_SHARD_BYTES
        if row > starts[-1] and (is_new or is_full):
            starts.append(row)
            texts_in = bytes_in = 0
        texts_in += 1
        bytes_in += int(n_bytes[row])
    return np.array([*starts, len(groups)] if len(groups) else [0], dtype=np.int64)


def _ranges(groups: NDArray[np.int64]) -> dict[int, tuple[int, int]]:
    inside = np.flatnonzero(groups[:, 0] == 1) if len(groups) else np.zeros(0, dtype=np.int64)
    found: dict[int, tuple[int, int]] = {}
    for row in inside:
        label = int(groups[row, 1])
        label = NOISE if label == np.iinfo(np.int64).max else label
        found[label] = (found.get(label, (int(row), 0))[0], int(row) + 1)
    return found
