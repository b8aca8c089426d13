"""LaTeX and the model card: nothing that a model wrote becomes markup."""

from __future__ import annotations

import re
import string
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.example_run import HOSTILE, make_empty_run, make_finding, make_run
from whatchanged.exports.facts import (
    Covered,
    computing_seconds,
    describe_cost,
    describe_coverage,
    write_claim,
)
from whatchanged.exports.latex import (
    write_cost_table,
    write_coverage_table,
    write_findings_table,
    write_latex,
)
from whatchanged.exports.model_card import write_model_card
from whatchanged.latex import for_latex
from whatchanged.store.runs import Run

# All that escaped text may hold: letters and signs that print as themselves, and these commands.
PLAIN = set(string.ascii_letters + string.digits + " !()+,-./:;=?@'")
COMMANDS = (
    r"\\(?:textbackslash|textasciicircum|textasciitilde|textless|textgreater|textbar|char34"
    r"|textasciigrave|textendash|textemdash|ldots|textquoteleft|textquoteright"
    r"|textquotedblleft|textquotedblright|ss|ae|AE|o|O|oe|OE|l|L)\{\}"
    r"|\\unicodechar\{[0-9A-F]{4,6}\}|\\[{}$&#%_]|\\[`'^~=.\"][{][A-Za-z][}]|\\[urHvc][{][A-Za-z][}]"
    r"|\$(?:-|\\(?:times|pm|le|ge|leftarrow|rightarrow|langle|rangle))\$|\{[][*]\}|[-',]\{\}|~"
)


def left_over(tex: str) -> str:
    """What is left of escaped text once every allowed command is taken out."""
    return re.sub(COMMANDS, "", tex)


@given(st.text())
def test_whatever_a_text_holds_its_latex_is_ascii_made_of_known_commands(text: str) -> None:
    assert set(left_over(for_latex(text))) <= PLAIN


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_texts_are_made_of_known_commands(text: str) -> None:
    assert set(left_over(for_latex(text))) <= PLAIN


@pytest.mark.parametrize(
    ("text", "tex"),
    [
        (r"\input{x}", r"\textbackslash{}input\{x\}"),
        ("50% of $x_1$ & #2 ~ ^", r"50\% of \$x\_1\$ \& \#2 \textasciitilde{} \textasciicircum{}"),
        ("a -- b --- c", "a -{}- b -{}-{}- c"),
        ("''q'' `x`", r"'{}'q'{}' \textasciigrave{}x\textasciigrave{}"),
        ("[a] *", "{[}a{]} {*}"),
        ('say "no"\nnow', r"say \char34{}no\char34{} now"),
        ("café – Čapek", r"caf\'{e} \textendash{} \v{C}apek"),
        ("中", r"\unicodechar{4E2D}"),
        ("−1 ≤ x", r"$-$1 $\le$ x"),
        ("a\u202eb", r"a$\langle$U+202E$\rangle$b"),
    ],
)
def test_latex_prints_the_text_as_it_reads(text: str, tex: str) -> None:
    assert for_latex(text) == tex


def cells_of(row: str) -> list[str]:
    return re.split(r"(?<!\\)&", row)


def test_every_row_of_a_table_has_as_many_cells_as_its_head(run: Run) -> None:
    for name, n_columns in (("findings", 8), ("coverage", 3), ("cost", 6)):
        text = write_latex(run)[f"{name}.tex"].decode("ascii")
        body = text.split("\\toprule\n")[1].split("\\bottomrule")[0]
        rows = [line for line in body.split("\n") if line and line != "\\midrule"]
        assert len(rows) > 1
        assert {len(cells_of(row)) for row in rows} == {n_columns}
        assert all(row.endswith(r" \\") for row in rows)


def test_every_environment_that_is_opened_is_closed(run: Run) -> None:
    for data in write_latex(run).values():
        opened = re.findall(r"\\(begin|end)\{(\w+\*?)\}", data.decode("ascii"))
        stack: list[str] = []
        for verb, name in opened:
            if verb == "begin":
                stack.append(name)
            else:
                assert stack.pop() == name
        assert stack == []


def test_braces_balance_in_every_file(run: Run) -> None:
    for data in write_latex(run).values():
        unescaped = re.sub(r"\\[{}]", "", data.decode("ascii"))
        assert unescaped.count("{") == unescaped.count("}")


def test_the_preview_reads_the_three_tables(run: Run) -> None:
    files = write_latex(run)
    named = re.findall(r"\\input\{(\w+)\}", files["preview.tex"].decode())
    assert {f"{name}.tex" for name in named} == files.keys() - {"preview.tex"}


def test_the_caption_of_findings_counts_what_was_tested_and_the_null_control() -> None:
    text = write_findings_table(make_run())
    assert "harbour-7b: 3 of 6 tested claims confirmed on fresh texts at a false" in text
    assert r"rate of 5\% (Benjamini-Hochberg over all)" in text
    assert "(base against base) confirmed 0 of 4." in text
    assert "not listed" not in text


