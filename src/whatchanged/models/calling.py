"""Many calls to one provider: each once, within its limits and within the budget.

All calls of a process run on one event loop in a thread of its own, whichever task asks. So a
client keeps its connections from one batch to the next, callers may have an event loop running
themselves, and what a provider asks of one task, all respect.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import random
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from whatchanged.errors import (
    BudgetReachedError,
    MissingDependencyError,
    TransientError,
    UsageError,
)
from whatchanged.models.call_ledger import CallIntent, CallLedger, CallOutcome, Scribe
from whatchanged.models.chat import (
    CallResult,
    ChatProvider,
    ChatReply,
    ChatRequest,
    ProviderBusyError,
)
from whatchanged.models.lanes import Clock, Lane, OutOfTimeError
from whatchanged.models.switchboard import Switchboard, current_switchboard


@dataclass(frozen=True, slots=True)
class CallLimits:
    """How hard a caller tries.

    At most `max_concurrency` calls at once, `max_tries` for one request, and `deadline_s` seconds
    from the start of its first try to the end of its last. The n-th retry waits a random time of up
    to `backoff_s * 2 ** (n - 1)`, at most `max_backoff_s`. After an interrupt, calls in flight have
    `interrupt_s` to end.
    """

    max_concurrency: int = 32
    max_tries: int = 5
    deadline_s: float = 300.0
    backoff_s: float = 1.0
    max_backoff_s: float = 60.0
    interrupt_s: float = 10.0


def is_complete(request: ChatRequest, reply: ChatReply) -> bool:
    """Whether the model ended its answer by itself: neither refused nor cut off."""
    return reply.finish == "stop"


class Caller:
    """Answers requests from the ledger, or by calling a provider. Safe to use from any thread.

    `price` gives the dollars of a reply and `worst_price` the most that a call can cost, both None
    where unknown. `is_usable` says which replies are answers: others are returned once, and asked
    for again by the next run. `max_usd` is for all calls of the run, `own_max_usd` for those of the
    ledger's purpose alone.
    """

    def __init__(
        self,
        provider: ChatProvider,
        ledger: CallLedger,
        price: Callable[[ChatRequest, ChatReply], float | None],
        worst_price: Callable[[ChatRequest], float | None],
        *,
        max_usd: float | None = None,
        own_max_usd: float | None = None,
        limits: CallLimits | None = None,
        is_usable: Callable[[ChatRequest, ChatReply], bool] = is_complete,
        clock: Clock | None = None,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.provider = provider
        self.ledger = ledger
        self.price = price
        self.worst_price = worst_price
        self.max_usd = max_usd
        self.own_max_usd = own_max_usd
        self.limits = limits or CallLimits()
        self.is_usable = is_usable
        self.clock = clock or Clock()
        self.draw = draw

    def __call__(self, requests: Sequence[ChatRequest]) -> list[CallResult]:
        """One result per request, in the order asked; equal requests are sent once, also where
        another batch of this process is asking the same.

        A call that fails is a result without a reply. The run's bill never exceeds `max_usd` by
        more than what single calls cost above their worst price, plus what calls of unknown cost
        were billed above their later replies (`store.ledger`). Raises, after calls in flight have
        ended and are recorded: BudgetReachedError where the next call could exceed a maximum;
        MissingDependencyError or UsageError where the provider refuses the key or a request,
        UsageError before any call where a maximum is set and a price is unknown; StorageError where
        the ledger cannot be written.
        """
        keys = [request.key for request in requests]
        results = _recall(self.ledger, list(dict.fromkeys(keys)))
        missing = {
            key: request for key, request in zip(keys, requests, strict=True) if key not in results
        }
        if missing:
            self._check(list(missing.values()))
            results |= self._send_all(missing)
        return _in_order(keys, results)

    def close(self) -> None:
        """Close the provider's connections."""
        asyncio.run_coroutine_threadsafe(self.provider.close(), current_switchboard().loop).result()

    def _check(self, requests: Sequence[ChatRequest]) -> None:
        for request in requests:
            if request.provider != self.provider.identity:
                raise UsageError(
                    f"expected requests to {self.provider.identity}, found one to"
                    f" {request.provider}: pass each request to its own provider's caller"
                )
            key = "max_usd" if self.max_usd is None else "budget.max_usd"
            is_capped = self.max_usd is not None or self.own_max_usd is not None
            if is_capped and self.worst_price(request) is None:
                raise UsageError(
                    f"expected a price for {request.model}, because {key} is set, found none: add"
                    f" it to the price table, or set {key} to null"
                )

    def _send_all(self, requests: dict[str, ChatRequest]) -> dict[str, CallResult]:
        switchboard = current_switchboard()
        lane = switchboard.lane(self.provider.identity)
        batch = _Batch(self, requests, lane, switchboard)
        future = asyncio.run_coroutine_threadsafe(batch.run(), switchboard.loop)
        try:
            return future.result()
        except BaseException:
            if not future.done():
                switchboard.loop.call_soon_threadsafe(batch.stop)
                concurrent.futures.wait([future], timeout=self.limits.interrupt_s)
                switchboard.loop.call_soon_threadsafe(batch.abandon)
                concurrent.futures.wait([future], timeout=self.limits.interrupt_s)
            raise


