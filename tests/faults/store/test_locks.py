"""Locks that a dead process left behind, and files of locks that are anything: nobody waits."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pytest

from tests.faults.nursery import KILLED, Nursery, nursery
from whatchanged.keys import content_key
from whatchanged.models.call_ledger import CallOutcome
from whatchanged.models.chat import ChatReply, ChatRequest
from whatchanged.store.embeddings import EmbeddingCache
from whatchanged.store.ledger import Ledger

N_HOLDERS = 25
LONGEST_WAIT_S = 1.0


@pytest.fixture(scope="module")
def holders() -> Iterator[Nursery]:
    with nursery("tests.faults.store.lock_holder") as opened:
        yield opened


def put_row(root, number):
    key = content_key("row", number)
    EmbeddingCache(root).put_many("model", [key], np.full((1, 4), number, np.float32))


def pay(root, number):
    request = ChatRequest("p", "m", "s", f"question {number}", "{}", 64, 0.0)
    ledger = Ledger(root, "run")
    reply = ChatReply("yes", "stop", "", 1, 1)
    ledger.write([CallOutcome(f"t{number}", request, reply, "", 0.1, True)], None)
    ledger.close()


@pytest.mark.parametrize(("what", "use"), [("rows", put_row), ("ledger", pay)])
def test_the_lock_of_a_killed_process_keeps_nobody_waiting(
    tmp_path, holders, what, use, record_property
):
    use(tmp_path, 0)
    longest = 0.0
    for number in range(1, N_HOLDERS + 1):
        holder = holders.start(str(tmp_path), what)
        holder.wait_until_it_says("held")
        holder.kill()
        assert holder.wait() == KILLED
        begun = time.perf_counter()
        use(tmp_path, number)
        longest = max(longest, time.perf_counter() - begun)
    print(f"the longest wait of {N_HOLDERS} was {longest:.3f} s")
    record_property("kills_of_lock_holders", N_HOLDERS)
    assert longest < LONGEST_WAIT_S
    assert EmbeddingCache(tmp_path).check().n_damaged == 0


def test_a_lock_that_is_held_is_waited_for(tmp_path, holders):
    # Without this, the test above would pass where nothing is ever locked.
    pay(tmp_path, 0)
    holder = holders.start(str(tmp_path), "ledger")
    holder.wait_until_it_says("held")
    with pytest.raises(Exception, match="found another process writing"):
        Ledger(tmp_path, "run", busy_s=0.05).write([], None)
    holder.kill()
    holder.wait()


@pytest.mark.parametrize("junk", [b"", b"\0" * 4096, b"not a lock" * 900])
def test_files_of_locks_may_hold_anything(tmp_path, holders, junk):
    put_row(tmp_path / "before", 1)
    pay(tmp_path / "before", 1)
    after = tmp_path / "after"
    after.mkdir()
    # Copies, because this process has the originals open.
    for name in ("embeddings.lmdb", "calls.sqlite"):
        (after / name).write_bytes((tmp_path / "before" / name).read_bytes())
    for name in ("embeddings.lmdb-lock", "calls.sqlite-shm"):
        (after / name).write_bytes(junk)
    put_row(after, 2)
    pay(after, 2)
    found = EmbeddingCache(after).check()
    assert (found.n_rows, found.n_damaged) == (2, 0)
    assert Ledger(after, "run").totals().n_answered == 2
