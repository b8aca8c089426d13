"""What calls the APIs of a config: one provider each, opened once per process."""

from __future__ import annotations

import threading
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from whatchanged.api_config import ApiConfig
from whatchanged.config import AuditConfig, BudgetConfig
from whatchanged.errors import ConfigError, UsageError
from whatchanged.models.offline import is_local_endpoint

if TYPE_CHECKING:
    from collections.abc import Callable

    from whatchanged.models.call_ledger import CallLedger
    from whatchanged.models.calling import Caller
    from whatchanged.models.chat import ChatProvider, ChatReply, ChatRequest
    from whatchanged.models.secret import Secret

# Two threads that ask for the same provider must not open it twice.
_OPENING = threading.Lock()


def load_caller(
    api: ApiConfig,
    budget: BudgetConfig,
    ledger: CallLedger | None,
    is_usable: Callable[[ChatRequest, ChatReply], bool] | None = None,
    own_max_usd: float | None = None,
) -> Caller:
    """What calls a provider within its limits and the budget; `is_usable` says which replies are
    kept (None: those that a judge or a proposer can settle with), `own_max_usd` what the calls of
    the ledger's purpose may cost. Raises MissingDependencyError for
    a package or a key that is not there, ConfigError for prices that cannot be read, UsageError
    without a ledger."""
    from whatchanged.models.calling import Caller, CallLimits

    if ledger is None:
        raise UsageError(f"expected a ledger for the calls to {api.provider}, found none: pass one")
    from whatchanged.models.llm_judge import is_settled
    from whatchanged.models.prices import cost_usd, load_prices, max_cost_usd

    table = load_prices(Path(budget.prices) if budget.prices else None)
    with _OPENING:
        opened = _provider(api.provider, api.endpoint, api.key_variable)
    return Caller(
        opened,
        ledger,
        price=lambda request, reply: cost_usd(table, request.model, reply),
        worst_price=lambda request: max_cost_usd(table, request),
        max_usd=budget.max_usd,
        own_max_usd=own_max_usd,
        limits=CallLimits(max_concurrency=api.max_concurrency),
        is_usable=is_usable or is_settled,
    )


def check_apis(config: AuditConfig) -> None:
    """Nothing, where every API of the config has its key, and its price where the budget needs one.

    Raises MissingDependencyError for a key, ConfigError for prices or a price that is not there,
    and for an API of another machine in an offline run.
    """
    from whatchanged.models.prices import load_prices

    prices = load_prices(Path(config.budget.prices) if config.budget.prices else None)
    for name, api in config.apis.items():
        if config.run.offline and not is_local_endpoint(api.endpoint):
            raise ConfigError(
                f"{name}.endpoint: expected an address of this machine, because run.offline is "
                f"set, found {api.endpoint or 'the own address of ' + api.provider}: name a local "
                "server, or set run.offline to false"
            )
        _read_key(api.provider, api.endpoint, api.key_variable)
        caps = {"budget.max_usd": config.budget.max_usd, **_own_cap(config, name)}
        cap = next((key for key, max_usd in caps.items() if max_usd is not None), None)
        if cap is not None and api.model not in prices:
            raise ConfigError(
                f"{name}.model: expected a price for {api.model!r}, because {cap} is set, found "
                f"none: add it to a file and name that in budget.prices, or set {cap} to null"
            )


def _own_cap(config: AuditConfig, name: str) -> dict[str, float | None]:
    return {
        f"{side}.max_usd": model.max_usd for side, model in config.sides.items() if side == name
    }


@lru_cache(maxsize=8)
def _provider(provider: str, endpoint: str | None, key_variable: str | None) -> ChatProvider:
    """Kept open: connections are worth more than the memory."""
    from whatchanged.models import gemini, openai_compatible

    key = _read_key(provider, endpoint, key_variable)
    if provider == "gemini":
        assert key is not None, "Gemini always needs a key"
        return gemini.Gemini(key, endpoint=endpoint or gemini.ENDPOINT)
    return openai_compatible.OpenAICompatible(key, endpoint=endpoint or openai_compatible.ENDPOINT)


def _read_key(provider: str, endpoint: str | None, key_variable: str | None) -> Secret | None:
    from whatchanged.models import gemini, openai_compatible
    from whatchanged.models.secret import secret_from_environment

    if provider == "gemini":
        return secret_from_environment(key_variable or gemini.KEY_VARIABLE)
    # OpenAI's key goes to OpenAI alone: for another address the config names the key, or none is
    # sent.
    if endpoint is not None and key_variable is None:
        return None
    return secret_from_environment(key_variable or openai_compatible.KEY_VARIABLE)
