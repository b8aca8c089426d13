from datetime import date

import pytest

from whatchanged.errors import ConfigError
from whatchanged.models.chat import ChatReply, ChatRequest
from whatchanged.models.prices import (
    Price,
    cost_usd,
    expected_tokens_in,
    load_prices,
    max_cost_usd,
    max_tokens_in,
)

PRICES = {"known": Price(2.0, 10.0, None), "free": Price(0.0, 0.0, None)}


def reply(n_in, n_out):
    return ChatReply("{}", "stop", "", n_in, n_out)


def request(model="known", user="abcd", max_tokens=100):
    return ChatRequest("p", model, "ab", user, "{}", max_tokens, 0.0)


def test_a_cost_is_tokens_times_dollars_per_million():
    # 1000 x 2 + 50 x 10 = 2500 millionths.
    assert cost_usd(PRICES, "known", reply(1000, 50)) == pytest.approx(0.0025)


def test_an_unknown_price_is_none_and_never_0():
    assert cost_usd(PRICES, "other", reply(1000, 50)) is None
    assert max_cost_usd(PRICES, request("other")) is None


def test_an_unknown_number_of_tokens_costs_an_unknown_amount():
    assert cost_usd(PRICES, "known", reply(None, 50)) is None
    assert cost_usd(PRICES, "known", reply(1000, None)) is None


def test_a_model_declared_free_costs_0_whatever_it_counts():
    assert cost_usd(PRICES, "free", reply(None, None)) == 0.0
    assert max_cost_usd(PRICES, request("free")) == 0.0


def test_a_refusal_is_charged_for_too():
    refused = ChatReply("", "refused", "SAFETY", 1000, 0)
    assert cost_usd(PRICES, "known", refused) == pytest.approx(0.002)


def test_tokens_are_estimated_from_bytes():
    # "ab", "abcd" and "{}": 8 bytes.
    assert expected_tokens_in(request()) == 2 + 16
    assert max_tokens_in(request()) == 8 + 64
    # Three bytes per character, and a lone surrogate does not raise.
    assert max_tokens_in(request(user="\u4e2d\u6587\ud800")) == 4 + 9 + 64


def test_the_worst_cost_takes_every_byte_and_the_whole_answer():
    # (8 + 64) x 2 + 100 x 10 = 1144 millionths.
    assert max_cost_usd(PRICES, request()) == pytest.approx(0.001144)


def test_every_shipped_price_is_dated_and_above_0():
    prices = load_prices()
    assert prices["gemini-2.5-flash"] == Price(0.30, 2.50, date(2026, 10, 7))
    assert len(prices) >= 10
    for price in prices.values():
        assert 0 < price.input < price.output
        assert price.as_of is not None


def test_a_users_file_replaces_entries_one_by_one(tmp_path):
    path = tmp_path / "prices.yaml"
    path.write_text("models:\n  gpt-4o: {input: 1, output: 2}\n  mine: {input: 0, output: 0}\n")
    prices = load_prices(path)
    assert prices["gpt-4o"] == Price(1.0, 2.0, None)
    assert prices["mine"] == Price(0.0, 0.0, None)
    assert prices["gpt-4o-mini"] == load_prices()["gpt-4o-mini"]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "models: []",
        "models:\n  m: 3",
        "models:\n  m: {input: 1}",
        "models:\n  m: {input: 1, output: -1}",
        "models:\n  m: {input: 1, output: .nan}",
        "models:\n  m: {input: 1, output: .inf}",
        "models:\n  m: {input: 1, output: '2'}",
        "models:\n  m: {input: true, output: 2}",
        "models:\n  m: {input: 1, output: 2, currency: EUR}",
        "models:\n  m: {input: 1, output: 2, as_of: soon}",
        "models: {",
        "\xff",
    ],
)
def test_a_file_that_is_no_price_table_is_refused_in_a_sentence(tmp_path, content):
    path = tmp_path / "prices.yaml"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(ConfigError, match="expected"):
        load_prices(path)


def test_a_missing_file_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(ConfigError, match=r"expected a file of prices at .* found none"):
        load_prices(tmp_path / "none.yaml")
