"""A judge that is a language model behind an API."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, TypeVar

from whatchanged.models import rubric
from whatchanged.models.chat import CallResult, ChatReply, ChatRequest
from whatchanged.models.replies import (
    PreferenceReading,
    ScoreReading,
    read_preference,
    read_score,
)
from whatchanged.models.rubric import (
    VERSION,
    Asking,
    PairQuestion,
    ask_again,
    is_asked_again,
    preference_requests,
    score_request,
)
from whatchanged.records import Judgement, Outcome, Question

Caller: TypeAlias = Callable[[Sequence[ChatRequest]], list[CallResult]]
R = TypeVar("R", ScoreReading, PreferenceReading)


@dataclass(frozen=True, slots=True)
class PairJudgement:
    """Which of two texts meets the criterion better, asked in both orders.

    `preferred` is "undecided" where the two answers name different texts, or none; it is None
    where `outcome`, that of the first order without an answer, is not "answered".
    """

    preferred: Literal["first", "second", "undecided"] | None
    outcome: Outcome
    reason: str
    cost_usd: float | None


@dataclass(frozen=True, slots=True)
class LlmJudge:
    """Asks a model by `call`, which gives one result per request in the order asked.

    Equal questions are asked once, and the first of them carries the cost. An answer that cannot
    be read is asked for once more; a refusal, a cut or a failure is not.
    """

    call: Caller
    asking: Asking

    @property
    def identity(self) -> str:
        """Rubric, provider, model, and the settings of the answer."""
        how = self.asking
        return (
            f"llm:{VERSION}:{how.provider}:{how.model}:max_tokens={how.max_tokens}"
            f":temperature={how.temperature}:seed={how.seed}"
        )

    def judge(self, questions: Sequence[Question]) -> list[Judgement]:
        """One judgement per question, in the order asked; only answers have a score."""
        requests = [score_request(question, self.asking) for question in questions]
        answers = self._ask(requests, read_score)
        return [Judgement(read.score, read.outcome, read.reason, cost) for read, cost in answers]

    def compare(self, questions: Sequence[PairQuestion]) -> list[PairJudgement]:
        """One judgement per pair, in the order asked. Each pair costs two calls."""
        pairs = [preference_requests(question, self.asking) for question in questions]
        answers = self._ask([request for pair in pairs for request in pair], read_preference)
        return [
            merge_orders(forward, backward)
            for forward, backward in zip(answers[::2], answers[1::2], strict=True)
        ]

    def _ask(
        self, requests: Sequence[ChatRequest], read: Callable[[CallResult], R]
    ) -> list[tuple[R, float | None]]:
        """Reading and cost per request."""
        distinct = list(dict.fromkeys(requests))
        answers = dict(zip(distinct, self._call(distinct), strict=True))
        found = {request: (read(result), result.cost_usd) for request, result in answers.items()}
        unread = [
            request for request, (reading, _) in found.items() if reading.outcome == "malformed"
        ]
        again = self._call([ask_again(request) for request in unread])
        for request, result in zip(unread, again, strict=True):
            found[request] = (read(result), add_costs(found[request][1], result.cost_usd))
        return _charge_once(requests, found)

    def _call(self, requests: Sequence[ChatRequest]) -> list[CallResult]:
        return self.call(requests) if requests else []


def is_settled(request: ChatRequest, reply: ChatReply) -> bool:
    """Whether a reply may be kept for later runs: a complete one.

    Refusals and cuts are asked for again by the next run, and so is what was unreadable twice. A
    first unreadable reply is kept, although nothing is read from it: it leads to the second
    request, whose answer is what was paid for.
    """
    if reply.finish != "stop" or not is_asked_again(request):
        return reply.finish == "stop"
    result = CallResult(reply, "", None, is_cached=False)
    match request.schema:
        case rubric.SCORE_SCHEMA:
            return read_score(result).outcome == "answered"
        case rubric.PREFERENCE_SCHEMA:
            return read_preference(result).outcome == "answered"
    return True


def merge_orders(
    forward: tuple[PreferenceReading, float | None],
    backward: tuple[PreferenceReading, float | None],
) -> PairJudgement:
    """Both orders of a pair as one judgement: in `forward` the first text was A, in `backward` B.

    A judge that looks at the place and not at the text is always undecided.
    """
    (one, one_cost), (other, other_cost) = forward, backward
    cost = add_costs(one_cost, other_cost)
    for reading in (one, other):
        if reading.outcome != "answered":
            return PairJudgement(None, reading.outcome, reading.reason, cost)
    match (one.preferred, other.preferred):
        case ("A", "B"):
            return PairJudgement("first", "answered", "", cost)
        case ("B", "A"):
            return PairJudgement("second", "answered", "", cost)
    reason = f"{one.preferred} in one order, {other.preferred} in the other"
    return PairJudgement("undecided", "answered", reason, cost)


def add_costs(one: float | None, other: float | None) -> float | None:
    """The sum in US dollars; None where either is unknown."""
    return None if one is None or other is None else one + other


def _charge_once(
    requests: Sequence[ChatRequest], found: dict[ChatRequest, tuple[R, float | None]]
) -> list[tuple[R, float | None]]:
    charged: set[ChatRequest] = set()
    answers = []
    for request in requests:
        reading, cost = found[request]
        answers.append((reading, 0.0 if request in charged else cost))
        charged.add(request)
    return answers