class _Batch:
    """The requests of one `Caller.__call__` that need a call. Lives on the event loop.

    A batch makes the requests that are its own, then waits for those that others are making; where
    one of these comes to nothing, it is the batch's own from then on.
    """

    def __init__(
        self,
        caller: Caller,
        requests: dict[str, ChatRequest],
        lane: Lane,
        switchboard: Switchboard,
    ) -> None:
        self._caller = caller
        self._limits = caller.limits
        self._clock = caller.clock
        self._requests = requests
        self._waiting: deque[str] = deque()
        self._own: set[str] = set()
        self._results: dict[str, CallResult] = {}
        self._lane = lane
        self._scribe = Scribe(
            caller.ledger, caller.max_usd, caller.own_max_usd, switchboard.writing
        )
        self._writing = switchboard.writing
        self._in_flight = switchboard.in_flight(caller.ledger.path)
        self._tasks: list[asyncio.Task[None]] = []
        self._calling: set[asyncio.Task[None] | None] = set()
        self._error: Exception | None = None
        self._is_stopped = False

    async def run(self) -> dict[str, CallResult]:
        """A result per key. Raises what stopped the batch, once all that was sent has ended."""
        self._own = {key for key in self._requests if self._in_flight.claim(key)}
        try:
            await self._look_again()
            missing = [key for key in self._requests if key not in self._results]
            # Its own come first: whoever waits for others keeps none waiting.
            self._waiting.extend(sorted(missing, key=lambda key: key not in self._own))
            n_tasks = min(self._limits.max_concurrency, len(self._waiting))
            self._tasks = [asyncio.create_task(self._work()) for _ in range(n_tasks)]
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self._scribe.finish()
        finally:
            for key in self._own:
                self._in_flight.release(key, None)
        if self._error is not None:
            raise self._error
        return self._results

    def stop(self, error: Exception | None = None) -> None:
        """Start no further call; those in flight go on."""
        if error is not None and self._error is None:
            self._error = error
        self._is_stopped = True
        for task in self._tasks:
            if task not in self._calling:
                task.cancel()

    def abandon(self) -> None:
        """Give up calls in flight too. Their intents stay in the ledger."""
        for task in self._tasks:
            task.cancel()

    async def _look_again(self) -> None:
        """Take the answers that came in between the first look into the ledger and the claim."""
        loop, ledger = asyncio.get_running_loop(), self._caller.ledger
        found = await loop.run_in_executor(self._writing, _recall, ledger, list(self._own))
        for key, result in found.items():
            self._settle(key, result)

    async def _work(self) -> None:
        try:
            while self._waiting and not self._is_stopped:
                key = self._waiting.popleft()
                result = await self._made_by_others(key)
                self._settle(key, result or await self._answer(self._requests[key]))
        except _StoppedError:
            return
        except Exception as error:
            self.stop(error)

    async def _made_by_others(self, key: str) -> CallResult | None:
        """The result of another batch's call; None where the request is this batch's own."""
        while key not in self._own:
            if self._in_flight.claim(key):
                self._own.add(key)
            elif (result := await self._in_flight.wait(key)) is not None:
                return replace(result, is_cached=result.reply is not None)
        return None

    def _settle(self, key: str, result: CallResult) -> None:
        self._results[key] = result
        if key in self._own:
            self._own.remove(key)
            self._in_flight.release(key, result)

    async def _answer(self, request: ChatRequest) -> CallResult:
        give_up_at: float | None = None
        reason, is_billed = "", False
        for n_tries in range(1, self._limits.max_tries + 1):
            try:
                if give_up_at is not None:
                    await self._back_off(n_tries - 1, give_up_at)
                result, give_up_at = await self._try_once(request, give_up_at)
            except OutOfTimeError as error:
                reason = f"{reason}; {error}" if reason else str(error)
                break
            if isinstance(result, CallResult):
                return result
            reason, is_billed = result.reason, is_billed or result.may_be_billed
            if self._is_stopped:
                raise _StoppedError
        else:
            reason += f" (tried {self._limits.max_tries} times)"
        return CallResult(None, reason, None if is_billed else 0.0, is_cached=False)

    async def _back_off(self, n_retries: int, give_up_at: float) -> None:
        # Full jitter spreads the retries of calls that failed together (Brooker 2015, "Exponential
        # backoff and jitter", AWS Architecture Blog).
        longest = min(self._limits.max_backoff_s, self._limits.backoff_s * 2 ** (n_retries - 1))
        pause = longest * self._caller.draw()
        if self._clock.now() + pause >= give_up_at:
            raise OutOfTimeError("no time is left for another try")
        await self._clock.sleep(pause)

    async def _try_once(
        self, request: ChatRequest, give_up_at: float | None
    ) -> tuple[CallResult | _Setback, float]:
        """How one call ended, and the time until which the request may be tried again."""
        while True:
            await self._lane.enter(
                self._clock, self._limits.max_concurrency, self._limits.deadline_s, give_up_at
            )
            task = asyncio.current_task()
            self._calling.add(task)
            intent = CallIntent(uuid.uuid4().hex, request, self._caller.worst_price(request))
            try:
                held = await self._scribe.write(intent)
                if held is None:
                    with self._lane.paying():
                        now = self._clock.now()
                        if self._lane.pause_s(now) <= 0:
                            if give_up_at is None:
                                give_up_at = now + self._limits.deadline_s
                            return await self._call(intent, give_up_at - now), give_up_at
                        # Another call was told to wait while this one's intent was written.
                        await self._record_setback(intent, "not sent", may_be_billed=False)
            finally:
                self._calling.discard(task)
                self._lane.leave()
            if self._is_stopped:
                raise _StoppedError
            if held is not None:
                # When a call in flight ends, it holds its price and no more its worst price.
                if self._lane.n_paying == 0:
                    raise _budget_error(self._caller, intent, held)
                await self._lane.until_paid()

    async def _call(self, intent: CallIntent, patience_s: float) -> CallResult | _Setback:
        """The provider's reply, recorded. Raises what no retry can help, recorded as well."""
        request, started_at = intent.request, self._clock.now()
        try:
            async with asyncio.timeout(patience_s):
                reply = await self._caller.provider.send(request)
        except ProviderBusyError as error:
            self._lane.slow_down(started_at, self._clock.now(), error.delay_s)
            return await self._record_setback(intent, str(error), may_be_billed=False)
        except TransientError as error:
            return await self._record_setback(intent, str(error), may_be_billed=True)
        except TimeoutError:
            return await self._record_setback(intent, "no reply in time", may_be_billed=True)
        except (UsageError, MissingDependencyError) as error:
            await self._record_setback(intent, str(error), may_be_billed=False)
            raise
        except Exception as error:
            # Only its name: the message of an unforeseen error may hold anything.
            await self._record_setback(intent, type(error).__name__, may_be_billed=True)
            raise
        self._lane.speed_up()
        cost = self._caller.price(request, reply)
        is_usable = self._caller.is_usable(request, reply)
        await self._scribe.write(CallOutcome(intent.token, request, reply, "", cost, is_usable))
        return CallResult(reply, "", cost, is_cached=False)

    async def _record_setback(
        self, intent: CallIntent, reason: str, *, may_be_billed: bool
    ) -> _Setback:
        cost = None if may_be_billed else 0.0
        outcome = CallOutcome(intent.token, intent.request, None, reason, cost, is_usable=False)
        await self._scribe.write(outcome)
        return _Setback(reason, may_be_billed)


