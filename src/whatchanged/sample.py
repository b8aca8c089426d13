"""Active sampling: what has been seen, how many texts each prompt gets next, and when to stop.

An acquisition scores the prompts (`acquisition`), and the next texts go where scores are high; a
share of them explores evenly, whatever the scores say. Targeted texts change the mix of prompts,
so the counts here only steer: shares that are reported come from fresh texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from whatchanged.errors import UsageError

FloatArray: TypeAlias = NDArray[np.float64]
Counts: TypeAlias = NDArray[np.int64]
Groups: TypeAlias = NDArray[np.int64]

# Differences are resolved when their posterior interval of this probability says so; with 1% of a
# few hundred of them open, more rounds would be spent on two or three.
INTERVAL = 0.95
RESOLVED_SHARE = 0.99
# An adjusted Rand index above 0.8 counts as good recovery of a partition (Steinley 2004).
STABLE_AGREEMENT = 0.8
# Changes of the silhouette and of the resolved share that are not worth the price of a round.
PLATEAU_SILHOUETTE = 0.01
PLATEAU_RESOLVED = 0.02
# Texts that a group's average is worth when a prompt's own share is estimated: an unseen prompt
# has its group's shares, one with a dozen texts essentially its own.
_PRIOR_TEXTS = 2.0


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the discovery texts show so far.

    `hits_base` and `hits_intervention` `(n_prompts, k)` count the texts of a prompt that hold a
    cluster; `n_base` and `n_intervention` `(n_prompts,)` count its texts; `boundary` `(k,)` is the
    mean margin of a cluster's members, in [0, 1]. The k clusters may join several clusterings, so
    a text can hit more than one.

    The others are `(n_prompts,)`, None where nothing measured them, and nan for a prompt that was
    left out. `divergence` estimates KL(base || intervention) plus the reverse, in nats per text
    (never per byte or per token); `parting` in [0, 1] is about the probability that the two models
    part somewhere along a text; `shift` in [0, 1] is by how much they turn to one token
    (`shift.Shift`); each has its standard error. `n_pairs` coupled pairs of whole texts were
    decoded, and in `n_differing` of them the two texts are not the same. `classifier` holds
    `acquisition.classifier_scores`.
    """

    hits_base: Counts
    hits_intervention: Counts
    n_base: Counts
    n_intervention: Counts
    boundary: FloatArray
    divergence: FloatArray | None = None
    divergence_se: FloatArray | None = None
    parting: FloatArray | None = None
    parting_se: FloatArray | None = None
    shift: FloatArray | None = None
    shift_se: FloatArray | None = None
    n_pairs: Counts | None = None
    n_differing: Counts | None = None
    classifier: FloatArray | None = None


@dataclass(frozen=True, slots=True)
class RoundQuality:
    """A finished round. `round` 0 is the seed; None where a figure is undefined. Where
    `structure_found` is False, its clusters only cut up one cloud."""

    round: int
    n_texts_per_side: int
    label_agreement: float | None
    silhouette: float | None
    share_resolved: float
    structure_found: bool


def prompt_scores(
    evidence: Evidence, uncertainty: FloatArray, *, groups: Groups | None = None
) -> FloatArray:
    """How much of the open questions each prompt's texts can answer, `(n_prompts,)`, at least 0.

    Every cluster is a question worth its uncertainty, divided over the prompts by their measured
    share of texts in the cluster: a cluster that lives in a few prompts concentrates there, one
    that lives everywhere spreads. Shares are drawn towards the group's, so a prompt without texts
    scores like its group. `uncertainty (n_groups, k)` is for the same `groups`, one row without
    them. No clusters, or none with a hit, give zeros.
    """
    groups = one_group(evidence) if groups is None else groups
    hits = (evidence.hits_base + evidence.hits_intervention).astype(np.float64)
    n_texts = (evidence.n_base + evidence.n_intervention).astype(np.float64)
    group_hits, group_texts = sum_by_group(hits, groups), sum_by_group(n_texts[:, None], groups)
    overall = hits.sum(axis=0) / max(1.0, n_texts.sum())
    group_shares = np.where(group_texts > 0, group_hits / np.maximum(group_texts, 1), overall)
    shares = (hits + _PRIOR_TEXTS * group_shares[groups]) / (n_texts[:, None] + _PRIOR_TEXTS)
    total = shares.sum(axis=0)
    parts = np.divide(shares, total, out=np.zeros_like(shares), where=total > 0)
    scores: FloatArray = (parts * uncertainty[groups]).sum(axis=1)
    return scores


def allocate(
    scores: FloatArray,
    n_texts: int,
    *,
    exploration_share: float,
    seed: int,
    n_sampled: Counts | None = None,
) -> Counts:
    """The texts to decode per prompt and side, `(n_prompts,)`, which sum to exactly `n_texts`.

    `exploration_share` of them is spread evenly, in proportion to 1 / (1 + texts so far) where
    `n_sampled (n_prompts,)` is given; the rest is proportional to `scores`. Fractions are rounded
    by systematic sampling in a random order (Madow 1949): every prompt gets its exact quota on
    average and never differs from it by a whole text within either part. Scores that are all zero
    explore with everything; no prompts get an empty allocation.

    Raises UsageError for scores that are negative or not finite, or a negative `n_texts`.
    """
    if n_texts < 0:
        raise UsageError(f"expected n_texts of at least 0, found {n_texts}")
    if not (np.isfinite(scores).all() and (scores >= 0).all()):
        raise UsageError("expected finite scores of at least 0, found others")
    rng = np.random.default_rng(seed)
    already = np.zeros(len(scores)) if n_sampled is None else n_sampled.astype(np.float64)
    n_explore = round(exploration_share * n_texts) if np.any(scores > 0) else n_texts
    explored = _spread(1.0 / (1.0 + already), n_explore, rng)
    return explored + _spread(np.asarray(scores, dtype=np.float64), n_texts - n_explore, rng)


