"""The embedded model pair: a base model, an intervention with known changes, and a null one.

The weights are trained by `python -m whatchanged.demo.train` and counted by
`python -m whatchanged.demo.measure`, and texts of them are recorded by
`python -m whatchanged.demo.record`; this module only says where they are.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from whatchanged.errors import InputError

MODEL_NAMES = ("base", "intervention", "null_intervention")
FILE_NAMES = ("prompts.jsonl", "recorded.parquet", "ground_truth.json")


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


def file_at(name: str) -> Path:
    """The file that a config names: `demo:NAME` ships with the package, else it is a path. Raises
    what `demo_path` raises."""
    if name.startswith("demo:"):
        return demo_path(name.removeprefix("demo:"))
    return Path(name).expanduser()
