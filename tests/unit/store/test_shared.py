"""Artifacts that machines without a common disk exchange through a folder at a URL."""

from __future__ import annotations

import copy
import uuid
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import pytest

from whatchanged.errors import (
    ArtifactDamagedError,
    ArtifactMissingError,
    ConfigError,
    InputError,
    MissingDependencyError,
    TransientError,
)
from whatchanged.store.artifacts import ArtifactStore
from whatchanged.store.shared import SharedFolder, _known, is_of_this_machine

KEY = "ab" + "0" * 62
NAME = f"artifacts/ab/{KEY}"


@pytest.fixture(params=["memory", "file"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "memory":
        return f"memory://{uuid.uuid4().hex}/here"
    return f"file://{tmp_path}/shared"


@pytest.fixture
def machines(url: str, tmp_path: Path) -> tuple[ArtifactStore, ArtifactStore]:
    """Two caches that have nothing but the URL in common."""
    return ArtifactStore(tmp_path / "one", url), ArtifactStore(tmp_path / "two", url)


def names_at(url: str) -> list[str]:
    files, path = fsspec.core.url_to_fs(url)
    return sorted(name.removeprefix(path.rstrip("/") + "/") for name in files.find(path))


def overwrite(url: str, name: str, data: bytes) -> None:
    files, path = fsspec.core.url_to_fs(url)
    files.pipe_file(f"{path}/{name}", data)


def test_what_one_machine_puts_another_gets_and_keeps(
    machines: tuple[ArtifactStore, ArtifactStore], url: str
) -> None:
    one, two = machines
    keys = ["ab" + digit * 62 for digit in "012"]
    one.put_json(keys[0], {"n": [1, 2]})
    one.put_table(keys[1], pd.DataFrame({"text": ["a", "b"]}))
    one.put_arrays(keys[2], {"x": np.arange(3, dtype=np.float32)})
    assert two.get_json(keys[0]) == {"n": [1, 2]}
    assert list(two.get_table(keys[1])["text"]) == ["a", "b"]
    assert two.get_arrays(keys[2])["x"].tolist() == [0, 1, 2]
    assert names_at(url) == [f"artifacts/ab/{key}" for key in keys]
    for key in keys:
        assert one.path(key).read_bytes() == two.path(key).read_bytes()
        assert ArtifactStore(two.root).has(key), "kept below its own root"


def test_what_no_machine_has_is_missing(machines: tuple[ArtifactStore, ArtifactStore]) -> None:
    one, two = machines
    assert not one.has(KEY)
    with pytest.raises(ArtifactMissingError):
        two.get_json(KEY)


def test_what_was_there_before_the_url_was_named_is_shared_when_it_is_read(
    machines: tuple[ArtifactStore, ArtifactStore],
) -> None:
    one, two = machines
    ArtifactStore(one.root).put_json(KEY, "early")
    assert not two.has(KEY)
    assert one.has(KEY)
    assert two.get_json(KEY) == "early"


@pytest.mark.parametrize("at", [0, 20, 100, -1])
def test_what_is_damaged_there_is_set_aside_and_put_anew(
    machines: tuple[ArtifactStore, ArtifactStore], url: str, at: int
) -> None:
    one, two = machines
    one.put_json(KEY, "sound")
    data = bytearray(one.path(KEY).read_bytes())
    data[at] ^= 4
    overwrite(url, NAME, bytes(data))
    with pytest.raises(ArtifactDamagedError, match="quarantine there"):
        two.get_json(KEY)
    assert two.n_damaged == 1
    assert not two.path(KEY).exists()
    (aside,) = names_at(url)
    assert aside.startswith(f"quarantine/{KEY}.")
    two.put_json(KEY, "sound")
    assert ArtifactStore(one.root.parent / "three", url).get_json(KEY) == "sound"


def test_half_a_file_is_never_under_its_name(
    machines: tuple[ArtifactStore, ArtifactStore], url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = machines
    files, _ = fsspec.core.url_to_fs(url)

    def tear(path: str, data: bytes, **_: Any) -> None:
        with files.open(path, "wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError("connection reset")

    monkeypatch.setattr(files, "pipe_file", tear, raising=True)
    with pytest.raises(TransientError, match=r"expected to write below .*connection reset"):
        one.put_json(KEY, "value")
    assert all(name.startswith("incoming/") for name in names_at(url))
    monkeypatch.undo()
    assert not two.has(KEY)
    assert one.get_json(KEY) == "value", "the disk of this machine has it"
    assert two.get_json(KEY) == "value", "and the next read brought it there"


def test_a_folder_that_cannot_be_reached_is_a_passing_failure(tmp_path: Path) -> None:
    # Nobody listens on port 1.
    store = ArtifactStore(tmp_path, "ftp://127.0.0.1:1/shared")
    with pytest.raises(TransientError, match="expected to open a folder below ftp://"):
        store.has(KEY)
    with pytest.raises(InputError, match=r"run\.store: expected to open a folder below ftp://"):
        SharedFolder("ftp://127.0.0.1:1/shared").check()


def test_a_sound_folder_passes_the_check_and_is_left_as_it_was(url: str) -> None:
    SharedFolder(url).check()
    assert names_at(url) == []


def test_what_cannot_be_opened_is_said_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"run\.store: expected a folder or a URL.*'bogus://x'"):
        SharedFolder("bogus://x").check()

    def lacking(_: str) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", lacking)
    with pytest.raises(MissingDependencyError, match=r"s3://no-such-package.*Install s3fs"):
        SharedFolder("s3://no-such-package").check()


def test_a_second_put_of_a_process_asks_for_nothing(
    machines: tuple[ArtifactStore, ArtifactStore], url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = machines
    one.put_json(KEY, 1)
    assert _known(url) == {NAME}
    files, _ = fsspec.core.url_to_fs(url)
    monkeypatch.setattr(files, "exists", None)
    one.put_json(KEY, 1)
    assert one.get_json(KEY) == 1


def test_a_store_travels_to_a_worker(
    machines: tuple[ArtifactStore, ArtifactStore], url: str
) -> None:
    one, two = machines
    copy.deepcopy(one).put_json(KEY, 1)
    assert two.get_json(KEY) == 1


def test_which_urls_need_no_network() -> None:
    assert all(map(is_of_this_machine, ["/mnt/a", "file:///mnt/a", "memory://a"]))
    assert not any(map(is_of_this_machine, ["s3://a", "ftp://h/a", "simplecache::s3://a"]))