def seed_allocation(n_prompts: int, n_texts: int, seed: int) -> Counts:
    """An even split of `n_texts`, `(n_prompts,)`; a random choice of prompts gets one more."""
    return _spread(np.ones(n_prompts), n_texts, np.random.default_rng(seed))


def deal_evenly(available: Counts, n_texts: int, seed: int) -> Counts:
    """`n_texts` over prompts that have only so many, `available (n_prompts,)`: the same number each
    as far as that goes, and one more for a random choice of those that have more. Fewer texts than
    were asked for are all of them."""
    n_texts = min(n_texts, int(available.sum()))
    low, high = 0, int(available.max(initial=0))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (
            (middle, high) if np.minimum(available, middle).sum() <= n_texts else (low, middle - 1)
        )
    counts = np.minimum(available, low).astype(np.int64)
    having_more = np.flatnonzero(available > low)
    chosen = np.random.default_rng(seed).permutation(having_more)[: n_texts - int(counts.sum())]
    counts[chosen] += 1
    return counts


def stop_reason(rounds: Sequence[RoundQuality], *, max_rounds: int, max_texts: int) -> str | None:
    """Why sampling ends after these rounds (the first is the seed), or None while it goes on.

    In this order. *Budget*: the texts, or the rounds. *Differences resolved*, after at least one
    targeted round: the posterior intervals of nearly all differences exclude zero or lie within
    the smallest effect of interest (`share_resolved`). *Quality sufficient*: labels agree between
    rounds, twice in a row, and the sampled silhouette has reached its plateau; a round that still
    decides differences is worth its price, so their share must stand still as well. An undefined
    silhouette or agreement is never sufficient.
    """
    if not rounds:
        return None
    last = rounds[-1]
    if last.n_texts_per_side >= max_texts:
        return f"text budget reached: {last.n_texts_per_side} texts per side of {max_texts} allowed"
    if last.round >= max_rounds:
        return f"round limit reached: {last.round} rounds after the seed round"
    if len(rounds) >= 2 and last.share_resolved >= RESOLVED_SHARE:
        return (
            f"differences resolved: the {INTERVAL:.0%} intervals of {last.share_resolved:.1%} of "
            "them exclude zero or lie within the smallest effect of interest "
            f"({RESOLVED_SHARE:.0%} needed)"
        )
    return _sufficient_quality(rounds[-2], last) if len(rounds) >= 3 else None


def _sufficient_quality(before: RoundQuality, last: RoundQuality) -> str | None:
    agreements = (before.label_agreement, last.label_agreement)
    if any(agreement is None or agreement < STABLE_AGREEMENT for agreement in agreements):
        return None
    if before.silhouette is None or last.silhouette is None:
        return None
    gained = last.share_resolved - before.share_resolved
    if abs(last.silhouette - before.silhouette) > PLATEAU_SILHOUETTE or gained > PLATEAU_RESOLVED:
        return None
    return (
        f"quality sufficient: label agreement {before.label_agreement:.2f} and "
        f"{last.label_agreement:.2f} in two rounds ({STABLE_AGREEMENT:.2f} needed), silhouette "
        f"{before.silhouette:.3f} and {last.silhouette:.3f} (within {PLATEAU_SILHOUETTE}), "
        f"resolved differences {before.share_resolved:.1%} and {last.share_resolved:.1%}"
    )


def no_evidence(n_prompts: int) -> Evidence:
    """Before anything was decoded: no texts, no clusters."""
    hits, none = np.zeros((n_prompts, 0), dtype=np.int64), np.zeros(n_prompts, dtype=np.int64)
    return Evidence(hits, hits, none, none, np.zeros(0))


def one_group(evidence: Evidence) -> Groups:
    """All prompts in one group, `(n_prompts,)`."""
    return np.zeros(len(evidence.n_base), dtype=np.int64)


def sum_by_group(values: NDArray[np.generic], groups: Groups) -> FloatArray:
    """The sums of the rows of `values (n_prompts, m)` by group, `(n_groups, m)`."""
    n_groups = int(groups.max(initial=0)) + 1
    sums = np.zeros((n_groups, values.shape[1]))
    np.add.at(sums, groups, values.astype(np.float64))
    return sums


def _spread(weights: FloatArray, n_texts: int, rng: np.random.Generator) -> Counts:
    """`n_texts` in proportion to `weights (n,)`, rounded by systematic sampling."""
    counts = np.zeros(len(weights), dtype=np.int64)
    total = float(weights.sum())
    if total <= 0 or n_texts == 0:
        return counts
    order = rng.permutation(len(weights))
    ends = np.cumsum(weights[order]) * (n_texts / total)
    ends[-1] = n_texts
    reached = np.minimum(np.floor(ends + rng.random()), n_texts).astype(np.int64)
    counts[order] = np.diff(reached, prepend=0)
    return counts
