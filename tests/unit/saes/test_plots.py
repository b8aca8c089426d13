import numpy as np
import pytest

from whatchanged.errors import UsageError
from whatchanged.saes.plots import draw_bars, draw_heat_map

pytest.importorskip("matplotlib", reason="figures need matplotlib")

STARTS = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}


@pytest.mark.parametrize("image", sorted(STARTS))
def test_equal_figures_give_equal_bytes(image):
    drawn = [
        draw_heat_map(
            np.array([[0.2, np.nan], [0.9, 0.0]]), ["a", "b"], ["x", "y"],
            title="Best score", scale="share inside minus outside", image=image,
        )
        for _ in range(2)
    ]  # fmt: skip
    assert drawn[0] == drawn[1]
    assert drawn[0].startswith(STARTS[image])


def test_labels_are_shown_as_written_and_never_read_as_formulas():
    figure = draw_bars(
        ["costs $5 or $6", "\\frac{", "a\u202eb"], [0.5, 0.2, -0.1],
        intervals=[(0.4, 0.6), (0.1, 0.3), (-0.3, 0.0)],
        title="$x^{", scale="score_1 $", image="svg",
    )  # fmt: skip
    comments = figure.decode("utf-8")
    assert "costs $5 or $6" in comments
    assert "a⟨U+202E⟩b" in comments


def test_twenty_saes_and_one_fit():
    for n_saes in (1, 20):
        names = [f"sae {i} with a name that is much too long for its label" for i in range(n_saes)]
        values = np.linspace(-1, 1, 8 * n_saes).reshape(n_saes, 8)
        columns = [f"topic {i}" for i in range(8)]
        assert draw_heat_map(values, names, columns, title="t", scale="s").startswith(STARTS["png"])


def test_a_map_of_nothing_known_is_drawn():
    assert draw_heat_map(np.full((1, 1), np.nan), ["a"], ["x"], title="t", scale="s")
    assert draw_heat_map(np.zeros((1, 1)), ["a"], ["x"], title="t", scale="s")


def test_figures_without_a_value_or_with_too_few_labels_are_refused():
    with pytest.raises(UsageError, match="1 rows and 2 columns"):
        draw_heat_map(np.zeros((1, 1)), ["a"], ["x", "y"], title="t", scale="s")
    with pytest.raises(UsageError, match="one at least"):
        draw_heat_map(np.zeros((0, 0)), [], [], title="t", scale="s")
    with pytest.raises(UsageError, match="one bar at least, found 0, 0 and 0"):
        draw_bars([], [], title="t", scale="s")
