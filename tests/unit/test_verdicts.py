from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import pytest

from whatchanged.config import JudgeConfig
from whatchanged.errors import UsageError
from whatchanged.records import Hypothesis, Judgement, Question
from whatchanged.verdicts import (
    COLUMNS,
    audit_verdicts,
    cost_of_answers,
    count_calls,
    empty_verdicts,
    final_scores,
    grade_texts,
)


class TableJudge:
    """Scores a text by a table; a text that is not in it is refused. Remembers its questions."""

    def __init__(self, identity: str, scores: dict[str, float], cost_usd: float | None = 0.0):
        self.identity = identity
        self.scores = scores
        self.cost_usd = cost_usd
        self.asked: list[Question] = []

    def judge(self, questions: Sequence[Question]) -> list[Judgement]:
        self.asked += questions
        return [
            Judgement(self.scores[q.text], "answered", cost_usd=self.cost_usd)
            if q.text in self.scores
            else Judgement(None, "refused", "no", cost_usd=self.cost_usd)
            for q in questions
        ]


CLAIM = Hypothesis("h1", "s", "The reply is kind.", "more", None, None, (), 0.1, 0.2, 3.0)
TEXTS = pd.DataFrame(
    {"text_key": ["k1", "k2", "k3", "k4"], "prompt": ["p"] * 4, "text": ["a", "b", "c", "d"]}
)


def grade(audit_share: float = 0.0) -> tuple[pd.DataFrame, TableJudge, TableJudge]:
    cheap = TableJudge("cheap", {"a": 0.0, "b": 0.5, "c": 1.0})
    dear = TableJudge("dear", {"a": 1.0, "b": 0.9, "c": 1.0, "d": 1.0}, cost_usd=0.5)
    config = JudgeConfig(audit_share=audit_share)
    return grade_texts(CLAIM, TEXTS, cheap, dear, config, seed=0), cheap, dear


def test_only_the_borderline_goes_up() -> None:
    verdicts, cheap, dear = grade()
    assert [q.text for q in dear.asked] == ["b"]
    assert {q.text for q in cheap.asked} == {"a", "b", "c", "d"}
    assert tuple(verdicts.columns) == COLUMNS


def test_the_dearer_judge_decides_and_a_refusal_stays_unscored() -> None:
    verdicts, _, _ = grade()
    scores = final_scores(verdicts).set_index("text_key")["score"]
    assert scores["k1"] == 0.0
    assert scores["k2"] == 0.9
    assert scores["k3"] == 1.0
    assert pd.isna(scores["k4"])


def test_an_audit_measures_the_cheap_judge_where_it_was_sure() -> None:
    verdicts, _, _ = grade(audit_share=1.0)
    audit = audit_verdicts(verdicts)
    assert (audit.n_audited, audit.n_disagree) == (2, 1)  # "a": 0.0 against 1.0; "c" agrees


def test_calls_and_unscored_texts_are_counted_per_tier() -> None:
    assert count_calls(grade()[0]) == {
        "cheap_calls": 4, "cheap_unscored": 1, "expensive_calls": 1, "expensive_unscored": 0,
    }  # fmt: skip


def priced(*rows: tuple[str, str, float | None]) -> pd.DataFrame:
    columns = ["text_key", "tier", "cost_usd"]
    return pd.DataFrame(rows, columns=columns).astype({"cost_usd": float})


WORDS = pd.DataFrame(
    {
        "text_key": ["k1", "k2", "k3", "k4"],
        "prompt_key": ["p", "p", "p", "q"],
        "text": ["a", "a", "b", "a"],
    }
)


def test_texts_that_read_alike_share_a_reply_whenever_they_were_asked_about() -> None:
    together = priced(("k1", "cheap", 0.5), ("k2", "cheap", 0.0), ("k3", "cheap", 0.25))
    one_by_one = priced(("k1", "cheap", 0.5), ("k2", "cheap", 0.5), ("k3", "cheap", 0.25))
    assert cost_of_answers(together, WORDS) == cost_of_answers(one_by_one, WORDS) == 0.75


def test_each_tier_and_each_prompt_has_replies_of_its_own() -> None:
    verdicts = priced(("k1", "cheap", 0.5), ("k1", "expensive", 4.0), ("k4", "cheap", 0.5))
    assert cost_of_answers(verdicts, WORDS) == 5.0
    assert cost_of_answers(verdicts[:0], WORDS) == 0.0


def test_one_unknown_price_makes_the_cost_unknown() -> None:
    assert cost_of_answers(priced(("k1", "cheap", 0.5), ("k3", "cheap", None)), WORDS) is None
    judge = TableJudge("j", {"a": 1.0, "b": 1.0, "c": 1.0, "d": 1.0}, cost_usd=None)
    verdicts = grade_texts(CLAIM, TEXTS, judge, judge, JudgeConfig(audit_share=0), seed=0)
    assert verdicts["cost_usd"].isna().all()


def test_judges_see_criterion_prompt_and_text_and_nothing_else() -> None:
    _, cheap, _ = grade()
    assert {(q.criterion, q.prompt) for q in cheap.asked} == {("The reply is kind.", "p")}


def test_a_criterion_that_names_a_side_is_refused() -> None:
    leaky = Hypothesis(
        "h", "s", "The intervention model is kind.", "more", None, None, (), 0, 1, 1.0
    )
    judge = TableJudge("j", {})
    with pytest.raises(UsageError, match="judges must be blind"):
        grade_texts(leaky, TEXTS, judge, judge, JudgeConfig(), seed=0)
    assert judge.asked == []


def test_no_texts_and_no_verdicts_keep_their_columns() -> None:
    judge = TableJudge("j", {})
    graded = grade_texts(CLAIM, TEXTS[:0], judge, judge, JudgeConfig(), seed=0)
    assert len(graded) == 0
    assert tuple(graded.columns) == tuple(empty_verdicts().columns) == COLUMNS
    assert len(final_scores(empty_verdicts())) == 0
    assert audit_verdicts(empty_verdicts()).n_audited == 0
