import asyncio
import json
import subprocess
import sys
import threading
import time

import pytest

from tests.loopback.calls import QUICK, misbehaving, request_to, send
from tests.loopback.server import Loopback
from whatchanged.errors import ConfigError, MissingDependencyError, TransientError, UsageError
from whatchanged.models.chat import ChatReply, ChatRequest, ProviderBusyError
from whatchanged.models.gemini import Gemini
from whatchanged.models.limits import Limits
from whatchanged.models.secret import Secret

KEY = Secret("AIza-test", "GEMINI_API_KEY")


def test_a_reply_comes_with_its_finish_and_its_tokens():
    with Loopback(key=KEY.reveal()) as server:
        reply = send(Gemini(KEY, endpoint=server.url))
    assert (reply.text, reply.finish, reply.reason) == ('{"score": 90}', "stop", "")
    # The answer has 13 bytes.
    assert reply.n_tokens_out == 4
    assert reply.n_tokens_in > 200


def test_the_key_travels_in_a_header_and_never_in_an_address():
    with Loopback(key=KEY.reveal()) as server:
        provider = Gemini(KEY, endpoint=f"{server.url}/")
        send(provider)
        assert server.counts()["n_keys_in_urls"] == 0
        assert provider.identity == f"gemini:{server.url}"


def test_the_schema_arrives():
    finding = {
        "type": "object",
        "properties": {
            "criterion": {"type": "string"},
            "side": {"type": "string", "enum": ["A", "B"]},
        },
        "required": ["criterion", "side"],
        "additionalProperties": False,
    }
    schema = {
        "type": "object",
        "properties": {"findings": {"type": "array", "items": finding, "maxItems": 1}},
        "required": ["findings"],
        "additionalProperties": False,
    }
    mark = "0123456789ABCDEF0123"
    parts = (("texts A", "plain reply\nplain words"), ("texts B", "teapot reply\nteapot words"))
    body = "\n\n".join(f"<<{mark} {label}\n{text}\n{mark}>> {label}" for label, text in parts)
    with Loopback() as server:
        provider = Gemini(KEY, endpoint=server.url)
        system = f"Lines carry the mark {mark}."
        asked = ChatRequest(provider.identity, "m", system, body, json.dumps(schema), 99, 0.5)
        reply = send(provider, asked)
    # "plain" is in all texts of A, "teapot" in all of B; the alphabet decides between the two.
    told = 'The reply contains the words "plain", or nearly the same words.'
    assert json.loads(reply.text) == {"findings": [{"criterion": told, "side": "A"}]}


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("429", ProviderBusyError),
        ("503", ProviderBusyError),
        ("500", TransientError),
        ("reset", TransientError),
        ("hang", TransientError),
        ("drip", TransientError),
        ("cut_body", TransientError),
        ("not_json", TransientError),
        ("bad_envelope", TransientError),
        ("400", UsageError),
        ("404", UsageError),
        ("redirect", UsageError),
        ("no_money", UsageError),
        ("401", MissingDependencyError),
        ("403", MissingDependencyError),
        ("bad_key", MissingDependencyError),
    ],
)
def test_a_failure_is_tried_once_and_ends_within_its_limits(kind, error):
    with misbehaving(kind, drip_s=0.1) as server:
        limits = QUICK if kind in {"hang", "drip"} else Limits(total_s=30.0)
        provider = Gemini(KEY, endpoint=server.url, limits=limits)
        start_s = time.monotonic()
        with pytest.raises(error) as caught:
            send(provider)
        assert time.monotonic() - start_s < limits.total_s + 5.0
        assert type(caught.value) is error
        assert server.counts()["n_calls"] == 1


@pytest.mark.parametrize("kind", ["429", "503"])
def test_the_delay_that_the_server_asks_for_is_handed_on(kind):
    with misbehaving(kind, delay_s=53.5) as server, pytest.raises(ProviderBusyError) as caught:
        send(Gemini(KEY, endpoint=server.url))
    assert caught.value.delay_s == 53.5


