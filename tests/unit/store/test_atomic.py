import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from whatchanged.errors import StorageError
from whatchanged.store import atomic


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_publish_writes_once_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "new" / "object"
    assert atomic.publish(path, b"first ", b"bytes") is True
    assert atomic.publish(path, b"second") is False
    assert path.read_bytes() == b"first bytes"
    assert names(path.parent) == ["object"]


def test_replace_takes_the_place_of_the_old_file(tmp_path):
    path = tmp_path / "file"
    atomic.replace(path, b"old")
    atomic.replace(path, b"new")
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["file"]


def test_publish_works_where_hard_links_do_not(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    assert atomic.publish(tmp_path / "object", b"first") is True
    assert atomic.publish(tmp_path / "object", b"second") is False
    assert (tmp_path / "object").read_bytes() == b"first"
    assert names(tmp_path) == ["object"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS])
def test_a_refused_write_says_what_how_much_and_what_to_do(tmp_path, monkeypatch, code):
    (tmp_path / "file").write_bytes(b"old")

    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StorageError) as refused:
        atomic.replace(tmp_path / "file", b"x" * 1234)
    sentence = str(refused.value)
    for part in (str(tmp_path / "file"), "1,234 bytes", os.strerror(code), "are free there"):
        assert part in sentence
    assert "WHATCHANGED_CACHE" in sentence
    assert "nothing that was stored is lost" in sentence
    assert (tmp_path / "file").read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_a_file_in_the_way_of_a_folder_is_named(tmp_path):
    (tmp_path / "cache").write_bytes(b"")
    with pytest.raises(StorageError, match="cache"):
        atomic.publish(tmp_path / "cache" / "object", b"")
    with pytest.raises(StorageError, match="cache"):
        atomic.ensure_folder(tmp_path / "cache")


def test_errors_that_are_no_refusal_keep_their_name(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output error"):
        atomic.publish(tmp_path / "object", b"")


def test_sweep_removes_what_the_dead_left_and_nothing_of_the_living(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    owner = atomic._owner()
    stray = tmp_path / "ab" / f".object.{owner}.{dead.pid}.0.tmp"
    own = tmp_path / f".object.{owner}.{os.getpid()}.0.tmp"
    foreign_new = tmp_path / ".object.elsewhere-1.1.0.tmp"
    foreign_old = tmp_path / ".object.elsewhere-1.1.1.tmp"
    users = tmp_path / ".notes.tmp"
    stray.parent.mkdir()
    for path in (stray, own, foreign_new, foreign_old, users):
        path.write_bytes(b"")
    os.utime(foreign_old, (0, 0))
    assert atomic.sweep(tmp_path) == 2
    assert not stray.exists() and not foreign_old.exists()
    assert own.exists() and foreign_new.exists() and users.exists()
