"""Acquisition functions: what each prompt's next texts are worth, by a name in the config.

All have one signature, are pure, and return scores `(n_prompts,)` that are finite and at least 0;
`sample.allocate` turns them into texts, and keeps a share for exploration. Those that score
clusters do so over all prompts and within each prompt group, take the mean of the two, and reach
the prompts through each prompt's measured share of texts in the cluster (`prompt_scores`).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from whatchanged.background import pinsker_bound
from whatchanged.config import AcquisitionName
from whatchanged.differences import cluster_uncertainty, sought_differences
from whatchanged.errors import UsageError
from whatchanged.nearest import limit_threads
from whatchanged.sample import (
    INTERVAL,
    Evidence,
    FloatArray,
    Groups,
    one_group,
    prompt_scores,
    sum_by_group,
)
from whatchanged.screen import MAX_PROBABILITY, bound_by_pairs, screen_prompts
from whatchanged.stats import difference_posterior

_N_FOLDS = 5
# The ridge penalty as a prior: what the log-odds of a typical text may be, one way or the other.
_LOG_ODDS_SD = 2.0


class Acquisition(Protocol):
    """Scores the prompts `(n_prompts,)`. `groups (n_prompts,)` numbers the prompt groups from 0;
    `min_effect` is the smallest share difference of interest over all prompts."""

    def __call__(
        self, evidence: Evidence, *, groups: Groups, min_effect: float, seed: int
    ) -> FloatArray: ...


def boundary(evidence: Evidence, *, groups: Groups, min_effect: float, seed: int) -> FloatArray:
    """Clusters whose members lie between two clusters: margin sampling (Scheffer, Decomain and
    Wrobel 2001), on the distance to the nearest centroid over that to the second nearest."""
    margins = np.clip(np.nan_to_num(evidence.boundary), 0.0, 1.0)
    n_groups = int(groups.max(initial=0)) + 1
    return prompt_scores(evidence, np.tile(margins, (n_groups, 1)), groups=groups)


def posterior_width(
    evidence: Evidence, *, groups: Groups, min_effect: float, seed: int
) -> FloatArray:
    """Clusters whose share difference is known least: the width of its posterior interval, with
    independent Jeffreys Beta posteriors per cluster and side (the average length criterion of
    Joseph, Wolfson and du Berger 1995, one round at a time)."""
    from scipy.special import ndtri

    widths = [
        2.0 * float(ndtri((1 + INTERVAL) / 2)) * difference_posterior(*counts).sd
        for counts in _counts_by_scope(evidence, groups)
    ]
    return prompt_scores(evidence, (widths[0] + widths[1]) / 2, groups=groups)


def thompson(evidence: Evidence, *, groups: Groups, min_effect: float, seed: int) -> FloatArray:
    """Clusters that differ if one draw from the posteriors is the truth (Thompson 1933).

    Each side's share is drawn once per cluster and scope from its Jeffreys Beta posterior; the
    score is by how much the drawn difference exceeds the smallest one that is looked for. Clear
    differences and unknown ones are followed up in proportion to their chance of being real.
    """
    rng = np.random.default_rng(seed)
    drawn = []
    for codes, counts in zip(
        (one_group(evidence), groups), _counts_by_scope(evidence, groups), strict=True
    ):
        hits_base, n_base, hits_intervention, n_intervention = counts
        shares_base = rng.beta(hits_base + 0.5, n_base - hits_base + 0.5)
        shares = rng.beta(hits_intervention + 0.5, n_intervention - hits_intervention + 0.5)
        sought = sought_differences(codes, min_effect)[:, None]
        drawn.append(np.maximum(0.0, np.abs(shares - shares_base) - sought))
    return prompt_scores(evidence, (drawn[0] + drawn[1]) / 2, groups=groups)


def divergence(evidence: Evidence, *, groups: Groups, min_effect: float, seed: int) -> FloatArray:
    """Prompts on which the sides may differ most, optimistically: estimate plus standard error,
    after the upper confidence bounds of Lai and Robbins (1985).

    The divergence of the screen enters as the total variation that it allows (`pinsker_bound`): in
    nats, one prompt that is refused outright would take the texts of a hundred others. A prompt
    without an estimate scores like the highest. Where no screen ran, the score is the posterior
    mean of the share of differing pairs plus its standard deviation.

    Raises UsageError where there was neither a screen nor coupled decoding.
    """
    if evidence.divergence is not None and evidence.divergence_se is not None:
        return pinsker_bound(_optimistic(evidence.divergence, evidence.divergence_se))
    if evidence.n_pairs is not None and evidence.n_differing is not None:
        differing, pairs = evidence.n_differing + 0.5, evidence.n_pairs + 1.0
        mean: FloatArray = differing / pairs
        return np.minimum(1.0, mean + np.sqrt(mean * (1 - mean) / (pairs + 1)))
    raise UsageError(
        "expected a divergence screen or coupled decoding for sample.acquisition 'divergence', "
        "found neither: turn one of them on, or choose 'combined'"
    )


def classifier(evidence: Evidence, *, groups: Groups, min_effect: float, seed: int) -> FloatArray:
    """Prompts whose texts a classifier can tell apart by side: `classifier_scores`, a classifier
    two-sample test (Lopez-Paz and Oquab 2017). The few texts of one prompt say little (on the
    embedded pair, 4 per side rank the changed prompts with an AUC of 0.68, the mean of a group's 6
    prompts with 0.82), so a prompt's score is the mean of its own and its group's. A prompt without
    one is taken for the highest.

    Raises UsageError where no classifier was trained.
    """
    if evidence.classifier is None:
        raise UsageError(
            "expected classifier scores for sample.acquisition 'classifier', found none: compute "
            "them from the texts' embeddings, or choose 'combined'"
        )
    own = np.maximum(0.0, _optimistic(evidence.classifier, np.zeros(len(evidence.classifier))))
    sizes = np.maximum(np.bincount(groups), 1)
    return (own + (np.bincount(groups, weights=own) / sizes)[groups]) / 2


def undersampled(evidence: Evidence, *, groups: Groups, min_effect: float, seed: int) -> FloatArray:
    """Clusters that few texts have shown: 1 / sqrt(1 + texts), the count-based exploration bonus
    of Strehl and Littman (2008), which is the relative error of a count."""
    hits = evidence.hits_base + evidence.hits_intervention
    bonus = [1.0 / np.sqrt(1.0 + sum_by_group(hits, g)) for g in (one_group(evidence), groups)]
    return prompt_scores(evidence, (bonus[0] + bonus[1]) / 2, groups=groups)


def combined(evidence: Evidence, *, groups: Groups, min_effect: float, seed: int) -> FloatArray:
    """What is undecided, where the sides differ: undecidedness times the squared probability that
    the prompt has a change of its own.

    The first factor is `cluster_uncertainty` (undecided, on a boundary, rarely seen), the second
    the probability of `screen_prompts`: further apart than most prompts, and than the smallest
    difference of interest. A product, because a text helps only where both hold: a sum would go on
    decoding prompts that differ in what is long decided, and undecided clusters on prompts where
    both sides say the same. A probability instead of the divergence itself, because it is 1 for a
    weak change as for a strong one: in proportion to nats, or even to the total variation, the
    prompts that changed completely leave nothing for those that changed a little. Squared, because
    a prompt that nothing is known of has a probability near one half: in replays of the embedded
    pair's texts, 500 per side show 4.5 of 6 planted changes at z of 3 or more, against 4.2 without
    the square and 3.4 evenly spread. Without a screen and without pairs the second factor is 1.

    The probability counts as at least 0.05, so that nothing is starved where nothing stands out.
    A prompt whose bound from coupled pairs is no more than its group's smallest difference of
    interest gets nothing: n identical pairs leave at most 3/n.
    """
    uncertainty = cluster_uncertainty(evidence, min_effect=min_effect, groups=groups)
    open_questions = prompt_scores(evidence, uncertainty, groups=groups)
    screened = screen_prompts(evidence, min_effect=min_effect, groups=groups)
    weight = np.maximum(MAX_PROBABILITY, screened.probability)
    sought = sought_differences(groups, min_effect)[groups]
    return np.where(bound_by_pairs(evidence) > sought, open_questions * weight**2, 0.0)


ACQUISITIONS: Mapping[AcquisitionName, Acquisition] = MappingProxyType(
    {
        "boundary": boundary,
        "posterior_width": posterior_width,
        "thompson": thompson,
        "divergence": divergence,
        "classifier": classifier,
        "undersampled": undersampled,
        "combined": combined,
    }
)


def classifier_scores(
    embeddings: NDArray[np.float32],
    is_intervention: NDArray[np.bool_],
    prompt_rows: NDArray[np.intp],
    n_prompts: int,
    *,
    seed: int,
) -> FloatArray:
    """How well the sides of each prompt can be told apart, `(n_prompts,)`, in [0, 1].

    A logistic regression learns from `embeddings (n_texts, d)`, centred within each prompt, which
    side wrote a text; it judges only texts of prompts that it has not seen (5 folds of prompts), so
    that only what holds for other prompts too counts as a difference. A prompt's score is the mean
    probability "intervention" of its intervention texts less that of its base texts. For the best
    possible classifier that gap is the Vincze-Le Cam divergence, 1/2 sum (p - q)^2 / (p + q), which
    lies between TV^2 and TV and is 0 only for equal sides; a weaker one finds less. To the gap, at
    least 0, comes its standard error (optimism; the variance within a prompt and side is pooled
    over all of them).

    A prompt without texts on both sides gives nan, and so do all where fewer than two prompts have
    both.
    """
    sides = np.asarray(is_intervention, dtype=np.bool_)
    counts = np.stack(
        [np.bincount(prompt_rows[sides == side], minlength=n_prompts) for side in (False, True)]
    )
    comparable = np.min(counts, axis=0) > 0
    if np.count_nonzero(comparable) < 2:
        return np.full(n_prompts, np.nan)
    used = comparable[prompt_rows]
    rows, sides = prompt_rows[used], sides[used]
    judged = _held_out_probabilities(_centred(embeddings[used], rows, n_prompts), sides, rows, seed)
    cells = 2 * rows + sides  # base and intervention of every prompt
    sizes = np.asarray(np.maximum(np.bincount(cells, minlength=2 * n_prompts), 1), dtype=np.float64)
    means = np.bincount(cells, weights=judged, minlength=2 * n_prompts) / sizes
    n_free = max(1, len(judged) - 2 * int(np.count_nonzero(comparable)))
    variance = float(np.sum((judged - means[cells]) ** 2)) / n_free
    gaps = np.maximum(0.0, means[1::2] - means[::2])
    errors = np.sqrt(variance / sizes[::2] + variance / sizes[1::2])
    return np.where(comparable, np.minimum(1.0, gaps + errors), np.nan)


def _held_out_probabilities(
    vectors: FloatArray, sides: NDArray[np.bool_], rows: NDArray[np.intp], seed: int
) -> FloatArray:
    """The probability "intervention" of every text, from a model that never saw its prompt."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold, cross_val_predict

    folds = GroupKFold(min(_N_FOLDS, len(np.unique(rows))), shuffle=True, random_state=seed)
    model = LogisticRegression(
        C=_LOG_ODDS_SD**2 / vectors.shape[1], class_weight="balanced", max_iter=1000
    )
    with limit_threads():
        probabilities = cross_val_predict(
            model, vectors, sides, groups=rows, cv=folds, method="predict_proba"
        )
    return np.asarray(probabilities[:, 1], dtype=np.float64)


