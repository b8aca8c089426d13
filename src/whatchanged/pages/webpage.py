"""A document as one self-contained HTML file: no script, no request, every value escaped.

The page's policy allows nothing but its own style, named by digest; a tag or an attribute that got
through the escaping would still load and run nothing.
"""

from __future__ import annotations

import base64
from functools import cache
from importlib.resources import files

from whatchanged.escape import for_attribute, for_page
from whatchanged.figures import Figure
from whatchanged.keys import bytes_digest
from whatchanged.pages.document import (
    Block,
    Callout,
    Card,
    Details,
    Document,
    Heading,
    Line,
    Listing,
    Paragraph,
    Picture,
    Quote,
    QuoteColumn,
    Span,
    Table,
    Tiles,
)

_NOTHING = '<p class="none">None among the fresh texts.</p>'
_TAGS = {"strong": "strong", "mark": "mark"}


def write_webpage(document: Document) -> str:
    """The whole HTML file, encodable as UTF-8."""
    style = _read_style("figure.css") + _read_style("page.css")
    digest = base64.b64encode(bytes.fromhex(bytes_digest(style.encode()))).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    body = "\n".join(_block(block) for block in _with_contents(document))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="referrer" content="no-referrer">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{for_attribute(document.title)}</title>
<style>{style}</style>
</head>
<body>
<header>
<p class="eyebrow">whatchanged · audit report</p>
<h1>{for_page(document.verdict)}</h1>
</header>
<main>
{body}
</main>
</body>
</html>
"""


def write_figure_file(figure: Figure) -> bytes:
    """The figure as an SVG file of its own, on paper of its own in light and dark."""
    return f"{figure.standalone(_read_style('figure.css'))}\n".encode()


def _with_contents(document: Document) -> list[Block | str]:
    headings = [block for block in document.blocks if isinstance(block, Heading)]
    links = "".join(
        f'<a href="#{for_attribute(h.anchor)}">{for_page(h.text)}</a> ' for h in headings
    )
    contents = f'<nav aria-label="Contents">{links}</nav>'
    blocks: list[Block | str] = list(document.blocks)
    if headings:
        blocks.insert(document.blocks.index(headings[0]), contents)
    return blocks


def _block(block: Block | str) -> str:
    match block:
        case str():
            return block
        case Heading(text, anchor):
            return f'<h2 id="{for_attribute(anchor)}">{for_page(text)}</h2>'
        case Paragraph():
            return _paragraph(block)
        case Callout(tone, lines):
            inner = "".join(f"<p>{_line(one)}</p>" for one in lines)
            return f'<div class="callout {tone}" role="note">{inner}</div>'
        case Tiles(tiles):
            inner = "".join(
                f"<div><dt>{for_page(label)}</dt><dd>{for_page(value)}</dd></div>"
                for value, label in tiles
            )
            return f'<dl class="tiles">{inner}</dl>'
        case Table():
            return _table(block)
        case Picture(figure, caption):
            return (
                f'<figure><div class="scroll">{figure.svg}</div>'
                f"<figcaption>{_line(caption)}</figcaption></figure>"
            )
        case Card():
            return _card(block)
        case Listing(text, _):
            return f"<pre><code>{for_page(text)}</code></pre>"
        case Details(summary, blocks, is_open):
            tag = "details open" if is_open else "details"
            inner = "\n".join(_block(inner) for inner in blocks)
            return f"<{tag}><summary>{for_page(summary)}</summary>\n{inner}\n</details>"


def _paragraph(paragraph: Paragraph) -> str:
    tone = "" if paragraph.tone == "plain" else f' class="{paragraph.tone}"'
    return f"<p{tone}>{_line(paragraph.line)}</p>"


def _table(table: Table) -> str:
    marks = [' class="n"' if column.numeric else "" for column in table.columns]
    head = "".join(
        f'<th scope="col"{mark}>{for_page(column.name)}</th>'
        for mark, column in zip(marks, table.columns, strict=True)
    )
    rows = "\n".join(
        "<tr>"
        + "".join(f"<td{mark}>{_line(cell)}</td>" for mark, cell in zip(marks, row, strict=True))
        + "</tr>"
        for row in table.rows
    )
    return (
        f'<div class="wrap"><table><caption>{for_page(table.caption)}</caption>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>"
    )


def _card(card: Card) -> str:
    facts = "".join(
        f"<div{_wide(value)}><dt>{for_page(label)}</dt><dd>{_line(value)}</dd></div>"
        for label, value in card.facts
    )
    evidence = "".join(_quote_column(column) for column in card.evidence)
    return (
        f'<article class="card" id="{for_attribute(card.anchor)}">\n'
        f'<header><span class="number">{card.number}</span>'
        f'<h3 dir="auto">{for_page(card.title)}</h3></header>\n'
        f'<div class="effect"><div><strong>{for_page(card.effect)}</strong>'
        f"<span>{for_page(card.interval)}</span></div>{card.shares.svg}</div>\n"
        f'<dl class="facts">{facts}</dl>\n<div class="evidence">{evidence}</div>\n</article>'
    )


def _wide(value: Line) -> str:
    return ' class="wide"' if any(span.style == "data" for span in value) else ""


def _quote_column(column: QuoteColumn) -> str:
    quotes = "".join(_quote(quote) for quote in column.quotes)
    return f"<section><h4>{for_page(column.title)}</h4>{quotes or _NOTHING}</section>"


def _quote(quote: Quote) -> str:
    side = quote.side or "unknown"
    cut = f" · {quote.cut:,} more characters" if quote.cut else ""
    return (
        f'<blockquote class="{side}"><p class="prompt" dir="auto">{for_page(quote.prompt)}</p>'
        f'<p class="body" dir="auto">{_line(quote.body)}</p>'
        f'<footer><span class="side {side}">{side}</span>'
        f"{for_page(quote.note)}{cut}</footer></blockquote>"
    )


def _line(spans: Line) -> str:
    return "".join(_span(span) for span in spans)


def _span(span: Span) -> str:
    text = for_page(span.text)
    if span.style == "plain":
        return text
    if span.style == "data":
        return f'<bdi class="data">{text}</bdi>'
    if span.style == "quiet":
        return f'<span class="quiet">{text}</span>'
    tag = _TAGS[span.style]
    return f"<{tag}>{text}</{tag}>"


@cache
def _read_style(name: str) -> str:
    return (files("whatchanged.pages") / name).read_text(encoding="utf-8")
