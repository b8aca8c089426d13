"""Shares of adaptively chosen texts, reweighted to the distribution of the prompts.

Active sampling decodes more where it is uncertain, so a plain share over its texts is a share of
whatever was sampled most. Post-stratification (Holt and Smith 1979) undoes that: every prompt of
the bank counts the same, with its own share.

What is left of the bias is small: a prompt that showed a behaviour by chance is sampled again and
corrects itself, one that missed it by chance is not, so shares within prompts err to the low side
(Nie, Tian, Taylor and Zou 2018). The sides of a difference share that error. Shares of adaptively
chosen texts are for looking; tests take fresh texts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from whatchanged.errors import UsageError

__all__ = [
    "ReweightedDifference",
    "ReweightedShare",
    "even_weights",
    "reweighted_difference",
    "reweighted_share",
]

FloatArray: TypeAlias = NDArray[np.float64]
Counts: TypeAlias = NDArray[np.int64]
Groups: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ReweightedShare:
    """Shares in [0, 1] over the prompts of a bank, `(k,)`, nan where there is no text.

    `se` is the standard error; `n_effective` the number of texts, spread evenly, that would know
    as much: what an interval for the share uses.
    """

    share: FloatArray
    se: FloatArray
    n_effective: FloatArray


@dataclass(frozen=True, slots=True)
class ReweightedDifference:
    """Both shares and intervention minus base with its interval, each `(k,)`."""

    share_base: FloatArray
    share_intervention: FloatArray
    effect: FloatArray
    se: FloatArray
    ci_low: FloatArray
    ci_high: FloatArray


def even_weights(prompts: Groups, sides: Groups) -> FloatArray:
    """The weights `(n,)` under which every prompt counts the same on each side; their mean is 1.

    `prompts (n,)` and `sides (n,)` number the prompt and the side of each text. All are 1 where no
    prompt has over one text more than another: an even allocation cannot be more even than that.
    """
    n_texts = np.zeros((int(sides.max(initial=0)) + 1, int(prompts.max(initial=0)) + 1))
    np.add.at(n_texts, (sides, prompts), 1)
    if np.ptp(n_texts) <= 1:
        return np.ones(len(prompts))
    weights = 1.0 / n_texts[sides, prompts]
    even: FloatArray = weights / weights.mean()
    return even


def reweighted_share(
    hits: Counts, n_texts: Counts, *, groups: Groups | None = None
) -> ReweightedShare:
    """The shares of texts that meet k criteria, as if every prompt had equally many texts.

    `hits (n_prompts, k)` of `n_texts (n_prompts,)`. Post-stratification (Holt and Smith 1979): the
    mean over prompts of each prompt's own share. A prompt without texts borrows the mean of the
    prompts of its group that have some, or of all such prompts where none of its group has;
    `groups (n_prompts,)` numbers the groups from 0, None is one group.

    The standard error has the two parts of two-stage sampling (Cochran 1977, chapter 10): the
    scatter of texts within prompts, and that of prompts within groups as far as some lack texts. A
    prompt with a single text borrows its group's mean scatter. A share of 0 or 1 has a standard
    error of 0 and is not certain for that, so `n_effective` is share (1 - share) / se^2 (Korn and
    Graubard 1998), but never more than the squared sum of the texts' weights over the sum of their
    squares (Kish 1965).

    No texts at all give nan, nan and 0. Raises UsageError for shapes that differ and for hits
    outside 0 to n_texts.
    """
    _check_hits(hits, n_texts, groups)
    group = np.zeros(len(n_texts), dtype=np.int64) if groups is None else groups
    n_criteria, sampled = hits.shape[1], n_texts > 0
    if not sampled.any():
        unknown = np.full(n_criteria, np.nan)
        return ReweightedShare(unknown, unknown, np.zeros(n_criteria))
    own = hits / np.maximum(n_texts, 1)[:, None]
    group_mean = _group_means(own, sampled, group)
    share = np.where(sampled[:, None], own, group_mean).mean(axis=0)
    weight = _prompt_weights(sampled, group)
    scatter = _text_variance(own, n_texts, group, share) / np.maximum(n_texts, 1)[:, None]
    # A prompt stands for itself with weight 1/n; what exceeds that stands for prompts unseen.
    unseen = ((weight - 1 / len(weight))[sampled] ** 2).sum()
    unseen += np.count_nonzero(~sampled) / len(weight) ** 2
    among_prompts = _prompt_variance(own, group_mean, scatter, sampled, group, share)
    variance = weight**2 @ scatter + unseen * among_prompts
    kish = 1.0 / (weight[sampled] ** 2 / n_texts[sampled]).sum()
    as_precise = np.full(n_criteria, kish)
    np.divide(share * (1 - share), variance, out=as_precise, where=variance > 0)
    return ReweightedShare(share, np.sqrt(variance), np.minimum(as_precise, kish))


def reweighted_difference(
    hits_base: Counts,
    n_base: Counts,
    hits_intervention: Counts,
    n_intervention: Counts,
    *,
    groups: Groups | None = None,
    confidence: float = 0.95,
) -> ReweightedDifference:
    """The differences of `reweighted_share`s, intervention minus base, with an interval.

    The interval is Newcombe's hybrid score interval (1998), the square-and-add of Wilson's for
    each side, with effective numbers of texts (Korn and Graubard 1998). It stays in [-1, 1] and
    has a width where no text hits. It takes the sides as independent, so for coupled texts it is
    too wide. A side without texts gives a nan effect and the interval [-1, 1].

    Raises UsageError as `reweighted_share` does, and for a confidence outside (0, 1).
    """
    if not 0 < confidence < 1:
        raise UsageError(f"expected a confidence in (0, 1), found {confidence}")
    base = reweighted_share(hits_base, n_base, groups=groups)
    intervention = reweighted_share(hits_intervention, n_intervention, groups=groups)
    effect = intervention.share - base.share
    below_base, above_base = _wilson_arms(base, confidence)
    below, above = _wilson_arms(intervention, confidence)
    known = np.isfinite(effect)
    return ReweightedDifference(
        base.share,
        intervention.share,
        effect,
        np.hypot(base.se, intervention.se),
        np.where(known, np.maximum(effect - np.hypot(below, above_base), -1.0), -1.0),
        np.where(known, np.minimum(effect + np.hypot(above, below_base), 1.0), 1.0),
    )


def _group_means(values: FloatArray, known: NDArray[np.bool_], group: Groups) -> FloatArray:
    """For every prompt the mean of `values (n_prompts, k)` over the known prompts of its group, or
    over all known prompts where its group has none."""
    n_groups = int(group.max()) + 1
    sums, counts = np.zeros((n_groups, values.shape[1])), np.bincount(group[known], None, n_groups)
    np.add.at(sums, group[known], values[known])
    means = np.where(
        counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], values[known].mean(axis=0)
    )
    borrowed: FloatArray = means[group]
    return borrowed


def _prompt_weights(sampled: NDArray[np.bool_], group: Groups) -> FloatArray:
    """What each prompt's own share counts in the whole, `(n_prompts,)`; they sum to 1."""
    n_groups = int(group.max()) + 1
    n_sampled = np.bincount(group[sampled], None, n_groups)
    n_missing = np.bincount(group[~sampled], None, n_groups)
    n_orphans = n_missing[n_sampled == 0].sum()
    stands_for = 1 + n_missing / np.maximum(n_sampled, 1) + n_orphans / n_sampled.sum()
    weights: FloatArray = np.where(sampled, stands_for[group], 0.0) / len(sampled)
    return weights


