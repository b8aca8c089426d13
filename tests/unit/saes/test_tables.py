import csv
import io
import math
from dataclasses import dataclass

from tests.unit.saes.synthetic import QUALITY
from whatchanged.latex import NEEDED
from whatchanged.saes.features import SaeCard
from whatchanged.saes.quality import SaeQuality
from whatchanged.saes.tables import (
    make_table,
    quality_table,
    to_csv,
    to_frame,
    to_latex,
    to_markdown,
)
from whatchanged.store.codec import table_bytes, table_value


@dataclass(frozen=True)
class Row:
    sae: str
    category: str
    feature: int
    score: float
    p_adjusted: float
    is_confirmed: bool


LINKED = {"neuronpedia_id": "gpt2-small/8-res-jb"}
CARDS = (
    SaeCard("good", "blocks.1.hook_resid_post", 1, QUALITY, LINKED),
    SaeCard("poor", "blocks.1.hook_resid_post", 1, SaeQuality(0.1, None, 0.2, 0.7)),
    SaeCard("unused", "blocks.2.hook_resid_post", 2, QUALITY),
)
ROWS = (
    Row("good", "a|b & $c_1$", 24000, 0.8125, 0.00002, True),
    Row("poor", "[x]", 3, math.nan, 1.0, False),
)


def table(records=ROWS):
    return make_table("specialists", "Specialists, 100%", Row, records, CARDS)


def test_csv_reads_back_with_the_quality_of_each_sae():
    rows = list(csv.DictReader(io.StringIO(to_csv(table()))))
    assert [row["category"] for row in rows] == ["a|b & $c_1$", "[x]"]
    assert [row["explained_variance"] for row in rows] == ["0.83", "0.1"]
    assert [row["l0"] for row in rows] == ["41.2", ""]
    assert [row["score"] for row in rows] == ["0.8125", ""]
    assert rows[0]["link"] == "https://www.neuronpedia.org/gpt2-small/8-res-jb/24000"
    assert rows[1]["link"] == ""


def test_the_frame_survives_parquet():
    frame = table_value(table_bytes(to_frame(table())))
    assert frame["feature"].tolist() == [24000, 3]
    assert frame["dead_share"].tolist() == [0.031, 0.7]
    assert frame["score"].isna().tolist() == [False, True]


def test_markdown_escapes_cells_and_notes_the_quality():
    lines = to_markdown(table()).splitlines()
    assert lines[:4] == [
        "**Specialists, 100%**",
        "",
        "| sae | category | feature | score | p adjusted | is confirmed | link |",
        "|---|---|---:|---:|---:|---:|---|",
    ]
    link = "[Neuronpedia](https://www.neuronpedia.org/gpt2-small/8-res-jb/24000)"
    assert lines[4] == (
        rf"| good | a&#124;b &amp; \$c\_1\$ | 24000 | 0.812 | &lt; 0.0001 | yes | {link} |"
    )
    assert lines[5] == r"| poor | \[x\] | 3 | unknown | 1 | no | unknown |"
    assert lines[7].startswith("- good: explained variance 0.83, L0 41.2")
    assert "read its features with doubt" in lines[8]
    assert len(lines) == 9


def test_latex_is_a_booktabs_table_with_the_quality_below():
    head, *lines = to_latex(table()).split("\\begin{table}")
    assert head == NEEDED
    lines = lines[0].splitlines()
    assert lines[2:6] == [
        r"\caption{Specialists, 100\%}",
        r"\label{tab:specialists}",
        r"\begin{tabular}{llrrrrl}",
        r"\toprule",
    ]
    assert lines[8] == (
        r"good & a\textbar{}b \& \$c\_1\$ & 24000 & 0.812 & \textless{} 0.0001 & yes & "
        r"\url{https://www.neuronpedia.org/gpt2-small/8-res-jb/24000} \\"
    )
    assert lines[9].startswith(r"poor & {[}x{]} & 3 & unknown")
    assert lines[10:12] == [r"\bottomrule", r"\end{tabular}"]
    assert lines[13].startswith(r"\par\footnotesize poor: explained variance 0.10")


def test_two_saes_in_a_row_have_their_quality_each():
    @dataclass(frozen=True)
    class Pair:
        sae: str
        other_sae: str

    made = make_table("overlap", "Overlap", Pair, [Pair("good", "poor")], CARDS)
    (row,) = csv.DictReader(io.StringIO(to_csv(made)))
    assert (row["explained_variance"], row["other_explained_variance"]) == ("0.83", "0.1")


def test_an_empty_table_says_none_and_keeps_its_columns_and_qualities():
    empty = table(())
    assert to_csv(empty).startswith("sae,category,feature,score,p_adjusted,is_confirmed,explained")
    assert "None." in to_markdown(empty)
    assert to_markdown(empty).count("explained variance") == 3
    assert r"\midrule" in to_latex(empty)
    assert len(to_frame(empty)) == 0


def test_without_an_id_there_is_no_link_column():
    assert "link" not in make_table("t", "c", Row, ROWS, CARDS[1:]).columns


def test_the_saes_themselves_are_a_table():
    rows = list(csv.DictReader(io.StringIO(to_csv(quality_table(CARDS)))))
    assert [(row["sae"], row["layer"], row["dead_share"]) for row in rows] == [
        ("good", "1", "0.031"), ("poor", "1", "0.7"), ("unused", "2", "0.031")
    ]  # fmt: skip
