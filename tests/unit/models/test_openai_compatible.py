import asyncio
import logging
import time

import pytest

from tests.loopback.calls import QUICK, misbehaving, request_to, send
from tests.loopback.misbehaviour import Misbehaviour
from tests.loopback.server import Loopback
from whatchanged.errors import MissingDependencyError, TransientError, UsageError
from whatchanged.models.chat import ChatReply, ProviderBusyError
from whatchanged.models.limits import Limits
from whatchanged.models.openai_compatible import OpenAICompatible
from whatchanged.models.secret import Secret

KEY = Secret("sk-test", "OPENAI_API_KEY")


def provider_of(server, path="/v1", secret=KEY, limits=None):
    return OpenAICompatible(secret, endpoint=f"{server.url}{path}", limits=limits)


@pytest.mark.parametrize("path", ["/v1", "/v1/", "/v1beta/openai", "/api/v1"])
def test_a_reply_comes_with_its_finish_and_its_tokens(path):
    with Loopback(key=KEY.reveal()) as server:
        provider = provider_of(server, path)
        reply = send(provider)
        assert server.counts()["n_keys_in_urls"] == 0
        assert provider.identity == f"openai:{server.url}{path.rstrip('/')}"
    assert (reply.text, reply.finish, reply.reason) == ('{"score": 90}', "stop", "")
    assert reply.n_tokens_out == 4
    assert reply.n_tokens_in > 200


def test_a_local_server_needs_no_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with Loopback() as server:
        assert send(provider_of(server, secret=None)).text == '{"score": 90}'


def test_a_key_in_the_environment_is_not_sent_to_a_server_that_needs_none(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY.reveal())
    with Loopback(key=KEY.reveal()) as server, pytest.raises(MissingDependencyError):
        send(provider_of(server, secret=None))


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
        ("late_error", TransientError),
        ("400", UsageError),
        ("404", UsageError),
        ("redirect", UsageError),
        ("no_money", UsageError),
        ("401", MissingDependencyError),
        ("403", MissingDependencyError),
    ],
)
def test_a_failure_is_tried_once_and_ends_within_its_limits(kind, error):
    with misbehaving(kind, drip_s=0.1) as server:
        limits = QUICK if kind in {"hang", "drip"} else Limits(total_s=30.0)
        provider = provider_of(server, limits=limits)
        start_s = time.monotonic()
        with pytest.raises(error) as caught:
            send(provider)
        assert time.monotonic() - start_s < limits.total_s + 5.0
        assert type(caught.value) is error
        assert server.counts()["n_calls"] == 1


@pytest.mark.parametrize("kind", ["429", "503"])
def test_the_delay_that_the_server_asks_for_is_handed_on(kind):
    with misbehaving(kind, delay_s=53.5) as server, pytest.raises(ProviderBusyError) as caught:
        send(provider_of(server))
    assert caught.value.delay_s == 53.5


@pytest.mark.parametrize(
    ("kind", "finish", "reason"),
    [
        ("no_candidates", "stop", "the reply has no message"),
        ("null_content", "stop", "it has no text"),
        ("tool_call", "stop", "it calls a tool"),
        ("blocked_prompt", "refused", "refusal: I cannot grade this."),
        ("safety", "refused", "content_filter"),
        ("filtered", "refused", "the prompt: content_filter"),
        ("no_finish", "refused", "no finish reason"),
    ],
)
def test_a_reply_without_a_text_says_why(kind, finish, reason):
    with misbehaving(kind) as server:
        reply = send(provider_of(server))
    assert (reply.text, reply.finish, reply.reason) == ("", finish, reason)


def test_a_cut_reply_is_cut_off_even_where_its_text_looks_whole():
    with misbehaving("max_tokens") as server:
        reply = send(provider_of(server))
    assert reply == ChatReply('{"score": 90}', "cut_off", "length", reply.n_tokens_in, 4, "small")


@pytest.mark.parametrize("field", ["format", "temperature", "max_tokens"])
def test_a_field_that_an_endpoint_refuses_is_changed_once_and_said(field, caplog):
    always = Misbehaviour(chances={f"refuse_{field}": 1.0})
    with Loopback(misbehaviour=always) as server, caplog.at_level(logging.WARNING):
        provider = provider_of(server)
        with pytest.raises(TransientError, match="refused a field for small"):
            send(provider)
        replies = [send(provider, request_to(provider, f"A green teapot {i}.")) for i in range(3)]
        assert server.counts()["n_calls"] == 4
    assert {reply.text for reply in replies} == {'{"score": 90}'}
    # Without the schema in the request, the answer's form still stands in the prompt.
    assert len([r for r in caplog.records if r.name.startswith("whatchanged")]) == 1


def test_calls_under_way_at_once_learn_of_a_refused_field_together():
    async def send_all(provider, requests):
        return await asyncio.gather(*map(provider.send, requests), return_exceptions=True)

    always = Misbehaviour(chances={"refuse_format": 1.0})
    with Loopback(misbehaviour=always, latency_s=0.05) as server:
        provider = provider_of(server)
        requests = [request_to(provider, f"A green teapot {i}.") for i in range(8)]
        first = asyncio.run(send_all(provider, requests))
        second = asyncio.run(send_all(provider, requests))
    assert {type(outcome) for outcome in first} == {TransientError}
    assert {type(outcome) for outcome in second} == {ChatReply}


def test_a_400_that_names_no_field_is_no_reason_to_change_one():
    with misbehaving("400", "ok") as server:
        with pytest.raises(UsageError):
            send(provider_of(server))
        assert server.counts()["n_calls"] == 1


def test_one_provider_serves_one_event_loop_after_another():
    with Loopback() as server:
        provider = provider_of(server)
        for i in range(3):
            request = request_to(provider, f"A green teapot {i}.")
            assert asyncio.run(provider.send(request)).text == '{"score": 90}'
