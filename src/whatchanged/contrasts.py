"""How strongly two sets of texts differ: the one scale on which all proposals are compared."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from whatchanged.paired import mcnemar_z

BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Sides:
    """Texts of both sides in one row: the first `n_base` are the base's, the others the
    intervention's. A mask of texts is `(n_texts,)`. With `is_paired` text i of one side and text i
    of the other were decoded with the same noise, and only pairs that differ count."""

    n_base: int
    n_intervention: int
    is_paired: bool = False

    @property
    def n_texts(self) -> int:
        """Texts of both sides."""
        return self.n_base + self.n_intervention

    @property
    def is_base(self) -> BoolArray:
        """Which texts are the base's."""
        return np.arange(self.n_texts) < self.n_base

    def z(self, held: BoolArray) -> float:
        """The z-score of meeting a criterion, intervention over base."""
        base, intervention = self.split(held)
        n_both = int((base & intervention).sum()) if self.is_paired else 0
        return float(self.z_of_counts(int(base.sum()), int(intervention.sum()), n_both))

    def z_of_counts(
        self, hits_base: ArrayLike, hits_intervention: ArrayLike, n_both: ArrayLike
    ) -> NDArray[np.float64]:
        """The z-scores of criteria from their counts; `n_both` pairs meet one on both sides."""
        if self.is_paired:
            return mcnemar_z(np.subtract(hits_base, n_both), np.subtract(hits_intervention, n_both))
        return log_odds_z(hits_base, self.n_base, hits_intervention, self.n_intervention)

    def effect(self, held: BoolArray) -> float:
        """The share of the intervention's texts minus that of the base's, in [-1, 1]."""
        base, intervention = self.split(held)
        return float(intervention.mean() - base.mean())

    def split(self, held: BoolArray) -> tuple[BoolArray, BoolArray]:
        """The base's part of a mask and the intervention's."""
        return held[: self.n_base], held[self.n_base :]

    def largest_z(self, n_held: NDArray[np.int64]) -> NDArray[np.float64]:
        """The largest |z| that a criterion met by `n_held` texts can have, `(n_criteria,)`."""
        base = np.minimum(n_held, self.n_base)
        intervention = np.minimum(n_held, self.n_intervention)
        rest_b, rest_i = n_held - base, n_held - intervention
        return np.maximum(
            self.z_of_counts(rest_i, intervention, rest_i), -self.z_of_counts(base, rest_b, rest_b)
        )


def log_odds_z(
    hits_base: ArrayLike, n_base: ArrayLike, hits_intervention: ArrayLike, n_intervention: ArrayLike
) -> NDArray[np.float64]:
    """The z-score of the log-odds ratio, intervention over base, of meeting a criterion.

    The log-odds have an informative prior (Monroe, Colaresi and Quinn 2008, "Fightin' Words"): the
    pooled counts, weighing as much as one side has texts on average. The result is scaled to unit
    variance where both shares are equal, so that it reads like any z-score, and it stays finite and
    honest where one side has no hit (0 of n against k of n gives 0.95 times the root of k).
    Arguments broadcast. 0 where a side has no texts, or where all texts or none meet the criterion.
    """
    hits_b, n_b = np.asarray(hits_base, dtype=float), np.asarray(n_base, dtype=float)
    hits_i, n_i = (
        np.asarray(hits_intervention, dtype=float),
        np.asarray(n_intervention, dtype=float),
    )
    n = n_b + n_i
    with np.errstate(divide="ignore", invalid="ignore"):
        share = (hits_b + hits_i) / n
        alpha, beta = share * n / 2, (1 - share) * n / 2
        with_b, without_b = hits_b + alpha, n_b - hits_b + beta
        with_i, without_i = hits_i + alpha, n_i - hits_i + beta
        difference = np.log(with_i / without_i) - np.log(with_b / without_b)
        # The posterior variance counts the prior as data; these factors undo that, side by side.
        variance = (1 / with_b + 1 / without_b) * n_b / (n_b + n / 2)
        variance = variance + (1 / with_i + 1 / without_i) * n_i / (n_i + n / 2)
        z = difference / np.sqrt(variance)
    defined = (n_b > 0) & (n_i > 0) & (share > 0) & (share < 1)
    return np.where(defined, z, 0.0)


