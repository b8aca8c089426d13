"""The tables of a collection: one row per component, and the tokens on which findings fire."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from whatchanged.activations.groups import NO_CLUSTER, ComponentGroups
from whatchanged.activations.processing import ComponentTable, ProcessedActivations
from whatchanged.activations.selectivity import STATISTICS, TextSummaries

COMPONENT_COLUMNS = (
    "label", "source", "maximum", "threshold", "rate_base", "rate_intervention", "cluster",
)  # fmt: skip
TOKEN_COLUMNS = ("finding", "text_key", "unit", "positions", "activations")

_RATE = STATISTICS.index("firing_rate")


def tabulate_components(
    summaries: TextSummaries,
    is_intervention: NDArray[np.bool_],
    table: ComponentTable,
    thresholds: NDArray[np.float32],
    groups: ComponentGroups,
) -> pd.DataFrame:
    """`COMPONENT_COLUMNS`, a row per living component, controls included.

    `maximum` is its largest magnitude over the texts, `threshold` the magnitude beyond which it
    counts as firing, the rates are the mean share of a text's tokens on which it does, with either
    sign, per side (nan without a text of the side); `cluster` is missing for a component in none.
    """
    rates = [_mean_rate(summaries, is_intervention == side) for side in (False, True)]
    cluster_of = {
        label: groups.clusters[number]
        for label, number in zip(groups.labels, groups.cluster_of.tolist(), strict=True)
        if number != NO_CLUSTER
    }
    return pd.DataFrame(
        {
            "label": list(summaries.labels),
            "source": [source_of(label) for label in summaries.labels],
            "maximum": table.maxima[table.is_alive],
            "threshold": thresholds,
            "rate_base": rates[0],
            "rate_intervention": rates[1],
            "cluster": [cluster_of.get(label) for label in summaries.labels],
        }
    )[list(COMPONENT_COLUMNS)]


def count_sources(labels: Sequence[str]) -> dict[str, int]:
    """The number of components by source, in the order of the labels."""
    return dict(Counter(source_of(label) for label in labels))


def source_of(label: str) -> str:
    """What a component is, and of which model: `neurons@base`, `saes@intervention`."""
    return label.partition("/")[0]


def best_units(selective: pd.DataFrame) -> list[dict[str, Any]]:
    """For each finding, the component or component cluster that best tells its texts from others:
    `finding`, `unit`, `auc`, `control_auc` and `p_adjusted` of the rows of `evidence`. Findings on
    whose texts nothing could be measured are left out."""
    is_shown = (selective["kind"] == "finding") & (selective["contrast"] == "texts")
    first = selective[is_shown & selective["auc"].notna()].drop_duplicates("name")
    figures = first[["name", "unit", "auc", "control_auc", "p_adjusted"]]
    rows: list[dict[Any, Any]] = figures.rename(columns={"name": "finding"}).to_dict("records")
    return rows


def tabulate_tokens(
    shown: pd.DataFrame, chunks: Iterable[tuple[list[str], ProcessedActivations]]
) -> pd.DataFrame:
    """`TOKEN_COLUMNS`: for every row of `shown` (`finding`, `text_key`, `unit`), the positions in
    the text's tokens on which the component fires, and its activations there.

    Texts that were not read, and components that were not kept, are left out.
    """
    by_text = {str(key): rows for key, rows in shown.groupby("text_key", sort=False)}
    found: list[tuple[Any, ...]] = []
    for keys, chunk in chunks:
        columns = {label: i for i, label in enumerate(chunk.labels)}
        for text, key in enumerate(keys):
            if key not in by_text:
                continue
            block = chunk.activations[chunk.text_starts[text] : chunk.text_starts[text + 1]]
            asked = by_text[key]
            for finding, unit in zip(asked["finding"], asked["unit"], strict=True):
                if unit in columns:
                    values = block[:, columns[unit]]
                    (fires,) = np.nonzero(values)
                    found.append((finding, key, unit, fires.astype(np.int32), values[fires]))
    return pd.DataFrame(found, columns=list(TOKEN_COLUMNS))


def _mean_rate(summaries: TextSummaries, rows: NDArray[np.bool_]) -> NDArray[np.float64]:
    if not rows.any():
        return np.full(len(summaries.labels), np.nan)
    rates: NDArray[np.float64] = summaries.values[rows][:, _RATE].mean(axis=0, dtype=np.float64)
    return rates
