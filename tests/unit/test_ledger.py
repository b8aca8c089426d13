import os
import random
import sqlite3
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from whatchanged.errors import InputError, StorageError
from whatchanged.models.call_ledger import CallIntent, CallOutcome, PaidReply
from whatchanged.models.chat import ChatReply, ChatRequest
from whatchanged.store.ledger import Ledger, LedgerTotals

ROOT = Path(__file__).parents[2]


def request(text: str = "a", model: str = "m") -> ChatRequest:
    return ChatRequest("test http://localhost", model, "system", text, "{}", 64, 0.0)


def reply(text: str = "yes") -> ChatReply:
    return ChatReply(text, "stop", "", 12, 3)


def intent(token: str, of: ChatRequest, worst_usd: float | None = 0.25) -> CallIntent:
    return CallIntent(token, of, worst_usd)


def answer(
    token: str, of: ChatRequest, text: str = "yes", cost_usd: float | None = 0.125
) -> CallOutcome:
    return CallOutcome(token, of, reply(text), "", cost_usd, is_usable=True)


def failure(token: str, of: ChatRequest, cost_usd: float | None) -> CallOutcome:
    return CallOutcome(token, of, None, "the connection broke", cost_usd, is_usable=False)


def paid(text: str = "yes", cost_usd: float | None = 0.125) -> PaidReply:
    return PaidReply(reply(text), cost_usd)


def fill(ledger: Ledger, n_calls: int) -> dict[str, PaidReply]:
    """Calls with an answer each, and the answers by key."""
    requests = [request(f"text {i}") for i in range(n_calls)]
    ledger.write([answer(f"t{i}", r, f"{i} " * 40) for i, r in enumerate(requests)], None)
    return {r.key: paid(f"{i} " * 40) for i, r in enumerate(requests)}


def test_an_answer_is_recalled_by_any_run_and_any_later_process(tmp_path):
    first = Ledger(tmp_path, "run 1")
    assert first.write([intent("t", request())], None) == [None]
    assert first.recall([request().key]) == {}
    assert first.write([answer("t", request())], None) == [None]
    first.close()
    second = Ledger(tmp_path, "run 2")
    assert second.recall([request().key, request("b").key]) == {request().key: paid()}
    assert second.totals().n_calls == 0


def test_any_text_comes_back_as_it_was(tmp_path):
    text = 'lone \ud800, mark \ufdd0, nul \x00, "quotes"'
    Ledger(tmp_path, "run").write([answer("t", request(), text)], None)
    assert Ledger(tmp_path, "run").recall([request().key])[request().key] == paid(text)


def test_only_usable_replies_answer_again(tmp_path):
    ledger = Ledger(tmp_path, "run")
    refusal = ChatReply("", "refused", "SAFETY", 12, 0)
    ledger.write(
        [
            CallOutcome("t1", request("a"), refusal, "", 0.5, is_usable=False),
            failure("t2", request("b"), None),
        ],
        None,
    )
    assert ledger.recall([request("a").key, request("b").key]) == {}
    assert ledger.totals() == LedgerTotals(
        n_calls=2, n_answered=0, n_unusable=1, n_failed=1, n_open=0, n_unknown=1,
        spent_usd=0.5, held_usd=0.5, n_tokens_in=12, n_tokens_out=0,
    )  # fmt: skip


def test_totals_keep_unknown_prices_apart(tmp_path):
    ledger = Ledger(tmp_path, "run")
    a, b, c = request("a"), request("b", "other"), request("c")
    ledger.write([intent("1", a, None), intent("2", b), intent("3", c)], None)
    ledger.write([answer("1", a, cost_usd=None), answer("2", b)], None)
    # 0.125 is known, 0.25 is still held for the open call; the unknown one is not 0, it is counted.
    assert ledger.totals() == LedgerTotals(
        n_calls=3, n_answered=2, n_unusable=0, n_failed=0, n_open=1, n_unknown=1,
        spent_usd=0.125, held_usd=0.375, n_tokens_in=24, n_tokens_out=6,
    )  # fmt: skip