def _text_variance(
    own: FloatArray, n_texts: Counts, group: Groups, share: FloatArray
) -> FloatArray:
    """The variance of one text's hit within each prompt, `(n_prompts, k)`, unbiased."""
    several = n_texts >= 2
    if not several.any():
        return np.broadcast_to(share * (1 - share), own.shape)
    variance = own * (1 - own) * (n_texts / np.maximum(n_texts - 1, 1))[:, None]
    return np.where(several[:, None], variance, _group_means(variance, several, group))


def _prompt_variance(
    own: FloatArray,
    group_mean: FloatArray,
    scatter: FloatArray,
    sampled: NDArray[np.bool_],
    group: Groups,
    share: FloatArray,
) -> FloatArray:
    """The variance of prompts' true shares within groups, `(k,)`: what scatters more than the
    texts explain. The largest possible, share (1 - share), where no group has two with texts."""
    n_free = int(sampled.sum()) - len(np.unique(group[sampled]))
    if n_free == 0:
        return share * (1 - share)
    squares = ((own - group_mean)[sampled] ** 2).sum(axis=0)
    excess: FloatArray = squares / n_free - scatter[sampled].mean(axis=0)
    return np.maximum(excess, 0.0)


def _wilson_arms(found: ReweightedShare, confidence: float) -> tuple[FloatArray, FloatArray]:
    """How far Wilson's interval (1927) reaches below and above the share, each `(k,)`."""
    from statsmodels.stats.proportion import proportion_confint

    n = np.maximum(found.n_effective, 1.0)
    low, high = proportion_confint(found.share * n, n, alpha=1 - confidence, method="wilson")
    return np.maximum(found.share - low, 0.0), np.maximum(high - found.share, 0.0)


def _check_hits(hits: Counts, n_texts: Counts, groups: Groups | None) -> None:
    n_prompts = len(n_texts)
    n_groups = n_prompts if groups is None else len(groups)
    if hits.ndim != 2 or len(hits) != n_prompts or n_groups != n_prompts:
        raise UsageError(
            f"expected hits of shape (n_prompts, k), and texts and groups of shape (n_prompts,), "
            f"found {hits.shape}, ({n_prompts},) and ({n_groups},)"
        )
    if not ((hits >= 0) & (hits <= n_texts[:, None])).all():
        raise UsageError("expected 0 <= hits <= texts for every prompt, found others")
