"""One escape function per place that text is written to: page, attribute, Markdown, terminal.

Model output, prompts and config values are untrusted. Nothing here changes what a text says:
characters that a reader cannot see (controls, marks that reorder text, zero-width marks, lone
surrogates) are written out by their code point, and everything else is escaped for its place.
"""

from __future__ import annotations

import html
import re
import unicodedata
from functools import lru_cache
from itertools import groupby
from typing import NamedTuple

_JOINERS = "\u200c\u200d"
# Format characters (Cf) that have a shape of their own.
_VISIBLE_FORMATS = frozenset("\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u08e2\U000110bd")
_MARKDOWN = str.maketrans(
    {
        **{sign: f"\\{sign}" for sign in "\\`*_[]~$#"},
        "&": "&amp;", "<": "&lt;", ">": "&gt;", "|": "&#124;", "@": "&#64;",
        "\n": " ", "\t": " ",
    }
)  # fmt: skip
_BLOCK_OPENER = re.compile(r"^(\s*)(?=[-+=])")
_NUMBERED = re.compile(r"^(\s*\d+)([.)])(?=\s|$)")


class Piece(NamedTuple):
    """Part of a text: as it is, or the name of characters that cannot be seen."""

    text: str
    hidden: bool


def split_hidden(text: str) -> list[Piece]:
    """The text in pieces; hidden characters become names such as `U+202E` (`U+200B ×3` for three).

    Newlines and tabs stay. A zero-width joiner between characters beyond ASCII stays too: emoji and
    several scripts are spelled with it.
    """
    pieces: list[Piece] = []
    marked = ((char, _is_hidden_at(text, i)) for i, char in enumerate(text))
    for hidden, group in groupby(marked, key=lambda pair: pair[1]):
        run = "".join(char for char, _ in group)
        if not hidden:
            pieces.append(Piece(run, hidden=False))
            continue
        for char, same in groupby(run):
            count = sum(1 for _ in same)
            name = f"U+{ord(char):04X}" + (f" ×{count}" if count > 1 else "")
            pieces.append(Piece(name, hidden=True))
    return pieces


def show_hidden(text: str) -> str:
    """The text with every hidden character written as `⟨U+202E⟩`; always valid Unicode."""
    return "".join(f"⟨{p.text}⟩" if p.hidden else p.text for p in split_hidden(text))


def for_page(text: str) -> str:
    """HTML for a text node; hidden characters stand in `<i class="hidden">`."""
    return "".join(
        f'<i class="hidden">{piece.text}</i>' if piece.hidden else html.escape(piece.text)
        for piece in split_hidden(text)
    )


def for_attribute(text: str) -> str:
    """The inside of a double-quoted HTML or SVG attribute, or the text of an SVG node."""
    return html.escape(show_hidden(text), quote=True)


def for_markdown(text: str) -> str:
    """Markdown that shows the text on one line: no markup, link, mention, formula or HTML in it."""
    escaped = show_hidden(text).translate(_MARKDOWN).replace("://", "&#58;//")
    escaped = re.sub(r"(www)\.", r"\1&#46;", escaped, flags=re.IGNORECASE)
    return escaped.replace("![", "&#33;[")


def for_line_start(markdown: str) -> str:
    """Escaped Markdown that opens no list, heading or rule at the start of a line."""
    return _NUMBERED.sub(r"\1\\\2", _BLOCK_OPENER.sub(r"\1\\", markdown))


def code_span(text: str, *, in_table: bool = False) -> str:
    """A Markdown code span with the text on one line; newlines are shown as `↵`.

    A blank text is the word (empty), without code.
    """
    shown = show_hidden(text)
    if not shown.strip():
        return "(empty)"
    line = shown.replace("\n", "↵ ").replace("\t", " ")
    if in_table:
        line = line.replace("|", "\\|")
    fence = "`" * (_longest_run(line) + 1)
    pad = " " if line[0] in "` " or line[-1] in "` " else ""
    return f"{fence}{pad}{line}{pad}{fence}"


def code_block(text: str, language: str = "text") -> str:
    """A fenced Markdown block whose fence is longer than any run of backticks in the text."""
    body = show_hidden(text)
    fence = "`" * max(3, _longest_run(body) + 1)
    return f"{fence}{language}\n{body}\n{fence}"


def for_terminal(text: str) -> str:
    """The text on one line, with nothing in it that a terminal would obey."""
    return " ".join(show_hidden(text).split())


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)


def _is_hidden_at(text: str, index: int) -> bool:
    char = text[index]
    if char in _JOINERS:
        before, after = text[index - 1 : index], text[index + 1 : index + 2]
        return not (before > "\x7f" and after > "\x7f")
    return _is_hidden(char)


@lru_cache(maxsize=4096)
def _is_hidden(char: str) -> bool:
    if char in "\n\t" or char in _VISIBLE_FORMATS:
        return False
    point = ord(char)
    is_noncharacter = (point & 0xFFFE) == 0xFFFE or 0xFDD0 <= point <= 0xFDEF
    is_variation = 0xE0100 <= point <= 0xE01EF
    in_category = unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp")
    return in_category or is_noncharacter or is_variation