def test_nobody_at_the_address_may_change():
    with Loopback() as server:
        address = server.url
    with pytest.raises(TransientError, match="ConnectionError"):
        send(Gemini(KEY, endpoint=address, limits=QUICK))


@pytest.mark.parametrize(
    ("kind", "finish", "reason"),
    [
        ("no_candidates", "stop", "the reply has no candidates"),
        ("blocked_prompt", "refused", "the prompt was blocked: SAFETY"),
        ("safety", "refused", "SAFETY"),
        ("recitation", "refused", "RECITATION"),
        ("no_finish", "refused", "no finish reason"),
        ("tool_call", "stop", "it has no text"),
    ],
)
def test_a_reply_without_a_text_says_why(kind, finish, reason):
    with misbehaving(kind) as server:
        reply = send(Gemini(KEY, endpoint=server.url))
    assert (reply.text, reply.finish, reply.reason) == ("", finish, reason)
    assert reply.n_tokens_in > 0


def test_a_cut_reply_is_cut_off_even_where_its_text_looks_whole():
    with misbehaving("max_tokens") as server:
        reply = send(Gemini(KEY, endpoint=server.url))
    assert reply == ChatReply('{"score": 90}', "cut_off", "MAX_TOKENS", reply.n_tokens_in, 4)


def test_the_thread_of_a_slow_reply_ends_with_its_limit():
    with misbehaving("drip", drip_s=0.1) as server:
        provider = Gemini(KEY, endpoint=server.url, limits=QUICK)
        with pytest.raises(TransientError, match=r"over 0.8 s in all|too slowly"):
            send(provider)
        late = [t for t in threading.enumerate() if t.name == "gemini-call"]
        for thread in late:
            thread.join(timeout=5.0)
        assert not any(thread.is_alive() for thread in late)


def test_a_hanging_call_does_not_keep_the_process_alive():
    code = (
        "import asyncio, sys\n"
        "from tests.unit.models.test_gemini import KEY, Gemini, Limits, send\n"
        "send(Gemini(KEY, endpoint=sys.argv[1], limits=Limits(1, 600, 0.3)))\n"
    )
    with misbehaving("hang") as server:
        command = [sys.executable, "-c", code, server.url]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
        assert server.counts()["n_calls"] == 1
    assert "TransientError" in done.stderr
    assert KEY.reveal() not in done.stderr


def test_many_calls_at_once_all_get_their_own_answers():
    async def send_all(provider, requests):
        return await asyncio.gather(*(provider.send(request) for request in requests))

    with Loopback(latency_s=0.05) as server:
        provider = Gemini(KEY, endpoint=server.url)
        texts = [f"A {'green' if i % 3 else 'blue'} teapot, number {i}." for i in range(60)]
        requests = [request_to(provider, text) for text in texts]
        replies = asyncio.run(send_all(provider, requests))
        assert server.counts()["n_distinct"] == 60
        assert server.counts()["max_in_flight"] > 8
    expected = [f'{{"score": {90 if i % 3 else 10}}}' for i in range(60)]
    assert [reply.text for reply in replies] == expected


@pytest.mark.parametrize("model", ["", "a/b", "gemini?key=1", "../x", "models/a/b", "a b"])
def test_a_name_that_is_no_model_is_refused_before_anything_is_sent(model):
    with Loopback() as server:
        provider = Gemini(KEY, endpoint=server.url)
        with pytest.raises(ConfigError, match="expected the name of a Gemini model"):
            send(provider, request_to(provider, model=model))
        assert server.counts()["n_calls"] == 0


def test_a_model_may_be_named_with_its_folder():
    with Loopback() as server:
        provider = Gemini(KEY, endpoint=server.url)
        send(provider, request_to(provider, model="models/gemini-2.5-flash"))
        assert server.counts()["per_model"] == {"gemini-2.5-flash": 1}
