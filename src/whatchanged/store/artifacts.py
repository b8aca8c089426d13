"""Values named by a content key: written once, checked on every read, never trusted by presence.

One file per artifact, `artifacts/ab/<key>`: a header line in JSON (format, key, kind, length and
the SHA-256 over all of them and the payload), then the payload. No lock is needed: the first
publisher of a key wins, and readers see a whole file or none. Machines without a common disk
exchange the same files through a shared folder (`store.shared`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from whatchanged.errors import ArtifactDamagedError, ArtifactMissingError
from whatchanged.keys import bytes_digest
from whatchanged.store import atomic, codec
from whatchanged.store.shared import SharedFolder

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

Kind = Literal["json", "table", "arrays"]

FORMAT = 1
_KEY = re.compile(r"[0-9a-f]{64}")
_MAX_HEADER_BYTES = 1024


def cache_root() -> Path:
    """The cache folder: `$WHATCHANGED_CACHE`, else `whatchanged` in the user's cache folder."""
    if chosen := os.environ.get("WHATCHANGED_CACHE"):
        return Path(chosen).expanduser().absolute()
    user = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # The XDG specification tells programs to ignore a relative path.
    return (user if user.is_absolute() else Path.home() / ".cache") / "whatchanged"


class ArtifactStore:
    """Artifacts below a root folder. Safe for any number of threads and processes.

    Keys are 64 hex characters; whatever else is asked for raises ValueError. Every read checks the
    digest: an absent artifact raises ArtifactMissingError; a damaged one is moved to `quarantine/`,
    counted in `n_damaged` and raises ArtifactDamagedError. Both mean: compute it again and put it.
    A put over a sound artifact changes nothing, over a damaged one repairs it; it raises
    StorageError where the disk refuses.

    With `shared`, the URL of a folder that other machines use as well, what is not below the root
    is looked for there and kept here, and whatever is put or read is there from then on; methods
    then also raise what `SharedFolder` raises.
    """

    def __init__(self, root: Path, shared: str | None = None) -> None:
        self.root = root
        self.n_damaged = 0
        self._shared = SharedFolder(shared) if shared else None

    def put_json(self, key: str, value: object) -> None:
        """Store a JSON value (`codec.json_bytes` says what it may hold)."""
        self._put(key, "json", codec.json_bytes(value))

    def get_json(self, key: str) -> Any:
        """The JSON value: tuples come back as lists."""
        return codec.json_value(self._get(key, "json"))

    def put_table(self, key: str, table: pd.DataFrame) -> None:
        """Store a DataFrame without its index."""
        self._put(key, "table", codec.table_bytes(table))

    def get_table(self, key: str) -> pd.DataFrame:
        """The DataFrame, its rows numbered from 0."""
        return codec.table_value(self._get(key, "table"))

    def put_arrays(self, key: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Store named arrays of booleans, integers or floats."""
        self._put(key, "arrays", codec.arrays_bytes(arrays))

    def get_arrays(self, key: str) -> dict[str, NDArray[Any]]:
        """The named arrays, of the shapes and types that were put."""
        return codec.arrays_value(self._get(key, "arrays"))

    def has(self, key: str) -> bool:
        """Whether a sound artifact has this key. Reads all of it; quarantines a damaged one."""
        try:
            self._sound_bytes(key)
        except (ArtifactMissingError, ArtifactDamagedError):
            return False
        return True

    def key_digest(self, key: str) -> str:
        """The SHA-256 of the artifact's payload, checked."""
        return str(_header(self._sound_bytes(key))["sha256"])

    def list_keys(self) -> Iterator[str]:
        """The keys of all files, sound or not, in order."""
        for folder in sorted((self.root / "artifacts").glob("??")):
            yield from sorted(path.name for path in folder.iterdir() if _KEY.fullmatch(path.name))

    def path(self, key: str) -> Path:
        """Where the artifact of this key is, or would be."""
        if not _KEY.fullmatch(key):
            raise ValueError(f"an artifact key is 64 lower-case hex characters, got {key!r}")
        return self.root / "artifacts" / key[:2] / key

    def _put(self, key: str, kind: Kind, payload: bytes) -> None:
        path = self.path(key)
        header = _header_bytes(key, kind, payload)
        if atomic.publish(path, header, payload):
            self._share(key, header + payload)
        elif not self.has(key):
            atomic.publish(path, header, payload)
            self._share(key, header + payload)

    def _get(self, key: str, kind: Kind) -> memoryview:
        data = self._sound_bytes(key)
        found = _header(data)["kind"]
        if found != kind:
            raise ValueError(f"artifact {key} holds {found}, not {kind}")
        return memoryview(data)[data.index(b"\n") + 1 :]

    def _sound_bytes(self, key: str) -> bytes:
        try:
            data = self.path(key).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return self._fetch(key)
        if not _is_sound(key, data):
            self._quarantine(key)
            raise ArtifactDamagedError(
                f"artifact {key} in {self.root} is damaged ({len(data):,} bytes that do not match"
                " their digest): moved to quarantine; run its stage again"
            )
        self._share(key, data)
        return data

    def _share(self, key: str, data: bytes) -> None:
        if self._shared:
            self._shared.write(_shared_name(key), data)

    def _fetch(self, key: str) -> bytes:
        """What another machine left in the shared folder, kept here from now on."""
        data = self._shared.read(_shared_name(key)) if self._shared else None
        if data is None:
            raise ArtifactMissingError(f"no artifact {key} in {self.root}: run its stage again")
        if self._shared and not _is_sound(key, data):
            self._shared.set_aside(_shared_name(key))
            self.n_damaged += 1
            raise ArtifactDamagedError(
                f"artifact {key} in {self._shared.url} is damaged ({len(data):,} bytes that do not "
                "match their digest): moved to quarantine there; run its stage again"
            )
        atomic.publish(self.path(key), data)
        return data

    def _quarantine(self, key: str) -> None:
        path = self.path(key)
        aside = quarantine_path(self.root, key)
        try:
            path.rename(aside)
        except FileNotFoundError:
            return
        # Another process may have repaired the file between our read and our move.
        data = aside.read_bytes()
        if _is_sound(key, data):
            atomic.publish(path, data)
            aside.unlink()
        else:
            self.n_damaged += 1


def quarantine_path(root: Path, name: str) -> Path:
    """A free path for a damaged file in the quarantine folder, which is made where missing."""
    folder = atomic.ensure_folder(root / "quarantine")
    serial = 0
    while (path := folder / f"{name}.{os.getpid()}.{serial}").exists():
        serial += 1
    return path


def _shared_name(key: str) -> str:
    return f"artifacts/{key[:2]}/{key}"


def _header_bytes(key: str, kind: str, payload: bytes | memoryview) -> bytes:
    header = {
        "format": FORMAT,
        "key": key,
        "kind": kind,
        "n_bytes": len(payload),
        "sha256": bytes_digest(payload),
    }
    return codec.json_bytes(header) + b"\n"


def _header(data: bytes) -> dict[str, Any]:
    end = data.find(b"\n", 0, _MAX_HEADER_BYTES)
    try:
        header = codec.json_value(data[: max(end, 0)])
    except ValueError:
        return {}
    return header if isinstance(header, dict) else {}


def _is_sound(key: str, data: bytes) -> bool:
    # Key, kind and payload leave no bit of the header open, so a damaged header cannot match.
    kind = _header(data).get("kind")
    if not isinstance(kind, str) or kind not in get_args(Kind):
        return False
    payload = memoryview(data)[data.index(b"\n") + 1 :]
    return data.startswith(_header_bytes(key, kind, payload))
