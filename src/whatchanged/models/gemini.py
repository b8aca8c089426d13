"""Gemini, by Google's `google-generativeai` package over REST.

The package is out of support upstream (and says so when it is imported), so this wraps only its
messages and its REST transport: the address can be set, nothing is retried, and every failure is
read from the HTTP reply itself. `openai_compatible` reaches the same models without the package.
"""

from __future__ import annotations

import asyncio
import io
import json
import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

from whatchanged.errors import ConfigError, MissingDependencyError, WhatchangedError
from whatchanged.models.chat import ChatReply, ChatRequest
from whatchanged.models.http_failures import (
    check_endpoint,
    failure_from_exception,
    failure_from_status,
    value_or_raise,
)
from whatchanged.models.limits import Limits
from whatchanged.models.secret import Secret

if TYPE_CHECKING:
    import requests

ENDPOINT = "https://generativelanguage.googleapis.com"
KEY_VARIABLE = "GEMINI_API_KEY"

T = TypeVar("T")
_READ_BYTES = 65_536
_MODEL = re.compile(r"((models|tunedModels)/)?[A-Za-z0-9._-]+")


class Gemini:
    """Gemini's `generateContent`, one try per call. `endpoint` is scheme, host and port."""

    def __init__(
        self, secret: Secret, *, endpoint: str = ENDPOINT, limits: Limits | None = None
    ) -> None:
        self._secret = secret
        self._endpoint = check_endpoint(endpoint)
        self._limits = limits or Limits()
        self._transport = _open_transport(secret, self._endpoint, self._limits.total_s)

    @property
    def identity(self) -> str:
        """API and address."""
        return f"gemini:{self._endpoint}"

    async def send(self, request: ChatRequest) -> ChatReply:
        """The reply to one request; errors as ChatProvider says."""
        return value_or_raise(await self._outcome(request))

    async def close(self) -> None:
        """Close idle connections; those in use end with their calls."""
        self._transport.close()

    async def _outcome(self, request: ChatRequest) -> ChatReply | WhatchangedError:
        message = _write_request(request)
        try:
            async with asyncio.timeout(self._limits.total_s):
                return await _in_thread(lambda: self._reply_or_failure(message))
        except TimeoutError:
            return failure_from_exception(
                TimeoutError(f"over {self._limits.total_s:g} s in all"),
                provider=self.identity,
                secret=self._secret,
            )

    def _reply_or_failure(self, message: Any) -> ChatReply | WhatchangedError:
        """In a thread of its own: the package's REST transport blocks."""
        try:
            answer = self._transport.generate_content(
                message, timeout=(self._limits.connect_s, self._limits.read_s)
            )
        except _HttpStatusError as error:
            return failure_from_status(
                error.status,
                error.headers,
                error.body,
                provider=self.identity,
                secret=self._secret,
            )
        except Exception as error:
            # requests, urllib3, protobuf and the package raise unrelated types; what they have in
            # common is that no whole reply arrived.
            return failure_from_exception(error, provider=self.identity, secret=self._secret)
        return _read_reply(answer)


def _open_transport(secret: Secret, endpoint: str, total_s: float) -> Any:
    """The package's REST transport. Opening it sends nothing."""
    try:
        import google.generativeai  # noqa: F401  it says on import that its support has ended
        from google.ai.generativelanguage import GenerativeServiceClient
        from google.auth.api_key import Credentials
    except ImportError:
        raise MissingDependencyError(
            "expected the package google-generativeai for the provider gemini, found none: "
            "pip install 'whatchanged[gemini]', or use the provider openai_compatible"
        ) from None
    make_credentials: Callable[[str], Any] = Credentials
    client = GenerativeServiceClient(
        credentials=make_credentials(secret.reveal()),
        transport="rest",
        client_options={"api_endpoint": endpoint},
    )
    transport: Any = client.transport
    # The package gets no further releases that could move its private session.
    for scheme in ("http://", "https://"):
        transport._session.mount(scheme, _one_try_adapter(total_s))
    return transport


class _HttpStatusError(Exception):
    """A reply with a status other than 2xx. It holds nothing of the request."""

    def __init__(self, status: int, headers: dict[str, str], body: str) -> None:
        super().__init__(status)
        self.status, self.headers, self.body = status, headers, body


