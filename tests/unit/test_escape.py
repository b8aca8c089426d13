from __future__ import annotations

from html.parser import HTMLParser

import pytest
from example_run import HOSTILE
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from whatchanged.escape import (
    code_block,
    code_span,
    for_attribute,
    for_line_start,
    for_markdown,
    for_page,
    for_terminal,
    show_hidden,
    split_hidden,
)

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=60)
MARKUP_TEXT = st.text(st.sampled_from("`|\\*_[]()<>!#&;:/w.@$~\n a1-+="), max_size=40)


class Elements(HTMLParser):
    """Collects what a browser would see: tags, and the text between them."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def parse_html(source: str) -> Elements:
    elements = Elements()
    elements.feed(source)
    elements.close()
    return elements


def token_types(markdown: str) -> set[str]:
    tokens = MarkdownIt("commonmark").enable("table").parse(markdown)
    return {t.type for token in tokens for t in (token, *(token.children or []))}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("a\nb\tc", "a\nb\tc"),
        ("left\u202eright", "left⟨U+202E⟩right"),
        ("\x1b[31m", "⟨U+001B⟩[31m"),
        ("a\u200b\u200b\u200bb", "a⟨U+200B ×3⟩b"),
        ("\ud800", "⟨U+D800⟩"),
        ("a\u2028b", "a⟨U+2028⟩b"),
        ("x\u200dy", "x⟨U+200D⟩y"),
        ("👩\u200d🔬", "👩\u200d🔬"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("\U000e0041", "⟨U+E0041⟩"),
        ("\ufffe", "⟨U+FFFE⟩"),
        ("", ""),
    ],
)
def test_what_cannot_be_seen_is_named(text: str, shown: str) -> None:
    assert show_hidden(text) == shown


def test_pieces_follow_the_text() -> None:
    assert split_hidden("a\x00\x00b") == [("a", False), ("U+0000 ×2", True), ("b", False)]


@given(ANY_TEXT)
def test_every_text_can_be_written_as_utf8(text: str) -> None:
    for written in (for_page(text), for_attribute(text), for_markdown(text), code_span(text),
                    code_block(text), for_terminal(text)):  # fmt: skip
        assert written.encode("utf-8").decode("utf-8") == written


@given(st.one_of(ANY_TEXT, MARKUP_TEXT))
@example("<b>&lt;</b>")
def test_a_page_holds_the_text_and_no_tag_of_its_own(text: str) -> None:
    elements = parse_html(f"<p>{for_page(text)}</p>")
    assert {tag for tag, _ in elements.tags} <= {"p", "i"}
    expected = "".join(piece.text for piece in split_hidden(text))
    assert elements.text == expected


@given(st.one_of(ANY_TEXT, MARKUP_TEXT))
@example('" onclick="alert(1)')
def test_an_attribute_holds_the_text_and_stays_one_attribute(text: str) -> None:
    ((_, attributes),) = parse_html(f'<p title="{for_attribute(text)}">').tags
    assert attributes == {"title": show_hidden(text)}


@given(st.one_of(ANY_TEXT, MARKUP_TEXT))
def test_escaped_markdown_makes_no_markup(text: str) -> None:
    types = token_types(f"Claim: {for_markdown(text)}")
    assert types <= {"paragraph_open", "paragraph_close", "inline", "text", "text_special"}


@given(MARKUP_TEXT)
def test_escaped_markdown_makes_no_block_at_the_start_of_a_line(text: str) -> None:
    types = token_types(for_line_start(for_markdown(text.strip())))
    assert types <= {"paragraph_open", "paragraph_close", "inline", "text", "text_special"}


@given(MARKUP_TEXT.filter(str.strip))
def test_a_code_span_is_one_span_that_holds_the_text(text: str) -> None:
    (_, inline, _) = MarkdownIt("commonmark").parse(f"x {code_span(text)}")
    first, *spans = inline.children or []
    assert first.content == "x "
    assert [span.type for span in spans] == ["code_inline"]
    assert spans[0].content == text.replace("\n", "↵ ")


@given(MARKUP_TEXT.filter(str.strip))
def test_a_code_span_in_a_table_stays_in_its_cell(text: str) -> None:
    table = f"| a | b |\n| --- | --- |\n| {code_span(text, in_table=True)} | end |"
    tokens = MarkdownIt("commonmark").enable("table").parse(table)
    cells = [token.children or [] for token in tokens if token.type == "inline"]
    assert len(cells) == 4
    assert [token.type for token in cells[2]] == ["code_inline"]
    assert cells[3][0].content == "end"


@given(st.one_of(MARKUP_TEXT, st.sampled_from(HOSTILE)))
def test_a_code_block_ends_only_at_its_own_fence(text: str) -> None:
    tokens = MarkdownIt("commonmark").parse(code_block(text) + "\n\nafter")
    assert tokens[0].type == "fence"
    assert tokens[0].content == show_hidden(text) + "\n"
    assert tokens[2].content == "after"


@pytest.mark.parametrize("text", ["", " ", "\n\t"])
def test_an_empty_code_span_says_so(text: str) -> None:
    assert code_span(text) == "(empty)"


@given(ANY_TEXT)
def test_a_terminal_gets_one_line_without_controls(text: str) -> None:
    line = for_terminal(text)
    assert "\n" not in line
    assert [char for char in line if ord(char) < 0x20 or 0x7F <= ord(char) < 0xA0] == []
    assert not set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069") & set(line)


def test_links_and_mentions_are_no_longer_any() -> None:
    assert for_markdown("see www.a.org or https://a.org, @you") == (
        "see www&#46;a.org or https&#58;//a.org, &#64;you"
    )
