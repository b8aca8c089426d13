"""The folder of an activation store: its settings, its manifest, and which files are part of it.

    components.json   labels, clusters and rule: written once
    manifest.json     schema version, settings, counts, and every other file with its digest;
                      replaced at each commit, so that it always describes a state that was whole
    events-*, texts-*, summaries-*    see `segments`, `text_identity`, `activations.summaries`

What the manifest does not name is left over from a killed process and has no meaning.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from whatchanged.activations.events import Precision
from whatchanged.activations.groups import ComponentGroups
from whatchanged.errors import InputError
from whatchanged.keys import bytes_digest, file_digest
from whatchanged.store import atomic, codec
from whatchanged.store.segments import Segment, file_parts

SCHEMA_VERSION = 2
Keep = Literal["all", "sample", "summaries"]

_MANIFEST, _COMPONENTS = "manifest.json", "components.json"


@dataclass(frozen=True, slots=True)
class Settings:
    """What decides the content of a store; one that is resumed must have the same."""

    keep: Keep
    precision: Precision
    summarize: bool
    k: int
    n_sample: int
    seed: int
    chunk_texts: int
    segment_bytes: int
    components_sha256: str


@dataclass(slots=True)
class StoredFile:
    """A file of the store; `first` and `last` are the text numbers of a segment's ends."""

    name: str
    n_bytes: int
    sha256: str
    first: int = -1
    last: int = -1


def open_segment(folder: Path, file: StoredFile) -> Segment:
    """A segment of the store, mapped. Raises InputError as `Segment` does."""
    return Segment(folder / file.name, file.n_bytes, (file.first, file.last), SCHEMA_VERSION)


@dataclass(slots=True)
class Manifest:
    """A state of the store. `n_texts`, `n_tokens`, `n_batches`: all that was added, kept or not."""

    settings: Settings
    n_texts: int = 0
    n_tokens: int = 0
    n_batches: int = 0
    n_files: int = 0
    is_finished: bool = False
    segments: list[StoredFile] = field(default_factory=list)
    texts: list[StoredFile] = field(default_factory=list)
    summaries: list[StoredFile] = field(default_factory=list)

    def write(self, folder: Path) -> None:
        """Make this the state of the store, and remove the files of earlier ones."""
        body = {"schema_version": SCHEMA_VERSION} | asdict(self)
        atomic.replace(folder / _MANIFEST, codec.json_bytes(body, indent=1))
        named = {file.name for file in (*self.segments, *self.texts, *self.summaries)}
        for path in folder.iterdir():
            if path.suffix == ".safetensors" and path.name not in named:
                path.unlink(missing_ok=True)

    def add_file(self, folder: Path, kind: str, arrays: Mapping[str, NDArray[Any]]) -> StoredFile:
        """A new file of arrays. It counts once the manifest that lists it is there."""
        name = f"{kind}-{self.n_files:06d}.safetensors"
        self.n_files += 1
        parts = file_parts(arrays, SCHEMA_VERSION)
        # A killed process may have left a file of this name.
        atomic.replace(folder / name, *parts)
        n_bytes = sum(len(part) for part in parts)
        return StoredFile(name, n_bytes, file_digest(folder / name))


def read_manifest(folder: Path) -> Manifest | None:
    """The state of the store, None where the folder holds none.

    Raises InputError for a manifest that cannot be read or that another version wrote.
    """
    path = folder / _MANIFEST
    try:
        body = codec.json_value(path.read_bytes())
        version = body.pop("schema_version")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, AttributeError, KeyError):
        raise InputError(f"{path} cannot be read as a manifest: collect again") from None
    if version > SCHEMA_VERSION:
        raise InputError(
            f"the activation store {folder} has schema version {version}, this program reads up to"
            f" {SCHEMA_VERSION}: upgrade whatchanged"
        )
    if version < SCHEMA_VERSION:
        raise InputError(
            f"the activation store {folder} has schema version {version}, which lacks the negative"
            f" poles of version {SCHEMA_VERSION}: collect again"
        )
    for name in ("segments", "texts", "summaries"):
        body[name] = [StoredFile(**file) for file in body[name]]
    return Manifest(**body | {"settings": Settings(**body["settings"])})


def check_files(folder: Path, manifest: Manifest) -> list[str]:
    """One sentence for every file that is missing or differs from its digest. Reads all of them."""
    problems = []
    for file in (*manifest.segments, *manifest.texts, *manifest.summaries):
        path = folder / file.name
        if not path.is_file() or file_digest(path) != file.sha256:
            problems.append(f"{file.name} is missing or damaged: collect again")
    return problems


def components_bytes(groups: ComponentGroups) -> bytes:
    """The groups as JSON, the same bytes for the same groups."""
    return codec.json_bytes(
        {
            "labels": groups.labels,
            "clusters": groups.clusters,
            "cluster_of": groups.cluster_of.tolist(),
            "rule": groups.rule,
        }
    )


def write_components(folder: Path, groups: ComponentGroups) -> None:
    """Write `components.json`; one that is there is replaced."""
    atomic.replace(folder / _COMPONENTS, components_bytes(groups))


def read_components(folder: Path, manifest: Manifest) -> ComponentGroups:
    """The groups of a store. Raises InputError where they are missing or damaged."""
    path = folder / _COMPONENTS
    data = path.read_bytes() if path.is_file() else b""
    if bytes_digest(data) != manifest.settings.components_sha256:
        raise InputError(f"{path} is missing or damaged: collect again")
    body: dict[str, Any] = codec.json_value(data)
    cluster_of = np.array(body["cluster_of"], np.int64)
    return ComponentGroups(tuple(body["labels"]), tuple(body["clusters"]), cluster_of, body["rule"])


def differing_settings(old: Settings, new: Settings) -> list[str]:
    """The names of the settings in which two stores differ."""
    return [f.name for f in fields(Settings) if getattr(old, f.name) != getattr(new, f.name)]
