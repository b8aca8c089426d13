"""What all prompts share, and which prompts stand out from it.

After a fine-tune the sides differ a little on every prompt: drift, and whatever else changed
everywhere. That part is in every text, so no prompt is needed for it in particular. A prompt that
stands out has a change of its own, or of its group.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from whatchanged.sample import Evidence, FloatArray, Groups

# With fewer prompts, what they share cannot be told from what they do not.
MIN_PROMPTS = 10
# Smaller errors and spreads than this, in total variation, matter to nobody.
_MIN_ERROR = 1e-3
_MAX_STEPS = 200
_N_CELLS = 50


class Parting(NamedTuple):
    """How far apart the sides are on each prompt, in [0, 1], and its standard error; nan where
    nothing is known. Both are `(n_prompts,)`."""

    estimate: FloatArray
    error: FloatArray


def estimate_parting(evidence: Evidence) -> Parting:
    """How far apart the sides are on each prompt, by the best measurement that there is.

    The probability that the models part along a text; without it, the total variation that the
    divergence allows (`pinsker_bound`, its error by the delta method); without both, the share of
    coupled pairs that differ (Jeffreys posterior). On the embedded pair, 4 whole texts per side
    rank the prompts that changed with an AUC of 0.99 by the first, 0.94 by the second and 0.87 by
    the third.
    """
    if evidence.parting is not None and evidence.parting_se is not None:
        return Parting(evidence.parting, evidence.parting_se)
    if evidence.divergence is not None and evidence.divergence_se is not None:
        bound = pinsker_bound(evidence.divergence)
        slope = 1 / (8 * np.maximum(bound, _MIN_ERROR))
        return Parting(bound, np.minimum(1.0, slope * evidence.divergence_se))
    if evidence.n_pairs is not None and evidence.n_differing is not None:
        pairs = evidence.n_pairs + 1.0
        share: FloatArray = np.where(
            evidence.n_pairs > 0, (evidence.n_differing + 0.5) / pairs, np.nan
        )
        return Parting(share, np.sqrt(share * (1 - share) / (pairs + 1)))
    unknown = np.full(len(evidence.n_base), np.nan)
    return Parting(unknown, unknown)


def pool_groups(parting: Parting, groups: Groups) -> Parting:
    """The estimates, each drawn towards the mean of its prompt's group, with smaller errors.

    Prompts of one group change together more often than not. A prompt is taken for its group's mean
    plus a deviation of its own, whose variance is the same in all groups and is estimated from what
    the errors leave of the spread (empirical Bayes, Efron and Morris 1975; moments after
    DerSimonian and Laird 1986). The errors of a group count as equal: with a handful of texts, a
    small error is luck. Four short texts per prompt of the embedded pair rank the changed prompts
    with an AUC of 0.99 and 0.95 on two seeds without this and of 1.00 and 0.98 with it.

    `groups (n_prompts,)` are codes. Where all prompts are one group, and for a prompt without an
    estimate, nothing changes.
    """
    known = np.isfinite(parting.estimate) & np.isfinite(parting.error)
    sizes = np.bincount(groups[known], minlength=int(groups.max(initial=0)) + 1)
    n_free = int(np.maximum(sizes - 1, 0).sum())
    if np.count_nonzero(sizes) < 2 or n_free == 0:
        return parting
    codes, values = groups[known], parting.estimate[known]
    each = np.maximum(sizes, 1)
    means = np.bincount(codes, weights=values, minlength=len(sizes)) / each
    errors = np.bincount(codes, weights=parting.error[known] ** 2, minlength=len(sizes)) / each
    deviations = values - means[codes]
    excess = float((deviations**2).sum() - (np.maximum(sizes - 1, 0) * errors).sum())
    variance = max(0.0, excess / n_free)
    own = variance / np.maximum(variance + errors, _MIN_ERROR**2)
    spread = own * errors + (1 - own) ** 2 * (variance + errors) / each
    estimate, error = parting.estimate.copy(), parting.error.copy()
    estimate[known] = means[codes] + own[codes] * deviations
    error[known] = np.sqrt(spread)[codes]
    return Parting(estimate, error)


def pinsker_bound(divergence: ArrayLike) -> FloatArray:
    """The largest total variation in [0, 1] with a given KL(p || q) + KL(q || p), in nats.

    Pinsker's inequality (Csiszar 1967), TV <= sqrt(KL / 2), holds in both directions; the sum of
    its two squares is 4 TV^2 <= KL + reverse. A divergence below zero, as an estimate may be,
    gives 0; nan stays nan.
    """
    return np.minimum(1.0, np.sqrt(np.maximum(np.asarray(divergence, dtype=np.float64), 0.0)) / 2)


def stand_out(parting: Parting, smallest: FloatArray) -> FloatArray:
    """The probability in [0, 1] that each prompt is further apart than what all share, `(n,)`, by
    at least `smallest (n,)`.

    Two groups, with an empirical null (Efron 2004): prompts without a change of their own are
    normal around one background, with a spread besides their errors; those with one lie above it,
    their excess log-uniform between `smallest` and the most that is possible, since changes come in
    every order of magnitude. Beforehand both groups are equally probable: changes too weak to be
    told from the spread cannot be counted, and a prompt is only held to be without one where its
    own measurement says so. What most prompts share is background, however large it is.

    A prompt without an estimate gives 1, and so do all where fewer than 10 have one.
    """
    known = np.isfinite(parting.estimate) & np.isfinite(parting.error)
    probability = np.ones(len(known))
    if np.count_nonzero(known) >= MIN_PROMPTS:
        errors = np.maximum(parting.error[known], _MIN_ERROR)
        probability[known] = _fit_two_groups(parting.estimate[known], errors, smallest[known])
    return probability


def _fit_two_groups(values: FloatArray, errors: FloatArray, smallest: FloatArray) -> FloatArray:
    """The posterior probability `(n,)` of the upper group, by expectation maximization over the
    centre and the spread of the background."""
    # The upper group only adds values above: the lower half of them shows the background.
    centre = float(np.quantile(values, 0.3))
    lower = values[values <= np.median(values)]
    variance = float(1.4826 * np.median(np.abs(lower - centre))) ** 2
    upper = _upper_group(values, errors, smallest, centre, variance)
    for _ in range(_MAX_STEPS):
        weights = (1 - upper) / (variance + errors**2)
        total = max(float(weights.sum()), 1e-300)
        centre = float((weights * values).sum()) / total
        variance = max(0.0, float((weights * ((values - centre) ** 2 - errors**2)).sum()) / total)
        before = upper
        upper = _upper_group(values, errors, smallest, centre, variance)
        if np.abs(upper - before).max() < 1e-6:
            break
    return upper


def _upper_group(
    values: FloatArray, errors: FloatArray, smallest: FloatArray, centre: float, variance: float
) -> FloatArray:
    from scipy.stats import norm

    sd = np.sqrt(variance + errors**2)
    low = np.maximum(smallest, _MIN_ERROR)
    span = np.log(np.maximum(1.0 - centre, 2 * low) / low)
    # Cells of equal probability, each uniform, seen with the same error and spread: (n, cells).
    edges = low[:, None] * np.exp(np.linspace(0.0, 1.0, _N_CELLS + 1) * span[:, None])
    below = norm.cdf((edges - (values - centre)[:, None]) / sd[:, None])
    above = np.mean(np.diff(below, axis=1) / np.diff(edges, axis=1), axis=1)
    background = norm.pdf(values, centre, sd)
    both = above + background
    # So far from everything that no density is left, what counts is on which side.
    upper = (values > centre).astype(np.float64)
    np.divide(above, both, out=upper, where=both > 0)
    return upper
