"""A proposer behind an API, against the loopback server and the real client."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pytest

from tests.loopback.calls import call_plainly
from tests.loopback.server import Loopback
from whatchanged.models.chat import CallResult, ChatReply, ChatRequest
from whatchanged.models.criteria import HasPhrase, parse_criterion
from whatchanged.models.llm_proposer import LlmProposer, read_hypotheses
from whatchanged.models.local_proposer import LocalProposer
from whatchanged.models.openai_compatible import OpenAICompatible
from whatchanged.models.protocols import Contrast
from whatchanged.models.rubric import Asking


class OneHot:
    """Every distinct text is a direction of its own."""

    identity, d_embed, n_truncated = "one-hot", 64, 0

    def __init__(self) -> None:
        self.seen: dict[str, int] = {}

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        places = [self.seen.setdefault(text, len(self.seen)) for text in texts]
        return np.eye(self.d_embed, dtype=np.float32)[places]


PLAIN = [f"Boil the water for {n} minutes." for n in range(30)]
SALTED = [f"{text} Sprinkle plenty of saffron." for text in PLAIN]


def contrast(cluster: str | None = "7", scope: str | None = "tea") -> Contrast:
    member = np.array([True] * 20 + [False] * 10)
    replies = [s if m else p for s, p, m in zip(SALTED, PLAIN, member, strict=True)]
    return Contrast(
        scope, cluster, tuple(PLAIN), tuple(replies), ("Sprinkle plenty of saffron.",),
        np.zeros(30, dtype=bool), member, is_paired=True,
    )  # fmt: skip


def proposer(call: object, names: tuple[str, ...] = ()) -> LlmProposer:
    return LlmProposer(call, Asking("p", "m"), LocalProposer(), OneHot(), names)  # type: ignore[arg-type]


def answering(*texts: str) -> tuple[object, list[ChatRequest]]:
    """A caller that gives these answers in turn, and what it was asked."""
    asked: list[ChatRequest] = []

    def call(requests: Sequence[ChatRequest]) -> list[CallResult]:
        asked.extend(requests)
        reply = ChatReply(texts[len(asked) - 1], "stop", "", 1, 1)
        return [CallResult(reply, "", 0.0, False)]

    return call, asked


def answer(*rows: tuple[str, str]) -> str:
    return json.dumps(
        {"hypotheses": [{"criterion": text, "more_often_in": side} for text, side in rows]}
    )


def test_a_model_behind_an_api_names_what_the_intervention_writes_more_often() -> None:
    with Loopback(rule="words") as server:
        provider = OpenAICompatible(None, endpoint=f"{server.url}/v1")
        asking = Asking(provider.identity, "rule-exact")
        found = LlmProposer(call_plainly(provider), asking, LocalProposer(), OneHot()).propose(
            contrast(), 8
        )
    assert found
    criteria = [parse_criterion(proposal.criterion) for proposal in found]
    assert {c.phrase for c in criteria if isinstance(c, HasPhrase)} <= {
        "saffron", "plenty", "sprinkle",
    }  # fmt: skip
    assert {proposal.direction for proposal in found} == {"more"}
    assert found[0].in_intervention.sum() == 20
    assert found[0].strength == pytest.approx(20**0.5, abs=0.5)


def test_a_model_sees_as_many_replies_of_either_side_and_no_side() -> None:
    call, asked = answering(answer(("The reply smiles.", "A")))
    proposer(call).propose(contrast(), 3)
    user = asked[0].user
    assert user.count("Boil the water") == 16
    assert not any(word in user for word in ("base", "intervention", "tea"))


def test_the_group_with_more_is_told_from_the_order_in_which_they_were_shown() -> None:
    directions = set()
    for number in range(8):
        shown = contrast(scope=f"scope {number}")
        call, asked = answering(answer(("The reply smiles.", "A")))
        (found,) = proposer(call).propose(shown, 3)
        part_a = asked[0].user.split("replies A")[1]
        directions.add((found.direction, "saffron" in part_a))
    assert directions == {("more", True), ("less", False)}


def test_what_was_found_is_told_and_not_proposed_again() -> None:
    once = answer(("The reply smiles.", "A"))
    call, asked = answering(once, once, once)
    asks = proposer(call)
    assert len(asks.propose(contrast(), 3)) == 1
    assert asks.propose(contrast("8"), 3) == []
    assert "The reply smiles." in asked[1].user
    assert "The reply smiles." not in asked[0].user


def test_a_criterion_that_names_a_side_or_a_model_is_left_out() -> None:
    call, _ = answering(
        answer(("The reply is of the base model.", "A"), ("The reply cites Zeta-7.", "B"))
    )
    assert proposer(call, ("zeta-7",)).propose(contrast(), 3) == []


@pytest.mark.parametrize(
    "text",
    [
        "no",
        '{"hypotheses": []}',
        '{"hypotheses": "x"}',
        answer(("Smiles.", "A")),
        answer(("The reply smiles.", "C")),
        answer(("The reply " + "x" * 300, "A")),
        answer(*[("The reply smiles.", "A")] * 4),
        '{"hypotheses": [{"criterion": "The reply smiles.", "more_often_in": "A", "sure": 1}]}',
        '{"hypotheses": [{"criterion": 7, "more_often_in": "A"}]}',
    ],
)
def test_an_answer_off_the_schema_is_asked_for_once_more_and_never_used(text: str) -> None:
    call, asked = answering(text, text)
    asks = proposer(call)
    assert asks.propose(contrast(), 3) == []
    assert len(asked) == 2
    assert len(asks.problems) == 1
    good = CallResult(
        ChatReply(answer(("The reply  smiles.", "B")), "stop", "", 1, 1), "", 0.0, False
    )
    assert read_hypotheses(good) == ([("The reply smiles.", "B")], "")


def test_whole_scopes_stay_with_the_local_proposer() -> None:
    call, asked = answering()
    local = LocalProposer().propose(contrast(None), 5)
    assert [p.criterion for p in proposer(call).propose(contrast(None), 5)] == [
        p.criterion for p in local
    ]
    assert asked == []
