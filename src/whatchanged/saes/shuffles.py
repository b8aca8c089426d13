"""Sums of many features under many shuffles at once, and p-values that count all features.

The largest of the features' statistics in a shuffle is compared with each observed one (Westfall
and Young 1993, single-step): all features move together, so features that fire on the same texts
cost no more than one. The chance of any false discovery in the family is at most the level.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from scipy.sparse import csr_array

# 8 million float32 sums are 32 MiB.
_SUMS_AT_ONCE = 8_000_000
# Statistics closer than this, of their size, are equal: float32 sums must not make a draw that
# repeats the observation less extreme than it.
_TIE = 1e-5


def shuffled_sums(
    features: csr_array,
    draw: Callable[[int], NDArray[np.float32]],
    *,
    n_draws: int,
) -> Iterator[NDArray[np.float32]]:
    """Sums of `features (n_features, n_texts)` over texts, in blocks `(n_features, n)` of draws.

    `draw(n)` gives the weights of the texts in n draws, `(n_texts, n)`. Time grows with the
    non-zero features times draws.
    """
    step = max(1, _SUMS_AT_ONCE // max(1, features.shape[0]))
    for start in range(0, n_draws, step):
        yield np.asarray(features @ draw(min(step, n_draws - start)))


def draw_orders(n_texts: int, n_draws: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Random orders of the texts, `(n_texts, n_draws)`."""
    orders = np.tile(np.arange(n_texts), (n_draws, 1))
    return rng.permuted(orders, axis=1).T


def family_p_values(
    observed: NDArray[np.floating], largest: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Adjusted p-values in (0, 1], shaped as `observed`, from the `largest` of each draw.

    (1 + draws at least as large) / (1 + draws), which is never 0 (Phipson and Smyth 2010). No
    draws give 1.
    """
    least = np.asarray(observed) - _TIE * (1 + np.abs(observed))
    n_below = np.searchsorted(np.sort(largest), least, side="left")
    p_values: NDArray[np.float64] = (1 + len(largest) - n_below) / (1 + len(largest))
    return p_values
