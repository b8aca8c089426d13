from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from whatchanged.errors import InputError
from whatchanged.prompts import (
    PromptRow,
    group_prompts,
    groups_in_both_splits,
    read_prompts,
    split_prompts,
)
from whatchanged.records import Prompt


def write(tmp_path: Path, *lines: str) -> str:
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return str(path)


def test_rows_come_in_order_and_equal_prompts_once(tmp_path: Path) -> None:
    name = write(
        tmp_path,
        '{"prompt": "b", "group": "x"}',
        "",
        '{"prompt": "a"}',
        '{"prompt": "b", "group": "x"}',
        '{"prompt": " b "}',
    )
    assert read_prompts(name) == (PromptRow("b", "x"), PromptRow("a", None))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 1: expected a JSON object, found invalid JSON"),
        ('["a"]', "line 1: expected a JSON object, found '[\"a\"]'"),
        ('{"prompt": 3}', 'expected {"prompt": "..."}'),
        ('{"prompt": "a", "group": 3}', "expected a text as group, found 3"),
        ('{"prompt": "  "}', "expected a prompt, found an empty text"),
        ('{"prompt": "a\\ud83d"}', "lone surrogate '\\ud83d' at position 1"),
        ('{"prompt": "a", "group": "\\ud83d"}', "the group holds a lone surrogate"),
    ],
)
def test_a_bad_row_is_named_with_its_line(tmp_path: Path, line: str, said: str) -> None:
    with pytest.raises(InputError) as error:
        read_prompts(write(tmp_path, line))
    assert said in str(error.value)


def test_an_empty_file_and_no_file_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="found an empty file: add rows like"):
        read_prompts(write(tmp_path, "", " "))
    with pytest.raises(InputError, match=r"check prompts\.file"):
        read_prompts(str(tmp_path / "nowhere.jsonl"))


def test_invalid_utf8_is_said(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(b'{"prompt": "\xff"}')
    with pytest.raises(InputError, match="expected UTF-8"):
        read_prompts(str(path))


def bank(sizes: dict[str, int], seed: int = 0) -> tuple[Prompt, ...]:
    rows = [PromptRow(f"{group} {i}", group) for group, n in sizes.items() for i in range(n)]
    return split_prompts(rows, [row.group or "" for row in rows], validation_share=0.5, seed=seed)


def test_every_group_is_split_in_the_share_asked() -> None:
    split = Counter((p.group, p.split) for p in bank({"a": 10, "b": 4, "c": 2, "d": 1}))
    assert split == {
        ("a", "discovery"): 5,
        ("a", "validation"): 5,
        ("b", "discovery"): 2,
        ("b", "validation"): 2,
        ("c", "discovery"): 1,
        ("c", "validation"): 1,
        ("d", "discovery"): 1,
    }


def test_a_prompts_split_does_not_depend_on_file_order() -> None:
    rows = [PromptRow(f"p{i}", "g") for i in range(9)]
    there = split_prompts(rows, ["g"] * 9, validation_share=0.5, seed=1)
    back = split_prompts(rows[::-1], ["g"] * 9, validation_share=0.5, seed=1)
    assert set(there) == set(back)


def test_the_seed_changes_the_split() -> None:
    assert bank({"a": 20}, seed=0) != bank({"a": 20}, seed=1)


def test_groups_of_one_still_leave_prompts_for_validation() -> None:
    splits = Counter(p.split for p in bank({"a": 1, "b": 1, "c": 1, "d": 1}))
    assert splits == {"discovery": 2, "validation": 2}


def test_one_prompt_leaves_none_for_validation() -> None:
    with pytest.raises(InputError, match="expected at least 2 distinct prompts, found 1"):
        bank({"a": 1})


def test_groups_of_one_split_cannot_be_tested() -> None:
    prompts = bank({"a": 4, "d": 1})
    assert set(groups_in_both_splits(prompts).values()) == {"a"}
    assert groups_in_both_splits(bank({"a": 4})) == {}


def refuse(_: object) -> np.ndarray:
    raise AssertionError("the embedder was asked")


def test_the_users_groups_are_kept_and_cost_no_embedding() -> None:
    rows = [PromptRow("a", "tea"), PromptRow("b", None)]
    assert group_prompts(rows, refuse) == ("tea", "(no group)")


def test_a_small_bank_without_groups_is_one_group() -> None:
    assert group_prompts([PromptRow("a", None)] * 19, refuse) == ("all prompts",) * 19


def test_a_bank_without_groups_is_grouped_by_similarity() -> None:
    rows = [PromptRow(f"{'tea' if i % 2 else 'chess'} {i}", None) for i in range(40)]
    near = {"tea": (1.0, 0.0), "chess": (0.0, 1.0)}

    def embed(texts: list[str]) -> np.ndarray:
        rng = np.random.default_rng(0)
        vectors = np.array([near[t.split()[0]] for t in texts])
        return (vectors + rng.normal(scale=0.01, size=vectors.shape)).astype(np.float32)

    groups = group_prompts(rows, embed)
    mixed = {
        group: {row.prompt.split()[0] for row, g in zip(rows, groups, strict=True) if g == group}
        for group in set(groups)
    }
    assert len(mixed) > 1
    assert all(len(words) == 1 for words in mixed.values())
    assert all(json.dumps(group) for group in mixed)
