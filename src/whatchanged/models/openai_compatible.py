"""Any endpoint that speaks OpenAI's chat API: OpenAI, vLLM, Ollama, OpenRouter, Gemini, ...

Endpoints differ in which optional fields they take. A request goes out with all of them; where an
endpoint answers 400 and names one, that field is left out (or renamed) for this model from then on,
a warning is logged, and the refused call counts as one that may work when tried again:

    response_format    left out: the answer's form then stands in the prompt alone
    max_tokens         sent as max_completion_tokens, which models that reason ask for
    temperature        left out: models that reason take only their own; never from a sample that
                       asks for another than 1, which is their own
    seed               left out: the provider then draws as it likes

Replies are read as strictly without a schema as with one.
"""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from whatchanged.errors import MissingDependencyError, TransientError, WhatchangedError
from whatchanged.models.chat import ChatReply, ChatRequest
from whatchanged.models.http_failures import (
    check_endpoint,
    codes_in,
    excerpt,
    failure_from_exception,
    failure_from_status,
    value_or_raise,
)
from whatchanged.models.limits import Limits
from whatchanged.models.secret import Secret

if TYPE_CHECKING:
    from openai import AsyncOpenAI

ENDPOINT = "https://api.openai.com/v1"
KEY_VARIABLE = "OPENAI_API_KEY"

_logger = logging.getLogger(__name__)
# The client insists on a key; local servers ignore it.
_NO_KEY = "none"
# A 400 with one of these is about a single text, and no reason to stop asking about others.
_ABOUT_THE_TEXT = {"content_filter", "context_length_exceeded"}


@dataclass(frozen=True, slots=True)
class _Dialect:
    """Which optional fields a model is sent."""

    has_schema: bool = True
    has_temperature: bool = True
    has_seed: bool = True
    limit: str = "max_tokens"

    def left_out(self, request: ChatRequest) -> list[str]:
        """The fields of a sample that are not sent, for its record."""
        fields = {"temperature": self.has_temperature, "seed": self.has_seed}
        return [
            name for name, is_sent in fields.items() if request.seed is not None and not is_sent
        ]


class OpenAICompatible:
    """The chat API at `endpoint` (up to and with its version, such as .../v1), one try per call.

    `secret` is None for a local server that wants no key.
    """

    def __init__(
        self, secret: Secret | None, *, endpoint: str = ENDPOINT, limits: Limits | None = None
    ) -> None:
        self._secret = secret
        self._endpoint = check_endpoint(endpoint)
        self._limits = limits or Limits()
        self._dialects: dict[str, _Dialect] = {}
        self._client: AsyncOpenAI | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def identity(self) -> str:
        """API and address."""
        return f"openai:{self._endpoint}"

    async def send(self, request: ChatRequest) -> ChatReply:
        """The reply to one request; errors as ChatProvider says."""
        return value_or_raise(await self._outcome(request))

    async def close(self) -> None:
        """Close connections, where they belong to the loop that runs."""
        client, self._client = self._client, None
        if client is not None and self._loop is asyncio.get_running_loop():
            await client.close()

    async def _outcome(self, request: ChatRequest) -> ChatReply | WhatchangedError:
        client = self._connect()
        from openai import APIStatusError

        dialect = self._dialects.get(request.model, _Dialect())
        try:
            async with asyncio.timeout(self._limits.total_s):
                answer = await client.chat.completions.create(**_write_request(request, dialect))
        except TimeoutError:
            late = TimeoutError(f"over {self._limits.total_s:g} s in all")
            return failure_from_exception(late, provider=self.identity, secret=self._secret)
        except APIStatusError as error:
            headers = {name.lower(): value for name, value in error.response.headers.items()}
            status, body = error.status_code, error.response.text
        except Exception as error:
            # The client wraps some of what its transport raises, and lets the rest through; what
            # they have in common is that no whole reply arrived.
            return failure_from_exception(error, provider=self.identity, secret=self._secret)
        else:
            return self._read_answer(answer, dialect.left_out(request))
        return self._read_refusal(request, dialect, status, headers, body)

    def _connect(self) -> AsyncOpenAI:
        """The client of the running loop: connections cannot move from one loop to another."""
        loop = asyncio.get_running_loop()
        if self._client is None or self._loop is not loop:
            try:
                from openai import AsyncOpenAI, DefaultAsyncHttpxClient, Timeout
            except ImportError:
                raise MissingDependencyError(
                    "expected the package openai for the provider openai_compatible, found none: "
                    "pip install 'whatchanged[openai]'"
                ) from None
            self._loop = loop
            self._client = AsyncOpenAI(
                api_key=self._secret.reveal() if self._secret else _NO_KEY,
                base_url=self._endpoint,
                max_retries=0,
                timeout=Timeout(self._limits.read_s, connect=self._limits.connect_s),
                # A redirect would take the question, and on one host the key, to another address.
                http_client=DefaultAsyncHttpxClient(follow_redirects=False),
            )
        return self._client

    def _read_answer(self, answer: Any, left_out: list[str]) -> ChatReply | WhatchangedError:
        # OpenRouter reports the failure of the provider behind it in a reply with status 200.
        error = getattr(answer, "error", None)
        if isinstance(error, dict):
            status = error.get("code")
            status = status if isinstance(status, int) and status >= 300 else 500
            return failure_from_status(
                status,
                {},
                json.dumps({"error": error}),
                provider=self.identity,
                secret=self._secret,
            )
        # The client hands on any body with a status of 200: a sign-in page, say.
        if not isinstance(getattr(answer, "choices", None), list):
            return TransientError(f"{self.identity} gave a reply that is no chat completion")
        reply = _read_reply(answer)
        if reply.reason == "error":
            return TransientError(f"{self.identity} broke off its reply (finish reason error)")
        return replace(reply, served_by=_describe_server(answer, left_out))

    def _read_refusal(
        self,
        request: ChatRequest,
        dialect: _Dialect,
        status: int,
        headers: dict[str, str],
        body: str,
    ) -> ChatReply | WhatchangedError:
        if status == 400 and (about_text := _ABOUT_THE_TEXT & codes_in(body)):
            return ChatReply("", "refused", f"the prompt: {min(about_text)}", None, None)
        simpler = _simplify(dialect, request, body) if status in {400, 422} else None
        if simpler is None:
            return failure_from_status(
                status, headers, body, provider=self.identity, secret=self._secret
            )
        # Calls that were under way with an older dialect must not undo what was learned since.
        if self._dialects.get(request.model, _Dialect()) == dialect:
            self._dialects[request.model] = simpler
        told = f"{self.identity} refused a field for {request.model}, which is changed from now on"
        _logger.warning("%s: %s", told, excerpt(body, self._secret))
        return TransientError(f"{told}: ask again")


