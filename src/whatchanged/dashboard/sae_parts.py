"""The web pack of a comparison of SAEs: its tables, and the texts on which features were shown.

Names are `manifest`, `verdict` (the SAEs and their reconstruction), `run`, `table/NAME` for each
table about all SAEs, and in numbered series `specialists/0` and `highlights/0` (one per SAE) and
`quoted/0` (texts).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from whatchanged.dashboard.columns import encode_part
from whatchanged.dashboard.parts import PACK_VERSION, Parts, encode_about
from whatchanged.dashboard.text_parts import count_units
from whatchanged.pages.numbers import plural
from whatchanged.saes.features import ZERO
from whatchanged.saes.quality import SaeQuality, describe_quality
from whatchanged.saes.report import CAPTIONS, FEW_TEXTS, SPECIALISTS_RESPOND, warn_of_few

MAX_SPECIALISTS = 20_000
TEXTS_PER_PART = 200
QUALITY = ("explained_variance", "l0", "loss_recovered", "dead_share")
_OF_SAE = (
    "sae", "hook_point", *QUALITY, "n_specialists", "n_shuffles", "n_shuffles_with_any",
    "n_ablated", "n_used",
)  # fmt: skip
_TABLES = (
    "rankings", "categories", "controls", "ablations", "layers", "concepts", "overlap", "changes",
)  # fmt: skip
# A link of any other form could lead anywhere.
_LINK = re.compile(r"https://www\.neuronpedia\.org/[A-Za-z0-9._-]+/[A-Za-z0-9._-]+/[0-9]+")
_MATRIX = (
    "Choose a cell for its specialists. Score: the share of the category's texts on which a feature"
    " fires, less its share of the others"
)
_SPECIALISTS = (
    "The share of texts inside less that outside the category; each interval is of one feature"
    " alone"
)
_NOT_HERE = "This run compares sparse autoencoders: it is no audit."


class ComparedRun(Protocol):
    """A comparison of SAEs as the pack reads it: `whatchanged.load` gives one."""

    @property
    def config(self) -> dict[str, Any]: ...
    @property
    def summary(self) -> dict[str, Any]: ...
    @property
    def manifest(self) -> dict[str, Any]: ...
    def read_table(self, name: str) -> pd.DataFrame: ...


class SaePack(Parts):
    """The parts of a comparison, each made when it is asked for; the same run gives the same bytes.

    `name` is the run's, `created_utc` when it was finished.
    """

    rows = None

    def __init__(self, run: ComparedRun, *, name: str, created_utc: str | None = None) -> None:
        self._run, self._name, self._created_utc = run, name, created_utc

    @cached_property
    def _writers(self) -> dict[str, Callable[[], bytes]]:
        own = [f"saes/{name}.parquet" for name in _TABLES]
        known = self._run.manifest["files"]
        tables = [name for name, path in zip(_TABLES, own, strict=True) if path in known]
        n_quoted = -(-len(self._quoted) // TEXTS_PER_PART)
        return {
            "verdict": lambda: self._overview(tables),
            "run": lambda: encode_about(self._run),
            **{f"table/{name}": partial(self._table, name) for name in ("saes", *tables)},
            **{f"specialists/{i}": partial(self._specialists, i) for i in range(len(self._names))},
            **{f"highlights/{i}": partial(self._highlights, i) for i in range(len(self._names))},
            **{f"quoted/{i}": partial(self._texts, i) for i in range(n_quoted)},
        }

    def _manifest(self) -> bytes:
        values = {
            "version": PACK_VERSION,
            "run": self._name,
            "created_utc": self._created_utc,
            "models": self._models,
            "shards": [0],
            "sections": {"activations": _NOT_HERE},
        }
        return encode_part(values, {})

    def _overview(self, tables: Sequence[str]) -> bytes:
        """What the first screen says: every SAE with its reconstruction, and what was found."""
        summary, categories = self._run.summary, self._categories
        saes = summary["saes"]
        n_texts = categories.drop_duplicates("category").set_index("category")["n_distinct"]
        few = [str(name) for name, n in n_texts.items() if n < FEW_TEXTS]
        warnings = [str(note) for note in summary.get("notes") or ()]
        if few:
            warnings.insert(0, warn_of_few(few))
        values = {
            "findings": [],
            "models": " and ".join(self._models),
            "headline": f"{plural(len(saes), 'sparse autoencoder')} over "
            f"{plural(summary['n_categories'], 'category', 'categories')} of texts",
            "lead": f"{plural(summary['n_texts'], 'text')} ({summary['n_distinct']:,} distinct) "
            f"were read by {' and '.join(self._models)}. {SPECIALISTS_RESPOND}",
            "warnings": warnings,
            "saes": [{"sae": row["sae"], "quality": _describe(row)} for row in saes],
            "thresholds": [str(name) for name in categories["threshold"].unique()],
            "tables": [["saes", "Reconstruction, and what was found"],
                       *([name, CAPTIONS[name]] for name in tables if name != "categories")],
            "matrix": _MATRIX,
            "specialists": _SPECIALISTS,
            "texts_per_part": TEXTS_PER_PART,
        }  # fmt: skip
        return encode_part(values, {})

    def _table(self, name: str) -> bytes:
        if name == "saes":
            rows = pd.DataFrame(self._run.summary["saes"], columns=list(_OF_SAE))
            return encode_table(rows, without=())
        if name == "categories":
            return encode_table(self._categories)
        return encode_table(self._run.read_table(f"saes/{name}"))

    @cached_property
    def _categories(self) -> pd.DataFrame:
        """Every SAE, threshold and category, with the number of specialists that the model uses."""
        table = self._run.read_table("saes/categories")
        ablated = self._run.read_table("saes/ablations")
        used = ablated.groupby(["sae", "category"])["is_used"].sum()
        place = pd.MultiIndex.from_frame(table[["sae", "category"]])
        return table.assign(n_used=used.reindex(place).to_numpy(dtype=float, na_value=np.nan))

    def _specialists(self, i: int) -> bytes:
        """One SAE's specialists, those of the largest scores at zero first."""
        table = self._run.read_table("saes/specialists")
        own = table[table["sae"] == self._names[i]]
        is_later = (own["threshold"] != ZERO.name).to_numpy(dtype=bool)
        order = np.lexsort((own["feature"], -own["score"].to_numpy(dtype=float), is_later))
        shown = own.iloc[order[:MAX_SPECIALISTS]]
        return encode_table(shown, n_left_out=len(own) - len(shown))

    def _highlights(self, i: int) -> bytes:
        """One SAE's features on texts: `text` is a number among the quoted ones, and `fire_start
        (n + 1,)` cuts the positions and activations of the tokens on which it fires."""
        table = self._run.read_table("saes/highlights")
        own = table[table["sae"] == self._names[i]]
        lengths = [len(positions) for positions in own["positions"]]
        columns = {
            "feature": own["feature"].to_numpy(dtype=np.uint32),
            "rank": own["rank"].to_numpy(dtype=np.uint32),
            "text": own["text_key"].map(self._places).to_numpy(dtype=np.uint32),
            "fire_start": np.cumsum([0, *lengths]).astype(np.uint32),
            "fire_position": _joined(own["positions"], np.uint32),
            "fire_value": _joined(own["activations"], np.float32),
        }
        return encode_part({}, columns)

    def _texts(self, part: int) -> bytes:
        """Some of the quoted texts with the lengths of their tokens, in the units of JavaScript; a
        text whose tokens are unknown has none."""
        start = part * TEXTS_PER_PART
        texts = self._quoted.iloc[start : start + TEXTS_PER_PART]
        lengths = [
            [] if tokens is None else [count_units(str(piece)) for piece in tokens]
            for tokens in texts["tokens"]
        ]
        columns = {
            "token_start": np.cumsum([0, *map(len, lengths)]).astype(np.uint32),
            "token_length": _joined(lengths, np.uint16),
        }
        names = ("text_key", "category", "text")
        return encode_part({name: _known(texts[name]) for name in names}, columns)

    @property
    def _models(self) -> list[str]:
        sides = [self._run.config.get(side) for side in ("model", "intervention")]
        return [str(side["model"]) for side in sides if side]

    @property
    def _names(self) -> list[str]:
        return [str(row["sae"]) for row in self._run.summary["saes"]]

    @cached_property
    def _quoted(self) -> pd.DataFrame:
        """The texts on which a feature is shown, each once."""
        texts = self._run.read_table("saes/texts").drop_duplicates("text_key")
        used = set(self._run.read_table("saes/highlights")["text_key"])
        return texts[texts["text_key"].isin(used)].reset_index(drop=True)

    @cached_property
    def _places(self) -> Mapping[str, int]:
        return {str(key): i for i, key in enumerate(self._quoted["text_key"])}


