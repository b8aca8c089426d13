"""The five figures for papers, drawn with matplotlib: one column wide, vector and pixels.

The report's figures (`whatchanged.figures`) are made for a page: they are wider, follow its light
and dark style, and leave fonts to the reader. Shared are their axis, wrapping and point limit.
Base is blue and round, the intervention orange and square, so that grey prints keep the
sides apart.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from whatchanged.errors import MissingDependencyError
from whatchanged.escape import show_hidden
from whatchanged.exports.figure_data import FigureData
from whatchanged.figures import Effect, fit_scale, wrap_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH_IN = 3.3
PNG_DPI = 300
KINDS = ("svg", "pdf", "png")
_BASE, _INTERVENTION, _FAINT, _INK, _HAIR = "#3b6fb6", "#d9822b", "#8a9099", "#20242b", "#dcdad4"
_WASH = "#f0eee8"
_SMALL = 5.8
_CLAIM_COLUMNS = 38
_LINE_IN, _NULL_ROW_IN = 0.096, 0.055
_STYLE: Mapping[str, Any] = {
    "font.family": ["DejaVu Sans"], "font.size": 7, "axes.labelsize": 7, "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5, "axes.linewidth": 0.6, "axes.edgecolor": _INK, "text.color": _INK,
    "axes.labelcolor": _INK, "xtick.color": _INK, "ytick.color": _INK, "lines.linewidth": 1,
    "xtick.major.width": 0.6, "ytick.major.width": 0.6, "axes.spines.top": False,
    "axes.spines.right": False, "figure.dpi": 100, "savefig.dpi": PNG_DPI,
    # Letters go into the files as TrueType (PDF) and as outlines (SVG): no font is needed to read
    # them, and journals refuse Type 3.
    "pdf.fonttype": 42, "svg.fonttype": "path", "svg.hashsalt": "whatchanged",
    # A dollar in a claim is a dollar.
    "text.parse_math": False,
}  # fmt: skip
# No date and no version: the same run gives the same bytes.
_METADATA: Mapping[str, dict[str, Any]] = {
    "svg": {"Date": None, "Creator": None}, "pdf": {"CreationDate": None, "Producer": None,
    "Creator": None}, "png": {"Software": None},
}  # fmt: skip


def draw_figure(data: FigureData) -> dict[str, bytes]:
    """The figure as SVG, PDF and PNG (300 dpi), 3.3 inches wide; the keys are the suffixes.

    The same data give the same bytes with one version of matplotlib. Raises
    MissingDependencyError where it is not installed.
    """
    with _style():
        figure = _DRAWERS[data.name](data)
        return {kind: _save(figure, kind) for kind in KINDS}


def draw_findings(data: FigureData) -> Figure:
    """One row per drawn claim, its words beside its interval; the null control below, unnamed."""
    drawn = data.rows[data.rows["is_drawn"]]
    audit, null = (drawn[drawn["of"] == of] for of in ("audit", "null control"))
    claims = [wrap_label(printable(claim), _CLAIM_COLUMNS, 4) for claim in audit["claim"]]
    heights = [_LINE_IN * len(lines) + 0.09 for lines in claims]
    audit_in = sum(heights)
    null_in = max(0.3, _NULL_ROW_IN * len(null) + 0.12) if data.note else 0.0
    height_in = audit_in + null_in + 0.42
    figure = _figure(height_in, layout=None)
    axes = figure.add_axes((0.53, 0.36 / height_in, 0.44, (audit_in + null_in) / height_in))
    axes.set_ylim(audit_in + null_in, 0)
    _effect_axis(axes, pd.concat([audit, null]), data.band)
    y = 0.0
    for (_, one), lines, height in zip(audit.iterrows(), claims, heights, strict=True):
        _words(axes, y + height / 2, "\n".join(lines))
        _interval(axes, one, y + height / 2, is_solid=one["status"] == "confirmed")
        y += height
    if data.note:
        axes.plot([-1.17, 1], [y, y], transform=axes.get_yaxis_transform(), color=_HAIR,
                  linewidth=0.6, clip_on=False)  # fmt: skip
        note = wrap_label(data.note, _CLAIM_COLUMNS, 2)
        _words(axes, y + null_in / 2, "\n".join(note))
        first = y + (null_in - _NULL_ROW_IN * (len(null) - 1)) / 2
        for i, (_, one) in enumerate(null.sort_values("effect", ascending=False).iterrows()):
            _interval(axes, one, first + _NULL_ROW_IN * i, is_null=True)
    return figure


def draw_clusters(data: FigureData) -> Figure:
    """All clusters, sorted by balance, each with its interval; the most uneven are named."""
    rows = data.rows
    figure = _figure(2.6)
    axes = figure.subplots()
    place = np.arange(len(rows))
    low, high = 100 * rows["ci_low"].to_numpy(), 100 * rows["ci_high"].to_numpy()
    middle = 100 * rows["difference"].to_numpy()
    colours = np.where(low > 0, _INTERVENTION, np.where(high < 0, _BASE, _HAIR))
    axes.vlines(place, low, high, colors=colours.tolist(), linewidth=0.8)
    for colour, marker, inside in (
        (_FAINT, "o", (low <= 0) & (high >= 0)), (_BASE, "o", high < 0),
        (_INTERVENTION, "s", low > 0),
    ):  # fmt: skip
        axes.plot(place[inside], middle[inside], marker, color=colour, markersize=2,
                  markeredgewidth=0)  # fmt: skip
    axes.axhline(0, color=_INK, linewidth=0.6)
    _name_extremes(axes, rows, low, high)
    axes.set_xlabel(f"Clusters of {data.note}, by balance")
    axes.set_xticks([])
    axes.set_ylabel("More in intervention (pp)")
    return figure


def draw_divergence(data: FigureData) -> Figure:
    """One row per group: its mean with an interval, its prompts as dots below."""
    rows = data.rows[data.rows["is_drawn"]]
    groups = rows.drop_duplicates("group")
    figure = _figure(0.55 + 0.16 * len(groups))
    axes = figure.subplots()
    places = {name: i for i, name in enumerate(groups["group"])}
    axes.plot(rows["parting"], rows["group"].map(places) + 0.3, "o", color=_FAINT, markersize=2.2,
              markeredgewidth=0)  # fmt: skip
    ends = [float(rows["parting"].max())]
    for _, one in groups.iterrows():
        y, mean = places[one["group"]], one["group_mean"]
        half = _t_quantile(int(one["n_prompts"])) * one["group_se"]
        if np.isfinite(half):
            ends.append(min(mean + half, 1))
            axes.plot([max(mean - half, 0), ends[-1]], [y, y], color=_INK, linewidth=1.1,
                      solid_capstyle="butt")  # fmt: skip
        axes.plot([mean], [y], "D", color=_INK, markersize=3)
    names = [wrap_label(printable(str(name)), 22, 1)[0] for name in groups["group"]]
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlim(-0.01, max(0.1, np.ceil(10 * max(ends)) / 10) + 0.01)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color=_HAIR, linewidth=0.5)
    axes.set_axisbelow(True)
    axes.set_xlabel("Probability that the models part on a prompt")
    return figure


def draw_map(data: FigureData) -> Figure:
    """Two panels on the same axes, each with one side in colour over the other in grey."""
    rows = data.rows[data.rows["is_drawn"]]
    spans = rows[["x", "y"]].max() - rows[["x", "y"]].min()
    shape = spans["y"] / spans["x"] if spans["x"] > 0 else 1.0
    figure = _figure(0.3 + 1.6 * float(np.clip(shape, 0.4, 1.5)))
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    for axes, side, colour, marker in zip(
        panels, ("base", "intervention"), (_BASE, _INTERVENTION), ("o", "s"), strict=True
    ):
        own, other = rows[rows["side"] == side], rows[rows["side"] != side]
        axes.plot(other["x"], other["y"], "o", color=_HAIR, markersize=1.6, markeredgewidth=0)
        axes.plot(own["x"], own["y"], marker, color=colour, markersize=1.6, markeredgewidth=0,
                  alpha=0.6)  # fmt: skip
        axes.set_title(f"{side} ({len(own):,})", fontsize=7, color=colour)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_aspect("equal", adjustable="box")
        axes.spines[:].set_visible(True)
        axes.spines[:].set_color(_HAIR)
    return figure


def draw_judges(data: FigureData) -> Figure:
    """A reliability diagram: one dot with interval per tenth of the cheap judge's scores."""
    rows = data.rows[data.rows["n"] > 0]
    figure = _figure(2.5)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], "--", color=_FAINT, linewidth=0.7)
    axes.vlines(rows["mean_score"], rows["ci_low"], rows["ci_high"], color=_BASE, linewidth=1.2)
    axes.plot(rows["mean_score"], rows["share_met"], "o", color=_BASE, markersize=3.6)
    for _, one in rows.iterrows():
        axes.annotate(f"{int(one['n']):,}", (one["mean_score"], 1.0), (0, 5), fontsize=5.5,
                      textcoords="offset points", ha="center", color=_FAINT)  # fmt: skip
    axes.set_xlim(-0.04, 1.04)
    axes.set_ylim(-0.04, 1.1)
    axes.set_yticks(np.linspace(0, 1, 6))
    axes.set_xlabel("Score of the cheap judge")
    axes.set_ylabel("Expensive judge: criterion met")
    return figure


