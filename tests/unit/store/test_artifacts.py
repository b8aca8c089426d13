from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from whatchanged.errors import ArtifactDamagedError, ArtifactMissingError
from whatchanged.keys import bytes_digest
from whatchanged.store.artifacts import ArtifactStore, cache_root

KEY = "ab" + "0" * 62
OTHER = "cd" + "1" * 62


@pytest.fixture
def store(tmp_path):
    return ArtifactStore(tmp_path)


def test_every_kind_of_value_comes_back(store):
    store.put_json(KEY, {"n": [1, 2]})
    store.put_table(OTHER, pd.DataFrame({"text": ["a"]}))
    store.put_arrays("ef" + "2" * 62, {"x": np.arange(3)})
    assert store.get_json(KEY) == {"n": [1, 2]}
    assert list(store.get_table(OTHER)["text"]) == ["a"]
    assert store.get_arrays("ef" + "2" * 62)["x"].tolist() == [0, 1, 2]
    assert list(store.list_keys()) == [KEY, OTHER, "ef" + "2" * 62]


def test_one_file_states_its_own_length_and_digest(store, tmp_path):
    store.put_json(KEY, 7)
    digest = bytes_digest(b"7")
    assert (tmp_path / "artifacts" / "ab" / KEY).read_bytes() == (
        f'{{"format":1,"key":"{KEY}","kind":"json","n_bytes":1,"sha256":"{digest}"}}\n7'.encode()
    )
    assert store.key_digest(KEY) == digest


def test_the_first_value_of_a_key_stays(store):
    store.put_json(KEY, "first")
    store.put_json(KEY, "second")
    assert store.get_json(KEY) == "first"


def test_an_absent_key_is_missing(store):
    assert not store.has(KEY)
    with pytest.raises(ArtifactMissingError, match="run its stage again"):
        store.get_json(KEY)


@pytest.mark.parametrize("key", ["", "AB" + "0" * 62, "0" * 63, "../" + "0" * 61])
def test_only_whole_keys_are_accepted(store, key):
    with pytest.raises(ValueError, match="64 lower-case hex"):
        store.put_json(key, 1)


def test_another_kind_than_the_stored_one_is_refused(store):
    store.put_json(KEY, 1)
    with pytest.raises(ValueError, match="holds json, not table"):
        store.get_table(KEY)


def test_a_damaged_artifact_is_quarantined_counted_and_repaired_by_a_put(store, tmp_path):
    store.put_json(KEY, "sound")
    store.path(KEY).write_bytes(store.path(KEY).read_bytes()[:-1])
    with pytest.raises(ArtifactDamagedError, match="quarantine"):
        store.get_json(KEY)
    assert store.n_damaged == 1
    assert len(list((tmp_path / "quarantine").iterdir())) == 1
    assert not store.has(KEY)
    store.put_json(KEY, "sound")
    assert store.get_json(KEY) == "sound"


def test_a_put_over_a_damaged_file_repairs_it(store):
    store.put_json(KEY, "sound")
    store.path(KEY).write_bytes(b"")
    store.put_json(KEY, "sound")
    assert store.get_json(KEY) == "sound"
    assert store.n_damaged == 1


def test_a_file_under_another_files_name_is_damaged(store):
    store.put_json(KEY, 1)
    store.path(OTHER).parent.mkdir()
    store.path(KEY).rename(store.path(OTHER))
    assert not store.has(OTHER)


def test_a_sound_file_that_was_repaired_meanwhile_is_put_back(store):
    store.put_json(KEY, "sound")
    store._quarantine(KEY)
    assert store.get_json(KEY) == "sound"
    assert store.n_damaged == 0


def test_the_cache_folder_is_chosen_by_the_environment(monkeypatch):
    monkeypatch.setenv("WHATCHANGED_CACHE", "/somewhere/cache")
    assert cache_root() == Path("/somewhere/cache")
    monkeypatch.delenv("WHATCHANGED_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_root() == Path("/xdg/whatchanged")
    for ignored in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", ignored)
        assert cache_root() == Path.home() / ".cache" / "whatchanged"
