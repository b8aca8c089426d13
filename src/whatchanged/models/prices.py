"""What calls cost: a table that users can edit, and bounds before a call is made.

An unknown price is None, never 0: nobody should take a bill with a hole in it for a small one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from pathlib import Path

from whatchanged.errors import ConfigError
from whatchanged.models.chat import ChatReply, ChatRequest
from whatchanged.yaml_file import read_yaml

_SHIPPED = Path(__file__).with_name("prices.yaml")
_PER_TOKEN = 1e-6
_BYTES_PER_TOKEN = 4
# Roles, separators and the wrapping of the schema, which endpoints add and count.
_USUAL_OVERHEAD, _MAX_OVERHEAD = 16, 64


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars per million tokens, in and out; `as_of` is when the figures last held."""

    input: float
    output: float
    as_of: date | None


Prices = Mapping[str, Price]


@lru_cache(maxsize=16)
def load_prices(path: Path | None = None) -> Prices:
    """Prices by exact model name: those that ship with the package, replaced one by one by those of
    the user's file.

    Raises ConfigError for a file that cannot be read, or a price that is not a finite number of at
    least 0.
    """
    shipped = _read_table(_SHIPPED)
    return shipped if path is None else {**shipped, **_read_table(path)}


def cost_usd(prices: Prices, model: str, reply: ChatReply) -> float | None:
    """What a reply cost, in US dollars, a refusal included: providers charge for those too.

    None where the model's price or the number of tokens is unknown; 0 for a model declared free.
    """
    price = prices.get(model)
    if price is None:
        return None
    if price.input == price.output == 0:
        return 0.0
    if reply.n_tokens_in is None or reply.n_tokens_out is None:
        return None
    return (price.input * reply.n_tokens_in + price.output * reply.n_tokens_out) * _PER_TOKEN


def max_cost_usd(prices: Prices, request: ChatRequest) -> float | None:
    """The most that a request can cost, in US dollars: `max_tokens_in` in and all of `max_tokens`
    out. None where the model's price is unknown."""
    price = prices.get(request.model)
    if price is None:
        return None
    return (price.input * max_tokens_in(request) + price.output * request.max_tokens) * _PER_TOKEN


def expected_tokens_in(request: ChatRequest) -> int:
    """About how many tokens a request has: one per 4 UTF-8 bytes, which suits English prose, and 16
    for what the provider adds. Other scripts and long numbers take more."""
    return math.ceil(_n_bytes(request) / _BYTES_PER_TOKEN) + _USUAL_OVERHEAD


def max_tokens_in(request: ChatRequest) -> int:
    """A bound on a request's tokens: one per UTF-8 byte, and 64 for what the provider adds.

    Tokenizers that fall back to bytes, as all current ones do, cannot need more than that.
    """
    return _n_bytes(request) + _MAX_OVERHEAD


def _n_bytes(request: ChatRequest) -> int:
    texts = (request.system, request.user, request.schema)
    return sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)


def _read_table(path: Path) -> Prices:
    table = read_yaml(path, "a file of prices")
    models = table.get("models") if isinstance(table, dict) else None
    if not isinstance(models, dict):
        raise ConfigError(
            f"prices {path}: expected `models:` with one line per model, such as "
            f"`my-model: {{input: 0.10, output: 0.40}}`, found none"
        )
    return {str(model): _read_price(path, str(model), entry) for model, entry in models.items()}


def _read_price(path: Path, model: str, entry: object) -> Price:
    fields = entry if isinstance(entry, dict) else {}
    as_of = fields.get("as_of")
    unknown = set(fields) - {"input", "output", "as_of"}
    dated = as_of is None or isinstance(as_of, date)
    rate_in, rate_out = _read_rate(fields.get("input")), _read_rate(fields.get("output"))
    if unknown or not dated or rate_in is None or rate_out is None:
        raise ConfigError(
            f"prices {path}: {model}: expected {{input: dollars, output: dollars}} per million "
            f"tokens, each at least 0, and optionally as_of: a date; found {entry!r:.120}"
        )
    return Price(rate_in, rate_out, as_of)


def _read_rate(value: object) -> float | None:
    """Dollars per million tokens, None for what is none."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return float(value) if math.isfinite(value) and value >= 0 else None
