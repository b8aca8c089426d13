"""A judge on this machine: Gemini's REST and OpenAI's chat API over a hidden rule; and under the
names of its `subjects`, real models that continue prompts.

    python -m tests.loopback.server --port 0 --rule quoted --schedule 429,ok --delay-s 2
    python -m tests.loopback.server --port 8000 --subject tuned=demo:intervention

It prints its address, answers at `/v1beta/models/{model}:generateContent` and at any path that ends
in `/chat/completions`, tells at `/counts` what was asked of it, and misbehaves as
`tests/loopback/misbehaviour.py` lists. In a test: `with Loopback(rule="quoted") as server: ...`.
"""

from __future__ import annotations

import argparse
import json
import math
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from tests.loopback.dialects import (
    GEMINI_PATH,
    OPENAI_PATH,
    gemini_error,
    openai_error,
    read_gemini,
    read_openai,
    write_gemini,
    write_openai,
    write_text,
)
from tests.loopback.misbehaviour import STATUSES, Misbehaviour, spoil_text
from tests.loopback.rules import Noise, answer
from tests.loopback.subjects import Subjects
from whatchanged.keys import bytes_digest

_REFUSED_FIELDS = {
    "refuse_format": "response_format",
    "refuse_temperature": "temperature",
    "refuse_max_tokens": "max_tokens",
    "refuse_seed": "seed",
}
_STATUS_OF = {"no_money": 429, "bad_key": 400, "echo_key": 401, "redirect": 307, "filtered": 400}
_CODE_OF = {
    "no_money": "insufficient_quota",
    "bad_key": "API_KEY_INVALID",
    "filtered": "content_filter",
}


@dataclass(frozen=True)
class Call:
    """One call as the server saw it. `at_s` counts from the server's start; `delay_s` is the wait
    that it asked for."""

    at_s: float
    request: str
    model: str
    kind: str
    delay_s: float | None


