"""What every block of a config is: frozen, and strict about its keys, with a did-you-mean."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from whatchanged.errors import ConfigError


class Block(BaseModel):
    """Some keys of a config, frozen; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


AnyBlock = TypeVar("AnyBlock", bound=Block)


def parse_block(kind: type[AnyBlock], raw: Mapping[str, Any], where: str) -> AnyBlock:
    """The block of this kind in a plain mapping; `where` names its origin in errors (ConfigError):
    one sentence per problem, with the nearest known key."""
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        problems = "; ".join(_sentence(kind, detail) for detail in error.errors())
        raise ConfigError(f"{where}: {problems}") from None


def _sentence(kind: type[Block], detail: Any) -> str:
    location = tuple(str(part) for part in detail["loc"])
    dotted = ".".join(location)
    if detail["type"] == "extra_forbidden":
        known = _known_keys(kind, location[:-1])
        near = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.5)
        advice = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
        return f"unknown key {dotted!r}: {advice}"
    if detail["type"] == "missing":
        return f"key {dotted!r} is missing: it has no default"
    if detail["type"] == "none_required":
        return f"{dotted}: expected null (not supported by this version), found {detail['input']!r}"
    message = detail["msg"].removeprefix("Value error, ")
    if not location or isinstance(detail["input"], Mapping):
        # What is wrong between keys says so by itself; all of them would follow, secrets included.
        return ": ".join(filter(None, [dotted, str(message)]))
    return f"{dotted}: {message}, found {detail['input']!r}"


def _known_keys(kind: type[BaseModel], location: tuple[str, ...]) -> list[str]:
    block = kind
    for name in location:
        if name.isdecimal():  # a place in a list, whose items `_block_in` has found
            continue
        field = next((f for key, f in block.model_fields.items() if name in (key, f.alias)), None)
        inner = None if field is None else _block_in(field.annotation)
        if inner is None:
            return []
        block = inner
    return [field.alias or key for key, field in block.model_fields.items()]


def _block_in(annotation: Any) -> type[BaseModel] | None:
    """The block that an annotation names: itself, or one that may be null or stands in a list."""
    for one in (annotation, *get_args(annotation)):
        if isinstance(one, type) and issubclass(one, BaseModel):
            return one
    return None