_DRAWERS: Mapping[str, Callable[[FigureData], Figure]] = {
    "findings": draw_findings, "clusters": draw_clusters, "divergence": draw_divergence,
    "map": draw_map, "judges": draw_judges,
}  # fmt: skip


def printable(text: str) -> str:
    """The text on one line in letters that the embedded font has; others as their code points."""
    known = _glyphs()
    shown = " ".join(show_hidden(text).split())
    return "".join(char if ord(char) in known else f"⟨U+{ord(char):04X}⟩" for char in shown)


def _effect_axis(axes: Axes, rows: pd.DataFrame, band: float) -> None:
    effects = [
        Effect("", one["effect"], one["ci_low"], one["ci_high"], "muted")
        for _, one in rows.iterrows()
    ]
    scale = fit_scale(effects)
    axes.set_xlim(100 * scale.low, 100 * scale.high)
    axes.set_xticks([100 * tick for tick in scale.ticks])
    axes.axvspan(-100 * band, 100 * band, color=_WASH, zorder=0)
    axes.axvline(0, color=_INK, linewidth=0.6)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("← base    pp    intervention →")


def _words(axes: Axes, y: float, text: str) -> None:
    axes.text(-1.17, y, text, transform=axes.get_yaxis_transform(), fontsize=_SMALL, va="center",
              linespacing=1.15)  # fmt: skip


