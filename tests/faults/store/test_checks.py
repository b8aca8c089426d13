"""`whatchanged verify` that is killed again and again."""

from __future__ import annotations

import json
import shutil

import pytest

from tests.faults.nursery import KILLED, nursery
from tests.faults.store.checker import EVERY
from whatchanged.keys import content_key
from whatchanged.store import atomic
from whatchanged.store.artifacts import ArtifactStore

N_ARTIFACTS, N_DAMAGED = 205, 7


@pytest.fixture(scope="module")
def checkers():
    with nursery("tests.faults.store.checker") as opened:
        yield opened


def test_a_check_that_is_killed_again_and_again_ends_and_finds_all(
    tmp_path, checkers, record_property
):
    store = ArtifactStore(tmp_path / "one")
    keys = [content_key("checked", i) for i in range(N_ARTIFACTS)]
    for key in keys:
        store.put_json(key, "sound")
    for key in sorted(keys)[:: N_ARTIFACTS // N_DAMAGED + 1]:
        store.path(key).write_bytes(b"torn")
    shutil.copytree(tmp_path / "one", tmp_path / "other")
    whole = checkers.start(str(tmp_path / "one"))
    assert whole.wait() == 0, whole.said()
    expected = json.loads(whole.said())
    assert (expected["n_checked"], expected["n_quarantined"]) == (N_ARTIFACTS, N_DAMAGED)

    # Every start gets as far as it first writes down how far it is.
    fault, statuses = "store.after_publish:1", []
    for _ in range(N_ARTIFACTS // EVERY + 1):
        child = checkers.start(str(tmp_path / "other"), WHATCHANGED_FAULT=fault)
        statuses.append(child.wait())
    n_kills = statuses.count(KILLED)
    assert statuses == [KILLED] * (N_ARTIFACTS // EVERY) + [0], child.said()
    found = json.loads(child.said())
    assert found.pop("n_before") == N_ARTIFACTS - N_ARTIFACTS % EVERY
    assert found.pop("n_swept") <= 1
    assert found.items() <= expected.items()
    atomic.sweep(tmp_path)
    assert sorted(path.name for path in (tmp_path / "other").iterdir()) == [
        "artifacts", "quarantine",
    ]  # fmt: skip
    record_property("kills_of_the_store", n_kills)
