import random

import numpy as np
import pandas as pd
import pytest

from whatchanged.errors import ArtifactDamagedError, InputError
from whatchanged.keys import content_key
from whatchanged.store.artifacts import ArtifactStore
from whatchanged.store.embeddings import EmbeddingCache
from whatchanged.store.runs import RunFolder, load_run

KEY = content_key("artifact")
ROW_KEYS = [content_key("row", i) for i in range(200)]
ROWS = np.random.default_rng(0).standard_normal((200, 32)).astype(np.float32)


def cuts_and_flips(data: bytes, seed: int):
    """20 truncations and 100 single flipped bits, spread over the whole of the data."""
    draw = random.Random(seed)
    for _ in range(20):
        yield data[: draw.randrange(len(data))]
    for _ in range(100):
        damaged = bytearray(data)
        damaged[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        yield bytes(damaged)


@pytest.mark.parametrize(
    ("put", "get", "value"),
    [
        ("put_json", "get_json", {"texts": ["a", "b"] * 40}),
        ("put_table", "get_table", pd.DataFrame({"text": ["a", "b"] * 40})),
        ("put_arrays", "get_arrays", {"rows": ROWS[:4]}),
    ],
)
def test_every_cut_and_every_flip_of_an_artifact_is_found_and_repaired(
    tmp_path, put, get, value, record_property
):
    store = ArtifactStore(tmp_path)
    getattr(store, put)(KEY, value)
    sound = store.path(KEY).read_bytes()
    n_unseen = 0
    for damaged in cuts_and_flips(sound, 1):
        store.path(KEY).write_bytes(damaged)
        try:
            getattr(store, get)(KEY)
            n_unseen += 1
        except ArtifactDamagedError:
            pass
        getattr(store, put)(KEY, value)
        assert store.path(KEY).read_bytes() == sound
    record_property("corruptions", 120)
    record_property("corruptions_unseen", n_unseen)
    assert (n_unseen, store.n_damaged) == (0, 120)
    assert len(list((tmp_path / "quarantine").iterdir())) == 120


def test_every_cut_and_every_flip_of_a_file_of_a_run_is_found(tmp_path, record_property):
    run = RunFolder.create(tmp_path)
    run.write_config("seed: 3\n" * 1)
    run.write_json("summary", {"stop_reason": "done"})
    run.write_json("findings", [])
    run.write_table("clusters", pd.DataFrame({"cluster": [1, 2]}))
    run.finish({}, {})
    n_made = n_unseen = 0
    for name in ("config.yaml", "summary.json", "clusters.parquet", "manifest.json"):
        sound = (tmp_path / name).read_bytes()
        for damaged in cuts_and_flips(sound[:-1], 2):
            (tmp_path / name).write_bytes(damaged)
            n_made += 1
            try:
                _ = load_run(tmp_path).clusters
                n_unseen += 1
            except InputError as error:
                assert name in str(error) or "upgrade" in str(error)
        (tmp_path / name).write_bytes(sound)
    record_property("corruptions", n_made)
    record_property("corruptions_unseen", n_unseen)
    assert n_unseen == 0
    assert list(load_run(tmp_path).clusters["cluster"]) == [1, 2]


@pytest.mark.filterwarnings("ignore:the embedding cache")
def test_a_damaged_embedding_file_never_gives_a_wrong_row_and_never_ends_the_process(
    tmp_path, record_property
):
    source = EmbeddingCache(tmp_path / "source")
    for start in range(0, 200, 4):
        source.put_many("model", ROW_KEYS[start : start + 4], ROWS[start : start + 4])
    sound = source.path.read_bytes()
    n_noticed = n_wrong = 0
    for n, damaged in enumerate(cuts_and_flips(sound, 3)):
        cache = EmbeddingCache(tmp_path / str(n))
        cache.path.parent.mkdir()
        cache.path.write_bytes(damaged)
        known, rows = cache.get_many("model", ROW_KEYS, 32)
        n_wrong += int((rows[known] != ROWS[known]).any(axis=1).sum())
        n_noticed += cache.n_damaged > 0
        cache.put_many("model", ROW_KEYS, ROWS)
        known, rows = cache.get_many("model", ROW_KEYS, 32)
        assert known.all()
        np.testing.assert_array_equal(rows, ROWS)
    # All cuts, and the flips that hit something in use: most of a small file's pages are free.
    assert n_noticed > 30
    record_property("corruptions", 120)
    record_property("corruptions_unseen", n_wrong)
    assert n_wrong == 0


@pytest.mark.filterwarnings("ignore:the embedding cache")
def test_wiped_and_garbled_pages_never_give_a_wrong_row(tmp_path):
    source = EmbeddingCache(tmp_path / "source")
    for start in range(0, 200, 4):
        source.put_many("model", ROW_KEYS[start : start + 4], ROWS[start : start + 4])
    sound = source.path.read_bytes()
    draw = random.Random(4)
    for page in range(len(sound) // 4096):
        damaged = bytearray(sound)
        junk = draw.randbytes(4096) if page % 2 else bytes(4096)
        damaged[page * 4096 : (page + 1) * 4096] = junk
        cache = EmbeddingCache(tmp_path / str(page))
        cache.path.parent.mkdir()
        cache.path.write_bytes(damaged)
        known, rows = cache.get_many("model", ROW_KEYS, 32)
        np.testing.assert_array_equal(rows[known], ROWS[known])
        cache.put_many("model", ROW_KEYS, ROWS)
        assert cache.get_many("model", ROW_KEYS, 32)[0].all()