def _interval(
    axes: Axes, row: pd.Series[Any], y: float, *, is_solid: bool = True, is_null: bool = False
) -> None:
    more = row["effect"] > 0
    colour = _FAINT if is_null else _INTERVENTION if more else _BASE
    axes.plot([100 * row["ci_low"], 100 * row["ci_high"]], [y, y], color=colour,
              linewidth=0.7 if is_null else 1.3, solid_capstyle="butt")  # fmt: skip
    axes.plot([100 * row["effect"]], [y], "s" if more and not is_null else "o", color=colour,
              markersize=1.8 if is_null else 3.6, markeredgewidth=0.8,
              markerfacecolor=colour if is_solid else "white")  # fmt: skip


def _name_extremes(axes: Axes, rows: pd.DataFrame, low: Any, high: Any) -> None:
    """Names of up to three clusters at either end, in the corners that the curve leaves free."""
    n = min(3, len(rows) // 2)
    for i in range(n):
        for place, is_apart, x, y, side, end in (
            (len(rows) - 1 - i, low, 0.02, 0.97 - 0.08 * i, "left", 1.0),
            (i, -high, 0.98, 0.03 + 0.08 * i, "right", 0.0),
        ):
            if is_apart[place] <= 0:
                continue
            name = wrap_label(printable(str(rows["exemplar"].iloc[place])), 56, 1)[0]
            axes.annotate(
                name, (place, 100 * rows["difference"].iloc[place]), (x, y), fontsize=5.5,
                textcoords="axes fraction", ha=side, va="center",
                arrowprops={"arrowstyle": "-", "color": _FAINT, "linewidth": 0.4,
                            "shrinkA": 1, "shrinkB": 2, "relpos": (end, 0.5)},
            )  # fmt: skip


def _t_quantile(n: int) -> float:
    from scipy.stats import t

    return float(t.ppf(0.975, n - 1)) if n > 1 else float("nan")


def _figure(height_in: float, *, layout: Literal["constrained"] | None = "constrained") -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH_IN, height_in), layout=layout)


def _save(figure: Figure, kind: str) -> bytes:
    sink = io.BytesIO()
    figure.savefig(sink, format=kind, metadata=_METADATA[kind])
    return sink.getvalue()


@contextmanager
def _style() -> Iterator[None]:
    try:
        import matplotlib as mpl
    except ImportError:
        raise MissingDependencyError(
            "expected matplotlib, which draws figures, found none: pip install"
            " 'whatchanged[figures]'"
        ) from None
    # A plain mapping: the names of matplotlib's settings are a type of its own.
    settings: Any = dict(_STYLE)
    with mpl.rc_context(settings):
        yield


@lru_cache(maxsize=1)
def _glyphs() -> frozenset[int]:
    from matplotlib.font_manager import findfont
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(findfont("DejaVu Sans")).get_charmap())
