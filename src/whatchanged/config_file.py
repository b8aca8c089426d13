"""A config file: YAML with `--set a.b=c` overrides on top, and where each value came from.

Paths in a file are relative to that file; `demo:NAME` names something that ships with the package.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal

import yaml

from whatchanged.config import AuditConfig, parse_config
from whatchanged.config_blocks import AnyBlock, Block
from whatchanged.errors import ConfigError
from whatchanged.model_config import REMOTE
from whatchanged.yaml_file import read_yaml

Origin = Literal["default", "file", "override"]

_PATHS = (
    ("base", "model"), ("base", "texts"), ("base", "adapter"), ("base", "steering"),
    ("intervention", "model"), ("intervention", "texts"), ("intervention", "adapter"),
    ("intervention", "steering"),
    ("prompts", "file"), ("prompts", "dataset", "name"), ("embed", "model"),
    ("activations", "saes", "folder"), ("report", "ground_truth"), ("budget", "prices"),
    ("run", "store"),
)  # fmt: skip


@dataclass(frozen=True)
class LoadedConfig(Generic[AnyBlock]):
    """A resolved config, the origin of each dotted key that was not left to its default, and the
    name that runs of it get when none is given (the file's stem)."""

    config: AnyBlock
    origins: Mapping[str, Origin]
    name: str

    def to_yaml(self) -> str:
        """The resolved config as YAML, each value followed by its origin in a comment."""
        return write_yaml(self.config, self.origins)


def load_config(path: Path, overrides: Sequence[str] = ()) -> LoadedConfig[AuditConfig]:
    """The config in a YAML file, with `a.b=c` overrides applied on top.

    Raises ConfigError with one sentence per problem: the file, the key, what was expected, what
    was found, and the nearest known key.
    """
    raw, origins = read_values(path, overrides, _PATHS)
    return LoadedConfig(parse_config(raw, str(path)), origins, path.stem)


def read_values(
    path: Path, overrides: Sequence[str], paths: Sequence[tuple[str, ...]]
) -> tuple[dict[str, Any], dict[str, Origin]]:
    """The values of a YAML file with `a.b=c` overrides on top, not checked yet, and the origin of
    each dotted key. `paths` are the keys that hold paths, behind their blocks (or lists of blocks).

    Raises ConfigError for a file that cannot be read and for an override that is none.
    """
    raw = _read_yaml(path)
    from_file = set(_dotted_keys(raw))
    from_override: set[str] = set()
    for override in overrides:
        dotted, value = _parse_override(override)
        _set_dotted(raw, dotted, value)
        from_override |= {dotted, *(f"{dotted}.{k}" for k in _dotted_keys(value))}
    _resolve_paths(raw, path.resolve().parent, paths)
    origins: dict[str, Origin] = dict.fromkeys(from_file, "file")
    origins.update(dict.fromkeys(from_override, "override"))
    return raw, origins


def write_yaml(config: Block, origins: Mapping[str, Origin]) -> str:
    """A resolved config as YAML, each value followed by its origin in a comment."""
    lines: list[str] = []
    _write_block(config.model_dump(mode="json", by_alias=True), "", origins, lines)
    return "\n".join(lines) + "\n"


def override_config(raw: Mapping[str, Any], overrides: Sequence[str], where: str) -> AuditConfig:
    """The config of a plain mapping with `a.b=c` overrides on top; `where` names its origin.

    Raises ConfigError as `load_config` does.
    """
    changed = copy.deepcopy(dict(raw))
    for override in overrides:
        _set_dotted(changed, *_parse_override(override))
    return parse_config(changed, where)


def _read_yaml(path: Path) -> dict[str, Any]:
    raw = read_yaml(path, "a config file")
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: expected a mapping of config keys, found {type(raw).__name__}")
    return raw


def _parse_override(override: str) -> tuple[str, Any]:
    dotted, equals, text = override.partition("=")
    if not equals or not dotted:
        raise ConfigError(
            f"--set expects key=value such as decode.temperature=0.7, got {override!r}"
        )
    try:
        return dotted.strip(), yaml.safe_load(text)
    except yaml.YAMLError:
        return dotted.strip(), text


def _set_dotted(raw: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, leaf = dotted.split(".")
    for parent in parents:
        below = raw.setdefault(parent, {})
        if not isinstance(below, dict):
            raise ConfigError(f"--set {dotted}: {parent} is a value, not a block of keys")
        raw = below
    raw[leaf] = value


def _resolve_paths(raw: dict[str, Any], folder: Path, paths: Sequence[tuple[str, ...]]) -> None:
    for *blocks, key in paths:
        for values in _blocks_at(raw, blocks):
            value = values.get(key)
            if not isinstance(value, str) or value.startswith("demo:"):
                continue
            if key == "model" and _names_a_remote_model(raw, values):
                continue
            beside = folder / value
            if beside.exists() or value.startswith((".", "~")):
                values[key] = str(beside if not value.startswith("~") else Path(value).expanduser())


def _names_a_remote_model(raw: dict[str, Any], block: dict[str, Any]) -> bool:
    """Whether a block's model is behind an API, which knows it by a name and no path."""
    decode = raw.get("decode")
    engine = decode.get("engine") if isinstance(decode, dict) else None
    is_side = any(block is raw.get(side) for side in ("base", "intervention"))
    return is_side and (block.get("engine") or engine) == REMOTE


def _blocks_at(raw: Any, names: Sequence[str]) -> list[dict[str, Any]]:
    """The blocks at a path of names; one of them may be a list of blocks."""
    if isinstance(raw, list):
        return [block for item in raw for block in _blocks_at(item, names)]
    if not isinstance(raw, dict):
        return []
    return _blocks_at(raw.get(names[0]), names[1:]) if names else [raw]


def _dotted_keys(raw: Any, prefix: str = "") -> Iterable[str]:
    if not isinstance(raw, dict):
        return
    for key, value in raw.items():
        yield f"{prefix}{key}"
        yield from _dotted_keys(value, f"{prefix}{key}.")


def _write_block(
    values: Mapping[str, Any], prefix: str, origins: Mapping[str, Origin], lines: list[str]
) -> None:
    indent = "  " * prefix.count(".")
    for key, value in values.items():
        dotted = f"{prefix}{key}"
        name = _inline(key)
        if isinstance(value, dict) and value:
            lines.append(f"{indent}{name}:")
            _write_block(value, f"{dotted}.", origins, lines)
        else:
            lines.append(f"{indent}{name}: {_inline(value)}  # {origins.get(dotted, 'default')}")


def _inline(value: Any) -> str:
    """A key or a value as YAML that fits behind a key."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000).strip()
    return text.removesuffix("...").strip()
