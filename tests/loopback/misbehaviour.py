"""What the loopback server can do wrong, and when.

Kinds that spoil the transport or the status:
    429 503         "wait", with a delay in Retry-After, and in RetryInfo for Gemini
    500 400 401 403 404
    no_money        429 with OpenAI's code for an empty account
    bad_key         400 as Gemini answers to a wrong key
    echo_key        401 that quotes the key
    filtered        400 as Azure answers to a prompt that its filter stops
    redirect        307 to another path of the server
    reset hang drip cut_body
                    a reset, no answer, one byte per `drip_s`, a body that ends too early
    not_json        200 with a page of HTML
    bad_envelope    200 with JSON of another shape
    refuse_format refuse_temperature refuse_max_tokens refuse_seed
                    400 as long as the request has that field
    late_error      200 with an error inside, as OpenRouter sends

Kinds that spoil the finish: no_candidates, blocked_prompt, safety, recitation, max_tokens,
tool_call, null_content, no_finish. Kinds that spoil the text: the keys of `TEXTS`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from whatchanged.keys import content_key

STATUSES = ("429", "503", "500", "400", "401", "403", "404")
TRANSPORT = (
    *STATUSES, "no_money", "bad_key", "echo_key", "redirect", "reset", "hang", "drip", "cut_body",
    "not_json", "bad_envelope", "refuse_format", "refuse_temperature", "refuse_max_tokens",
    "refuse_seed", "late_error", "filtered",
)  # fmt: skip
FINISHES = (
    "no_candidates", "blocked_prompt", "safety", "recitation", "max_tokens", "tool_call",
    "null_content", "no_finish",
)  # fmt: skip
TEXTS: Mapping[str, Callable[[str], str]] = {
    "prose": lambda text: f"Here is my answer: {text} I hope it helps.",
    "fenced": lambda text: f"```json\n{text}\n```",
    "truncated": lambda text: text[:-1],
    "twice": lambda text: text + text,
    "duplicate_keys": lambda text: text[:-1] + ", " + text[1:],
    "nan": lambda _: '{"score": NaN}',
    "infinity": lambda _: '{"score": Infinity}',
    "overflow": lambda _: '{"score": 1e999}',
    "bool": lambda _: '{"score": true}',
    "string": lambda _: '{"score": "90"}',
    "float": lambda _: '{"score": 90.0}',
    "out_of_range": lambda _: '{"score": 101}',
    "negative": lambda _: '{"score": -1}',
    "huge": lambda _: '{"score": ' + "9" * 5000 + "}",
    "extra_key": lambda text: text[:-1] + ', "why": "because"}',
    "missing_key": lambda _: "{}",
    "nested": lambda text: f'{{"answer": {text}}}',
    "array": lambda text: f"[{text}]",
    "bare": lambda _: "90",
    "deep": lambda _: "[" * 100_000,
    "bom": lambda text: f"\ufeff{text}",
    "empty": lambda _: "",
    "blank": lambda _: " \n\t ",
    "refusal_words": lambda _: "I cannot help with that.",
}
KINDS = ("ok", *TRANSPORT, *FINISHES, *TEXTS)


@dataclass(frozen=True)
class Misbehaviour:
    """When to do what.

    `schedule` names what is done to the first calls, in the order of their arrival, or, with
    `is_each`, to the first calls of every distinct request. After it, each kind happens with its
    chance, drawn from the seed, the request and the number of its call, so that the order in which
    requests arrive changes nothing.
    """

    schedule: tuple[str, ...] = ()
    is_each: bool = False
    chances: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        unknown = {*self.schedule, *self.chances} - set(KINDS)
        if unknown:
            raise ValueError(f"expected kinds of {', '.join(KINDS)}, found {sorted(unknown)}")

    def kind(self, n_before: int, n_same_before: int, body_key: str) -> str:
        """What to do to a call after `n_before` others, `n_same_before` of them with its body."""
        place = n_same_before if self.is_each else n_before
        if place < len(self.schedule):
            return self.schedule[place]
        drawn = content_key("loopback-chance/1", self.seed, body_key, n_same_before)
        level = int(drawn[:8], 16) / 2**32
        for kind, chance in self.chances.items():
            level -= chance
            if level < 0:
                return kind
        return "ok"


def spoil_text(kind: str, answer: object) -> str:
    """The answer as text, spoiled where the kind says so."""
    text = json.dumps(answer)
    return TEXTS[kind](text) if kind in TEXTS else text
