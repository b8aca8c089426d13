from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest
from example_run import HOSTILE
from hypothesis import given
from hypothesis import strategies as st

from whatchanged.figures import (
    Effect,
    Figure,
    Panel,
    Series,
    draw_bars,
    draw_forest,
    draw_map,
    draw_rounds,
    draw_shares,
    draw_strips,
    fit_scale,
    wrap_label,
)

SVG = "{http://www.w3.org/2000/svg}"


def effect(value: float, half: float = 0.02, label: str = "claim") -> Effect:
    return Effect(label, value, value - half, value + half, "intervention", "shown")


def parse(figure: Figure) -> ElementTree.Element:
    return ElementTree.fromstring(figure.svg)  # noqa: S314  # our own output


def map_points(figure: Figure) -> dict[str, list[int]]:
    """Points per path of the first panel, by side, in the order drawn."""
    paths = parse(figure).findall(f"{SVG}path")
    sides: dict[str, list[int]] = {"base": [], "intervention": []}
    for path in paths:
        side = path.attrib["class"].removeprefix("point ")
        sides[side].append(path.attrib["d"].count("M"))
    return sides


def test_an_axis_holds_every_interval_and_zero_in_round_steps() -> None:
    scale = fit_scale([effect(0.30), effect(0.12)])
    assert (scale.low, scale.high) == (-0.1, 0.4)
    assert scale.ticks == (-0.1, 0.0, 0.1, 0.2, 0.3, 0.4)


def test_an_axis_without_effects_reaches_two_points_to_either_side() -> None:
    scale = fit_scale([])
    assert (scale.low, scale.high) == (-0.02, 0.02)
    assert scale.at(0) == (scale.left + scale.right) / 2


@given(st.lists(st.floats(-1, 1), max_size=8))
def test_every_effect_lies_on_its_axis(values: list[float]) -> None:
    effects = [effect(value, 0.001) for value in values]
    scale = fit_scale(effects)
    assert 0 in scale.ticks
    assert all(scale.low <= e.low and e.high <= scale.high for e in effects)
    assert 3 <= len(scale.ticks) <= 9


def test_a_forest_draws_each_effect_at_its_place() -> None:
    effects = [effect(0.30), effect(-0.10)]
    scale = fit_scale(effects)
    figure = draw_forest("f", effects, scale, min_effect=0.01, alt="two effects")
    places = [float(c.attrib["cx"]) for c in parse(figure).iter(f"{SVG}circle")]
    # The axis runs from -20 to +40 points over 350 pixels from 344 on.
    assert places == [
        pytest.approx(344 + 350 * 50 / 60, abs=0.1),
        pytest.approx(344 + 350 / 6, abs=0.1),
    ]
    assert parse(figure).attrib["aria-label"] == "two effects"


def test_strips_sort_each_panel_by_effect_on_one_axis() -> None:
    effects = (effect(-0.1), effect(0.3), effect(0.1))
    panel = Panel("audit", "3 tested", effects)
    figure = draw_strips("s", [panel, panel], fit_scale(effects), min_effect=None, alt="strips")
    places = [float(c.attrib["cx"]) for c in parse(figure).iter(f"{SVG}circle")]
    assert places[:3] == sorted(places[:3], reverse=True)
    assert places[:3] == places[3:]


def test_an_unknown_share_has_no_bar() -> None:
    known = draw_shares(0.1, 0.2, 0.25, "shares").svg
    unknown = draw_shares(None, 0.2, 0.25, "shares").svg
    bars = re.findall(r'width="([\d.]+)" height="15" rx="2" class="(?:base|intervention)"', known)
    assert bars == ["104", "208"]
    assert 'class="base"' not in unknown
    assert ">unknown<" in unknown


def test_the_longest_bar_has_the_full_width() -> None:
    figure = draw_bars("time", [("decode", 30.0, "30 s"), ("embed", 15.0, "15 s")], alt="time")
    assert re.findall(r'width="(\d+)" height="17"', figure.svg) == ["550", "275"]
    assert "<svg" in draw_bars("time", [], alt="nothing").svg


def test_rounds_skip_what_is_unknown() -> None:
    series = Series("Agreement", (None, 0.5, 1.0), ("–", "0.50", "1.00"))
    empty = Series("Silhouette", (None, None, None), ("–", "–", "–"))
    figure = draw_rounds("rounds", [series, empty], "rounds")
    (line,) = parse(figure).findall(f"{SVG}polyline")
    assert len(line.attrib["points"].split()) == 2
    assert "1.00" in figure.svg
    assert "unknown" in figure.svg
    assert "nan" not in draw_rounds("r", [Series("one", (0.0,), ("0",))], "r").svg


def test_the_map_draws_every_point_in_mixed_order() -> None:
    points = np.random.default_rng(0).normal(size=(400, 2))
    side = np.arange(400) < 200
    figure = draw_map("map", points, side, seed=1)
    runs = map_points(figure)
    # 400 points in the panel of both sides and again in the panel of one side; the second panel of
    # one side lies in a group.
    assert sum(runs["base"]) == 200 + 200
    assert sum(runs["intervention"]) == 200
    assert len(runs["intervention"]) > 50
    assert figure.svg == draw_map("map", points, side, seed=1).svg
    assert figure.svg != draw_map("map", points, side, seed=2).svg


def test_the_map_draws_at_most_three_thousand_points() -> None:
    points = np.random.default_rng(0).normal(size=(9000, 2))
    figure = draw_map("map", points, np.arange(9000) % 2 == 0, seed=0)
    runs = map_points(figure)
    match = re.match(r"Map of 3000 discovery texts, (\d+) of the base", figure.alt)
    assert match is not None
    assert sum(runs["base"]) == 2 * int(match[1])
    assert sum(runs["intervention"]) == 3000 - int(match[1])
    assert len(figure.svg) < 200_000


@pytest.mark.parametrize("n", [1, 2])
def test_a_map_of_one_place_or_one_side_has_finite_coordinates(n: int) -> None:
    figure = draw_map("map", np.zeros((n, 2)), np.zeros(n, dtype=bool), seed=0)
    assert "nan" not in figure.svg
    assert f"{n} of the base and 0 of the intervention" in figure.alt


@pytest.mark.parametrize(
    ("text", "width", "lines"),
    [
        ("", 10, ("",)),
        ("short", 10, ("short",)),
        ("two words here", 9, ("two words", "here")),
        ("one two three four five", 8, ("one two", "three f…")),
        ("abcdefghijkl", 5, ("abcde", "fghi…")),
        ("日本語です", 6, ("日本語", "です")),
        ("spaces   and\nlines", 20, ("spaces and lines",)),
    ],
)
def test_labels_wrap_to_two_lines(text: str, width: int, lines: tuple[str, ...]) -> None:
    assert wrap_label(text, width, 2) == lines


@given(st.text(max_size=80), st.integers(4, 30), st.integers(1, 3))
def test_labels_end_and_stay_within_their_lines(text: str, width: int, n_lines: int) -> None:
    lines = wrap_label(text, width, n_lines)
    assert 1 <= len(lines) <= n_lines
    assert all(len(line) <= width for line in lines)


@pytest.mark.parametrize("text", HOSTILE)
def test_labels_cannot_leave_their_text_node(text: str) -> None:
    figure = draw_forest("f", [effect(0.1, label=text)], fit_scale([]), min_effect=0.5, alt=text)
    tags = {element.tag.removeprefix(SVG) for element in parse(figure).iter()}
    assert tags == {"svg", "rect", "line", "text", "g", "title", "circle"}
