"""The shapes in which public prompt banks come, recognised by their columns.

| bank | columns | prompt | group |
|---|---|---|---|
| TruthfulQA (CSV) | `Category`, `Question`, `Best Answer` | `Question` | `Category` |
| TruthfulQA (hub) | `category`, `question`, `best_answer` | `question` | `category` |
| Anthropic's model-written evals | `question`, `answer_matching_behavior`, \
`answer_not_matching_behavior` | `question` | none |
| AdvBench | `goal`, `target` | `goal` | none |
| jailbreaks in the wild | `prompt`, `jailbreak` | `prompt` | none: a platform is no topic |
| rows | `prompt` | `prompt` | `group`, where there is one |

Columns that are not named here are not read. BOLD is no table: a JSON object of categories, each
of names with their lists of prompts; the category is the group.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from whatchanged.errors import InputError
from whatchanged.table_files import check_columns, check_unicode

# Where a prompt stands, for errors; the prompt; its group, None where it has none.
Found: TypeAlias = tuple[str, str, str | None]

BOLD = "BOLD"
TEXT = "lines of text"


@dataclass(frozen=True, slots=True)
class BankFormat:
    """A shape of rows: the `columns` that it is recognised by, and those that are read."""

    name: str
    columns: tuple[str, ...]
    prompt: str
    group: str | None


ROWS = BankFormat("rows", ("prompt",), "prompt", "group")
# The first whose columns are all there.
FORMATS = (
    BankFormat("TruthfulQA", ("Category", "Question", "Best Answer"), "Question", "Category"),
    BankFormat("TruthfulQA", ("category", "question", "best_answer"), "question", "category"),
    BankFormat(
        "Anthropic's model-written evals",
        ("question", "answer_matching_behavior", "answer_not_matching_behavior"),
        "question",
        None,
    ),
    BankFormat("jailbreaks in the wild", ("prompt", "jailbreak"), "prompt", "group"),
    ROWS,
    BankFormat("AdvBench", ("goal", "target"), "goal", None),
)


def recognise_format(row: Mapping[str, Any], where: str) -> BankFormat:
    """The format of a file by its first row; InputError where it is none of those known."""
    for known in FORMATS:
        if all(column in row for column in known.columns):
            return known
    names = ", ".join(dict.fromkeys(known.name for known in FORMATS if known is not ROWS))
    raise InputError(
        f"{where}: expected a column prompt, or those of a known bank ({names}), found "
        f"{', '.join(map(str, row)) or 'no column'}: rename the column that holds the prompts"
    )


def read_cells(row: Mapping[str, Any], where: str, prompt: str, group: str | None) -> Found:
    """The prompt and the group of a row, by their columns. An empty group is none.

    Raises InputError where the row has no such column, for a value that is no text, an empty
    prompt, and text that is no valid Unicode.
    """
    check_columns(row, (prompt,), where)
    text, label = row[prompt], row.get(group) if group else None
    if not isinstance(text, str):
        raise InputError(f'{where}: expected {{"{prompt}": "..."}}, found {str(text)[:80]!r}')
    if label is not None and not isinstance(label, str):
        raise InputError(f"{where}: expected a text as {group}, found {label!r}")
    if not text.strip():
        raise InputError(f"{where}: expected a prompt, found an empty text: write one, or take out")
    check_unicode(text, where, prompt)
    return where, text, check_unicode(label, where, str(group)) if label else None


def read_bold(path: Path) -> Iterator[Found]:
    """The prompts of a file as BOLD has them, in order; InputError where it has another shape."""
    try:
        categories = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path}, line {error.lineno}: not valid JSON ({error.msg}): rows of JSON, one per "
            "line, belong into a .jsonl file"
        ) from None
    for category, names in _items(categories, str(path)):
        for name, prompts in _items(names, f"{path}, {category}"):
            where = f"{path}, {category}, {name}"
            if not isinstance(prompts, list):
                raise _other_shape(where, "a list of prompts", prompts)
            for prompt in prompts:
                yield read_cells({"prompt": prompt, "group": category}, where, "prompt", "group")


def read_lines(path: Path) -> Iterator[Found]:
    """The lines of a text file, blank ones left out."""
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield f"{path}, line {number}", line.removesuffix("\n"), None


def _items(value: object, where: str) -> list[tuple[str, Any]]:
    if not isinstance(value, dict):
        raise _other_shape(where, "an object", value)
    return list(value.items())


def _other_shape(where: str, expected: str, value: object) -> InputError:
    return InputError(
        f"{where}: expected {expected}, found {json.dumps(value)[:80]}: a .json file holds "
        "prompts as BOLD does, {category: {name: [prompt, ...]}}; write rows as .jsonl"
    )
