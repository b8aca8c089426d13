"""Asks a loopback server through a ledger, until every request has its answer.

`main(PORT, FOLDER, N_REQUESTS, CONCURRENCY)` prints the texts of all answers, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

from whatchanged.errors import TransientError
from whatchanged.models.calling import Caller, CallLimits
from whatchanged.models.chat import ChatReply, ChatRequest, ProviderBusyError
from whatchanged.store.ledger import Ledger

WORST_USD = 0.004
COST_USD = 0.001


class LoopbackProvider:
    """A client of the test's server, without retries or a memory of its own."""

    def __init__(self, port: int) -> None:
        self.identity = f"loopback http://127.0.0.1:{port}"
        self.port = port
        self.told: list[tuple[float, float]] = []

    async def send(self, request: ChatRequest) -> ChatReply:
        body = json.dumps({"asked": request.user, "sent_at": time.monotonic()}).encode()
        head = f"POST / HTTP/1.0\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            try:
                writer.write(head + body)
                answer = await reader.read()
            finally:
                writer.close()
            status, headers, text = parse(answer)
        except (OSError, ValueError) as error:
            raise TransientError(f"the connection broke: {type(error).__name__}") from error
        if status in (429, 503):
            delay = float(headers["retry-after"]) if "retry-after" in headers else None
            if delay is not None:
                self.told.append((time.monotonic(), delay))
            raise ProviderBusyError(f"status {status}", delay)
        return ChatReply(text, "stop", "", 10, 2)

    async def close(self) -> None:
        pass


def parse(answer: bytes) -> tuple[int, dict[str, str], str]:
    head, separator, body = answer.partition(b"\r\n\r\n")
    if not separator:
        raise ValueError("no reply")
    status, *lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    if len(body) != int(headers["content-length"]):
        raise ValueError("half a reply")
    return int(status.split()[1]), headers, body.decode()


def requests_to(provider: LoopbackProvider, n_requests: int) -> list[ChatRequest]:
    return [
        ChatRequest(provider.identity, "m", "s", f"question {i}", "{}", 64, 0.0)
        for i in range(n_requests)
    ]


def caller_of(provider: LoopbackProvider, folder: Path, max_concurrency: int) -> Caller:
    limits = CallLimits(max_concurrency, max_tries=8, backoff_s=0.02, max_backoff_s=0.2)
    return Caller(
        provider, Ledger(folder, "run"), lambda *_: COST_USD, lambda _: WORST_USD,
        max_usd=100.0, limits=limits,
    )  # fmt: skip


def main(port: str, folder: str, n_requests: str, max_concurrency: str) -> None:
    provider = LoopbackProvider(int(port))
    caller = caller_of(provider, Path(folder), int(max_concurrency))
    results = caller(requests_to(provider, int(n_requests)))
    print(json.dumps([result.reply and result.reply.text for result in results]))
