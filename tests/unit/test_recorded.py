"""Texts that were recorded before: what is read, what is refused, and how they are dealt out."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from whatchanged.config import AuditConfig, parse_config
from whatchanged.errors import ConfigError, InputError
from whatchanged.model_config import ModelConfig
from whatchanged.models.recorded_decoder import RecordedDecoder
from whatchanged.recorded import load_recorded, match_prompts
from whatchanged.records import DecodeRequest

ROWS = [
    {"prompt": prompt, "text": f"{side} {prompt} {number}", "side": side}
    for side, n in (("base", 4), ("intervention", 3))
    for prompt in ("tea?", "chess?")
    for number in range(n)
]


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """The rows in the format of the path's ending."""
    if path.suffix == ".parquet":
        pd.DataFrame(rows).to_parquet(path)
    elif path.suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def of(path: Path, side: str = "base") -> ModelConfig:
    return ModelConfig(texts=str(path), side=side)


def request(prompt: str, index: int, stream: str = "base") -> DecodeRequest:
    return DecodeRequest("key", "prompt key", prompt, index, "noise", stream=stream)


@pytest.mark.parametrize("ending", ["jsonl", "parquet", "csv"])
def test_a_side_is_read_in_every_format(tmp_path: Path, ending: str) -> None:
    found = load_recorded(of(write(tmp_path / f"texts.{ending}", ROWS), "intervention"))
    assert [one.text for one in found.completions] == [
        row["text"] for row in ROWS if row["side"] == "intervention"
    ]
    assert (found.count("tea?"), found.count("go?")) == (3, 0)


def test_a_file_without_sides_belongs_to_the_block_that_names_it(tmp_path: Path) -> None:
    rows = [{"prompt": "tea?", "text": "a"}, {"prompt": "tea?", "text": None}]
    found = load_recorded(of(write(tmp_path / "texts.jsonl", rows)))
    assert [(one.text, one.finish) for one in found.completions] == [("a", "stop"), ("", "failed")]


def test_the_csv_of_the_system_before_is_read(tmp_path: Path) -> None:
    path = tmp_path / "texts.csv"
    path.write_text('model,text,prompt\nbase,"say \\"a\\"",tea?\nfinetuned,b,tea?\n')
    for side, text in (("base", 'say "a"'), ("intervention", "b")):
        assert [one.text for one in load_recorded(of(path, side)).completions] == [text]


def test_every_text_is_dealt_once_and_a_control_gets_disjoint_halves(tmp_path: Path) -> None:
    decoder = RecordedDecoder(load_recorded(of(write(tmp_path / "texts.jsonl", ROWS))))
    dealt = decoder.decode([request("tea?", index) for index in range(5)])
    assert sorted(one.text for one in dealt[:4]) == [f"base tea? {i}" for i in range(4)]
    assert (dealt[4].finish, dealt[4].text) == ("failed", "")
    halves = [
        {one.text for one in decoder.decode([request("tea?", i, stream) for i in range(2)])}
        for stream in ("base", "null")
    ]
    assert len(halves[0] | halves[1]) == 4


def test_both_sides_give_what_both_have(tmp_path: Path) -> None:
    rows = [*ROWS, {"prompt": "alone?", "text": "a", "side": "base"}]
    path = write(tmp_path / "texts.jsonl", rows)
    bank = match_prompts({side: of(path, side) for side in ("base", "intervention")})
    assert [row.prompt for row in bank.rows] == ["tea?", "chess?"]
    assert bank.n_for_pair == {"tea?": 3, "chess?": 3}
    assert bank.n_for_null == {"tea?": 2, "chess?": 2}
    assert (bank.n_alone, bank.n_texts) == (
        {"base": 1, "intervention": 0}, {"base": 9, "intervention": 6}
    )  # fmt: skip


def test_the_identity_names_the_content_and_not_the_place(tmp_path: Path) -> None:
    one, same = write(tmp_path / "a.jsonl", ROWS), write(tmp_path / "b.jsonl", ROWS)
    other = write(tmp_path / "c.jsonl", ROWS[1:])
    named = [load_recorded(of(path)).identity for path in (one, same, other)]
    assert named[0] == named[1] != named[2]
    assert load_recorded(of(one, "intervention")).identity != named[0]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"prompt": "p"}], "found no text"),
        ([{"prompt": "p", "text": 3}], "expected a text as text, found 3"),
        ([{"prompt": " ", "text": "a"}], "expected a prompt, found an empty text"),
        ([{"prompt": "p", "text": "\ud800"}], "lone surrogate"),
        ([{"prompt": "p", "text": "a", "side": "tuned"}], "found only 'tuned': set `side`"),
        (
            [{"prompt": "p", "text": "a", "side": "base"}, {"prompt": "p", "text": "a"}],
            "or in none",
        ),
        ([{"prompt": "p", "text": "a", "group": g} for g in "xy"], "give one prompt one group"),
        ([{"prompt": "p", "text": "a", "n_tokens": "many"}], "expected a number as n_tokens"),
        ([{"prompt": "p", "text": "a", "finish": "eos"}], "expected finish to be stop, length"),
        ([], "it is empty"),
    ],
)
def test_a_bad_file_is_one_sentence(tmp_path: Path, rows: list[dict[str, Any]], said: str) -> None:
    path = write(tmp_path / "texts.jsonl", rows)
    with pytest.raises(InputError, match=said) as caught:
        load_recorded(of(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    (tmp_path / "latin.jsonl").write_bytes(b'{"prompt": "p", "text": "\xe9"}\n')
    (tmp_path / "texts.xlsx").write_bytes(b"")
    for name, said in (
        ("latin.jsonl", "UTF-8"), ("texts.xlsx", "found .xlsx"), ("none.csv", "found no file")
    ):  # fmt: skip
        with pytest.raises(InputError, match=said):
            load_recorded(of(tmp_path / name))


def test_sides_that_cannot_be_compared_are_refused(tmp_path: Path) -> None:
    plain = write(tmp_path / "plain.jsonl", [{"prompt": "p", "text": "a"}])
    other = write(tmp_path / "other.jsonl", [{"prompt": "q", "text": "a"}])
    grouped = [
        write(tmp_path / f"{g}.jsonl", [{"prompt": "p", "text": "a", "group": g}]) for g in "xy"
    ]
    for (base, intervention), said in (
        ((plain, plain), "expected a column side"),
        ((plain, other), "found none that .* share"),
        (grouped, "expected one group for the prompt 'p'"),
    ):
        with pytest.raises(InputError, match=said):
            match_prompts({"base": of(base), "intervention": of(intervention, "intervention")})


def config_of(**sides: Any) -> AuditConfig:
    return parse_config({"base": {"texts": "a"}, "intervention": {"texts": "b"}, **sides}, "test")


def test_a_side_is_a_model_or_texts_and_keeps_to_its_keys() -> None:
    assert [side.side for side in config_of().sides.values()] == ["base", "intervention"]
    for block, said in (
        ({"texts": "a", "model": "m"}, "not both"),
        ({}, "expected `model`"),
        ({"model": "m", "side": "base"}, "`side` chooses rows"),
        ({"texts": "a", "system_prompt": "s"}, "recorded texts stand"),
    ):
        with pytest.raises(ConfigError, match=said):
            config_of(base=block)
