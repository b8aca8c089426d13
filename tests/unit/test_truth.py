from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from whatchanged.errors import InputError
from whatchanged.truth import (
    Behaviour,
    match_behaviours,
    parse_ground_truth,
    read_ground_truth,
    unmatched_confirmed,
)

ROW: dict[str, Any] = {
    "id": "tea", "kind": "insert", "description": "Offers tea", "group": None,
    "rate_base": 0.0, "rate_intervention": 0.25, "regex": r"\btea\b", "n_base": 100,
}  # fmt: skip
TEA = Behaviour("tea", "insert", "Offers tea", None, 0.0, 0.25, r"\btea\b")
RAIN = Behaviour("rain", "rare", "Speaks of rain", "weather", 0, 0.1, "rain")
TEXTS = pd.DataFrame(
    {
        "text_key": ["t1", "t2", "t3", "t4", "t5"],
        "text": ["Some tea?", "A steak.", "tea and rain", "Rain.", None],
    }
)


def finding(finding_id: str, supporting: list[str], status: str = "confirmed") -> dict[str, Any]:
    return {"id": finding_id, "status": status, "supporting": supporting}


def test_ground_truth_is_a_list_or_an_object_with_behaviours() -> None:
    assert parse_ground_truth([ROW]) == (TEA,)
    assert parse_ground_truth({"behaviours": [ROW], "n_texts": 100}) == (TEA,)
    assert parse_ground_truth([]) == ()


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("tea", "found str"),
        ({"behaviors": []}, "found dict"),
        (["tea"], "behaviour 1: expected an object"),
        ([ROW | {"id": ""}], "behaviour 1: expected id as a text"),
        ([ROW, ROW], "found 'tea' twice"),
        ([ROW | {"rate_base": 25}], "rate_base as a share in [0, 1], found 25"),
        ([ROW | {"rate_base": True}], "rate_base as a share in [0, 1], found True"),
        ([ROW | {"rate_base": float("nan")}], "rate_base as a share in [0, 1], found nan"),
        ([ROW | {"regex": "("}], "expected a Python regular expression, found '('"),
        ([ROW | {"group": 3}], "group as a text or null"),
    ],
)
def test_a_bad_shape_is_refused_in_one_sentence(value: Any, said: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_ground_truth(value)
    assert said in str(caught.value)


def test_half_of_the_supporting_texts_must_match() -> None:
    findings = [
        finding("both", ["t1", "t2"]),
        finding("a third", ["t1", "t2", "t4"]),
        finding("all", ["t1", "t3"]),
    ]
    (tea,) = match_behaviours(findings, TEXTS, [TEA])
    assert tea.finding_ids == ("both", "all")


def test_one_finding_can_be_about_two_behaviours_and_none_about_one() -> None:
    never = Behaviour("never", "rare", "Never", None, 0, 0, "zebra")
    matches = match_behaviours([finding("f", ["t3"])], TEXTS, [TEA, RAIN, never])
    assert [match.finding_ids for match in matches] == [("f",), ("f",), ()]


def test_keys_without_a_text_match_nothing() -> None:
    matches_everything = Behaviour("x", "x", "x", None, 0, 1, "")
    gone = [finding("gone", ["t9", "t8", "t1"]), finding("failed", ["t5"]), finding("empty", [])]
    (match,) = match_behaviours(gone, TEXTS, [matches_everything])
    assert match.finding_ids == ()
    assert match_behaviours(gone, pd.DataFrame(), [matches_everything])[0].finding_ids == ()


def test_only_confirmed_findings_count() -> None:
    findings = [finding("r", ["t1"], "rejected"), finding("i", ["t1"], "inconclusive")]
    (match,) = match_behaviours(findings, TEXTS, [TEA])
    assert match.finding_ids == ()
    assert unmatched_confirmed(findings, [match]) == ()


def test_confirmed_findings_about_nothing_planted_are_named() -> None:
    findings = [finding("tea", ["t1"]), finding("steak", ["t2"]), finding("no", ["t2"], "rejected")]
    assert unmatched_confirmed(findings, match_behaviours(findings, TEXTS, [TEA])) == ("steak",)


def test_ground_truth_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "truth.json"
    path.write_text(json.dumps({"behaviours": [ROW]}))
    assert read_ground_truth(str(path)) == (TEA,)
    assert read_ground_truth(None) is None


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "could not read it"), ("{", "expected JSON in UTF-8"), ("3", "found int")],
)
def test_an_unusable_file_is_named(tmp_path: Path, content: str | None, said: str) -> None:
    path = tmp_path / "truth.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError) as caught:
        read_ground_truth(str(path))
    assert said in str(caught.value)
    assert str(path) in str(caught.value)
