"""The parts about what fires inside the models: what tells texts apart, and each component.

Only components that a table of the collection names have a part of their own. Values keep their
sign: a projection has two poles, and some neurons answer with negative values only. What is shown
of a component is its stronger pole.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from whatchanged.activations.evidence import CONTRIBUTION_COLUMNS, SELECTIVE_COLUMNS, is_control
from whatchanged.activations.histograms import bin_edges
from whatchanged.activations.poles import PoleName
from whatchanged.activations.tables import COMPONENT_COLUMNS, TOKEN_COLUMNS
from whatchanged.dashboard.columns import encode_part
from whatchanged.dashboard.rows import Rows
from whatchanged.dashboard.text_parts import Split, count_units
from whatchanged.errors import WhatchangedError
from whatchanged.store.activation_reader import ActivationStore, Example

if TYPE_CHECKING:
    from whatchanged.store.runs import Run

STAGE = "activations"
NOT_COLLECTED = (
    "They were not collected for this run: python -m flows.collect_activations --run RUN adds them."
)
N_EXAMPLES = 5
N_CONTRIBUTIONS = 12
MAX_MEMBERS = 50
MAX_BARS = 24
SIGNIFICANT = 0.05

_TABLES: Mapping[str, Sequence[str]] = {
    "components": COMPONENT_COLUMNS,
    "selective": SELECTIVE_COLUMNS,
    "contributions": CONTRIBUTION_COLUMNS,
    "tokens": TOKEN_COLUMNS,
}
# Contributions name directions as the weights do, components also by where they were read.
_DIRECTIONS = "weight_delta/"

Values = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Collected:
    """What a collection added to a run: the tables by name, and the store of its activations."""

    summary: Mapping[str, Any]
    tables: Mapping[str, pd.DataFrame]
    store: ActivationStore


@dataclass(frozen=True, eq=False)
class _Fired:
    """A text on which a unit was looked at: its row and the activation of each token."""

    row: int
    values: Values


@dataclass(frozen=True, eq=False)
class _Shown:
    """The texts that a unit is shown on, per side."""

    top: list[list[_Fired]]
    quantiles: list[list[_Fired]]


def read_collected(run: Run) -> Collected | str:
    """The collection of a run, every file checked, or the reason why it cannot be shown."""
    if STAGE not in run.manifest.get("stages", {}):
        return NOT_COLLECTED
    try:
        summary = json.loads(run.read_bytes(f"{STAGE}/summary.json"))
        if not summary["n_components"]:
            return f"No component could be read: {_why(summary)}."
        tables = {name: run.read_table(f"{STAGE}/{name}") for name in _TABLES}
        store = ActivationStore(run.path / STAGE / "store")
        problems = [*_lacking(tables), *store.check()]
        if not problems:
            # A store without summaries has no examples; it says so itself.
            _ = store.summaries
    except (WhatchangedError, OSError, ValueError, KeyError, TypeError) as error:
        return f"They cannot be read: {error}"
    return f"They cannot be read: {problems[0]}" if problems else Collected(summary, tables, store)


class ActivationParts:
    """The part `activations` and the parts `component/0`, ... of a collection.

    `units` are the components and component clusters that have a part, by its number.
    """

    def __init__(self, found: Collected, rows: Rows, finding_ids: Sequence[str]) -> None:
        self._found, self._rows = found, rows
        self._findings = {name: i for i, name in enumerate(finding_ids)}
        groups = found.store.groups
        known = {*groups.labels, *groups.clusters}
        selective, tokens = found.tables["selective"], found.tables["tokens"]
        named = [*selective["unit"], *tokens["unit"], *(_DIRECTIONS + self._contributions["label"])]
        self.units = [str(unit) for unit in dict.fromkeys(named) if unit in known]
        self._numbers = {unit: i for i, unit in enumerate(self.units)}
        self._shown: dict[str, _Shown] = {}

    def encode(self) -> bytes:
        """What is selective where, what contributed to what, and the units with their figures.

        Units are named by number; `fires_row`, `fires_unit` and `fires_finding` are the quoted
        texts on which a unit was looked at, and for which finding.
        """
        tokens = self._found.tables["tokens"]
        tokens = tokens.assign(row=tokens["text_key"].map(self._rows.by_key))
        is_known = tokens["row"].notna() & tokens["unit"].isin(self._numbers)
        tokens = tokens[is_known & tokens["finding"].isin(self._findings)]
        seen = tokens.sort_values("row", kind="stable")
        selective = self._selective.to_dict("records")
        summary, components = self._found.summary, self._found.tables["components"]
        values = {
            **{name: summary.get(name) for name in ("sources", "skipped", "n_texts")},
            "n_components": self._found.store.groups.n_components,
            "n_controls": int(is_control(list(components["label"])).sum()),
            "figures": list(summary.get("contributions") or ()),
            "units": self._describe_units(),
            "selective": [
                {**row, "unit": self._numbers.get(str(row["unit"])), "label": str(row["unit"])}
                for row in selective
            ],
            "contributions": [
                {**row, "unit": self._numbers.get(_DIRECTIONS + str(row["label"]))}
                for row in self._contributions.to_dict("records")
            ],
        }  # fmt: skip
        columns = {
            "fires_row": seen["row"].to_numpy(dtype=np.uint32),
            "fires_unit": seen["unit"].map(self._numbers).to_numpy(dtype=np.uint16),
            "fires_finding": seen["finding"].map(self._findings).to_numpy(dtype=np.uint16),
        }
        return encode_part(values, columns)

    def encode_unit(self, i: int, split: Split | None) -> bytes:
        """One component or component cluster: histogram, counts and examples per side.

        Histogram and examples are of the stronger pole (`is_reversed`: the negative one), counts
        of tokens and texts on which the unit is not 0, as the rates of `activations` are.
        Its texts are told once, with the activation of each token; `top` and `quantiles` number
        them, per side. Without `split`, tokens have no lengths (`has_pieces` 0).
        """
        unit = self.units[i]
        shown, number = self._show(unit), self._found.store.unit_number(unit)
        summaries, pole = self._found.store.summaries, self._pole(unit)
        groups = {"top": shown.top, "quantiles": shown.quantiles}
        texts = {
            fired.row: fired
            for fired in [*self._quoted(unit), *_flat(shown.quantiles), *_flat(shown.top)]
        }
        place = {row: i for i, row in enumerate(texts)}
        edges, bars = _draw(summaries.poles[pole].of_unit("histograms", number))
        cluster, members = self._members(unit)
        values = {
            "label": unit,
            "is_reversed": pole == "negative",
            "cluster": cluster,
            "members": members[:MAX_MEMBERS],
            "n_members": len(members),
            "edges": edges,
            "bars": bars,
            "n_firing": summaries.n_firing[:, number].tolist(),
            "n_firing_texts": summaries.n_firing_texts[:, number].tolist(),
            **{
                name: [[place[fired.row] for fired in side] for side in group]
                for name, group in groups.items()
            },
        }
        return encode_part(values, self._token_columns(list(texts.values()), split))

    def example_rows(self) -> NDArray[np.int64]:
        """The rows of all texts that any unit shows."""
        found = {
            fired.row
            for unit in self.units
            for shown in [self._show(unit)]
            for fired in [*_flat(shown.top), *_flat(shown.quantiles)]
        }
        return np.array(sorted(found), dtype=np.int64)

    @cached_property
    def _contributions(self) -> pd.DataFrame:
        """The first of every finding: the table has the surest first."""
        own = self._found.tables["contributions"]
        return own.groupby("finding", sort=False).head(N_CONTRIBUTIONS)

    @cached_property
    def _selective(self) -> pd.DataFrame:
        """The rows with `is_beyond`: significant, and the whole interval on one side of 1/2 and
        further from it than the random control, which is the best of many."""
        own = self._found.tables["selective"]
        low, high, control = (
            own[name].to_numpy(dtype=float) - 0.5 for name in ("ci_low", "ci_high", "control_auc")
        )
        is_significant = own["p_adjusted"].to_numpy(dtype=float) <= SIGNIFICANT
        beyond = is_significant & (np.maximum(low, -high) > np.abs(np.nan_to_num(control)))
        return own.drop(columns=["p_value", "auc_selection"]).assign(is_beyond=beyond)

    def _describe_units(self) -> list[dict[str, Any]]:
        """Per unit its row of the table of components; a component cluster has its name only."""
        table = self._found.tables["components"].drop_duplicates("label").set_index("label")
        n_beyond = self._selective.groupby("unit")["is_beyond"].sum()
        known: dict[Any, dict[Any, Any]] = table.to_dict("index")
        return [
            {
                "source": "cluster",
                **{name: value for name, value in known.get(unit, {}).items() if name != "cluster"},
                "label": unit,
                "cluster": self._members(unit)[0],
                "n_beyond": int(n_beyond.get(unit, 0)),
            }
            for unit in self.units
        ]

    def _members(self, unit: str) -> tuple[str | None, list[str]]:
        """The cluster of a component (or the cluster itself) with the labels of its members."""
        groups = self._found.store.groups
        if unit in groups.clusters:
            number = groups.cluster_number(unit)
        else:
            number = int(groups.cluster_of[groups.component_numbers([unit])[0]])
        if number < 0:
            return None, []
        members = [groups.labels[i] for i in np.flatnonzero(groups.cluster_of == number)]
        return groups.clusters[number], members

    def _pole(self, unit: str) -> PoleName:
        """The pole at which the unit is stronger; the positive one among equals."""
        store = self._found.store
        positive, negative = (
            store.summaries.poles[pole].of_unit("largest", store.unit_number(unit)).max()
            for pole in ("positive", "negative")
        )
        return "negative" if negative > positive else "positive"

    def _show(self, unit: str) -> _Shown:
        if unit not in self._shown:
            store, pole = self._found.store, self._pole(unit)
            self._shown[unit] = _Shown(
                *(
                    [self._fired(query(unit, N_EXAMPLES, side, pole)) for side in (0, 1)]
                    for query in (store.top, store.quantiles)
                )
            )
        return self._shown[unit]

    def _fired(self, examples: Iterable[Example]) -> list[_Fired]:
        found = []
        for example in examples:
            values = example.activations
            if not len(values):
                values = np.zeros(len(example.token_ids), np.float32)
                values[example.position] = example.value
            found += [_Fired(row, values) for row in self._rows.find([example.text_key])]
        return found

    def _quoted(self, unit: str) -> list[_Fired]:
        """The quoted texts on which the unit was looked at."""
        tokens = self._found.tables["tokens"]
        own = tokens[tokens["unit"] == unit].drop_duplicates("text_key")
        found = []
        for key, places, fires in zip(
            own["text_key"], own["positions"], own["activations"], strict=True
        ):
            for row in self._rows.find([str(key)]):
                values = np.zeros(len(self._rows.texts["token_ids"].iloc[row]), np.float32)
                values[np.asarray(places, dtype=np.int64)] = np.asarray(fires, dtype=np.float32)
                found.append(_Fired(row, values))
        return found

    def _token_columns(self, texts: Sequence[_Fired], split: Split | None) -> dict[str, Any]:
        own = self._rows.texts
        lengths, has_pieces = list[int](), list[bool]()
        for fired in texts:
            ids = [int(i) for i in own["token_ids"].iloc[fired.row]]
            pieces = split(own["text"].iloc[fired.row], ids) if split else None
            is_known = pieces is not None and len(pieces) == len(fired.values)
            has_pieces.append(is_known)
            lengths += map(count_units, pieces or ()) if is_known else [0] * len(fired.values)
        starts = np.cumsum([0, *(len(fired.values) for fired in texts)])
        return {
            "text_row": np.array([fired.row for fired in texts], dtype=np.uint32),
            "token_start": starts.astype(np.uint32),
            "token_length": np.array(lengths, dtype=np.uint16),
            "token_value": np.concatenate(
                [np.zeros(0, np.float32), *(fired.values for fired in texts)]
            ).astype(np.float32),
            "has_pieces": np.array(has_pieces, dtype=np.uint8),
        }


def _lacking(tables: Mapping[str, pd.DataFrame]) -> list[str]:
    return [
        f"expected a column {column!r} in {STAGE}/{name}.parquet, found none: collect again"
        for name, columns in _TABLES.items()
        for column in columns
        if column not in tables[name]
    ]


def _why(summary: Mapping[str, Any]) -> str:
    skipped = [f"{source}: {reason}" for source, reason in summary["skipped"].items()]
    return "; ".join(skipped) or "the collection names no source"


def _flat(sides: Iterable[Sequence[_Fired]]) -> list[_Fired]:
    return [fired for side in sides for fired in side]


def _draw(histograms: NDArray[np.integer[Any]]) -> tuple[list[float], list[list[int]]]:
    """The bins that hold something, joined until there are at most `MAX_BARS`: their edges
    (magnitudes) and counts per side. Nothing fired: no bars."""
    (filled,) = np.nonzero(histograms.sum(axis=0))
    if not len(filled):
        return [], [[], []]
    first, end = int(filled[0]), int(filled[-1]) + 1
    every = -(-(end - first) // MAX_BARS)
    cuts = [*range(first, end, every), end]
    bars = [[int(side[a:b].sum()) for a, b in pairwise(cuts)] for side in histograms]
    return bin_edges()[cuts].tolist(), bars
