"""How many recorded texts an audit may ask for, and what it plans and leaves out because of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.test_validate import claim
from whatchanged.bank import (
    count_available,
    count_comparable,
    describe_recording,
    read_bank,
    why_no_control,
)
from whatchanged.config import AuditConfig, parse_config
from whatchanged.errors import InputError
from whatchanged.plan import count_prompts, plan_audit
from whatchanged.preflight import check_audit
from whatchanged.records import Prompt, Split
from whatchanged.sample import deal_evenly
from whatchanged.validate import plan_validation

SPLITS: tuple[Split, ...] = ("discovery", "discovery", "validation", "validation")


def record(folder: Path, n_texts: int, sides: Sequence[str] = ("base", "intervention")) -> str:
    """A file of so many texts per side of four prompts."""
    rows = [
        {"prompt": prompt, "text": f"{side} {i}", "side": side}
        for prompt in "abcd"
        for side in sides
        for i in range(n_texts)
    ]
    path = folder / "texts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def config_of(base: object, intervention: object, **more: object) -> AuditConfig:
    return parse_config({"base": base, "intervention": intervention, **more}, "a test")


def both_in(file: str, **more: Any) -> AuditConfig:
    return config_of({"texts": file}, {"texts": file}, **more)


def prompts_of(config: AuditConfig) -> list[Prompt]:
    rows = read_bank(config)
    return [Prompt(r.prompt, r.prompt, "", split) for r, split in zip(rows, SPLITS, strict=True)]


def test_a_control_needs_prompts_with_two_texts_in_both_splits(tmp_path: Path) -> None:
    config = both_in(record(tmp_path, 2), cluster={"n_clusters": 4})
    prompts = prompts_of(config)
    assert why_no_control(config, prompts) == ""
    assert "too few prompts have two of them" in why_no_control(config, prompts[:2])
    once = both_in(record(tmp_path, 1), cluster={"n_clusters": 4})
    assert "too few prompts have two of them" in why_no_control(once, prompts)
    unasked = both_in(record(tmp_path, 1), validate={"null_control": False})
    assert why_no_control(unasked, prompts) == ""


def test_a_control_needs_as_many_texts_as_clusters(tmp_path: Path) -> None:
    config = both_in(record(tmp_path, 2), cluster={"n_clusters": 5})
    prompts = prompts_of(config)
    assert "it would have 4 discovery texts, fewer than the 5" in why_no_control(config, prompts)
    said = describe_recording(config, prompts)
    assert said is not None
    assert (said["n_comparable_per_side"], said["n_discovery_per_side"]) == (8, 4)
    assert said["why_no_control"] == why_no_control(config, prompts)


def test_a_model_may_stand_on_the_other_side(tmp_path: Path) -> None:
    file = {"texts": record(tmp_path, 3)}
    base, changed = (
        config_of(file, {"model": "demo:base"}),
        config_of({"model": "demo:base"}, file),
    )
    prompts = prompts_of(base)
    assert count_available(base, prompts, is_null=False) == dict.fromkeys("abcd", 3)
    assert count_available(base, prompts, is_null=True) == dict.fromkeys("abcd", 1)
    # A model writes its own control.
    assert count_available(changed, prompts, is_null=True) is None
    assert why_no_control(changed, prompts) == ""


def test_models_write_as_many_as_are_asked_for() -> None:
    config = config_of({"model": "a"}, {"model": "b"})
    assert count_available(config, [], is_null=False) is None
    assert count_comparable(config) is None
    assert describe_recording(config, []) is None


def test_texts_are_dealt_evenly_as_far_as_they_go() -> None:
    available = np.array([1, 9, 3, 9])
    assert deal_evenly(available, 12, seed=0).tolist() == [1, 4, 3, 4]
    assert deal_evenly(available, 13, seed=0).tolist() in ([1, 5, 3, 4], [1, 4, 3, 5])
    assert deal_evenly(available, 99, seed=0).tolist() == [1, 9, 3, 9]
    assert deal_evenly(np.array([], dtype=np.int64), 5, seed=0).tolist() == []


@pytest.mark.parametrize(
    ("n_texts", "per_prompt"), [(2, 1), (7, 3), (8, 4), (20, 14), (10_000, 20)]
)
def test_prompts_with_more_texts_make_up_for_those_with_few(n_texts: int, per_prompt: int) -> None:
    prompts = [Prompt(key, key, "", "validation") for key in "abc"]
    sizes = {"texts_per_hypothesis": 2 * n_texts, "max_texts_per_hypothesis": 2 * n_texts}
    config = config_of({"model": "a"}, {"model": "b"}, validate=sizes).validation
    (plan,) = plan_validation([claim()], prompts, config, {"a": 1, "b": 5, "c": 20})
    assert plan.n_per_prompt == per_prompt


def test_a_plan_counts_what_was_recorded_and_no_token_that_nobody_writes(tmp_path: Path) -> None:
    file = record(tmp_path, 5)
    counts = count_prompts(read_bank(both_in(file)), 0.5)
    plan = plan_audit(both_in(file), counts, None, None, count_comparable(both_in(file)))
    assert plan.texts["base"]["discovery"].high == 10
    assert plan.texts["intervention"]["validation"].high == 10
    # Base against base has the halves of the base's texts.
    assert plan.texts["null control"]["discovery"].high == 5
    assert (plan.n_tokens.low, plan.n_tokens.high) == (0, 0)
    half = config_of({"texts": file}, {"model": "demo:base"})
    planned = plan_audit(half, counts, None, None, count_comparable(half))
    assert planned.n_tokens.high == 20 * 48


def test_too_few_texts_for_the_clusters_are_refused_before_the_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="n_clusters"):
        check_audit(both_in(record(tmp_path, 2)), tmp_path / "run")


def test_two_blocks_that_take_the_same_rows_are_refused_however_they_name_them(
    tmp_path: Path,
) -> None:
    file = record(tmp_path, 2)
    (tmp_path / "there").mkdir()
    detour = {"texts": str(tmp_path / "there" / ".." / "texts.jsonl"), "side": "base"}
    with pytest.raises(InputError, match="another side for each block, found 'base' on both"):
        read_bank(config_of({"texts": file}, detour))


def test_a_side_that_is_not_in_the_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="whose side is 'intervention', found only 'base'"):
        read_bank(both_in(record(tmp_path, 2, sides=("base",))))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("t.csv", b"prompt,text\na,caf\xe9\n", "t.csv: expected UTF-8 text, found invalid"),
        ("t.csv", b"prompt,text\na,b,c\n", "t.csv, line 2: expected 2 fields as in the first"),
        ("t.csv", b'prompt,text\na,"b', "t.csv, line 2: not valid CSV"),
        ("t.csv", b"", "t.csv: expected recorded texts, found no row: it is empty"),
        ("t.jsonl", b"{", "t.jsonl, line 1: expected a JSON object, found invalid JSON"),
        ("t.jsonl", b"[1]", "t.jsonl, line 1: expected a JSON object, found '[1]'"),
        ("t.parquet", b"no parquet", "t.parquet: not a readable Parquet file"),
    ],
)
def test_a_damaged_file_is_one_sentence(
    tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as error:
        read_bank(both_in(str(tmp_path / name)))
    assert said in str(error.value)
    assert "\n" not in str(error.value)
