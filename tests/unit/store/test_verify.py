import os
import subprocess
import sys

import numpy as np

from whatchanged.keys import content_key
from whatchanged.store import atomic
from whatchanged.store.artifacts import ArtifactStore
from whatchanged.store.embeddings import EmbeddingCache
from whatchanged.store.runs import RunFolder
from whatchanged.store.verify import VerifyReport, verify

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
