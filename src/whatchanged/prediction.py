"""The difference that the expensive judge would have found on all texts, from a sample of verdicts.

Prediction-powered inference (Angelopoulos et al. 2023) with active sampling (Zrnic and Candès
2024, "Active statistical inference"): the cheap judge reads everything, the expensive one a sample
with known probabilities that grow with the cheap one's uncertainty, and every verdict counts by the
inverse of its probability. Here the probabilities are constant within strata of the cheap score
(Fisch et al. 2024, "Stratified prediction-powered inference"), and inverse weights are taken within
stratum *and side*: the cheap judge may err differently on the two sides, and the estimate is still
that of the expensive one. The cheap score only says how the texts spread over the strata.

The interval is not a normal one. A stratum in which no error was found has no variance to estimate,
and normal intervals then cover far too little; here each cell's share has Wilson's (1927) interval,
and the cells' distances are added in quadrature (Zou and Donner 2008; for two cells it is
Newcombe's interval of `stats.share_difference`). A cell without a verdict may be anything from 0 to
1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from whatchanged.errors import UsageError
from whatchanged.records import Direction
from whatchanged.stats import ShareDifference

FloatArray: TypeAlias = NDArray[np.float64]
BoolArray: TypeAlias = NDArray[np.bool_]
Labels: TypeAlias = NDArray[np.int64]

_LARGEST_Z = 12.0


@dataclass(frozen=True, slots=True)
class Prediction:
    """Shares and their difference, with what its interval is made of.

    `effect` is the sum of `coefficients * shares`, one per cell with its `n_judged` verdicts;
    `spread` is the variance that the verdicts cannot remove: of how texts fall into cells, and of
    cells that share verdicts.
    """

    share_base: float
    share_intervention: float
    effect: float
    n_base: int
    n_intervention: int
    coefficients: FloatArray
    shares: FloatArray
    n_judged: FloatArray
    spread: float


def predict_sides(
    labels: Labels,
    is_intervention: BoolArray,
    calibrated: FloatArray,
    meets: BoolArray,
    is_judged: BoolArray,
) -> Prediction:
    """The prediction for independent texts, all arguments `(n_texts,)`.

    `labels` are the strata that the sample was drawn by, `meets` the expensive verdicts where
    `is_judged` (elsewhere ignored). A cell without a verdict takes the mean calibrated score as its
    share. Texts are taken as independent, as in `stats.share_difference`, which on equal prompt
    sets is conservative. A side without texts gives a nan effect.
    """
    n_strata = int(labels.max(initial=0)) + 1
    cells = labels + n_strata * is_intervention
    size, n_judged = (
        np.bincount(cells[which], minlength=2 * n_strata).astype(np.float64)
        for which in (np.ones_like(is_judged), is_judged)
    )
    shares = _cell_means(cells, size, n_judged, meets.astype(np.float64), is_judged, calibrated)
    by_side = (2, n_strata)
    n_texts = size.reshape(by_side).sum(axis=1)
    weights = size / np.maximum(np.repeat(n_texts, n_strata), 1)
    means = (weights * shares).reshape(by_side).sum(axis=1)
    # Their variances are below, which rounding alone could leave a little under zero.
    squares = (weights * shares**2).reshape(by_side).sum(axis=1)
    is_empty = bool((n_texts == 0).any())
    base, intervention = (
        float(mean) if n else math.nan for mean, n in zip(means, n_texts, strict=True)
    )
    filled = size > 0
    signs = np.repeat([-1.0, 1.0], n_strata)
    return Prediction(
        base,
        intervention,
        math.nan if is_empty else intervention - base,
        int(n_texts[0]),
        int(n_texts[1]),
        (signs * weights)[filled],
        shares[filled],
        n_judged[filled],
        float((np.maximum(squares - means**2, 0.0) / np.maximum(n_texts, 1)).sum()),
    )


def predict_pairs(
    labels: Labels,
    calibrated: FloatArray,
    meets: BoolArray,
    is_judged: BoolArray,
    is_identical: BoolArray,
) -> Prediction:
    """The prediction for coupled pairs: `labels`, `is_judged` and `is_identical` `(n_pairs,)`,
    `calibrated` and `meets` `(n_pairs, 2)`, base first.

    What is averaged is each pair's difference: a share of gains less a share of losses, in cells of
    stratum and of which text has the higher cheap score. The difference of identical pairs is known
    to be 0; of their shares only the calibrated scores are. No pairs give a nan effect.
    """
    n_pairs = len(labels)
    base, intervention = calibrated[:, 0], calibrated[:, 1]
    cells = 2 * labels + (intervention > base)
    n_cells = int(cells.max(initial=0)) + 1
    size, n_judged = (
        np.bincount(cells[which], minlength=n_cells).astype(np.float64)
        for which in (np.ones_like(is_judged), is_judged)
    )

    def means(verdict: BoolArray, expected: FloatArray) -> FloatArray:
        return _cell_means(cells, size, n_judged, verdict.astype(np.float64), is_judged, expected)

    weights = size / max(n_pairs, 1)
    gains = means(meets[:, 1] & ~meets[:, 0], intervention * (1 - base))
    losses = means(meets[:, 0] & ~meets[:, 1], base * (1 - intervention))
    side_shares = [
        float((weights * means(meets[:, side], calibrated[:, side])).sum()) if n_pairs else math.nan
        for side in (0, 1)
    ]
    # One text has one verdict: identical pairs, which are a stratum of their own, are known.
    known = np.unique(cells[is_identical])
    gains[known], losses[known], n_judged[known] = 0.0, 0.0, np.inf
    effect = float((weights * (gains - losses)).sum())
    # Gains and losses of a cell exclude each other, which adds to the variance of a difference.
    exclusive = weights**2 * 2 * gains * losses / np.maximum(n_judged, 1)
    spread = max(0.0, (weights * (gains - losses) ** 2).sum() - effect**2) / max(n_pairs, 1)
    filled = size > 0
    return Prediction(
        side_shares[0],
        side_shares[1],
        effect if n_pairs else math.nan,
        n_pairs,
        n_pairs,
        np.concatenate([weights[filled], -weights[filled]]),
        np.concatenate([gains[filled], losses[filled]]),
        np.concatenate([n_judged[filled]] * 2),
        float(spread + exclusive[filled].sum()),
    )


def predicted_difference(prediction: Prediction, confidence: float = 0.95) -> ShareDifference:
    """Shares, effect and interval, which never leaves [-1, 1]; without an effect it is [-1, 1].

    Raises UsageError for a confidence outside (0, 1).
    """
    from scipy.special import ndtri

    if not 0 < confidence < 1:
        raise UsageError(f"expected a confidence in (0, 1), found {confidence}")
    low, high = -1.0, 1.0
    if math.isfinite(prediction.effect):
        below, above = _distances(prediction, float(ndtri((1 + confidence) / 2)))
        low, high = max(low, prediction.effect - below), min(high, prediction.effect + above)
    return ShareDifference(
        prediction.share_base,
        prediction.share_intervention,
        prediction.effect,
        low,
        high,
        prediction.n_base,
        prediction.n_intervention,
    )


def predicted_p_value(prediction: Prediction, *, min_effect: float, direction: Direction) -> float:
    """The one-sided p-value of H0: the difference in `direction` is at most `min_effect`.

    The smallest level whose one-sided interval lies beyond `min_effect`, so it agrees with
    `predicted_difference`. It assumes nothing of the cheap judge. No effect gives 1.0.
    """
    from scipy.special import ndtr

    if not math.isfinite(prediction.effect):
        return 1.0
    sign = 1 if direction == "more" else -1
    excess = sign * prediction.effect - min_effect
    # Towards the border: below the effect in its own direction, above it where it falls short.
    side = 0 if (excess > 0) == (sign > 0) else 1
    low, high = 0.0, _LARGEST_Z
    for _ in range(40):
        middle = (low + high) / 2
        if _distances(prediction, middle)[side] < abs(excess):
            low = middle
        else:
            high = middle
    return float(ndtr(-low if excess > 0 else low))


def _cell_means(
    cells: Labels,
    size: FloatArray,
    n_judged: FloatArray,
    verdict: FloatArray,
    is_judged: BoolArray,
    expected: FloatArray,
) -> FloatArray:
    """The mean verdict per cell, `(n_cells,)`; where none was judged the mean expected one."""
    n = len(size)
    judged = np.bincount(cells[is_judged], weights=verdict[is_judged], minlength=n)
    guessed = np.bincount(cells, weights=expected, minlength=n)
    return np.where(n_judged > 0, judged / np.maximum(n_judged, 1), guessed / np.maximum(size, 1))


def _distances(prediction: Prediction, z: float) -> tuple[float, float]:
    """How far the interval at `z` reaches below and above the effect."""
    shares, n = prediction.shares, prediction.n_judged
    with np.errstate(divide="ignore", invalid="ignore"):
        middle = (shares + z * z / (2 * n)) / (1 + z * z / n)
        half = z * np.sqrt(shares * (1 - shares) / n + z * z / (4 * n * n)) / (1 + z * z / n)
        down = np.where(n > 0, np.maximum(shares - (middle - half), 0), shares)
        up = np.where(n > 0, np.maximum(middle + half - shares, 0), 1 - shares)
    rises = prediction.coefficients > 0
    squared = prediction.coefficients**2
    spread = z * z * prediction.spread
    below = math.sqrt(float((squared * np.where(rises, down, up) ** 2).sum()) + spread)
    above = math.sqrt(float((squared * np.where(rises, up, down) ** 2).sum()) + spread)
    return below, above
