"""Replies of language models, read strictly: what is not exactly an answer never becomes a score.

The finish is looked at before the text. The text must be one JSON object that has the asked keys
once each and nothing else, with values of the asked type, and white space around it at most. Prose
around the object, a Markdown fence, a byte order mark, `90.0`, `"90"` or `true` for 90 all make it
malformed: a model that was given the schema and strays from it has not understood the question,
and guessing what it meant is how fake verdicts inside a text get read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NoReturn

from whatchanged.escape import show_hidden
from whatchanged.models.chat import CallResult, ChatReply
from whatchanged.records import Outcome

MAX_SCORE = 100
Preference = Literal["A", "B", "neither"]
_PREFERENCES: tuple[Preference, ...] = ("A", "B", "neither")
_MAX_SHOWN = 80


@dataclass(frozen=True, slots=True)
class Reading:
    """A reply as an outcome. `values` holds the answer's keys where `outcome` is "answered", else
    it is empty and `reason` says why."""

    outcome: Outcome
    reason: str
    values: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class ScoreReading:
    """`score` in [0, 1] only where `outcome` is "answered", else None."""

    outcome: Outcome
    reason: str
    score: float | None


@dataclass(frozen=True, slots=True)
class PreferenceReading:
    """`preferred` only where `outcome` is "answered", else None."""

    outcome: Outcome
    reason: str
    preferred: Preference | None


def read_score(result: CallResult) -> ScoreReading:
    """The score of a reply to `{"score": 0 to 100}`, in [0, 1]."""
    reading = read_answer(result, ("score",))
    if reading.outcome != "answered":
        return ScoreReading(reading.outcome, reading.reason, None)
    score = reading.values["score"]
    # A bool is an int in Python.
    if type(score) is not int or not 0 <= score <= MAX_SCORE:
        return ScoreReading(
            "malformed", f"expected a whole score from 0 to 100, found {_shown(score)}", None
        )
    return ScoreReading("answered", "", score / MAX_SCORE)


def read_preference(result: CallResult) -> PreferenceReading:
    """The choice of a reply to `{"preferred": "A", "B" or "neither"}`."""
    reading = read_answer(result, ("preferred",))
    if reading.outcome != "answered":
        return PreferenceReading(reading.outcome, reading.reason, None)
    found = reading.values["preferred"]
    for preference in _PREFERENCES:
        if found == preference:
            return PreferenceReading("answered", "", preference)
    return PreferenceReading(
        "malformed", f'expected "A", "B" or "neither", found {_shown(found)}', None
    )


def read_answer(result: CallResult, keys: tuple[str, ...]) -> Reading:
    """A reply as the JSON object with exactly these keys; the types of its values are unchecked."""
    reply = result.reply
    if reply is None:
        return _without("failed", result.reason)
    if reply.finish == "refused":
        return _without("refused", reply.reason)
    if reply.finish == "cut_off":
        return _without("cut_off", reply.reason or "the answer was longer than allowed")
    return _read_object(reply, keys)


def _read_object(reply: ChatReply, keys: tuple[str, ...]) -> Reading:
    if not reply.text.strip():
        return _without("malformed", f"the answer is empty{_because(reply.reason)}")
    try:
        values = json.loads(
            reply.text, object_pairs_hook=_without_duplicates, parse_constant=_refuse_constant
        )
    # RecursionError: brackets nested by the thousand.
    except (ValueError, RecursionError) as error:
        return _without("malformed", f"no JSON ({_first_line(error)}): {_shown(reply.text)}")
    if not isinstance(values, dict) or set(values) != set(keys):
        return _without(
            "malformed", f"expected an object with {', '.join(keys)}, found {_shown(reply.text)}"
        )
    return Reading("answered", "", values)


def _without(outcome: Outcome, reason: str) -> Reading:
    return Reading(outcome, reason, {})


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("a key occurs twice")
    return values


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _because(reason: str) -> str:
    return f": {reason}" if reason else ""


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:_MAX_SHOWN]


def _shown(value: object) -> str:
    """The start of what was found, on one line, valid Unicode, with nothing hidden in it."""
    text = value if isinstance(value, str) else type(value).__name__
    if isinstance(value, bool | float):
        text = repr(value)
    elif isinstance(value, int):
        # Python refuses to write out whole numbers of thousands of digits.
        text = repr(value) if abs(value) < 10**_MAX_SHOWN else "a number of many digits"
    line = " ".join(show_hidden(text[: _MAX_SHOWN + 1]).split())
    return line if len(text) <= _MAX_SHOWN else f"{line}..."
