"""Permutation of the side labels within prompts: the null distribution of a rank sum.

Texts of one prompt are not independent, so a label may change places only with a label of the
same stratum (the prompt). A draw of the null is then, for each stratum, the rank sum of a random
subset of fixed size. Those sums are tabulated: a small stratum has few subsets, a large one is
cut into blocks whose subset sizes follow a multivariate hypergeometric distribution. Drawing an
index into a table is exact and costs far less than shuffling labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from whatchanged.errors import UsageError

Alternative = Literal["greater", "less", "two-sided"]
Statistic = Literal["rank", "mean"]

# 2^12 subset sums fill 32 KiB of int64: a table that stays in a core's fastest cache.
_BLOCK_TEXTS = 12
_TABLE_ROWS = 1 << _BLOCK_TEXTS
# Counts drawn at once for a large stratum: 4 million int64 values are 32 MiB.
_COUNTS_AT_ONCE = 4_000_000
_STEPS = 2**20


@dataclass(frozen=True, slots=True)
class _Stratum:
    """Doubled midranks `(n,)` of one stratum, or its scores in steps, and how many of its texts are
    the intervention's."""

    ranks: NDArray[np.int64]
    n_intervention: int


def permutation_p_value(
    scores: NDArray[np.float64],
    is_intervention: NDArray[np.bool_],
    strata: NDArray[np.int64],
    *,
    n_draws: int,
    rng: np.random.Generator,
    alternative: Alternative,
    statistic: Statistic = "rank",
) -> float:
    """The p-value in (0, 1] of the intervention's rank sum under permutation within strata.

    `scores`, `is_intervention` and `strata` are `(n,)`, one entry per text. The rank sum over the
    midranks of all texts orders draws exactly as the AUC does. "greater" asks whether the
    intervention scores higher; "two-sided" doubles the smaller tail (at most 1). With the
    observed labelling counted as a draw, p = (1 + draws as extreme) / (1 + n_draws), which is
    never 0 and never too small (Phipson and Smyth 2010). With `statistic` "mean" the scores count
    themselves, to 20 binary places, which orders draws as the difference of the sides' means does.

    Strata with texts of one side only add a constant. No text, or none that can be exchanged,
    gives 1.0. Time grows with n * n_draws / 12, memory with n_draws.

    Raises UsageError for lengths that differ and for a score that is not finite.
    """
    observed, constant, mixed = _observed_strata(scores, is_intervention, strata, statistic)
    if not mixed or n_draws < 1:
        return 1.0
    draws = _draw_rank_sums(mixed, n_draws, rng)
    n_above = int(np.count_nonzero(draws >= observed - constant))
    n_below = int(np.count_nonzero(draws <= observed - constant))
    if alternative == "greater":
        return (1 + n_above) / (1 + n_draws)
    if alternative == "less":
        return (1 + n_below) / (1 + n_draws)
    return min(1.0, 2 * (1 + min(n_above, n_below)) / (1 + n_draws))


def _observed_strata(
    scores: NDArray[np.float64],
    is_intervention: NDArray[np.bool_],
    strata: NDArray[np.int64],
    statistic: Statistic,
) -> tuple[int, int, list[_Stratum]]:
    """The observed sum, the part of it that cannot move, and the strata that can."""
    from scipy.stats import rankdata

    if not len(scores) == len(is_intervention) == len(strata):
        raise UsageError(
            "expected one score, one side and one stratum per text, found "
            f"{len(scores)}, {len(is_intervention)} and {len(strata)}"
        )
    values = np.asarray(scores, dtype=np.float64)
    if not np.isfinite(values).all():
        n_bad = int(np.count_nonzero(~np.isfinite(values)))
        raise UsageError(f"expected finite scores, found {n_bad} that are not: drop unscored texts")
    if len(values) == 0:
        return 0, 0, []
    sides = np.asarray(is_intervention, dtype=bool)
    # Whole numbers, so that equal sums compare as equal: doubled midranks, or scores in steps.
    counted = 2 * rankdata(values) if statistic == "rank" else values * _STEPS
    ranks = np.rint(counted).astype(np.int64)
    observed = int(ranks[sides].sum())
    order = np.argsort(strata, kind="stable")
    starts = np.flatnonzero(np.diff(np.asarray(strata)[order])) + 1
    constant = 0
    mixed = []
    for members in np.split(order, starts):
        n_intervention = int(np.count_nonzero(sides[members]))
        member_ranks = ranks[members]
        can_move = 0 < n_intervention < len(members) and member_ranks.min() < member_ranks.max()
        if can_move:
            mixed.append(_Stratum(member_ranks, n_intervention))
        else:
            constant += int(member_ranks[sides[members]].sum())
    return observed, constant, mixed


