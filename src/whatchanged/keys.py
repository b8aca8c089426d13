"""Content keys: canonical bytes in, 64 hex characters (256 bits) out. The only file that hashes.

A key is SHA-256 over an unambiguous encoding: every value is written as a type tag, its length in
bytes and its bytes, so that `("a|b", "c")` and `("a", "b|c")` differ, `1` and `"1"` differ, and
so do `1` and `1.0`. Text is encoded as UTF-8 with surrogates passed through: any Python string has
a key, and no normalization merges two that differ.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

KEY_LENGTH = 64

Keyable: TypeAlias = (
    bool | int | float | str | bytes | Sequence["Keyable"] | Mapping[str, "Keyable"] | None
)


def content_key(kind: str, *parts: Keyable) -> str:
    """The key of `parts` as a `kind` of thing (a stage with its version, "segment/1", ...).

    Raises TypeError for anything whose bytes are not canonical: sets, arrays, objects.
    """
    digest = hashlib.sha256()
    digest.update(_encoded([kind, *parts]))
    return digest.hexdigest()


def content_keys(kind: str, texts: Iterable[str]) -> list[str]:
    """`content_key(kind, text)` of each text, several times faster."""
    return [digest.hex() for digest in content_digests(kind, texts)]


def content_digests(kind: str, texts: Iterable[str]) -> list[bytes]:
    """`content_keys` as 32 raw bytes each, for stores that keep thousands of them."""
    head = _encoded(kind) + b"s"
    n_head = len(head) + 8
    pack, sha256 = struct.Struct(">Q").pack, hashlib.sha256
    encoded = (text.encode("utf-8", "surrogatepass") for text in texts)
    return [
        sha256(b"l" + pack(n_head + len(data)) + head + pack(len(data)) + data).digest()
        for data in encoded
    ]


def bytes_digest(data: bytes | memoryview) -> str:
    """SHA-256 of raw bytes, as 64 hex characters."""
    return hashlib.sha256(data).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def seed_from_key(key: str) -> int:
    """A 128-bit seed for numpy's generators, taken from a content key."""
    return int(key[:32], 16)


def _encoded(value: Keyable) -> bytes:
    match value:
        case None:
            return b"N"
        case bool():
            return b"T" if value else b"F"
        case int():
            return _tagged(b"i", str(value).encode())
        case float():
            return b"f" + struct.pack(">d", value)
        case str():
            return _tagged(b"s", value.encode("utf-8", "surrogatepass"))
        case bytes():
            return _tagged(b"b", value)
        case Mapping():
            items = sorted(value.items())
            return _tagged(b"m", b"".join(_encoded(k) + _encoded(v) for k, v in items))
        case list() | tuple():
            return _tagged(b"l", b"".join(_encoded(item) for item in value))
    raise TypeError(f"a key needs plain values, got {type(value).__name__}: {value!r:.80}")


def _tagged(tag: bytes, payload: bytes) -> bytes:
    return tag + struct.pack(">Q", len(payload)) + payload
