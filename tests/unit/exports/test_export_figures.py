from __future__ import annotations

import csv
import io
import re
import struct
import sys
import zlib
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from tests.unit.example_run import HOSTILE, make_finding
from tests.unit.exports.conftest import invent, write_run
from whatchanged.errors import MissingDependencyError
from whatchanged.exports.drawing import draw_figure, printable
from whatchanged.exports.figure_data import (
    FigureData,
    Undrawn,
    collect_clusters,
    collect_divergence,
    collect_figures,
    collect_findings,
    collect_judges,
    collect_map,
)
from whatchanged.exports.figures import write_figures
from whatchanged.store.runs import Run

FIVE = ("findings", "clusters", "divergence", "map", "judges")


@pytest.fixture(scope="module")
def files(run: Run) -> dict[str, bytes]:
    return dict(write_figures(run))


def variant(tmp_path: Path, **changes: object) -> Run:
    return write_run(tmp_path / "invented", replace(invent(), **changes))


def drawn(data: FigureData | str) -> FigureData:
    assert isinstance(data, FigureData)
    return data


def test_five_figures_come_in_three_formats_with_their_data_and_a_caption(
    files: dict[str, bytes],
) -> None:
    kinds = ("svg", "pdf", "png", "csv")
    assert files.keys() == {f"{name}.{k}" for name in FIVE for k in kinds} | {"captions.md"}
    captions = files["captions.md"].decode()
    assert re.findall(r"^\*\*(\w+)\*\*: [A-Z0-9]", captions, re.MULTILINE) == list(FIVE)


@pytest.mark.parametrize("name", FIVE)
def test_a_figure_is_one_column_wide_in_every_format(files: dict[str, bytes], name: str) -> None:
    svg = ElementTree.fromstring(files[f"{name}.svg"])  # noqa: S314  # our own output
    # 3.3 inches are 237.6 points, and 990 pixels at 300 dpi.
    assert svg.attrib["width"] == "237.6pt"
    assert struct.unpack(">I", files[f"{name}.png"][16:20]) == (990,)
    density = files[f"{name}.png"].split(b"pHYs")[1][:9]
    # 300 dots per inch are 11811 per metre.
    assert struct.unpack(">IIB", density) == (11811, 11811, 1)
    assert b"/MediaBox [ 0 0 237.6" in files[f"{name}.pdf"]


@pytest.mark.parametrize("name", FIVE)
def test_letters_are_outlines_in_svg_and_embedded_truetype_in_pdf(
    files: dict[str, bytes], name: str
) -> None:
    assert b"<text" not in files[f"{name}.svg"]
    pdf = files[f"{name}.pdf"]
    streams = re.findall(rb"stream\r?\n(.*?)\r?\nendstream", pdf, re.DOTALL)
    objects = pdf + b"".join(inflate(stream) for stream in streams)
    assert b"/FontFile2" in objects
    assert b"/Type3" not in objects


