"""What tests of providers share: a question, one call, and the plainest caller there is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from tests.loopback.misbehaviour import Misbehaviour
from tests.loopback.server import Loopback
from whatchanged.errors import WhatchangedError
from whatchanged.models.chat import CallResult, ChatProvider, ChatReply, ChatRequest
from whatchanged.models.limits import Limits
from whatchanged.models.rubric import Asking, score_request
from whatchanged.records import Question

QUICK = Limits(connect_s=1.0, read_s=0.4, total_s=0.8)
CRITERION = 'The reply contains the words "green teapot", or nearly the same words.'


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


def request_to(
    provider: ChatProvider, text: str = "A green teapot.", model: str = "small"
) -> ChatRequest:
    """A question about a green teapot."""
    return score_request(Question(CRITERION, "Hi!", text), Asking(provider.identity, model))


def send(provider: ChatProvider, request: ChatRequest | None = None) -> ChatReply:
    """The reply to one request, on an event loop of its own."""

    async def once() -> ChatReply:
        try:
            return await provider.send(request or request_to(provider))
        finally:
            await provider.close()

    return asyncio.run(once())


def misbehaving(*kinds: str, **options: Any) -> Loopback:
    """A server that misbehaves in these ways, one call after the other."""
    return Loopback(misbehaviour=Misbehaviour(schedule=kinds), **options)
