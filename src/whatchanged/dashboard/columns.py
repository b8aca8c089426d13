"""The bytes of one part of the web pack: a JSON header with values, then packed columns.

A part is `header length (u32, little endian) | header (JSON) | columns`, every block starting at a
multiple of 8, so that a page can lay typed arrays over it without copying. It is gzipped, and each
part travels as a classic script that calls one function: the only form that a page on `file://`
may load. Base64 keeps whatever a model wrote out of the script's syntax.
"""

from __future__ import annotations

import base64
import gzip
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Names are those of JavaScript's typed arrays, so that the page needs no table.
_TYPES = {
    "uint8": "Uint8Array", "uint16": "Uint16Array", "uint32": "Uint32Array",
    "int16": "Int16Array", "int32": "Int32Array", "float32": "Float32Array",
}  # fmt: skip
_ALIGNED = 8


def encode_part(values: Mapping[str, Any], columns: Mapping[str, NDArray[Any]]) -> bytes:
    """A part's bytes, the same for the same content.

    Values may hold any string, lone surrogates included; NaN and infinity become null. Raises
    ValueError for a column whose type no page reads.
    """
    blocks: list[bytes] = []
    places: list[tuple[str, str, int, int]] = []
    offset = 0
    for name, column in columns.items():
        if (kind := _TYPES.get(column.dtype.name)) is None:
            raise ValueError(f"column {name!r} has type {column.dtype}: use {', '.join(_TYPES)}")
        data = np.ascontiguousarray(column.reshape(-1)).astype(column.dtype.newbyteorder("<"))
        block = _padded(data.tobytes())
        places.append((name, kind, offset, data.size))
        blocks.append(block)
        offset += len(block)
    # Plain JSON of a lone surrogate is an ASCII escape, and all other text stays short.
    header = _ascii_surrogates(
        json.dumps(
            {"values": _finite(values), "columns": places},
            ensure_ascii=False, allow_nan=False, separators=(",", ":"),
        )
    )  # fmt: skip
    head = len(header).to_bytes(4, "little") + header
    return b"".join([_padded(head), *blocks])


def compress_part(part: bytes) -> bytes:
    """The part as gzip, the same bytes at any time and on any machine with this zlib."""
    return gzip.compress(part, compresslevel=6, mtime=0)


def as_text(part: bytes) -> str:
    """The compressed part in base64, as a script or an inline data block carries it."""
    return base64.b64encode(compress_part(part)).decode("ascii")


def as_script(name: str, part: bytes) -> bytes:
    """The part as a classic script: one call of the page's loader."""
    return f'whatchangedPart("{name}","{as_text(part)}")\n'.encode("ascii")


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % _ALIGNED)


def _ascii_surrogates(text: str) -> bytes:
    # "backslashreplace" of a surrogate is `\udXXX`, which is its JSON escape as well.
    return text.encode("utf-8", "backslashreplace")


def _finite(value: Any) -> Any:
    """Only what JSON and the page know: undefined numbers are null, NumPy scalars plain."""
    if isinstance(value, Mapping):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | bool | None) else str(value)
