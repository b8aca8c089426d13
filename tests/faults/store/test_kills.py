import random
import time

import pytest

from tests.faults.nursery import KILLED
from tests.faults.store.children import assert_nothing_torn, outputs, run, seconds
from whatchanged.store import atomic
from whatchanged.store.faults import POINTS


@pytest.fixture(scope="module")
def undisturbed(workers, tmp_path_factory):
    """What a worker leaves that nobody kills, and its seconds once the disk has seen its files."""
    folder = tmp_path_factory.mktemp("undisturbed")
    assert run(workers, folder / "first") == 0
    return outputs(folder / "first"), seconds(workers, folder / "second")


def assert_recovers(workers, folder, expected):
    assert run(workers, folder) == 0
    atomic.sweep(folder)
    assert outputs(folder) == expected


@pytest.mark.parametrize("name", POINTS)
def test_a_kill_at_every_pass_of_a_point_and_another_during_recovery_change_nothing(
    tmp_path, workers, undisturbed, name, record_property
):
    nth = n_kills = 1
    while run(workers, folder := tmp_path / str(nth), f"{name}:{nth}") == KILLED:
        assert_nothing_torn(folder)
        n_kills += run(workers, folder, f"{name}:1") == KILLED
        assert_nothing_torn(folder)
        assert_recovers(workers, folder, undisturbed[0])
        nth += 1
        n_kills += 1
    # Three commits of rows; four artifacts of a header and a body, and seven files of the run.
    assert nth - 1 == {"store.mid_write": 15}.get(name, 3 if name.startswith("embed") else 11)
    record_property("kills_of_the_store", n_kills - 1)


def kill_at_random_moments(workers, folder, n_kills, undisturbed, n_rounds):
    """Until so many kills have hit: one that comes after the end shortens the next waits, because
    a machine that others use is not always as slow as when the duration was taken."""
    expected, duration = undisturbed
    draw = random.Random(n_kills)
    n_killed = n_folders = 0
    while n_killed < n_kills:
        for _ in range(n_rounds):
            child = workers.start(str(folder / str(n_folders)))
            time.sleep(draw.random() * duration)
            child.kill()
            is_hit = child.wait() == KILLED
            assert is_hit or child.wait() == 0, child.said()
            n_killed += is_hit
            duration *= 1 if is_hit else 0.9
            assert_nothing_torn(folder / str(n_folders))
        assert_recovers(workers, folder / str(n_folders), expected)
        n_folders += 1
    return n_killed


def test_kills_at_random_moments_and_again_during_recovery_change_nothing(
    tmp_path, workers, undisturbed, record_property
):
    n_killed = kill_at_random_moments(workers, tmp_path, 50, undisturbed, n_rounds=3)
    record_property("kills_of_the_store", n_killed)


@pytest.mark.long
def test_500_kills_at_random_moments_and_again_during_recovery_change_nothing(
    tmp_path, workers, undisturbed, record_property
):
    n_killed = kill_at_random_moments(workers, tmp_path, 500, undisturbed, n_rounds=3)
    record_property("kills_of_the_store", n_killed)


def test_a_point_counts_its_passes_and_an_unset_one_is_free(tmp_path, workers):
    assert run(workers, tmp_path / "a", "store.no_such_point:1") == 0
    assert run(workers, tmp_path / "b", "embeddings.before_commit:4") == 0
    assert run(workers, tmp_path / "c", "embeddings.before_commit:3") == KILLED
