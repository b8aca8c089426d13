import asyncio
import itertools
import os
import re
import signal
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.loopback.calls import CRITERION
from tests.loopback.server import Loopback
from whatchanged.errors import (
    BudgetReachedError,
    MissingDependencyError,
    TransientError,
    UsageError,
)
from whatchanged.models.calling import Caller, CallLimits
from whatchanged.models.chat import CallResult, ChatReply, ChatRequest, ProviderBusyError
from whatchanged.models.lanes import Clock, Lane, OutOfTimeError
from whatchanged.models.llm_judge import LlmJudge
from whatchanged.models.openai_compatible import OpenAICompatible
from whatchanged.models.rubric import Asking
from whatchanged.records import Question
from whatchanged.store.ledger import Ledger

SPEED = 1000.0
_serial = itertools.count()


def fast_clock() -> Clock:
    """A second passes in a millisecond."""
    return Clock(lambda: time.monotonic() * SPEED, lambda s: asyncio.sleep(s / SPEED))


def echo(request: ChatRequest) -> ChatReply:
    return ChatReply(request.user.upper(), "stop", "", 10, 2)


class FakeProvider:
    """Answers by a function; notes when each call begins, and on which loop."""

    def __init__(
        self,
        behave: Callable[[ChatRequest, int], Awaitable[ChatReply] | ChatReply] | None = None,
        identity: str | None = None,
    ) -> None:
        # A lane belongs to an identity: every test has its own.
        self.identity = identity or f"fake {next(_serial)}"
        self.behave = behave or (lambda request, n: echo(request))
        self.sent: list[str] = []
        self.loops: set[int] = set()
        self.begun: list[float] = []
        self.n_now = self.n_most = 0

    async def send(self, request: ChatRequest) -> ChatReply:
        self.sent.append(request.user)
        self.begun.append(time.monotonic() * SPEED)
        self.loops.add(id(asyncio.get_running_loop()))
        self.n_now += 1
        self.n_most = max(self.n_most, self.n_now)
        try:
            found = self.behave(request, len(self.sent))
            return found if isinstance(found, ChatReply) else await found
        finally:
            self.n_now -= 1

    async def close(self) -> None:
        self.sent.append("closed")


def ask(provider: FakeProvider, *texts: str) -> list[ChatRequest]:
    return [ChatRequest(provider.identity, "m", "s", text, "{}", 64, 0.0) for text in texts]


def caller_of(
    provider: FakeProvider,
    ledger: Ledger,
    *,
    cost_usd: float | None = 0.1,
    worst_usd: float | None = 0.3,
    **more,
) -> Caller:
    more.setdefault("clock", fast_clock())
    return Caller(provider, ledger, lambda *_: cost_usd, lambda _: worst_usd, **more)


@pytest.fixture
def ledger(tmp_path):
    ledger = Ledger(tmp_path, "run")
    yield ledger
    ledger.close()


def test_answers_come_in_the_order_asked_whatever_order_they_arrive_in(ledger):
    async def later(request, n):
        await asyncio.sleep(0.02 / n)
        return echo(request)

    provider = FakeProvider(later)
    results = caller_of(provider, ledger)(ask(provider, "a", "b", "c", "d"))
    assert [result.reply.text for result in results] == ["A", "B", "C", "D"]
    assert [result.cost_usd for result in results] == [0.1] * 4


def test_equal_requests_are_sent_once_and_cost_once(ledger):
    provider = FakeProvider()
    results = caller_of(provider, ledger)(ask(provider, "a", "b", "a", "a"))
    assert sorted(provider.sent) == ["a", "b"]
    assert [result.cost_usd for result in results] == [0.1, 0.1, 0.0, 0.0]
    assert [result.is_cached for result in results] == [False, False, True, True]


def test_a_repeated_request_is_not_paid_again_and_says_what_its_answer_cost(ledger):
    provider = FakeProvider()
    first = caller_of(provider, ledger)(ask(provider, "a"))
    (again,) = caller_of(provider, ledger)(ask(provider, "a"))
    assert again == CallResult(first[0].reply, "", 0.1, is_cached=True)
    assert ledger.totals().spent_usd == 0.1
    assert provider.sent == ["a"]
    assert caller_of(provider, ledger)([]) == []


async def slowly(request: ChatRequest, n: int) -> ChatReply:
    await asyncio.sleep(0.05)
    return echo(request)


