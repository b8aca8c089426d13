"""A document as Markdown that any viewer renders: no raw HTML, and no markup made by the texts.

What a model, a user or a config wrote stands in code spans and fenced blocks.
"""

from __future__ import annotations

from whatchanged.escape import code_block, code_span, for_line_start, for_markdown
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
    Span,
    Table,
    Tiles,
)


def write_markdown(document: Document) -> str:
    """The whole Markdown file, encodable as UTF-8; figures are links to `figures/NAME.svg`."""
    blocks = [f"# {for_markdown(document.verdict)}", *(_block(b) for b in document.blocks)]
    return "\n\n".join(blocks) + "\n"


def _block(block: Block) -> str:
    match block:
        case Heading(text, _):
            return f"## {for_markdown(text)}"
        case Paragraph(spans, _):
            return for_line_start(_line(spans))
        case Callout(tone, lines):
            first = "**Note.** " if tone == "note" else "**Attention.** "
            inner = [f"> {first if i == 0 else ''}{_line(one)}" for i, one in enumerate(lines)]
            return "\n>\n".join(inner)
        case Tiles(tiles):
            head = "| " + " | ".join(for_markdown(label) for _, label in tiles) + " |"
            rule = "| " + " | ".join("---:" for _ in tiles) + " |"
            values = "| " + " | ".join(for_markdown(value) for value, _ in tiles) + " |"
            return "\n".join((head, rule, values))
        case Table():
            return _table(block)
        case Picture(figure, caption):
            alt = for_markdown(figure.alt)
            return f"![{alt}](figures/{figure.name}.svg)\n\n{for_line_start(_line(caption))}"
        case Card():
            return _card(block)
        case Listing(text, language):
            return code_block(text, language)
        case Details(summary, blocks, _):
            return "\n\n".join([f"**{for_markdown(summary)}**", *(_block(b) for b in blocks)])


def _table(table: Table) -> str:
    head = "| " + " | ".join(for_markdown(column.name) for column in table.columns) + " |"
    rule = "| " + " | ".join("---:" if c.numeric else "---" for c in table.columns) + " |"
    rows = [
        "| " + " | ".join(_line(cell, in_table=True) for cell in row) + " |" for row in table.rows
    ]
    return "\n".join((f"*{for_markdown(table.caption)}*", "", head, rule, *rows))


def _card(card: Card) -> str:
    facts = "; ".join(f"{for_markdown(label)} {_line(value)}" for label, value in card.facts)
    interval, shares = for_markdown(card.interval), for_markdown(card.shares.alt)
    parts = [
        f"### {card.number}. {for_markdown(card.title)}",
        f"**{for_markdown(card.effect)}** ({interval}); {shares}",
        for_line_start(facts),
    ]
    for column in card.evidence:
        parts.append(f"**{for_markdown(column.title)}**")
        parts += [_quote(quote) for quote in column.quotes] or ["None among the fresh texts."]
    return "\n\n".join(parts)


def _quote(quote: Quote) -> str:
    body = "".join(span.text for span in quote.body)
    cut = f"; {quote.cut:,} more characters" if quote.cut else ""
    where = f"{quote.side or 'unknown side'}{for_markdown(quote.note)}{cut}, prompt:"
    return f"{where} {code_span(quote.prompt)}\n\n{code_block(body)}"


def _line(spans: Line, *, in_table: bool = False) -> str:
    return "".join(_span(span, in_table) for span in spans)


def _span(span: Span, in_table: bool) -> str:
    if span.style in ("data", "mark"):
        return code_span(span.text, in_table=in_table)
    text = for_markdown(span.text)
    return f"**{text}**" if span.style == "strong" and text.strip() else text
