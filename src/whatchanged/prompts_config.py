"""The prompts of an audit: a block of a config."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from whatchanged.config_blocks import Block

_FILE = "prompts.jsonl"


class PromptDatasetConfig(Block):
    """A dataset of the Hugging Face hub, or a folder that `datasets` can load. `config` is its
    configuration (null: the only one); `column` holds the prompts, `group_column` (null: none)
    their groups; `revision` is a commit (null: the newest)."""

    name: str
    config: str | None = None
    split: str
    column: str
    group_column: str | None = None
    revision: str | None = None


class PromptsConfig(Block):
    """The prompt bank, split by prompt: a `file` in one of the formats of `prompt_bank`, or, where
    `dataset` is given, that one instead. Where a side is recorded, its prompts are the bank, and
    neither is read."""

    file: str = _FILE
    dataset: PromptDatasetConfig | None = None
    validation_share: float = Field(0.5, gt=0, lt=1)
    format: Literal["auto", "plain", "chat"] = "auto"

    @model_validator(mode="after")
    def _has_one_source(self) -> Self:
        if self.dataset is not None and self.file != _FILE:
            raise ValueError(
                f"expected one source of prompts, found `file` {self.file!r} and `dataset` "
                f"{self.dataset.name!r}: leave one of them out"
            )
        return self
