import numpy as np
import pytest

from tests.faults.store.children import assert_nothing_torn, finish, outputs, start
from whatchanged.store import atomic
from whatchanged.store.artifacts import ArtifactStore
from whatchanged.store.embeddings import EmbeddingCache


def run_race(folder, n_racers):
    racers = [start(folder, "race") for _ in range(n_racers)]
    assert [finish(racer) for racer in racers] == [0] * n_racers
    store = ArtifactStore(folder)
    assert sum(store.has(key) for key in store.list_keys()) == 60
    assert not any(atomic.is_temporary(path.name) for path in folder.rglob("*"))
    assert not (folder / "quarantine").exists()
    found = EmbeddingCache(folder).check()
    assert (found.n_rows, found.n_damaged) == (60, 0)


def test_four_processes_that_race_for_the_same_keys_all_read_the_first_value(tmp_path):
    run_race(tmp_path, 4)


@pytest.mark.long
def test_eight_processes_that_race_for_the_same_keys_all_read_the_first_value(tmp_path):
    for turn in range(5):
        run_race(tmp_path / str(turn), 8)


def test_whole_runs_side_by_side_share_one_cache(tmp_path):
    workers = [start(tmp_path / "shared") for _ in range(1)]
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / "shared" / "cache").mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / "cache").symlink_to(tmp_path / "shared" / "cache")
        workers.append(start(tmp_path / folder))
    assert [finish(worker) for worker in workers] == [0, 0, 0]
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


def test_a_killed_writer_does_not_stop_the_others(tmp_path):
    for nth in range(1, 4):
        victim = start(tmp_path, fault=f"embeddings.before_commit:{nth}")
        survivor = start(tmp_path)
        finish(victim)
        assert finish(survivor) == 0
        outputs(tmp_path)
        for path in (tmp_path / "cache").glob("embeddings.lmdb*"):
            path.unlink()
    assert np.isfinite(EmbeddingCache(tmp_path / "cache").get_many("m", [], 3)[1]).all()
