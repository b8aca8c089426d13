"""A prompt bank that a language model is to write, as data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from whatchanged.api_config import API_PROVIDERS, ApiConfig
from whatchanged.config import BudgetConfig
from whatchanged.config_blocks import Block, parse_block
from whatchanged.config_file import read_values


class WriterConfig(ApiConfig):
    """The model that writes prompts. Its `temperature` is that of varied prompts."""

    max_tokens: int = Field(4096, ge=1)
    temperature: float = Field(1.0, ge=0)

    @model_validator(mode="after")
    def _is_behind_an_api(self) -> Self:
        if not self.is_api:
            known = " or ".join(sorted(API_PROVIDERS))
            raise ValueError(f"expected a provider {known}, found {self.provider!r}")
        return self


class PromptWritingConfig(Block):
    """Which prompts are written: `prompts_per_area` for each of the `areas`, which become their
    groups. `instructions` are told to the model beside the area; `budget.max_usd` caps the bill of
    one file, over all attempts."""

    areas: tuple[str, ...] = Field(min_length=1)
    prompts_per_area: int = Field(50, ge=1)
    instructions: str = ""
    writer: WriterConfig
    budget: BudgetConfig = BudgetConfig()

    @model_validator(mode="after")
    def _areas_are_distinct(self) -> Self:
        bare = [area.strip() for area in self.areas]
        if not all(bare):
            raise ValueError("expected a name for every one of `areas`, found an empty text")
        if twice := sorted({area for area in bare if bare.count(area) > 1}):
            raise ValueError(f"expected each of `areas` once, found {twice[0]!r} twice")
        return self


def load_prompt_writing(path: Path, overrides: Sequence[str] = ()) -> PromptWritingConfig:
    """The config in a YAML file, with `a.b=c` overrides on top; raises ConfigError with one
    sentence per problem."""
    raw, _ = read_values(path, overrides, (("budget", "prices"),))
    return parse_block(PromptWritingConfig, raw, str(path))
