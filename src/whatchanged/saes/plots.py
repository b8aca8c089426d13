"""Figures for papers, drawn by matplotlib (the extra `figures`) and returned as bytes.

The files hold no date, so equal results give equal bytes with one version of matplotlib.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from whatchanged.errors import MissingDependencyError, UsageError
from whatchanged.escape import for_terminal

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

ImageFormat = Literal["png", "pdf", "svg"]

_CELL_INCHES = 0.55
_MAX_LABEL = 32


def draw_heat_map(
    values: NDArray[np.floating],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    title: str,
    scale: str,
    image: ImageFormat = "png",
) -> bytes:
    """A map of `values (n_rows, n_columns)`, SAEs by categories for example, each in its cell.

    `scale` names what is coloured. What is nan has a grey cell with a dash.

    Raises UsageError for labels that do not fit the values, or no values, and
    MissingDependencyError without matplotlib.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.shape != (len(rows), len(columns)) or array.size == 0:
        raise UsageError(
            f"expected a value for each of {len(rows)} rows and {len(columns)} columns, one at "
            f"least, found the shape {array.shape}"
        )
    size = (2.8 + _CELL_INCHES * len(columns), 1.8 + _CELL_INCHES * len(rows))
    figure = _new_figure(size)
    axes = figure.subplots()
    shown = np.ma.masked_invalid(array)
    limit = float(np.abs(shown).max()) if shown.count() and np.abs(shown).max() > 0 else 1.0
    low, colours = (-limit, "RdBu_r") if (shown < 0).any() else (0.0, "viridis")
    drawn = axes.imshow(shown, vmin=low, vmax=limit, cmap=colours)
    axes.set_facecolor("0.85")
    axes.set_xticks(
        range(len(columns)), _labels(columns), rotation=45, ha="right", parse_math=False
    )
    axes.set_yticks(range(len(rows)), _labels(rows), parse_math=False)
    brightness = drawn.to_rgba(shown)[..., :3] @ np.array([0.3, 0.6, 0.1])
    is_dark = np.isfinite(array) & (brightness < 0.5)
    for (row, column), value in np.ndenumerate(array):
        text = f"{value:.2g}" if np.isfinite(value) else "–"
        colour = "white" if is_dark[row, column] else "black"
        axes.text(column, row, text, ha="center", va="center", fontsize=7, color=colour)
    axes.set_title(for_terminal(title), parse_math=False)
    figure.colorbar(drawn, ax=axes).set_label(for_terminal(scale), parse_math=False)
    return _saved(figure, image)


def draw_bars(
    labels: Sequence[str],
    values: Sequence[float],
    *,
    title: str,
    scale: str,
    intervals: Sequence[tuple[float, float]] | None = None,
    image: ImageFormat = "png",
) -> bytes:
    """Horizontal bars, the first on top, with an interval on each where `intervals` are given.

    Raises UsageError for lengths that differ, or no bar, and MissingDependencyError without
    matplotlib.
    """
    if not len(labels) == len(values) == len(intervals or values) or not labels:
        raise UsageError(
            f"expected a label, a value and an interval per bar, one bar at least, found "
            f"{len(labels)}, {len(values)} and {len(intervals or values)}"
        )
    figure = _new_figure((6.4, 1.4 + 0.32 * len(labels)))
    axes = figure.subplots()
    heights = np.asarray(values, dtype=np.float64)
    errors = None
    if intervals is not None:
        low, high = np.asarray(intervals, dtype=np.float64).T
        errors = np.array([heights - low, high - heights])
    axes.barh(range(len(labels)), heights, xerr=errors, color="#3b6ea5", capsize=2)
    axes.set_yticks(range(len(labels)), _labels(labels), parse_math=False)
    axes.invert_yaxis()
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xlabel(for_terminal(scale), parse_math=False)
    axes.set_title(for_terminal(title), parse_math=False)
    return _saved(figure, image)


def _new_figure(inches: tuple[float, float]) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError(
            "expected matplotlib for figures, found none: pip install 'whatchanged[figures]'"
        ) from error
    return Figure(figsize=inches, layout="constrained")


def _saved(figure: Figure, image: ImageFormat) -> bytes:
    from matplotlib import rc_context

    dates = {"png": {}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}[image]
    out = io.BytesIO()
    with rc_context({"svg.hashsalt": "whatchanged"}):
        figure.savefig(out, format=image, dpi=200, metadata=dates)
    return out.getvalue()


def _labels(texts: Sequence[str]) -> list[str]:
    """One line of limited length each."""
    lines = [for_terminal(text) for text in texts]
    return [text if len(text) <= _MAX_LABEL else text[: _MAX_LABEL - 1] + "…" for text in lines]
