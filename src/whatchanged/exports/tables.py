"""A run's tables in the three formats that people ask for, with their data dictionary."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from whatchanged.exports.dictionary import (
    describe_table,
    write_dictionary_json,
    write_dictionary_markdown,
)
from whatchanged.records import Finding
from whatchanged.store import codec

if TYPE_CHECKING:
    from whatchanged.store.runs import Run

_FINDING_FILES = ("findings", "null_findings")
# What spreadsheets run as a formula (OWASP, "CSV injection").
_FORMULA_OPENERS = ("=", "+", "-", "@", "\t", "\r")


def tabulate_run(run: Run) -> dict[str, pd.DataFrame]:
    """Every table that the run holds, by name: its findings, then its Parquet files by name.

    Raises InputError where one of them is damaged.
    """
    held = run.manifest["files"]
    tables = {
        name: tabulate_findings(getattr(run, name))
        for name in _FINDING_FILES
        if f"{name}.json" in held
    }
    stems = (name.removesuffix(".parquet") for name in sorted(held) if name.endswith(".parquet"))
    return tables | {stem: run.read_table(stem) for stem in stems if "/" not in stem}


def tabulate_findings(findings: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """One row per finding, the fields of `records.Finding` first; no findings give no rows."""
    known = [field.name for field in fields(Finding)]
    table = pd.DataFrame(list(findings))
    table = table.reindex(columns=[*known, *(name for name in table if name not in known)])
    # Where no finding has one, the type cannot be told from the values.
    return table.astype({"scope": "string", "cluster": "string", "cost_usd": "float64"})


def write_tables(run: Run) -> Iterator[tuple[str, bytes]]:
    """The files of the export `tables`: the dictionary, then each table as Parquet, CSV, JSONL."""
    tables = tabulate_run(run)
    described = [
        describe_table(n, list(map(str, table)), len(table)) for n, table in tables.items()
    ]
    yield "data_dictionary.md", write_dictionary_markdown(described).encode()
    yield "data_dictionary.json", write_dictionary_json(described)
    for name, table in tables.items():
        stored = f"{name}.parquet"
        is_stored = stored in run.manifest["files"]
        yield stored, run.read_bytes(stored) if is_stored else codec.table_bytes(table)
        yield f"{name}.csv", csv_bytes(table)
        yield f"{name}.jsonl", jsonl_bytes(table)


def csv_bytes(table: pd.DataFrame) -> bytes:
    """The table as CSV in UTF-8, safe to open in a spreadsheet.

    What is missing or not finite is an empty cell, a list is JSON, and text that a spreadsheet
    would run as a formula has an apostrophe before it.
    """
    sink = io.StringIO(newline="")
    # The line end of RFC 4180: with a bare newline, a carriage return in a text is not quoted.
    writer = csv.writer(sink, lineterminator="\r\n")
    writer.writerow(table.columns)
    columns = ([_cell(value) for value in _plain_column(table[name])] for name in table)
    writer.writerows(zip(*columns, strict=True))
    return sink.getvalue().encode("utf-8")


def jsonl_bytes(table: pd.DataFrame) -> bytes:
    """The table as JSON, one row per line; what is missing or not finite is null."""
    columns = [_plain_column(table[name]) for name in table]
    names = list(table)
    lines = (
        codec.json_bytes(dict(zip(names, row, strict=True))) + b"\n"
        for row in zip(*columns, strict=True)
    )
    return b"".join(lines)


def _cell(value: Any) -> Any:
    if isinstance(value, list):
        return str(codec.json_bytes(value), "utf-8")
    if not isinstance(value, str):
        return value
    text = codec.escape_text(value)
    return f"'{text}" if text.startswith(_FORMULA_OPENERS) else text


def _plain_column(column: pd.Series[Any]) -> list[Any]:
    """The column's values as Python's own; None for what is missing or not finite."""
    if column.dtype.kind in "biuf":
        return _plain_numbers(column.to_numpy())
    return [_plain(value) for value in column]


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return _plain_numbers(value) if value.dtype.kind in "biuf" else [_plain(v) for v in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    return (
        None if value is pd.NA or (isinstance(value, float) and not np.isfinite(value)) else value
    )


def _plain_numbers(values: NDArray[Any]) -> list[Any]:
    if values.dtype.kind != "f":
        return list(values.tolist())
    if values.dtype == np.float32:
        # The shortest decimal of 32 bits: 0.1 rather than 0.10000000149011612.
        values = values.astype(np.str_).astype(np.float64)
    return [
        value if ok else None
        for value, ok in zip(values.tolist(), np.isfinite(values), strict=True)
    ]