def test_equal_requests_of_batches_at_the_same_time_are_paid_once(ledger):
    provider = FakeProvider(slowly)
    barrier = threading.Barrier(8)

    def work(number: int) -> list[CallResult]:
        # Purposes and budgets of their own, one ledger.
        caller = caller_of(provider, ledger.charged_to(str(number)), max_usd=100.0)
        requests = ask(provider, "shared", f"own {number}", "shared too")
        barrier.wait()
        return caller(requests)

    with ThreadPoolExecutor(8) as threads:
        batches = list(threads.map(work, range(8)))
    assert sorted(provider.sent) == sorted(
        ["shared", "shared too", *(f"own {number}" for number in range(8))]
    )
    for number, batch in enumerate(batches):
        texts = [result.reply.text for result in batch]
        assert texts == ["SHARED", f"OWN {number}", "SHARED TOO"]
        assert [result.cost_usd for result in batch] == [0.1] * 3
    assert sum(not batch[0].is_cached for batch in batches) == 1
    assert ledger.totals().n_calls == 10


def test_judges_that_ask_a_server_the_same_at_the_same_time_pay_it_once(ledger):
    questions = [Question(CRITERION, "Hi!", f"A green teapot, number {i}.") for i in range(20)]
    with Loopback(latency_s=0.02) as server, ThreadPoolExecutor(4) as threads:
        provider = OpenAICompatible(None, endpoint=f"{server.url}/v1")
        asking = Asking(provider.identity, "small")
        judges = [LlmJudge(caller_of(provider, ledger), asking) for _ in range(4)]
        found = list(threads.map(lambda judge: judge.judge(questions), judges))
        counts = server.counts()
    assert counts["n_calls"] == counts["n_distinct"] == 20
    assert found[0] == found[1] == found[2] == found[3]
    assert [judgement.score for judgement in found[0]] == [0.9] * 20
    assert ledger.totals().n_calls == 20


def test_a_request_that_another_batch_gave_up_is_made_by_the_one_that_waits(ledger):
    provider = FakeProvider(slowly)
    poor = caller_of(provider, ledger, max_usd=0.3, limits=CallLimits(max_concurrency=1))
    rich = caller_of(provider, ledger.charged_to("rich"), max_usd=100.0)
    with ThreadPoolExecutor(2) as threads:
        # It has claimed both, and can pay for one.
        first = threads.submit(poor, ask(provider, "a", "b"))
        while not provider.sent:
            time.sleep(0.001)
        second = threads.submit(rich, ask(provider, "b", "a"))
        assert [result.reply.text for result in second.result()] == ["B", "A"]
        with pytest.raises(BudgetReachedError):
            first.result()
    assert provider.sent == ["a", "b"]


def test_a_batch_that_is_stopped_while_it_waits_leaves_the_other_ones_call_alone(ledger):
    async def slow_or_refuse(request, n):
        await asyncio.sleep(0.02)
        if request.user == "bad":
            raise UsageError("400")
        await asyncio.sleep(0.1)
        return echo(request)

    provider = FakeProvider(slow_or_refuse)
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(caller_of(provider, ledger), ask(provider, "a"))
        while not provider.sent:
            time.sleep(0.001)
        with pytest.raises(UsageError):
            caller_of(provider, ledger)(ask(provider, "a", "bad"))
        assert first.result()[0].reply.text == "A"
    assert provider.sent == ["a", "bad"]


def test_ledgers_of_two_places_know_nothing_of_each_others_calls(ledger, tmp_path):
    provider = FakeProvider(slowly)
    other = Ledger(tmp_path / "other", "run")
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda own: caller_of(provider, own)(ask(provider, "a")), [ledger, other]))
    assert provider.sent == ["a", "a"]
    assert other.totals().n_answered == ledger.totals().n_answered == 1


def test_a_reply_that_is_no_answer_is_given_and_asked_for_again_later(ledger):
    provider = FakeProvider(
        lambda request, n: ChatReply("", "refused", "SAFETY", 9, 0) if n == 1 else echo(request)
    )
    caller = caller_of(provider, ledger)
    (refused,) = caller(ask(provider, "a"))
    assert (refused.reply.finish, refused.cost_usd, refused.is_cached) == ("refused", 0.1, False)
    assert caller(ask(provider, "a"))[0].reply.text == "A"
    assert caller(ask(provider, "a"))[0].is_cached
    assert provider.sent == ["a", "a"]


