"""How far the two sides are apart on each component, streamed: which ones are worth keeping.

A large model has hundreds of thousands of neurons; co-activations and tables have room for
thousands. What is kept is chosen on the discovery texts of half of their prompts alone
(`selectivity.choosing_prompts`), so that fresh texts, and those of the other half, can test it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_NAMES = ("n", "sums", "squares")


class SideMoments:
    """Counts, sums and sums of squares of each text's mean activation, per side: `n (2,)`, `sums`
    and `squares (2, n_components)`. Merging is adding."""

    def __init__(self, n_components: int) -> None:
        self.n = np.zeros(2, dtype=np.int64)
        self.sums = np.zeros((2, n_components))
        self.squares = np.zeros((2, n_components))

    def add(self, means: NDArray[np.floating[Any]], is_intervention: NDArray[np.bool_]) -> None:
        """Takes texts: `means (n_texts, n_components)`, `is_intervention (n_texts,)`."""
        for side in (0, 1):
            rows = means[is_intervention == bool(side)].astype(np.float64)
            self.n[side] += len(rows)
            self.sums[side] += rows.sum(axis=0)
            self.squares[side] += (rows**2).sum(axis=0)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The moments for storing."""
        return {name: getattr(self, name) for name in _NAMES}

    @classmethod
    def merged(cls, parts: Sequence[Mapping[str, NDArray[Any]]]) -> SideMoments:
        """The moments of all parts that `arrays` gave, one at least."""
        whole = cls(parts[0]["sums"].shape[1])
        for part in parts:
            for name in _NAMES:
                setattr(whole, name, getattr(whole, name) + part[name])
        return whole

    def distance(self) -> NDArray[np.float64]:
        """The distance of the sides' means in units of their pooled standard deviation (Cohen's d,
        1988) `(n_components,)`; 0 where nothing varies or a side has no text."""
        if not self.n.all():
            return np.zeros(self.sums.shape[1])
        means = self.sums / self.n[:, None]
        variances = np.maximum(self.squares / self.n[:, None] - means**2, 0)
        spread = np.sqrt(variances.mean(axis=0))
        apart: NDArray[np.float64] = np.abs(means[1] - means[0])
        distance = np.zeros_like(apart)
        np.divide(apart, spread, out=distance, where=spread > 0)
        return distance


def choose_components(
    distance: NDArray[np.float64], is_candidate: NDArray[np.bool_], max_components: int
) -> NDArray[np.bool_]:
    """Which components to keep `(n_components,)`: all that are no candidates, and of the candidates
    the `max_components` with the largest distance, ties to the first."""
    kept = ~is_candidate
    candidates = np.flatnonzero(is_candidate)
    order = np.argsort(-distance[candidates], kind="stable")
    kept[candidates[order[:max_components]]] = True
    return kept
