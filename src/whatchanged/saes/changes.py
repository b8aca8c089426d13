"""Features that the intervention strengthened, weakened, created or killed, on the same texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from whatchanged.errors import UsageError
from whatchanged.paired import paired_share_difference
from whatchanged.saes.category_tests import ALPHA
from whatchanged.saes.features import (
    ZERO,
    SaeFeatures,
    TextGroups,
    Threshold,
    check_texts,
    firing,
)
from whatchanged.saes.shuffles import family_p_values, shuffled_sums
from whatchanged.stats import ShareDifference

if TYPE_CHECKING:
    from scipy.sparse import csr_array

ChangeKind = Literal["strengthened", "weakened", "created", "killed"]


@dataclass(frozen=True, slots=True)
class FeatureChange:
    """One feature whose activations differ between the models. Each distinct text counts once.

    `mean_*` are over all texts. `effect` is the difference of the shares of texts on which the
    feature fires, with its interval: a feature can be stronger without firing more often.
    """

    sae: str
    feature: int
    kind: ChangeKind
    mean_base: float
    mean_intervention: float
    share_base: float
    share_intervention: float
    effect: float
    ci_low: float
    ci_high: float
    p_adjusted: float
    n_texts: int


@dataclass(frozen=True)
class FeatureChanges:
    """How many features changed in which way at level `alpha`, and those that changed most."""

    n_features: int
    n_by_kind: dict[ChangeKind, int]
    largest: tuple[FeatureChange, ...]


def compare_sides(
    base: SaeFeatures,
    intervention: SaeFeatures,
    groups: TextGroups,
    *,
    seed: int,
    threshold: Threshold = ZERO,
    alpha: float = ALPHA,
    n_shown: int = 50,
    n_draws: int = 1000,
) -> FeatureChanges:
    """The features of one SAE that differ between the base and the intervention.

    Both sides read the same texts. If a feature does not change, its difference on a text is as
    likely to be negative as positive, so a draw of the null flips the signs of whole texts, all
    features together (Nichols and Holmes 2002). The statistic is the self-normalized sum, sum(d) /
    sqrt(sum(d^2)) (Efron 1969): flips leave its denominator as it is, so features of any scale and
    frequency compare, and its largest size over all features gives the adjusted p-values (Westfall
    and Young 1993).

    A feature is created where it fires on no text of the base, killed where it fires on none of
    the intervention; else strengthened or weakened, by its mean. Few texts can show little: on
    four, all signs agree in an eighth of the draws. Sides that are equal, a silent SAE and no texts
    give no change.

    Raises UsageError where the sides differ in their features or texts.
    """
    check_texts(base, groups)
    check_texts(intervention, groups)
    if base.d_sae != intervention.d_sae:
        raise UsageError(
            f"expected one SAE on both sides, found {base.d_sae} and {intervention.d_sae} features"
        )
    rows = groups.first_rows
    differences = (intervention.values[rows] - base.values[rows]).T.tocsr()
    z, p_adjusted = _test_signs(differences, np.random.default_rng(seed), n_draws)
    changed = np.flatnonzero(p_adjusted <= alpha)
    changed = changed[np.argsort(-np.abs(z[changed]), kind="stable")]
    fires = [firing(side, threshold)[rows].tocsc() for side in (base, intervention)]
    n_firing = [np.diff(side.indptr) for side in fires]
    kinds = [_kind(float(z[i]), int(n_firing[0][i]), int(n_firing[1][i])) for i in changed]
    names: tuple[ChangeKind, ...] = ("strengthened", "weakened", "created", "killed")
    shown = changed[:n_shown]
    means = [_means(side, rows, shown) for side in (base, intervention)]
    shares = _paired_shares(*(side[:, shown].toarray() > 0 for side in fires))
    largest = tuple(
        FeatureChange(
            sae=intervention.card.name,
            feature=int(feature),
            kind=kinds[i],
            mean_base=float(means[0][i]),
            mean_intervention=float(means[1][i]),
            share_base=shares[i].share_base,
            share_intervention=shares[i].share_intervention,
            effect=shares[i].effect,
            ci_low=shares[i].ci_low,
            ci_high=shares[i].ci_high,
            p_adjusted=float(p_adjusted[feature]),
            n_texts=groups.n_distinct,
        )
        for i, feature in enumerate(shown)
    )
    return FeatureChanges(base.d_sae, {name: kinds.count(name) for name in names}, largest)


def _test_signs(
    differences: csr_array, rng: np.random.Generator, n_draws: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The self-normalized sums of `differences (n_features, n_texts)` and their p-values."""
    n_features, n_texts = differences.shape
    squares = np.asarray(differences.power(2).sum(axis=1, dtype=np.float64))
    differs = np.flatnonzero(squares > 0)
    z, p_adjusted = np.zeros(n_features), np.ones(n_features)
    if not differs.size:
        return z, p_adjusted
    kept = differences[differs]
    # In units of its root sum of squares, float32 sums of any feature are equally exact.
    kept.data = kept.data / np.repeat(np.sqrt(squares[differs]), np.diff(kept.indptr))
    kept = kept.astype(np.float32)
    blocks = shuffled_sums(
        kept,
        lambda n: rng.choice(np.array([-1, 1], dtype=np.float32), size=(n_texts, n)),
        n_draws=n_draws,
    )
    largest = np.concatenate([np.abs(sums).max(axis=0) for sums in blocks])
    z[differs] = np.asarray(kept.sum(axis=1))
    p_adjusted[differs] = family_p_values(np.abs(z[differs]), largest)
    return z, p_adjusted


def _kind(z: float, n_base: int, n_intervention: int) -> ChangeKind:
    if z > 0:
        return "created" if n_base == 0 < n_intervention else "strengthened"
    return "killed" if n_intervention == 0 < n_base else "weakened"


def _means(
    side: SaeFeatures, rows: NDArray[np.int64], features: NDArray[np.int64]
) -> NDArray[np.float64]:
    means: NDArray[np.float64] = side.values[rows][:, features].toarray().astype(np.float64)
    return means.mean(axis=0) if len(rows) else np.zeros(len(features))


def _paired_shares(
    base: NDArray[np.bool_], intervention: NDArray[np.bool_]
) -> list[ShareDifference]:
    """For each feature, of texts `(n_distinct, n_features)`, the shares that fire on each side."""
    cells = (
        base & intervention, base & ~intervention, ~base & intervention, ~base & ~intervention
    )  # fmt: skip
    counts = [cell.sum(axis=0).tolist() for cell in cells]
    return [paired_share_difference(*four) for four in zip(*counts, strict=True)]
