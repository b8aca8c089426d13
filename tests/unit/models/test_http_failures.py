import json

import pytest

from whatchanged.errors import ConfigError, MissingDependencyError, TransientError, UsageError
from whatchanged.models.chat import ProviderBusyError
from whatchanged.models.http_failures import (
    check_endpoint,
    delay_asked,
    excerpt,
    failure_from_status,
)
from whatchanged.models.secret import Secret


def failure(status, body="", headers=None):
    return failure_from_status(status, headers or {}, body, provider="p", secret=None)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        *[(status, ProviderBusyError) for status in (429, 503, 529)],
        *[(status, TransientError) for status in (408, 409, 425, 500, 502, 504, 520)],
        *[(status, MissingDependencyError) for status in (401, 403)],
        *[(status, UsageError) for status in (301, 307, 400, 404, 413, 422)],
    ],
)
def test_a_status_says_whether_trying_again_can_help(status, kind):
    assert type(failure(status)) is kind


def test_an_empty_account_is_not_waited_for():
    body = json.dumps({"error": {"message": "no credit", "code": "insufficient_quota"}})
    assert isinstance(failure(429, body), UsageError)


def test_a_400_about_the_key_is_about_the_key():
    details = [{"@type": "x/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}]
    body = json.dumps({"error": {"message": "bad", "details": details}})
    assert isinstance(failure(400, body), MissingDependencyError)


def retry_info(delay):
    detail = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay}
    return json.dumps({"error": {"details": [detail]}})


DATE = "Wed, 21 Oct 2026 07:28:00 GMT"


@pytest.mark.parametrize(
    ("headers", "body", "delay_s"),
    [
        ({}, "", None),
        ({"retry-after": "53"}, "", 53.0),
        ({"retry-after": "0.5"}, "", 0.5),
        ({"retry-after": "-3"}, "", 0.0),
        ({"retry-after": "soon"}, "", None),
        ({"retry-after": "nan"}, "", None),
        ({"retry-after": "inf"}, "", None),
        ({"retry-after-ms": "1500"}, "", 1.5),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:30 GMT", "date": DATE}, "", 30.0),
        ({"retry-after": "Wed, 21 Oct 2026 07:27:00 GMT", "date": DATE}, "", 0.0),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:30 GMT"}, "", None),
        ({}, retry_info("53s"), 53.0),
        ({}, retry_info("1.25s"), 1.25),
        ({}, f"[{retry_info('7s')}]", 7.0),
        ({}, retry_info("7"), None),
        ({}, retry_info(7), None),
        ({"retry-after": "2"}, retry_info("53s"), 53.0),
        ({}, '{"error": "overloaded"}', None),
        ({}, "[" * 100_000, None),
    ],
)
def test_the_longest_delay_asked_for_is_honoured(headers, body, delay_s):
    assert delay_asked(headers, body) == delay_s
    assert failure(429, body, headers).delay_s == delay_s


def test_a_message_is_one_line_without_key_or_hidden_characters():
    secret = Secret("KEY123", "A_KEY")
    assert excerpt("a\n\x1b[2Jb KEY123 \u202e", secret) == "a ⟨U+001B⟩[2Jb *** ⟨U+202E⟩"


@pytest.mark.parametrize("n_before", range(180, 210))
def test_cutting_a_message_leaves_no_part_of_the_key(n_before):
    secret = Secret("KEY-ABCDEFGHIJ", "A_KEY")
    assert "KEY" not in excerpt("x" * n_before + "KEY-ABCDEFGHIJ", secret)


def test_an_endpoint_loses_its_last_slash_and_keeps_its_path():
    assert check_endpoint("https://a.example/v1beta/openai/") == "https://a.example/v1beta/openai"


@pytest.mark.parametrize(
    "address",
    ["a.example/v1", "ftp://a.example", "https://", "https://me:pw@a.example", "https://a.example?key=pw",
     "https://a.example#pw", ""],
)  # fmt: skip
def test_an_endpoint_with_a_secret_or_without_a_host_is_refused_and_not_quoted(address):
    with pytest.raises(ConfigError, match="expected an endpoint") as caught:
        check_endpoint(address)
    assert "pw" not in str(caught.value)
