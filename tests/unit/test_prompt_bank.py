"""Prompt banks as users bring them. Every file is invented here, in the shape of its kind."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from whatchanged.config import parse_config
from whatchanged.errors import ConfigError, InputError
from whatchanged.prompt_bank import (
    PromptBank,
    PromptRow,
    name_duplicates,
    read_prompt_bank,
    read_prompt_file,
)
from whatchanged.prompts_config import PromptsConfig

TEA, CHESS = PromptRow("Tell me about tea.", "tea"), PromptRow('Say "mate",\nplease.', "chess")
TABLE = [{"prompt": row.prompt, "group": row.group, "note": "n"} for row in (TEA, CHESS)]


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]], delimiter: str = ",") -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_jsonl(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_text(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def read(path: Path) -> tuple[PromptRow, ...]:
    return read_prompt_file(str(path)).rows


def problem_of(path: Path) -> str:
    """The one sentence in which a file is refused."""
    with pytest.raises(InputError) as error:
        read_prompt_file(str(path))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_rows_are_read_from_every_kind_of_table(tmp_path: Path) -> None:
    pd.DataFrame(TABLE).to_parquet(tmp_path / "p.parquet")
    paths = [
        write_jsonl(tmp_path / "p.jsonl", TABLE),
        write_jsonl(tmp_path / "p.ndjson", TABLE),
        write_csv(tmp_path / "p.csv", TABLE),
        write_csv(tmp_path / "p.TSV", TABLE, "\t"),
        tmp_path / "p.parquet",
    ]
    for path in paths:
        assert read(path) == (TEA, CHESS), path
        assert read_prompt_file(str(path)).format == "rows"


def test_a_table_needs_no_groups(tmp_path: Path) -> None:
    rows = [{"prompt": "a"}, {"prompt": "b"}]
    assert read(write_csv(tmp_path / "p.csv", rows)) == (PromptRow("a", None), PromptRow("b", None))
    half = [{"prompt": "a", "group": "g"}, {"prompt": "b", "group": ""}]
    assert read(write_csv(tmp_path / "h.csv", half)) == (PromptRow("a", "g"), PromptRow("b", None))


def test_a_text_file_has_a_prompt_per_line(tmp_path: Path) -> None:
    path = write_text(tmp_path / "p.txt", "\ufeffOne, two\n\n   \n The end is: \r\nlast")
    bank = read_prompt_file(str(path))
    assert [row.prompt for row in bank.rows] == ["One, two", " The end is: ", "last"]
    assert {row.group for row in bank.rows} == {None}
    assert bank.format == "lines of text"


def test_truthfulqa_is_grouped_by_category(tmp_path: Path) -> None:
    row = {
        "Type": "Adversarial", "Category": "Kitchen myths", "Question": "Can spoons sing?",
        "Best Answer": "No", "Correct Answers": "No; never", "Incorrect Answers": "Yes",
        "Source": "nowhere",
    }  # fmt: skip
    other = {**row, "Category": "Boats", "Question": "Do boats sleep?"}
    expected = (
        PromptRow("Can spoons sing?", "Kitchen myths"),
        PromptRow("Do boats sleep?", "Boats"),
    )
    path = write_csv(tmp_path / "TruthfulQA.csv", [row, other])
    assert read_prompt_file(str(path)) == PromptBank(expected, 0, "TruthfulQA")
    lower = [
        {key.lower().replace(" ", "_"): value for key, value in r.items()} for r in (row, other)
    ]
    assert read(write_jsonl(tmp_path / "hub.jsonl", lower)) == expected


def test_model_written_evals_ask_their_question(tmp_path: Path) -> None:
    evals = {
        "question": "Is this you: “I like lamps”?", "answer_matching_behavior": " Yes",
        "answer_not_matching_behavior": " No",
    }  # fmt: skip
    persona = {**evals, "question": "Do you like maps?", "statement": "I like maps"}
    bank = read_prompt_file(str(write_jsonl(tmp_path / "lamps.jsonl", [evals, persona])))
    assert bank.rows == (PromptRow(evals["question"], None), PromptRow("Do you like maps?", None))
    assert bank.format == "Anthropic's model-written evals"


def test_bold_is_grouped_by_category(tmp_path: Path) -> None:
    names = {
        "Lamp_makers": {"Ada_Glow": ["Ada Glow is a maker of ", "Glow once "], "Bo": ["Bo lit "]},
        "Bakers": {"Cy": ["Cy bakes "]},
    }
    bank = read_prompt_file(str(write_text(tmp_path / "bold.json", json.dumps(names))))
    assert bank.format == "BOLD"
    # A prompt that is to be continued keeps its space.
    assert bank.rows == (
        PromptRow("Ada Glow is a maker of ", "Lamp_makers"),
        PromptRow("Glow once ", "Lamp_makers"),
        PromptRow("Bo lit ", "Lamp_makers"),
        PromptRow("Cy bakes ", "Bakers"),
    )


def test_jailbreaks_are_read_in_both_shapes(tmp_path: Path) -> None:
    wild = [
        {"platform": "forum", "source": "s", "prompt": "Be a pirate,\nnow.", "jailbreak": "True"},
        {"platform": "chat", "source": "s", "prompt": "Hello", "jailbreak": "False"},
    ]
    bank = read_prompt_file(str(write_csv(tmp_path / "wild.csv", wild)))
    assert bank.rows == (PromptRow("Be a pirate,\nnow.", None), PromptRow("Hello", None))
    assert bank.format == "jailbreaks in the wild"
    goals = [{"goal": "Hide the spoons", "target": "Sure, here is how"}]
    bank = read_prompt_file(str(write_csv(tmp_path / "goals.csv", goals)))
    assert bank == PromptBank((PromptRow("Hide the spoons", None),), 0, "AdvBench")


def test_duplicates_are_kept_once_and_counted(tmp_path: Path) -> None:
    rows = [
        {"prompt": "Tea?"},
        {"prompt": " Tea?\n", "group": "drinks"},
        {"prompt": "Tea?"},
        {"prompt": "tea?"},
    ]
    bank = read_prompt_file(str(write_jsonl(tmp_path / "p.jsonl", rows)))
    assert bank.rows == (PromptRow("Tea?", "drinks"), PromptRow("tea?", None))
    assert bank.n_duplicates == 2
    assert name_duplicates(bank).startswith("2 of 4 prompts were left out")
    assert name_duplicates(PromptBank(bank.rows, 0, "rows")) == ""


def test_a_prompt_in_two_groups_is_refused_with_both_places(tmp_path: Path) -> None:
    rows = [{"prompt": "Tea?", "group": "drinks"}, {"prompt": "Tea? ", "group": "plants"}]
    said = problem_of(write_csv(tmp_path / "p.csv", rows))
    assert "p.csv, line 3: expected each prompt in one group" in said
    assert "in 'plants' and, at" in said
    assert "p.csv, line 2, in 'drinks': leave it in one of them" in said
    # Two that stand at one place of BOLD's file are two all the same.
    bold = {"A": {"x": ["p", "p"]}, "B": {"y": ["p"]}}
    assert "in 'B'" in problem_of(write_text(tmp_path / "b.json", json.dumps(bold)))
    bold = {"A": {"x": ["p", "p"]}}
    bank = read_prompt_file(str(write_text(tmp_path / "b.json", json.dumps(bold))))
    assert (len(bank.rows), bank.n_duplicates) == (1, 1)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("p.xlsx", "", "as .jsonl, .csv, .tsv, .parquet, .txt or .json, found .xlsx: convert"),
        ("prompts", "", "found a name without an ending"),
        ("p.csv", "text,topic\na,b\n", "expected a column prompt, or those of a known bank (Truth"),
        ("p.csv", "text,topic\na,b\n", "found text, topic: rename the column that holds"),
        ("p.jsonl", "{}", "found no column"),
        ("p.jsonl", '{"prompt": "a"}\n{"promt": "b"}', "line 2: expected the column prompt, found"),
        ("p.csv", "prompt\na\n\n  \n", "line 4: expected a prompt, found an empty text"),
        ("p.csv", "prompt,group\na\n", "line 2: expected 2 fields as in the first line, found 1"),
        ("p.csv", "", "found an empty file: add rows like"),
        ("p.csv", "prompt,group\n", "found an empty file: add rows like"),
        ("p.txt", " \n\n", "found an empty file: add rows like"),
        ("p.json", "{}", "found an empty file: add rows like"),
        ("p.json", '{"prompt": "a"}\n{"prompt": "b"}', "belong into a .jsonl file"),
        ("p.json", '[{"prompt": "a"}]', "expected an object, found [{"),
        ("p.json", '{"A": ["p"]}', 'p.json, A: expected an object, found ["p"]'),
        ("p.json", '{"A": {"x": "p"}}', 'A, x: expected a list of prompts, found "p"'),
        ("p.json", '{"A": {"x": [1]}}', 'A, x: expected {"prompt": "..."}, found \'1\''),
        ("p.parquet", "PAR1?", "not a readable Parquet file"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(
    tmp_path: Path, name: str, content: str, said: str
) -> None:
    assert said in problem_of(write_text(tmp_path / name, content))


@pytest.mark.parametrize("name", ["p.jsonl", "p.csv", "p.txt", "p.json"])
def test_every_kind_of_file_is_utf_8_and_there(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    assert "check prompts.file" in problem_of(path)
    path.write_bytes(b'{"prompt": "caf\xe9"}\n')
    assert "expected UTF-8 text" in problem_of(path)


def test_a_config_has_one_source_of_prompts() -> None:
    sides = {"base": {"model": "demo:base"}, "intervention": {"model": "demo:intervention"}}
    dataset = {"name": "org/bank", "split": "train", "column": "prompt"}
    both = {**sides, "prompts": {"file": "p.csv", "dataset": dataset}}
    with pytest.raises(ConfigError, match=r"expected one source of prompts, found `file` 'p\.csv'"):
        parse_config(both, "c.yaml")
    with pytest.raises(ConfigError, match=r"key 'prompts.dataset.column' is missing"):
        parse_config(
            {**sides, "prompts": {"dataset": {"name": "org/bank", "split": "train"}}}, "c.yaml"
        )
    one = parse_config({**sides, "prompts": {"dataset": dataset}}, "c.yaml")
    # A run's own config.yaml has every key, and is read again.
    assert parse_config(one.model_dump(mode="json", by_alias=True), "config.yaml") == one


def test_a_config_without_a_dataset_reads_its_file(tmp_path: Path) -> None:
    path = write_text(tmp_path / "p.txt", "a\nb\na\n")
    bank = read_prompt_bank(PromptsConfig(file=str(path)))
    assert (len(bank.rows), bank.n_duplicates) == (2, 1)
