"""A model behind an API as the subject of an audit: every text is one call, paid for once.

A text's request holds a seed made of its noise key, so that each sample of a prompt is a request of
its own: in the ledger always, in what is drawn where the provider keeps to seeds. What is drawn is
no function of the noise that local models share, so a remote side is never coupled.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from whatchanged.keys import seed_from_key
from whatchanged.model_config import DecodeConfig
from whatchanged.models.chat import CallResult, ChatReply, ChatRequest
from whatchanged.models.prompt_encoding import NO_UNICODE, is_unicode
from whatchanged.models.thinking import ThinkMarkers
from whatchanged.records import Completion, DecodeRequest, Finish

# Raise it with any change that asks for another text under the same noise key.
VERSION = 1

Caller: TypeAlias = Callable[[Sequence[ChatRequest]], list[CallResult]]

# Gemini's endpoint takes seeds of 32 bits with a sign, all others larger ones.
_N_SEEDS = 2**31
_BYTES_PER_TOKEN = 4


@dataclass(frozen=True)
class RemoteDecoder:
    """Decodes by `call`, which gives one result per request in the order asked. `markers` are cut
    out of the texts with all that stands between them; None keeps it."""

    call: Caller
    provider: str
    model: str
    system: str
    config: DecodeConfig
    markers: ThinkMarkers | None = None

    def decode(self, requests: Sequence[DecodeRequest]) -> list[Completion]:
        """One completion per request, in the order asked.

        A text is "failed" with its reason where no reply came after all tries, where the provider
        refused or filtered it, and where tokens came without a text. The first of these is asked
        for again by the next run, which pays for no answer twice.
        """
        sound = [request for request in requests if is_unicode(request.prompt)]
        results = self.call([self._ask(request) for request in sound]) if sound else []
        found = dict(zip(sound, map(self._read, results), strict=True))
        return [found.get(request, Completion("", 0, "failed", NO_UNICODE)) for request in requests]

    def _ask(self, request: DecodeRequest) -> ChatRequest:
        return ChatRequest(
            provider=self.provider,
            model=self.model,
            system=self.system,
            user=request.prompt,
            schema="",
            max_tokens=self.config.max_new_tokens,
            temperature=self.config.temperature,
            top_p=self.config.top_p if self.config.top_p < 1 else None,
            seed=sample_seed(request.noise_key),
        )

    def _read(self, result: CallResult) -> Completion:
        if result.reply is None:
            return Completion("", 0, "failed", result.reason)
        completion = read_sample(result.reply)
        if self.markers is None or completion.finish == "failed":
            return completion
        answer = self.markers.answer(completion.text)
        if answer is None:
            return replace(completion, text="", finish="failed", reason=_STILL_THINKING)
        return replace(completion, text=answer)


def sample_seed(noise_key: str) -> int:
    """The seed of the sample with this noise key, from 0 to below 2^31."""
    return seed_from_key(noise_key) % _N_SEEDS


def is_sample(_request: ChatRequest, reply: ChatReply) -> bool:
    """Whether a reply is a text of the model: it ended, or was cut at the length asked for."""
    return reply.finish in ("stop", "cut_off")


def read_sample(reply: ChatReply) -> Completion:
    """A reply as a text. Where the provider does not say how many tokens it has, they are estimated
    at one per 4 bytes, and `decoded_by` says so."""
    if reply.finish == "refused":
        return Completion("", 0, "failed", reply.reason, decoded_by=reply.served_by)
    n_tokens, decoded_by = reply.n_tokens_out, reply.served_by
    if n_tokens is None:
        n_tokens = math.ceil(len(reply.text.encode("utf-8", "surrogatepass")) / _BYTES_PER_TOKEN)
        decoded_by = f"{decoded_by}, tokens estimated"
    # An empty reply is the token that ends it.
    if not reply.text and n_tokens > 1:
        reason = f"{n_tokens} tokens and no text ({reply.reason or reply.finish}): {_HIDDEN}"
        return Completion("", n_tokens, "failed", reason, decoded_by=decoded_by)
    finish: Finish = "stop" if reply.finish == "stop" else "length"
    return Completion(reply.text, n_tokens, finish, decoded_by=decoded_by)


_HIDDEN = "if the model reasons out of sight, raise decode.max_new_tokens"
_STILL_THINKING = "the thinking did not end: raise decode.max_new_tokens"
