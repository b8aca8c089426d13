"""Simulated hypotheses with known truth: texts of both sides, a cheap judge and an expensive one.

Shares and numbers of texts are those of findings of earlier audits of the pairs that ship and of
the held-out ones, taken as true. Texts scatter over prompts with an intraclass correlation. The
expensive judge contradicts the truth at a stated rate. The cheap one sees the truth through noise:
its error rate is drawn per hypothesis, its score is the odds that it sees, too sure of itself and
rounded to steps of 5, as language models score.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

# Shares of both sides and texts per side of confirmed findings.
REAL = (
    (0.017, 0.842, 120), (0.000, 0.733, 120), (0.000, 0.367, 120), (0.763, 0.455, 156),
    (0.239, 0.532, 372), (0.233, 0.042, 120), (0.219, 0.120, 324), (0.000, 0.022, 1296),
    (0.050, 0.833, 120), (0.000, 0.458, 120), (0.000, 0.358, 120), (0.667, 0.449, 138),
    (0.253, 0.115, 174), (0.000, 0.040, 198), (0.000, 0.020, 1296), (0.000, 0.933, 120),
    (0.983, 0.092, 120), (0.000, 0.825, 120), (0.008, 0.317, 120), (0.567, 0.275, 120),
    (0.000, 0.225, 120), (0.000, 0.192, 120), (0.000, 0.167, 120), (0.000, 0.136, 184),
    (0.398, 0.519, 480), (0.000, 0.120, 200), (0.131, 0.026, 344), (0.195, 0.122, 1200),
    (0.234, 0.162, 1200), (0.000, 0.027, 1200), (0.000, 0.083, 480), (0.000, 0.044, 480),
    (0.000, 0.037, 1216), (0.994, 0.940, 480), (0.201, 0.106, 264), (0.375, 0.458, 456),
    (0.561, 0.638, 412), (0.225, 0.147, 760), (0.207, 0.137, 256), (0.160, 0.212, 480),
    (0.098, 0.150, 1160), (0.834, 0.884, 320), (0.132, 0.311, 235), (0.171, 0.010, 210),
    (0.054, 0.132, 987), (0.027, 0.080, 752), (0.053, 0.007, 1222), (0.045, 0.005, 1222),
    (0.044, 0.009, 1222), (0.023, 0.002, 1222),
)  # fmt: skip
# The share of both sides and texts per side of findings that were not confirmed.
UNCHANGED = (
    (0.45, 132), (0.13, 288), (0.09, 480), (0.10, 420), (0.17, 438), (0.19, 480), (0.20, 354),
    (0.13, 480), (0.79, 408), (0.20, 480), (0.04, 360), (0.15, 420), (0.19, 312), (0.36, 336),
    (0.07, 480), (0.05, 462), (0.05, 360), (0.06, 384), (0.19, 282), (0.05, 348), (0.39, 240),
    (0.09, 240), (0.29, 240), (0.27, 240), (0.15, 240), (0.10, 240), (0.18, 168), (0.03, 240),
    (0.82, 480), (0.10, 1200), (0.03, 1216), (0.50, 272), (0.01, 1200), (0.16, 480),
)  # fmt: skip


@dataclass(frozen=True)
class World:
    """What is simulated: audits of `n_hypotheses`, of which a `real_share` are true.

    A `small_share` of the false ones differ by `min_effect` as the expensive judge sees it (less
    where a share would leave [0, 1]). In a `fooled_share` of them the intervention's style moves
    what the cheap judge sees by `fooled_by` of its noise. In a paired world a `coupled_share` of
    pairs draw alike on both sides, and are identical texts where both meet the criterion or
    neither does.
    """

    n_hypotheses: int = 24
    real_share: float = 1 / 3
    small_share: float = 1 / 4
    fooled_share: float = 0.0
    fooled_by: float = 0.8
    cheap_error: tuple[float, float] = (0.10, 0.15)
    expensive_error: float = 0.03
    sureness: float = 1.5
    score_steps: int = 20
    n_prompts: int = 12
    prompt_correlation: float = 0.1
    min_effect: float = 0.01
    is_paired: bool = False
    coupled_share: float = 0.5


@dataclass(frozen=True)
class Case:
    """One hypothesis: prompt, side, cheap score and expensive verdict of every text `(n_texts,)`.

    `is_identical` says which pairs are of identical texts `(n_texts / 2,)`: none where the world is
    not paired.
    Texts `2i` and `2i + 1` are the base's and the intervention's of one prompt (a pair, in a paired
    world). `effect` is the expected difference of expensive verdicts on these prompts.
    """

    is_real: bool
    is_fooled: bool
    direction: str
    prompt: NDArray[np.int64]
    is_intervention: NDArray[np.bool_]
    scores: FloatArray
    meets: NDArray[np.bool_]
    is_identical: NDArray[np.bool_]
    effect: float

    @property
    def is_distinct(self) -> NDArray[np.bool_]:
        """One of every two identical texts: a judge is paid once for them."""
        return ~(np.repeat(self.is_identical, 2) & self.is_intervention)


def draw_case(world: World, rng: np.random.Generator) -> Case:
    is_real = bool(rng.random() < world.real_share)
    is_fooled = not is_real and bool(rng.random() < world.fooled_share)
    sign = 1 if rng.random() < 0.5 else -1
    if is_real:
        base, intervention, n = REAL[rng.integers(len(REAL))]
    else:
        base, n = UNCHANGED[rng.integers(len(UNCHANGED))]
        intervention = base
    per_prompt = -(-n // world.n_prompts)
    place = rng.random(world.n_prompts)
    shares = np.stack([_prompt_shares(share, place, world) for share in (base, intervention)])
    if not is_real and not is_fooled and rng.random() < world.small_share:
        moved = sign * world.min_effect / (1 - 2 * world.expensive_error)
        shares[1] = np.clip(shares[0] + moved, 0, 1)
    prompt = np.repeat(np.arange(world.n_prompts), 2 * per_prompt)
    is_intervention = np.arange(len(prompt)) % 2 == 1
    share = shares[is_intervention.astype(int), prompt]
    error = rng.uniform(*world.cheap_error)
    truth, noise, wrong = rng.random((3, len(prompt)))
    is_identical = np.zeros(len(prompt) // 2, dtype=np.bool_)
    is_coupled = rng.random(len(prompt) // 2) < world.coupled_share * world.is_paired
    truth[1::2] = np.where(is_coupled, truth[0::2], truth[1::2])
    meets = truth < share
    is_identical = is_coupled & (meets[0::2] == meets[1::2])
    for values in (noise, wrong):
        values[1::2] = np.where(is_identical, values[0::2], values[1::2])
    is_moved = is_intervention & ~np.repeat(is_identical, 2)
    scores = _cheap_scores(meets, noise, error, is_fooled * sign * is_moved, world)
    difference = shares[1].mean() - shares[0].mean()
    if intervention != base:
        sign = 1 if intervention > base else -1
    return Case(
        is_real, is_fooled, "more" if sign > 0 else "less", prompt, is_intervention, scores,
        meets ^ (wrong < world.expensive_error), is_identical,
        difference * (1 - 2 * world.expensive_error),
    )  # fmt: skip


def _prompt_shares(share: float, place: FloatArray, world: World) -> FloatArray:
    """The shares of the prompts, Beta distributed: a prompt keeps its place in both sides."""
    from scipy.stats import beta

    if share in (0, 1):
        return np.full(len(place), share)
    size = 1 / world.prompt_correlation - 1
    return np.asarray(beta.ppf(place, share * size, (1 - share) * size), dtype=np.float64)


def _cheap_scores(
    meets: NDArray[np.bool_],
    noise: FloatArray,
    error: float,
    moved: NDArray[np.int64],
    world: World,
) -> FloatArray:
    """Scores in [0, 1]; the texts whose style moves the judge are -1 or 1 in `moved`."""
    from scipy.special import ndtri

    strength = -float(ndtri(error))
    seen = np.where(meets, strength, -strength) + ndtri(noise) + world.fooled_by * moved
    scores = 1 / (1 + np.exp(-world.sureness * 2 * strength * seen))
    return np.asarray(np.round(scores * world.score_steps) / world.score_steps, dtype=np.float64)
