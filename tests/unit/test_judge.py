"""The cascade: who is asked again, and what is made of the answers."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whatchanged.errors import UsageError
from whatchanged.judge import (
    audit_error,
    blind_order,
    choose_escalations,
    hits_from_scores,
    merge_tiers,
    names_a_side,
    read_scores,
    restore_order,
)
from whatchanged.records import Judgement

NAN = float("nan")


def escalate(scores, audit_share=0.0, seed=0):
    outcomes = ["refused" if math.isnan(s) else "answered" for s in scores]
    return choose_escalations(
        scores, outcomes, borderline=(0.4, 0.6), audit_share=audit_share, seed=seed
    )


def test_the_borderline_includes_its_bounds():
    borderline, audit = escalate([0.39, 0.4, 0.5, 0.6, 0.61])

    assert borderline.tolist() == [False, True, True, True, False]
    assert not audit.any()


def test_texts_without_an_answer_are_not_escalated():
    borderline, audit = escalate([NAN, 0.5, 0.1], audit_share=1.0)

    assert borderline.tolist() == [False, True, False]
    assert audit.tolist() == [False, False, True]


def test_the_audit_is_a_share_of_the_decided_rounded_up():
    scores = [0.0] * 70 + [1.0] * 31 + [0.5] * 20

    borderline, audit = escalate(scores, audit_share=0.03)

    assert audit.sum() == 4  # 3 % of 101, rounded up
    assert not (audit & borderline).any()
    assert escalate(scores, audit_share=0.03).audit.tolist() == audit.tolist()
    assert escalate(scores, audit_share=0.03, seed=1).audit.tolist() != audit.tolist()


def test_every_decided_text_has_the_same_chance_to_be_audited():
    drawn = sum(escalate([0.0, 0.2, 0.9, 1.0], 0.5, seed).audit.astype(int) for seed in range(400))

    assert drawn.sum() == 800
    assert all(160 < n < 240 for n in drawn)


@pytest.mark.parametrize("score", [NAN, 1.5, -0.1])
def test_an_answer_without_a_proper_score_is_refused(score):
    with pytest.raises(UsageError, match="score in \\[0, 1\\]"):
        choose_escalations([score], ["answered"], borderline=(0.4, 0.6), audit_share=0, seed=0)


def test_scores_and_outcomes_must_match_in_number():
    with pytest.raises(UsageError, match="2 scores and 1 outcomes"):
        choose_escalations([0, 1], ["answered"], borderline=(0.4, 0.6), audit_share=0, seed=0)


def test_the_dearer_answer_wins_and_nothing_is_invented():
    merged = merge_tiers([0.5, 0.5, 0.1, NAN], [0.9, NAN, 0.8, NAN])

    assert merged[:3].tolist() == [0.9, 0.5, 0.8]
    assert math.isnan(merged[3])


def test_only_answered_judgements_have_scores():
    scores = read_scores(
        [Judgement(0.25, "answered"), Judgement(None, "refused"), Judgement(0.9, "malformed")]
    )

    assert scores[0] == 0.25
    assert np.isnan(scores[1:]).all()


def test_the_audit_counts_contradictions_across_the_threshold():
    cheap = [0.1, 0.2, 0.9, 1.0, 0.5, 0.0]
    dear = [0.4, 0.7, 0.8, 0.1, 0.9, NAN]
    audit = np.array([True, True, True, True, False, True])

    error = audit_error(cheap, dear, audit)

    assert (error.n_audited, error.n_disagree, error.rate) == (4, 2, 0.5)
    assert 0.14 < error.ci_low < 0.16  # Wilson for 2 of 4: 0.150 to 0.850
    assert 0.84 < error.ci_high < 0.86


def test_an_empty_audit_knows_nothing():
    error = audit_error([0.1], [NAN], np.array([False]))

    assert error.n_audited == 0
    assert math.isnan(error.rate)
    assert (error.ci_low, error.ci_high) == (0.0, 1.0)


def test_the_order_of_presentation_does_not_depend_on_the_order_of_arrival():
    keys = ["c", "a", "d", "b"]
    shown = [keys[i] for i in blind_order(keys, 3)]
    backwards = keys[::-1]

    assert shown == [backwards[i] for i in blind_order(backwards, 3)]
    assert sorted(shown) == sorted(keys)
    assert any([keys[i] for i in blind_order(keys, seed)] != shown for seed in range(5))


@given(st.lists(st.text(max_size=4), max_size=20), st.integers(0, 99))
def test_the_order_of_presentation_can_be_undone(keys, seed):
    order = blind_order(keys, seed)
    answers = [Judgement(None, "failed", keys[i]) for i in order]

    assert [a.reason for a in restore_order(order, answers)] == keys


@pytest.mark.parametrize(
    ("criterion", "found"),
    [
        ("The reply sounds like the base model.", "base model"),
        ("The reply is typical of the Intervention.", "Intervention"),
        ("The reply is one of the fine-tuned replies.", "fine-tuned replies"),
        ("The reply was written by tiny-llama-2.", "Tiny-Llama-2"),
        ('The reply contains the words "base model", or nearly the same words.', None),
        ("The reply mentions a base camp or an original idea.", None),
    ],
)
def test_a_criterion_that_gives_a_side_away_is_found(criterion, found):
    assert names_a_side(criterion, ["Tiny-Llama-2", ""]) == found


def test_hits_need_a_score():
    assert hits_from_scores([0.49, 0.5, 1.0]).tolist() == [False, True, True]
    with pytest.raises(UsageError, match="1 of 2 unscored"):
        hits_from_scores([0.5, NAN])
