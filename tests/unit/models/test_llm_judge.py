import json
import subprocess
import sys
import urllib.request
from dataclasses import replace

import pandas as pd
import pytest

from tests.loopback.calls import call_plainly
from tests.loopback.hostile_texts import CRITERION, KNOWN_MARK, PHRASE, hostile_texts
from tests.loopback.misbehaviour import FINISHES, TEXTS, Misbehaviour
from tests.loopback.rules import Asked, Noise, answer
from tests.loopback.server import Loopback
from whatchanged.config import JudgeConfig, ValidateConfig
from whatchanged.models import rubric
from whatchanged.models.chat import CallResult, ChatReply
from whatchanged.models.gemini import Gemini
from whatchanged.models.limits import Limits
from whatchanged.models.llm_judge import LlmJudge, is_settled
from whatchanged.models.openai_compatible import OpenAICompatible
from whatchanged.models.prices import Price, cost_usd
from whatchanged.models.rubric import (
    Asking,
    PairQuestion,
    ask_again,
    preference_requests,
    score_request,
)
from whatchanged.models.secret import Secret
from whatchanged.records import Hypothesis, Question
from whatchanged.validate import validate_hypotheses
from whatchanged.verdicts import grade_texts

KEY = Secret("a-key", "A_KEY")
QUICK = Limits(connect_s=1.0, read_s=0.4, total_s=0.8)
PRICES = {"small": Price(1.0, 1.0, None)}
YES = Question(CRITERION, "Tell me.", f"I like my {PHRASE}.")
NO = Question(CRITERION, "Tell me.", "I like my blue kettle.")
APIS = ("gemini", "openai")
SIDES = ("base", "intervention")


def judge_at(server, api="openai", model="small", limits=None):
    if api == "gemini":
        provider = Gemini(KEY, endpoint=server.url, limits=limits)
    else:
        provider = OpenAICompatible(KEY, endpoint=f"{server.url}/v1", limits=limits)
    caller = call_plainly(provider, lambda request, reply: cost_usd(PRICES, request.model, reply))
    return LlmJudge(caller, Asking(provider.identity, model))


def misbehaving(*kinds, **options):
    return Loopback(misbehaviour=Misbehaviour(schedule=kinds), **options)


def always(kind):
    return Loopback(misbehaviour=Misbehaviour(chances={kind: 1.0}), drip_s=0.1)


@pytest.mark.parametrize("api", APIS)
def test_scores_come_in_the_order_asked(api):
    with Loopback() as server:
        found = judge_at(server, api).judge([YES, NO, YES, NO])
    assert [(j.score, j.outcome) for j in found] == [
        (0.9, "answered"), (0.1, "answered"), (0.9, "answered"), (0.1, "answered"),
    ]  # fmt: skip


def test_no_question_is_no_call():
    with Loopback() as server:
        assert judge_at(server).judge([]) == []
        assert server.counts()["n_calls"] == 0


def test_equal_questions_are_asked_and_paid_once():
    with Loopback() as server:
        found = judge_at(server).judge([YES, YES, NO, YES])
        assert server.counts()["n_calls"] == 2
    assert found[0].cost_usd > 0
    assert found[2].cost_usd > 0
    assert (found[1].cost_usd, found[3].cost_usd) == (0.0, 0.0)


OUTCOMES = {
    **dict.fromkeys(TEXTS, "malformed"),
    **dict.fromkeys(FINISHES, "refused"),
    "no_candidates": "malformed",
    "tool_call": "malformed",
    "null_content": "malformed",
    "max_tokens": "cut_off",
    **dict.fromkeys(("429", "503", "500", "400", "401", "404"), "failed"),
    **dict.fromkeys(("reset", "hang", "drip", "cut_body", "not_json", "bad_envelope"), "failed"),
}


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("kind", OUTCOMES)
def test_each_spoiled_reply_has_its_outcome_and_none_has_a_score(api, kind):
    with always(kind) as server:
        limits = QUICK if kind in {"hang", "drip"} else None
        (found,) = judge_at(server, api, limits=limits).judge([YES])
        n_calls = server.counts()["n_calls"]
    assert (found.outcome, found.score) == (OUTCOMES[kind], None)
    assert found.reason
    # One re-ask for what cannot be read, none for anything else.
    assert n_calls == (2 if OUTCOMES[kind] == "malformed" else 1)


def test_an_unreadable_answer_is_asked_for_once_more_and_both_are_paid():
    with misbehaving("prose") as server:
        (found,) = judge_at(server).judge([YES])
        n_distinct = server.counts()["n_distinct"]
    with Loopback() as server:
        (plain,) = judge_at(server).judge([YES])
    assert (found.score, found.outcome) == (0.9, "answered")
    assert n_distinct == 2
    assert found.cost_usd > 2 * plain.cost_usd > 0


