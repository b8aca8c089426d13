"""Looks at fresh texts while they are decoded: a hypothesis stops once it is decided.

The fresh texts of a hypothesis come in blocks (`validate.looks`). After each block its test is
done on all its texts so far; it is confirmed, given up as hopeless, or gets its next block. Looking
several times is paid for by spending alpha (`sequential`), and Benjamini-Hochberg runs over the
sequential p-values of *all* hypotheses after every block. These never grow, so that what is
confirmed stays so; what is given up keeps its p-value, and no test that is not done can be a false
discovery. Intervals are repeated confidence intervals (Jennison and Turnbull 1989): those of all
looks hold together, so that whatever made a hypothesis stop, the last one holds.

Texts of one plan are looked at in the order of their sample numbers, equally many per prompt, so
that the looks of a difference are sums of independent parts: their correlation is the square root
of the share of texts that they have in common.

Everything here is a function of the verdicts so far: a call replays the looks from them, so that a
run that was killed decides as it would have.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from whatchanged import paired, sequential, stats
from whatchanged.config import LooksConfig, ValidateConfig
from whatchanged.judge import hits_from_scores
from whatchanged.keys import content_key, seed_from_key
from whatchanged.permute import Statistic, permutation_p_value
from whatchanged.records import Direction, Hypothesis, ValidationPlan


@dataclass(frozen=True, slots=True)
class Scored:
    """The texts of one hypothesis that count, by key: their scores, which meet the criterion and
    which are the intervention's, all `(n_texts,)`, and within which stratum (prompt or pair) sides
    may be exchanged. Keys are uniform: in their order, equal scores give examples from all prompts
    alike."""

    keys: NDArray[np.object_]
    scores: NDArray[np.float64]
    meets: NDArray[np.bool_]
    is_intervention: NDArray[np.bool_]
    strata: NDArray[np.int64]
    is_paired: bool
    n_unscored: int

    @classmethod
    def of(cls, rows: pd.DataFrame, is_paired: bool) -> Scored:
        answered = rows[rows["score"].notna()].sort_values("text_key")
        n_unscored = len(rows) - len(answered)
        unit = ["prompt_key", "sample"] if is_paired else ["prompt_key"]
        if is_paired:
            answered = answered[answered.groupby(unit)["side"].transform("size") == 2]
        scores = answered["score"].to_numpy(dtype=float)
        return cls(
            keys=answered["text_key"].to_numpy(),
            scores=scores,
            meets=hits_from_scores(scores),
            is_intervention=(answered["side"] == "intervention").to_numpy(),
            strata=answered.groupby(unit).ngroup().to_numpy().astype(np.int64),
            is_paired=is_paired,
            n_unscored=n_unscored,
        )

    def count_sides(self) -> tuple[int, int, int, int]:
        """Hits and texts of the base, hits and texts of the intervention."""
        base = ~self.is_intervention
        hits, hits_base = int(self.meets.sum()), int((self.meets & base).sum())
        return hits_base, int(base.sum()), hits - hits_base, int(self.is_intervention.sum())

    def count_pairs(self) -> tuple[int, int, int, int]:
        """Pairs of which both texts meet the criterion, the base's, the intervention's, neither."""
        n_pairs = len(self.keys) // 2
        base, intervention = (np.zeros(n_pairs, dtype=np.bool_) for _ in range(2))
        base[self.strata[self.meets & ~self.is_intervention]] = True
        intervention[self.strata[self.meets & self.is_intervention]] = True
        n_both, n_base, n_intervention = (
            int(kind.sum()) for kind in (base & intervention, base, intervention)
        )
        n_either = n_base + n_intervention - n_both
        return n_both, n_base - n_both, n_intervention - n_both, n_pairs - n_either


@dataclass(frozen=True, slots=True)
class Standing:
    """What a hypothesis has come to: `tested` says on how many of its texts (`n_per_prompt` 0
    before its first look) and `next` on how many its next look will be, None after its last. The
    p-value is the sequential one, `confidence` that of its repeated interval now."""

    scored: Scored
    tested: ValidationPlan
    next: ValidationPlan | None
    p_value: float
    confidence: float
    is_confirmed: bool


@dataclass(frozen=True, slots=True)
class Block:
    """Fresh texts to decode, `counts` per prompt and side after the `already` decoded ones, so that
    every one of the `plans` finds the texts of its next look. No plans: all is decided."""

    counts: dict[str, int]
    already: dict[str, int]
    plans: list[ValidationPlan]


@dataclass
class _Course:
    """A hypothesis on its way through the looks."""

    claim: Hypothesis
    plan: ValidationPlan
    rows: pd.DataFrame
    ends: tuple[tuple[int, float], ...]
    scored: Scored
    n_looks: int = 0
    p_values: list[float] = field(default_factory=list)
    p_value: float = 1.0
    chance: float = 1.0
    is_open: bool = True
    is_confirmed: bool = False

    @property
    def n_tested(self) -> int:
        return self.ends[self.n_looks - 1][0] if self.n_looks else 0

    @property
    def may_look(self) -> bool:
        return self.is_open and self.n_looks < len(self.ends)

    @property
    def correlations(self) -> list[float]:
        ends = [end for end, _ in self.ends[: self.n_looks]]
        return [math.sqrt(a / b) for a, b in pairwise(ends)]

    @property
    def spent(self) -> list[float]:
        return [spent for _, spent in self.ends[: self.n_looks]]


def look_ends(n_per_prompt: int, looks: LooksConfig) -> tuple[tuple[int, float], ...]:
    """The samples per prompt up to which each look goes, with the share of alpha that may be spent
    up to it. Looks that would fall on the same sample are one, the last of them."""
    ends = {
        math.ceil(share * n_per_prompt - 1e-9): spent
        for share, spent in zip(looks.at, looks.alpha_spent, strict=True)
    }
    return tuple(ends.items()) if n_per_prompt else ()


def replay(
    claims: Sequence[Hypothesis],
    plans: Sequence[ValidationPlan],
    scores: pd.DataFrame,
    config: ValidateConfig,
    seed: int,
    *,
    is_paired: bool,
    n_looks: int,
) -> list[Standing]:
    """Where every hypothesis stands after `n_looks` looks, in the order of `claims` and `plans`.

    `scores` has `hypothesis_id`, `text_key`, `prompt_key`, `sample`, `side` and `score`, NaN where
    there is none, of at least the texts that these looks are at.
    """
    rows_of = dict(list(scores.groupby("hypothesis_id")))
    nothing = Scored.of(scores[:0], is_paired)
    courses = [
        _Course(
            claim, plan, rows_of.get(claim.id, scores[:0]),
            look_ends(plan.n_per_prompt, config.looks), nothing,
        )
        for claim, plan in zip(claims, plans, strict=True)
    ]  # fmt: skip
    for _ in range(n_looks):
        for course in courses:
            if course.may_look:
                _look(course, config, seed, is_paired)
        decisions = sequential.decide(
            [course.p_value for course in courses], [0.0] * len(courses),
            [course.chance for course in courses],
            alpha=config.alpha, max_guard=1.0, least_chance=config.looks.least_chance,
        )  # fmt: skip
        for course, decision in zip(courses, decisions, strict=True):
            if course.is_open and decision != "open":
                course.is_open, course.is_confirmed = False, decision == "confirmed"
    return [_stand(course) for course in courses]


def plan_block(standings: Sequence[Standing]) -> Block:
    """The texts of the next look at every open hypothesis."""
    plans = [replace(s.next, first=s.tested.n_per_prompt) for s in standings if s.next]
    already = pool_counts([s.tested for s in standings if s.tested.n_per_prompt])
    wanted = pool_counts(plans)
    counts = {key: n - already.get(key, 0) for key, n in wanted.items()}
    return Block({key: n for key, n in counts.items() if n > 0}, already, plans)


def pool_counts(plans: Sequence[ValidationPlan]) -> dict[str, int]:
    """Texts to decode per validation prompt and side, so that every plan finds its texts.

    Hypotheses share texts: a prompt gets the largest number that any plan asks of it.
    """
    counts: dict[str, int] = {}
    for plan in plans:
        for key in plan.prompt_keys:
            counts[key] = max(counts.get(key, 0), plan.n_per_prompt)
    return counts


def sum_counts(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """The sum of some counts per prompt."""
    total: Counter[str] = Counter()
    for part in parts:
        total.update(part)
    return dict(total)


def compare(
    scored: Scored, min_effect: float, direction: Direction, confidence: float = 0.95
) -> tuple[stats.ShareDifference, float]:
    """The difference of the shares, and the p-value of its being at most `min_effect`."""
    if scored.is_paired:
        pairs = scored.count_pairs()
        return (
            paired.paired_share_difference(*pairs, confidence=confidence),
            _exact_p(*pairs, min_effect, direction),
        )
    counts = scored.count_sides()
    return (
        stats.share_difference(*counts, confidence=confidence),
        stats.min_effect_p_value(*counts, min_effect=min_effect, direction=direction),
    )


def permutation_seed(hypothesis: Hypothesis, seed: int) -> int:
    """The seed of the permutations of one hypothesis in an audit."""
    return seed_from_key(content_key("permutation/1", seed, hypothesis.criterion, hypothesis.scope))


def permuted_p(
    scores: NDArray[np.float64],
    is_intervention: NDArray[np.bool_],
    strata: NDArray[np.int64],
    claim: Hypothesis,
    n_draws: int,
    seed: int,
    statistic: Statistic,
) -> float:
    """The one-sided p-value of a claim under permutation of sides within strata, remembered: a
    replay comes by the looks of those before it."""
    return _permuted_p(
        scores.astype(np.float64).tobytes(),
        is_intervention.tobytes(),
        strata.astype(np.int64).tobytes(),
        claim.direction,
        n_draws,
        permutation_seed(claim, seed),
        statistic,
    )


def _look(course: _Course, config: ValidateConfig, seed: int, is_paired: bool) -> None:
    """Look at the texts of one hypothesis up to its next end."""
    end = course.ends[course.n_looks][0]
    course.n_looks += 1
    course.scored = scored = Scored.of(course.rows[course.rows["sample"] < end], is_paired)
    direction = course.claim.direction
    difference, margin = compare(scored, config.min_effect, direction)
    permuted = permuted_p(
        scored.scores, scored.is_intervention, scored.strata, course.claim,
        config.n_permutations, seed, "rank",
    )  # fmt: skip
    course.p_values.append(max(margin, permuted))
    course.p_value = sequential.sequential_p_value(
        course.p_values, course.correlations, course.spent
    )
    effect = difference.effect if direction == "more" else -difference.effect
    error = _null_error(scored)
    course.chance = sequential.chance_to_confirm(
        sequential.Look(effect, error, 1.0, error * math.sqrt(end / course.plan.n_per_prompt)),
        config.min_effect,
        config.alpha * sequential.HOPED_SHARE_OF_ALPHA,
    )


def _null_error(scored: Scored) -> float:
    """The standard error of the difference without one; 0 where there is nothing to compare.

    With one discordant pair of prior, or a hit and a miss: no hit so far is not certainty.
    """
    if scored.is_paired:
        _, n_base, n_intervention, _ = scored.count_pairs()
        return math.sqrt(n_base + n_intervention + 1) / max(1, len(scored.keys) // 2)
    hits_base, n_base, hits, n = scored.count_sides()
    if not n_base or not n:
        return 0.0
    share = stats.shrunk_share(hits_base + hits, n_base + n)
    return math.sqrt(share * (1 - share) * (1 / n_base + 1 / n))


def _stand(course: _Course) -> Standing:
    following = course.ends[course.n_looks][0] if course.may_look else None
    return Standing(
        scored=course.scored,
        tested=replace(course.plan, n_per_prompt=course.n_tested),
        next=None if following is None else replace(course.plan, n_per_prompt=following),
        p_value=course.p_value,
        confidence=sequential.repeated_confidence(course.correlations, course.spent),
        is_confirmed=course.is_confirmed,
    )


@lru_cache(maxsize=2048)
def _exact_p(
    n_both: int, n_base: int, n_intervention: int, n_neither: int, least: float, way: Direction
) -> float:
    return paired.paired_exact_p_value(
        n_both, n_base, n_intervention, n_neither, min_effect=least, direction=way
    )


@lru_cache(maxsize=1024)
def _permuted_p(
    scores: bytes,
    sides: bytes,
    strata: bytes,
    direction: Direction,
    n_draws: int,
    seed: int,
    statistic: Statistic,
) -> float:
    return permutation_p_value(
        np.frombuffer(scores, dtype=np.float64),
        np.frombuffer(sides, dtype=np.bool_),
        np.frombuffer(strata, dtype=np.int64),
        n_draws=n_draws,
        rng=np.random.default_rng(seed),
        alternative="greater" if direction == "more" else "less",
        statistic=statistic,
    )
