"""This process's event loop for calls, and what its batches share: lanes, requests in flight."""

from __future__ import annotations

import asyncio
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from whatchanged.models.chat import CallResult
from whatchanged.models.lanes import Lane


class InFlight:
    """The requests that are being made: each by one batch, so that equal ones are paid once.

    Lives on one event loop.
    """

    def __init__(self) -> None:
        self._made: dict[str, asyncio.Future[CallResult | None]] = {}

    def claim(self, key: str) -> bool:
        """Whether nobody was making the request: from now on the caller is, until its release."""
        if key in self._made:
            return False
        self._made[key] = asyncio.get_running_loop().create_future()
        return True

    def release(self, key: str, result: CallResult | None) -> None:
        """Tell those who wait what the caller's request came to: None where it came to nothing."""
        self._made.pop(key).set_result(result)

    async def wait(self, key: str) -> CallResult | None:
        """What a request that somebody is making comes to; None where it comes to nothing."""
        return await asyncio.shield(self._made[key])


class Switchboard:
    """An event loop in a thread of its own, and one thread that writes to ledgers."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.writing = ThreadPoolExecutor(1, "whatchanged-ledger")
        self._lanes: dict[str, Lane] = {}
        self._in_flight: dict[Path, InFlight] = {}
        threading.Thread(
            target=self.loop.run_forever, name="whatchanged-calls", daemon=True
        ).start()

    def lane(self, provider: str) -> Lane:
        """The lane of a provider."""
        return self._lanes.setdefault(provider, Lane())

    def in_flight(self, ledger: Path) -> InFlight:
        """The requests whose answers will stand in the ledger of this path."""
        return self._in_flight.setdefault(ledger, InFlight())


_lock = threading.Lock()
_current: Switchboard | None = None


def current_switchboard() -> Switchboard:
    """The one of this process."""
    global _current
    with _lock:
        if _current is None:
            _current = Switchboard()
        return _current


def _forget_after_fork() -> None:
    # Threads do not survive a fork: a child starts its own.
    global _lock, _current
    _lock, _current = threading.Lock(), None


os.register_at_fork(after_in_child=_forget_after_fork)
