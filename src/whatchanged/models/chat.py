"""One call to a language model behind an API, as every provider sees it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal, Protocol

from whatchanged.errors import TransientError
from whatchanged.keys import content_key

ChatFinish = Literal["stop", "cut_off", "refused"]


class ProviderBusyError(TransientError):
    """The provider asks to be left alone for `delay_s` seconds (None: it does not say how long)."""

    def __init__(self, message: str, delay_s: float | None) -> None:
        super().__init__(message)
        self.delay_s = delay_s


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """What is asked of a model. `schema` is the JSON schema of the answer, as JSON text; without
    one the answer is free text, and without a `system` there is no such turn.

    `provider` names the API and its address, so that equal requests to different endpoints are
    different calls. `max_tokens` bounds the answer, a model's hidden reasoning included. A `seed`
    asks for a sample from the model's distribution, as `temperature` and `top_p` shape it: requests
    with different seeds are different samples, also where the provider draws as it likes.
    """

    provider: str
    model: str
    system: str
    user: str
    schema: str
    max_tokens: int
    temperature: float
    top_p: float | None = None
    seed: int | None = None

    @property
    def key(self) -> str:
        """The content key under which the answer is kept; what is None is not asked for."""
        asked = {name: value for name, value in asdict(self).items() if value is not None}
        return content_key("chat/1", asked)


@dataclass(frozen=True, slots=True)
class ChatReply:
    """What came back. `text` is empty where `finish` is "refused", and `reason` then says why.

    Token counts are the provider's own, None where it gives none. `served_by` is what the provider
    says of the model that answered, and which fields of the request it did not take.
    """

    text: str
    finish: ChatFinish
    reason: str
    n_tokens_in: int | None
    n_tokens_out: int | None
    served_by: str = ""


@dataclass(frozen=True, slots=True)
class CallResult:
    """What became of one request after retries, the ledger and the budget.

    `reply` is None where there is none, and `reason` then says why. `cost_usd` is what the answer
    cost when it was paid for, in US dollars: None where that is unknown, and 0 where an equal
    request of the same batch stands for it. Nothing was paid now where it `is_cached`.
    """

    reply: ChatReply | None
    reason: str
    cost_usd: float | None
    is_cached: bool


class ChatProvider(Protocol):
    """An API that answers. It tries once: retries, limits and money are the caller's."""

    @property
    def identity(self) -> str:
        """The `provider` of its requests: API and address, never a key."""
        ...

    async def send(self, request: ChatRequest) -> ChatReply:
        """The reply to one request.

        Raises ProviderBusyError where the provider asks to wait (429, 503), TransientError for
        what may work when tried again (5xx, resets, time-outs), UsageError for what never will
        (another 4xx), MissingDependencyError for a key that is missing or refused. No message and
        no traceback holds the key.
        """
        ...

    async def close(self) -> None:
        """Close connections."""
        ...