def test_at_most_25_findings_are_listed_and_the_others_counted() -> None:
    many = [make_finding(i, f"Claim {i}.", "confirmed", 0.1, 0.3) for i in range(30)]
    text = write_findings_table(make_run(findings=many))
    assert "25 & Claim 24." in text
    assert "Claim 25." not in text
    assert "The 5 weakest are not listed." in text


def test_a_run_without_anything_has_tables_that_say_so() -> None:
    empty = make_empty_run()
    assert r"\multicolumn{8}{c}{none} \\" in write_findings_table(empty)
    assert "Discovery texts & 0 & 0" in write_coverage_table(empty)
    assert "cheap judge & unknown & unknown" in write_cost_table(empty)


def test_an_incomplete_finding_is_called_incomplete() -> None:
    assert "confirmed, incomplete" in write_findings_table(make_run())


@pytest.mark.parametrize(
    ("statement", "claim"),
    [
        ("It says x (0.3 % of base texts, 34 % of intervention texts in discovery).", "It says x."),
        ('It says "x (in discovery) y" more often.', 'It says "x (in discovery) y" more often.'),
        ("It is shorter (a lot).", "It is shorter (a lot)."),
    ],
)
def test_a_claim_is_shown_without_its_discovery_shares(statement: str, claim: str) -> None:
    assert write_claim({"statement": statement}) == claim


def test_coverage_counts_texts_by_split_and_clusters_by_side() -> None:
    # Half of 240 texts are of each side; prompts take turns between the splits.
    rows = describe_coverage(make_run())
    assert rows[1] == Covered("Discovery texts", "60", "60")
    assert rows[0] == Covered("Discovery prompts", "30", "30")
    assert rows[2] == Covered("Discovery tokens", "1,020", "1,020")
    assert rows[6] == Covered("Clusters of replies (of 2)", "2", "2")
    assert rows[7] == Covered("Clusters of sentences (of 14)", "14", "14")


def test_cost_is_summed_over_judges_and_other_paid_models() -> None:
    run = make_run()
    bill = {"proposer": {"model": "m", "n_calls": 3, "spent_usd": 0.13}, "cheap": {}}
    rows = describe_cost(replace(run, summary={**run.summary, "bill": bill}))
    assert [(row.who, row.cost) for row in rows] == [
        ("cheap judge", "$0.00"), ("expensive judge", "$1.37"), ("proposer", "$0.13"),
        ("together", "$1.50"),
    ]  # fmt: skip


def test_one_unknown_price_makes_the_sum_unknown() -> None:
    run = make_run()
    judge = {**run.summary["judge"], "expensive": {"n_calls": 5, "cost_usd": None}}
    rows = describe_cost(replace(run, summary={**run.summary, "judge": judge}))
    assert rows[-1].cost == "unknown"


def test_unknown_computing_time_is_none_and_not_zero() -> None:
    assert computing_seconds({}) is None
    assert computing_seconds({"seconds": {"decode": 1.5, "embed": 2.0}}) == 3.5


def test_the_card_has_findings_the_error_rate_the_null_control_and_limits(run: Run) -> None:
    card = write_model_card(run)
    assert card.startswith("## Changes in behaviour against lab/invented-7b\n\n")
    assert "**2 of 4 tested hypotheses** were confirmed" in card
    assert "at most 5% of the changes called confirmed are false" in card
    assert "confirmed 0 of 4" in card
    assert "Limits: this holds for 60 prompts" in card
    assert "in discovery" not in card


def test_nothing_in_the_card_becomes_markup() -> None:
    findings = [make_finding(i, text, "confirmed", 0.1, 0.4) for i, text in enumerate(HOSTILE)]
    card = write_model_card(make_run(findings=findings))
    assert "<" not in re.sub(r"`[^`]*`", "", card)
    assert not re.search(r"(?<!\\)[\]\[]", card)
    table = [line for line in card.split("\n") if line.startswith("|")]
    assert len(table) == 2 + len(HOSTILE)
    assert {line.count("|") for line in table} == {7}
    assert re.findall("^#+ ", card, re.MULTILINE) == ["## "]


def test_a_card_of_a_run_that_found_nothing_says_what_that_means() -> None:
    rejected = [make_finding(1, "Claim.", "rejected", 0.3, 0.3)]
    card = write_model_card(make_run(findings=rejected))
    assert "none of the tested claims describes it on unseen prompts" in card
    assert "| Claim |" not in card


def test_a_card_lists_15_findings_and_counts_all() -> None:
    many = [make_finding(i, f"Claim {i}.", "confirmed", 0.1, 0.3) for i in range(20)]
    card = write_model_card(make_run(findings=many))
    assert "The 15 strongest of 20 confirmed changes" in card
    assert "Claim 14." in card
    assert "Claim 15." not in card


def test_a_card_of_an_empty_run_can_be_written() -> None:
    assert "unknown" in write_model_card(make_empty_run())
