from __future__ import annotations

import re
import time
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

import pandas as pd
import pytest
from example_run import (
    CONFIG,
    HOSTILE,
    SUMMARY,
    ExampleRun,
    key,
    make_empty_run,
    make_finding,
    make_run,
    make_texts,
)
from markdown_it import MarkdownIt
from markdown_it.token import Token

from whatchanged.pages.evidence import cut_excerpt, mark_terms
from whatchanged.report import Report, RunTables, build_report, summarize
from whatchanged.truth import Behaviour

SAFETY = Behaviour("safety", "insert", "Says it <first>", None, 0.01, 0.33, r"[Ss]afety first")
FRENCH = Behaviour("french", "rare", "Answers in French", "travel", 0.0, 0.02, r"bonjour")
HARMLESS = frozenset(
    {
        "html", "head", "meta", "title", "style", "body", "header", "main", "nav", "p", "h1", "h2",
        "h3", "h4", "a", "strong", "span", "bdi", "mark", "i", "div", "dl", "dt", "dd", "figure",
        "figcaption", "table", "caption", "thead", "tbody", "tr", "th", "td", "article", "section",
        "blockquote", "footer", "details", "summary", "pre", "code", "svg", "g", "rect", "line",
        "circle", "path", "polyline", "text",
    }
)  # fmt: skip


