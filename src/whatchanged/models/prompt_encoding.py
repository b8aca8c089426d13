"""From a prompt to the token ids that a causal language model continues."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from whatchanged.errors import ConfigError

PromptFormat = Literal["auto", "plain", "chat"]

NO_UNICODE = "the prompt holds half of a surrogate pair, so no tokens"


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """The token ids of a prompt, or the reason why it has none that the model could continue."""

    ids: tuple[int, ...]
    problem: str = ""


@dataclass(frozen=True)
class PromptEncoder:
    """Encodes prompts for one model: as they are, or as the user's turn of its chat template.

    A system prompt is the system's turn of the template; without one, it is plain text before the
    prompt, on a line of its own unless it ends in white space.

    `max_tokens` is how long a prompt may be (None: no limit), `n_vocab` the size of the model's
    vocabulary. Build it with `prompt_encoder`.
    """

    tokenizer: Any
    is_chat: bool
    system_prompt: str | None
    max_tokens: int | None
    n_vocab: int

    def encode(self, prompts: Sequence[str]) -> list[EncodedPrompt]:
        """One encoded prompt per prompt, in the order asked; a long prompt is never cut."""
        return [self._encode_one(prompt) for prompt in prompts]

    def _encode_one(self, prompt: str) -> EncodedPrompt:
        if not is_unicode(prompt):
            return EncodedPrompt((), NO_UNICODE)
        text = self._in_chat(prompt) if self.is_chat else self._prefixed(prompt)
        encoded = self.tokenizer(text, add_special_tokens=not self.is_chat, truncation=False)
        ids = tuple(encoded["input_ids"]) or self._start_ids()
        return EncodedPrompt(ids, self._problem(ids))

    def _in_chat(self, prompt: str) -> str:
        return str(
            self.tokenizer.apply_chat_template(
                _messages(prompt, self.system_prompt), tokenize=False, add_generation_prompt=True
            )
        )

    def _prefixed(self, prompt: str) -> str:
        prefix = self.system_prompt or ""
        separator = "\n" if prefix and not prefix[-1].isspace() else ""
        return f"{prefix}{separator}{prompt}"

    def _start_ids(self) -> tuple[int, ...]:
        """What an empty prompt continues: the token that starts a text, where there is one."""
        start = self.tokenizer.bos_token_id
        if start is None:
            start = self.tokenizer.eos_token_id
        return () if start is None else (start,)

    def _problem(self, ids: tuple[int, ...]) -> str:
        if not ids:
            return "the prompt has no tokens, and the tokenizer has none that starts a text"
        if self.max_tokens is not None and len(ids) > self.max_tokens:
            return (
                f"the prompt has {len(ids)} tokens, and the model's context leaves room for "
                f"{self.max_tokens} beside the new ones"
            )
        if max(ids) >= self.n_vocab:
            return f"token {max(ids)} is outside the model's vocabulary of {self.n_vocab}"
        return ""


def prompt_encoder(
    tokenizer: Any,
    prompt_format: PromptFormat,
    system_prompt: str | None,
    *,
    max_tokens: int | None,
    n_vocab: int,
) -> PromptEncoder:
    """The encoder for a prompt format: `auto` is chat where the tokenizer has a chat template.

    Raises ConfigError for a chat format without a template, a template that refuses a system
    prompt, and a context without room for any prompt.
    """
    has_template = getattr(tokenizer, "chat_template", None) is not None
    if prompt_format == "chat" and not has_template:
        raise ConfigError(
            "prompts.format: chat needs a chat template, and the tokenizer has none: use plain"
        )
    is_chat = has_template and prompt_format != "plain"
    if max_tokens is not None and max_tokens < 1:
        raise ConfigError(
            f"decode.max_new_tokens leaves {max_tokens} tokens of the model's context for the "
            f"prompt: make it smaller"
        )
    encoder = PromptEncoder(tokenizer, is_chat, system_prompt, max_tokens, n_vocab)
    if is_chat:
        _check_template(encoder)
    return encoder


def _check_template(encoder: PromptEncoder) -> None:
    from jinja2 import TemplateError

    try:
        encoder._in_chat("Hello.")
    except TemplateError as error:
        raise ConfigError(
            f"the chat template refuses {'a system prompt' if encoder.system_prompt else 'a turn'}"
            f" ({error}): remove system_prompt, or use prompts.format: plain"
        ) from None


def _messages(prompt: str, system_prompt: str | None) -> list[dict[str, str]]:
    system = [] if system_prompt is None else [{"role": "system", "content": system_prompt}]
    return [*system, {"role": "user", "content": prompt}]


def is_unicode(text: str) -> bool:
    """Whether the text can be written as UTF-8."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
