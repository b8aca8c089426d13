"""The files that people write: plain YAML, each key once, problems in one sentence."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from whatchanged.errors import ConfigError


def read_yaml(path: Path, what: str) -> Any:
    """The plain values (mappings, lists, texts, numbers, dates) in a YAML file; None for an empty
    one. `what` names the file's purpose in errors.

    Raises ConfigError for a file that cannot be read, is no UTF-8 or no YAML, asks for an object,
    or gives a key twice: YAML would keep the last value and say nothing.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _Plain)  # noqa: S506  a safe loader
    except OSError as error:
        raise ConfigError(
            f"expected {what} at {path}, found none ({error.strerror}): check the path"
        ) from None
    except UnicodeDecodeError as error:
        found = f"a byte that is none at {error.start}"
        raise ConfigError(f"{path}: expected UTF-8 text, found {found}: save it as UTF-8") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ConfigError(f"{path}: {place}not valid YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None


class _Plain(yaml.SafeLoader):
    """The safe loader, but a key that stands twice in a mapping is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = key_node.value
            if isinstance(key, str) and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice in one block", key_node.start_mark
                )
            seen.add(key if isinstance(key, str) else id(key_node))
        return super().construct_mapping(node, deep=deep)
