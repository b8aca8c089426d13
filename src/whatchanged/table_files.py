"""Files of rows that users bring: JSONL, CSV and Parquet, read one row at a time, strictly.

Whatever is wrong with a file is one sentence: what was expected, what was found, what to do.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from whatchanged.errors import InputError

# Where a row stands, for errors ("texts.jsonl, line 3"), and its values by column.
Row: TypeAlias = tuple[str, Mapping[str, Any]]

# A reply may be long; the csv module stops at 128 KiB.
_LARGEST_FIELD = 2**31 - 1


def read_rows(
    path: Path, what: str, *, escape: str | None = None, check: str = "the path"
) -> Iterator[Row]:
    """The rows of a `.jsonl` (or `.ndjson`), `.csv`, `.tsv` or `.parquet` file, in order, blank
    lines left out. Fields of CSV are texts; `escape` is its escape character, None for none.
    `what` names the file's purpose in errors, `check` what to look at where it is not there.

    Raises InputError for a file of another format, one that cannot be read, that is no UTF-8, or
    that is damaged, and for a row that is not one.
    """
    read = _reader_of(path, what, escape)
    with explain_failures(path, what, check):
        yield from read(path)


@contextmanager
def explain_failures(path: Path, what: str, check: str = "the path") -> Iterator[None]:
    """Raises InputError in place of what reading raises: no such file, or a text that is no
    UTF-8."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"expected {what} at {path}, could not read it ({error.strerror}): check {check}"
        ) from None
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: expected UTF-8 text, found {error.reason}: save it as UTF-8"
        ) from None


def read_header(path: Path) -> list[str]:
    """The columns in the first line of a CSV file; none where it is no CSV or cannot be read."""
    if path.suffix.lower() != ".csv":
        return []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return next(csv.reader(file), [])
    except (OSError, UnicodeDecodeError, csv.Error):
        return []


def check_columns(row: Mapping[str, Any], wanted: tuple[str, ...], where: str) -> None:
    """Raises InputError where a row lacks a column."""
    if missing := [name for name in wanted if name not in row]:
        there = ", ".join(map(str, row)) or "none"
        raise InputError(
            f"{where}: expected {_columns(wanted)}, found no {' and no '.join(missing)} (columns: "
            f"{there}): rename what holds it"
        )


def check_unicode(text: str, where: str, what: str) -> str:
    """The text; raises InputError where it holds a lone surrogate, which JSON can write."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            f"{where}: the {what} holds a lone surrogate {text[error.start]!a} at position "
            f"{error.start}, which no tokenizer can read: remove or replace it"
        ) from None
    return text


def _columns(names: tuple[str, ...]) -> str:
    return f"the column{'s' if len(names) > 1 else ''} {' and '.join(names)}"


def _reader_of(path: Path, what: str, escape: str | None) -> Callable[[Path], Iterator[Row]]:
    readers: dict[str, Callable[[Path], Iterator[Row]]] = {
        ".jsonl": _read_jsonl,
        ".ndjson": _read_jsonl,
        ".csv": lambda path: _read_csv(path, ",", escape),
        ".tsv": lambda path: _read_csv(path, "\t", escape),
        ".parquet": _read_parquet,
    }
    read = readers.get(path.suffix.lower())
    if read is None:
        raise InputError(
            f"{path}: expected {what} as .jsonl, .csv, .tsv or .parquet, found "
            f"{path.suffix or 'a name without an ending'}: convert or rename it"
        )
    return read


def _read_jsonl(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise InputError(
                    f"{where}: expected a JSON object, found invalid JSON ({error.msg})"
                ) from None
            if not isinstance(row, dict):
                raise InputError(f"{where}: expected a JSON object, found {line[:80].strip()!r}")
            yield where, row


def _read_csv(path: Path, delimiter: str, escape: str | None) -> Iterator[Row]:
    csv.field_size_limit(_LARGEST_FIELD)
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file, delimiter=delimiter, escapechar=escape, strict=True)
        try:
            header = next(rows, [])
            for fields in rows:
                if not fields:
                    continue
                where = f"{path}, line {rows.line_num}"
                if len(fields) != len(header):
                    raise InputError(
                        f"{where}: expected {len(header)} fields as in the first line, found "
                        f"{len(fields)}: put a field that holds {delimiter!r} into quotes"
                    )
                yield where, dict(zip(header, fields, strict=True))
        except csv.Error as error:
            raise InputError(f"{path}, line {rows.line_num}: not valid CSV ({error})") from None


def _read_parquet(path: Path) -> Iterator[Row]:
    import pyarrow
    from pyarrow import parquet

    with path.open("rb") as handle:
        try:
            file = parquet.ParquetFile(handle)
            number = 0
            for batch in file.iter_batches(batch_size=4096):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", row
        except pyarrow.ArrowException as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"{path}: not a readable Parquet file ({reason})") from None