class Loopback:
    """The server, on a thread of its own, as a context."""

    def __init__(
        self,
        *,
        rule: str = "quoted",
        noise: Noise | None = None,
        misbehaviour: Misbehaviour | None = None,
        delay_s: float = 1.0,
        drip_s: float = 60.0,
        latency_s: float = 0.0,
        key: str | None = None,
        port: int = 0,
        subjects: Mapping[str, str] | None = None,
    ) -> None:
        self.subjects = Subjects(subjects) if subjects else None
        self.rule, self.noise = rule, noise or Noise()
        self.misbehaviour = misbehaviour or Misbehaviour()
        self.delay_s, self.drip_s, self.latency_s, self.key = delay_s, drip_s, latency_s, key
        self.calls: list[Call] = []
        self._n_of: Counter[str] = Counter()
        self.n_keys_in_urls = 0
        self.n_in_flight = self.max_in_flight = 0
        self.stopped = threading.Event()
        self.lock = threading.Lock()
        self._started_s = time.monotonic()
        self._http = _Server(("127.0.0.1", port), _Handler)
        self._http.loopback = self

    @property
    def url(self) -> str:
        """The address, such as http://127.0.0.1:8080; OpenAI's API is at `/v1` below it."""
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        self._http.shutdown()
        self._http.server_close()

    def serve(self) -> None:
        """Answer until the context ends."""
        self._http.serve_forever(poll_interval=0.02)

    def note(self, body: bytes, model: str, path: str) -> str:
        """Count a call and decide what is done to it."""
        digest = bytes_digest(path.encode() + b"\n" + body)
        with self.lock:
            kind = self.misbehaviour.kind(len(self.calls), self._n_of[digest], digest)
            self._n_of[digest] += 1
            delay_s = self.delay_s if kind in {"429", "503"} else None
            at_s = time.monotonic() - self._started_s
            self.calls.append(Call(at_s, digest, model, kind, delay_s))
        return kind

    def forget(self) -> None:
        """Count from here on."""
        with self.lock:
            self.calls.clear()
            self._n_of.clear()

    def continue_prompt(self, fields: Mapping[str, Any], kind: str) -> dict[str, Any]:
        """The body with a subject's own text."""
        assert self.subjects is not None
        completion = self.subjects.answer(fields)
        n_bytes = sum(len(turn["content"].encode()) for turn in fields["messages"])
        return write_text(str(fields["model"]), completion, math.ceil(n_bytes / 4), kind)

    def counts(self) -> dict[str, Any]:
        """What was asked so far: calls, distinct requests, calls per request, model and kind."""
        with self.lock:
            calls, per_request = list(self.calls), dict(self._n_of)
        return {
            "n_calls": len(calls),
            "n_distinct": len(per_request),
            "per_request": per_request,
            "per_model": dict(Counter(call.model for call in calls)),
            "per_kind": dict(Counter(call.kind for call in calls)),
            "max_in_flight": self.max_in_flight,
            "n_keys_in_urls": self.n_keys_in_urls,
            "calls": [asdict(call) for call in calls],
        }


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256
    loopback: Loopback

    def handle_error(self, *_: object) -> None:
        """Clients that go away are part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def log_message(self, *_: object) -> None:
        """Nothing: what was asked is at /counts."""

    def do_GET(self) -> None:
        if self.path == "/counts":
            self._send(200, self.server.loopback.counts())
        else:
            self._send(404, openai_error("no such path", "not_found", None))

    def do_POST(self) -> None:
        loopback = self.server.loopback
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path, _, query = self.path.partition("?")
        gemini = GEMINI_PATH.fullmatch(path)
        if gemini is None and not OPENAI_PATH.fullmatch(path):
            self._send(404, openai_error("no such path", "not_found", None))
            return
        fields = json.loads(body)
        model = gemini["model"] if gemini else str(fields["model"])
        with loopback.lock:
            loopback.n_keys_in_urls += "key=" in query
            loopback.n_in_flight += 1
            loopback.max_in_flight = max(loopback.max_in_flight, loopback.n_in_flight)
        try:
            kind = loopback.note(body, model, path)
            loopback.stopped.wait(loopback.latency_s)
            self._answer(fields, model, kind, is_gemini=gemini is not None)
        finally:
            with loopback.lock:
                loopback.n_in_flight -= 1

    def _answer(self, fields: Mapping[str, Any], model: str, kind: str, *, is_gemini: bool) -> None:
        loopback = self.server.loopback
        sent = self.headers.get("x-goog-api-key") or self.headers.get("Authorization", "")
        if loopback.key is not None and sent.removeprefix("Bearer ") != loopback.key:
            self._fail("bad_key" if is_gemini else "401", sent, is_gemini=is_gemini)
            return
        if loopback.subjects and model in loopback.subjects.models:
            reply = loopback.continue_prompt(fields, kind)
        else:
            asked = read_gemini(model, fields) if is_gemini else read_openai(fields)
            text = spoil_text(kind, answer(asked, loopback.rule, loopback.noise))
            reply = (write_gemini if is_gemini else write_openai)(asked, text, kind)
        match kind:
            case "reset":
                self._reset()
            case "hang":
                loopback.stopped.wait()
                self.close_connection = True
            case "drip" | "cut_body":
                self._send_part(json.dumps(reply).encode(), kind)
            case "not_json":
                self._send_bytes(200, b"<html>Sign in to the network</html>", "text/html", {})
            case "bad_envelope":
                self._send(200, {"candidates": "none", "choices": "none"})
            case "late_error":
                self._send(200, {"error": {"code": 502, "message": "the model is gone"}})
            case "refuse_format" | "refuse_temperature" | "refuse_max_tokens" | "refuse_seed":
                field = _REFUSED_FIELDS[kind]
                if field in fields:
                    self._send(400, openai_error(f"unknown field {field}", "unsupported", field))
                else:
                    self._send(200, reply)
            case "no_money" | "bad_key" | "echo_key" | "redirect" | "filtered":
                self._fail(kind, sent, is_gemini=is_gemini)
            case _ if kind in STATUSES:
                self._fail(kind, sent, is_gemini=is_gemini)
            case _:
                self._send(200, reply)

    def _fail(self, kind: str, sent: str, *, is_gemini: bool) -> None:
        status = _STATUS_OF.get(kind) or int(kind)
        delay_s = self.server.loopback.delay_s if kind in {"429", "503"} else None
        headers = {} if delay_s is None else {"Retry-After": f"{delay_s:g}"}
        if kind == "redirect":
            headers["Location"] = "/elsewhere/chat/completions"
        message = f"the key {sent} is wrong" if kind == "echo_key" else f"asked to fail: {kind}"
        code = _CODE_OF.get(kind, "")
        if is_gemini:
            self._send(status, gemini_error(status, message, code, delay_s), headers)
        else:
            self._send(status, openai_error(message, code, None), headers)

    def _reset(self) -> None:
        # A linger of 0 seconds makes close send RST.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    def _send_part(self, data: bytes, kind: str) -> None:
        self.close_connection = True
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if kind == "cut_body":
            self.wfile.write(data[: len(data) // 2])
            return
        for byte in data:
            self.wfile.write(bytes([byte]))
            self.wfile.flush()
            if self.server.loopback.stopped.wait(self.server.loopback.drip_s):
                return

    def _send(
        self, status: int, content: Mapping[str, Any], headers: Mapping[str, str] | None = None
    ) -> None:
        self._send_bytes(status, json.dumps(content).encode(), "application/json", headers or {})

    def _send_bytes(
        self, status: int, data: bytes, content_type: str, headers: Mapping[str, str]
    ) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": content_type, **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="A judge on this machine, for tests.")
    parser.add_argument("--port", type=int, default=0, help="0: a free one")
    parser.add_argument(
        "--rule", default="quoted", choices=["quoted", "words", "first", "gullible"]
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--error-rate", type=float, default=0.0)
    parser.add_argument("--borderline-rate", type=float, default=0.0)
    parser.add_argument("--exact-model", action="append", default=[], help="makes no mistakes")
    parser.add_argument("--schedule", default="", help="kinds for the first calls: 429,ok,reset")
    parser.add_argument("--each", action="store_true", help="the schedule is each request's own")
    parser.add_argument("--chance", action="append", default=[], help="kind=probability")
    parser.add_argument("--delay-s", type=float, default=1.0, help="what 429 and 503 ask to wait")
    parser.add_argument("--drip-s", type=float, default=60.0, help="between bytes of a drip")
    parser.add_argument("--latency-s", type=float, default=0.0, help="before every answer")
    parser.add_argument("--key", help="refuse every other key")
    parser.add_argument(
        "--subject", action="append", default=[], help="name=model: one that continues prompts"
    )
    return parser.parse_args()


def main() -> None:
    """Serve until interrupted."""
    given = _read_arguments()
    pairs = (chance.partition("=") for chance in given.chance)
    exact = frozenset(given.exact_model) or Noise().exact
    server = Loopback(
        rule=given.rule,
        noise=Noise(given.seed, given.error_rate, given.borderline_rate, exact),
        misbehaviour=Misbehaviour(
            tuple(kind for kind in given.schedule.split(",") if kind),
            given.each,
            {kind: float(chance) for kind, _, chance in pairs},
            given.seed,
        ),
        delay_s=given.delay_s,
        drip_s=given.drip_s,
        latency_s=given.latency_s,
        key=given.key,
        port=given.port,
        subjects=dict(subject.split("=", 1) for subject in given.subject),
    )
    print(f"listening on {server.url}", flush=True)
    try:
        server.serve()
    except KeyboardInterrupt:
        print(json.dumps({k: v for k, v in server.counts().items() if k.startswith("n_")}))


if __name__ == "__main__":
    main()