def _draw_rank_sums(
    mixed: list[_Stratum], n_draws: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Null rank sums `(n_draws,)`: for every stratum the sum of a random subset of its ranks."""
    sums = np.zeros(n_draws, dtype=np.int64)
    pending = np.zeros(1, dtype=np.int64)
    for stratum in mixed:
        if len(stratum.ranks) > _BLOCK_TEXTS:
            _add_large_stratum(sums, stratum, rng)
            continue
        subset_sums = _subset_sums(stratum.ranks)
        starts = _popcount_order(len(stratum.ranks))[1]
        table = subset_sums[starts[stratum.n_intervention] : starts[stratum.n_intervention + 1]]
        # Small tables are joined (all pairs of sums), so that one index draws for many strata.
        if len(pending) * len(table) > _TABLE_ROWS:
            sums += pending[rng.integers(len(pending), size=n_draws)]
            pending = table
        else:
            pending = (pending[:, None] + table[None, :]).ravel()
    return sums + pending[rng.integers(len(pending), size=n_draws)]


def _add_large_stratum(
    sums: NDArray[np.int64], stratum: _Stratum, rng: np.random.Generator
) -> None:
    """Adds to `sums (n_draws,)` the sum of a random subset of a stratum of any size."""
    n_blocks = -(-len(stratum.ranks) // _BLOCK_TEXTS)
    blocks = np.array_split(stratum.ranks, n_blocks)
    sizes = [len(block) for block in blocks]
    tables = [_subset_sums(block) for block in blocks]
    step = max(1, _COUNTS_AT_ONCE // n_blocks)
    for start in range(0, len(sums), step):
        part = sums[start : start + step]
        counts = rng.multivariate_hypergeometric(
            sizes, stratum.n_intervention, size=len(part), method="count"
        ).T
        for table, size, n_chosen in zip(tables, sizes, np.ascontiguousarray(counts), strict=True):
            starts = _popcount_order(size)[1]
            first = starts[n_chosen]
            n_subsets = starts[n_chosen + 1] - first
            part += table[first + (rng.random(len(part)) * n_subsets).astype(np.int64)]


def _subset_sums(ranks: NDArray[np.int64]) -> NDArray[np.int64]:
    """The sums of all `2^n` subsets of `ranks (n,)`, ordered by subset size."""
    sums = np.zeros(1, dtype=np.int64)
    for rank in ranks:
        sums = np.concatenate([sums, sums + rank])
    return sums[_popcount_order(len(ranks))[0]]


@lru_cache(maxsize=_BLOCK_TEXTS + 1)
def _popcount_order(n: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The order of `0 .. 2^n - 1` by number of set bits, and where each number starts `(n+2,)`."""
    sizes = np.zeros(1, dtype=np.int64)
    for _ in range(n):
        sizes = np.concatenate([sizes, sizes + 1])
    starts = np.concatenate([[0], np.cumsum(np.bincount(sizes, minlength=n + 1))])
    return np.argsort(sizes, kind="stable"), starts.astype(np.int64)
