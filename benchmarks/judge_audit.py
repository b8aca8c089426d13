"""One simulated audit, judged wave by wave with the functions of the library, and its reference.

The permutation p-values are normal ones, with the exact mean and variance of the sum within strata:
drawing 50,000 permutations for every look of every hypothesis would take days.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from benchmarks.judge_worlds import Case, World
from whatchanged import calibration, cascade, paired, prediction, sequential, stats

ALPHA = 0.05
# What Benjamini-Hochberg asks for where a third of the hypotheses are confirmed.
PLANNED_LEVEL = ALPHA / 3


@dataclass(frozen=True)
class Settings:
    """How the money is spent: the config keys that the library would have."""

    borderline: tuple[float, float] = (0.4, 0.6)
    audit_share: float = 0.03
    waves: tuple[float, ...] = (0.015, 0.03, 0.06, 0.15, 0.4)
    borderline_waves: tuple[float, ...] = (0.3, 0.6, 1.0, 1.0, 1.0)
    spent: tuple[float, ...] = (0.5, 0.6, 0.75, 0.9, 1.0)
    hopeless: tuple[float, ...] = (0.5, 0.15)
    least_chance: float = 0.4
    max_guard: float = 0.5


@dataclass
class Progress:
    """One hypothesis on its way. `stop` is the wave after which nothing more was asked, -1 for the
    cheap pass, `interval` the predicted one at that moment."""

    case: Case
    calibrated: NDArray[np.float64]
    order: NDArray[np.int64]
    chosen: NDArray[np.bool_]
    strata: cascade.Strata | None = None
    p_values: list[float] = field(default_factory=list)
    correlations: list[float] = field(default_factory=list)
    merged: NDArray[np.float64] | None = None
    p_value: float = 1.0
    guard: float = 1.0
    chance: float = 1.0
    stop: int = -1
    is_open: bool = True
    is_confirmed: bool = False
    interval: stats.ShareDifference | None = None
    n_read: int = 0

    @property
    def n_asked(self) -> int:
        return int((_per_text(self) & self.case.is_distinct).sum())


def judge_audit(
    cases: Sequence[Case], world: World, settings: Settings, rng: np.random.Generator
) -> list[Progress]:
    """The cheap pass, the pilot, and the waves, until every hypothesis is decided."""
    states = [_start(case, world, settings, rng) for case in cases]
    _calibrate(states, settings)
    shares = zip(settings.waves, settings.borderline_waves, strict=True)
    for wave, (share, borderline_share) in enumerate(shares):
        running = [state for state in states if state.is_open]
        for state in running:
            assert state.strata is not None
            state.chosen = cascade.choose_wave(
                state.strata, state.order, share, borderline_share, state.chosen
            )
            _look(state, world, settings, wave)
        decisions = sequential.decide(
            [s.p_value for s in states], [s.guard for s in states], [s.chance for s in states],
            alpha=ALPHA, max_guard=settings.max_guard, least_chance=settings.least_chance,
        )  # fmt: skip
        for state, decision in zip(states, decisions, strict=True):
            if state.is_open and decision != "open":
                state.is_open = False
                state.is_confirmed = decision == "confirmed"
    return states


def judge_all(cases: Sequence[Case], world: World) -> NDArray[np.bool_]:
    """The reference: every text judged by the expensive judge, the tests of `validate`."""
    p_values = np.array([_reference_p(case, world) for case in cases])
    return stats.benjamini_hochberg(p_values) <= ALPHA


def permutation_p(
    case: Case,
    values: NDArray[np.float64],
    world: World,
    of_interest: NDArray[np.bool_] | slice = slice(None),
) -> float:
    """One-sided, of the intervention's sum within prompt or pair, by its normal approximation."""
    from scipy.special import ndtr

    sides, scores = case.is_intervention[of_interest], values[of_interest]
    strata = _permuted_within(case, world)
    size, chosen, total, squares = (
        np.bincount(strata[of_interest], weights=weights)
        for weights in (np.ones(len(scores)), sides.astype(float), scores, scores**2)
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        moments = (
            chosen
            / size
            * np.array([total, (size - chosen) * (squares - total**2 / size) / (size - 1)])
        )
    expected, variance = np.nan_to_num(moments).sum(axis=1)
    if variance <= 1e-12:
        return 1.0
    sign = 1 if case.direction == "more" else -1
    return float(ndtr(-sign * (scores[sides].sum() - expected) / np.sqrt(variance)))


def _start(case: Case, world: World, settings: Settings, rng: np.random.Generator) -> Progress:
    """The cheap pass: equal blocks of every prompt's texts, until one leaves no hope."""
    n_texts = len(case.scores)
    n_units = n_texts // (2 if world.is_paired else 1)
    order = cascade.permanent_order(n_units, int(rng.integers(2**32)))
    per_prompt = n_texts // world.n_prompts
    n_blocks, n_read, is_hopeful = len(settings.hopeless), 0, True
    for block, most in enumerate(settings.hopeless, start=1):
        until = per_prompt * block // n_blocks // 2 * 2
        is_read = np.arange(n_texts) % per_prompt < until
        n_read = int((is_read & case.is_distinct).sum())
        is_hopeful = permutation_p(case, case.scores, world, is_read) <= most
        if not is_hopeful:
            break
    pilot = cascade.choose_pilot(
        order,
        settings.audit_share if is_hopeful else 0.0,
        case.is_identical if world.is_paired else None,
    )
    return Progress(case, case.scores, order, pilot, is_open=is_hopeful, n_read=n_read)


def _calibrate(states: Sequence[Progress], settings: Settings) -> None:
    """Cross-fitted calibrations from the pilots, and the strata that stay from here on."""
    running = [state for state in states if state.is_open]
    audited = [_per_text(state) for state in running]
    fits = calibration.cross_fit(
        np.concatenate([s.case.scores[a] for s, a in zip(running, audited, strict=True)] or [[]]),
        np.concatenate([s.case.meets[a] for s, a in zip(running, audited, strict=True)] or [[]]),
        np.repeat(np.arange(len(running)), [int(a.sum()) for a in audited]),
        len(running),
    )
    for state, fit in zip(running, fits, strict=True):
        state.calibrated = fit.apply(state.case.scores)
        if len(state.order) == len(state.calibrated):
            state.strata = cascade.stratify_texts(state.calibrated, settings.borderline)
        else:
            state.strata = cascade.stratify_pairs(
                _pairs(state.calibrated), state.case.is_identical, settings.borderline
            )


def _look(state: Progress, world: World, settings: Settings, wave: int) -> None:
    case, is_judged = state.case, _per_text(state)
    merged = sequential.merge_scores(state.calibrated, case.meets, is_judged)
    assert state.strata is not None
    labels = state.strata.labels
    if world.is_paired:
        look = sequential.look_at_pairs(_pairs(merged), case.is_identical, case.direction)
        predicted = prediction.predict_pairs(
            labels, _pairs(state.calibrated), _pairs(case.meets), state.chosen, case.is_identical
        )
    else:
        look = sequential.look_at_sides(merged, case.is_intervention, case.prompt, case.direction)
        predicted = prediction.predict_sides(
            labels, case.is_intervention, state.calibrated, case.meets, is_judged
        )
    margin = sequential.margin_p_value(look, world.min_effect)
    permuted = permutation_p(case, merged, world) if margin <= ALPHA else 1.0
    state.p_values.append(max(margin, permuted))
    if state.merged is not None:
        strata = _permuted_within(case, world)
        state.correlations.append(sequential.correlate_looks(state.merged, merged, strata))
    state.merged = merged
    state.p_value = sequential.sequential_p_value(
        state.p_values, state.correlations, settings.spent[: wave + 1]
    )
    state.guard = prediction.predicted_p_value(
        predicted, min_effect=world.min_effect, direction=case.direction
    )
    state.chance = sequential.chance_to_confirm(look, world.min_effect, PLANNED_LEVEL)
    state.interval = prediction.predicted_difference(predicted)
    state.stop = wave


def _permuted_within(case: Case, world: World) -> NDArray[np.int64]:
    return np.arange(len(case.scores)) // 2 if world.is_paired else case.prompt


def _per_text(state: Progress) -> NDArray[np.bool_]:
    return np.repeat(state.chosen, len(state.case.scores) // len(state.order))


def _pairs(values: NDArray) -> NDArray:
    return values.reshape(-1, 2)


def _reference_p(case: Case, world: World) -> float:
    meets, sides = case.meets, case.is_intervention
    permuted = permutation_p(case, meets.astype(float), world)
    if permuted > ALPHA:
        return permuted
    claim = {"min_effect": world.min_effect, "direction": case.direction}
    if world.is_paired:
        base, intervention = _pairs(meets).T
        margin = paired.paired_exact_p_value(
            int((base & intervention).sum()), int((base & ~intervention).sum()),
            int((~base & intervention).sum()), int((~base & ~intervention).sum()), **claim,
        )  # fmt: skip
    else:
        margin = stats.min_effect_p_value(
            int(meets[~sides].sum()), int((~sides).sum()),
            int(meets[sides].sum()), int(sides.sum()), **claim,
        )  # fmt: skip
    return max(permuted, margin)
