import os
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

from whatchanged.keys import content_key
from whatchanged.models.call_ledger import CallOutcome
from whatchanged.models.chat import ChatReply, ChatRequest
from whatchanged.store import atomic
from whatchanged.store.artifacts import ArtifactStore
from whatchanged.store.embeddings import EmbeddingCache
from whatchanged.store.ledger import Ledger
from whatchanged.store.runs import RunFolder
from whatchanged.store.verify import CHECKPOINT, VerifyReport, verify

KEYS = [content_key("test", i) for i in range(10)]
ROWS = np.random.default_rng(0).standard_normal((10, 4)).astype(np.float32)


def fill(root, run):
    store = ArtifactStore(root)
    for key in KEYS[:3]:
        store.put_json(key, "value")
    EmbeddingCache(root).put_many("model", KEYS, ROWS)
    folder = RunFolder.create(run)
    folder.write_config("{}")
    folder.write_json("summary", {})
    folder.write_json("findings", [])
    folder.finish({}, {})


def test_an_absent_cache_is_an_empty_one(tmp_path):
    assert verify(tmp_path / "absent") == VerifyReport()


def test_a_sound_store_has_no_problems(tmp_path):
    fill(tmp_path / "cache", tmp_path / "run")
    report = verify(tmp_path / "cache", [tmp_path / "run"])
    # 3 artifacts, 10 rows, the manifest and 3 files
    assert (report.n_checked, report.n_damaged, report.problems) == (17, 0, ())
    assert report.n_bytes > 10 * 4 * 4


def test_every_kind_of_damage_is_counted_and_named(tmp_path):
    cache, run = tmp_path / "cache", tmp_path / "run"
    fill(cache, run)
    ArtifactStore(cache).path(KEYS[1]).write_bytes(b"torn")
    (run / "summary.json").write_bytes(b"[]")
    database = cache / "embeddings.lmdb"
    data = bytearray(database.read_bytes())
    data[bytes(data).index(ROWS[3].tobytes())] ^= 64
    database.write_bytes(data)
    report = verify(cache, [run])
    assert (report.n_damaged, report.n_quarantined) == (3, 1)
    named = " ".join(report.problems)
    for part in (KEYS[1], "summary.json", "1 embeddings"):
        assert part in named
    assert verify(cache).n_quarantined == 0


def pay(root, n_calls):
    ledger = Ledger(root, "run")
    requests = [ChatRequest("p", "m", "s", f"text {i}", "{}", 64, 0.0) for i in range(n_calls)]
    reply = ChatReply("y" * 300, "stop", "", 1, 1)
    ledger.write([CallOutcome(f"t{i}", r, reply, "", 0.5, True) for i, r in enumerate(requests)],
                 None)  # fmt: skip
    ledger.close()
    return ledger, [request.key for request in requests]


def test_a_sound_ledger_is_counted_and_left_as_it_is(tmp_path):
    ledger, _ = pay(tmp_path, 7)
    data = ledger.path.read_bytes()
    report = verify(tmp_path)
    assert (report.n_checked, report.n_damaged, report.n_bytes) == (7, 0, len(data))
    assert ledger.path.read_bytes() == data


def test_a_damaged_ledger_is_named_and_set_aside_and_keeps_what_can_be_read(tmp_path, recwarn):
    ledger, keys = pay(tmp_path, 200)
    data = bytearray(ledger.path.read_bytes())
    # One reply, and a whole page elsewhere.
    data[bytes(data).index(b"yyyy")] = ord("z")
    start = len(data) // 2 // 4096 * 4096
    data[start : start + 4096] = bytes(4096)
    ledger.path.write_bytes(data)
    report = verify(tmp_path)
    assert (report.n_damaged, report.n_quarantined) == (1, 1)
    (problem,) = report.problems
    assert str(ledger.path) in problem
    assert "its calls can be read and were kept" in problem
    assert list(recwarn) == []
    (aside,) = (tmp_path / "quarantine").iterdir()
    assert aside.read_bytes() == bytes(data)
    # A page holds some six of these calls.
    assert 185 <= report.n_checked <= 200
    assert len(Ledger(tmp_path, "run").recall(keys)) >= report.n_checked - 1
    assert verify(tmp_path).problems == ()


