"""The export `figures`: five figures in three formats, the data of each, and their captions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from whatchanged.escape import for_markdown
from whatchanged.exports.drawing import draw_figure
from whatchanged.exports.figure_data import FigureData, Undrawn, collect_figures
from whatchanged.exports.tables import csv_bytes

if TYPE_CHECKING:
    from whatchanged.store.runs import Run


def write_figures(run: Run) -> Iterator[tuple[str, bytes]]:
    """The files: NAME.svg, .pdf, .png and .csv of each figure, and `captions.md`.

    A figure that the run has no data for is left out; the captions say why. Raises
    MissingDependencyError without matplotlib.
    """
    figures = collect_figures(run)
    for figure in figures:
        if isinstance(figure, FigureData):
            for kind, data in draw_figure(figure).items():
                yield f"{figure.name}.{kind}", data
            yield f"{figure.name}.csv", csv_bytes(figure.rows)
    yield "captions.md", _write_captions(figures).encode()


def _write_captions(figures: list[FigureData | Undrawn]) -> str:
    blocks = ["# Captions"]
    for figure in figures:
        text = figure.caption if isinstance(figure, FigureData) else f"Not drawn: {figure.reason}."
        blocks.append(f"**{figure.name}**: {for_markdown(text)}")
    return "\n\n".join(blocks) + "\n"
