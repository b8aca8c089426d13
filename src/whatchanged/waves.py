"""Judging in waves: what to ask next, and what the answers come to.

Everything here is a function of the verdicts so far. A call replays the whole audit from them: the
cheap pass in blocks, the pilot, the calibration, the waves with their looks (design/0008), up to
the first step that lacks an answer; that step is what to ask next. Nothing is remembered between
calls, so that a run that was killed goes on with the questions that it would have asked.

Choices of texts depend on cheap scores, on random numbers that belong to the texts, and on verdicts
of other hypotheses; sides only decide how long a hypothesis goes on. A text without an answer has
no score: without a cheap one it is left out (of a coupled pair, both are), and one that the
expensive judge left open counts as not asked about. Both are counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from whatchanged import cascade, prediction, sequential, stats
from whatchanged.calibration import cross_fit
from whatchanged.config import JudgeConfig
from whatchanged.errors import UsageError
from whatchanged.inquiry import Ask, Case, Inquiry, collect_cases, permuted_mean_p
from whatchanged.interim import Scored
from whatchanged.judge import hits_from_scores
from whatchanged.records import Finding
from whatchanged.validate import (
    HypothesisTest,
    examples,
    lacks_scores,
    sort_findings,
    write_finding,
)

FloatArray: TypeAlias = NDArray[np.float64]
BoolArray: TypeAlias = NDArray[np.bool_]
Number = TypeVar("Number", np.float64, np.bool_)


def next_questions(inquiry: Inquiry, verdicts: pd.DataFrame) -> list[Ask]:
    """What to ask next, given the `verdicts` (`verdicts.COLUMNS`) so far; nothing where all is
    decided. A text that has a verdict, answered or not, is not asked about again, and of two
    coupled texts that are identical only one is."""
    return _replay(inquiry, verdicts)[1]


def settle(inquiry: Inquiry, verdicts: pd.DataFrame) -> list[Finding]:
    """The findings, strongest first, once nothing is left to ask.

    P-values are those of the last look of each hypothesis, effect and interval what the expensive
    judge is predicted to say of all texts. A hypothesis that was dropped on cheap scores alone has
    a p-value of 1, the cheap judge's effect, and an interval that knows nothing of the expensive
    one. Raises UsageError while there is something to ask.
    """
    states, asks = _replay(inquiry, verdicts)
    if asks:
        n_texts = sum(len(ask.text_keys) for ask in asks)
        raise UsageError(
            f"expected verdicts on all that was to ask, found {n_texts} texts without: judge them "
            "first"
        )
    adjusted = stats.benjamini_hochberg([state.p_value for state in states])
    verdicts_of = dict(list(verdicts.groupby("hypothesis_id")))
    return sort_findings(
        write_finding(
            state.case.claim,
            _test(state, inquiry),
            float(p_adjusted),
            verdicts_of.get(state.case.claim.id, verdicts[:0]),
            inquiry.texts,
            inquiry.validation,
            is_confirmed=state.is_confirmed,
        )
        for state, p_adjusted in zip(states, adjusted, strict=True)
    )


@dataclass
class _State:
    """One hypothesis on its way: `case` holds all its texts, `read` those with a cheap score."""

    case: Case
    read: Case
    is_open: bool
    n_unread: int
    chosen: BoolArray
    calibrated: FloatArray
    strata: cascade.Strata | None = None
    p_values: list[float] = field(default_factory=list)
    correlations: list[float] = field(default_factory=list)
    merged: FloatArray | None = None
    p_value: float = 1.0
    guard: float = 1.0
    chance: float = 1.0
    interval: stats.ShareDifference | None = None
    is_confirmed: bool = False


def _replay(inquiry: Inquiry, verdicts: pd.DataFrame) -> tuple[list[_State], list[Ask]]:
    """How far the verdicts lead, and the questions of the step that they do not answer."""
    config = inquiry.judge
    states, asks = _read_cheap(inquiry, verdicts)
    if asks:
        return states, asks
    for state in states:
        if state.is_open:
            identical = state.read.is_identical if inquiry.is_paired else None
            state.chosen = cascade.choose_pilot(state.read.order, config.audit_share, identical)
            asks += state.read.ask("expensive", state.chosen, is_audit=True)
    if asks:
        return states, asks
    _calibrate([state for state in states if state.is_open], config)
    shares = zip(config.waves.shares, config.waves.borderline_shares, strict=True)
    for wave, (share, borderline_share) in enumerate(shares):
        running = [state for state in states if state.is_open]
        for state in running:
            assert state.strata is not None
            state.chosen = cascade.choose_wave(
                state.strata, state.read.order, share, borderline_share, state.chosen
            )
            asks += state.read.ask("expensive", state.chosen)
        if asks:
            return states, asks
        for state in running:
            _look(state, inquiry, config.waves.alpha_spent[: wave + 1])
        _decide(states, inquiry)
    return states, []


def _read_cheap(inquiry: Inquiry, verdicts: pd.DataFrame) -> tuple[list[_State], list[Ask]]:
    """The cheap pass: blocks of every prompt's texts, until one leaves no hope."""
    states: list[_State] = []
    asks: list[Ask] = []
    thresholds = inquiry.judge.waves.drop_above
    for case in collect_cases(inquiry, verdicts):
        is_hopeful, until = False, 0
        for block, most in enumerate(thresholds, start=1):
            until = max(1, case.n_per_prompt * block // len(thresholds))
            wanted = case.per_unit(case.position < until)
            if asked := case.ask("cheap", wanted):
                asks += asked
                break
            read = case.only(wanted & case.per_unit(~np.isnan(case.cheap)))
            is_hopeful = len(read.keys) > 0 and permuted_mean_p(read, read.cheap, inquiry) <= most
            if not is_hopeful:
                break
        in_reach = case.position < until
        read = case.only(case.per_unit(in_reach & ~np.isnan(case.cheap)))
        n_unread = int((in_reach & np.isnan(case.cheap)).sum())
        nothing = np.zeros(len(read.order), dtype=np.bool_)
        states.append(_State(case, read, is_hopeful, n_unread, nothing, read.cheap))
    return states, asks


def _calibrate(running: Sequence[_State], config: JudgeConfig) -> None:
    """Cross-fitted calibrations from the pilots, and the strata that stay from here on."""
    judged = [_is_judged(state) for state in running]
    none = np.zeros(0)
    fits = cross_fit(
        np.concatenate([none, *(s.read.cheap[j] for s, j in zip(running, judged, strict=True))]),
        np.concatenate([
            none.astype(bool), *(_meets(s.read)[j] for s, j in zip(running, judged, strict=True)),
        ]),
        np.repeat(np.arange(len(running)), [int(j.sum()) for j in judged]),
        len(running),
    )  # fmt: skip
    for state, fit in zip(running, fits, strict=True):
        state.calibrated = fit.apply(state.read.cheap)
        state.strata = (
            cascade.stratify_pairs(
                _pairs(state.calibrated), state.read.is_identical, config.borderline
            )
            if state.read.is_paired
            else cascade.stratify_texts(state.calibrated, config.borderline)
        )


def _look(state: _State, inquiry: Inquiry, spent: Sequence[float]) -> None:
    """What the verdicts up to this wave say of one hypothesis."""
    read, is_judged, meets = state.read, _is_judged(state), _meets(state.read)
    min_effect, direction = inquiry.validation.min_effect, state.case.claim.direction
    merged = sequential.merge_scores(state.calibrated, meets, is_judged)
    assert state.strata is not None
    labels = state.strata.labels
    if read.is_paired:
        look = sequential.look_at_pairs(_pairs(merged), read.is_identical, direction)
        predicted = prediction.predict_pairs(
            labels, _pairs(state.calibrated), _pairs(meets), read.per_unit(is_judged),
            read.is_identical,
        )  # fmt: skip
    else:
        look = sequential.look_at_sides(merged, read.is_intervention, read.prompts, direction)
        predicted = prediction.predict_sides(
            labels, read.is_intervention, state.calibrated, meets, is_judged
        )
    margin = sequential.margin_p_value(look, min_effect)
    state.p_values.append(max(margin, permuted_mean_p(read, merged, inquiry)))
    if state.merged is not None:
        state.correlations.append(sequential.correlate_looks(state.merged, merged, read.strata))
    state.merged = merged
    state.p_value = sequential.sequential_p_value(state.p_values, state.correlations, spent)
    state.guard = prediction.predicted_p_value(
        predicted, min_effect=min_effect, direction=direction
    )
    state.chance = sequential.chance_to_confirm(
        look, min_effect, inquiry.validation.alpha * sequential.HOPED_SHARE_OF_ALPHA
    )
    state.interval = prediction.predicted_difference(predicted)


def _decide(states: Sequence[_State], inquiry: Inquiry) -> None:
    decisions = sequential.decide(
        [s.p_value for s in states], [s.guard for s in states], [s.chance for s in states],
        alpha=inquiry.validation.alpha, max_guard=inquiry.judge.waves.max_guard,
        least_chance=inquiry.judge.waves.least_chance,
    )  # fmt: skip
    for state, decision in zip(states, decisions, strict=True):
        if state.is_open and decision != "open":
            state.is_open = False
            state.is_confirmed = decision == "confirmed"


def _test(state: _State, inquiry: Inquiry) -> HypothesisTest:
    """What is reported of a hypothesis whose judging is over."""
    read = state.read
    scores = read.cheap if state.merged is None else state.merged
    asked = read.per_text(state.chosen)
    n_silent = int((asked & np.isnan(read.expensive)).sum())
    quotable = _quotable(state, scores)
    return HypothesisTest(
        difference=state.interval or _cheap_difference(read),
        auc=stats.auc(scores[~read.is_intervention], scores[read.is_intervention]),
        p_value=state.p_value,
        n_texts=len(read.keys),
        n_unscored=state.n_unread + n_silent,
        incomplete=lacks_scores(state.n_unread, len(read.keys) + state.n_unread)
        or (bool(asked.any()) and lacks_scores(n_silent, int(asked.sum()))),
        supporting=examples(state.case.claim, quotable, supporting=True),
        contradicting=examples(state.case.claim, quotable, supporting=False),
    )


def _cheap_difference(read: Case) -> stats.ShareDifference:
    """The cheap judge's shares, in the widest interval there is."""
    hits = hits_from_scores(read.cheap)
    sides = [hits[read.is_intervention == side] for side in (False, True)]
    base, intervention = (float(side.mean()) if len(side) else np.nan for side in sides)
    return stats.ShareDifference(
        base, intervention, intervention - base, -1.0, 1.0, len(sides[0]), len(sides[1])
    )


def _quotable(state: _State, scores: FloatArray) -> Scored:
    """The texts that may stand as evidence: not those that both sides share."""
    read = state.read
    kept = np.flatnonzero(~read.per_text(read.is_identical))
    kept = kept[np.argsort(read.keys[kept])]
    return Scored(
        keys=read.keys[kept],
        scores=scores[kept],
        meets=hits_from_scores(scores[kept]),
        is_intervention=read.is_intervention[kept],
        strata=read.strata[kept],
        is_paired=read.is_paired,
        n_unscored=0,
    )


def _is_judged(state: _State) -> BoolArray:
    """Which of the texts that were chosen so far have an expensive verdict."""
    return state.read.per_text(state.chosen) & ~np.isnan(state.read.expensive)


def _meets(read: Case) -> BoolArray:
    return hits_from_scores(np.nan_to_num(read.expensive))


def _pairs(values: NDArray[Number]) -> NDArray[Number]:
    return values.reshape(-1, 2)