def test_what_counts_as_an_answer_can_be_chosen(ledger):
    provider = FakeProvider()
    caller = caller_of(provider, ledger, is_usable=lambda request, reply: reply.text == "A")
    for _ in range(2):
        assert [r.reply.text for r in caller(ask(provider, "a", "b"))] == ["A", "B"]
    assert sorted(provider.sent) == ["a", "b", "b"]


def test_retries_pause_twice_as_long_each_time_and_end(ledger):
    pauses: list[float] = []

    async def sleep(pause):
        pauses.append(pause)

    def fail(request, n):
        raise TransientError(f"reset {n}")

    provider = FakeProvider(fail)
    caller = caller_of(
        provider,
        ledger,
        clock=Clock(time.monotonic, sleep),
        limits=CallLimits(max_tries=6, backoff_s=1.0, max_backoff_s=5.0),
        draw=lambda: 0.5,
    )
    # Half of 1, 2, 4, then half of the longest.
    assert caller(ask(provider, "a")) == [CallResult(None, "reset 6 (tried 6 times)", None, False)]
    assert pauses == [0.5, 1.0, 2.0, 2.5, 2.5]
    assert (ledger.totals().n_failed, ledger.totals().n_unknown) == (6, 6)


def test_a_call_that_fails_leaves_the_others_alone(ledger):
    def fail_once(request, n):
        if request.user == "b" and provider.sent.count("b") == 1:
            raise TransientError("reset")
        if request.user == "c":
            raise ProviderBusyError("busy", None)
        return echo(request)

    provider = FakeProvider(fail_once)
    a, b, c = caller_of(provider, ledger, limits=CallLimits(max_tries=3))(
        ask(provider, "a", "b", "c")
    )
    assert (a.reply.text, b.reply.text) == ("A", "B")
    # A provider that turns a call away does not bill it.
    assert c == CallResult(None, "busy (tried 3 times)", 0.0, is_cached=False)


def test_a_call_that_hangs_ends_at_its_deadline(ledger):
    async def hang(request, n):
        await asyncio.sleep(60)

    provider = FakeProvider(hang)
    begun = time.monotonic()
    caller = caller_of(provider, ledger, clock=Clock(), limits=CallLimits(deadline_s=0.1))
    (result,) = caller(ask(provider, "a"))
    assert time.monotonic() - begun < 5
    assert result == CallResult(
        None, "no reply in time; no time is left for another try", None, is_cached=False
    )
    assert provider.sent == ["a"]


def test_no_task_of_the_process_calls_within_a_delay_that_any_was_told(ledger):
    told: list[float] = []

    async def busy_once(request, n):
        await asyncio.sleep(0.002)
        if not told and n >= 4:
            told.append(time.monotonic() * SPEED)
            raise ProviderBusyError("429", 53.0)
        return echo(request)

    provider = FakeProvider(busy_once)
    limits = CallLimits(deadline_s=1e5)
    texts = [[f"{task} {i}" for i in range(30)] for task in range(3)]
    with ThreadPoolExecutor(3) as threads:
        results = threads.map(
            lambda mine: caller_of(provider, ledger, limits=limits)(ask(provider, *mine)), texts
        )
        assert all(result.reply is not None for batch in results for result in batch)
    inside = [begun for begun in provider.begun if told[0] < begun < told[0] + 53.0]
    assert inside == []
    assert any(begun >= told[0] + 53.0 for begun in provider.begun)
    assert len(provider.sent) == 91


def test_a_delay_longer_than_a_call_may_take_fails_calls_without_making_them(ledger):
    def busy(request, n):
        raise ProviderBusyError("429", 3600.0)

    provider = FakeProvider(busy)
    results = caller_of(provider, ledger, limits=CallLimits(max_concurrency=1))(
        ask(provider, "a", "b", "c")
    )
    assert [result.reply for result in results] == [None] * 3
    assert re.search(r"asks for a pause of 3[56]\d\d s, longer than the 300 s", results[2].reason)
    assert provider.sent == ["a"]


def test_no_more_calls_at_once_than_the_lane_and_the_caller_allow(ledger):
    async def slow(request, n):
        await asyncio.sleep(0.005)
        return echo(request)

    provider = FakeProvider(slow)
    limits = CallLimits(max_concurrency=3)
    with ThreadPoolExecutor(2) as threads:
        list(
            threads.map(
                lambda task: caller_of(provider, ledger, limits=limits)(
                    ask(provider, *(f"{task} {i}" for i in range(20)))
                ),
                range(2),
            )
        )
    assert provider.n_most == 3
    assert len(provider.sent) == 40
    # All on the one loop that a client's connections live on.
    assert len(provider.loops) == 1


