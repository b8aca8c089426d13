"""What a report is made of: blocks that hold raw text. The writers escape; no block holds markup.

Only a `Picture` holds finished SVG, and only `whatchanged.figures` makes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from whatchanged.figures import Figure
from whatchanged.records import Side, Status

Style = Literal["plain", "strong", "quiet", "data", "mark"]


@dataclass(frozen=True, slots=True)
class Span:
    """Text in one style. `data` is what a model, a user or a config wrote, shown as written."""

    text: str
    style: Style = "plain"


Line: TypeAlias = tuple[Span, ...]


def line(*parts: str | Span) -> Line:
    """The parts as one line; strings are plain."""
    return tuple(Span(part) if isinstance(part, str) else part for part in parts)


def data(text: str) -> Span:
    """A value from outside, shown as written."""
    return Span(text, "data")


def strong(text: str) -> Span:
    return Span(text, "strong")


def quiet(text: str) -> Span:
    return Span(text, "quiet")


@dataclass(frozen=True, slots=True)
class Heading:
    """A section's heading; `anchor` is its place in links, unique in the document."""

    text: str
    anchor: str


@dataclass(frozen=True, slots=True)
class Paragraph:
    line: Line
    tone: Literal["plain", "lead", "quiet"] = "plain"


@dataclass(frozen=True, slots=True)
class Callout:
    """What a reader must see before anything else (`warning`), or how to read on (`note`)."""

    tone: Literal["warning", "note"]
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class Tiles:
    """A row of key figures: pairs of value and label."""

    tiles: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Column:
    name: str
    numeric: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of lines, one per column; at least one row."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Line, ...], ...]


@dataclass(frozen=True, slots=True)
class Picture:
    figure: Figure
    caption: Line


@dataclass(frozen=True, slots=True)
class Quote:
    """A text with its prompt. `body` has the evidence terms marked; `cut` counts what is left out.

    `side` is None for a text that the run's tables do not hold.
    """

    side: Side | None
    prompt: str
    body: Line
    cut: int
    note: str


@dataclass(frozen=True, slots=True)
class QuoteColumn:
    title: str
    quotes: tuple[Quote, ...]


@dataclass(frozen=True, slots=True)
class Card:
    """One finding: its number, its claim, the effect, `facts` (label, value) and its evidence."""

    number: int
    anchor: str
    status: Status
    title: str
    effect: str
    interval: str
    shares: Figure
    facts: tuple[tuple[str, Line], ...]
    evidence: tuple[QuoteColumn, ...]


@dataclass(frozen=True, slots=True)
class Listing:
    """Lines of code or config, as written."""

    text: str
    language: str


@dataclass(frozen=True, slots=True)
class Details:
    """Blocks that a page folds away under `summary`, unless `is_open`."""

    summary: str
    blocks: tuple[Table | Listing | Paragraph, ...]
    is_open: bool = False


Block: TypeAlias = (
    Heading | Paragraph | Callout | Tiles | Table | Picture | Card | Listing | Details
)


@dataclass(frozen=True, slots=True)
class Document:
    """A report: `title` for the window, `verdict` as its first words, then blocks in order."""

    title: str
    verdict: str
    blocks: tuple[Block, ...]