def _centred(embeddings: NDArray[np.float32], rows: NDArray[np.intp], n_prompts: int) -> FloatArray:
    """Embeddings less their prompt's mean over both sides, scaled to a mean square of 1."""
    sizes = np.maximum(np.bincount(rows, minlength=n_prompts), 1)
    sums = np.zeros((n_prompts, embeddings.shape[1]))
    np.add.at(sums, rows, embeddings)
    centred: FloatArray = embeddings - (sums / sizes[:, None])[rows]
    scale = float(np.sqrt(np.mean(centred**2)))
    return centred / scale if scale > 0 else centred


def _counts_by_scope(evidence: Evidence, groups: Groups) -> list[tuple[FloatArray, ...]]:
    """Hits and texts, base and intervention, over all prompts and by group: `(1 or n_groups, k)`
    and `(1 or n_groups, 1)`."""
    counts = (
        evidence.hits_base, evidence.n_base[:, None],
        evidence.hits_intervention, evidence.n_intervention[:, None],
    )  # fmt: skip
    return [
        tuple(sum_by_group(part, codes) for part in counts)
        for codes in (one_group(evidence), groups)
    ]


def _optimistic(estimates: FloatArray, errors: FloatArray) -> FloatArray:
    """Estimates plus their errors `(n,)`; the largest where unknown, 0 where none is known."""
    upper = np.asarray(estimates + errors, dtype=np.float64)
    known = upper[np.isfinite(upper)]
    return np.where(np.isfinite(upper), upper, known.max(initial=0.0))