def test_calls_are_counted_by_what_they_were_for_also_where_the_model_is_the_same(tmp_path):
    ledger = Ledger(tmp_path, "run")
    cheap, expensive = ledger.charged_to("cheap"), ledger.charged_to("expensive")
    cheap.write([intent("1", request("a")), answer("1", request("a"))], None)
    # A result whose intent is lost is counted too.
    expensive.write([answer("2", request("b"), cost_usd=0.5)], None)
    assert (ledger.totals("cheap").n_calls, ledger.totals("cheap").spent_usd) == (1, 0.125)
    assert (ledger.totals("expensive").n_calls, ledger.totals("expensive").spent_usd) == (1, 0.5)
    assert (ledger.totals("proposer").n_calls, ledger.totals("proposer").n_tokens_in) == (0, None)
    assert ledger.totals().spent_usd == 0.625


def test_an_answer_is_recalled_with_what_it_cost_whoever_paid(tmp_path):
    Ledger(tmp_path, "run 1").write(
        [answer("1", request("a"), cost_usd=0.5), answer("2", request("b"), cost_usd=None)], None
    )
    found = Ledger(tmp_path, "run 2").recall([request("a").key, request("b").key])
    assert found == {request("a").key: paid(cost_usd=0.5), request("b").key: paid(cost_usd=None)}


def as_version(version: int, ledger: Ledger) -> None:
    """The file as an older version wrote it, with sums of runs alone."""
    ledger.close()
    with sqlite3.connect(ledger.path) as older:
        older.execute("DROP TRIGGER hold")
        older.execute("DROP TRIGGER settle")
        older.execute("DELETE FROM runs WHERE run LIKE '%/%'")
        older.execute(
            "CREATE TRIGGER hold AFTER INSERT ON calls BEGIN"
            " INSERT INTO runs VALUES (new.run, ifnull(new.held_usd, 0.0))"
            " ON CONFLICT (run) DO UPDATE SET held_usd = held_usd + excluded.held_usd; END"
        )
        older.execute(
            "CREATE TRIGGER settle AFTER UPDATE OF held_usd ON calls BEGIN UPDATE runs SET held_usd"
            " = held_usd + ifnull(new.held_usd, 0.0) - ifnull(old.held_usd, 0.0)"
            " WHERE run = new.run; END"
        )
        if version == 1:
            older.execute("ALTER TABLE calls DROP COLUMN purpose")
        older.execute(f"PRAGMA user_version = {version}")
    older.close()


def test_a_ledger_of_version_2_gets_the_sums_per_purpose(tmp_path):
    ledger = Ledger(tmp_path, "run")
    for purpose, cost in (("base", 0.5), ("cheap", 0.25)):
        ledger.charged_to(purpose).write([answer(purpose, request(purpose), cost_usd=cost)], None)
    as_version(2, ledger)
    base = Ledger(tmp_path, "run").charged_to("base")
    wanted = intent("next", request("next"), worst_usd=0.25)
    # 0.5 and 0.25 are within 0.75; the cheap judge's 0.25 does not count.
    assert base.write([wanted], None, 0.75) == [None]
    assert base.write([intent("more", request("more"), worst_usd=0.25)], None, 0.75) == [0.75]
    assert base.write([intent("more", request("more"), worst_usd=0.25)], 1.0) == [1.0]
    assert base.check() == (3, [])


def test_a_ledger_of_version_1_is_read_and_written_on(tmp_path):
    ledger = Ledger(tmp_path, "run")
    expected = fill(ledger, 5)
    as_version(1, ledger)
    newer = Ledger(tmp_path, "run").charged_to("cheap")
    assert newer.recall(list(expected)) == expected
    newer.write([answer("new", request("new"))], None)
    assert (newer.totals().n_calls, newer.totals("cheap").n_calls) == (6, 1)
    assert newer.check() == (6, [])


def test_a_damaged_ledger_of_version_1_keeps_the_calls_that_can_be_read(tmp_path):
    ledger = Ledger(tmp_path, "run")
    expected = fill(ledger, 400)
    as_version(1, ledger)
    data = bytearray(ledger.path.read_bytes())
    start = data.index(b"200 200 200") // 4096 * 4096
    data[start : start + 4096] = bytes(4096)
    damage(ledger, bytes(data))
    with pytest.warns(UserWarning, match="is damaged"):
        found = ledger.recall(list(expected))
    assert found.items() <= expected.items()
    assert len(found) >= 385


