import os
import resource
import signal
import sys

import numpy as np
import pytest

from whatchanged.errors import StorageError
from whatchanged.keys import content_key
from whatchanged.store import atomic
from whatchanged.store.artifacts import ArtifactStore
from whatchanged.store.embeddings import EmbeddingCache
from whatchanged.store.runs import RunFolder

KEY, OTHER = content_key("old"), content_key("new")
ROW_KEYS = [content_key("row", i) for i in range(400)]
ROWS = np.random.default_rng(0).standard_normal((400, 256)).astype(np.float32)


def in_child(work, n_bytes):
    """The exit status of a child that may write files of up to `n_bytes`: 0 where the work
    succeeds, 3 where it ends in a StorageError that says what to do, else 1."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    status = 1
    try:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, n_bytes))
        work()
        status = 0
    except StorageError as error:
        said = all(
            part in str(error)
            for part in ("cannot write", " bytes)", "are free there", "free space", "run again")
        )
        status = 3 if said else 1
    except BaseException as error:
        print(f"unexpected: {error!r}", file=sys.stderr)
    finally:
        os._exit(status)


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("n_bytes", [0, 1, 1024, 4096, 20_000])
def test_an_artifact_that_does_not_fit_leaves_the_old_state(tmp_path, n_bytes):
    store = ArtifactStore(tmp_path)
    store.put_json(KEY, "old")
    before = names(tmp_path)
    arrays = {"rows": ROWS}
    assert in_child(lambda: store.put_arrays(OTHER, arrays), n_bytes) == 3
    assert names(tmp_path) == before
    assert store.get_json(KEY) == "old"
    store.put_arrays(OTHER, arrays)
    np.testing.assert_array_equal(store.get_arrays(OTHER)["rows"], ROWS)


def test_rows_that_do_not_fit_leave_the_old_rows(tmp_path):
    cache = EmbeddingCache(tmp_path)
    cache.put_many("model", ROW_KEYS[:5], ROWS[:5])
    size = cache.path.stat().st_size
    for n_bytes in range(size, size + 300_000, 60_000):
        assert in_child(lambda: cache.put_many("model", ROW_KEYS, ROWS), n_bytes) == 3
        known, rows = cache.get_many("model", ROW_KEYS, 256)
        assert known.sum() == 5
        np.testing.assert_array_equal(rows[:5], ROWS[:5])
    cache.put_many("model", ROW_KEYS, ROWS)
    assert cache.get_many("model", ROW_KEYS, 256)[0].all()
    assert cache.n_damaged == 0


def test_a_run_file_that_does_not_fit_leaves_the_old_file(tmp_path):
    run = RunFolder.create(tmp_path)
    run.write_bytes("report.md", b"old")
    assert in_child(lambda: run.write_bytes("report.md", b"x" * 10_000), 2048) == 3
    assert (tmp_path / "report.md").read_bytes() == b"old"
    assert not any(atomic.is_temporary(path.name) for path in tmp_path.iterdir())


def test_every_limit_up_to_a_whole_small_run_leaves_a_state_that_can_be_completed(tmp_path):
    def work():
        store = ArtifactStore(tmp_path / "cache")
        for i in range(3):
            store.put_json(content_key("part", i), ["x" * 1000] * (i + 1))
        EmbeddingCache(tmp_path / "cache").put_many("model", ROW_KEYS[:9], ROWS[:9])

    statuses = [in_child(work, kilobytes * 1024) for kilobytes in range(1, 140, 9)]
    assert set(statuses) == {0, 3}
    assert statuses == sorted(statuses, reverse=True)
    store = ArtifactStore(tmp_path / "cache")
    assert all(store.has(content_key("part", i)) for i in range(3))
    assert EmbeddingCache(tmp_path / "cache").get_many("model", ROW_KEYS[:9], 256)[0].all()
