import json
import random
import socket
import struct
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.faults.calling_worker import (
    COST_USD,
    WORST_USD,
    LoopbackProvider,
    caller_of,
    requests_to,
)
from tests.faults.nursery import KILLED, Child, Nursery, nursery
from whatchanged.store.ledger import Ledger

N_KILLS = 50
CONCURRENCY = 8


class Server(ThreadingHTTPServer):
    """Answers in capitals, counts who asked what and when, and misbehaves as it is told."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock = threading.Lock()
        self.asked: list[str] = []
        self.inside: list[float] = []
        self.n_busy = self.n_unavailable = self.n_reset = 0
        self.closed_until = 0.0
        self.pause_s = 0.004
        self.delay_s: float | None = None

    @property
    def port(self) -> int:
        return self.server_address[1]

    def note(self, asked: str, sent_at: float) -> tuple[str, float]:
        """What to do with a request, and the delay to state."""
        now = time.monotonic()
        with self.lock:
            self.asked.append(asked)
            if self.delay_s is None:
                return "answer", 0.0
            if now < self.closed_until:
                self.inside.append(sent_at)
                return "busy", self.closed_until - now
            n_asked = len(self.asked)
            if n_asked % 70 == 0:
                self.n_busy += 1
                self.closed_until = now + self.delay_s
                return "busy", self.delay_s
            if n_asked % 41 == 0:
                self.n_unavailable += 1
                return "unavailable", 0.0
            if n_asked % 53 == 0:
                self.n_reset += 1
                return "reset", 0.0
            return "answer", 0.0

    def handle_error(self, request, client_address) -> None:
        """A client that was killed is no news."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        what, delay = self.server.note(body["asked"], body["sent_at"])
        if what == "reset":
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.connection.close()
            return
        time.sleep(self.server.pause_s if what == "answer" else 0)
        text = body["asked"].upper().encode()
        self.send_response({"answer": 200, "busy": 429, "unavailable": 503}[what])
        if what == "busy":
            self.send_header("Retry-After", f"{delay:.6f}")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def workers() -> Iterator[Nursery]:
    with nursery("tests.faults.calling_worker", "-W", "error") as opened:
        yield opened


def start(workers: Nursery, server: Server, folder: Path, n_requests: int) -> Child:
    return workers.start(str(server.port), str(folder), str(n_requests), str(CONCURRENCY))


def texts_of(child: Child) -> list[str]:
    """The answers that a worker got."""
    assert child.wait() == 0, child.said()
    return list(json.loads(child.said()))


def answered(folder: Path, provider: LoopbackProvider, n_requests: int) -> set[str]:
    ledger = Ledger(folder, "run")
    requests = {request.key: request.user for request in requests_to(provider, n_requests)}
    found = {requests[key] for key in ledger.recall(list(requests))}
    ledger.close()
    return found


def test_50_kills_lose_no_result_and_repeat_at_most_the_calls_in_flight(
    tmp_path, workers, server, record_property
):
    n_requests, draw = 1500, random.Random(7)
    provider = LoopbackProvider(server.port)
    n_asked_again = n_killed = most_of_one = 0
    known: set[str] = set()
    for _ in range(N_KILLS):
        n_before = len(server.asked)
        child = start(workers, server, tmp_path, n_requests)
        # Sometimes before the first call, mostly in the midst of calls.
        target = n_before + draw.randrange(36)
        while len(server.asked) < target and not child.has_ended():
            time.sleep(0.001)
        time.sleep(draw.random() * 0.01)
        child.kill()
        n_killed += child.wait() == KILLED
        n_asked_again += len(known & set(server.asked[n_before:]))
        now_known = answered(tmp_path, provider, n_requests)
        assert known <= now_known
        known = now_known
        most_of_one = max(most_of_one, len(set(server.asked[n_before:]) - known))
    assert n_killed == N_KILLS
    n_before = len(server.asked)
    texts = texts_of(start(workers, server, tmp_path, n_requests))
    assert texts == [f"QUESTION {i}" for i in range(n_requests)]
    n_asked_again += len(known & set(server.asked[n_before:]))
    assert n_asked_again == 0
    n_extra = len(server.asked) - n_requests
    totals = Ledger(tmp_path, "run").totals()
    print(f"{n_extra} extra calls after {n_killed} kills, {totals.n_open} intents left open")
    record_property("kills_while_paying", n_killed)
    record_property("results_lost", n_asked_again)
    record_property("extra_calls", n_extra)
    record_property("extra_calls_bound", N_KILLS * CONCURRENCY)
    record_property("extra_calls_of_one_kill", most_of_one)
    assert 0 < n_extra <= totals.n_open <= N_KILLS * CONCURRENCY
    assert most_of_one <= CONCURRENCY
    assert len(set(server.asked)) == n_requests
    # Every call that was killed counts like its repetition now, and none is called paid for.
    assert totals.spent_usd == pytest.approx(n_requests * COST_USD)
    assert totals.held_usd == pytest.approx((n_requests + totals.n_open) * COST_USD)
    assert totals.n_calls == n_requests + totals.n_open


def test_after_the_last_answer_a_run_calls_nobody(tmp_path, workers, server):
    outputs = [texts_of(start(workers, server, tmp_path, 20)) for _ in range(2)]
    assert outputs == [[f"QUESTION {i}" for i in range(20)]] * 2
    assert len(server.asked) == 20


def test_a_killed_call_is_held_at_its_worst_price(tmp_path, workers, server):
    server.pause_s = 30.0
    child = start(workers, server, tmp_path, 3)
    while len(server.asked) < 3:
        time.sleep(0.001)
    child.kill()
    assert child.wait() == KILLED
    totals = Ledger(tmp_path, "run").totals()
    assert (totals.n_open, totals.spent_usd) == (3, 0.0)
    assert totals.held_usd == pytest.approx(3 * WORST_USD)


def test_a_misbehaving_server_costs_few_calls_and_hears_nothing_in_its_delays(tmp_path, server):
    n_requests, n_tasks = 420, 3
    server.delay_s = 0.25
    provider = LoopbackProvider(server.port)
    requests = requests_to(provider, n_requests)
    with ThreadPoolExecutor(n_tasks) as threads:
        batches = threads.map(
            lambda task: caller_of(provider, tmp_path, CONCURRENCY)(requests[task::n_tasks]),
            range(n_tasks),
        )
        results = [result for batch in batches for result in batch]
    assert all(result.reply is not None for result in results)
    n_calls = len(server.asked)
    print(
        f"{n_calls} calls for {n_requests} requests: {server.n_busy} delays,"
        f" {server.n_unavailable} x 503, {server.n_reset} resets; {len(server.inside)} calls were"
        " on their way when a delay was stated"
    )
    assert min(server.n_busy, server.n_unavailable, server.n_reset) >= 5
    assert n_calls <= 1.2 * n_requests
    # Within a delay the server only heard calls that had left before its word arrived.
    assert [
        sent_at
        for sent_at in server.inside
        if any(told <= sent_at < told + delay for told, delay in provider.told)
    ] == []
    assert Ledger(tmp_path, "run").totals().n_answered == n_requests