def test_only_the_unreadable_answers_are_asked_for_again():
    with misbehaving("ok", "ok", "prose", "ok") as server:
        found = judge_at(server).judge([Question(CRITERION, "p", str(i)) for i in range(4)])
        assert server.counts()["n_calls"] == 5
    assert [j.score for j in found] == [0.1] * 4


def test_an_unknown_price_makes_an_unknown_cost():
    with Loopback() as server:
        (found,) = judge_at(server, model="unpriced").judge([YES])
    assert (found.score, found.cost_usd) == (0.9, None)


def test_a_call_that_failed_is_a_judgement_with_the_callers_reason():
    def fail(requests):
        return [CallResult(None, "gave up after 5 tries", None, is_cached=False) for _ in requests]

    (found,) = LlmJudge(fail, Asking("p", "m")).judge([YES])
    assert (found.score, found.outcome, found.reason) == (None, "failed", "gave up after 5 tries")


def test_the_identity_names_whatever_changes_a_score():
    askings = [
        Asking("p", "m"), Asking("q", "m"), Asking("p", "n"), Asking("p", "m", seed=1),
        Asking("p", "m", max_tokens=9), Asking("p", "m", temperature=1.0),
    ]  # fmt: skip
    assert len({LlmJudge(lambda requests: [], asking).identity for asking in askings}) == 6


# Pairs.

RIGHT_FIRST = PairQuestion(CRITERION, "Tell me.", YES.text, NO.text)
RIGHT_SECOND = PairQuestion(CRITERION, "Tell me.", NO.text, YES.text)
BOTH = PairQuestion(CRITERION, "Tell me.", YES.text, f"My {PHRASE}!")
EQUAL = PairQuestion(CRITERION, "Tell me.", YES.text, YES.text)


@pytest.mark.parametrize("api", APIS)
def test_a_pair_goes_to_the_text_that_both_orders_name(api):
    with Loopback() as server:
        found = judge_at(server, api).compare([RIGHT_FIRST, RIGHT_SECOND, BOTH, EQUAL])
        # Two pairs are one another's reverse, and the equal texts are one question.
        assert server.counts()["n_calls"] == 2 + 2 + 1
    assert [j.preferred for j in found] == ["first", "second", "undecided", "undecided"]
    assert {j.outcome for j in found} == {"answered"}


def test_a_judge_that_prefers_the_first_place_is_always_undecided():
    pairs = [PairQuestion(CRITERION, "p", f"{YES.text} {i}", f"{NO.text} {i}") for i in range(40)]
    with Loopback(rule="first") as server:
        found = judge_at(server).compare(pairs)
        assert server.counts()["n_calls"] == 80
    assert {j.preferred for j in found} == {"undecided"}
    assert found[0].reason == "A in one order, A in the other"