def test_a_check_gives_up_replies_that_are_not_what_was_written_and_keeps_their_cost(tmp_path):
    ledger = Ledger(tmp_path, "run")
    expected = fill(ledger, 30)
    ledger.close()
    data = bytearray(ledger.path.read_bytes())
    # One letter of one reply: SQLite sees nothing wrong in that.
    data[data.index(b"17 17 17")] = ord("7")
    damage(ledger, bytes(data))
    n_calls, repairs = ledger.check()
    assert n_calls == 30
    (sentence,) = repairs
    assert "1 replies do not match their digests" in sentence
    assert "30 of its calls can be read" in sentence
    (aside,) = (tmp_path / "quarantine").iterdir()
    assert aside.read_bytes() == bytes(data)
    sound = Ledger(tmp_path, "run")
    assert sound.check() == (30, [])
    assert len(sound.recall(list(expected))) == 29
    totals = sound.totals()
    # 30 calls of 0.125 were paid for, whatever became of one reply.
    assert (totals.n_failed, totals.spent_usd, totals.held_usd) == (1, 3.75, 3.75)


def test_an_intent_beyond_the_budget_is_not_written(tmp_path):
    ledger = Ledger(tmp_path, "run")
    requests = [request(str(i)) for i in range(5)]
    entries = [intent(str(i), r) for i, r in enumerate(requests)]
    # 4 x 0.25 fill a budget of 1; the fifth is told what is held.
    assert ledger.write(entries, 1.0) == [None, None, None, None, 1.0]
    assert ledger.totals().n_open == 4
    ledger.write([answer("0", requests[0]), answer("1", requests[1])], 1.0)
    # 2 x 0.125 + 2 x 0.25 = 0.75 leave room for one more.
    assert ledger.write([intent("5", requests[4]), intent("6", requests[4])], 1.0) == [None, 1.0]
    assert Ledger(tmp_path, "another run").write([intent("7", requests[4])], 1.0) == [None]


def test_ten_dimes_fit_into_a_dollar(tmp_path):
    ledger = Ledger(tmp_path, "run")
    entries = [intent(str(i), request(str(i)), 0.1) for i in range(11)]
    held = ledger.write(entries, 1.0)
    assert held[:10] == [None] * 10
    assert held[10] == pytest.approx(1.0)


def test_a_call_without_a_bill_is_held_at_its_worst_until_its_request_is_answered(tmp_path):
    killed = Ledger(tmp_path, "run")
    killed.write([intent("killed", request()), intent("reset", request())], None)
    killed.write([failure("reset", request(), None)], None)
    killed.close()
    ledger = Ledger(tmp_path, "run")
    assert (ledger.totals().n_open, ledger.totals().held_usd) == (1, 0.5)
    ledger.write([intent("again", request()), answer("again", request())], None)
    # All three now count 0.125; only one of the bills is known.
    assert ledger.totals() == LedgerTotals(
        n_calls=3, n_answered=1, n_unusable=0, n_failed=1, n_open=1, n_unknown=1,
        spent_usd=0.125, held_usd=0.375, n_tokens_in=12, n_tokens_out=3,
    )  # fmt: skip


def test_entries_are_committed_together_or_not_at_all(tmp_path):
    ledger = Ledger(tmp_path, "run")
    unwritable = CallOutcome("2", request("b"), reply(), "", float("inf"), is_usable=True)
    object.__setattr__(unwritable, "reply", object())
    with pytest.raises(TypeError):
        ledger.write([answer("1", request("a")), unwritable], None)
    assert ledger.totals().n_calls == 0
    ledger.write([answer("1", request("a"))], None)
    assert ledger.totals().n_calls == 1


WRITER = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tests.unit.test_ledger import answer, intent, request
from whatchanged.store.ledger import Ledger

