import os
import random
import resource
import shutil
import signal
import time

import numpy as np
import pytest

from tests.faults.activation_worker import BATCHES, GROUPS, OPTIONS, store_rest
from tests.faults.nursery import KILLED, nursery
from tests.unit.activation_batches import loop_over_everything
from whatchanged.activations.poles import POLES
from whatchanged.errors import InputError, StorageError, UsageError
from whatchanged.store import atomic
from whatchanged.store.activation_reader import ActivationStore
from whatchanged.store.activations import BatchProcessingStorage

POINTS = ("store.before_write", "store.mid_write", "store.after_write", "store.before_publish")


@pytest.fixture(scope="module")
def workers():
    with nursery("tests.faults.activation_worker") as opened:
        yield opened


def is_killed(workers, folder, keep, fault):
    child = workers.start(str(folder), keep, WHATCHANGED_FAULT=fault)
    status = child.wait()
    assert status in (0, KILLED), child.said()
    return status == KILLED


def content(store):
    """Everything that a reader sees, as plain values."""
    examples = [
        (e.number, e.text_key, e.value, e.position, e.activations.tolist(), sorted(e.members))
        for unit in (*GROUPS.clusters, *GROUPS.labels)
        for kind in ("top", "sample")
        for pole in POLES
        for e in getattr(store, kind)(unit, 3, pole=pole)
    ]
    rows = [
        (row.number, row.text_key, row.token_ids.tolist(), row.activations.tolist())
        for cluster in GROUPS.clusters
        for row in store.cluster_rows(cluster)
    ]
    return examples, rows, store.n_texts, store.n_stored, store.n_events


@pytest.fixture(scope="module", params=["all", "sample", "summaries"])
def undisturbed(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    store_rest(folder, request.param)
    return request.param, content(ActivationStore(folder))


def assert_resumes(folder, keep, expected):
    store_rest(folder, keep)
    store = ActivationStore(folder)
    assert content(store) == expected
    assert store.check() == []
    kinds = {path.name.split("-")[0] for path in folder.iterdir()}
    assert kinds <= {"components.json", "manifest.json", "events", "summaries"}


@pytest.mark.parametrize("nth", [1, 6])
@pytest.mark.parametrize("name", POINTS)
def test_a_kill_and_another_during_recovery_change_nothing(
    tmp_path, workers, undisturbed, name, nth, record_property
):
    keep, expected = undisturbed
    assert is_killed(workers, tmp_path, keep, f"{name}:{nth}")
    with pytest.raises(InputError):
        ActivationStore(tmp_path)
    assert is_killed(workers, tmp_path, keep, f"{name}:2")
    assert_resumes(tmp_path, keep, expected)
    record_property("kills_of_the_store", 2)


def test_kills_at_random_moments_change_nothing(tmp_path, workers, undisturbed, record_property):
    keep, expected = undisturbed
    begun = time.perf_counter()
    assert not is_killed(workers, tmp_path / "timed", keep, "")
    duration = time.perf_counter() - begun
    draw, n_kills = random.Random(0), 0
    while n_kills < 6:
        folder = tmp_path / "killed"
        child = workers.start(str(folder), keep)
        time.sleep(draw.random() * duration)
        child.kill()
        n_kills += child.wait() == KILLED
        if not (folder / "manifest.json").exists():
            assert_resumes(folder, keep, expected)
        else:
            try:
                assert content(ActivationStore(folder)) == expected
            except InputError:
                assert_resumes(folder, keep, expected)
        shutil.rmtree(folder)
        duration *= 0.95
    record_property("kills_of_the_store", n_kills)


def test_a_kill_between_chunks_keeps_the_whole_chunks(tmp_path):
    storage = BatchProcessingStorage.create(tmp_path, GROUPS, **OPTIONS)
    n_whole, n_texts = 0, 0
    for batch in BATCHES[:6]:
        storage.add_batch(batch.activations, batch.columns, batch.texts)
        n_texts += len(batch.texts.keys)
        if n_texts - n_whole >= OPTIONS["chunk_texts"]:
            n_whole = n_texts
    del storage
    assert 0 < n_whole < n_texts
    resumed = BatchProcessingStorage.create(tmp_path, GROUPS, **OPTIONS)
    assert resumed.n_texts == n_whole


def test_a_resumed_store_knows_the_texts_from_before(tmp_path):
    store = BatchProcessingStorage.create(tmp_path, GROUPS, **OPTIONS)
    for batch in BATCHES[:6]:
        store.add_batch(batch.activations, batch.columns, batch.texts)
    resumed = BatchProcessingStorage.create(tmp_path, GROUPS, **OPTIONS)
    odd = BATCHES[0].texts
    changed = type(odd)(odd.keys, odd.is_intervention, odd.starts, odd.token_ids + 1)
    with pytest.raises(UsageError, match="with other tokens"):
        resumed.add_batch(BATCHES[0].activations, BATCHES[0].columns, changed)


def in_child_with_room(n_bytes, work):
    """0 where the work succeeds with files of up to `n_bytes`, 3 for a StorageError."""
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
        status = 3 if "cannot write" in str(error) and "free space" in str(error) else 1
    finally:
        os._exit(status)


@pytest.mark.parametrize("n_bytes", [0, 300, 1500, 4000, 12_000, 60_000])
def test_a_disk_that_fills_while_storing_leaves_what_can_be_resumed(tmp_path, undisturbed, n_bytes):
    keep, expected = undisturbed
    assert in_child_with_room(n_bytes, lambda: store_rest(tmp_path, keep)) == 3
    assert not any(atomic.is_temporary(path.name) for path in tmp_path.iterdir())
    assert_resumes(tmp_path, keep, expected)


def test_a_store_that_failed_is_not_continued_in_the_same_process(tmp_path):
    storage = BatchProcessingStorage.create(tmp_path / "store", GROUPS, **OPTIONS)

    def add(number):
        batch = BATCHES[number]
        storage.add_batch(batch.activations, batch.columns, batch.texts)

    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limit[1]))
    try:
        with pytest.raises(StorageError):
            for number in range(len(BATCHES)):
                add(number)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    with pytest.raises(UsageError, match="create it again, which resumes"):
        add(0)


def test_what_the_worker_stores_equals_the_triple_loop(tmp_path):
    store_rest(tmp_path, "all")
    clusters, _ = loop_over_everything(BATCHES, GROUPS)
    store = ActivationStore(tmp_path)
    for name, expected in clusters.items():
        rows = list(store.cluster_rows(name))
        assert [row.text_key for row in rows] == [key for key, _, _ in expected]
        for row, (_, _, activations) in zip(rows, expected, strict=True):
            np.testing.assert_array_equal(row.activations, activations)