def _simplify(dialect: _Dialect, request: ChatRequest, body: str) -> _Dialect | None:
    """The dialect without what a 400 complains of; None where it names no field that was sent, or
    one that the request cannot do without."""
    if request.schema and dialect.has_schema and _names(body, "response_format", "json_schema"):
        return replace(dialect, has_schema=False)
    if dialect.limit == "max_tokens" and _names(body, "max_tokens"):
        return replace(dialect, limit="max_completion_tokens")
    may_do_without = request.seed is None or request.temperature == 1
    if may_do_without and dialect.has_temperature and _names(body, "temperature"):
        return replace(dialect, has_temperature=False)
    if request.seed is not None and dialect.has_seed and _names(body, "seed"):
        return replace(dialect, has_seed=False)
    return None


def _names(body: str, *fields: str) -> bool:
    return any(field in body for field in fields)


def _write_request(request: ChatRequest, dialect: _Dialect) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "model": request.model,
        "messages": [
            *([{"role": "system", "content": request.system}] if request.system else []),
            {"role": "user", "content": request.user},
        ],
        dialect.limit: request.max_tokens,
    }
    if dialect.has_temperature:
        fields["temperature"] = request.temperature
    if request.top_p is not None:
        fields["top_p"] = request.top_p
    if request.seed is not None and dialect.has_seed:
        fields["seed"] = request.seed
    if request.schema and dialect.has_schema:
        schema = {"name": "answer", "strict": True, "schema": json.loads(request.schema)}
        fields["response_format"] = {"type": "json_schema", "json_schema": schema}
    return fields


def _read_reply(answer: Any) -> ChatReply:
    """The first choice. The client does not check what servers send, so any field may be missing
    or of another type."""
    tokens = _read_usage(getattr(answer, "usage", None))
    choice = answer.choices[0] if answer.choices else None
    message = getattr(choice, "message", None)
    if message is None:
        return ChatReply("", "stop", "the reply has no message", *tokens)
    if refusal := getattr(message, "refusal", None):
        return ChatReply("", "refused", f"refusal: {excerpt(str(refusal), None)}", *tokens)
    content = getattr(message, "content", None)
    text = content if isinstance(content, str) else ""
    finish = getattr(choice, "finish_reason", None)
    if finish in ("tool_calls", "function_call") or getattr(message, "tool_calls", None):
        return ChatReply("", "stop", "it calls a tool", *tokens)
    match finish:
        case "stop":
            return ChatReply(text, "stop", "" if text else "it has no text", *tokens)
        case "length":
            return ChatReply(text, "cut_off", "length", *tokens)
    return ChatReply("", "refused", excerpt(str(finish or "no finish reason"), None), *tokens)


def _describe_server(answer: Any, left_out: list[str]) -> str:
    """The model and the version of its system, as the server names them."""
    named = [getattr(answer, name, None) for name in ("model", "system_fingerprint")]
    said = " ".join(excerpt(name, None) for name in named if isinstance(name, str) and name)
    return ", ".join([said, *(f"without {field}" for field in left_out)])


def _read_usage(usage: Any) -> tuple[int | None, int | None]:
    """Tokens in and out. Some endpoints count hidden reasoning in the total only."""
    n_in, n_out, n_all = (
        count if isinstance(count, int) else None
        for count in (
            getattr(usage, f"{name}_tokens", None) for name in ("prompt", "completion", "total")
        )
    )
    if n_in is None or n_out is None:
        return None, None
    return n_in, max(n_out, (n_all or 0) - n_in)
