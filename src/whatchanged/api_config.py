"""A language model behind an API: a block that judges, proposers and audited models share."""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field, model_validator

from whatchanged.config_blocks import Block

API_PROVIDERS = frozenset({"gemini", "openai_compatible"})


class ApiConfig(Block):
    """A language model behind an API. Its key comes from the environment variable `key_variable`
    (null: the provider's usual one) and stands in no file.

    `endpoint` is null for the provider's own address. `max_tokens` bounds an answer, a model's
    hidden reasoning included. `max_concurrency` calls at most are in flight at once.
    """

    provider: str
    model: str | None = None
    endpoint: str | None = None
    key_variable: str | None = None
    max_tokens: int = Field(1024, ge=1)
    temperature: float = Field(0.0, ge=0)
    max_concurrency: int = Field(32, ge=1)

    @property
    def is_api(self) -> bool:
        """Whether the provider is an API; all others run in this process."""
        return self.provider in API_PROVIDERS

    def stated(self) -> dict[str, Any]:
        """What decides an answer, for a key."""
        asked = {"provider", "model", "endpoint", "max_tokens", "temperature"}
        return self.model_dump(include=asked)

    @model_validator(mode="after")
    def _api_has_a_model(self) -> Self:
        if self.is_api and self.model is None:
            raise ValueError(f"{self.provider} needs `model`, the name of one of its models")
        if not self.is_api and self.model is not None:
            raise ValueError(f"{self.provider} is local and takes no `model`")
        return self
