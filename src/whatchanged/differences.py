"""The share difference of every cluster as a posterior: which are decided, how open the others are.

Over all prompts, or within each prompt group: a difference may exist in one group only. A group
that holds the share f of the prompts is asked for differences above min_effect / sqrt(f), since its
standard errors are larger by the same factor.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from whatchanged.sample import INTERVAL, Evidence, FloatArray, Groups, one_group, sum_by_group
from whatchanged.stats import DifferencePosterior, difference_posterior

BoolArray: TypeAlias = NDArray[np.bool_]

# How much of an undecided cluster's uncertainty is there anyway, and how much more comes from
# members on its boundary and from having been seen in few texts. The parts add up to 1.
UNDECIDED_PART = 0.5
BOUNDARY_PART = 0.25
UNDERSAMPLED_PART = 0.25


class Answers(NamedTuple):
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

    `groups (n_prompts,)` numbers prompt groups from 0; a cluster's row for a group is the mean of
    its uncertainty over all prompts and within the group.
    """
    overall = _scope_uncertainty(evidence, one_group(evidence), min_effect)
    if groups is None:
        return overall
    return (overall + _scope_uncertainty(evidence, groups, min_effect)) / 2


def share_resolved(evidence: Evidence, min_effect: float, *, groups: Groups | None = None) -> float:
    """The share of differences, in [0, 1], that are resolved.

    Resolved: the 95% posterior interval excludes zero, or lies within the smallest effect of
    interest. Asked is about every cluster over all prompts and, with `groups`, within every group
    where a text held it. No clusters give 0.0: nothing has been resolved.
    """
    resolved = [_is_resolved(evidence, one_group(evidence), min_effect).ravel()]
    if groups is not None and groups.max(initial=0) > 0:
        resolved.append(_is_resolved(evidence, groups, min_effect)[was_seen(evidence, groups)])
    answers = np.concatenate(resolved)
    return float(np.mean(answers)) if answers.size else 0.0


def decide(evidence: Evidence, groups: Groups, min_effect: float) -> Answers:
    """The probability of each answer per group and cluster, `(n_groups, k)`."""
    from scipy.special import ndtr

    mean, sd = scope_posterior(evidence, groups)
    sought = sought_differences(groups, min_effect)[:, None]
    more, less = ndtr((mean - sought) / sd), ndtr((-sought - mean) / sd)
    return Answers(more, less, np.clip(1.0 - more - less, 0.0, 1.0))


def scope_posterior(evidence: Evidence, groups: Groups) -> DifferencePosterior:
    """Mean and standard deviation of every cluster's difference per group, `(n_groups, k)`.

    Both are Mantel and Haenszel's (1959) over prompts as strata: whatever a prompt alone
    determines, such as its topic, is equal on both sides and must not look like noise. To the
    variance comes that of a Jeffreys Beta posterior without hits, so that an absence of hits is
    never taken for certainty.

    Where all texts of a prompt are coupled pairs, a cluster's two counts differ by a sum over the
    differing pairs of -1, 0 or 1. The variance of that sum is at most the number of those pairs,
    often far below that of independent texts; the smaller of the two counts.
    """
    n_base = evidence.n_base.astype(np.float64)[:, None]
    n_intervention = evidence.n_intervention.astype(np.float64)[:, None]
    n_both = np.maximum(n_base + n_intervention, 1.0)
    weights = n_base * n_intervention / n_both  # (n_prompts, 1)
    hits = evidence.hits_base + evidence.hits_intervention
    differences = (
        evidence.hits_intervention * n_base - evidence.hits_base * n_intervention
    ) / n_both  # each stratum's difference times its weight
    variances = weights * hits * (n_both - hits) / (n_both * np.maximum(n_both - 1.0, 1.0))
    variances = np.minimum(variances, _paired_variance(evidence)[:, None])
    total = np.maximum(sum_by_group(weights, groups), 1e-9)
    compared = (weights > 0).astype(np.float64)
    floor = difference_posterior(
        0, sum_by_group(n_base * compared, groups),
        0, sum_by_group(n_intervention * compared, groups),
    )  # fmt: skip
    mean = sum_by_group(differences * compared, groups) / total
    sd = np.sqrt(sum_by_group(variances, groups) / total**2 + floor.sd**2)
    return DifferencePosterior(mean, sd)


def sought_differences(groups: Groups, min_effect: float) -> FloatArray:
    """The smallest difference that each group is asked for, `(n_groups,)`, in [0, 1].

    `min_effect` without prompts; 1 for a number that no prompt has.
    """
    if not len(groups):
        return np.array([min_effect])
    share = np.bincount(groups) / len(groups)
    return np.minimum(1.0, min_effect / np.sqrt(np.maximum(share, 1e-9)))


def was_seen(evidence: Evidence, groups: Groups) -> BoolArray:
    """The clusters that at least one text of a group holds, `(n_groups, k)`."""
    return sum_by_group(evidence.hits_base + evidence.hits_intervention, groups) > 0


def _paired_variance(evidence: Evidence) -> FloatArray:
    """The largest variance `(n_prompts,)` that a weighted difference can have where every text
    belongs to a coupled pair, else infinity.

    With n pairs the stratum's weight is n / 2, so D, the difference of the two counts, enters as
    D / 2, with a quarter of its variance.
    """
    if evidence.n_pairs is None or evidence.n_differing is None:
        return np.full(len(evidence.n_base), np.inf)
    coupled = (evidence.n_pairs == evidence.n_base) & (evidence.n_pairs == evidence.n_intervention)
    return np.where(coupled, evidence.n_differing / 4.0, np.inf)


def _is_resolved(evidence: Evidence, groups: Groups, min_effect: float) -> BoolArray:
    from scipy.special import ndtri

    mean, sd = scope_posterior(evidence, groups)
    half_width = float(ndtri((1 + INTERVAL) / 2)) * sd
    sought = sought_differences(groups, min_effect)[:, None]
    resolved: BoolArray = (np.abs(mean) > half_width) | (np.abs(mean) + half_width <= sought)
    return resolved


def _scope_uncertainty(evidence: Evidence, groups: Groups, min_effect: float) -> FloatArray:
    undecided = 1.5 * (1.0 - np.max(decide(evidence, groups, min_effect), axis=0))
    n_hits = sum_by_group(evidence.hits_base + evidence.hits_intervention, groups)
    uncertainty: FloatArray = undecided * (
        UNDECIDED_PART
        + BOUNDARY_PART * np.clip(np.nan_to_num(evidence.boundary), 0.0, 1.0)
        + UNDERSAMPLED_PART / np.sqrt(1.0 + n_hits)
    )
    return np.clip(uncertainty, 0.0, 1.0)
