"""The report's figures, drawn as SVG by hand: small, scalable, and the same in light and dark.

Colours come from classes: `pages/figure.css` in a file of its own, the page's style inside a page.
Every figure has a description in words (`alt`). Lengths are in pixels of a page 860 wide.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from whatchanged.escape import for_attribute

WIDTH = 860
MAX_MAP_POINTS = 3000
_PLOT_LEFT, _PLOT_RIGHT, _VALUE_LEFT = 344, 694, 712
_LABEL_UNITS = 52
_MARGIN = 16

Tone = Literal["base", "intervention", "muted"]


@dataclass(frozen=True, slots=True)
class Figure:
    """A drawing of `width` by `height` pixels; `marks` are its SVG elements, without style.

    `name` is its file's stem, or empty for no file of its own.
    """

    name: str
    marks: str
    alt: str
    width: float
    height: float

    @property
    def svg(self) -> str:
        """The SVG element for a page that has the style."""
        return self._element(0, self.marks)

    def standalone(self, style: str) -> str:
        """The SVG element with its style, a margin, and paper of its own behind it."""
        paper = (
            f'<rect x="-{_MARGIN}" y="-{_MARGIN}" width="{self.width + 2 * _MARGIN:g}" '
            f'height="{self.height + 2 * _MARGIN:g}" class="paper"/>'
        )
        return self._element(_MARGIN, f"<style>{style}</style>{paper}{self.marks}")

    def _element(self, margin: int, inner: str) -> str:
        width, height = self.width + 2 * margin, self.height + 2 * margin
        return (
            '<svg xmlns="http://www.w3.org/2000/svg" class="fig" '
            f'viewBox="{-margin} {-margin} {width:g} {height:g}" width="{width:g}" '
            f'height="{height:g}" role="img" aria-label="{for_attribute(self.alt)}">{inner}</svg>'
        )


@dataclass(frozen=True, slots=True)
class Effect:
    """A share difference in [-1, 1] with its interval; `tone` is the side that shows more."""

    label: str
    effect: float
    low: float
    high: float
    tone: Tone
    value: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """A stack of effects under one title."""

    title: str
    note: str
    effects: tuple[Effect, ...]


@dataclass(frozen=True, slots=True)
class Series:
    """One figure per sampling round; None where it is unknown."""

    title: str
    values: tuple[float | None, ...]
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Scale:
    """A linear axis: `low..high` in data over `left..right` in pixels, with its ticks."""

    low: float
    high: float
    ticks: tuple[float, ...]
    left: float = _PLOT_LEFT
    right: float = _PLOT_RIGHT

    def at(self, value: float) -> float:
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return round(self.left + share * (self.right - self.left), 1)


def fit_scale(effects: Sequence[Effect], *, least: float = 0.02) -> Scale:
    """A common axis for share differences: holds all intervals and zero, in round steps.

    No effects, or narrow ones, give an axis of `-least..least`.
    """
    low = min([-least, *(e.low for e in effects)])
    high = max([least, *(e.high for e in effects)])
    step = _round_step((high - low) / 6)
    first, last = math.floor(low / step), math.ceil(high / step)
    ticks = tuple(round(i * step, 10) for i in range(first, last + 1))
    return Scale(ticks[0], ticks[-1], ticks)


def draw_forest(
    name: str, effects: Sequence[Effect], scale: Scale, *, min_effect: float | None, alt: str
) -> Figure:
    """One labelled row per effect: dot and interval over a common axis, value at the right."""
    parts: list[str] = []
    y = 34.0
    for effect in effects:
        lines = wrap_label(effect.label, _LABEL_UNITS, 2)
        height = 22 + 16 * len(lines)
        middle = y + height / 2
        for i, text in enumerate(lines):
            baseline = middle + 4 + 16 * (i - (len(lines) - 1) / 2)
            parts.append(_text(0, baseline, text, "label"))
        parts.append(_interval(effect, scale, middle, radius=4.5))
        parts.append(_text(_VALUE_LEFT, middle + 4, effect.value, "value"))
        y += height
    frame = _axis(scale, 28, y + 4, min_effect)
    return Figure(name, frame + "".join(parts), alt, WIDTH, y + 28)


def draw_strips(
    name: str, panels: Sequence[Panel], scale: Scale, *, min_effect: float | None, alt: str
) -> Figure:
    """Panels of thin rows, sorted by effect, one under the other on one axis."""
    parts: list[str] = []
    y = 40.0
    for panel in panels:
        height = max(46.0, 7.0 * len(panel.effects))
        parts.append(_text(0, y + 14, panel.title, "label strong"))
        parts.append(_text(0, y + 32, panel.note, "tick"))
        row = y + (height - 7.0 * len(panel.effects)) / 2 + 3.5
        for i, effect in enumerate(sorted(panel.effects, key=lambda e: -e.effect)):
            parts.append(_interval(effect, scale, row + 7 * i, radius=2.4))
        y += height + 22
    frame = _axis(scale, 28, y - 8, min_effect)
    return Figure(name, frame + "".join(parts), alt, WIDTH, y + 16)


def draw_shares(base: float | None, intervention: float | None, top: float, alt: str) -> Figure:
    """Two bars, base over intervention, on an axis of `0..top`; an unknown share has no bar."""
    width, left, right = 400, 84, 344
    parts = []
    for y, side, share in ((6, "base", base), (30, "intervention", intervention)):
        parts.append(_text(left - 8, y + 12, side, "tick end"))
        parts.append(_rect(left, y, right - left, 15, "track"))
        if share is not None:
            length = (right - left) * min(share / top, 1)
            parts.append(_rect(left, y, round(length, 1), 15, side))
        shown = "unknown" if share is None else f"{100 * share:.1f}%"
        parts.append(_text(right + 8, y + 12, shown, "value"))
    return Figure("", "".join(parts), alt, width, 51)


def draw_bars(
    name: str, rows: Sequence[tuple[str, float, str]], *, alt: str, tone: str = "plainbar"
) -> Figure:
    """One horizontal bar per (label, value, shown value), longest value at full width."""
    longest = max((value for _, value, _ in rows), default=0.0) or 1.0
    left, right = 150, 700
    parts = []
    for i, (label, value, shown) in enumerate(rows):
        y = 4 + 26 * i
        parts.append(_text(0, y + 13, wrap_label(label, 22, 1)[0], "label"))
        length = max(1.5, (right - left) * value / longest)
        parts.append(_rect(left, y, round(length, 1), 17, tone))
        parts.append(_text(left + length + 8, y + 13, shown, "value"))
    return Figure(name, "".join(parts), alt, WIDTH, 26 * len(rows) + 4)


def draw_rounds(name: str, series: Sequence[Series], alt: str) -> Figure:
    """Small multiples, one line each over the rounds from 0; the last known value is written."""
    gap = 24
    width = (WIDTH - gap * (len(series) - 1)) / max(len(series), 1)
    parts = []
    for i, one in enumerate(series):
        left = i * (width + gap)
        parts.append(_text(left, 14, one.title, "label strong"))
        parts.append(_line(left, 96, left + width, 96, "grid"))
        parts.append(_sparkline(one, left, width))
    return Figure(name, "".join(parts), alt, WIDTH, 118)


def draw_map(
    name: str, points: NDArray[np.float64], is_intervention: NDArray[np.bool_], seed: int
) -> Figure:
    """The texts `points (n_texts, 2)` as a map of both sides, and of each side alone.

    Needs at least one point. At most 3,000 are drawn, chosen at random and in random order, so that
    neither side lies on top.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(points))[:MAX_MAP_POINTS]
    points, is_intervention = points[order], is_intervention[order]
    low, high = points.min(axis=0), points.max(axis=0)
    span = np.where(high > low, high - low, 1.0)
    unit = (points - low) / span if len(points) > 1 else np.full_like(points, 0.5)
    alt = (
        f"Map of {len(points)} discovery texts, {int((~is_intervention).sum())} of the base and "
        f"{int(is_intervention.sum())} of the intervention; near texts mean similar things."
    )
    base, other = unit[~is_intervention], unit[is_intervention]
    parts = [
        _map_panel(unit, is_intervention, 0, 572, 480, "both sides"),
        _map_panel(base, np.zeros(len(base), bool), 592, 268, 229, "base alone"),
        '<g transform="translate(0 251)">',
        _map_panel(other, np.ones(len(other), bool), 592, 268, 229, "intervention alone"),
        "</g>",
    ]
    return Figure(name, "".join(parts), alt, WIDTH, 482)