def inflate(stream: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(stream)
    except zlib.error:
        return b""


def test_a_figure_of_the_same_data_has_the_same_bytes(run: Run) -> None:
    data = drawn(collect_findings(run))
    assert draw_figure(data) == draw_figure(data)


def test_the_data_beside_a_figure_are_all_of_its_rows(run: Run, files: dict[str, bytes]) -> None:
    rows = list(csv.DictReader(io.StringIO(files["findings.csv"].decode(), newline="")))
    assert [row["of"] for row in rows] == ["audit"] * 4 + ["null control"] * 4
    # The two confirmed claims and the whole null control are in the picture.
    assert [row["is_drawn"] for row in rows] == ["True"] * 2 + ["False"] * 2 + ["True"] * 4


def test_at_most_12_claims_are_drawn_and_the_caption_says_of_how_many(tmp_path: Path) -> None:
    many = [make_finding(i, f"Claim {i}.", "confirmed", 0.1, 0.3) for i in range(14)]
    data = drawn(collect_findings(variant(tmp_path, findings=many)))
    assert data.rows["is_drawn"].sum() == 12 + 4
    assert "12 of 14 confirmed, of 14 tested at a false discovery rate of 5%" in data.caption


def test_where_nothing_is_confirmed_the_tested_claims_are_drawn_and_called_so(
    tmp_path: Path,
) -> None:
    rejected = [make_finding(1, "Claim.", "rejected", 0.3, 0.3)]
    data = drawn(collect_findings(variant(tmp_path, findings=rejected)))
    assert "All 1 tested (none was confirmed), of 1 tested" in data.caption
    assert set(draw_figure(data)) == {"svg", "pdf", "png"}


def test_a_run_without_null_control_says_so_and_draws_none(tmp_path: Path) -> None:
    summary = {**invent().summary, "null_control": None}
    data = drawn(collect_findings(variant(tmp_path, summary=summary, null_findings=[])))
    assert "No null control was run." in data.caption
    assert data.note == ""
    assert set(draw_figure(data)) == {"svg", "pdf", "png"}


def test_clusters_are_those_of_the_last_round_sorted_by_balance(run: Run) -> None:
    rows = drawn(collect_clusters(run)).rows
    assert len(rows) == 6
    assert rows["cluster"].str.startswith("invented-6-s").all()
    assert rows["difference"].is_monotonic_increasing


def test_uneven_clusters_are_counted_by_intervals_that_exclude_zero(tmp_path: Path) -> None:
    clusters = invent().clusters.assign(difference=0.0, ci_low=-0.1, ci_high=0.1)
    last = clusters["round"] == 6
    clusters.loc[last & (clusters["label"] == 0), ["difference", "ci_low"]] = [0.2, 0.1]
    clusters.loc[last & (clusters["label"] == 1), ["difference", "ci_high"]] = [-0.2, -0.1]
    data = drawn(collect_clusters(variant(tmp_path, clusters=clusters)))
    assert "; 2 exclude zero (coloured)" in data.caption


def test_a_group_has_the_mean_of_its_prompts_and_their_standard_error(tmp_path: Path) -> None:
    invented = invent()
    prompts = invented.prompts.assign(group=["a", "a", *["b"] * (len(invented.prompts) - 2)])
    parting = np.full(len(prompts), np.nan)
    parting[:3] = [0.2, 0.4, 0.9]
    divergence = invented.divergence.assign(parting=parting)
    data = drawn(collect_divergence(variant(tmp_path, prompts=prompts, divergence=divergence)))
    groups = data.rows.drop_duplicates("group").set_index("group")
    assert list(groups.index) == ["b", "a"]
    # Mean 0.3; standard deviation 0.1414, over the square root of two prompts: 0.1.
    assert groups.loc["a", ["group_mean", "group_se"]].tolist() == pytest.approx([0.3, 0.1])
    assert groups.loc["b", "group_mean"] == 0.9
    assert np.isnan(groups.loc["b", "group_se"])
    assert set(draw_figure(data)) == {"svg", "pdf", "png"}


def test_the_map_draws_at_most_3000_texts_and_keeps_all_in_its_data(tmp_path: Path) -> None:
    invented = invent()
    place = invented.map.iloc[[0]]
    texts = invented.texts[invented.texts["text_key"] == place["text_key"].item()]
    copies = [f"{i:064x}" for i in range(3500)]
    many = pd.concat([texts] * 3500, ignore_index=True).assign(text_key=copies)
    places = pd.concat([place] * 3500, ignore_index=True).assign(text_key=copies)
    data = drawn(collect_map(variant(tmp_path, texts=many, map=places)))
    assert (len(data.rows), data.rows["is_drawn"].sum()) == (3500, 3000)
    assert data.caption.startswith("3,000 of 3,500 discovery texts")


def test_judges_are_compared_by_tenths_of_the_cheap_score(tmp_path: Path) -> None:
    scores = [(0.05, 0.1), (0.05, 0.9), (0.95, 0.7), (1.0, 0.9), (0.5, None)]
    rows = [
        {"hypothesis_id": "h000", "text_key": str(i), "tier": tier, "score": score}
        for i, pair in enumerate(scores)
        for tier, score in zip(("cheap", "expensive"), pair, strict=True)
    ]
    blank = {"judge": "j", "outcome": "answered", "reason": "", "cost_usd": 0.0, "is_audit": False}
    data = drawn(collect_judges(variant(tmp_path, verdicts=pd.DataFrame(rows).assign(**blank))))
    assert data.rows["n"].tolist() == [2, 0, 0, 0, 0, 0, 0, 0, 0, 2]
    assert data.rows["n_met"].tolist()[::9] == [1, 2]
    # Three of four pairs lie on one side of one half.
    assert "on the 4 questions that both answered" in data.caption
    assert "They agreed on 75.0%" in data.caption


def test_a_run_without_data_has_reasons_instead_of_figures(tmp_path: Path) -> None:
    invented = invent()
    tables = ("texts", "segments", "clusters", "verdicts", "map", "divergence", "pairs")
    nothing = {name: getattr(invented, name).iloc[:0] for name in tables}
    bare = variant(tmp_path, findings=[], null_findings=[], **nothing)
    assert all(isinstance(figure, Undrawn) for figure in collect_figures(bare))
    files = dict(write_figures(bare))
    assert list(files) == ["captions.md"]
    captions = files["captions.md"].decode()
    assert "**map**: Not drawn: the run holds no map of its texts." in captions
    assert captions.count("Not drawn: ") == 5


@pytest.mark.parametrize("text", HOSTILE)
def test_a_label_holds_only_what_the_embedded_font_can_draw(text: str) -> None:
    shown = printable(text)
    assert "\n" not in shown
    assert shown.encode("utf-8")


def test_letters_that_the_font_lacks_are_shown_by_their_code_point() -> None:
    assert printable("a 中 é $x$") == "a ⟨U+4E2D⟩ é $x$"


def test_without_matplotlib_the_error_says_what_to_install(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingDependencyError, match=r"whatchanged\[figures\]"):
        list(write_figures(run))
