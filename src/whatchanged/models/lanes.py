"""How many calls a provider gets at once, and when it wants none."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

_FIRST_LIMIT = 8.0
_MAX_LIMIT = 256.0


@dataclass(frozen=True, slots=True)
class Clock:
    """Seconds from any beginning, and a wait of some of them."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


class OutOfTimeError(Exception):
    """The call cannot be made in its time. Never leaves the caller."""


class Lane:
    """The calls of one provider, of all tasks of the process. Lives on one event loop.

    The limit adapts: it grows by one per round of successful calls that used all of it, and is
    halved when the provider is busy, once for all calls that were in flight together (additive
    increase, multiplicative decrease: Chiu and Jain 1989, Computer Networks 17, 1-14). No call
    enters before the time that the provider asked for.
    """

    def __init__(self) -> None:
        self.limit = _FIRST_LIMIT
        self.n_in_flight = 0
        self.n_paying = 0
        self._ready_at = float("-inf")
        self._slowed_at = float("-inf")
        self._left = asyncio.Event()
        self._paid = asyncio.Event()

    async def enter(
        self, clock: Clock, max_concurrency: int, patience_s: float, give_up_at: float | None
    ) -> None:
        """Return when the call may be made; `leave` must follow.

        Raises OutOfTimeError where the provider asks for a pause beyond `give_up_at`, or, where
        that is None (a first try), for one longer than `patience_s`.
        """
        while True:
            now = clock.now()
            pause = self.pause_s(now)
            left = patience_s if give_up_at is None else give_up_at - now
            if left <= 0:
                raise OutOfTimeError("no time is left for another try")
            if pause > left:
                raise OutOfTimeError(
                    f"the provider asks for a pause of {pause:.0f} s, longer than the {left:.0f} s"
                    " that are left for the call"
                )
            if pause > 0:
                await clock.sleep(pause)
            elif self.n_in_flight < min(int(self.limit), max_concurrency):
                self.n_in_flight += 1
                return
            else:
                await self._left.wait()

    def pause_s(self, now: float) -> float:
        """How long the provider still wants no call; at most 0 when it takes calls."""
        return self._ready_at - now

    def leave(self) -> None:
        """The call has ended, well or not."""
        self.n_in_flight -= 1
        self._left.set()
        self._left = asyncio.Event()

    @contextmanager
    def paying(self) -> Iterator[None]:
        """The budget holds something for a call, until its end is recorded."""
        self.n_paying += 1
        try:
            yield
        finally:
            self.n_paying -= 1
            self._paid.set()
            self._paid = asyncio.Event()

    async def until_paid(self) -> None:
        """Wait until the budget holds less."""
        await self._paid.wait()

    def speed_up(self) -> None:
        """A call that is still in flight has succeeded."""
        if self.n_in_flight >= int(self.limit):
            self.limit = min(_MAX_LIMIT, self.limit + 1 / self.limit)

    def slow_down(self, started_at: float, now: float, delay_s: float | None) -> None:
        """A call that was started at this time found the provider busy."""
        if started_at >= self._slowed_at:
            self.limit = max(1.0, self.limit / 2)
            self._slowed_at = now
        if delay_s is not None:
            self._ready_at = max(self._ready_at, now + delay_s)