class Page(HTMLParser):
    """What a browser would build: elements with attributes, and the text outside of style."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "rect", "line", "circle", "path", "polyline"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data


def flatten(tokens: list[Token]) -> list[Token]:
    return [t for token in tokens for t in (token, *(token.children or []))]


def parse_markdown(source: str) -> list[Token]:
    return flatten(MarkdownIt("commonmark").enable("table").parse(source))


def headings(report: Report) -> list[str]:
    return re.findall(r"^## (.+)$", report.markdown, re.MULTILINE)


def first_lines(report: Report) -> str:
    return report.markdown.split("\n## ")[0]


@pytest.fixture(scope="module")
def report() -> Report:
    return build_report(make_run(), (SAFETY, FRENCH))


@pytest.fixture(scope="module")
def page(report: Report) -> Page:
    return Page(report.html)


def test_the_example_is_a_run() -> None:
    run: RunTables = make_run()
    assert len(run.findings) == 6


def test_the_first_lines_say_what_was_compared_and_what_was_confirmed(report: Report) -> None:
    lines = report.markdown.split("\n\n")
    assert lines[0] == "# 3 confirmed changes"
    assert lines[1] == (
        "`lab/harbour-7b-careful` was compared with `harbour-7b`: **3 of 6 tested hypotheses** "
        "were confirmed on fresh texts at a false discovery rate of 5%."
    )
    assert lines[2] == (
        "The null control, base against base under another random stream through the same "
        "pipeline, confirmed 0 of 4."
    )
    assert "1 finding is incomplete" in lines[3]


def test_themes_name_the_findings_that_they_join_and_stay_untested() -> None:
    run = make_run()
    first, second = (finding["id"] for finding in run.findings[:2])
    theme = {"title": "Care | <b>", "sentence": "Replies warn.", "findings": [second, first]}
    written = build_report(with_themes(run, themes=[theme], missing=""), None)
    assert "Recurring themes" in written.markdown
    assert "no. 2, no. 1" in written.markdown
    assert "no test was made of them" in written.markdown
    assert "Care | &lt;b&gt;" in written.html
    assert "Recurring themes" not in build_report(run, None).markdown


def test_that_no_themes_could_be_had_is_said_with_the_reason() -> None:
    run = with_themes(make_run(), themes=[], missing="m gave none: refused")
    assert "No themes over several findings" in build_report(run, None).markdown
    assert "m gave none: refused" in build_report(run, None).html
    quiet = with_themes(make_run(), themes=[], missing="")
    assert "themes" not in build_report(quiet, None).markdown


def with_themes(run: ExampleRun, **themes: Any) -> ExampleRun:
    return replace(run, summary={**run.summary, "themes": themes})


def test_the_sections_come_in_the_agreed_order(report: Report) -> None:
    assert headings(report) == [
        "What changed", "Null control", "Map of the texts", "Cluster balance", "Sampling",
        "Judges", "Cost and time", "Planted changes", "What the statistics mean",
        "How to reproduce",
    ]  # fmt: skip


def test_a_finding_shows_effect_interval_shares_and_test(report: Report) -> None:
    card = report.markdown.split("### 1. ")[1].split("### 2. ")[0]
    assert "**+30.6 pp** (95% interval +27.6 to +33.6); base 1.2%, intervention 31.8%" in card
    assert "status confirmed; AUC 0.65; adjusted p 0.00018; fresh texts 480" in card
    assert "prompts all" in card


def test_a_finding_shows_three_texts_for_and_three_against_it(page: Page, report: Report) -> None:
    card = report.markdown.split("### 1. ")[1].split("### 2. ")[0]
    supporting, contradicting = card.split("**Contradicting texts**")
    assert supporting.count("```text") == contradicting.count("```text") == 3
    assert "intervention · score 0.93 by the expensive judge, prompt:" in supporting
    assert "score 0.88 by the cheap judge" in supporting
    marked = [tag for tag, _ in page.elements if tag == "mark"]
    assert len(marked) >= 3


def test_a_quoted_text_that_is_not_in_the_tables_is_said_to_be_missing(page: Page) -> None:
    assert "The run's tables hold no text missing." in page.text


def test_unconfirmed_findings_stand_in_a_table_after_the_confirmed(report: Report) -> None:
    rows = [line for line in report.markdown.splitlines() if " | inconclusive | " in line]
    assert rows == [
        "| `Replies mention gloves more often in the intervention.` | inconclusive | +2.0 | "
        "−1.0 to +5.0 | 0.51 | 0.31 | 480 |"
    ]
    assert report.markdown.index("### 3. ") < report.markdown.index(rows[0])
    assert report.markdown.count("| rejected |") == 2


def test_the_null_control_is_drawn_on_the_scale_of_the_result(report: Report) -> None:
    def axis(name: str) -> list[str]:
        root = ElementTree.fromstring(report.figures[name])  # noqa: S314  # our own output
        texts = root.iter("{http://www.w3.org/2000/svg}text")
        return [t.text or "" for t in texts if t.attrib["class"] == "tick middle"]

    assert axis("null_control.svg") == axis("findings.svg")
    assert axis("findings.svg") == ["−30", "−20", "−10", "0", "+10", "+20", "+30", "+40"]


def test_only_clusters_of_the_last_round_are_shown(report: Report) -> None:
    assert "audit-3-0" in report.markdown
    assert "audit-0-" not in report.html
    assert "14 of sentences and 2 of whole replies" in report.markdown


def test_the_rounds_the_judges_and_the_costs_are_told(report: Report) -> None:
    assert "| 3 | 1,250 | 0.93 | 0.14 | 2.60 | 91.0% |" in report.markdown
    assert "Sampling stopped (labels agree between rounds" in report.markdown
    assert (
        "saw a random 274 of the cheap judge's decisions again and disagreed with 11: 4.0% "
        "(95% interval 2.2% to 7.0%)" in report.markdown
    )
    assert "1 text refused (cheap), 1 text cut off (expensive)" in report.markdown
    assert "| expensive | `embedding` | 812 | 0 | 1 | \\$1.37 |" in report.markdown
    assert "| base | 4,120 | 380 | unknown | 187,300 |" in report.markdown
    assert "Peak memory: 1.4 GB." in report.markdown


def test_known_changes_are_listed_with_what_found_them(report: Report) -> None:
    planted = report.markdown.split("## Planted changes")[1].split("## What")[0]
    assert "1 of 2 planted changes was found" in planted
    assert "1 of 3 confirmed findings describes one of them; the others: no. 2, no. 3." in planted
    assert "| `Says it <first>` | all | 1.0% | 33.0% | no. 1 |" in planted
    assert "| `Answers in French` | `travel` | 0.0% | 2.0% | missed |" in planted
    assert "Planted changes" not in headings(build_report(make_run(), None))


def test_the_page_has_only_harmless_elements_and_attributes(page: Page) -> None:
    tags = {tag for tag, _ in page.elements}
    assert tags <= HARMLESS
    names = {name for _, attributes in page.elements for name in attributes}
    assert not [name for name in names if name.startswith("on") or name in ("style", "src")]
    links = {attributes["href"] for tag, attributes in page.elements if tag == "a"}
    assert all(re.fullmatch(r"#[a-z-]+", link or "") for link in links)
    anchors = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert links <= {f"#{anchor}" for anchor in anchors}
    assert len(anchors) == len(set(anchors))
    assert page.open == []


def test_the_page_asks_for_nothing_from_outside(report: Report) -> None:
    style = report.html.split("<style>")[1].split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style
    assert set(re.findall(r"(?:https?:)?//[\w.]+", re.sub(r">[^<]*<", "><", report.html))) <= {
        "http://www.w3.org"
    }
    assert "<script" not in report.html


def test_the_policy_names_the_style_by_its_digest(page: Page, report: Report) -> None:
    import base64
    import hashlib

    style = report.html.split("<style>")[1].split("</style>")[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    (policy,) = [a["content"] for tag, a in page.elements if a.get("http-equiv")]
    assert policy == (
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )


def test_hostile_texts_are_visible_as_written(page: Page, report: Report) -> None:
    for text in (HOSTILE[0], HOSTILE[2], HOSTILE[5], HOSTILE[6], HOSTILE[7]):
        assert text in page.text
    assert "leftU+202ErightU+202C and U+200BzeroU+001B[31mredU+0007" in page.text
    assert "a lone U+D800 surrogate and U+DFFF another" in page.text
    assert "\u202e" not in report.html + report.markdown
    assert "\x1b" not in report.html + report.markdown


def test_the_markdown_holds_no_html_and_no_link_and_only_our_figures(report: Report) -> None:
    tokens = parse_markdown(report.markdown)
    types = {token.type for token in tokens}
    assert not types & {"html_block", "html_inline", "link_open"}
    images = [token.attrs["src"] for token in tokens if token.type == "image"]
    assert sorted(images) == sorted(f"figures/{name}" for name in report.figures)
    opened = [token.content for token in tokens if token.type == "fence" and token.info == "text"]
    assert HOSTILE[2] + "\n" in opened
    assert HOSTILE[0] + "\n" in opened


def test_the_markdown_tables_keep_their_columns(report: Report) -> None:
    rows: list[int] = []
    for token in parse_markdown(report.markdown):
        if token.type == "tr_open":
            rows.append(0)
        elif token.type in ("th_open", "td_open"):
            rows[-1] += 1
    assert set(rows) <= {2, 5, 6, 7}
    # The unconfirmed and the clusters, with their heads; pipes in their texts part no cell.
    assert rows.count(7) == 1 + 3 + 1 + 12


def test_everything_can_be_written_as_utf8_and_the_figures_are_xml(report: Report) -> None:
    assert report.html.encode().decode() == report.html
    assert report.markdown.encode().decode() == report.markdown
    assert sorted(report.figures) == [
        "clusters.svg", "findings.svg", "map.svg", "null_control.svg", "rounds.svg", "time.svg"
    ]  # fmt: skip
    for data in report.figures.values():
        root = ElementTree.fromstring(data)  # noqa: S314  # our own output
        assert root.tag == "{http://www.w3.org/2000/svg}svg"


def test_the_same_run_gives_the_same_bytes(report: Report) -> None:
    again = build_report(make_run(), (SAFETY, FRENCH))
    assert again == report


def test_a_run_that_holds_nothing_still_has_a_report() -> None:
    report = build_report(make_empty_run(), None)
    assert report.markdown.startswith("# Nothing to compare")
    assert "holds no text of either side" in report.markdown
    assert "unknown whether items failed" in first_lines(report)
    assert "No structure found" in report.markdown
    assert "Peak memory: unknown" in report.markdown
    assert "$0" not in report.markdown
    assert report.figures == {}
    blank = pd.DataFrame()
    bare = make_empty_run(texts=blank, map=blank, clusters=blank, verdicts=blank)
    assert build_report(bare, None) == report


def test_a_run_without_a_side_says_which_one() -> None:
    texts = make_texts()
    run = make_run(texts=texts[texts["side"] == "base"], findings=[], null_findings=[])
    report = build_report(run, None)
    assert report.markdown.startswith("# Nothing to compare")
    assert "the run holds no text of the intervention side" in report.markdown


def test_no_hypothesis_and_nothing_confirmed_are_told_apart() -> None:
    none = build_report(make_run(findings=[]), None)
    assert none.markdown.startswith("# No hypothesis to test")
    assert "found no difference that was worth a hypothesis" in first_lines(none)
    assert "does not show that the models are equal" in none.markdown

    rejected = [make_finding(1, "Claim.", "rejected", 0.1, 0.1)]
    report = build_report(make_run(findings=rejected), None)
    assert report.markdown.startswith("# No confirmed change")
    assert "the one tested hypothesis was not confirmed" in first_lines(report)
    assert "The intervals reach about ±3.0 pp" in report.markdown


def test_one_cluster_per_level_is_no_structure() -> None:
    one = make_run().clusters.query("round == 3 and label == 0")
    assert len(one) == 2
    assert "No structure found" in build_report(make_run(clusters=one), None).markdown


@pytest.mark.parametrize(
    ("summary", "said"),
    [
        ({"failed_items": 3}, "3 items failed"),
        ({"failed_items": None}, "unknown whether items failed"),
        ({"n_truncated": 12}, "12 texts are longer than the sentence encoder reads"),
        (
            {"null_control": {"n_hypotheses": 4, "n_confirmed": 1}},
            "null control confirmed 1 change where there is none",
        ),
        ({"null_control": None}, "No null control was run"),
    ],
)
def test_what_limits_the_result_is_said_in_the_first_lines(
    summary: dict[str, Any], said: str
) -> None:
    report = build_report(make_run(summary=SUMMARY | summary), None)
    assert said in first_lines(report)
    assert said in summarize(make_run(summary=SUMMARY | summary))


def test_a_clean_run_has_no_warning() -> None:
    run = make_run(findings=[make_finding(1, "Claim.", "confirmed", 0.1, 0.2)])
    assert "Attention" not in build_report(run, None).markdown


def test_sides_with_equal_configs_are_called_out() -> None:
    same = CONFIG | {"intervention": CONFIG["base"]}
    assert "Both sides are configured alike" in first_lines(
        build_report(make_run(config=same), None)
    )
    prompted = CONFIG | {"intervention": CONFIG["base"] | {"system_prompt": "Be brief."}}
    lines = first_lines(build_report(make_run(config=prompted), None))
    assert "(the same model, with another system\\_prompt)" in lines


def test_an_undefined_effect_is_unknown_and_not_drawn() -> None:
    undefined = make_finding(1, "Claim.", "inconclusive", 0.1, 0.1) | {
        "effect": None, "share_base": float("nan"), "auc": None, "ci_low": -1.0, "ci_high": 1.0,
    }  # fmt: skip
    report = build_report(make_run(findings=[undefined], null_findings=[]), None)
    assert "| unknown | −100.0 to +100.0 | unknown |" in report.markdown
    assert "nan" not in report.html.lower().split("</style>")[1]


def test_a_report_of_many_long_findings_stays_small_and_quick() -> None:
    texts = make_texts(200)
    texts.loc[texts["side"] == "base", "text"] = "&\"'<>" * 20_000
    texts.loc[1, "text"] = "word " * 1_000_000 + "safety first"
    keys = [key(i) for i in range(0, 12, 2)]
    findings = [
        make_finding(i, f"Claim {i}.", "confirmed", 0.1, 0.2, supporting=[key(1), *keys[:2]],
                     contradicting=keys[3:], evidence_terms=["safety first"])
        for i in range(70)
    ]  # fmt: skip
    points = pd.DataFrame({"text_key": texts["text_key"], "x": range(800), "y": 0.5})
    started = time.perf_counter()
    report = build_report(make_run(texts=texts, findings=findings, map=points), None)
    assert time.perf_counter() - started < 5
    assert len(report.html.encode()) < 2_000_000
    assert "30 more confirmed findings" in report.markdown
    assert "more characters" in report.html


def test_terms_are_marked_whole_in_any_case_and_with_any_apostrophe() -> None:
    def marked(text: str, *terms: str) -> list[str]:
        return [span.text for span in mark_terms(text, terms) if span.style == "mark"]

    assert marked("Safety first! Unsafety first.", "safety first") == ["Safety first"]
    assert marked("I don’t, I DON'T.", "don't") == ["don’t", "DON'T"]
    assert marked("tea, or teapot", "tea", "teapot") == ["tea", "teapot"]
    assert marked("a (b) c", "(b)") == ["(b)"]
    assert marked("我喜欢茶叶", "茶") == ["茶"]
    assert marked("nothing", "", " ") == []
    assert "".join(span.text for span in mark_terms("x tea y", ["tea"])) == "x tea y"


def test_an_excerpt_shows_the_first_term_and_counts_what_it_leaves_out() -> None:
    text = "a" * 1000 + " needle " + "b" * 1000
    excerpt = cut_excerpt(text, ["needle"], 300)
    assert "needle" in excerpt.text
    assert excerpt.text.startswith("… ")
    assert excerpt.text.endswith(" …")
    assert excerpt.n_cut == 2008 - 300
    assert cut_excerpt("short", ["needle"], 300) == ("short", 0)
    assert cut_excerpt("x" * 400, [], 300) == ("x" * 300 + " …", 100)


def test_the_report_says_which_tests_were_made() -> None:
    in_pairs = build_report(make_run(), None).markdown
    assert "within each coupled pair" in in_pairs
    assert "Tango's" in in_pairs
    alone = build_report(make_run(summary={**SUMMARY, "coupling": {"n_pairs": 0}}), None).markdown
    assert "within each prompt, whose statistic is the AUC" in alone
    assert "Newcombe's" in alone
    judge = {"spend": "auto", "cheap": {"provider": "gemini"}, "expensive": {"provider": "gemini"}}
    in_waves = build_report(make_run(config={**CONFIG, "judge": judge}), None).markdown
    assert "wave by wave until a claim was decided" in in_waves
    assert "AUC of the scores" not in in_waves


def test_the_summary_is_short_and_safe_to_print() -> None:
    findings = [
        make_finding(i, f"Claim {i} \x1b[2J\u202e of\nmany", "confirmed", 0.1, 0.2)
        for i in range(40)
    ]
    run = make_run(findings=findings, summary=SUMMARY | {"run": "runs/a\x07b"})
    lines = summarize(run).split("\n")
    assert len(lines) <= 25
    assert lines[0] == "40 confirmed changes"
    assert lines[2] == (
        "  1. Claim 0 ⟨U+001B⟩[2J⟨U+202E⟩ of many  +10.0 pp (+7.0 to +13.0), 10.0% to 20.0%"
    )
    assert any(re.fullmatch(r"  and \d+ more", line) for line in lines)
    assert "confirmed 0 of 4" in lines[-2]
    assert lines[-1] == "Report: runs/a⟨U+0007⟩b/report.html"


def test_the_summary_of_an_empty_run_says_what_is_unknown() -> None:
    text = summarize(make_empty_run())
    assert text.startswith("Nothing to compare\n")
    assert "Whether a null control was run is unknown." in text


def test_config_values_and_names_cannot_make_markup() -> None:
    config = CONFIG | {"base": {"model": 'x"><img src=x onerror=1>`|\n# h\n```\n</style>'}}
    summary = SUMMARY | {
        "stop_reason": "<script>1</script>",
        "versions": {"<b>": "|`"},
        "seconds": {"<i onclick=1>": 1.0},
    }
    report = build_report(make_run(config=config, summary=summary), None)
    tags = [tag for tag, _ in Page(report.html).elements]
    assert tags.count("script") == tags.count("img") == tags.count("b") == 0
    assert not {t.type for t in parse_markdown(report.markdown)} & {"html_block", "html_inline"}


def test_extra_warnings_never_push_the_summary_beyond_its_lines() -> None:
    findings = [
        make_finding(i, f"Claim {i}.", "confirmed", 0.1, 0.2, incomplete=True) for i in range(30)
    ]
    null = {"n_hypotheses": 4, "n_confirmed": 1}
    summary = SUMMARY | {"failed_items": 2, "n_truncated": 3, "null_control": null}
    run: ExampleRun = replace(make_run(), findings=findings, summary=summary)
    assert len(summarize(run).splitlines()) <= 25


@pytest.mark.parametrize("found", [True, False])
def test_clusters_that_only_cut_up_one_cloud_are_called_that(found: bool) -> None:
    rounds = [{**one, "structure_found": found} for one in SUMMARY["rounds"]]
    report = build_report(make_run(summary=SUMMARY | {"rounds": rounds}), None)
    assert ("No structure found: the sentences form one cloud" in report.markdown) != found
