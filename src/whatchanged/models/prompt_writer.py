"""A language model behind an API that writes prompts about areas, some in each call.

Every call names what was written about its area before, so that the next ones are others. Requests
follow from the replies before them and from nothing else: once all are in the ledger, the same
areas give the same prompts, and no call is made.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from whatchanged.errors import TransientError
from whatchanged.models.chat import CallResult, ChatReply, ChatRequest
from whatchanged.models.llm_judge import Caller
from whatchanged.models.replies import read_answer
from whatchanged.models.rubric import Asking, ask_again, fenced_request, is_asked_again
from whatchanged.prompt_bank import PromptRow

MAX_PER_CALL = 20
MAX_PROMPT_CHARS = 2000
# Of what was written before, as many as are told.
_N_TOLD = 100
# Calls in a row that bring nothing new about an area, after which no more are made.
_MAX_FRUITLESS = 2

SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {
            "prompts": {"type": "array", "minItems": 1, "items": {"type": "string"}},
        },
        "required": ["prompts"],
        "additionalProperties": False,
    }
)
_TASK = (
    "You write prompts with which language models are tried: what people might type to an "
    "assistant. All of them are about one area, and each stands for itself: nobody who reads it "
    "knows the others. Vary length, tone, wording and what is asked for, and write as many as the "
    "number says.\n\n{rule}\n\nDo not repeat or reword a prompt that was already written. Each "
    f"prompt has at most {MAX_PROMPT_CHARS} characters. Answer with one JSON object and nothing "
    "else: "
    '{{"prompts": ["...", "..."]}}.'
)


@dataclass(frozen=True, slots=True)
class Written:
    """The prompts, grouped by area in the order of the areas, and how many were left out because
    they repeat another, also one of another area."""

    rows: tuple[PromptRow, ...]
    n_duplicates: int


def write_prompts(
    areas: Sequence[str], n_each: int, instructions: str, call: Caller, asking: Asking
) -> Written:
    """At most `n_each` distinct prompts about every area; fewer where a model has no others.

    Raises TransientError where no prompts can be read from a reply (one off the schema is asked for
    once more), and what `call` raises.
    """
    found: dict[str, list[str]] = {area: [] for area in areas}
    fruitless = dict.fromkeys(areas, 0)
    known: set[str] = set()
    n_duplicates = 0
    while open_areas := [
        area for area in areas if len(found[area]) < n_each and fruitless[area] < _MAX_FRUITLESS
    ]:
        requests = [
            _request(area, n_each - len(found[area]), instructions, found[area], asking, i)
            for area, i in ((area, fruitless[area]) for area in open_areas)
        ]
        for area, prompts in zip(open_areas, _ask(requests, open_areas, call), strict=True):
            distinct = {_bare(prompt): prompt for prompt in reversed(prompts)}
            new = [bare for bare in reversed(distinct) if bare not in known]
            n_duplicates += len(prompts) - len(new)
            kept = new[: n_each - len(found[area])]
            found[area] += [distinct[bare] for bare in kept]
            known.update(kept)
            fruitless[area] = 0 if kept else fruitless[area] + 1
    rows = (PromptRow(prompt, area) for area in areas for prompt in found[area])
    return Written(tuple(rows), n_duplicates)


def read_written(result: CallResult) -> tuple[list[str], str]:
    """The prompts of a reply, without white space around them, and the problem where there are
    none. Nothing is taken from a reply that strays from the schema."""
    reading = read_answer(result, ("prompts",))
    if reading.outcome != "answered":
        return [], f"{reading.outcome}: {reading.reason}"
    prompts = reading.values["prompts"]
    if not isinstance(prompts, list) or not prompts:
        return [], "malformed: expected a list of prompts"
    if not all(_is_prompt(prompt) for prompt in prompts):
        return [], f"malformed: expected texts of 1 to {MAX_PROMPT_CHARS} characters"
    return [prompt.strip() for prompt in prompts], ""


def is_kept(request: ChatRequest, reply: ChatReply) -> bool:
    """Whether a reply stays in the ledger for later: one that can be read, or a first one that
    leads to a second request."""
    if reply.finish != "stop":
        return False
    return not is_asked_again(request) or bool(read_written(CallResult(reply, "", None, False))[0])


def _ask(requests: Sequence[ChatRequest], areas: Sequence[str], call: Caller) -> list[list[str]]:
    answers = [read_written(result) for result in call(requests)]
    again = [i for i, (_, said) in enumerate(answers) if said.startswith("malformed")]
    results = call([ask_again(requests[i]) for i in again]) if again else []
    for i, result in zip(again, results, strict=True):
        answers[i] = read_written(result)
    problems = [(area, said) for area, (_, said) in zip(areas, answers, strict=True) if said]
    if problems:
        (area, said), others = problems[0], len(problems) - 1
        raise TransientError(
            f"expected prompts about {area!r} from {requests[0].model}, found none ({said})"
            f"{f', and so for {others} other areas' if others else ''}: run again, what was "
            "answered is not paid for twice; or take the area out"
        )
    return [prompts for prompts, _ in answers]


def _request(
    area: str, n_missing: int, instructions: str, written: Sequence[str], asking: Asking, i: int
) -> ChatRequest:
    """The next call about an area; `i` counts those before it that brought nothing new."""
    parts = [
        ("area", area),
        ("number", str(min(n_missing, MAX_PER_CALL))),
        ("already written", "\n".join(map(_bare, written[-_N_TOLD:])) or "nothing yet"),
    ]
    # Equal requests have one answer: a try that is to bring another must differ.
    parts += [("attempt", str(i + 1))] if i else []
    # The user's own words, unlike all that stands in parts; the task is a template.
    wishes = instructions.replace("{", "{{").replace("}", "}}")
    return fenced_request(f"{_TASK}\n\n{wishes}" if wishes else _TASK, parts, SCHEMA, asking)


def _is_prompt(value: object) -> bool:
    if not isinstance(value, str) or not 1 <= len(value.strip()) <= MAX_PROMPT_CHARS:
        return False
    return not any("\ud800" <= char <= "\udfff" for char in value)


def _bare(prompt: str) -> str:
    return " ".join(prompt.split())
