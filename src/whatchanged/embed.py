"""From replies to vectors: segments, and one embedding per distinct segment.

The unit that is embedded is the *segment* (a sentence of the reply): on aligned prompts, whole
replies cluster by topic, which the prompt sets, and hide the change (design/0002-segments.md).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from whatchanged.keys import content_digests, content_keys
from whatchanged.models.protocols import Embedder
from whatchanged.nearest import blocks
from whatchanged.records import NOISE, SEGMENT_COLUMNS

# A stop ends a segment only before white space (so "3.5" and "e.g.x" stay whole), except the
# full-width stops, which are written without one.
_BOUNDARY = re.compile(r"(?<=[.!?…])\s+|(?<=[.!?…][\"'”’)\]])\s+|(?<=[。！？])|[\r\n]+")


class VectorCache(Protocol):
    """Where vectors are remembered; `store.embeddings.EmbeddingCache` is the real one."""

    def get_many(
        self, namespace: str, keys: Sequence[bytes], d_embed: int
    ) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        """Which keys are known `(n,)`, and rows `(n, d_embed)` (undefined where not)."""
        ...

    def put_many(self, namespace: str, keys: Sequence[bytes], rows: NDArray[np.float32]) -> None:
        """Remember `rows` under `keys`."""
        ...


class EmbeddedBlock(NamedTuple):
    """`rows (n_texts, d_embed)` of some texts, and how many of these the model cut."""

    rows: NDArray[np.float32]
    n_truncated: int


@dataclass(frozen=True, slots=True)
class Embedded:
    """`vectors (n_texts, d_embed)` in the order asked; how many distinct texts were new, were in
    the cache, and of the new ones, how many were longer than the model reads."""

    vectors: NDArray[np.float32]
    n_embedded: int
    n_cached: int
    n_truncated: int


@lru_cache(maxsize=100_000)
def split_segments(text: str) -> tuple[str, ...]:
    """The sentences of a reply, stripped, in order; an empty or blank reply has none."""
    return tuple(part for piece in _BOUNDARY.split(text) if (part := piece.strip()))


def segment_table(texts: pd.DataFrame) -> pd.DataFrame:
    """One row per segment of every text: `SEGMENT_COLUMNS`, unlabelled.

    `texts` needs `text_key` and `text`. A blank text has no rows.
    """
    rows = [
        (text_key, position, segment)
        for text_key, text in zip(texts["text_key"], texts["text"], strict=True)
        for position, segment in enumerate(split_segments(text))
    ]
    table = pd.DataFrame(rows, columns=["text_key", "position", "segment"])
    keys = content_keys("segment/1", table["segment"].tolist())
    labelled = table.assign(segment_key=keys, label=np.int32(NOISE), margin=np.float32(np.nan))
    return labelled[list(SEGMENT_COLUMNS)]


def embed_block(texts: Sequence[str], embedder: Embedder) -> EmbeddedBlock:
    """The rows of texts that no cache has."""
    n_truncated = embedder.n_truncated
    rows = embedder.embed(texts)
    return EmbeddedBlock(rows, embedder.n_truncated - n_truncated)


def embed_texts(
    texts: Sequence[str],
    embedder: Embedder,
    cache: VectorCache,
    *,
    block: int = 4096,
    spread: Callable[[list[list[str]]], Iterable[EmbeddedBlock]] | None = None,
) -> Embedded:
    """One row per text in the order asked; each distinct text is embedded once, and only if the
    cache lacks it. New rows are remembered every `block` texts, so that a kill loses little.

    `spread` embeds all these blocks elsewhere, each as `embed_block` would; None: here, one after
    the other. Zero texts give `(0, d_embed)`.
    """
    distinct = list(dict.fromkeys(texts))
    keys = content_digests("embedding/1", distinct)
    known, rows = cache.get_many(embedder.identity, keys, embedder.d_embed)
    missing = np.flatnonzero(~known)
    parts = [missing[start : start + block] for start in range(0, len(missing), block)]
    blocks = [[distinct[i] for i in part] for part in parts]
    done = spread(blocks) if spread else (embed_block(texts, embedder) for texts in blocks)
    n_truncated = 0
    for part, found in zip(parts, done, strict=True):
        rows[part] = found.rows
        n_truncated += found.n_truncated
        cache.put_many(embedder.identity, [keys[i] for i in part], rows[part])
    if len(distinct) < len(texts):
        row_of = {text: row for row, text in enumerate(distinct)}
        order = np.fromiter((row_of[text] for text in texts), np.intp, len(texts))
        rows = rows[order]
    return Embedded(rows, len(missing), len(distinct) - len(missing), n_truncated)


def mean_by_text(
    vectors: NDArray[np.float32], rows: NDArray[np.intp], n_texts: int
) -> NDArray[np.float32]:
    """Unit-length mean of each text's segment vectors, `(n_texts, d_embed)`.

    `rows (n_segments,)` names the text of each vector. A text without segments gets a zero row.
    """
    sums = np.zeros((n_texts, vectors.shape[1]), dtype=np.float32)
    np.add.at(sums, rows, vectors)
    for part in blocks(n_texts):
        lengths = np.linalg.norm(sums[part], axis=1, keepdims=True)
        np.divide(sums[part], lengths, out=sums[part], where=lengths > 0)
    return sums
