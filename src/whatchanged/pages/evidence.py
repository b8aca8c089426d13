"""Texts as evidence: looked up by key, cut to a readable length, their evidence terms marked."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from whatchanged.escape import show_hidden
from whatchanged.pages.document import Line, Quote, QuoteColumn, Span
from whatchanged.pages.numbers import decimal, number, rows_of
from whatchanged.records import Side

if TYPE_CHECKING:
    from whatchanged.report import RunTables

N_QUOTES = 3
MAX_CHARACTERS = 560
MAX_PROMPT_CHARACTERS = 200
# A term is looked for in this much of a text: a reply of megabytes must not stall the report.
_MAX_SEARCHED = 100_000


class Excerpt(NamedTuple):
    """Part of a text and the number of characters left out."""

    text: str
    n_cut: int


class Shelf(NamedTuple):
    """The texts and scores that the findings quote, by key."""

    texts: Mapping[str, Mapping[str, Any]]
    scores: Mapping[tuple[str, str], Mapping[str, Any]]


def collect_evidence(run: RunTables, findings: Iterable[Mapping[str, Any]]) -> Shelf:
    """The quoted texts of these findings with their deciding scores (the expensive judge's, if
    it answered)."""
    wanted = {
        str(key)
        for finding in findings
        for name in ("supporting", "contradicting")
        for key in list(finding.get(name) or ())[:N_QUOTES]
    }
    texts, verdicts = run.texts, run.verdicts
    if "text_key" in texts:
        texts = texts[texts["text_key"].isin(list(wanted))]
    if "text_key" in verdicts:
        verdicts = verdicts[verdicts["text_key"].isin(list(wanted))]
    scores: dict[tuple[str, str], Mapping[str, Any]] = {}
    for row in rows_of(verdicts, "hypothesis_id", "text_key", "tier", "score", "outcome"):
        place = (str(row["hypothesis_id"]), str(row["text_key"]))
        if row["outcome"] == "answered" and (place not in scores or row["tier"] == "expensive"):
            scores[place] = row
    rows = rows_of(texts, "text_key", "side", "prompt", "text")
    return Shelf({str(row["text_key"]): row for row in rows}, scores)


def quote_evidence(finding: Mapping[str, Any], shelf: Shelf) -> tuple[QuoteColumn, QuoteColumn]:
    """Up to three supporting and three contradicting texts of a finding."""
    terms = [str(term) for term in finding.get("evidence_terms") or ()]
    columns = []
    for name, title in (
        ("supporting", "Supporting texts"),
        ("contradicting", "Contradicting texts"),
    ):
        keys = [str(key) for key in finding.get(name) or ()][:N_QUOTES]
        quotes = tuple(_quote(key, str(finding.get("id")), terms, shelf) for key in keys)
        columns.append(QuoteColumn(title, quotes))
    return columns[0], columns[1]


def mark_terms(text: str, terms: Sequence[str]) -> Line:
    """The text in spans, with every occurrence of a term marked.

    Case and the kind of apostrophe do not matter; words of a term may be parted by spaces or
    punctuation. A term is never marked inside a longer word.
    """
    pattern = _term_pattern(terms)
    if pattern is None:
        return (Span(text),)
    spans: list[Span] = []
    end = 0
    for match in pattern.finditer(text):
        if match.start() > end:
            spans.append(Span(text[end : match.start()]))
        spans.append(Span(match.group(), "mark"))
        end = match.end()
    if end < len(text) or not spans:
        spans.append(Span(text[end:]))
    return tuple(spans)


def cut_excerpt(text: str, terms: Sequence[str], limit: int = MAX_CHARACTERS) -> Excerpt:
    """At most `limit` characters of the text, from its start or around the first term.

    Dots stand where something is left out; they are not counted.
    """
    if len(text) <= limit:
        return Excerpt(text, 0)
    pattern = _term_pattern(terms)
    found = pattern.search(text[:_MAX_SEARCHED]) if pattern else None
    start = 0
    if found and found.end() > limit:
        start = min(max(found.start() - limit // 3, 0), len(text) - limit)
    end = start + limit
    shown = text[start:end]
    if end < len(text) and (space := shown.rfind(" ")) > limit * 0.9:
        shown = shown[:space]
    dots = ("… " if start else "", " …" if start + len(shown) < len(text) else "")
    return Excerpt(f"{dots[0]}{shown}{dots[1]}", len(text) - len(shown))


def _quote(key: str, finding_id: str, terms: Sequence[str], shelf: Shelf) -> Quote:
    row = shelf.texts.get(key)
    if row is None:
        missing = Span(f"The run's tables hold no text {show_hidden(key[:12])}.", "quiet")
        return Quote(None, "unknown", (missing,), 0, "")
    excerpt = cut_excerpt(_as_text(row["text"]), terms)
    prompt = cut_excerpt(_as_text(row["prompt"]), (), MAX_PROMPT_CHARACTERS).text
    side = cast(Side, row["side"]) if row["side"] in ("base", "intervention") else None
    verdict = shelf.scores.get((finding_id, key))
    note = ""
    if verdict is not None and number(verdict["score"]) is not None:
        note = f" · score {decimal(verdict['score'])} by the {verdict['tier']} judge"
    if not excerpt.text.strip():
        return Quote(side, prompt, (Span("(empty text)", "quiet"),), 0, note)
    return Quote(side, prompt, mark_terms(excerpt.text, terms), excerpt.n_cut, note)


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _term_pattern(terms: Sequence[str]) -> re.Pattern[str] | None:
    patterns = []
    for term in sorted({t for t in terms if t.strip()}, key=lambda t: (-len(t), t)):
        words = [re.escape(word).replace("'", "['’]") for word in term.split()]
        opening = r"(?<!\w)" if _is_spaced_letter(term.strip()[0]) else ""
        closing = r"(?!\w)" if _is_spaced_letter(term.strip()[-1]) else ""
        patterns.append(opening + r"\W{1,3}".join(words) + closing)
    return re.compile("|".join(patterns), re.IGNORECASE) if patterns else None


def _is_spaced_letter(char: str) -> bool:
    # Thai, Chinese, Japanese and others are written without spaces: a word has no edge there.
    return char < "\u0e00" and re.match(r"\w", char) is not None