def _one_try_adapter(total_s: float) -> requests.adapters.HTTPAdapter:
    """A transport for `requests` that reads the whole body within a time limit and raises for
    every status but 2xx.

    So nothing above it repeats a call (Google's session does after a 401), follows a redirect (and
    takes the key along), or waits for a body that never ends.
    """
    import requests

    class OneTryAdapter(requests.adapters.HTTPAdapter):
        def send(self, *request: Any, **options: Any) -> requests.Response:
            deadline = time.monotonic() + total_s
            reply = super().send(*request, **{**options, "stream": True})
            with reply:
                body = _read_body(reply.raw, deadline)
            if not 200 <= reply.status_code < 300:
                headers = {name.lower(): value for name, value in reply.headers.items()}
                raise _HttpStatusError(reply.status_code, headers, body.decode("utf-8", "replace"))
            reply.raw = io.BytesIO(body)
            return reply

    return OneTryAdapter(pool_maxsize=256, max_retries=0)


def _read_body(raw: Any, deadline: float) -> bytes:
    body = bytearray()
    while data := raw.read1(_READ_BYTES, decode_content=True):
        body += data
        if time.monotonic() > deadline:
            raise TimeoutError("the reply came too slowly")
    return bytes(body)


def _write_request(request: ChatRequest) -> Any:
    from google.generativeai import protos

    if not _MODEL.fullmatch(request.model):
        raise ConfigError(
            f"expected the name of a Gemini model such as gemini-2.5-flash, found "
            f"{request.model!r}: a name has letters, digits, dots and hyphens"
        )
    is_path = "/" in request.model
    return protos.GenerateContentRequest(
        model=request.model if is_path else f"models/{request.model}",
        system_instruction=protos.Content(parts=[protos.Part(text=request.system)]),
        contents=[protos.Content(role="user", parts=[protos.Part(text=request.user)])],
        generation_config=protos.GenerationConfig(
            candidate_count=1,
            max_output_tokens=request.max_tokens,
            temperature=request.temperature,
            response_mime_type="application/json",
            response_schema=_write_schema(json.loads(request.schema)),
        ),
    )


def _write_schema(schema: dict[str, Any]) -> Any:
    """A JSON schema in Gemini's own words, which have no bounds of numbers and no
    `additionalProperties`; replies are checked against those here."""
    from google.generativeai import protos

    return protos.Schema(
        type_=getattr(protos.Type, schema["type"].upper()),
        description=schema.get("description", ""),
        enum=schema.get("enum", []),
        items=_write_schema(schema["items"]) if "items" in schema else None,
        min_items=schema.get("minItems", 0),
        max_items=schema.get("maxItems", 0),
        properties={
            name: _write_schema(part) for name, part in schema.get("properties", {}).items()
        },
        required=schema.get("required", []),
    )


def _read_reply(answer: Any) -> ChatReply:
    n_in, n_out = _read_usage(answer.usage_metadata)
    if not answer.candidates:
        reason = _name_of(answer.prompt_feedback.block_reason)
        if reason:
            return ChatReply("", "refused", f"the prompt was blocked: {reason}", n_in, n_out)
        return ChatReply("", "stop", "the reply has no candidates", n_in, n_out)
    candidate = answer.candidates[0]
    finish = _name_of(candidate.finish_reason) or "no finish reason"
    parts = candidate.content.parts
    is_text = all("text" in part for part in parts)
    text = "".join(part.text for part in parts) if is_text else ""
    match finish:
        case "STOP":
            return ChatReply(text, "stop", "" if is_text else "it has no text", n_in, n_out)
        case "MAX_TOKENS":
            return ChatReply(text, "cut_off", "MAX_TOKENS", n_in, n_out)
    return ChatReply("", "refused", finish, n_in, n_out)


def _read_usage(usage: Any) -> tuple[int | None, int | None]:
    """Tokens in and out. Everything that is not prompt is billed as output: the total includes the
    model's hidden reasoning, for which this package has no field."""
    if not usage.total_token_count or not usage.prompt_token_count:
        return None, None
    return usage.prompt_token_count, usage.total_token_count - usage.prompt_token_count


def _name_of(value: Any) -> str:
    """An enum's name, its number where this package does not know it, "" where it is not set."""
    return str(getattr(value, "name", value)) if value else ""


async def _in_thread(work: Callable[[], T]) -> T:
    """What `work` returns, from a daemon thread.

    The threads of asyncio's own pool are waited for at exit, so one that hangs in a socket would
    keep the process alive.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    future.set_running_or_notify_cancel()
    threading.Thread(target=run, daemon=True, name="gemini-call").start()
    return await asyncio.wrap_future(future)