def wrap_label(text: str, width: int, max_lines: int) -> tuple[str, ...]:
    """The text in at most `max_lines` lines of `width` columns (wide characters take two).

    What does not fit ends in an ellipsis; an empty text gives one empty line.
    """
    lines: list[str] = []
    rest = " ".join(text.split())
    while rest and len(lines) < max_lines:
        head = _fitting(rest, width)
        if len(head) < len(rest):
            if len(lines) == max_lines - 1:
                head = _fitting(rest, width - 1).rstrip() + "…"
                rest = ""
            elif (space := head.rfind(" ")) > len(head) // 2 and rest[len(head)] != " ":
                head = head[:space]
        lines.append(head.rstrip())
        rest = rest[len(head) :].lstrip()
    return tuple(lines) or ("",)


def _fitting(text: str, width: int) -> str:
    used = 0
    for i, char in enumerate(text):
        used += 2 if unicodedata.east_asian_width(char) in "WF" else 1
        if used > width:
            return text[:i]
    return text


def _round_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)


def _axis(scale: Scale, top: float, bottom: float, min_effect: float | None) -> str:
    parts = []
    if min_effect:
        left, right = scale.at(-min_effect), scale.at(min_effect)
        parts.append(_rect(left, top, round(right - left, 1), bottom - top, "band"))
    for tick in scale.ticks:
        x = scale.at(tick)
        parts.append(_line(x, top, x, bottom, "zero" if tick == 0 else "grid"))
        shown = f"{100 * tick:+g}".replace("-", "−") if tick else "0"
        parts.append(_text(x, bottom + 16, shown, "tick middle"))
    zero = scale.at(0)
    if zero - scale.left > 86:
        parts.append(_text(zero - 8, 14, "← more in base", "tick end"))
    if scale.right - zero > 120:
        parts.append(_text(zero + 8, 14, "more in intervention →", "tick"))
    parts.append(_text(_VALUE_LEFT, bottom + 16, "percentage points", "tick"))
    return "".join(parts)


