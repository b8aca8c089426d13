import random
import time

import pytest

from tests.faults.store.children import (
    KILLED,
    assert_nothing_torn,
    finish,
    outputs,
    seconds,
    start,
)
from whatchanged.store import atomic
from whatchanged.store.faults import POINTS


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    duration = seconds(folder)
    return outputs(folder), duration


def assert_recovers(folder, expected):
    assert finish(start(folder)) == 0
    atomic.sweep(folder)
    assert outputs(folder) == expected


@pytest.mark.parametrize("name", POINTS)
def test_a_kill_at_a_point_and_another_during_recovery_change_nothing(tmp_path, undisturbed, name):
    for nth in (1, 2):
        assert finish(start(tmp_path, fault=f"{name}:{nth}")) == KILLED
        assert_nothing_torn(tmp_path)
    assert_recovers(tmp_path, undisturbed[0])


@pytest.mark.long
@pytest.mark.parametrize("name", POINTS)
def test_a_kill_at_every_pass_of_a_point_changes_nothing(tmp_path, undisturbed, name):
    nth = 1
    while finish(start(tmp_path / str(nth), fault=f"{name}:{nth}")) == KILLED:
        assert_nothing_torn(tmp_path / str(nth))
        assert_recovers(tmp_path / str(nth), undisturbed[0])
        nth += 1
    # Three commits of rows; four artifacts and some files of the run.
    assert nth - 1 == 3 if name.startswith("embeddings") else nth - 1 >= 4


def kill_at_random_moments(folder, n_kills, undisturbed, n_rounds):
    """Until so many kills have hit: one that comes after the end shortens the next waits, because
    a machine that others use is not always as slow as when the duration was taken."""
    expected, duration = undisturbed
    draw = random.Random(n_kills)
    n_killed = n_folders = 0
    while n_killed < n_kills:
        for _ in range(n_rounds):
            child = start(folder / str(n_folders))
            time.sleep(draw.random() * duration)
            child.kill()
            is_hit = finish(child) == KILLED
            n_killed += is_hit
            duration *= 1 if is_hit else 0.9
            assert_nothing_torn(folder / str(n_folders))
        assert_recovers(folder / str(n_folders), expected)
        n_folders += 1


def test_kills_at_random_moments_change_nothing(tmp_path, undisturbed):
    kill_at_random_moments(tmp_path, 6, undisturbed, n_rounds=1)


@pytest.mark.long
def test_kills_at_many_random_moments_and_again_during_recovery_change_nothing(
    tmp_path, undisturbed
):
    kill_at_random_moments(tmp_path, 100, undisturbed, n_rounds=3)


def test_a_point_counts_its_passes_and_an_unset_one_is_free(tmp_path):
    assert finish(start(tmp_path / "a", fault="store.no_such_point:1")) == 0
    assert finish(start(tmp_path / "b", fault="embeddings.before_commit:4")) == 0
    assert finish(start(tmp_path / "c", fault="embeddings.before_commit:3")) == KILLED
