from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from whatchanged.embed import (
    EmbeddedBlock,
    embed_block,
    embed_texts,
    mean_by_text,
    segment_table,
    split_segments,
)


class CountingEmbedder:
    """A text's vector is a direction of its length and first letter; counts what it is asked."""

    identity = "counting"
    d_embed = 2
    n_truncated = 0

    def __init__(self) -> None:
        self.asked: list[str] = []

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.asked += texts
        rows = np.array([[len(t) + 1.0, ord((t + "a")[0])] for t in texts], dtype=np.float32)
        return rows.reshape(-1, 2) / np.linalg.norm(rows, axis=-1, keepdims=True)


class DictCache:
    def __init__(self) -> None:
        self.rows: dict[tuple[str, bytes], NDArray[np.float32]] = {}

    def get_many(
        self, namespace: str, keys: Sequence[bytes], d_embed: int
    ) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        known = np.array([(namespace, key) in self.rows for key in keys], dtype=bool)
        rows = np.full((len(keys), d_embed), np.nan, dtype=np.float32)
        for i, key in enumerate(keys):
            rows[i] = self.rows.get((namespace, key), rows[i])
        return known, rows

    def put_many(self, namespace: str, keys: Sequence[bytes], rows: NDArray[np.float32]) -> None:
        self.rows.update({(namespace, key): row for key, row in zip(keys, rows, strict=True)})


@pytest.mark.parametrize(
    ("text", "segments"),
    [
        ("One. Two! Three?", ("One.", "Two!", "Three?")),
        ("It costs 3.50 today. Fine", ("It costs 3.50 today.", "Fine")),
        ('He said "Stop." Then he left.', ('He said "Stop."', "Then he left.")),
        ("- a\n- b\n\nc", ("- a", "- b", "c")),
        ("好。再见！", ("好。", "再见！")),
        ("Wait… what", ("Wait…", "what")),
        (" \n ", ()),
        ("", ()),
    ],
)
def test_a_reply_splits_into_its_sentences(text: str, segments: tuple[str, ...]) -> None:
    assert split_segments(text) == segments


@given(st.text(max_size=200))
def test_splitting_loses_nothing_but_white_space(text: str) -> None:
    assert "".join("".join(split_segments(text)).split()) == "".join(text.split())


def test_the_segment_table_says_whose_segment_is_where() -> None:
    texts = pd.DataFrame({"text_key": ["t1", "t2", "t3"], "text": ["A. B.", "", "B."]})
    table = segment_table(texts)
    assert list(table["text_key"]) == ["t1", "t1", "t3"]
    assert list(table["position"]) == [0, 1, 0]
    assert list(table["segment"]) == ["A.", "B.", "B."]
    assert table["segment_key"][1] == table["segment_key"][2] != table["segment_key"][0]


@given(st.lists(st.text(max_size=4), max_size=12), st.sets(st.text(max_size=4), max_size=6))
def test_embeddings_keep_the_order_asked(texts: list[str], known: set[str]) -> None:
    cache, embedder = DictCache(), CountingEmbedder()
    embed_texts(sorted(known), embedder, cache)
    embedder.asked.clear()
    result = embed_texts(texts, embedder, cache, block=3)
    rowwise = [CountingEmbedder().embed([text])[0] for text in texts]
    assert np.allclose(result.vectors, np.array(rowwise).reshape(-1, 2))
    assert sorted(embedder.asked) == sorted(set(texts) - known)
    assert result.n_embedded == len(embedder.asked)
    assert result.n_cached == len(set(texts) & known)


def test_blocks_that_are_embedded_elsewhere_are_those_of_here() -> None:
    cache, seen = DictCache(), []

    def elsewhere(blocks: list[list[str]]) -> Iterator[EmbeddedBlock]:
        seen.extend(blocks)
        return (embed_block(block, CountingEmbedder()) for block in blocks)

    here = CountingEmbedder()
    texts = ["b", "a", "b", "ccc", "d"]
    embed_texts(["a"], CountingEmbedder(), cache)
    result = embed_texts(texts, here, cache, block=2, spread=elsewhere)
    assert seen == [["b", "ccc"], ["d"]]
    assert here.asked == []
    assert (result.n_embedded, result.n_cached) == (3, 1)
    assert np.array_equal(result.vectors, embed_texts(texts, here, DictCache(), block=2).vectors)


def test_another_embedder_never_gets_these_vectors() -> None:
    cache, embedder = DictCache(), CountingEmbedder()
    embed_texts(["a"], embedder, cache)
    other = CountingEmbedder()
    other.identity = "other"
    assert embed_texts(["a"], other, cache).n_embedded == 1


def test_finished_blocks_survive_a_failure() -> None:
    class Failing(CountingEmbedder):
        def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
            if "c" in texts:
                raise RuntimeError("no")
            return super().embed(texts)

    cache = DictCache()
    with pytest.raises(RuntimeError):
        embed_texts(["a", "b", "c"], Failing(), cache, block=2)
    assert embed_texts(["a", "b"], CountingEmbedder(), cache).n_cached == 2


def test_a_text_lies_at_the_mean_of_its_segments() -> None:
    vectors = np.array([[1, 0], [0, 1], [0, 1]], dtype=np.float32)
    means = mean_by_text(vectors, np.array([0, 0, 2]), 3)
    half = 0.5**0.5
    assert np.allclose(means, [[half, half], [0, 0], [0, 1]])
