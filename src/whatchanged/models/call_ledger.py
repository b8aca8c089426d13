"""What a caller writes down about each call, and the hand that writes it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

from whatchanged.models.chat import ChatReply, ChatRequest


@dataclass(frozen=True, slots=True)
class CallIntent:
    """A call that is about to be made. `token` is its own, also where the request is repeated.

    `worst_usd` is the most that it can cost, None where the price is unknown.
    """

    token: str
    request: ChatRequest
    worst_usd: float | None


@dataclass(frozen=True, slots=True)
class CallOutcome:
    """How the call of this token ended: a reply, or None and the reason.

    `cost_usd` is None where nobody knows it. Only a usable reply answers the request again.
    """

    token: str
    request: ChatRequest
    reply: ChatReply | None
    reason: str
    cost_usd: float | None
    is_usable: bool


@dataclass(frozen=True, slots=True)
class PaidReply:
    """A usable reply, and what the call that brought it cost: None where that is unknown."""

    reply: ChatReply
    cost_usd: float | None


CallEntry: TypeAlias = CallIntent | CallOutcome


class CallLedger(Protocol):
    """Remembers paid calls. `store.ledger.Ledger` is the one that survives a kill."""

    @property
    def path(self) -> Path:
        """Where it is: ledgers of one path know each other's replies."""
        ...

    def recall(self, keys: Sequence[str]) -> dict[str, PaidReply]:
        """The usable replies that are known, by the key of their request."""
        ...

    def write(
        self,
        entries: Sequence[CallEntry],
        max_usd: float | None,
        own_max_usd: float | None = None,
    ) -> list[float | None]:
        """Remember these. For an intent that `max_usd` has no room for, or `own_max_usd` among the
        calls of its purpose: the dollars that are held already, and it is not remembered."""
        ...


class Scribe:
    """Writes to the ledger in a thread: all that gathered during one commit goes into the next."""

    def __init__(
        self,
        ledger: CallLedger,
        max_usd: float | None,
        own_max_usd: float | None,
        thread: ThreadPoolExecutor,
    ) -> None:
        self._ledger = ledger
        self._caps = max_usd, own_max_usd
        self._thread = thread
        self._entries: list[tuple[CallEntry, asyncio.Future[float | None]]] = []
        self._task: asyncio.Task[None] | None = None

    async def write(self, entry: CallEntry) -> float | None:
        """What `CallLedger.write` says of the entry, once it is committed."""
        future: asyncio.Future[float | None] = asyncio.get_running_loop().create_future()
        self._entries.append((entry, future))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._drain())
        return await future

    async def finish(self) -> None:
        """Wait until everything is written, also what nobody waits for any more."""
        if self._task is not None:
            await self._task

    async def _drain(self) -> None:
        loop = asyncio.get_running_loop()
        while self._entries:
            pairs, self._entries = self._entries, []
            entries = [entry for entry, _ in pairs]
            try:
                found = await loop.run_in_executor(
                    self._thread, self._ledger.write, entries, *self._caps
                )
            except Exception as error:
                for _, future in pairs:
                    if not future.done():
                        future.set_exception(error)
            else:
                for (_, future), held in zip(pairs, found, strict=True):
                    if not future.done():
                        future.set_result(held)
