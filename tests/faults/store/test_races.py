import json
import os
import subprocess
import sys
import time

import pytest

from tests.faults.nursery import KILLED, nursery
from tests.faults.preload import build
from tests.faults.store.children import assert_nothing_torn, outputs, run
from whatchanged.keys import bytes_digest
from whatchanged.store import atomic
from whatchanged.store.artifacts import ArtifactStore
from whatchanged.store.embeddings import EmbeddingCache


def run_race(workers, folder, what, n_racers, n_keys, record_property):
    """Every racer ends well, and whatever it read under a key is what all others read, first and
    last."""
    words = (str(folder), what, str(n_keys), "3", str(time.monotonic() + 0.2))
    racers = [workers.start(*words) for _ in range(n_racers)]
    statuses = [racer.wait() for racer in racers]
    assert statuses == [0] * n_racers, [racer.said() for racer in racers]
    told = [json.loads(racer.said()) for racer in racers]
    store = ArtifactStore(folder)
    last = {key: bytes_digest(store.path(key).read_bytes()) for key in store.list_keys()}
    n_others = sum(one["seen"][key] != digest for one in told for key, digest in last.items())
    n_changed = sum(one["changed"] for one in told) + n_others
    record_property("race_reads", sum(one["reads"] for one in told))
    record_property("race_changes", n_changed)
    assert n_changed == 0
    assert len(last) == n_keys
    assert [one["damaged"] for one in told] == [0] * n_racers
    assert not any(atomic.is_temporary(path.name) for path in folder.rglob("*"))
    assert not (folder / "quarantine").exists()


def test_processes_that_race_for_the_same_keys_all_read_the_first_value(
    tmp_path, workers, record_property
):
    run_race(workers, tmp_path, "race", 4, 60, record_property)
    found = EmbeddingCache(tmp_path).check()
    assert (found.n_rows, found.n_damaged) == (60, 0)


@pytest.mark.long
def test_eight_processes_and_a_thousand_keys_all_read_the_first_value(
    tmp_path, workers, record_property
):
    run_race(workers, tmp_path, "race", 8, 1000, record_property)
    found = EmbeddingCache(tmp_path).check()
    assert (found.n_rows, found.n_damaged) == (1000, 0)


@pytest.fixture(scope="module")
def no_locks(tmp_path_factory):
    return build("no_locks.c", tmp_path_factory.mktemp("locks"))


TAKES_A_HELD_LOCK = """\
import fcntl, os, sys
files = [open(sys.argv[1], "w") for _ in range(2)]
fcntl.flock(files[0], fcntl.LOCK_EX)
fcntl.flock(files[1], fcntl.LOCK_EX | fcntl.LOCK_NB)
fcntl.lockf(files[0], fcntl.LOCK_EX)
if os.fork() == 0:
    fcntl.lockf(files[1], fcntl.LOCK_EX | fcntl.LOCK_NB)
    os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
"""


@pytest.mark.parametrize("is_preloaded", [True, False])
def test_where_locks_are_off_everyone_gets_a_lock_that_is_held(tmp_path, no_locks, is_preloaded):
    environment = {**os.environ, "LD_PRELOAD": no_locks} if is_preloaded else None
    words = [sys.executable, "-c", TAKES_A_HELD_LOCK, str(tmp_path / "lock")]
    done = subprocess.run(words, env=environment, capture_output=True, check=False)
    assert (done.returncode == 0) == is_preloaded


def test_eight_processes_without_locks_read_the_first_value_of_a_thousand_keys(
    tmp_path, no_locks, record_property
):
    with nursery("tests.faults.store.worker", "-W", "error", LD_PRELOAD=no_locks) as workers:
        run_race(workers, tmp_path, "race-objects", 8, 1000, record_property)


def test_whole_runs_side_by_side_share_one_cache(tmp_path, workers):
    (tmp_path / "shared" / "cache").mkdir(parents=True)
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "cache").symlink_to(tmp_path / "shared" / "cache")
    children = [workers.start(str(tmp_path / folder)) for folder in ("shared", "one", "two")]
    assert [child.wait() for child in children] == [0, 0, 0]
    for folder in ("shared", "one", "two"):
        assert_nothing_torn(tmp_path / folder)
    names = [
        {
            name: digest
            for name, digest in outputs(tmp_path / folder).items()
            if name.startswith("run")
        }
        for folder in ("one", "two", "shared")
    ]
    assert names[0] == names[1] == names[2]


def test_a_killed_writer_does_not_stop_the_others(tmp_path, workers):
    for nth in range(1, 4):
        victim = workers.start(str(tmp_path), WHATCHANGED_FAULT=f"embeddings.before_commit:{nth}")
        assert run(workers, tmp_path) == 0
        assert victim.wait() in (0, KILLED), victim.said()
        outputs(tmp_path)
        for path in (tmp_path / "cache").glob("embeddings.lmdb*"):
            path.unlink()
