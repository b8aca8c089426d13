"""Three small SAEs of the embedded base model, made by `python -m whatchanged.demo.train_saes`.

Each is a folder in SAELens's format. `poor` is meant to be bad: what is seen through it must be
read with the doubt that its reconstruction asks for.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from whatchanged.errors import InputError

SAE_NAMES = ("topk", "jumprelu", "poor")


def demo_sae_path(name: str) -> Path:
    """The folder of an embedded SAE. Raises InputError for another name."""
    if name not in SAE_NAMES:
        raise InputError(f"demo SAE {name!r} does not exist: there are {', '.join(SAE_NAMES)}")
    return Path(str(files(__package__))) / name
