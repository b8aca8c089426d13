"""Active sampling: which prompts to decode next, and when to stop.

Every cluster gets an uncertainty, every prompt the uncertainty of the clusters that its texts fall
into, and the next texts go where that is high; a share of them explores evenly. Targeted texts
change the mix of prompts, so the counts here only steer: shares that are reported come from fresh
texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from whatchanged.errors import UsageError
from whatchanged.stats import difference_posterior

FloatArray: TypeAlias = NDArray[np.float64]
Counts: TypeAlias = NDArray[np.int64]
Groups: TypeAlias = NDArray[np.int64]

# How much of an undecided cluster's uncertainty is there anyway, and how much more comes from
# members on its boundary and from having been seen in few texts. The parts add up to 1.
UNDECIDED_PART = 0.5
BOUNDARY_PART = 0.25
UNDERSAMPLED_PART = 0.25
# A cluster is resolved when one of "more", "less" and "no difference" is this probable.
RESOLVED_PROBABILITY = 0.95
# With 1% of a few hundred clusters open, more rounds would be spent on two or three of them.
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
    """

    hits_base: Counts
    hits_intervention: Counts
    n_base: Counts
    n_intervention: Counts
    boundary: FloatArray


@dataclass(frozen=True, slots=True)
class RoundQuality:
    """A finished round. `round` 0 is the seed; None where a figure is undefined."""

    round: int
    n_texts_per_side: int
    label_agreement: float | None
    silhouette: float | None
    share_resolved: float


class _Decision(NamedTuple):
    """How probable each answer is, `(n_groups, k)`: more, less, no difference that matters."""

    more: FloatArray
    less: FloatArray
    neither: FloatArray


def cluster_uncertainty(
    evidence: Evidence, *, min_effect: float, groups: Groups | None = None
) -> FloatArray:
    """The uncertainty in [0, 1] of every cluster, `(n_groups, k)`; one row without `groups`.

    Three parts. *Undecided*: 1 less the probability of the likeliest answer among more, less and
    neither, scaled to [0, 1] (least confidence: Lewis and Gale 1994), where "neither" is a share
    difference of at most `min_effect`. It multiplies the sum of a constant, the *boundary* margin
    (members between two clusters) and *under-sampling*, 1/sqrt(1 + texts seen), the relative error
    of a count. A cluster whose difference is resolved, either way, therefore gets little however
    fuzzy or rare it is.

    `groups (n_prompts,)` numbers prompt groups from 0: a difference may exist within one group
    only, so a cluster's row for a group is the mean of its uncertainty over all prompts and within
    the group. A group that holds the share f of the prompts is asked for differences above
    min_effect / sqrt(f), since its standard errors are larger by the same factor.
    """
    overall = _scope_uncertainty(evidence, _one_group(evidence), min_effect)
    if groups is None:
        return overall
    return (overall + _scope_uncertainty(evidence, groups, min_effect)) / 2


def prompt_scores(
    evidence: Evidence, uncertainty: FloatArray, *, groups: Groups | None = None
) -> FloatArray:
    """How much of the open questions each prompt's texts can answer, `(n_prompts,)`, at least 0.

    Every cluster is a question worth its uncertainty, divided over the prompts by their measured
    share of texts in the cluster: a cluster that lives in a few prompts concentrates there, one
    that lives everywhere spreads. Shares are drawn towards the group's, so a prompt without texts
    scores like its group. `uncertainty` is `cluster_uncertainty`'s for the same `groups`. No
    clusters, or none with a hit, give zeros.
    """
    groups = _one_group(evidence) if groups is None else groups
    hits = (evidence.hits_base + evidence.hits_intervention).astype(np.float64)
    n_texts = (evidence.n_base + evidence.n_intervention).astype(np.float64)
    group_hits, group_texts = _sum_by_group(hits, groups), _sum_by_group(n_texts[:, None], groups)
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


def share_resolved(evidence: Evidence, min_effect: float) -> float:
    """The share of clusters, in [0, 1], whose difference over all prompts is decided.

    Decided: above `min_effect` in one direction, or within it, with a probability of 0.95. No
    clusters give 0.0: nothing has been decided.
    """
    decision = _decide(evidence, _one_group(evidence), min_effect)
    likeliest = np.max(decision, axis=0)
    return float(np.mean(likeliest >= RESOLVED_PROBABILITY)) if likeliest.size else 0.0


