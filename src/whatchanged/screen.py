"""The multi-stage filter: what goes on to the next, dearer stage, and the risk of what does not.

Whatever a criterion asks of a text, its shares on the two sides of one prompt differ by at most the
total variation of the prompt's two distributions of texts. Three measurements bound that: the
divergence (Pinsker), the share of coupled pairs whose texts differ (the coupling inequality), and,
approximately, the probability that the models part along a text. Where drift keeps the bounds from
ruling anything out, a prompt is also dropped for not standing out from what all prompts share
(`background`).

A dropped prompt or cluster only loses its targeted texts or its full analysis: the exploration
share of every round is spread over all prompts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from whatchanged.background import Parting, estimate_parting, pool_groups, stand_out
from whatchanged.differences import BoolArray, decide, sought_differences, was_seen
from whatchanged.sample import INTERVAL, Counts, Evidence, FloatArray, Groups, one_group

# A prompt or cluster is dropped when it holds a real difference with at most this probability.
MAX_PROBABILITY = 0.05


@dataclass(frozen=True, slots=True)
class StageReport:
    """What one stage dropped. `risk` is the estimated number of real differences among it;
    `reason` is a sentence with both."""

    stage: str
    n_in: int
    n_kept: int
    n_dropped: int
    risk: float
    reason: str


@dataclass(frozen=True, slots=True)
class Screened:
    """Which items go on (`kept`), the `probability` of a real difference in each, and the report.

    Both arrays are `(n_prompts,)` or `(k,)`; the expected number of differences of a cluster, of
    which it can hold one per group, may exceed 1.
    """

    kept: BoolArray
    probability: FloatArray
    report: StageReport


def screen_prompts(
    evidence: Evidence, *, min_effect: float, groups: Groups | None = None
) -> Screened:
    """The prompts that go on to targeted decoding; dropped are those without a change of their own.

    Dropped for certain: the total variation does not exceed the smallest difference that the
    prompt's group is asked for (`sought_differences`; over all prompts without `groups`), since a
    group's difference is the mean of its prompts' (`probability_of_difference`). Dropped by
    comparison: the sides are no further apart than on most prompts (`stand_out`). A difference that
    all prompts share is in every text, exploration included, and needs no prompt in particular. The
    smaller probability counts. A prompt without measurements is kept.

    The risk relies on the background being alike on all prompts, and holds for texts of as many
    tokens as were scored.
    """
    groups = one_group(evidence) if groups is None else groups
    sought = sought_differences(groups, min_effect)[groups]
    probability = np.minimum(
        probability_of_difference(evidence, sought),
        stand_out_at_all(evidence, sought, groups),
    )
    kept = probability > MAX_PROBABILITY
    return _report(
        "prompts", kept, probability,
        f"sides differ by more than {_range(sought)}, and by more than most prompts' sides do,",
    )  # fmt: skip


def stand_out_at_all(evidence: Evidence, smallest: FloatArray, groups: Groups) -> FloatArray:
    """How probable it is that each prompt stands out from what all share, `(n_prompts,)`: by how
    far apart the sides are over all tokens, or by their shift towards or away from a single one,
    where that is known. The larger probability counts (of two events, either is at least as
    probable as each): a change of many words moves much over all, one of a few percent of the texts
    only the first token of a phrase. Both are pooled with their group (`pool_groups`)."""
    overall = stand_out(pool_groups(estimate_parting(evidence), groups), smallest)
    if evidence.shift is None or evidence.shift_se is None:
        return overall
    shift = Parting(evidence.shift, evidence.shift_se)
    larger: FloatArray = np.maximum(overall, stand_out(pool_groups(shift, groups), smallest))
    return larger


def screen_clusters(
    evidence: Evidence, *, min_effect: float, groups: Groups | None = None
) -> Screened:
    """The clusters that go on to full analysis; dropped are those that are decided not to differ.

    Decided: over all prompts and within every group where a text held the cluster, the difference
    is within what is looked for there (`decide`) with a probability of at least 0.95. The expected
    number of real differences adds those probabilities of the contrary up. A group where no text
    held a cluster is not asked: what it may still hide is left to exploration.
    """
    scopes = [(one_group(evidence), np.ones((1, len(evidence.boundary)), dtype=np.bool_))]
    if groups is not None and groups.max(initial=0) > 0:
        scopes.append((groups, was_seen(evidence, groups)))
    real = np.concatenate(
        [
            np.where(asked, 1.0 - decide(evidence, codes, min_effect).neither, 0.0)
            for codes, asked in scopes
        ]
    )
    kept = np.max(real, axis=0) > MAX_PROBABILITY
    return _report(
        "clusters", kept, real.sum(axis=0),
        f"shares differ by more than {min_effect:.1%} over all prompts, or by what that is in a "
        "group,",
    )  # fmt: skip


def bound_by_pairs(evidence: Evidence, confidence: float = INTERVAL) -> FloatArray:
    """An upper bound `(n_prompts,)` in [0, 1] of the difference that any criterion can have on a
    prompt: the exact one-sided one (Clopper and Pearson 1934) of the share of differing pairs.

    n identical pairs give 1 - (1 - confidence)^(1/n): with 95% that is below 3/n, the rule of three
    (Hanley and Lippman-Hand 1983). 1 where all pairs differ, or there are none.
    """
    from scipy.special import betaincinv

    if evidence.n_pairs is None or evidence.n_differing is None:
        return np.ones(len(evidence.n_base))
    n_identical = evidence.n_pairs - evidence.n_differing
    upper = betaincinv(evidence.n_differing + 1.0, np.maximum(n_identical, 1), confidence)
    return np.where(n_identical > 0, upper, 1.0)


def probability_of_difference(evidence: Evidence, difference: FloatArray) -> FloatArray:
    """At most how probable a total variation above `difference` is, per prompt `(n_prompts,)`.

    Each measurement that a prompt has gives an answer, and any is enough: the smallest counts,
    times their number (Bonferroni). 1 for a prompt without measurements.
    """
    found = [np.full(len(difference), np.nan)]
    if evidence.divergence is not None and evidence.divergence_se is not None:
        # By `pinsker_bound`, a total variation of t needs a divergence of 4 t^2.
        found.append(_tail(4 * difference**2, evidence.divergence, evidence.divergence_se))
    if evidence.parting is not None and evidence.parting_se is not None:
        found.append(_tail(difference, evidence.parting, evidence.parting_se))
    if evidence.n_pairs is not None and evidence.n_differing is not None:
        found.append(probability_by_pairs(difference, evidence.n_pairs, evidence.n_differing))
    n_known = np.isfinite(found).sum(axis=0)
    smallest = np.min(np.nan_to_num(found, nan=1.0), axis=0)
    probability: FloatArray = np.minimum(1.0, np.maximum(n_known, 1) * smallest)
    return probability


def _tail(threshold: FloatArray, mean: FloatArray, se: FloatArray) -> FloatArray:
    """The posterior probability `(n,)` of a value above `threshold`, which is never below zero: the
    estimate's normal distribution, cut off there. An estimate or an error that is nan gives nan.

    An estimate must be a mean of what can be summed from next-token distributions: of plain
    log-ratios, few texts can all miss a rare behaviour, and their standard error with them.
    """
    from scipy.special import log_ndtr

    sd = np.maximum(se, 1e-12)
    with np.errstate(invalid="ignore"):
        log_tail = log_ndtr((mean - threshold) / sd) - log_ndtr(mean / sd)
    return np.where(np.isfinite(se), np.exp(np.minimum(0.0, log_tail)), np.nan)


def probability_by_pairs(
    difference: FloatArray, n_pairs: Counts, n_differing: Counts
) -> FloatArray:
    """At most how probable a total variation above `difference` is, per prompt `(n_prompts,)`.

    However two texts are coupled, they differ with at least the probability of the total variation
    (Lindvall 1992, the coupling inequality); that probability has the posterior of a Jeffreys
    prior, Beta(differing + 1/2, identical + 1/2). No pairs give nan.
    """
    from scipy.stats import beta

    tail = beta.sf(difference, n_differing + 0.5, n_pairs - n_differing + 0.5)
    return np.where(n_pairs > 0, tail, np.nan)


def _range(values: FloatArray) -> str:
    low, high = (f"{value:.1%}" for value in (values.min(initial=1.0), values.max(initial=0.0)))
    return low if low == high else f"{low} to {high}"


def _report(stage: str, kept: BoolArray, expected: FloatArray, what: str) -> Screened:
    n_in, n_kept = len(kept), int(kept.sum())
    risk = float(expected[~kept].sum())
    reason = (
        f"{n_in - n_kept} of {n_in} {stage} dropped: for each, the probability that its {what} is "
        f"at most {MAX_PROBABILITY:.0%}; together they are expected to hold {risk:.2g} real "
        "differences"
    )
    if n_kept == n_in:
        reason = f"none of {n_in} {stage} dropped: no measurement rules a difference out"
    return Screened(kept, expected, StageReport(stage, n_in, n_kept, n_in - n_kept, risk, reason))
