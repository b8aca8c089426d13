"""Concept search: features that are more active on texts of a concept than on background texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from whatchanged.errors import UsageError
from whatchanged.saes.category_tests import ALPHA, FloatArray
from whatchanged.saes.features import SaeFeatures, TextGroups, check_texts
from whatchanged.saes.shuffles import draw_orders, family_p_values, shuffled_sums

if TYPE_CHECKING:
    from scipy.sparse import csr_array


@dataclass(frozen=True, slots=True)
class ConceptFeature:
    """How well one feature separates concept texts from background texts, each counted once.

    `auc` is the probability that a random concept text has the larger activation, ties counting
    half. Means are of activations, shares of texts with a positive one. `is_confirmed` says that
    `p_adjusted`, corrected for all features, is at most the level asked.
    """

    sae: str
    concept: str
    feature: int
    auc: float
    p_adjusted: float
    is_confirmed: bool
    mean_concept: float
    mean_background: float
    share_concept: float
    share_background: float
    n_concept: int
    n_background: int


def search_concept(
    sae: SaeFeatures,
    groups: TextGroups,
    concept: str,
    *,
    seed: int,
    n_shown: int = 20,
    alpha: float = ALPHA,
    n_permutations: int = 1000,
) -> tuple[ConceptFeature, ...]:
    """The `n_shown` features with the smallest p-value, then the largest AUC.

    Texts of the category `concept` against all others. The statistic is the rank sum of the
    concept texts. Its distribution under shuffled labels is skewed where a feature fires rarely,
    so its known mean, variance and skewness (a sample drawn without replacement) turn it into a
    nearly normal score (Wilson and Hilferty 1931); the largest score over all features in each
    shuffle gives the adjusted p-values (Westfall and Young 1993). Were sums compared by their
    z-score alone, a feature that fires on one of 700 texts, which is one of 10 concept texts,
    would come with a z of 8.3 and hide every real one.

    One concept text among n has p-values of 1 / n or more. A silent SAE gives none.

    Raises UsageError for a category without texts, for no background, and for a text that is both.
    """
    check_texts(sae, groups)
    is_concept = _concept_texts(groups, concept)
    values = sae.values[groups.first_rows]
    ranks = centred_ranks(values)
    n_firing = np.diff(ranks.indptr)
    shown = np.flatnonzero(n_firing)
    sums = _RankSums(ranks[shown], len(is_concept), int(is_concept.sum()))
    scores, largest = sums.shuffle(is_concept, np.random.default_rng(seed), n_permutations)
    p_adjusted = family_p_values(scores, largest)
    aucs = sums.auc(is_concept, n_firing[shown])
    best = np.lexsort((-aucs, p_adjusted))[:n_shown]
    inside, outside = (_describe(values[rows], shown[best]) for rows in (is_concept, ~is_concept))
    return tuple(
        ConceptFeature(
            sae=sae.card.name,
            concept=concept,
            feature=int(shown[place]),
            auc=float(aucs[place]),
            p_adjusted=float(p_adjusted[place]),
            is_confirmed=bool(p_adjusted[place] <= alpha),
            mean_concept=float(inside[0, i]),
            mean_background=float(outside[0, i]),
            share_concept=float(inside[1, i]),
            share_background=float(outside[1, i]),
            n_concept=int(is_concept.sum()),
            n_background=int((~is_concept).sum()),
        )
        for i, place in enumerate(best)
    )


def centred_ranks(values: csr_array) -> csr_array:
    """Midranks of each feature's activations, less the midrank of its zeros.

    `values (n_texts, n_features)` are at least 0; the result `(n_features, n_texts)` has zeros
    where they have: the zeros of a column are tied at its bottom.
    """
    from scipy.sparse import csr_array

    by_feature = csr_array(values.T, copy=True)
    by_feature.eliminate_zeros()
    n_firing = np.diff(by_feature.indptr)
    feature = np.repeat(np.arange(len(n_firing)), n_firing)
    order = np.lexsort((by_feature.data, feature))
    data = by_feature.data[order]
    is_first = np.ones(len(order), dtype=bool)
    is_first[1:] = (np.diff(feature) != 0) | (np.diff(data) != 0)
    starts = np.flatnonzero(is_first)
    sizes = np.diff(starts, append=len(order))
    # A tie of t values that begins at place p (from 0) has the midrank p + (t + 1) / 2.
    places = starts - by_feature.indptr[feature[starts]]
    n_zeros = values.shape[0] - n_firing
    midranks = np.repeat(places + (sizes + 1) / 2, sizes) + (n_zeros[feature] - 1) / 2
    ranks = np.empty(len(order), dtype=np.float32)
    ranks[order] = midranks
    by_feature.data = ranks
    return by_feature


@dataclass(frozen=True, eq=False)
class _RankSums:
    """Sums of `ranks (n_features, n_texts)` over `n_concept` of the `n_texts` texts."""

    ranks: csr_array
    n_texts: int
    n_concept: int

    def shuffle(
        self, is_concept: NDArray[np.bool_], rng: np.random.Generator, n_permutations: int
    ) -> tuple[FloatArray, FloatArray]:
        """The features' normal scores `(n_features,)`, and the largest of each shuffle."""
        member = is_concept.astype(np.float32)
        blocks = shuffled_sums(
            self.ranks,
            lambda n: member[draw_orders(self.n_texts, n, rng)],
            n_draws=n_permutations if self.ranks.shape[0] else 0,
        )
        mean, sd, skew = self._moments()
        largest = [_normal_scores((sums - mean) / sd, skew).max(axis=0) for sums in blocks]
        observed = np.asarray(self.ranks @ member)[:, None]
        return (
            _normal_scores((observed - mean) / sd, skew)[:, 0],
            np.concatenate([np.zeros(0), *largest]),
        )

    def auc(self, is_concept: NDArray[np.bool_], n_firing: NDArray[np.int64]) -> FloatArray:
        """The Mann-Whitney statistic as a share of the pairs, `(n_features,)`."""
        m, n = self.n_concept, self.n_texts
        zero_rank = (n - n_firing + 1) / 2
        rank_sums = np.asarray(self.ranks.astype(np.float64) @ is_concept) + m * zero_rank
        result: FloatArray = (rank_sums - m * (m + 1) / 2) / (m * (n - m))
        return result

    def _moments(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Mean, standard deviation and skewness of each sum over shuffles, `(n_features, 1)`.

        Those of the sum of a sample drawn without replacement from a finite population.
        """
        n, m = self.n_texts, self.n_concept
        ranks = self.ranks.astype(np.float64)
        first, second, third = (
            np.asarray(ranks.power(k).sum(axis=1)).reshape(-1, 1) / n for k in (1, 2, 3)
        )
        variance = second - first**2
        cubed = third - 3 * first * second + 2 * first**3
        sd = np.sqrt(m * (n - m) / (n - 1) * np.maximum(variance, 0))
        # Ranks that are all equal differ by rounding alone; others vary by more than 1 in n_texts.
        spread = np.where(variance > 1e-9 * second, sd, np.inf)
        finite = m * (n - m) * (n - 2 * m) / ((n - 1) * (n - 2)) if n > 2 else 0.0
        return m * first, spread, finite * cubed / spread**3


def _normal_scores(z: FloatArray, skew: FloatArray) -> FloatArray:
    """Wilson and Hilferty's cube root (1931): z-scores of a skewed sum, made nearly normal."""
    # Where the skewness is slight the formula tends to z, and would divide by zero.
    g = np.where(np.abs(skew) < 1e-4, 1e-4, skew)
    scores: FloatArray = 6 / g * (np.cbrt(1 + g * z / 2) - 1 + g**2 / 36)
    return scores


def _describe(values: csr_array, features: NDArray[np.int64]) -> FloatArray:
    """Mean activation and share of texts with one, `(2, n_features)`."""
    dense = values[:, features].toarray().astype(np.float64)
    return np.array([dense.mean(axis=0), (dense > 0).mean(axis=0)])


def _concept_texts(groups: TextGroups, concept: str) -> NDArray[np.bool_]:
    """Which distinct texts are of the concept, `(n_distinct,)`."""
    if concept not in groups.categories:
        raise UsageError(
            f"expected texts of the category {concept!r}, found none; there are "
            f"{', '.join(groups.categories) or 'no texts'}"
        )
    counts = groups.row_counts
    n_concept = counts[:, groups.categories.index(concept)]
    is_concept = n_concept > 0
    n_both = int(np.count_nonzero(is_concept & (n_concept < counts.sum(axis=1))))
    if n_both:
        raise UsageError(
            f"expected each text to be of the concept {concept!r} or of the background, found "
            f"{n_both} that are both: remove them from one"
        )
    if is_concept.all():
        raise UsageError(
            f"expected background texts beside the category {concept!r}, found none: add some"
        )
    return is_concept
