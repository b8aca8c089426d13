"""whatchanged finds out what an intervention changed in a language model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from whatchanged.store.runs import Run

__version__ = "0.1.0"
__all__ = ["load"]


def load(run: str | Path) -> Run:
    """A finished run: each of its tables as a pandas DataFrame attribute.

    Raises InputError where the folder is no run, or was written by a newer version.
    """
    from whatchanged.store.runs import load_run

    return load_run(Path(run))
