"""What an intervention wrote into the weights, as components that can be seen to fire.

The difference of a linear layer's weights, intervention minus base, is cut into its largest
rank-one parts: sigma u v^T. On an input x, such a part adds sigma (v . x) u to the layer's output,
so sigma (v . x) is how strongly this part of the intervention acts on a token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from whatchanged.errors import UsageError
from whatchanged.models.component_model import ComponentModel, RankOneWeights
from whatchanged.models.components import linear_weights

if TYPE_CHECKING:
    import torch

WEIGHT_DELTA = "weight_delta"
_N_OVERSAMPLES = 10
_N_POWER_ITERATIONS = 4


def weight_delta(
    base: Any, intervention: Any, *, n_directions: int = 16, seed: int = 0
) -> ComponentModel:
    """The strongest `n_directions` directions of every linear layer's change, strongest first.

    Randomized SVD (Halko, Martinsson and Tropp 2011) with 10 further samples and 4 power
    iterations; `seed` draws its test matrix. The sign is such that the largest entry of v, by
    magnitude, is positive. Directions below numpy's tolerance of a matrix rank are left out, and
    so is a layer whose weights are equal. Both models must lie in memory; one layer's difference
    at a time lies beside them.

    A vocabulary that one side extended is compared over the rows that both have. Changes of
    embeddings that are not also the output head, of norms and of biases are not seen.

    Raises UsageError for models with different linear layers, packed integer weights, weights
    that are not finite, and `n_directions` below 1.
    """
    if n_directions < 1:
        raise UsageError(f"expected n_directions of at least 1, found {n_directions}")
    before, after = linear_weights(base), linear_weights(intervention)
    if before.keys() != after.keys():
        alone = sorted(before.keys() ^ after.keys())[0]
        raise UsageError(
            f"expected two models with the same linear layers, and only one has {alone!r}: "
            "merge adapters into their model, and compare models of one architecture"
        )
    head = intervention.get_output_embeddings()
    parts = {
        name: _largest_parts(
            _difference(name, before[name], weight, intervention.get_submodule(name) is head),
            n_directions,
            seed,
        )
        for name, weight in after.items()
    }
    return ComponentModel(
        {name: part for name, part in parts.items() if part is not None}, WEIGHT_DELTA
    )


def random_directions(source: ComponentModel, *, seed: int, name: str = "random") -> ComponentModel:
    """As many directions in the same layers, just as long, drawn at random: a control.

    A direction tells two kinds of text apart when their inputs differ, whether an intervention
    wrote it or not. Only what a source does better than this one is about what it reads.
    """
    rng = np.random.default_rng(seed)
    return ComponentModel(
        {
            layer: RankOneWeights(
                _with_lengths(rng.standard_normal(parts.reads.shape), parts.reads), parts.writes
            )
            for layer, parts in source.weights.items()
        },
        name,
    )


def _with_lengths(
    directions: NDArray[np.float64], like: NDArray[np.float32]
) -> NDArray[np.float32]:
    scales = np.linalg.norm(like, axis=0) / np.linalg.norm(directions, axis=0)
    return np.asarray(directions * scales, dtype=np.float32)


def _difference(
    name: str, base: torch.Tensor, intervention: torch.Tensor, is_head: bool
) -> NDArray[np.float32]:
    """The change `(d_out, d_in)` of one layer. The rows of a head are tokens: those that the base
    does not have are left as 0."""
    n_shared = min(base.shape[0], intervention.shape[0])
    if base.shape != intervention.shape and not (
        is_head and base.shape[1] == intervention.shape[1]
    ):
        raise UsageError(
            f"expected layers of one shape, found {tuple(base.shape)} and "
            f"{tuple(intervention.shape)} in {name!r}: compare models of one architecture"
        )
    change = np.zeros(tuple(intervention.shape), dtype=np.float32)
    change[:n_shared] = (
        intervention[:n_shared].float().cpu().numpy() - base[:n_shared].float().cpu().numpy()
    )
    if not np.isfinite(change).all():
        raise UsageError(f"expected finite weights, found NaN or infinite ones in {name!r}")
    return change


def _largest_parts(
    change: NDArray[np.float32], n_directions: int, seed: int
) -> RankOneWeights | None:
    """The largest rank-one parts of a change, or None where there is none."""
    from sklearn.utils.extmath import randomized_svd, svd_flip

    if not change.any():
        return None
    u, sigma, vt = randomized_svd(
        change,
        n_components=min(n_directions, *change.shape),
        n_oversamples=_N_OVERSAMPLES,
        n_iter=_N_POWER_ITERATIONS,
        flip_sign=False,
        random_state=seed,
    )
    u, vt = svd_flip(u, vt, u_based_decision=False)
    is_real = sigma > sigma[0] * max(change.shape) * np.finfo(np.float32).eps
    return RankOneWeights(
        np.ascontiguousarray((sigma[:, None] * vt)[is_real].T, dtype=np.float32),
        np.ascontiguousarray(u[:, is_real], dtype=np.float32),
    )