def stop_reason(rounds: Sequence[RoundQuality], *, max_rounds: int, max_texts: int) -> str | None:
    """Why sampling ends after these rounds (the first is the seed), or None while it goes on.

    In this order: the text budget; the round limit; after at least one targeted round, nearly all
    differences decided; two rounds in a row with stable clusters while neither their quality nor
    the share of decided differences still moves.
    """
    if not rounds:
        return None
    last = rounds[-1]
    if last.n_texts_per_side >= max_texts:
        return f"text budget reached: {last.n_texts_per_side} texts per side of {max_texts} allowed"
    if last.round >= max_rounds:
        return f"round limit reached: {last.round} rounds after the seed round"
    if len(rounds) >= 2 and last.share_resolved >= RESOLVED_SHARE:
        return f"differences resolved: {last.share_resolved:.1%} of the clusters are decided"
    if len(rounds) >= 3 and _is_stable(rounds[-2], last):
        return (
            f"clusters stable: label agreement of at least {STABLE_AGREEMENT} in two rounds, and "
            "neither separation nor the share of decided clusters still changes"
        )
    return None


def _is_stable(before: RoundQuality, last: RoundQuality) -> bool:
    agreements = (before.label_agreement, last.label_agreement)
    if any(agreement is None or agreement < STABLE_AGREEMENT for agreement in agreements):
        return False
    if (before.silhouette is None) != (last.silhouette is None):
        return False
    change = abs((last.silhouette or 0.0) - (before.silhouette or 0.0))
    gained = last.share_resolved - before.share_resolved
    return change <= PLATEAU_SILHOUETTE and gained <= PLATEAU_RESOLVED


def _scope_uncertainty(evidence: Evidence, groups: Groups, min_effect: float) -> FloatArray:
    decision = _decide(evidence, groups, min_effect)
    undecided = 1.5 * (1.0 - np.max(decision, axis=0))
    n_hits = _sum_by_group(evidence.hits_base + evidence.hits_intervention, groups)
    uncertainty: FloatArray = undecided * (
        UNDECIDED_PART
        + BOUNDARY_PART * np.clip(evidence.boundary, 0.0, 1.0)
        + UNDERSAMPLED_PART / np.sqrt(1.0 + n_hits)
    )
    return np.clip(uncertainty, 0.0, 1.0)


def _decide(evidence: Evidence, groups: Groups, min_effect: float) -> _Decision:
    """The probability of each answer per group and cluster, from a normal posterior.

    Mean and variance are Mantel and Haenszel's (1959) over prompts as strata: whatever a prompt
    alone determines, such as its topic, is equal on both sides and must not look like noise. To
    the variance comes that of a Jeffreys Beta posterior without hits, so that an absence of hits
    is never taken for certainty.
    """
    from scipy.special import ndtr

    n_base = evidence.n_base.astype(np.float64)[:, None]
    n_intervention = evidence.n_intervention.astype(np.float64)[:, None]
    n_both = np.maximum(n_base + n_intervention, 1.0)
    weights = n_base * n_intervention / n_both  # (n_prompts, 1)
    hits = evidence.hits_base + evidence.hits_intervention
    differences = (
        evidence.hits_intervention * n_base - evidence.hits_base * n_intervention
    ) / n_both  # each stratum's difference times its weight
    variances = weights * hits * (n_both - hits) / (n_both * np.maximum(n_both - 1.0, 1.0))
    total = np.maximum(_sum_by_group(weights, groups), 1e-9)
    compared = (weights > 0).astype(np.float64)
    floor = difference_posterior(
        0, _sum_by_group(n_base * compared, groups),
        0, _sum_by_group(n_intervention * compared, groups),
    )  # fmt: skip
    mean = _sum_by_group(differences * compared, groups) / total
    sd = np.sqrt(_sum_by_group(variances, groups) / total**2 + floor.sd**2)
    share = _sum_by_group(np.ones((len(groups), 1)), groups) / max(1, len(groups))
    threshold = min_effect / np.sqrt(np.maximum(share, 1e-9))
    more, less = ndtr((mean - threshold) / sd), ndtr((-threshold - mean) / sd)
    return _Decision(more, less, 1.0 - more - less)


def _one_group(evidence: Evidence) -> Groups:
    return np.zeros(len(evidence.n_base), dtype=np.int64)


def _sum_by_group(values: NDArray[np.generic], groups: Groups) -> FloatArray:
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
