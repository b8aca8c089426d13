"""Values to bytes and back: JSON, tables (Parquet), arrays (safetensors).

Any Python string survives exactly. UTF-8 has no lone surrogates, so at this one door a string that
holds a surrogate is written with an escape: U+FDD0 (a code point that Unicode reserves for
internal use) followed by the four hex digits of the surrogate, and U+FDD0 itself as `U+FDD0 fdd0`.
Every other string is written as it is, so other tools read the files as usual.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

_MARK = "\ufdd0"
_UNWRITABLE = re.compile("[\ud800-\udfff\ufdd0]")
_ESCAPED = re.compile(_MARK + "([0-9a-f]{4})")


def escape_text(text: str) -> str:
    """The string as it is stored: valid Unicode, itself unless it holds a surrogate or U+FDD0."""
    return _UNWRITABLE.sub(lambda match: f"{_MARK}{ord(match[0]):04x}", text)


def unescape_text(text: str) -> str:
    """The string that `escape_text` was given."""
    return _ESCAPED.sub(lambda match: chr(int(match[1], 16)), text)


def json_bytes(value: object, *, indent: int | None = None) -> bytes:
    """Canonical JSON in UTF-8: sorted keys, no NaN, no spaces (indented for people if asked).

    NumPy scalars become numbers, tuples lists. Raises ValueError for NaN and infinity, TypeError
    for what JSON cannot hold.
    """
    text = _json_text(value, indent)
    if _UNWRITABLE.search(text):
        text = _json_text(_mapped(value, escape_text), indent)
    return text.encode("utf-8") + (b"\n" if indent is not None else b"")


def json_value(data: bytes | memoryview) -> Any:
    """The value in `json_bytes`' output. Raises ValueError for anything that is not JSON."""
    text = str(data, "utf-8")
    value = json.loads(text)
    return _mapped(value, unescape_text) if _MARK in text else value


def table_bytes(table: pd.DataFrame) -> bytes:
    """A DataFrame as Parquet (zstd). The index is not kept: rows are numbered from 0 again."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    escaped = table.assign(**{name: _escaped_column(table[name]) for name in table.columns})
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pandas(escaped, preserve_index=False), sink, compression="zstd")
    return bytes(sink.getvalue())


def table_value(data: bytes | memoryview) -> pd.DataFrame:
    """The DataFrame in `table_bytes`' output, its rows numbered from 0."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    stored = pq.read_table(pa.BufferReader(data))
    table: pd.DataFrame = stored.to_pandas()
    for name in stored.column_names:
        if _holds_mark(stored.column(name)):
            table[name] = _object_column(table[name], unescape_text)
    return table


def arrays_bytes(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Named arrays as safetensors bytes. Raises ValueError for strings, objects and the like."""
    import numpy as np
    from safetensors.numpy import save

    for name, array in arrays.items():
        if array.dtype.kind not in "biuf":
            raise ValueError(
                f"array {name!r} has type {array.dtype}: store booleans, integers or floats"
            )
    return bytes(save({name: np.array(array, order="C") for name, array in arrays.items()}))


def arrays_value(data: bytes | memoryview) -> dict[str, NDArray[Any]]:
    """The named arrays in `arrays_bytes`' output, writable."""
    from safetensors.numpy import load

    loaded: dict[str, np.ndarray[Any, Any]] = load(bytes(data))
    return {
        name: array if array.flags.writeable else array.copy() for name, array in loaded.items()
    }


def _json_text(value: object, indent: int | None) -> str:
    try:
        return json.dumps(
            value,
            sort_keys=True,
            allow_nan=False,
            ensure_ascii=False,
            indent=indent,
            separators=(",", ": ") if indent is not None else (",", ":"),
            default=_plain,
        )
    except ValueError as error:
        raise ValueError(f"JSON holds no NaN or infinity: store None instead ({error})") from None


def _plain(value: object) -> object:
    if hasattr(value, "dtype") and getattr(value, "ndim", None) == 0:
        return value.item()  # type: ignore[attr-defined]  # a NumPy scalar
    raise TypeError(f"JSON cannot hold a {type(value).__name__}: {value!r:.80}")


def _mapped(value: Any, change: Any) -> Any:
    """The value with every string in it, keys included, changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {_mapped(key, change): _mapped(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_mapped(item, change) for item in value]
    if type(value).__name__ == "ndarray" and value.dtype.kind == "O":
        return [_mapped(item, change) for item in value]
    return value


def _escaped_column(column: pd.Series[Any]) -> pd.Series[Any]:
    if column.dtype.kind != "O" or not any(_needs_escape(value) for value in column):
        return column
    return _object_column(column, escape_text)


def _object_column(column: pd.Series[Any], change: Any) -> pd.Series[Any]:
    import pandas as pd

    return pd.Series([_mapped(value, change) for value in column], column.index, dtype=object)


def _needs_escape(value: Any) -> bool:
    if isinstance(value, str):
        return _UNWRITABLE.search(value) is not None
    if type(value).__name__ == "ndarray" and value.dtype.kind != "O":
        return False
    if isinstance(value, list | tuple) or type(value).__name__ == "ndarray":
        return any(_needs_escape(item) for item in value)
    return False


def _holds_mark(column: Any) -> bool:
    import pyarrow as pa
    import pyarrow.compute as pc

    while pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        column = pc.list_flatten(column)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return False
    return bool(pc.any(pc.match_substring(column, _MARK)).as_py())
