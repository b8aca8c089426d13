"""The prompts of an audit: a block of a config."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from whatchanged.config_blocks import Block


class PromptsConfig(Block):
    """The prompt bank: JSONL rows `{"prompt": ..., "group": optional}`, split by prompt. Where a
    side is recorded, its prompts are the bank, and `file` is not read."""

    file: str = "prompts.jsonl"
    validation_share: float = Field(0.5, gt=0, lt=1)
    format: Literal["auto", "plain", "chat"] = "auto"