class _StoppedError(Exception):
    """The batch makes no further calls."""


@dataclass(frozen=True, slots=True)
class _Setback:
    """A try without a reply that may be followed by another."""

    reason: str
    may_be_billed: bool


def _recall(ledger: CallLedger, keys: list[str]) -> dict[str, CallResult]:
    found = ledger.recall(keys).items()
    return {key: CallResult(paid.reply, "", paid.cost_usd, is_cached=True) for key, paid in found}


def _in_order(keys: Sequence[str], results: dict[str, CallResult]) -> list[CallResult]:
    """The results in the order of the keys; where a key repeats, only the first one costs."""
    ordered: list[CallResult] = []
    seen: set[str] = set()
    for key in keys:
        result = results[key]
        if key in seen:
            result = replace(result, cost_usd=0.0, is_cached=result.reply is not None)
        seen.add(key)
        ordered.append(result)
    return ordered


def _budget_error(caller: Caller, intent: CallIntent, held_usd: float) -> BudgetReachedError:
    """The run's maximum is looked at first, so what is within it exceeds the caller's own."""
    worst_usd = intent.worst_usd or 0.0
    what, key, cap = "the run", "budget.max_usd", caller.max_usd
    if caller.own_max_usd is not None and (cap is None or held_usd + worst_usd <= cap):
        what, key, cap = (
            f"calls to {intent.request.model}",
            "its side's max_usd",
            caller.own_max_usd,
        )
    return BudgetReachedError(
        f"expected {what} to cost at most {key} = ${cap:,.4f}, found ${held_usd:,.4f} spent or held"
        f" for calls whose bill is unknown, and the next call could cost ${worst_usd:,.4f}: raise"
        f" {key} and run again, what was answered is not paid for twice"
    )
