"""Pairs whose changes are known: which planted behaviour was found by which finding.

The truth enters the report alone, after every verdict; no stage of the audit reads it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from whatchanged.demo import file_at
from whatchanged.errors import InputError

# A finding is about a behaviour when at least this share of its supporting texts shows it.
MIN_MATCHING_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Behaviour:
    """A planted change: `regex` finds it in a reply (`re.search`, no flags).

    The rates are shares of texts in [0, 1], within the prompts of `group`, or all where it is None.
    """

    id: str
    kind: str
    description: str
    group: str | None
    rate_base: float
    rate_intervention: float
    regex: str


@dataclass(frozen=True, slots=True)
class BehaviourMatch:
    """A behaviour with the confirmed findings that are about it, strongest first."""

    behaviour: Behaviour
    finding_ids: tuple[str, ...]


def parse_ground_truth(value: Any) -> tuple[Behaviour, ...]:
    """The behaviours in parsed JSON: a list of objects, or an object with a list `behaviours`.

    Fields that are not listed in `Behaviour` are ignored. Raises InputError for another shape, a
    missing or wrong field, a rate outside [0, 1], an id that comes twice, or an invalid regex.
    """
    rows = value.get("behaviours") if isinstance(value, Mapping) else value
    if not isinstance(rows, list):
        raise InputError(
            'expected ground truth as a list of behaviours, or {"behaviours": [...]}, '
            f"found {type(value).__name__}: {str(value)[:80]!r}"
        )
    behaviours = tuple(_parse_behaviour(row, f"behaviour {i}") for i, row in enumerate(rows, 1))
    ids = [behaviour.id for behaviour in behaviours]
    if twice := sorted({name for name in ids if ids.count(name) > 1}):
        raise InputError(f"expected one behaviour per id, found {twice[0]!r} twice: rename one")
    return behaviours


def read_ground_truth(name: str | None) -> tuple[Behaviour, ...] | None:
    """The behaviours in the JSON file `report.ground_truth` of a config; None where it names none.

    `demo:NAME` is a packaged file. Raises InputError for a file that cannot be read, is not JSON,
    or does not have the shape that `parse_ground_truth` asks for.
    """
    if name is None:
        return None
    path = file_at(name)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"expected ground truth at {path}, could not read it ({error.strerror}): "
            "check report.ground_truth"
        ) from None
    except ValueError as error:
        raise InputError(f"{path}: expected JSON in UTF-8, found {error}") from None
    try:
        return parse_ground_truth(value)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def match_behaviours(
    findings: Sequence[Mapping[str, Any]], texts: pd.DataFrame, behaviours: Sequence[Behaviour]
) -> list[BehaviourMatch]:
    """One match per behaviour, in the order given, naming the confirmed findings that found it.

    A confirmed finding counts when at least half of its supporting texts match the behaviour's
    regex. Supporting keys that `texts` lacks match nothing; a finding without supporting texts
    counts for no behaviour.
    """
    confirmed = [f for f in findings if f.get("status") == "confirmed" and f.get("supporting")]
    wanted = {key for finding in confirmed for key in finding["supporting"]}
    replies = _replies(texts, wanted)
    return [
        BehaviourMatch(
            behaviour,
            tuple(
                str(f["id"]) for f in confirmed if _is_about(f["supporting"], replies, behaviour)
            ),
        )
        for behaviour in behaviours
    ]


def unmatched_confirmed(
    findings: Sequence[Mapping[str, Any]], matches: Sequence[BehaviourMatch]
) -> tuple[str, ...]:
    """Ids of confirmed findings that are about no planted behaviour, strongest first."""
    matched = {finding_id for match in matches for finding_id in match.finding_ids}
    return tuple(
        str(f["id"])
        for f in findings
        if f.get("status") == "confirmed" and str(f["id"]) not in matched
    )


def _replies(texts: pd.DataFrame, wanted: set[str]) -> dict[str, str]:
    if not wanted or "text_key" not in texts:
        return {}
    rows = texts.loc[texts["text_key"].isin(list(wanted)), ["text_key", "text"]]
    return {
        str(key): text
        for key, text in zip(rows["text_key"], rows["text"], strict=True)
        if isinstance(text, str)
    }


def _is_about(keys: Sequence[str], replies: Mapping[str, str], behaviour: Behaviour) -> bool:
    n_matching = sum(
        key in replies and bool(re.search(behaviour.regex, replies[key])) for key in keys
    )
    return n_matching >= MIN_MATCHING_SHARE * len(keys)


def _parse_behaviour(row: Any, where: str) -> Behaviour:
    if not isinstance(row, Mapping):
        raise InputError(f"{where}: expected an object, found {row!r:.80}")
    group = row.get("group")
    if group is not None and not isinstance(group, str):
        raise InputError(f"{where}: expected group as a text or null, found {group!r:.80}")
    regex = _text(row, "regex", where)
    try:
        re.compile(regex)
    except re.error as error:
        raise InputError(
            f"{where}: expected a Python regular expression, found {regex!r:.80} ({error}): fix it"
        ) from None
    return Behaviour(
        id=_text(row, "id", where),
        kind=_text(row, "kind", where),
        description=_text(row, "description", where),
        group=group,
        rate_base=_rate(row, "rate_base", where),
        rate_intervention=_rate(row, "rate_intervention", where),
        regex=regex,
    )


def _text(row: Mapping[str, Any], name: str, where: str) -> str:
    value = row.get(name)
    if not isinstance(value, str) or not value:
        raise InputError(f"{where}: expected {name} as a text, found {value!r:.80}")
    return value


def _rate(row: Mapping[str, Any], name: str, where: str) -> float:
    value = row.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise InputError(f"{where}: expected {name} as a share in [0, 1], found {value!r:.80}")
    return float(value)
