"""The texts of a comparison: categorized rows of a file or of the grammar, and sets by concept."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from whatchanged.demo.categories import categorized_texts
from whatchanged.demo.pair import DEMO
from whatchanged.errors import InputError
from whatchanged.keys import content_key
from whatchanged.sae_config import DEMO_TEXTS, SaeComparisonConfig
from whatchanged.saes.features import SaeFeatures, TextGroups, group_texts
from whatchanged.saes.stored import ReadFeatures

_NAMES = ("text", "category")
_ROW = '{"text": "...", "category": "..."}'


@dataclass(frozen=True)
class CategorizedText:
    """One row of a text file."""

    text: str
    category: str


@dataclass(frozen=True)
class Corpus:
    """Every text that is read: the categorized `rows`, in order, and behind them the texts of the
    `concepts`, one concept after the other."""

    rows: tuple[CategorizedText, ...]
    concepts: Mapping[str, tuple[str, ...]]

    @cached_property
    def texts(self) -> list[str]:
        """All texts, `(n_texts,)`."""
        return [row.text for row in self.rows] + [t for own in self.concepts.values() for t in own]

    @cached_property
    def keys(self) -> list[str]:
        """A key per text; equal texts have equal keys."""
        return [content_key("sae text/1", text) for text in self.texts]

    @property
    def categories(self) -> list[str]:
        """The category of each categorized row."""
        return [row.category for row in self.rows]

    @cached_property
    def groups(self) -> TextGroups:
        """Categories and duplicates of the categorized rows, which are the first of `texts`."""
        return group_texts(self.texts[: len(self.rows)], self.categories)

    def categorized(self, read: ReadFeatures) -> SaeFeatures:
        """What an SAE found in the categorized rows."""
        return read.rows(np.arange(len(self.rows)))

    def contrast(self, concept: str) -> tuple[NDArray[np.int64], TextGroups]:
        """The places in `texts` of a concept's texts and of its background, and their groups: one
        category is named as the concept, one is the background.

        A categorized text that the concept names is no background.
        """
        names = list(self.concepts)
        n_before = sum(len(self.concepts[name]) for name in names[: names.index(concept)])
        start, own = len(self.rows) + n_before, set(self.concepts[concept])
        background = [place for place, row in enumerate(self.rows) if row.text not in own]
        places = [*range(start, start + len(self.concepts[concept])), *background]
        labels = [concept if place >= start else f"not {concept}" for place in places]
        groups = group_texts([self.texts[place] for place in places], labels)
        return np.array(places, dtype=np.int64), groups


def read_corpus(config: SaeComparisonConfig) -> Corpus:
    """The texts that a config names. Raises InputError as `read_categorized` does, and for a
    concept whose texts are all there is."""
    limit = config.texts.n_per_category
    if config.texts.file == DEMO_TEXTS:
        assert limit is not None, "the config requires it for the grammar"
        made = categorized_texts(DEMO.topics, limit, config.seed)
        rows: tuple[CategorizedText, ...] = tuple(CategorizedText(**row) for row in made)
    else:
        rows = _first_of_each(read_categorized(Path(config.texts.file)), limit)
    for name, texts in config.concepts.items():
        if all(row.text in texts for row in rows):
            raise InputError(
                f"expected categorized texts beside those of the concept {name!r}, found none: "
                "the others are its background, so add some"
            )
    return Corpus(rows, config.concepts)


def read_categorized(path: Path) -> tuple[CategorizedText, ...]:
    """The rows of a JSONL file, in order; equal rows are kept.

    Raises InputError naming the file and line for: no such file, no row in it, a row that is not
    `{"text": "...", "category": "..."}`, and a text or a category that is empty or no Unicode.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise InputError(
            f"expected a file of categorized texts at {path}, could not read it "
            f"({error.strerror}): check texts.file"
        ) from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: expected UTF-8 text, found {error.reason}") from None
    rows = tuple(
        _parse_row(line, f"{path}, line {number}")
        for number, line in enumerate(lines, start=1)
        if line.strip()
    )
    if not rows:
        raise InputError(f"{path}: expected one row {_ROW} per line, found an empty file: add some")
    return rows


def _parse_row(line: str, where: str) -> CategorizedText:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"{where}: expected {_ROW}, found invalid JSON ({error.msg})") from None
    values = {name: row.get(name) for name in _NAMES} if isinstance(row, dict) else {}
    texts = {name: value for name, value in values.items() if isinstance(value, str)}
    if len(texts) < len(_NAMES):
        raise InputError(f"{where}: expected {_ROW}, found {line[:80]!r}")
    for name, value in texts.items():
        if not value.strip():
            raise InputError(f"{where}: expected a {name}, found an empty one: leave the row out")
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InputError(
                f"{where}: the {name} holds a lone surrogate {value[error.start]!a}, which no "
                "tokenizer can read: remove or replace it"
            ) from None
    return CategorizedText(**texts)


def _first_of_each(
    rows: Sequence[CategorizedText], limit: int | None
) -> tuple[CategorizedText, ...]:
    """The first `limit` rows of each category, in order; all of them for None."""
    seen: Counter[str] = Counter()
    kept = []
    for row in rows:
        seen[row.category] += 1
        if limit is None or seen[row.category] <= limit:
            kept.append(row)
    return tuple(kept)
