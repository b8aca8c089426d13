"""The small frozen records that the stages hand to each other.

Many rows travel as pandas tables whose columns are listed here (`TEXT_COLUMNS` and friends); one
thing travels as one of these records.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Side = Literal["base", "intervention"]
Split = Literal["discovery", "validation"]
# What texts are decoded for; the screen decodes short texts on discovery prompts.
Purpose = Literal["screen", "discovery", "validation"]
Finish = Literal["stop", "length", "failed"]
Outcome = Literal["answered", "refused", "cut_off", "malformed", "failed"]
Tier = Literal["cheap", "expensive"]
Direction = Literal["more", "less"]
Status = Literal["confirmed", "rejected", "inconclusive"]

NOISE = -1

TEXT_COLUMNS = (
    "text_key", "prompt_key", "side", "split", "round", "prompt", "text", "n_tokens", "finish",
    "label", "margin", "logprob_base", "logprob_intervention", "token_ids",
    "differences", "decoded_by",
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
    """One text to decode: the prompt, which of its samples this is, the text's own key, and the
    key of its noise.

    The noise is a function of its key, so a text does not depend on its chunk or worker; texts of
    two models with one noise key are a coupled pair. `stream` says whose noise that is.
    """

    text_key: str
    prompt_key: str
    prompt: str
    index: int
    noise_key: str
    stream: str = ""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A fixed, ordered unit of decoding work on one side."""

    key: str
    side: Side
    split: Purpose
    round: int
    requests: tuple[DecodeRequest, ...]


@dataclass(frozen=True, slots=True)
class Completion:
    """What a decoder wrote for one request. `reason` says why, where `finish` is "failed".

    `token_ids` are the tokens as they were drawn, with the one that ended the text where `finish`
    is "stop"; `n_tokens` does not count that one. A model behind an API gives none. `decoded_by`
    names the engine, its version and its arithmetic, or what the API says of the model.
    """

    text: str
    n_tokens: int
    finish: Finish
    reason: str = ""
    token_ids: tuple[int, ...] = ()
    decoded_by: str = ""


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """A text to score under both models: its prompt, its words, and its tokens as they were drawn
    (with the one that ended the text, where one did)."""

    prompt: str
    text: str
    token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TextScore:
    """How likely two models find one text, at the temperature of decoding, in nats.

    `logprob_base` and `logprob_intervention` are the log-probabilities of the whole text given its
    prompt. `kl_base` is the sum over the text's positions of KL(base || intervention) between the
    two next-token distributions, `kl_intervention` that of the reverse: on texts of its first side,
    each has the divergence of the whole texts as its mean, with far less noise than the log-ratio
    (Amini et al. 2025, "Better estimation of the KL divergence between language models").
    `parting` in [0, 1] is 1 less the product over positions of 1 - TV, the total variation of the
    next-token distributions: about the probability that the two models, coupled as tightly as they
    can be step by step, part somewhere along this text. `differences (n_tokens,)` are the
    log-probabilities per token, base minus intervention.

    `moved_mass (m,)` sums over positions what the intervention's next-token distribution gives to a
    token of `moved_tokens (m,)` beyond the base's (above zero), or what it takes (below): at most
    32 entries, the largest, of which a token can have one of each sign. Each position counts by
    how far both models would have got there, so what follows a first parting adds nothing.

    Where the models' tokens differ, only the two totals are known: the others are NaN, and
    the arrays are empty. A text that cannot be scored is NaN throughout.
    """

    logprob_base: float
    logprob_intervention: float
    kl_base: float
    kl_intervention: float
    parting: float
    differences: NDArray[np.float32]
    moved_tokens: NDArray[np.int32]
    moved_mass: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A claim about the change.

    `statement` is for people and names the sides; `criterion` is what a judge checks in one text,
    and names neither side nor model. `scope` is a prompt group, or None for all prompts.
    `share_base` and `share_intervention` are discovery shares: they plan the test, never decide it.
    `share_discordant` is the share of coupled pairs that meet the criterion on one side only, None
    where the sides were decoded independently.
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
    share_discordant: float | None = None


@dataclass(frozen=True, slots=True)
class ValidationPlan:
    """The fresh texts per side and prompt that a hypothesis is tested on: the samples from `first`
    to before `n_per_prompt`."""

    hypothesis_id: str
    prompt_keys: tuple[str, ...]
    n_per_prompt: int
    first: int = 0


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