def test_the_lane_grows_by_one_a_round_and_is_halved_once_for_calls_in_flight_together():
    async def drive() -> list[float]:
        lane, clock = Lane(), Clock()
        seen = []
        for _ in range(8):
            await lane.enter(clock, 32, 300.0, None)
        for _ in range(8):
            lane.speed_up()
        seen.append(lane.limit)
        for started_at, now in ((1.0, 5.0), (2.0, 6.0), (5.5, 7.0)):
            lane.slow_down(started_at, now, None)
            seen.append(lane.limit)
        for _ in range(9):
            lane.slow_down(lane._slowed_at, lane._slowed_at + 1, None)
        seen.append(lane.limit)
        for _ in range(8):
            lane.leave()
        # With nothing in flight a success says nothing about the limit.
        lane.limit = 4.0
        lane.speed_up()
        seen.append(lane.limit)
        return seen

    grown, halved, same, halved_again, least, idle = asyncio.run(drive())
    # 8 + 1/8 + 1/8.125 + ... eight times is a little less than 9.
    assert 8.9 < grown < 9
    assert halved == same == grown / 2
    assert halved_again == grown / 4
    assert (least, idle) == (1.0, 4.0)


def test_a_lane_says_when_no_time_is_left():
    async def drive() -> None:
        lane, clock = Lane(), Clock(lambda: 100.0)
        lane.slow_down(99.0, 100.0, 20.0)
        with pytest.raises(OutOfTimeError, match="a pause of 20 s, longer than the 5 s"):
            await lane.enter(clock, 8, 300.0, 105.0)
        with pytest.raises(OutOfTimeError, match="no time is left"):
            await lane.enter(clock, 8, 300.0, 100.0)
        assert lane.n_in_flight == 0

    asyncio.run(drive())


@pytest.mark.parametrize("error", [UsageError("400"), MissingDependencyError("401: set KEY")])
def test_a_refusal_that_no_retry_can_help_stops_at_once(ledger, error):
    async def refuse(request, n):
        await asyncio.sleep(0.01)
        if n == 1:
            raise error
        await asyncio.sleep(0.03)
        return echo(request)

    provider = FakeProvider(refuse)
    caller = caller_of(provider, ledger, limits=CallLimits(max_concurrency=4))
    with pytest.raises(type(error), match=str(error)):
        caller(ask(provider, *map(str, range(50))))
    # The other three were on their way: they ended and are in the ledger.
    assert len(provider.sent) == 4
    totals = ledger.totals()
    assert (totals.n_failed, totals.n_answered, totals.n_open) == (1, 3, 0)


def test_an_unforeseen_error_is_recorded_by_name_alone(ledger):
    def break_down(request, n):
        raise RuntimeError("Authorization: Bearer sk-canary")

    provider = FakeProvider(break_down)
    with pytest.raises(RuntimeError):
        caller_of(provider, ledger)(ask(provider, "a"))
    ledger.close()
    data = ledger.path.read_bytes()
    assert b"RuntimeError" in data
    assert b"canary" not in data


@pytest.mark.parametrize("max_concurrency", [1, 4, 32])
def test_the_budget_is_never_exceeded_and_used_up_to_the_last_call(ledger, max_concurrency):
    async def slow(request, n):
        await asyncio.sleep(0.002)
        return echo(request)

    provider = FakeProvider(slow)
    limits = CallLimits(max_concurrency=max_concurrency)
    caller = caller_of(provider, ledger, max_usd=1.0, limits=limits)
    with pytest.raises(
        BudgetReachedError, match=r"at most budget.max_usd = \$1\.0000, found \$0\.8"
    ):
        caller(ask(provider, *map(str, range(30))))
    # 0.7 + 0.3 is within 1, 0.8 + 0.3 is not: eight calls of 0.1.
    assert len(provider.sent) == 8
    assert ledger.totals().spent_usd == pytest.approx(0.8)
    assert (ledger.totals().n_answered, ledger.totals().n_open) == (8, 0)


