"""A sparse autoencoder as a folder on disk, in the two files that SAELens reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from whatchanged.store import atomic, codec


def write_sae_folder(
    folder: Path, config: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
) -> Path:
    """The folder, with `cfg.json` and `sae_weights.safetensors` in place of what was there.

    The weights come first: a folder with a new config never holds older weights. Raises
    StorageError where the disk refuses.
    """
    atomic.replace(folder / "sae_weights.safetensors", codec.arrays_bytes(arrays))
    atomic.replace(folder / "cfg.json", codec.json_bytes(dict(config), indent=2))
    return folder