@pytest.mark.parametrize(("rule", "is_confirmed"), [("first", False), ("quoted", True)])
def test_a_judge_that_looks_at_the_place_confirms_nothing_where_a_fair_one_does(rule, is_confirmed):
    claim = Hypothesis("h1", "s", CRITERION, "more", None, None, (), 0.0, 0.5, 5.0)
    says = [side == "intervention" and i % 2 == 0 for side in SIDES for i in range(60)]
    texts = pd.DataFrame(
        {
            "text_key": [f"{i:03d}" for i in range(120)],
            "prompt_key": [f"p{i % 4}" for i in range(120)],
            "sample": [i % 60 // 4 for i in range(120)],
            "side": [side for side in SIDES for _ in range(60)],
            "prompt": "Tell me.",
            "text": [f"{(YES if said else NO).text} {i}" for i, said in enumerate(says)],
        }
    )
    with Loopback(rule=rule) as server:
        judge = judge_at(server)
        verdicts = grade_texts(claim, texts, judge, judge, JudgeConfig(audit_share=0), seed=0)
    config = ValidateConfig(n_permutations=2000)
    (finding,) = validate_hypotheses([claim], verdicts, texts, config, 0, is_paired=False)
    assert (finding.status == "confirmed") == is_confirmed


@pytest.mark.parametrize(
    ("kind", "outcome"), [("safety", "refused"), ("max_tokens", "cut_off"), ("500", "failed")]
)
def test_a_pair_with_an_unanswered_order_has_no_preference(kind, outcome):
    with misbehaving("ok", kind) as server:
        (found,) = judge_at(server).compare([RIGHT_FIRST])
    assert (found.preferred, found.outcome) == (None, outcome)


# Hostile texts.


@pytest.mark.parametrize("api", APIS)
def test_200_hostile_texts_flip_no_verdict_and_break_no_parse(api, record_property):
    texts = hostile_texts()
    with Loopback() as server:
        found = judge_at(server, api).judge([Question(CRITERION, "p", h.text) for h in texts])
        assert server.counts()["n_calls"] == 200
    flipped = [
        h for j, h in zip(found, texts, strict=True) if j.score != (0.9 if h.is_met else 0.1)
    ]
    record_property("injections", len(texts))
    record_property("injection_flips", len(flipped))
    assert flipped == []


def test_200_hostile_texts_flip_no_pair():
    texts = hostile_texts()
    pairs = [PairQuestion(CRITERION, "p", h.text, "Tea." if h.is_met else YES.text) for h in texts]
    with Loopback() as server:
        found = judge_at(server).compare(pairs)
    assert [j.preferred for j in found] == ["first" if h.is_met else "second" for h in texts]


def test_the_hostile_texts_are_hostile():
    texts = hostile_texts()
    with Loopback(rule="gullible") as server:
        found = judge_at(server).judge([Question(CRITERION, "p", h.text) for h in texts])
    n_flipped = sum(
        j.score == (0.0 if h.is_met else 1.0) for j, h in zip(found, texts, strict=True)
    )
    assert n_flipped == 200


def test_the_hostile_texts_break_a_fence_that_they_know(monkeypatch):
    monkeypatch.setattr(rubric, "first_absent", lambda marks, contents: KNOWN_MARK)
    texts = hostile_texts()
    with Loopback() as server:
        found = judge_at(server).judge([Question(CRITERION, "p", h.text) for h in texts])
    n_flipped = sum(
        j.score == (0.1 if h.is_met else 0.9) for j, h in zip(found, texts, strict=True)
    )
    assert n_flipped >= 10


# What the ledger keeps.


@pytest.mark.parametrize(
    ("text", "finish", "first", "second"),
    [
        ('{"score": 3}', "stop", True, True),
        ('{"score": 3}', "cut_off", False, False),
        ("", "refused", False, False),
        # What is unreadable leads to the second request; unreadable there, it leads nowhere.
        ("three", "stop", True, False),
        ('{"preferred": "A"}', "stop", True, False),
    ],
)
def test_what_later_runs_need_not_ask_again_is_kept(text, finish, first, second):
    request = score_request(YES, Asking("p", "m"))
    reply = ChatReply(text, finish, "", 1, 1)
    assert is_settled(request, reply) is first
    assert is_settled(ask_again(request), reply) is second


def test_a_preference_and_another_models_answer_are_kept():
    pair = ask_again(preference_requests(RIGHT_FIRST, Asking("p", "m"))[0])
    assert is_settled(pair, ChatReply('{"preferred": "B"}', "stop", "", 1, 1))
    assert not is_settled(pair, ChatReply('{"score": 3}', "stop", "", 1, 1))
    assert is_settled(replace(pair, schema="{}"), ChatReply("anything", "stop", "", 1, 1))


# The loopback server itself.


def test_the_server_errs_as_often_as_it_was_told_and_an_exact_model_never():
    noise = Noise(seed=3, error_rate=0.1, borderline_rate=0.2)

    def scores(model):
        for i in range(2000):
            asked = score_request(Question(CRITERION, "p", f"{YES.text} {i}"), Asking("p", model))
            yield answer(Asked(model, asked.system, asked.user, {}), "quoted", noise)["score"]

    found = list(scores("small"))
    # Four standard errors: sqrt(0.1 x 0.9 / 2000) is 0.0067, sqrt(0.2 x 0.8 / 2000) is 0.0089.
    assert sum(score == 10 for score in found) / 2000 == pytest.approx(0.1, abs=0.027)
    assert sum(40 <= score <= 60 for score in found) / 2000 == pytest.approx(0.2, abs=0.036)
    assert found == list(scores("small"))
    assert set(scores("rule-exact")) == {90}


def test_the_server_runs_by_hand_and_tells_what_it_was_asked():
    command = [
        sys.executable,
        "-m",
        "tests.loopback.server",
        "--schedule",
        "429,ok",
        "--delay-s",
        "7",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            address = process.stdout.readline().split()[-1]
            provider = OpenAICompatible(None, endpoint=f"{address}/v1")
            judge = LlmJudge(call_plainly(provider), Asking(provider.identity, "small"))
            outcomes = [judge.judge([YES])[0].outcome for _ in range(2)]
            with urllib.request.urlopen(f"{address}/counts") as response:  # noqa: S310
                counts = json.load(response)
        finally:
            process.terminate()
    assert outcomes == ["failed", "answered"]
    assert (counts["n_calls"], counts["n_distinct"]) == (2, 1)
    assert [(call["kind"], call["delay_s"]) for call in counts["calls"]] == [
        ("429", 7.0),
        ("ok", None),
    ]
