"""Results as tables: for pandas and Parquet, CSV, Markdown and LaTeX.

Every table carries the reconstruction quality of its SAEs: as columns where machines read it, as
notes under it where people do. A value that is missing is "unknown" for people and empty in CSV.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from whatchanged.escape import for_markdown
from whatchanged.latex import NEEDED, for_latex
from whatchanged.pages.numbers import UNKNOWN, p_value
from whatchanged.saes.features import SaeCard
from whatchanged.saes.links import neuronpedia_link
from whatchanged.saes.quality import describe_quality

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class ResultTable:
    """Rows of values under column names; `name` is its file's stem, `cards` the SAEs in it."""

    name: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    cards: tuple[SaeCard, ...]


def make_table(
    name: str, caption: str, kind: type, records: Sequence[Any], cards: Sequence[SaeCard]
) -> ResultTable:
    """A table with a row per record of the dataclass `kind`; no records give no rows.

    Where rows name an SAE and a feature, and one of the SAEs is on Neuronpedia, a column `link` is
    added. Of the cards, those named in `sae` or `other_sae` stay.
    """
    columns = tuple(field.name for field in fields(kind))
    values = [asdict(record) for record in records]
    by_name = {card.name: card for card in cards}
    if "feature" in columns:
        links = [_link(by_name.get(row["sae"]), row["feature"]) for row in values]
        if any(links):
            columns += ("link",)
            values = [{**row, "link": link} for row, link in zip(values, links, strict=True)]
    used = {row[column] for row in values for column in _sae_columns(columns)}
    return ResultTable(
        name,
        caption,
        columns,
        tuple(tuple(row[column] for column in columns) for row in values),
        tuple(card for card in cards if card.name in used or not values),
    )


def quality_table(cards: Sequence[SaeCard]) -> ResultTable:
    """The SAEs themselves, one per row."""
    rows = [(card.name, card.hook_point, card.layer) for card in cards]
    return ResultTable(
        "saes", "SAEs and their reconstruction", ("sae", "hook_point", "layer"), tuple(rows),
        tuple(cards),
    )  # fmt: skip


def to_frame(table: ResultTable) -> pd.DataFrame:
    """The table with the quality of each row's SAE, typed, for Parquet."""
    import pandas as pd

    columns, rows = _with_quality(table)
    return pd.DataFrame(rows, columns=list(columns)).convert_dtypes()


def to_csv(table: ResultTable) -> str:
    """The same as text; what is missing is empty."""
    columns, rows = _with_quality(table)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(["" if _is_missing(value) else value for value in row] for row in rows)
    return out.getvalue()


def to_markdown(table: ResultTable) -> str:
    """The table as Markdown, with its caption above and the quality of its SAEs below."""
    head = "| " + " | ".join(for_markdown(_heading(column)) for column in table.columns) + " |"
    rule = "|" + "|".join("---:" if is_right else "---" for is_right in _is_numeric(table)) + "|"
    lines = [
        "| "
        + " | ".join(
            f"[Neuronpedia]({value})"
            if column == "link" and value
            else for_markdown(_shown(column, value))
            for column, value in zip(table.columns, row, strict=True)
        )
        + " |"
        for row in table.rows
    ]
    body = [head, rule, *lines] if lines else ["None."]
    notes = [f"- {for_markdown(note)}" for note in _notes(table)]
    return "\n".join([f"**{for_markdown(table.caption)}**", "", *body, "", *notes]) + "\n"


def to_latex(table: ResultTable) -> str:
    """A `table` environment for the LaTeX packages booktabs and hyperref, the quality below it, in
    plain ASCII."""
    body = [
        " & ".join(
            rf"\url{{{value}}}" if column == "link" and value else for_latex(_shown(column, value))
            for column, value in zip(table.columns, row, strict=True)
        )
        + r" \\"
        for row in table.rows
    ]
    notes = [rf"\par\footnotesize {for_latex(note)}" for note in _notes(table)]
    alignment = "".join("r" if is_right else "l" for is_right in _is_numeric(table))
    return NEEDED + "\n".join(
        [
            r"\begin{table}", r"\centering", rf"\caption{{{for_latex(table.caption)}}}",
            rf"\label{{tab:{table.name}}}", rf"\begin{{tabular}}{{{alignment}}}", r"\toprule",
            " & ".join(for_latex(_heading(column)) for column in table.columns) + r" \\",
            r"\midrule", *body, r"\bottomrule", r"\end{tabular}", *notes, r"\end{table}", "",
        ]
    )  # fmt: skip


def _link(card: SaeCard | None, feature: int) -> str | None:
    return neuronpedia_link(card.metadata, feature) if card else None


def _sae_columns(columns: Sequence[str]) -> list[str]:
    return [column for column in ("sae", "other_sae") if column in columns]


def _with_quality(table: ResultTable) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
    """Columns and rows, with the quality of each SAE that a row names."""
    qualities = {card.name: asdict(card.quality) for card in table.cards}
    figures = ("explained_variance", "l0", "loss_recovered", "dead_share")
    named = _sae_columns(table.columns)
    columns = tuple(
        f"{column.removesuffix('sae')}{figure}" for column in named for figure in figures
    )
    rows = []
    for row in table.rows:
        own = [qualities.get(row[table.columns.index(column)], {}) for column in named]
        rows.append((*row, *(quality.get(figure) for quality in own for figure in figures)))
    return table.columns + columns, rows


def _notes(table: ResultTable) -> list[str]:
    return [f"{card.name}: {describe_quality(card.quality)}" for card in table.cards]


def _heading(column: str) -> str:
    return column.replace("_", " ")


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _is_numeric(table: ResultTable) -> list[bool]:
    """Which columns hold numbers, missing ones aside."""
    return [
        all(_is_missing(row[i]) or isinstance(row[i], int | float) for row in table.rows)
        for i in range(len(table.columns))
    ]


def _shown(column: str, value: Any) -> str:
    """A value as people read it."""
    if _is_missing(value):
        return UNKNOWN
    if isinstance(value, bool):
        return "yes" if value else "no"
    if column.startswith("p_"):
        return p_value(value)
    if isinstance(value, float):
        return f"{value:.3g}".replace("-", "−")
    return str(value)
