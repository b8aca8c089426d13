"""The embedded model pair: a base model, an intervention with known changes, and a null one.

The weights are trained by `python -m whatchanged.demo.train` and counted by
`python -m whatchanged.demo.measure`; this module only says where they are.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from whatchanged.errors import InputError

MODEL_NAMES = ("base", "intervention", "null_intervention")
FILE_NAMES = ("prompts.jsonl", "ground_truth.json")


@dataclass(frozen=True)
class PlantedBehaviour:
    """A planted change as counted on decoded texts.

    `regex` detects it in a reply (`re.search`, no flags); `group` is the prompt group that the
    rates are restricted to, None for all texts. `rate_base` and `rate_intervention` in [0, 1] are
    shares of `n_base` and `n_intervention` texts.
    """

    id: str
    kind: str
    description: str
    group: str | None
    rate_base: float
    rate_intervention: float
    n_base: int
    n_intervention: int
    regex: str


def _root() -> Path:
    return Path(str(files(__package__)))


def demo_path(name: str) -> Path:
    """Where `demo:NAME` of a config lies: the folder of an embedded model, or a file beside them.

    Raises InputError for another name.
    """
    if name in FILE_NAMES:
        return _root() / name
    if name in MODEL_NAMES:
        return _root() / "models" / name
    raise InputError(
        f"demo:{name} does not exist: there are {', '.join((*MODEL_NAMES, *FILE_NAMES))}"
    )


def prompts_path() -> Path:
    """The prompt bank of the embedded pair: JSONL rows `{"prompt", "group"}`."""
    return _root() / "prompts.jsonl"


def ground_truth_path() -> Path:
    """The counted changes of the embedded pair, as JSON."""
    return _root() / "ground_truth.json"


def ground_truth() -> tuple[PlantedBehaviour, ...]:
    """The planted changes with their counted rates, in the order of the file."""
    rows: list[dict[str, Any]] = json.loads(ground_truth_path().read_text())["behaviours"]
    return tuple(PlantedBehaviour(**row) for row in rows)
