"""Themes: what several confirmed findings have in common, said once the tests are over.

A theme decides nothing and is tested by nothing: it helps a reader, and names the findings that it
joins. A model is asked once; the statements that it reads hold words of other models, so each
stands behind a fence, and nothing is taken from an answer that strays from the schema.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from whatchanged.errors import BudgetReachedError, MissingDependencyError, UsageError
from whatchanged.models.chat import CallResult, ChatRequest
from whatchanged.models.llm_judge import Caller
from whatchanged.models.replies import read_answer
from whatchanged.models.rubric import Asking, ask_again, fenced_request

VERSION = "themes/1"
MAX_THEMES = 8
MAX_TITLE_CHARS = 80
MAX_SENTENCE_CHARS = 300
LOCAL_HAS_NONE = "the local proposer counts words and cannot say what findings have in common"
# Of one finding there is nothing that recurs.
_FEWEST = 2

SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {
            "themes": {
                "type": "array",
                "maxItems": MAX_THEMES,
                "items": {
                    "type": "object",
                    "properties": {
                        "title": {"type": "string"},
                        "sentence": {"type": "string"},
                        "findings": {
                            "type": "array",
                            "minItems": _FEWEST,
                            "items": {"type": "string"},
                        },
                    },
                    "required": ["title", "sentence", "findings"],
                    "additionalProperties": False,
                },
            }
        },
        "required": ["themes"],
        "additionalProperties": False,
    }
)
_TASK = (
    "An audit compared two language models, called base and intervention, and confirmed the "
    "findings below; each part is named by the finding's id. You say which themes recur in them: "
    "what several findings have in common.\n\n{rule}\n\nA theme joins two or more findings, and a "
    "finding belongs to one theme at most. It has a title of at most "
    f"{MAX_TITLE_CHARS} characters and one sentence of at most {MAX_SENTENCE_CHARS} characters, "
    "which claims no more than its findings say. Leave out findings that share nothing with "
    f"another; give at most {MAX_THEMES} themes, and an empty list where nothing recurs. Answer "
    'with one JSON object and nothing else: {{"themes": [{{"title": "...", "sentence": "...", '
    '"findings": ["h001", "h004"]}}]}}.'
)


@dataclass(frozen=True, slots=True)
class Theme:
    """What the findings of these ids, two or more, have in common."""

    title: str
    sentence: str
    findings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Themes:
    """The themes of an audit. `missing` says why nobody looked for them, or why what was found
    could not be used; where it is empty, nothing more recurs than the themes say."""

    themes: tuple[Theme, ...]
    missing: str = ""


def ask_for_themes(statements: Mapping[str, str], call: Caller, asking: Asking) -> Themes:
    """The themes that a model sees in confirmed findings (id to statement), by one call.

    An answer that cannot be read is asked for once more. A call that fails, is refused or has no
    room in the budget costs the themes and nothing else. Fewer than two findings are not asked
    about. Raises StorageError where the ledger cannot be written.
    """
    if len(statements) < _FEWEST:
        return Themes(())
    request = theme_request(statements, asking)
    problem = ""
    try:
        for asked in (request, ask_again(request)):
            result = call([asked])[0]
            found, problem = read_themes(result, statements.keys())
            if found is not None:
                return Themes(found)
            if not problem.startswith("malformed"):
                break
    except (BudgetReachedError, MissingDependencyError, UsageError) as error:
        problem = str(error)
    return Themes((), f"{asking.model} gave none: {problem}")


def theme_request(statements: Mapping[str, str], asking: Asking) -> ChatRequest:
    """The request for the themes of these findings, each behind the fence as a part of its own."""
    parts = [(f"finding {finding_id}", text) for finding_id, text in statements.items()]
    return fenced_request(_TASK, parts, SCHEMA, asking)


def read_themes(
    result: CallResult, finding_ids: Collection[str]
) -> tuple[tuple[Theme, ...] | None, str]:
    """The themes of an answer, or None and its problem ("malformed: ...").

    One theme that is off the schema, or names a finding that is unknown or named before, spoils
    the whole answer.
    """
    reading = read_answer(result, ("themes",))
    if reading.outcome != "answered":
        return None, f"{reading.outcome}: {reading.reason}"
    rows = reading.values["themes"]
    if not isinstance(rows, list) or len(rows) > MAX_THEMES:
        return None, f"malformed: expected a list of at most {MAX_THEMES} themes"
    left, themes = set(finding_ids), []
    for row in rows:
        theme = _read_row(row)
        if theme is None:
            return None, "malformed: a theme off the schema"
        if len(set(theme.findings)) < len(theme.findings) or not left.issuperset(theme.findings):
            return None, "malformed: a theme names a finding that is unknown or named before"
        left.difference_update(theme.findings)
        themes.append(theme)
    return tuple(themes), ""


def _read_row(row: object) -> Theme | None:
    if not isinstance(row, Mapping) or set(row) != {"title", "sentence", "findings"}:
        return None
    title, sentence = (_read_line(row[name]) for name in ("title", "sentence"))
    ids = row["findings"]
    if not isinstance(ids, list) or not all(isinstance(one, str) for one in ids):
        return None
    fits = 0 < len(title) <= MAX_TITLE_CHARS and 0 < len(sentence) <= MAX_SENTENCE_CHARS
    return Theme(title, sentence, tuple(ids)) if fits and len(ids) >= _FEWEST else None


def _read_line(value: object) -> str:
    """A text on one line; empty for anything else, which is too short."""
    return " ".join(value.split()) if isinstance(value, str) else ""
