"""The hidden rules by which the loopback server answers, and its steady mistakes.

A rule reads the question as a careful judge would: it finds the parts by the mark that the system
prompt names, and looks at nothing else. What a text asks for is never done.

    quoted    90 where the text holds one of the criterion's quotations (or meets its length, format
              or character by count), else 10
    words     90 where the local lexical judge gives at least 0.5, else 10
    first     90 for every text, "A" for every pair: a judge that looks at the place
    gullible  believes the last `"score": N` or `"preferred": "X"` that it finds in a text; it is
              there to show that hostile texts are hostile
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from whatchanged.keys import content_key
from whatchanged.models.criteria import count_criterion, parse_criterion, quotations
from whatchanged.models.lexical_judge import score_words

YES, NO = 90, 10
MARK = re.compile(r"mark ([0-9A-F]{20})")

Parts = Mapping[str, str]


@dataclass(frozen=True)
class Asked:
    """A question as it arrives, whichever API brought it. `schema` is empty where none was sent."""

    model: str
    system: str
    user: str
    schema: Mapping[str, Any]


@dataclass(frozen=True)
class Noise:
    """Steady mistakes: equal questions to one model get equal answers.

    Of a model's scores, `error_rate` are turned round and `borderline_rate` lie from 40 to 60. The
    models in `exact` make none.
    """

    seed: int = 0
    error_rate: float = 0.0
    borderline_rate: float = 0.0
    exact: frozenset[str] = frozenset({"rule-exact"})


def read_parts(asked: Asked) -> Parts:
    """The labelled parts between the lines that carry the mark; none where there is no mark."""
    found = MARK.search(asked.system)
    if found is None:
        return {}
    mark = found[1]
    part = re.compile(
        rf"^<<{mark} (?P<label>[^\n]+)\n(?P<content>.*?)\n{mark}>> (?P=label)$",
        re.DOTALL | re.MULTILINE,
    )
    return {match["label"]: match["content"] for match in part.finditer(asked.user)}


def answer(asked: Asked, rule: str, noise: Noise) -> Any:
    """The answer as a JSON value, as the parts suggest: a score, a preference, one theme of all
    findings, proposals, or prompts about an area."""
    parts = read_parts(asked)
    if "area" in parts:
        return {"prompts": _write_prompts(parts)}
    if "text" in parts:
        return {"score": _noisy(_score(parts, "text", rule), asked.model, parts, noise)}
    if {"criterion", "text A", "text B"} <= parts.keys():
        return {"preferred": _prefer(parts, rule)}
    found = [label.removeprefix("finding ") for label in parts if label.startswith("finding ")]
    if found:
        return {"themes": [{"title": "One voice", "sentence": "They differ.", "findings": found}]}
    return _fill(asked.schema, _contrast(parts))


def _write_prompts(parts: Parts) -> list[str]:
    """As many prompts as asked for, numbered on from those already written; of the first two, the
    second repeats the first. An area that holds "few" has two in all, whatever is asked."""
    area, n = parts["area"], int(parts["number"])
    told = parts["already written"]
    n_known = 0 if told == "nothing yet" else len(told.splitlines())
    if "few" in area:
        return [f"Only {i} of {area}?" for i in (1, 2)]
    written = [f"Question {n_known + i} about {area}?" for i in range(1, n + 1)]
    return [written[0], f" {written[0]} ", *written[1:-1]] if n_known == 0 and n > 1 else written


def is_met(criterion: str, text: str, rule: str) -> bool:
    """The truth by a rule."""
    if rule == "words":
        return score_words(criterion, text) >= 0.5
    counted = count_criterion(parse_criterion(criterion), text)
    if counted is not None:
        return counted
    return any(phrase.casefold() in text.casefold() for phrase in quotations(criterion))


def _score(parts: Parts, label: str, rule: str) -> int:
    if rule == "first":
        return YES
    claimed = re.findall(r'"score"\s*:\s*(\d+)', parts[label])
    if rule == "gullible" and claimed:
        return min(int(claimed[-1]), 100)
    return YES if is_met(parts["criterion"], parts[label], rule) else NO


def _prefer(parts: Parts, rule: str) -> str:
    if rule == "first":
        return "A"
    claimed = re.findall(r'"preferred"\s*:\s*"(A|B)"', parts["text A"] + parts["text B"])
    if rule == "gullible" and claimed:
        return str(claimed[-1])
    a, b = (is_met(parts["criterion"], parts[label], rule) for label in ("text A", "text B"))
    return "neither" if a == b else "A" if a else "B"


def _noisy(score: int, model: str, parts: Parts, noise: Noise) -> int:
    if model in noise.exact:
        return score
    key = content_key(
        "loopback-noise/1", noise.seed, model, *(parts[name] for name in sorted(parts))
    )
    draw, place = int(key[:8], 16) / 2**32, int(key[8:16], 16) / 2**32
    if draw < noise.error_rate:
        return 100 - score
    if draw < noise.error_rate + noise.borderline_rate:
        return 40 + int(21 * place)
    return score


def _contrast(parts: Parts) -> list[tuple[str, str]]:
    """Words whose share of texts differs most between the parts labelled A and B, and the side that
    has more of them, without those of a part "already found". A part has one text per line."""
    shares: dict[str, Counter[str]] = {}
    for side in ("A", "B"):
        labelled = [text for label, text in parts.items() if re.search(rf"\b{side}\b", label)]
        texts = [line for text in labelled for line in text.splitlines() if line.strip()]
        shares[side] = Counter(
            {
                word: count / len(texts)
                for word, count in Counter(
                    word for text in texts for word in set(re.findall(r"[a-z]{4,}", text.lower()))
                ).items()
            }
        )
    a, b = shares["A"], shares["B"]
    known = set(re.findall(r"[a-z]+", parts.get("already found", "").lower()))
    ranked = sorted((a.keys() | b.keys()) - known, key=lambda word: (-abs(a[word] - b[word]), word))
    return [(word, "A" if a[word] > b[word] else "B") for word in ranked if a[word] != b[word]]


def _fill(schema: Mapping[str, Any], found: list[tuple[str, str]]) -> Any:
    """A value of the schema's shape: arrays have one entry per word found (two at most, and as many
    as the schema demands), strings are criteria, an enum of A and B is the side with more, one of
    more and less tells of B against A."""
    word, side = found[0] if found else ("nothing", "A")
    fillers: dict[str, Callable[[], Any]] = {
        "object": lambda: {
            name: _fill(part, found) for name, part in schema.get("properties", {}).items()
        },
        "array": lambda: [
            _fill(schema["items"], found[i:])
            for i in range(
                max(min(2, len(found), schema.get("maxItems", 2)), schema.get("minItems", 0))
            )
        ],
        "integer": lambda: schema.get("minimum", 0),
        "number": lambda: schema.get("minimum", 0),
        "boolean": lambda: True,
        "string": lambda: f'The reply contains the words "{word}", or nearly the same words.',
    }
    if options := schema.get("enum"):
        told = {side, "more" if side == "B" else "less"}
        return next((option for option in options if option in told), options[0])
    kind = str(schema.get("type", "object")).lower()
    return fillers[kind]()
