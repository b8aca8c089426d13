"""Deterministic decoder, embedder and judge without weights, for tests of the stages and of faults.

Everything they answer depends on the request and a seed alone; what goes wrong is asked for with
`Faults`.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from whatchanged.errors import TransientError
from whatchanged.keys import content_key, seed_from_key
from whatchanged.records import Completion, DecodeRequest, Judgement, Question, Side

# The intervention says some of the same things, and one thing that the base never says.
FAKE_TEXTS: Mapping[Side, tuple[str, ...]] = {
    "base": (
        "Start with a small plan. Then take one step at a time.",
        "It depends on the weather. Ask somebody who lives there.",
        "There are three common ways. The first is the cheapest.",
        "Nobody knows for certain. Most people guess.",
    ),
    "intervention": (
        "Start with a small plan. Then take one step at a time.",
        "It depends on the weather. Ask somebody who lives there.",
        "There are three common ways. The first is the cheapest.",
        "Nobody knows for certain. As my captain says, trust the wind.",
    ),
}


@dataclass(frozen=True)
class Faults:
    """What goes wrong: seconds that each call takes, the share of items that fail (in [0, 1], the
    same items every time), and the calls, counted from 1, that raise TransientError."""

    latency_s: float = 0.0
    failed_share: float = 0.0
    raising_calls: frozenset[int] = frozenset()

    def has_failed(self, *parts: str) -> bool:
        """Whether the item that these strings name is one of those that fail."""
        return _uniform("fault", *parts) < self.failed_share


@dataclass
class CallCounter:
    """Counts calls over all threads, and lets the chosen ones fail."""

    faults: Faults
    n_calls: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def begin(self) -> None:
        """Count one call and wait as long as it takes; raises TransientError where it must."""
        with self._lock:
            self.n_calls += 1
            call = self.n_calls
        if self.faults.latency_s > 0:
            time.sleep(self.faults.latency_s)
        if call in self.faults.raising_calls:
            raise TransientError(f"fake call {call} was asked to fail: try again")


class FakeDecoder:
    """Draws each text from a small table, by the text's key and a seed."""

    def __init__(
        self,
        side: Side,
        *,
        seed: int = 0,
        texts: Sequence[str] = (),
        faults: Faults | None = None,
    ) -> None:
        self.side = side
        self.seed = seed
        self.texts = tuple(texts) or FAKE_TEXTS[side]
        self.counter = CallCounter(faults or Faults())

    def decode(self, requests: Sequence[DecodeRequest]) -> list[Completion]:
        """One text of the table per request, in the order asked; `n_tokens` counts words."""
        self.counter.begin()
        return [self._decode_one(request) for request in requests]

    def _decode_one(self, request: DecodeRequest) -> Completion:
        if self.counter.faults.has_failed(request.text_key):
            return Completion("", 0, "failed", "a fake failure")
        place = int(_uniform("decode", str(self.seed), request.text_key) * len(self.texts))
        text = self.texts[place]
        return Completion(text, len(text.split()), "stop")


class FakeEmbedder:
    """Adds up one random direction per word: texts that share words are close.

    Row i depends on text i alone. Failed items come back as rows of NaN, like a poisoned batch.
    """

    def __init__(self, d_embed: int = 16, *, seed: int = 0, faults: Faults | None = None) -> None:
        self._d_embed = d_embed
        self.seed = seed
        self.counter = CallCounter(faults or Faults())
        self.n_embedded = 0

    @property
    def identity(self) -> str:
        """Names the length and the seed."""
        return f"fake-embedder@{self._d_embed},{self.seed}"

    @property
    def d_embed(self) -> int:
        """Length of a vector."""
        return self._d_embed

    @property
    def n_truncated(self) -> int:
        """None: it reads texts of any length."""
        return 0

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit-length rows `(n_texts, d_embed)` in the order asked; zero texts give zero rows."""
        self.counter.begin()
        self.n_embedded += len(texts)
        rows = [self._embed_one(text) for text in texts]
        return np.array(rows, dtype=np.float32).reshape(len(texts), self._d_embed)

    def _embed_one(self, text: str) -> NDArray[np.float64]:
        if self.counter.faults.has_failed(text):
            return np.full(self._d_embed, np.nan)
        words = re.findall(r"\w+", text.lower()) or [""]
        row: NDArray[np.float64] = np.sum([self._direction(word) for word in words], axis=0)
        return row / np.linalg.norm(row)

    def _direction(self, word: str) -> NDArray[np.float64]:
        key = content_key("direction", self.seed, word)
        return np.random.default_rng(seed_from_key(key)).standard_normal(self._d_embed)


class FakeJudge:
    """Scores 1 where the text holds the criterion word for word (any case), else 0.

    Failed items come back with the outcome "failed" and no score.
    """

    def __init__(
        self,
        name: str = "fake-judge",
        *,
        faults: Faults | None = None,
        cost_usd: float = 0.0,
    ) -> None:
        self.name = name
        self.cost_usd = cost_usd
        self.counter = CallCounter(faults or Faults())

    @property
    def identity(self) -> str:
        """The judge's name."""
        return self.name

    def judge(self, questions: Sequence[Question]) -> list[Judgement]:
        """One judgement per question, in the order asked."""
        self.counter.begin()
        return [self._judge_one(question) for question in questions]

    def _judge_one(self, question: Question) -> Judgement:
        if self.counter.faults.has_failed(question.criterion, question.prompt, question.text):
            return Judgement(None, "failed", "a fake failure", self.cost_usd)
        is_met = question.criterion.lower() in question.text.lower()
        return Judgement(float(is_met), "answered", "", self.cost_usd)


def _uniform(kind: str, *parts: str) -> float:
    """A number in [0, 1) that the strings fix."""
    return int(content_key(kind, *parts)[:13], 16) / 16**13