def _interval(effect: Effect, scale: Scale, y: float, radius: float) -> str:
    low, high, middle = scale.at(effect.low), scale.at(effect.high), scale.at(effect.effect)
    title = f"<title>{for_attribute(f'{effect.label}: {effect.value}')}</title>"
    return (
        f'<g class="mark {effect.tone}">{title}{_line(low, y, high, y, "ci")}'
        f'<circle cx="{middle:g}" cy="{y:g}" r="{radius:g}"/></g>'
    )


def _sparkline(series: Series, left: float, width: float) -> str:
    known = [(i, v) for i, v in enumerate(series.values) if v is not None]
    if not known:
        return _text(left, 62, "unknown", "tick")
    low = min(0.0, *(v for _, v in known)) if len(known) > 1 else min(0.0, known[0][1])
    high = max([v for _, v in known] + [low + 1e-9])
    step = (width - 60) / max(len(series.values) - 1, 1)
    places = [
        (round(left + 5 + i * step, 1), round(92 - 58 * (v - low) / (high - low), 1))
        for i, v in known
    ]
    path = " ".join(f"{x:g},{y:g}" for x, y in places)
    dots = "".join(f'<circle cx="{x:g}" cy="{y:g}" r="2.6" class="dot"/>' for x, y in places)
    x, y = places[-1]
    return (
        f'<polyline points="{path}" class="spark"/>{dots}'
        f"{_text(x + 8, y + 4, series.labels[known[-1][0]], 'value')}"
        f"{_text(left, 112, 'round 0', 'tick')}"
        + (
            _text(left + 5 + (len(series.values) - 1) * step, 112, str(len(series.values) - 1),
                  "tick middle")
            if len(series.values) > 1 else ""
        )
    )  # fmt: skip


def _map_panel(
    unit: NDArray[np.float64],
    is_intervention: NDArray[np.bool_],
    left: float,
    width: float,
    height: float,
    title: str,
) -> str:
    radius = 2.2 if width > 400 else 1.5
    inner_w, inner_h = width - 24, height - 44
    xs = np.round(left + 12 + unit[:, 0] * inner_w, 1)
    ys = np.round(32 + (1 - unit[:, 1]) * inner_h, 1)
    parts = [
        f'<rect x="{left + 0.5:g}" y="0.5" width="{width - 1:g}" height="{height - 1:g}" '
        'rx="6" class="frame"/>',
        _text(left + 12, 20, title, "tick"),
    ]
    start = 0
    # A run of points of one side is one path: the same picture in a third of the bytes.
    for end in range(1, len(xs) + 1):
        if end < len(xs) and is_intervention[end] == is_intervention[start]:
            continue
        dots = "".join(f"M{xs[i]:g} {ys[i]:g}h0" for i in range(start, end))
        side = "intervention" if is_intervention[start] else "base"
        parts.append(f'<path class="point {side}" stroke-width="{2 * radius:g}" d="{dots}"/>')
        start = end
    return "".join(parts)


def _text(x: float, y: float, text: str, classes: str) -> str:
    return f'<text x="{x:g}" y="{y:g}" class="{classes}">{for_attribute(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, name: str) -> str:
    return f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" class="{name}"/>'


def _rect(x: float, y: float, width: float, height: float, name: str) -> str:
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="2" class="{name}"/>'
    )
