"""Where one sparse autoencoder is: a block that audits and comparisons of SAEs share."""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field, model_validator

from whatchanged.config_blocks import Block
from whatchanged.keys import content_key


class SaeSource(Block):
    """One SAE: a folder in SAELens's format (`demo:NAME` is an embedded one), or the `id` of a
    `release` that SAELens knows or of a hub repository.

    `name` stands in tables; by default the folder's, or release and id. `overrides` are keys of
    SAELens's `cfg.json` that the SAE's own config leaves out or states wrongly.
    """

    folder: str | None = None
    release: str | None = None
    id: str | None = None
    name: str | None = Field(None, min_length=1)
    overrides: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _has_one_place(self) -> Self:
        is_release = self.release is not None and self.id is not None
        is_part = (self.release is None) != (self.id is None)
        if is_part or is_release == (self.folder is not None):
            raise ValueError("expected either `folder`, or `release` and `id`")
        return self

    def __hash__(self) -> int:
        # A dictionary has none of its own.
        return int(content_key("sae source", self.model_dump(mode="json")), 16)
