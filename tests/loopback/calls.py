"""The plainest caller there is: every request once, a failure is a result."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from whatchanged.errors import WhatchangedError
from whatchanged.models.chat import CallResult, ChatProvider, ChatReply, ChatRequest


def call_plainly(
    provider: ChatProvider,
    price: Callable[[ChatRequest, ChatReply], float | None] = lambda request, reply: 0.0,
) -> Callable[[Sequence[ChatRequest]], list[CallResult]]:
    """A caller without retries, ledger or budget, sixteen requests at a time."""

    async def send_all(requests: Sequence[ChatRequest]) -> list[CallResult]:
        gate = asyncio.Semaphore(16)

        async def send(request: ChatRequest) -> CallResult:
            async with gate:
                try:
                    reply = await provider.send(request)
                except WhatchangedError as error:
                    return CallResult(None, str(error), None, is_cached=False)
            return CallResult(reply, "", price(request, reply), is_cached=False)

        try:
            return await asyncio.gather(*(send(request) for request in requests))
        finally:
            await provider.close()

    return lambda requests: asyncio.run(send_all(requests))
