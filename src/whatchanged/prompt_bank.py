"""The prompt bank: where prompts come from, read and checked.

A file ends in `.jsonl` (or `.ndjson`), `.csv`, `.tsv`, `.parquet`, `.json` or `.txt`: rows with a
column `prompt` and, where there are groups, `group`; a public bank as it comes, recognised by its
columns (`prompt_bank_formats`); or one prompt per line. A dataset names its columns in the config.

Prompts are decoded as they are written. Two that differ only in white space around them are
duplicates: the first is kept, and how many were left out is said.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from whatchanged.demo import file_at
from whatchanged.errors import InputError
from whatchanged.prompt_bank_formats import (
    BOLD,
    TEXT,
    Found,
    read_bold,
    read_cells,
    read_lines,
    recognise_format,
)
from whatchanged.prompts_config import PromptDatasetConfig, PromptsConfig
from whatchanged.table_files import explain_failures, read_rows

_WHAT, _CHECK = "a prompt file", "prompts.file"
_TABLES = {".jsonl", ".ndjson", ".csv", ".tsv", ".parquet"}


@dataclass(frozen=True, slots=True)
class PromptRow:
    """One prompt of a bank; `group` is None where its row names none."""

    prompt: str
    group: str | None


@dataclass(frozen=True, slots=True)
class PromptBank:
    """The distinct prompts of a bank, in order; how many rows repeated one of them; and the name of
    the format that it was read in."""

    rows: tuple[PromptRow, ...]
    n_duplicates: int
    format: str


def read_prompts(name: str) -> tuple[PromptRow, ...]:
    """The rows of a prompt file: see `read_prompt_file`."""
    return read_prompt_file(name).rows


def read_prompt_bank(config: PromptsConfig) -> PromptBank:
    """The bank that a config names: its dataset, else its file. Raises what reading it raises."""
    return read_prompt_dataset(config.dataset) if config.dataset else read_prompt_file(config.file)


def read_prompt_file(name: str) -> PromptBank:
    """The bank in a file; `demo:NAME` is a packaged file.

    Raises InputError naming the file and line for: no such file, one of an unknown format, without
    a prompt, or not UTF-8; a row without a prompt, with an empty one, or with a value that is no
    text or no valid Unicode; and a prompt that stands in two groups.
    """
    path = file_at(name)
    with explain_failures(path, _WHAT, _CHECK):
        shape, found = _open_file(path)
        rows, n_duplicates = merge_duplicates(found)
    if not rows:
        raise InputError(
            f"{path}: expected rows with a prompt, found an empty file: "
            'add rows like {"prompt": "Tell me about tea."}'
        )
    return PromptBank(rows, n_duplicates, shape)


def read_prompt_dataset(config: PromptDatasetConfig) -> PromptBank:
    """The bank in a dataset of the hub, or in a folder of one.

    Raises InputError as `read_prompt_file` does, and what `models.prompt_dataset.read_dataset`
    raises for a dataset, a split or a column that is not there.
    """
    from whatchanged.models.prompt_dataset import read_dataset

    rows, n_duplicates = merge_duplicates(
        read_cells(row, where, config.column, config.group_column)
        for where, row in read_dataset(config)
    )
    if not rows:
        raise InputError(
            f"prompts.dataset: expected prompts in the split {config.split} of {config.name}, "
            "found an empty one: name another"
        )
    return PromptBank(rows, n_duplicates, "dataset")


def merge_duplicates(found: Iterable[Found]) -> tuple[tuple[PromptRow, ...], int]:
    """The distinct prompts in order, and how many others repeated one. Of duplicates, the first is
    kept as it is written, with the group that any of them names.

    Raises InputError where duplicates name different groups.
    """
    first_of: dict[str, tuple[str, PromptRow]] = {}
    n_duplicates = 0
    for where, prompt, group in found:
        key = prompt.strip()
        if key not in first_of:
            first_of[key] = where, PromptRow(prompt, group)
            continue
        n_duplicates += 1
        known_where, known = first_of[key]
        if known.group is None:
            first_of[key] = known_where, replace(known, group=group)
        elif group not in (None, known.group):
            raise InputError(
                f"{where}: expected each prompt in one group, found {prompt[:80]!r} in {group!r} "
                f"and, at {known_where}, in {known.group!r}: leave it in one of them"
            )
    return tuple(row for _, row in first_of.values()), n_duplicates


def name_duplicates(bank: PromptBank) -> str:
    """How many prompts were left out as duplicates, as a sentence; empty where none were."""
    if not bank.n_duplicates:
        return ""
    n_read = len(bank.rows) + bank.n_duplicates
    return (
        f"{bank.n_duplicates:,} of {n_read:,} prompts were left out, because they repeat others; "
        f"{len(bank.rows):,} are distinct"
    )


def _open_file(path: Path) -> tuple[str, Iterator[Found]]:
    """The name of a file's format, and what is in it."""
    match path.suffix.lower():
        case ".txt":
            return TEXT, read_lines(path)
        case ".json":
            return BOLD, read_bold(path)
        case suffix if suffix in _TABLES:
            return _open_table(path)
        case suffix:
            raise InputError(
                f"{path}: expected {_WHAT} as .jsonl, .csv, .tsv, .parquet, .txt or .json, found "
                f"{suffix or 'a name without an ending'}: convert or rename it"
            )


def _open_table(path: Path) -> tuple[str, Iterator[Found]]:
    rows = read_rows(path, _WHAT, check=_CHECK)
    first = next(rows, None)
    if first is None:
        return "rows", iter(())
    shape = recognise_format(first[1], first[0])
    cells = (
        read_cells(row, where, shape.prompt, shape.group) for where, row in chain([first], rows)
    )
    return shape.name, cells
