"""The small frozen records that the stages hand to each other.

Many rows travel as pandas tables whose columns are listed here (`TEXT_COLUMNS` and friends); one
thing travels as one of these records.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Side = Literal["base", "intervention"]
Split = Literal["discovery", "validation"]
Finish = Literal["stop", "length", "failed"]
Outcome = Literal["answered", "refused", "cut_off", "malformed", "failed"]
Tier = Literal["cheap", "expensive"]
Direction = Literal["more", "less"]
Status = Literal["confirmed", "rejected", "inconclusive"]

NOISE = -1

TEXT_COLUMNS = (
    "text_key", "prompt_key", "side", "split", "round", "prompt", "text", "n_tokens", "finish",
    "label", "margin", "logprob_base", "logprob_intervention",
)  # fmt: skip
SEGMENT_COLUMNS = ("text_key", "position", "segment_key", "segment", "label", "margin")
PROMPT_COLUMNS = ("prompt_key", "prompt", "group", "split")
VERDICT_COLUMNS = (
    "hypothesis_id", "text_key", "tier", "judge", "score", "outcome", "reason", "cost_usd",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt of the bank. `group` is the user's (or an inferred) topic; `split` is fixed."""

    key: str
    prompt: str
    group: str
    split: Split


@dataclass(frozen=True, slots=True)
class DecodeRequest:
    """One text to decode: the prompt, which of its samples this is, and the text's own key.

    The key seeds the text's random stream, so a text does not depend on its chunk or worker.
    """

    text_key: str
    prompt_key: str
    prompt: str
    index: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """A fixed, ordered unit of decoding work on one side."""

    key: str
    side: Side
    split: Split
    round: int
    requests: tuple[DecodeRequest, ...]


@dataclass(frozen=True, slots=True)
class Completion:
    """What a decoder wrote for one request. `reason` says why, where `finish` is "failed"."""

    text: str
    n_tokens: int
    finish: Finish
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A claim about the change.

    `statement` is for people and names the sides; `criterion` is what a judge checks in one text,
    and names neither side nor model. `scope` is a prompt group, or None for all prompts.
    `share_base` and `share_intervention` are discovery shares: they plan the test, never decide it.
    """

    id: str
    statement: str
    criterion: str
    direction: Direction
    scope: str | None
    cluster: str | None
    evidence_terms: tuple[str, ...]
    share_base: float
    share_intervention: float
    strength: float


@dataclass(frozen=True, slots=True)
class Question:
    """What a judge sees: a criterion, a prompt and one text. Never a side or a model name."""

    criterion: str
    prompt: str
    text: str


@dataclass(frozen=True, slots=True)
class Judgement:
    """A judge's answer. `score` in [0, 1] only where `outcome` is "answered", else None."""

    score: float | None
    outcome: Outcome
    reason: str = ""
    cost_usd: float | None = 0.0


@dataclass(frozen=True, slots=True)
class Finding:
    """A hypothesis with its test on fresh texts. `effect` and its interval are share differences,
    intervention minus base, in [-1, 1]; money in US dollars, None where a price is unknown."""

    id: str
    statement: str
    criterion: str
    direction: Direction
    scope: str | None
    cluster: str | None
    status: Status
    effect: float
    ci_low: float
    ci_high: float
    share_base: float
    share_intervention: float
    auc: float
    p_value: float
    p_adjusted: float
    n_texts: int
    n_unscored: int
    incomplete: bool
    judge_calls: int
    cost_usd: float | None
    supporting: tuple[str, ...]
    contradicting: tuple[str, ...]
    evidence_terms: tuple[str, ...]