def stratified_z(
    in_base: BoolArray, in_intervention: BoolArray, by_base: BoolArray, by_intervention: BoolArray
) -> float:
    """The Mantel-Haenszel z-score of a criterion between the sides, within the texts that meet
    another criterion (`by_*`) and within those that do not.

    Arrays are `(n_base,)` and `(n_intervention,)`. Near 0 where the other criterion explains the
    whole difference; 0 where no stratum has texts of both sides.
    """
    excess = variance = 0.0
    for met in (True, False):
        base, intervention = in_base[by_base == met], in_intervention[by_intervention == met]
        n_b, n_i = len(base), len(intervention)
        n, hits_i = n_b + n_i, int(intervention.sum())
        hits = int(base.sum()) + hits_i
        if n_b and n_i:
            excess += hits_i - n_i * hits / n
            variance += n_b * n_i * hits * (n - hits) / (n * n * (n - 1))
    return excess / variance**0.5 if variance > 0 else 0.0


def concordant_z(
    in_base: BoolArray, in_intervention: BoolArray, by_base: BoolArray, by_intervention: BoolArray
) -> float:
    """The z-score of a criterion over the pairs whose two texts agree in another criterion.

    Arrays are `(n_pairs,)`. Where a change in the other criterion brings the difference along, it
    is in the pairs that are left out. 0 where no pair is left.
    """
    agree = by_base == by_intervention
    only_base = int((in_base & ~in_intervention & agree).sum())
    only_intervention = int((in_intervention & ~in_base & agree).sum())
    return float(mcnemar_z(only_base, only_intervention))


def strength_left(
    in_base: BoolArray,
    in_intervention: BoolArray,
    by_base: BoolArray,
    by_intervention: BoolArray,
    *,
    is_paired: bool,
    keep_mirrored: bool,
) -> float:
    """How strongly a criterion still tells the sides apart, in its own direction, given another.

    In pairs, the larger of two answers: a new sentence makes its replies longer, so that no pair
    agrees in length and yet differs in the sentence, but long replies of one side still have it
    more often than those of the other.

    Infinity, with `keep_mirrored`, where the other one differs in the opposite direction by about
    as much: of a replaced wording, both halves are findings. Whatever else goes missing from the
    texts that meet the other criterion (a refusal, a shorter text) is explained by it.
    """
    effect = float(in_intervention.mean() - in_base.mean())
    other_effect = float(by_intervention.mean() - by_base.mean())
    if keep_mirrored and effect * other_effect < 0 and abs(effect) >= 0.75 * abs(other_effect):
        return float("inf")
    masks = in_base, in_intervention, by_base, by_intervention
    sign = 1.0 if effect > 0 else -1.0
    left = sign * stratified_z(*masks)
    return max(left, sign * concordant_z(*masks)) if is_paired else left


def discovery_threshold(n_looked_at: int, expected_false: float) -> float:
    """The |z| that `expected_false` of `n_looked_at` criteria would exceed if nothing differed.

    0 where no more criteria are looked at than false ones are expected.
    """
    tail = expected_false / max(n_looked_at, 1) / 2
    return NormalDist().inv_cdf(1 - tail) if tail < 0.5 else 0.0


def choose_diverse(
    strengths: Sequence[float],
    max_chosen: int,
    strength_given: Callable[[int, int], float],
    floor: float,
    *,
    is_last: Sequence[bool],
) -> list[int]:
    """Indices of at most `max_chosen` strong candidates that do not repeat each other.

    Greedy: the next is the candidate with the largest strength that is left given each chosen one
    (`strength_given(candidate, chosen)`); below `floor` it is explained, and left out. What is left
    only shrinks as more are chosen, so a candidate is looked at again only when it comes first.
    Those of `is_last` come after all others, whatever their strength: they can be explained, and
    explain only each other.
    """
    heap = [(is_last[index], -strength, index, 0) for index, strength in enumerate(strengths)]
    heapq.heapify(heap)
    chosen: list[int] = []
    while heap and len(chosen) < max_chosen:
        late, negative, index, n_seen = heapq.heappop(heap)
        if -negative < floor:
            continue
        if n_seen == len(chosen):
            chosen.append(index)
            continue
        left = min(-negative, *(strength_given(index, other) for other in chosen[n_seen:]))
        heapq.heappush(heap, (late, -left, index, len(chosen)))
    return chosen
