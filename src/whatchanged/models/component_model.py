"""Modules whose weights are sums of rank-one components: W = U V^T.

A component reads one direction of the module's input and writes one direction of its output; its
activation is how much of the first the input holds. Decomposed models are given in this form, and
so is what an intervention did to a weight (`weight_delta`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from whatchanged.errors import UsageError
from whatchanged.models.components import Probe, linear_weights

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class RankOneWeights:
    """The components of one weight: `reads (d_in, n_components)` is V, `writes (d_out,
    n_components)` is U, float32. A component's activation is the input times its column of V."""

    reads: NDArray[np.float32]
    writes: NDArray[np.float32]

    def __post_init__(self) -> None:
        shapes = self.reads.shape, self.writes.shape
        if len(shapes[0]) != 2 or len(shapes[1]) != 2 or shapes[0][1] != shapes[1][1]:
            raise UsageError(
                "expected reads (d_in, n_components) and writes (d_out, n_components), found "
                f"{shapes[0]} and {shapes[1]}"
            )
        if not (np.isfinite(self.reads).all() and np.isfinite(self.writes).all()):
            raise UsageError("expected finite component weights, found NaN or infinite ones")

    @property
    def n_components(self) -> int:
        return int(self.reads.shape[1])


@dataclass(frozen=True)
class ComponentModel:
    """Rank-one components of some linear layers, by the layer's dotted name, as a source.

    `name` stands before the layer in a label.
    """

    weights: Mapping[str, RankOneWeights]
    name: str = "components"

    def probes(self, model: Any) -> tuple[Probe, ...]:
        """One probe per layer with components, in the order of `weights`.

        Raises UsageError for a layer that the model does not have or whose shape differs.
        """
        shapes = {name: tuple(weight.shape) for name, weight in linear_weights(model).items()}
        for layer, parts in self.weights.items():
            expected = (parts.writes.shape[0], parts.reads.shape[0])
            if shapes.get(layer) != expected:
                found = f"one of {shapes[layer]}" if layer in shapes else "no such layer"
                raise UsageError(
                    f"expected a linear layer {layer!r} of shape {expected} (out, in), found "
                    f"{found}: use components that were made for this model"
                )
        return tuple(
            Probe(
                f"{self.name}/{layer}",
                layer,
                "input",
                parts.n_components,
                _projection(parts.reads, model.device),
            )
            for layer, parts in self.weights.items()
            if parts.n_components
        )

    def residuals(self, model: Any) -> dict[str, float]:
        """||W - U V^T|| / ||W|| of each layer (Frobenius): 0 where the sum is the layer's weight.

        A zero weight gives 0 where the sum is zero too, else infinity. Raises what `probes` does.
        """
        self.probes(model)
        weights = linear_weights(model)
        return {
            layer: _residual(weights[layer].float().cpu().numpy(), parts)
            for layer, parts in self.weights.items()
        }


def _residual(weight: NDArray[np.float32], parts: RankOneWeights) -> float:
    left = float(np.linalg.norm(weight - parts.writes @ parts.reads.T))
    whole = float(np.linalg.norm(weight))
    if whole == 0:
        return 0.0 if left == 0 else float("inf")
    return left / whole


def _projection(
    reads: NDArray[np.float32], device: torch.device
) -> Callable[[torch.Tensor], torch.Tensor]:
    import torch

    directions = torch.from_numpy(np.ascontiguousarray(reads, dtype=np.float32)).to(device)

    def encode(passing: torch.Tensor) -> torch.Tensor:
        # 16-bit products would round away most of a small direction.
        return passing.float() @ directions

    return encode