def test_a_ledger_of_a_newer_version_is_a_problem_and_left_alone(tmp_path):
    ledger, _ = pay(tmp_path, 3)
    with sqlite3.connect(ledger.path) as newer:
        newer.execute("PRAGMA user_version = 99")
    newer.close()
    report = verify(tmp_path)
    assert (report.n_damaged, report.n_quarantined) == (0, 0)
    assert "found version 99" in report.problems[0]


def test_strays_are_swept_from_cache_and_runs(tmp_path):
    cache, run = tmp_path / "cache", tmp_path / "run"
    fill(cache, run)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for folder in (cache / "artifacts", run):
        (folder / f".x.{atomic._owner()}.{dead.pid}.0.tmp").write_bytes(b"")
    (cache / f".x.{atomic._owner()}.{os.getpid()}.0.tmp").write_bytes(b"")
    assert verify(cache, [run]).n_swept == 2


def test_an_unfinished_run_is_a_problem_but_no_damage(tmp_path):
    RunFolder.create(tmp_path / "run")
    report = verify(tmp_path / "cache", [tmp_path / "run"])
    assert report.n_damaged == 0
    assert "unfinished" in report.problems[0]


def interrupt(monkeypatch, after):
    """Lets a check be interrupted after so many artifacts; the keys that are read."""
    has, read = ArtifactStore.has, []

    def interrupted(store, key):
        if len(read) == after:
            raise KeyboardInterrupt
        read.append(key)
        return has(store, key)

    monkeypatch.setattr(ArtifactStore, "has", interrupted)
    return read


def test_an_interrupted_check_goes_on_and_forgets_no_damage(tmp_path, monkeypatch):
    cache, run = tmp_path / "cache", tmp_path / "run"
    fill(cache, run)
    keys = sorted(KEYS[:3])
    ArtifactStore(cache).path(keys[0]).write_bytes(b"torn")
    with monkeypatch.context() as patch:
        interrupt(patch, after=2)
        with pytest.raises(KeyboardInterrupt):
            verify(cache, [run], every=1)
    with monkeypatch.context() as patch:
        read = interrupt(patch, after=None)
        report = verify(cache, [run], every=1)
    assert read == [keys[2]]
    assert (report.n_checked, report.n_before, report.n_damaged) == (17, 2, 1)
    assert report.n_quarantined == 1
    assert keys[0] in report.problems[0]
    # The next check reads all that is left.
    assert verify(cache, [run]) == replace(report, n_checked=16, n_before=0, n_damaged=0,
                                           n_quarantined=0, n_bytes=report.n_bytes - 4,
                                           problems=())  # fmt: skip


@pytest.mark.parametrize("how", ["anew", "other runs", "damaged", "old"])
def test_a_check_begins_again_where_it_cannot_or_shall_not_go_on(tmp_path, monkeypatch, how):
    cache, run = tmp_path / "cache", tmp_path / "run"
    fill(cache, run)
    with monkeypatch.context() as patch:
        interrupt(patch, after=2)
        with pytest.raises(KeyboardInterrupt):
            verify(cache, [run], every=1)
    if how == "damaged":
        (cache / CHECKPOINT).write_bytes(b"{")
    if how == "old":
        os.utime(cache / CHECKPOINT, (0, time.time() - 8 * 86_400))
    report = verify(cache, [] if how == "other runs" else [run], anew=how == "anew")
    assert (report.n_before, report.problems) == (0, ())
    assert report.n_checked == (13 if how == "other runs" else 17)
    assert not (cache / CHECKPOINT).exists()


def test_two_damaged_files_of_a_run_are_both_named(tmp_path):
    fill(tmp_path / "cache", tmp_path / "run")
    for name in ("summary.json", "config.yaml"):
        (tmp_path / "run" / name).write_bytes(b"[]")
    report = verify(tmp_path / "cache", [tmp_path / "run"])
    assert [name in " ".join(report.problems) for name in ("summary.json", "config.yaml")] == [
        True, True,
    ]  # fmt: skip