def test_a_caller_with_a_budget_of_its_own_ends_at_it_and_leaves_the_others_theirs(ledger):
    provider = FakeProvider()
    one = CallLimits(max_concurrency=1)
    base = caller_of(provider, ledger.charged_to("base"), max_usd=1.0, own_max_usd=0.5, limits=one)
    with pytest.raises(BudgetReachedError, match=r"calls to m to cost at most its side's max_usd"):
        base(ask(provider, *map(str, range(10))))
    # 0.2 + 0.3 is within 0.5, 0.3 + 0.3 is not: three calls of 0.1.
    assert ledger.totals("base").n_answered == 3
    judge = caller_of(provider, ledger.charged_to("cheap"), max_usd=1.0, limits=one)
    judge(ask(provider, *map(str, range(100, 105))))
    with pytest.raises(BudgetReachedError, match=r"the run to cost at most budget\.max_usd"):
        judge(ask(provider, *map(str, range(200, 210))))
    assert ledger.totals().spent_usd == pytest.approx(0.8)


def test_a_larger_budget_pays_only_for_what_is_missing(ledger):
    provider = FakeProvider()
    requests = ask(provider, *map(str, range(20)))
    with pytest.raises(BudgetReachedError):
        caller_of(provider, ledger, max_usd=1.0)(requests)
    results = caller_of(provider, ledger, max_usd=3.0)(requests)
    assert [result.reply.text for result in results] == [str(i) for i in range(20)]
    assert sum(result.is_cached for result in results) == 8
    assert len(provider.sent) == 20


def test_a_budget_without_a_price_is_refused_before_the_first_call(ledger):
    provider = FakeProvider()
    caller = caller_of(provider, ledger, max_usd=1.0, worst_usd=None)
    with pytest.raises(UsageError, match=r"a price for m, because budget\.max_usd is set"):
        caller(ask(provider, "a"))
    own = caller_of(provider, ledger, own_max_usd=1.0, worst_usd=None)
    with pytest.raises(UsageError, match="a price for m, because max_usd is set"):
        own(ask(provider, "a"))
    assert provider.sent == []
    # Without a budget it is paid, at a price that stays unknown; then it needs no price.
    free = caller_of(provider, ledger, cost_usd=None, worst_usd=None)
    assert free(ask(provider, "a"))[0].cost_usd is None
    assert (ledger.totals().n_unknown, ledger.totals().spent_usd) == (1, 0.0)
    assert caller(ask(provider, "a"))[0].is_cached


def test_a_request_to_another_provider_is_refused(ledger):
    provider = FakeProvider()
    with pytest.raises(UsageError, match="expected requests to fake"):
        caller_of(provider, ledger)(ask(FakeProvider(identity="other"), "a"))


def test_a_caller_works_where_an_event_loop_is_running(ledger):
    provider = FakeProvider()

    async def task() -> list[CallResult]:
        return caller_of(provider, ledger)(ask(provider, "a"))

    assert asyncio.run(task())[0].reply.text == "A"


@pytest.fixture
def interruptible():
    """As in a foreground process: one that a shell starts in the background ignores SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_lets_calls_in_flight_end_and_starts_none(ledger, interruptible):
    async def interrupt(request, n):
        if n == 3:
            os.kill(os.getpid(), signal.SIGINT)
        await asyncio.sleep(0.2)
        return echo(request)

    provider = FakeProvider(interrupt)
    caller = caller_of(provider, ledger, limits=CallLimits(max_concurrency=3))
    with pytest.raises(KeyboardInterrupt):
        caller(ask(provider, *map(str, range(50))))
    assert len(provider.sent) == 3
    assert (ledger.totals().n_answered, ledger.totals().n_open) == (3, 0)


def test_an_interrupt_leaves_calls_that_hang_as_intents(ledger, interruptible):
    async def hang(request, n):
        if n == 2:
            os.kill(os.getpid(), signal.SIGINT)
        await asyncio.sleep(60)

    provider = FakeProvider(hang)
    limits = CallLimits(max_concurrency=2, interrupt_s=0.1)
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        caller_of(provider, ledger, limits=limits)(ask(provider, *map(str, range(50))))
    assert time.monotonic() - begun < 5
    assert (ledger.totals().n_answered, ledger.totals().n_open) == (0, 2)
    assert provider.n_now == 0


def test_a_forked_child_has_a_loop_of_its_own(ledger):
    provider = FakeProvider()
    caller = caller_of(provider, ledger)
    caller(ask(provider, "parent"))
    if (child := os.fork()) == 0:
        os._exit(caller(ask(provider, "child"))[0].reply.text != "CHILD")
    assert os.waitpid(child, 0)[1] == 0
    results = caller(ask(provider, "parent", "child"))
    assert [result.is_cached for result in results] == [True, True]


def test_closing_reaches_the_provider_on_its_own_loop(ledger):
    provider = FakeProvider()
    caller_of(provider, ledger).close()
    assert provider.sent == ["closed"]
