"""Texts that were recorded before, in place of a model: read, checked, and dealt out per prompt.

A file of recorded texts (`table_files`) has the columns `prompt` and `text`. With a column `side`
it may hold several sides, and a block of the config takes the rows of one. `group` is the prompt's
group; `n_tokens`, `finish` and `decoded_by` are as in a run's `texts.parquet`, which is such a
file. Other columns are not read. A null text, or one whose `finish` is "failed", is a failed text.

The texts of a prompt are dealt out in an order drawn from the file's digest: however a file is
sorted, the first texts of a prompt are a random share of them. A null control takes the base's
texts from both ends of that order, so that its two sides are disjoint halves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whatchanged.demo import file_at
from whatchanged.errors import InputError
from whatchanged.keys import content_key, file_digest, seed_from_key
from whatchanged.model_config import ModelConfig
from whatchanged.prompts import PromptRow
from whatchanged.records import Completion, Finish, Side
from whatchanged.table_files import check_columns, check_unicode, read_header, read_rows

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Raise it with any change that deals out other texts of the same file.
VERSION = 1

_WHAT = "recorded texts"
# The CSV of the system that this one grew out of: columns in this order, backslashes as escapes,
# and its own name of the side that was changed.
_REFERENCE_HEADER = ["model", "text", "prompt"]
_REFERENCE_SIDES = {"base": "base", "finetuned": "intervention"}
_FINISHES: tuple[Finish, ...] = ("stop", "length", "failed")
_BYTES_PER_TOKEN = 4


@dataclass(frozen=True)
class Recorded:
    """The texts of one side. `completions` are all of them, `rows_of` the places of each prompt's
    among them, in the order in which they are dealt out; `groups` names each prompt's group, None
    where no row does. `has_sides` says whether rows were chosen by their side. `identity` names the
    content, wherever the file is."""

    completions: tuple[Completion, ...]
    rows_of: Mapping[str, NDArray[np.intp]]
    groups: Mapping[str, str | None]
    has_sides: bool
    identity: str

    def count(self, prompt: str) -> int:
        """How many texts of a prompt there are."""
        return len(self.rows_of.get(prompt, ()))

    def deal(self, prompt: str, index: int, *, from_end: bool) -> Completion | None:
        """The text `index` of a prompt, counted from the end for a control; None beyond the last.
        A control's two sides are disjoint up to half of a prompt's texts."""
        rows = self.rows_of.get(prompt)
        if rows is None or index >= len(rows):
            return None
        return self.completions[int(rows[-1 - index if from_end else index])]


def load_recorded(model: ModelConfig) -> Recorded:
    """The recorded texts of a side, read once as long as the file stays the same.

    Raises InputError for a file that cannot be used: see `read_rows`, and for a missing column, a
    row whose values are no texts, an empty prompt, no text of this side, and groups that
    contradict each other.
    """
    assert model.texts is not None, "only sides of recorded texts are read"
    path = file_at(model.texts)
    try:
        found = path.stat()
    except OSError as error:
        raise InputError(
            f"expected {_WHAT} at {path}, found no file ({error.strerror}): check `texts`"
        ) from None
    return _load(path, model.side, found.st_mtime_ns, found.st_size)


def describe_recorded(model: ModelConfig) -> str:
    """The name of the recorded texts of a side; raises what `load_recorded` raises."""
    return load_recorded(model).identity


@dataclass(frozen=True)
class RecordedBank:
    """What recorded sides have in common: the prompts (in the first recorded side's order), how
    many texts of each are there for every side of a comparison, and what is left out.

    `n_for_pair` and `n_for_null` count texts per prompt and side; the second is None where the base
    is a model, which a control asks for more. `n_alone` counts the prompts that only this side has,
    `n_texts` all texts of a side.
    """

    rows: tuple[PromptRow, ...]
    n_for_pair: Mapping[str, int]
    n_for_null: Mapping[str, int] | None
    n_alone: Mapping[Side, int]
    n_texts: Mapping[Side, int]


def match_prompts(sides: Mapping[Side, ModelConfig]) -> RecordedBank:
    """The bank of one or two recorded sides. A model on the other side decodes what is missing.

    Raises InputError where the sides share no prompt or name other groups for one, and what
    `load_recorded` raises.
    """
    found = {side: load_recorded(model) for side, model in sides.items()}
    _check_told_apart(sides, found)
    first, *others = found.values()
    shared = [prompt for prompt in first.rows_of if all(prompt in o.rows_of for o in others)]
    if not shared:
        one, other = (f"{model.texts} ({side})" for side, model in sides.items())
        raise InputError(
            f"expected recorded texts of the same prompts, found none that {one} and {other} "
            "share: check that the column prompt is written alike on both sides"
        )
    base = found.get("base")
    return RecordedBank(
        rows=tuple(PromptRow(prompt, _group(prompt, found)) for prompt in shared),
        n_for_pair={p: min(side.count(p) for side in found.values()) for p in shared},
        n_for_null=None if base is None else {p: base.count(p) // 2 for p in shared},
        n_alone={side: len(texts.rows_of) - len(shared) for side, texts in found.items()},
        n_texts={side: len(texts.completions) for side, texts in found.items()},
    )


def _check_told_apart(sides: Mapping[Side, ModelConfig], found: Mapping[Side, Recorded]) -> None:
    if len(sides) < 2:
        return
    one, other = sides.values()
    if one.texts is None or other.texts is None:
        return
    if file_at(one.texts).resolve() != file_at(other.texts).resolve():
        return
    if not found["base"].has_sides:
        raise InputError(
            f"{one.texts}: expected a column side, since base and intervention are both in this "
            "file, found none: add one, or name two files"
        )
    if one.side == other.side:
        raise InputError(
            f"{one.texts}: expected another side for each block, found {one.side!r} on both: set "
            "`base.side` and `intervention.side`"
        )


def _group(prompt: str, found: Mapping[Side, Recorded]) -> str | None:
    named = {group for texts in found.values() if (group := texts.groups.get(prompt)) is not None}
    if len(named) > 1:
        raise InputError(
            f"expected one group for the prompt {prompt[:80]!r}, found {sorted(named)}: give it "
            "the same on both sides"
        )
    return next(iter(named), None)


@lru_cache(maxsize=4)
def _load(path: Path, side: str | None, _changed_ns: int, _n_bytes: int) -> Recorded:
    import numpy as np

    escape = "\\" if (is_reference := read_header(path) == _REFERENCE_HEADER) else None
    completions: list[Completion] = []
    rows_of: dict[str, list[int]] = {}
    groups: dict[str, str | None] = {}
    others: set[str] = set()
    has_sides: bool | None = True if is_reference else None
    for where, row in read_rows(path, _WHAT, escape=escape):
        check_columns(row, ("prompt", "text"), where)
        has_sides = "side" in row if has_sides is None else has_sides
        found = _side_of(row, where, is_reference=is_reference, has_sides=has_sides)
        if found is not None and found != side:
            others.add(found)
            continue
        prompt = _text_in(row, "prompt", where)
        if not prompt.strip():
            raise InputError(f"{where}: expected a prompt, found an empty text")
        rows_of.setdefault(prompt, []).append(len(completions))
        completions.append(_read_completion(row, where))
        _note_group(groups, prompt, row, where)
    if not completions:
        raise InputError(_nothing_of(path, side, others))
    digest = file_digest(path)
    rng = np.random.default_rng(seed_from_key(content_key("deal/1", digest, side)))
    return Recorded(
        tuple(completions),
        {
            prompt: rng.permutation(np.array(rows, dtype=np.intp))
            for prompt, rows in rows_of.items()
        },
        groups,
        bool(has_sides),
        content_key(f"recorded/{VERSION}", digest, side),
    )


def _nothing_of(path: Path, side: str | None, others: set[str]) -> str:
    if not others:
        return f"{path}: expected recorded texts, found no row: it is empty"
    named = ", ".join(repr(other) for other in sorted(others)[:5])
    return (
        f"{path}: expected rows whose side is {side!r}, found only {named}: set `side` of the "
        "block to the one that it is"
    )


def _side_of(
    row: Mapping[str, Any], where: str, *, is_reference: bool, has_sides: bool
) -> str | None:
    if is_reference:
        name = str(row["model"])
        return _REFERENCE_SIDES.get(name, name)
    if has_sides != ("side" in row):
        raise InputError(f"{where}: expected a side in every row or in none, found both")
    if not has_sides:
        return None
    if not isinstance(row["side"], str) or not row["side"]:
        raise InputError(f"{where}: expected the name of a side, found {row['side']!r}: fill it in")
    return str(row["side"])


def _text_in(row: Mapping[str, Any], column: str, where: str) -> str:
    value = row[column]
    if not isinstance(value, str):
        raise InputError(f"{where}: expected a text as {column}, found {value!r}")
    return check_unicode(value, where, column)


def _note_group(
    groups: dict[str, str | None], prompt: str, row: Mapping[str, Any], where: str
) -> None:
    group = row.get("group")
    if group is None or group == "":
        groups.setdefault(prompt, None)
        return
    named = _text_in(row, "group", where)
    if groups.setdefault(prompt, named) is None:
        groups[prompt] = named
    elif groups[prompt] != named:
        raise InputError(
            f"{where}: expected the group {groups[prompt]!r} that this prompt has above, found "
            f"{named!r}: give one prompt one group"
        )


def _read_completion(row: Mapping[str, Any], where: str) -> Completion:
    finish = row.get("finish") or "stop"
    if finish not in _FINISHES:
        raise InputError(f"{where}: expected finish to be stop, length or failed, found {finish!r}")
    decoded_by = str(row.get("decoded_by") or "recorded")
    if row["text"] is None or finish == "failed":
        reason = str(row.get("reason") or "no text was recorded")
        return Completion("", 0, "failed", reason, decoded_by=decoded_by)
    text = _text_in(row, "text", where)
    n_tokens = _n_tokens(row, where)
    if n_tokens is None:
        n_tokens = math.ceil(len(text.encode("utf-8")) / _BYTES_PER_TOKEN)
        decoded_by = f"{decoded_by}, tokens estimated"
    return Completion(text, n_tokens, finish, decoded_by=decoded_by)


def _n_tokens(row: Mapping[str, Any], where: str) -> int | None:
    value = row.get("n_tokens")
    if value is None or value == "":
        return None
    try:
        n_tokens = int(value)
    except (TypeError, ValueError):
        n_tokens = -1
    if n_tokens < 0:
        raise InputError(f"{where}: expected a number as n_tokens, found {value!r}")
    return n_tokens