def encode_table(
    table: pd.DataFrame, *, n_left_out: int = 0, without: Sequence[str] = QUALITY
) -> bytes:
    """A table as columns in its own order: numbers and truths as they are, nan where one is
    missing, and words as places in `words`, 0 for none.

    Figures `without` stay out: the reconstruction that travels with every row of a file is once in
    `verdict`.
    """
    words: dict[str, list[str]] = {}
    columns: dict[str, NDArray[Any]] = {}
    for name in table.columns:
        if name.removeprefix("other_") in without:
            continue
        column = table[name]
        if pd.api.types.is_numeric_dtype(column) or column.isna().all():
            columns[name] = column.to_numpy(dtype=np.float32, na_value=np.nan)
            continue
        if name == "link":
            column = column.where(column.map(lambda link: bool(_LINK.fullmatch(str(link)))), None)
        codes, known = pd.factorize(column)
        words[name] = [str(word) for word in known]
        columns[name] = (codes + 1).astype(np.uint32)
    return encode_part({"n": len(table), "n_left_out": n_left_out, "words": words}, columns)


def _describe(row: Mapping[str, Any]) -> str:
    """How well an SAE reconstructs, in the report's words, and what the intervention changed."""
    said = describe_quality(SaeQuality(**{name: row[name] for name in QUALITY}))
    changed = [f"{n:,} {kind}" for kind, n in (row.get("changes") or {}).items()]
    return (
        f"{said}; features that the intervention changed: {', '.join(changed)}" if changed else said
    )


def _joined(lists: Any, kind: type[np.generic]) -> NDArray[Any]:
    flat = [np.asarray(one, dtype=kind) for one in lists]
    return np.concatenate([*flat, np.zeros(0, dtype=kind)])


def _known(column: pd.Series[Any]) -> list[str | None]:
    return [None if value is None or value is pd.NA else str(value) for value in column]