ledgers = [Ledger(Path(sys.argv[1]), "run"), Ledger(Path(sys.argv[1]), "run")]

def work(thread):
    n_started = 0
    for i in range(25):
        token, asked = f"{sys.argv[2]} {thread} {i}", request(f"{sys.argv[2]} {thread} {i}")
        # The threads share one ledger, or not.
        held = ledgers[thread % 2].write([intent(token, asked, 0.125)], 12.5)
        if held == [None]:
            n_started += 1
            ledgers[0].write([answer(token, asked, cost_usd=0.125)], 12.5)
    return n_started

with ThreadPoolExecutor(3) as threads:
    print(sum(threads.map(work, range(3))))
"""


def test_processes_and_threads_that_write_at_once_lose_nothing_and_share_the_budget(tmp_path):
    children = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", WRITER, str(tmp_path), str(i)],
            stdout=subprocess.PIPE,
            cwd=ROOT,
            text=True,
        )
        for i in range(4)
    ]
    n_started = [int(child.communicate(timeout=120)[0]) for child in children]
    assert [child.returncode for child in children] == [0, 0, 0, 0]
    # 300 calls were asked for, the budget of 12.50 has room for 100 of 0.125.
    assert sum(n_started) == 100
    totals = Ledger(tmp_path, "run").totals()
    assert (totals.n_calls, totals.n_answered, totals.spent_usd) == (100, 100, 12.5)


def test_a_fork_leaves_the_parents_connection_alone(tmp_path):
    ledger = Ledger(tmp_path, "run")
    ledger.write([answer("parent", request("a"))], None)
    if (child := os.fork()) == 0:
        ledger.write([answer("child", request("b"))], None)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    ledger.write([answer("parent again", request("c"))], None)
    assert ledger.totals().n_answered == 3


def test_waiting_for_another_writer_ends_with_a_sentence(tmp_path):
    ledger = Ledger(tmp_path, "run", busy_s=0.05)
    ledger.totals()
    other = sqlite3.connect(ledger.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StorageError, match=r"within 0\.05 s, found another process writing"):
        ledger.write([answer("t", request())], None)
    other.execute("ROLLBACK")
    other.close()
    ledger.write([answer("t", request())], None)
    assert ledger.totals().n_answered == 1


def test_a_full_disk_is_a_sentence_and_loses_nothing(tmp_path):
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from tests.unit.test_ledger import *\n"
        "ledger = Ledger(Path(sys.argv[1]), 'run'); fill(ledger, 20)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (65_536, 65_536))\n"
        "for i in range(10_000):\n"
        "    try: ledger.write([answer(f'more {i}', request(f'more {i}'))], None)\n"
        "    except StorageError as error: print(i, error); break\n"
    )
    child = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True, text=True, cwd=ROOT, check=True,
    )  # fmt: skip
    n_written, _, sentence = child.stdout.partition(" ")
    assert "calls.sqlite" in sentence
    assert Ledger(tmp_path, "run").totals().n_answered == 20 + int(n_written)


def test_a_ledger_of_a_newer_version_is_refused_and_left_alone(tmp_path):
    fill(Ledger(tmp_path, "run"), 3)
    with sqlite3.connect(tmp_path / "calls.sqlite") as newer:
        newer.execute("PRAGMA user_version = 4")
    newer.close()
    with pytest.raises(InputError, match=r"version 3 or older at .*, found version 4"):
        Ledger(tmp_path, "run").totals()
    assert not (tmp_path / "quarantine").exists()


def damage(ledger: Ledger, data: bytes) -> None:
    ledger.close()
    for suffix in ("-wal", "-shm"):
        ledger.path.with_name(ledger.path.name + suffix).unlink(missing_ok=True)
    ledger.path.write_bytes(data)


def test_a_page_of_garbage_costs_only_the_calls_on_it(tmp_path):
    ledger = Ledger(tmp_path, "run")
    expected = fill(ledger, 400)
    ledger.close()
    data = bytearray(ledger.path.read_bytes())
    # A leaf of the table, found by a text that only it holds.
    start = data.index(b"200 200 200") // 4096 * 4096
    data[start : start + 4096] = random.Random(0).randbytes(4096)
    damage(ledger, bytes(data))
    with pytest.warns(
        UserWarning, match=r"is damaged .*moved to .*quarantine.*were kept"
    ) as caught:
        found = ledger.recall(list(expected))
    assert len(caught) == 1
    assert found.items() <= expected.items()
    # Some ten calls share a page.
    assert len(found) >= 385
    assert ledger.totals().n_calls == len(found)
    (aside,) = (tmp_path / "quarantine").iterdir()
    assert aside.read_bytes() == bytes(data)
    ledger.write([answer("new", request("new"))], None)
    assert Ledger(tmp_path, "run").totals().n_answered == len(found) + 1


def test_calls_that_were_only_in_the_write_ahead_log_survive_a_damaged_file(tmp_path):
    ledger = Ledger(tmp_path, "run")
    expected = fill(ledger, 200)
    ledger.close()
    ledger.write([answer("late", request("late"))], None)
    # The connection is open, so the last call is in the log alone.
    data = bytearray(ledger.path.read_bytes())
    start = data.index(b"100 100 100") // 4096 * 4096
    data[start : start + 4096] = bytes(4096)
    with ledger.path.open("r+b") as file:
        file.write(data)
    other = Ledger(tmp_path, "run")
    with pytest.warns(UserWarning, match="is damaged"):
        found = other.recall([*expected, request("late").key])
    assert found[request("late").key] == paid()
    assert len(found) >= 185


def test_a_ledger_that_is_repaired_under_an_open_one_takes_what_that_one_writes(tmp_path):
    first, second = Ledger(tmp_path, "run"), Ledger(tmp_path, "run")
    expected = fill(first, 50)
    first.write([intent("open", request("open"))], None)
    with first.path.open("r+b") as file:
        file.write(b"no database at all ")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        second.write([answer("second", request("second"))], None)
        first.write([answer("open", request("open"))], None)
    found = Ledger(tmp_path, "run").recall([request("second").key, request("open").key])
    assert len(found) == 2
    assert first.recall(list(expected)).items() <= expected.items()


@pytest.mark.parametrize("data", [b"no database at all " * 300, b"\x00" * 8192])
def test_a_file_that_is_no_database_is_set_aside(tmp_path, data):
    ledger = Ledger(tmp_path, "run")
    ledger.path.write_bytes(data)
    with pytest.warns(UserWarning, match="is damaged"):
        assert ledger.totals().n_calls == 0
    (aside,) = (tmp_path / "quarantine").iterdir()
    assert aside.read_bytes() == data
    ledger.write([answer("t", request())], None)
    assert ledger.totals().n_calls == 1


def test_no_cut_and_no_flipped_bit_ever_gives_a_wrong_answer(tmp_path):
    source = Ledger(tmp_path / "source", "run")
    expected = fill(source, 30)
    source.close()
    sound = source.path.read_bytes()
    draw = random.Random(5)
    n_kept = []
    for i in range(120):
        data = bytearray(sound)
        if i < 20:
            data = data[: draw.randrange(len(data))]
        else:
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        (tmp_path / str(i)).mkdir()
        ledger = Ledger(tmp_path / str(i), "run")
        damage(ledger, bytes(data))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                found = ledger.recall(list(expected))
                ledger.write([answer("new", request("new"))], None)
            except InputError:
                # A flip in the version number of the header.
                continue
        # The digest is of the reply: a bill may be off by a bit.
        assert all(known.reply == expected[key].reply for key, known in found.items())
        assert ledger.recall([request("new").key]) == {request("new").key: paid()}
        n_kept.append(len(found))
        ledger.close()
    assert len(n_kept) >= 115
    assert sum(count >= 29 for count in n_kept[20:]) >= 80


def test_threads_may_share_a_ledger(tmp_path):
    ledger = Ledger(tmp_path, "run")

    def write(i: int) -> bool:
        asked = request(str(i))
        ledger.write([intent(str(i), asked), answer(str(i), asked)], 100.0)
        return asked.key in ledger.recall([asked.key])

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(write, range(200)))
    assert ledger.totals().n_answered == 200
