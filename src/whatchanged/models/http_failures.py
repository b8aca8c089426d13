"""What a failed HTTP call means: the one place that turns statuses and addresses into errors.

Errors are built from a status and a redacted excerpt of the body, never from a client library's
exception: those carry the request, its headers and so the key.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import TypeVar
from urllib.parse import urlsplit

from whatchanged.errors import (
    ConfigError,
    MissingDependencyError,
    TransientError,
    UsageError,
    WhatchangedError,
)
from whatchanged.escape import show_hidden
from whatchanged.models.chat import ProviderBusyError
from whatchanged.models.secret import Secret

T = TypeVar("T")

MAX_EXCERPT = 200
_BUSY = {429, 503, 529}
_MAY_WORK_LATER = {408, 409, 425}
_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)s")


def value_or_raise(outcome: T | WhatchangedError) -> T:
    """What a call gave, or its failure raised.

    Providers return failures and raise them by this, out of the `except` that caught them: within
    it the library's own exception, which holds the request and its headers, would travel along as
    the context.
    """
    if isinstance(outcome, WhatchangedError):
        raise outcome
    return outcome


def check_endpoint(address: str) -> str:
    """The address without a slash at its end.

    Raises ConfigError unless it is http(s)://host[:port][/path]: a user name, a password or a query
    would be stored with every call.
    """
    parts = urlsplit(address)
    plain = not (parts.username or parts.password or parts.query or parts.fragment)
    if parts.scheme not in {"http", "https"} or not parts.hostname or not plain:
        host = parts.hostname or "no host"
        raise ConfigError(
            f"expected an endpoint such as https://host/path, found scheme {parts.scheme!r}, "
            f"{host}{'' if plain else ', and a user name, a query or a fragment'}: give the bare "
            f"address and keep keys in environment variables"
        )
    return address.rstrip("/")


def failure_from_status(
    status: int, headers: Mapping[str, str], body: str, *, provider: str, secret: Secret | None
) -> WhatchangedError:
    """The error that a reply with a status other than 2xx stands for.

    429, 503 and 529 ask to wait, unless the account is out of money; 401, 403 and a key called
    invalid are the key's; 408, 409, 425 and every other 5xx may work later; the rest never will, a
    redirect included, because it would carry the key to another address.
    """
    said = f"{provider} answered {status}: {excerpt(_message_in(body), secret)}"
    code = codes_in(body)
    if "insufficient_quota" in code:
        return UsageError(f"{said}: the account has no money left; top it up and run again")
    if status in _BUSY:
        return ProviderBusyError(said, delay_asked(headers, body))
    if status in {401, 403} or "API_KEY_INVALID" in code:
        holder = (
            f"{secret.name} to hold" if secret else "no key to be needed, or the config to name"
        )
        return MissingDependencyError(f"{said}: expected {holder} a key that may use this model")
    if status >= 500 or status in _MAY_WORK_LATER:
        return TransientError(said)
    if 300 <= status < 400:
        return UsageError(f"{said}: redirects are not followed; configure the final address")
    return UsageError(f"{said}: check the model's name, the address and the request's limits")


def failure_from_exception(
    error: BaseException, *, provider: str, secret: Secret | None
) -> TransientError:
    """The error for a call that got no whole reply: time limits, resets, unreadable envelopes."""
    kind = type(error).__name__
    return TransientError(f"{provider} gave no whole reply ({kind}: {excerpt(str(error), secret)})")


def delay_asked(headers: Mapping[str, str], body: str) -> float | None:
    """Seconds that the provider asks to wait, the longest of what it says; None: it says nothing.

    Read from Retry-After (seconds, or a date, counted from the reply's own Date), Retry-After-Ms
    and, in a Google error, RetryInfo. `headers` must be findable in lower case.
    """
    found = [
        _seconds(headers.get("retry-after", "")),
        _seconds(headers.get("retry-after-ms", ""), 1000),
        _seconds_until(headers.get("retry-after", ""), headers.get("date", "")),
        *(_duration(detail.get("retryDelay")) for detail in _details_in(body)),
    ]
    return max((delay for delay in found if delay is not None), default=None)


def excerpt(text: str, secret: Secret | None) -> str:
    """The start of a foreign text, on one line, without the key and with nothing hidden."""
    # Cutting first could leave a part of the key that no longer looks like it.
    safe = secret.redact(text) if secret else text
    line = " ".join(show_hidden(safe[: 4 * MAX_EXCERPT]).split())
    return line if len(line) <= MAX_EXCERPT else f"{line[:MAX_EXCERPT]}..."


def codes_in(body: str) -> set[str]:
    """What a JSON error body calls its error: code, type, status and reasons."""
    error = _error_in(body)
    named = [error.get("code"), error.get("type"), error.get("status")]
    named += [detail.get("reason") for detail in _details_in(body)]
    return {name for name in named if isinstance(name, str)}


def _message_in(body: str) -> str:
    error = _error_in(body)
    message = error.get("message")
    return message if isinstance(message, str) else body


def _details_in(body: str) -> list[Mapping[str, object]]:
    details = _error_in(body).get("details")
    return [d for d in details if isinstance(d, dict)] if isinstance(details, list) else []


def _error_in(body: str) -> Mapping[str, object]:
    """The "error" object of a JSON body, also where the body is a list of one; else nothing."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    if isinstance(found, list) and found:
        found = found[0]
    error = found.get("error") if isinstance(found, dict) else None
    return error if isinstance(error, dict) else {}


def _seconds(value: str, per_second: float = 1) -> float | None:
    try:
        seconds = float(value) / per_second
    except ValueError:
        return None
    return max(seconds, 0.0) if math.isfinite(seconds) else None


def _duration(value: object) -> float | None:
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    return float(match[1]) if match else None


def _seconds_until(then: str, now: str) -> float | None:
    try:
        seconds = (parsedate_to_datetime(then) - parsedate_to_datetime(now)).total_seconds()
    except (TypeError, ValueError):
        return None
    return max(seconds, 0.0)
