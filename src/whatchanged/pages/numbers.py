"""Values as people read them. What is missing is the word "unknown", never a zero."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

UNKNOWN = "unknown"
MINUS = "−"


def number(value: Any) -> float | None:
    """The value as a finite float; None for anything else (None, nan, infinity, text)."""
    if isinstance(value, str | bytes):
        return None
    try:
        result = float(value)
    except (TypeError, ValueError):
        return None
    return result if math.isfinite(result) else None


def whole(value: Any) -> int | None:
    """The value as an int; None where it is no finite number."""
    result = number(value)
    return None if result is None else round(result)


def look_up(value: Any, *path: str) -> Any:
    """What lies at `path` in nested mappings; None where any step is missing."""
    for step in path:
        if not isinstance(value, Mapping):
            return None
        value = value.get(step)
    return value


def rows_of(frame: pd.DataFrame, *columns: str) -> list[dict[str, Any]]:
    """The table's rows as dictionaries with exactly these columns; a missing column is all None."""
    chosen = frame.reindex(columns=list(columns)).astype(object)
    records = chosen.where(chosen.notna(), None).to_dict("records")
    return [{str(name): value for name, value in record.items()} for record in records]


def count(value: Any) -> str:
    """A whole number with thousands separated: `12,345`."""
    result = whole(value)
    return UNKNOWN if result is None else f"{result:,}".replace("-", MINUS)


def plural(n: int, noun: str, nouns: str | None = None) -> str:
    """`1 change`, `2 changes`."""
    return f"{n:,} {noun if n == 1 else nouns or noun + 's'}"


def percent(value: Any, digits: int = 1) -> str:
    """A share in [0, 1] as `12.3%`."""
    result = number(value)
    return UNKNOWN if result is None else f"{100 * result:.{digits}f}%".replace("-", MINUS)


def rate(value: Any) -> str:
    """A share in [0, 1] in as few digits as it needs: `5%`, `0.5%`."""
    result = number(value)
    return UNKNOWN if result is None else f"{100 * result:.3g}%"


def points(value: Any, unit: str = " pp") -> str:
    """A share difference as signed percentage points: `+12.3 pp`."""
    result = number(value)
    if result is None:
        return UNKNOWN
    text = f"{100 * result:+.1f}"
    return ("0.0" if text in ("+0.0", "-0.0") else text).replace("-", MINUS) + unit


def interval(low: Any, high: Any) -> str:
    """An interval of share differences: `+8.1 to +16.5`."""
    if number(low) is None or number(high) is None:
        return UNKNOWN
    return f"{points(low, '')} to {points(high, '')}"


def decimal(value: Any, digits: int = 2) -> str:
    """A plain figure such as an AUC: `0.71`."""
    result = number(value)
    return UNKNOWN if result is None else f"{result:.{digits}f}".replace("-", MINUS)


def p_value(value: Any) -> str:
    """A p-value with two digits that count: `0.031`, `0.00021`, `< 0.0001`."""
    result = number(value)
    if result is None:
        return UNKNOWN
    if result < 0.0001:
        return "< 0.0001"
    if result >= 0.995:
        return "1"
    return f"{result:.{max(2, 1 - math.floor(math.log10(result)))}f}"


def duration(value: Any) -> str:
    """Seconds as `0.4 s`, `42 s`, `3 min 05 s` or `2 h 07 min`."""
    seconds = number(value)
    if seconds is None:
        return UNKNOWN
    if seconds < 10:
        return f"{seconds:.1f} s"
    if round(seconds) < 60:
        return f"{round(seconds)} s"
    if round(seconds) < 3600:
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes} min {rest:02d} s"
    hours, rest = divmod(round(seconds / 60), 60)
    return f"{hours} h {rest:02d} min"


def size(value: Any) -> str:
    """Bytes as `512 B`, `3.4 MB` or `1.2 GB` (powers of 1000)."""
    n_bytes = number(value)
    if n_bytes is None:
        return UNKNOWN
    for unit in ("B", "kB", "MB", "GB"):
        if abs(n_bytes) < 1000:
            return f"{n_bytes:.0f} {unit}" if unit == "B" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.1f} TB"


def money(value: Any) -> str:
    """US dollars as `$1.20`; what costs less than a cent keeps two digits that count."""
    usd = number(value)
    if usd is None:
        return UNKNOWN
    if usd == 0 or abs(usd) >= 0.01:
        return f"${usd:,.2f}"
    return "< $0.0001" if 0 < usd < 0.0001 else f"${usd:.2g}"
