from __future__ import annotations

import csv
import io
import json
from dataclasses import fields

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.unit.example_run import HOSTILE
from whatchanged import verdicts
from whatchanged.discovery import CLUSTER_COLUMNS, MAP_COLUMNS
from whatchanged.divergence import DIVERGENCE_COLUMNS, PAIR_COLUMNS
from whatchanged.exports.dictionary import DICTIONARY, describe_table, write_dictionary_markdown
from whatchanged.exports.tables import csv_bytes, jsonl_bytes, tabulate_findings, write_tables
from whatchanged.records import PROMPT_COLUMNS, SEGMENT_COLUMNS, TEXT_COLUMNS, Finding
from whatchanged.store.runs import Run
from whatchanged.summary import RunContent

WRITTEN = {
    "findings": [field.name for field in fields(Finding)],
    "null_findings": [field.name for field in fields(Finding)],
    "texts": TEXT_COLUMNS,
    "segments": SEGMENT_COLUMNS,
    "prompts": PROMPT_COLUMNS,
    "clusters": CLUSTER_COLUMNS,
    "verdicts": verdicts.COLUMNS,
    "map": MAP_COLUMNS,
    "divergence": DIVERGENCE_COLUMNS,
    "pairs": PAIR_COLUMNS,
}


@pytest.fixture(scope="module")
def files(run: Run) -> dict[str, bytes]:
    return dict(write_tables(run))


@pytest.mark.parametrize("name", WRITTEN)
def test_the_dictionary_has_every_column_that_an_audit_writes_and_no_other(name: str) -> None:
    assert [entry.column for entry in DICTIONARY[name].columns] == list(WRITTEN[name])


def test_the_dictionary_has_every_table_of_a_run(run: Run) -> None:
    of_a_run = RunContent.tables(run)  # type: ignore[arg-type]  # a run has the same tables
    assert DICTIONARY.keys() == {*of_a_run, "findings", "null_findings"}


def kind_of(stored: pa.DataType) -> str:
    if pa.types.is_list(stored) or pa.types.is_large_list(stored):
        return f"list of {kind_of(stored.value_type)}s"
    for name, is_one in (
        ("string", lambda t: pa.types.is_string(t) or pa.types.is_large_string(t)),
        ("boolean", pa.types.is_boolean),
        ("integer", pa.types.is_integer),
        ("number", pa.types.is_floating),
    ):
        if is_one(stored):
            return name
    return str(stored)


@pytest.mark.parametrize("name", WRITTEN)
def test_the_dictionary_states_the_types_that_the_files_have(
    files: dict[str, bytes], name: str
) -> None:
    schema = pq.read_schema(pa.BufferReader(files[f"{name}.parquet"]))
    stated = {entry.column: entry.type for entry in DICTIONARY[name].columns}
    assert {column.name: kind_of(column.type) for column in schema} == stated


def test_every_table_comes_in_three_formats_with_the_same_rows(
    run: Run, files: dict[str, bytes]
) -> None:
    for name in WRITTEN:
        rows = list(csv.reader(io.StringIO(files[f"{name}.csv"].decode(), newline="")))
        lines = files[f"{name}.jsonl"].decode().split("\n")[:-1]
        table = pq.read_table(pa.BufferReader(files[f"{name}.parquet"]))
        assert rows[0] == table.column_names == list(WRITTEN[name])
        assert len(rows) - 1 == len(lines) == table.num_rows
        assert set(json.loads(lines[0])) == set(WRITTEN[name])
    assert files["texts.parquet"] == run.read_bytes("texts.parquet")


def test_both_dictionaries_count_the_rows(files: dict[str, bytes]) -> None:
    values = json.loads(files["data_dictionary.json"])
    assert values.keys() == WRITTEN.keys()
    assert (values["texts"]["n_rows"], values["findings"]["n_rows"]) == (600, 4)
    assert values["texts"]["columns"][7] == {
        "column": "n_tokens", "type": "integer", "unit": "tokens",
        "meaning": "Length of the reply, without the token that ended it.",
    }  # fmt: skip
    assert "600 rows; each is a decoded text." in files["data_dictionary.md"].decode()


def test_what_the_dictionary_does_not_know_is_listed_and_called_unknown() -> None:
    found = describe_table("map", ["x", "|z|"], 1)
    assert [(e.column, e.type) for e in found.columns] == [("x", "number"), ("|z|", "unknown")]
    assert "| `\\|z\\|` | unknown |  | Unknown to this version. |" in write_dictionary_markdown(
        [found]
    )
    assert describe_table("later", ["a"], 0).row == "unknown to this version"


def test_absent_tables_are_named_in_the_dictionary() -> None:
    some = [describe_table(n, [], 0) for n in DICTIONARY if n not in ("pairs", "divergence")]
    assert "The run holds no divergence, no pairs:" in write_dictionary_markdown(some)


def test_csv_writes_lists_as_json_missing_values_as_nothing_and_32_bits_in_short() -> None:
    table = pd.DataFrame(
        {
            "t": ["a,b", None],
            "n": [1.5, np.nan],
            "f": np.array([0.1, np.inf], np.float32),
            "l": [[1, 2], None],
            "b": [True, False],
        }
    )
    assert csv_bytes(table) == b't,n,f,l,b\r\n"a,b",1.5,0.1,"[1,2]",True\r\n,,,,False\r\n'


def test_no_cell_of_csv_is_a_formula_and_numbers_stay_numbers() -> None:
    table = pd.DataFrame({"t": ["=1+1", "+a", "-a", "@a", "\ta", "\ra", "a=1"], "n": [-1.0] * 7})
    rows = list(csv.reader(io.StringIO(csv_bytes(table).decode(), newline="")))
    assert [row[0] for row in rows[1:]] == ["'=1+1", "'+a", "'-a", "'@a", "'\ta", "'\ra", "a=1"]
    assert {row[1] for row in rows[1:]} == {"-1.0"}


def test_csv_gives_back_any_text_that_is_no_formula() -> None:
    texts = ["a\rb\nc\r\nd", 'say "no", now', "a\u2028b", " lead", "\x00"]
    rows = list(csv.reader(io.StringIO(csv_bytes(pd.DataFrame({"t": texts})).decode(), newline="")))
    assert [row[0] for row in rows[1:]] == texts


def test_jsonl_keeps_any_text_on_its_own_line_and_undefined_numbers_are_null() -> None:
    table = pd.DataFrame({"t": pd.Series(HOSTILE, dtype=object), "x": np.nan})
    lines = jsonl_bytes(table).decode().split("\n")
    assert len(lines) == len(HOSTILE) + 1
    values = [json.loads(line) for line in lines[:-1]]
    # Only the text with lone surrogates is written in another way.
    assert [v["t"] == text for v, text in zip(values, HOSTILE, strict=True)].count(False) == 1
    assert values[4]["t"] == "a lone \ufdd0d800 surrogate and \ufdd0dfff another"
    assert {v["x"] for v in values} == {None}


def test_jsonl_keeps_lists_of_32_bit_numbers_in_short() -> None:
    table = pd.DataFrame({"d": [np.array([0.1, np.nan], np.float32), None]})
    assert jsonl_bytes(table) == b'{"d":[0.1,null]}\n{"d":null}\n'


def test_no_findings_are_a_table_with_columns_and_no_rows() -> None:
    table = tabulate_findings([])
    assert list(table) == WRITTEN["findings"]
    assert len(table) == 0
    assert csv_bytes(table).decode().count("\n") == 1
