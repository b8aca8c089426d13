"""The seams to the outside: decoder, scorer, embedder, judge, proposer.

Each is a small protocol; implementations live one per file beside this one, and `models/fakes.py`
ships deterministic ones for tests of faults.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from whatchanged.records import (
    Completion,
    DecodeRequest,
    Direction,
    Judgement,
    Question,
    ScoreRequest,
    TextScore,
)


class Decoder(Protocol):
    """A language model that continues prompts; `loading.describe_decoder` names it in keys."""

    def decode(self, requests: Sequence[DecodeRequest]) -> list[Completion]:
        """One completion per request, in the order asked.

        A text that cannot be decoded is a Completion with finish "failed", never an exception.
        """
        ...


class Scorer(Protocol):
    """Both language models of a comparison, as judges of how likely a text is."""

    def score(self, requests: Sequence[ScoreRequest]) -> list[TextScore]:
        """One score per request, in the order asked; NaN for a text that cannot be scored."""
        ...


class Embedder(Protocol):
    """A sentence encoder."""

    @property
    def identity(self) -> str:
        """Names everything that changes a vector: weights, pooling, length limit, precision."""
        ...

    @property
    def d_embed(self) -> int:
        """Length of a vector."""
        ...

    @property
    def n_truncated(self) -> int:
        """Texts, over all calls so far, that were longer than the model reads."""
        ...

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit-length rows `(n_texts, d_embed)` in the order asked; zero texts give zero rows."""
        ...


class Judge(Protocol):
    """Grades one text against a criterion, blind to the side."""

    @property
    def identity(self) -> str:
        """Names everything that changes a score."""
        ...

    def judge(self, questions: Sequence[Question]) -> list[Judgement]:
        """One judgement per question, in the order asked."""
        ...


@dataclass(frozen=True, slots=True)
class Contrast:
    """What a proposer sees: discovery texts of both sides within one scope.

    `base` and `intervention` are replies, decoded on the same prompts in equal numbers; with
    `is_paired`, `base[i]` and `intervention[i]` were decoded with the same noise. `weights
    (n_base,)` are those of text i of either side with which every prompt counts the same, although
    some were decoded more often (None: all texts count the same). For a segment cluster, `cluster`
    is its label, `exemplars` are its segments that best show the difference, best first, and
    `member_base (n_base,)` and `member_intervention (n_intervention,)` say which replies hold a
    segment of it.
    """

    scope: str | None
    cluster: str | None
    base: tuple[str, ...]
    intervention: tuple[str, ...]
    exemplars: tuple[str, ...] = ()
    member_base: NDArray[np.bool_] | None = None
    member_intervention: NDArray[np.bool_] | None = None
    is_paired: bool = False
    weights: NDArray[np.float64] | None = None


@dataclass(frozen=True, slots=True)
class Proposal:
    """A testable difference within a contrast.

    `in_base` and `in_intervention` say which of the contrast's texts meet the criterion; their
    sums give the discovery shares, and equal patterns mark near-duplicates.
    """

    criterion: str
    claim: str
    direction: Direction
    evidence_terms: tuple[str, ...]
    strength: float
    in_base: NDArray[np.bool_]
    in_intervention: NDArray[np.bool_]


class Proposer(Protocol):
    """Writes testable hypotheses about one contrast."""

    @property
    def identity(self) -> str:
        """Names everything that changes a proposal."""
        ...

    def propose(self, contrast: Contrast, max_proposals: int) -> list[Proposal]:
        """At most `max_proposals` proposals, strongest first; an empty side gives none."""
        ...
