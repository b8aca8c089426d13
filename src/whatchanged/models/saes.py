"""Sparse autoencoders (SAEs): sparse features of the activations at one place in a model.

The arithmetic is that of SAELens, whose folders `sae_folders` reads and writes. Four architectures:
standard (ReLU: Bricken et al. 2023), TopK (Gao et al. 2024), JumpReLU (Rajamanoharan et al. 2024b),
gated (Rajamanoharan et al. 2024a).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from whatchanged.errors import InputError
from whatchanged.keys import bytes_digest, content_key

if TYPE_CHECKING:
    import torch
    from scipy.sparse import csr_array

Architecture = Literal["standard", "topk", "jumprelu", "gated"]
Normalization = Literal["none", "layer_norm", "constant_norm_rescale"]

ARCHITECTURES: tuple[str, ...] = get_args(Architecture)
NORMALIZATIONS: tuple[str, ...] = get_args(Normalization)

# Vectors over the features, beside W_enc (d_in, d_sae), W_dec (d_sae, d_in) and b_dec (d_in).
_FEATURE_VECTORS: dict[str, tuple[str, ...]] = {
    "standard": ("b_enc",),
    "topk": ("b_enc",),
    "jumprelu": ("b_enc", "threshold"),
    "gated": ("b_gate", "b_mag", "r_mag"),
}
# SAELens's, in its layer norm of activations.
_LAYER_NORM_EPSILON = 1e-5
# Values of one dense block of features on its way to a sparse one, by kind of device: 1 MiB stays
# in a processor's cache, where larger blocks take a third more time; 128 MiB fill an accelerator.
_MAX_BLOCK = {"cpu": 2**18, "cuda": 2**25}


@dataclass(frozen=True)
class SaeSettings:
    """What an SAE computes and which activations it was trained on.

    `hook_name` is the place (see `hook_points`); `prepends_start` whether a start token stood
    before every text, `context_size` the longest text in tokens, with it. `excluded_tokens`
    are ids that were left out of training (True: all special tokens), `positions` the slice of
    positions that was kept. `is_centered`: the residual stream had its mean over the dimensions
    taken away; None where the config does not say. `k` counts features per token (TopK only).
    """

    architecture: Architecture
    d_in: int
    d_sae: int
    hook_name: str
    normalization: Normalization
    prepends_start: bool
    context_size: int
    k: int | None = None
    subtracts_decoder_bias: bool = True
    rescales_by_decoder_norm: bool = False
    is_centered: bool | None = False
    excluded_tokens: bool | tuple[int, ...] = False
    positions: tuple[int | None, ...] = (None,)
    model_name: str | None = None
    neuronpedia_id: str | None = None


@dataclass(frozen=True, eq=False)
class Sae:
    """A sparse autoencoder in memory. `weights` are float32 under SAELens's names; `name` stands in
    tables. Build one with `sae_folders.load_sae_folder` or `load_sae_release`.

    Raises InputError for weights that are missing, too many, of another shape or not finite, and
    for a `k` that is not within the features.
    """

    name: str
    settings: SaeSettings
    weights: Mapping[str, torch.Tensor]

    def __post_init__(self) -> None:
        _check_weights(self.name, self.settings, self.weights)

    @cached_property
    def identity(self) -> str:
        """Names exactly these weights and settings, for content keys: never the name or place."""
        digests = {
            name: bytes_digest(np.ascontiguousarray(weight.cpu().numpy()).tobytes())
            for name, weight in self.weights.items()
        }
        settings = asdict(replace(self.settings, model_name=None, neuronpedia_id=None))
        return f"sae@{content_key('sae/1', settings, digests)}"

    @property
    def decoder(self) -> NDArray[np.float32]:
        """What each feature writes, `(d_sae, d_in)`, in the order of the features."""
        return np.asarray(self._directions.cpu().numpy(), dtype=np.float32)

    def to(self, device: torch.device | str) -> Sae:
        """This SAE with its weights on another device."""
        weights = {name: weight.to(device) for name, weight in self.weights.items()}
        return replace(self, weights=weights)

    def encode(self, activations: torch.Tensor) -> torch.Tensor:
        """The features `(..., d_sae)`, none below 0, of activations `(..., d_in)`; float32."""
        entering = self._entering(activations)
        if self.settings.architecture == "topk":
            values, features = self._largest(entering)
            dense = values.new_zeros((*entering.shape[:-1], self.settings.d_sae))
            return dense.scatter_(-1, features, values)
        sizes, fires = self._sizes(entering)
        return sizes.where(fires, 0.0)

    def encode_sparse(self, activations: torch.Tensor) -> csr_array:
        """What `encode` gives for activations `(n_tokens, d_in)`, as rows that hold only what
        fires; never all of it is dense at once."""
        from scipy.sparse import csr_array

        n_rows = max(1, _MAX_BLOCK.get(activations.device.type, 2**18) // self.settings.d_sae)
        blocks = [
            self._fired(activations[start : start + n_rows])
            for start in range(0, len(activations), n_rows)
        ]
        n_fired, features, values = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
        starts = np.concatenate([[0], np.cumsum(n_fired)]).astype(features.dtype)
        return csr_array((values, features, starts), shape=(len(activations), self.settings.d_sae))

    def _fired(
        self, activations: torch.Tensor
    ) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]:
        """How many features fire in each row, which, and how much; in the order of both."""
        entering = self._entering(activations)
        if self.settings.architecture == "topk":
            # No need to spread k values over all features and to look for them there.
            values, features = self._largest(entering)
            features, order = features.sort(dim=-1)
            values = values.gather(-1, order)
            fires = values != 0
            found = fires.sum(dim=-1), features[fires], values[fires]
        else:
            sizes, fires = self._sizes(entering)
            rows, features = fires.nonzero(as_tuple=True)
            found = rows.bincount(minlength=len(sizes)), features, sizes[rows, features]
        n_fired, features, values = found
        return n_fired.cpu().numpy(), features.int().cpu().numpy(), values.cpu().numpy()

    def _entering(self, activations: torch.Tensor) -> torch.Tensor:
        entering = self._normalized(activations.float())
        if self.settings.subtracts_decoder_bias:
            entering = entering - self.weights["b_dec"]
        return entering

    def _sizes(self, entering: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """How large each feature is where it fires, and whether it does: `(..., d_sae)` each, for
        all architectures but TopK. What is not a number fires, so that nobody overlooks it."""
        w = self.weights
        if self.settings.architecture == "gated":
            sizes = entering @ (w["W_enc"] * w["r_mag"].exp()) + w["b_mag"]
            return sizes, ~((sizes <= 0) | (entering @ w["W_enc"] + w["b_gate"] <= 0))
        sizes = self._encoded(entering)
        is_jumping = self.settings.architecture == "jumprelu"
        return sizes, ~(sizes <= (w["threshold"].clamp(min=0) if is_jumping else 0))

    def _largest(self, entering: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The k largest of each row, none below 0, and which features they are: `(..., k)`."""
        import torch

        assert self.settings.k is not None, "checked when the SAE was made"
        values, features = torch.topk(
            self._encoded(entering), self.settings.k, dim=-1, sorted=False
        )
        return torch.relu(values), features

    def _encoded(self, entering: torch.Tensor) -> torch.Tensor:
        import torch

        # One pass over memory for product and bias.
        return torch.nn.functional.linear(entering, *self._encoder)

    @cached_property
    def _encoder(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The encoder's weight `(d_sae, d_in)` and bias, scaled where the features are."""
        weight, bias = self.weights["W_enc"].T, self.weights["b_enc"]
        if self.settings.rescales_by_decoder_norm:
            norms = self.weights["W_dec"].norm(dim=-1)
            weight, bias = weight * norms[:, None], bias * norms
        return weight, bias

    def decode(self, features: torch.Tensor, activations: torch.Tensor) -> torch.Tensor:
        """The activations `(..., d_in)` that the features stand for, float32.

        `activations` are those that gave the features: a normalizing SAE takes mean and scale from
        them.
        """
        return self._rebuilt(features @ self._directions, activations)

    def decode_sparse(self, features: csr_array, activations: torch.Tensor) -> torch.Tensor:
        """What `decode` gives for features as `encode_sparse` gives them."""
        import torch

        device = activations.device
        indices, starts, values = (
            torch.from_numpy(part).to(device)
            for part in (features.indices, features.indptr, features.data)
        )
        # A tenth of the time of a product with a sparse matrix of torch.
        written = torch.nn.functional.embedding_bag(
            indices, self._directions, starts,
            mode="sum", per_sample_weights=values, include_last_offset=True,
        )  # fmt: skip
        return self._rebuilt(written, activations)

    def _rebuilt(self, written: torch.Tensor, activations: torch.Tensor) -> torch.Tensor:
        mean, scale = self._mean_and_scale(activations.float())
        rebuilt: torch.Tensor = (written + self.weights["b_dec"]) * scale + mean
        return rebuilt

    def contribution(
        self, values: torch.Tensor, features: torch.Tensor, activations: torch.Tensor
    ) -> torch.Tensor:
        """What one feature per row adds to `decode`, `(n_rows, d_in)`: `values (n_rows,)` of the
        features `features (n_rows,)`, which are indices, at activations `(n_rows, d_in)`."""
        _, scale = self._mean_and_scale(activations.float())
        written: torch.Tensor = values[:, None] * self._directions[features] * scale
        return written

    @cached_property
    def _directions(self) -> torch.Tensor:
        directions: torch.Tensor = self.weights["W_dec"]
        if self.settings.rescales_by_decoder_norm:
            directions = directions / directions.norm(dim=-1, keepdim=True)
        return directions

    def _normalized(self, activations: torch.Tensor) -> torch.Tensor:
        if self.settings.normalization == "none":
            return activations
        mean, scale = self._mean_and_scale(activations)
        epsilon = _LAYER_NORM_EPSILON if self.settings.normalization == "layer_norm" else 0.0
        normalized: torch.Tensor = (activations - mean) / (scale + epsilon)
        return normalized

    def _mean_and_scale(self, activations: torch.Tensor) -> tuple[Any, Any]:
        """What the normalization takes away and divides by, `(..., 1)` each."""
        if self.settings.normalization == "layer_norm":
            mean = activations.mean(dim=-1, keepdim=True)
            return mean, (activations - mean).std(dim=-1, keepdim=True)
        if self.settings.normalization == "constant_norm_rescale":
            return 0.0, activations.norm(dim=-1, keepdim=True) / self.settings.d_in**0.5
        return 0.0, 1.0


def _check_weights(name: str, settings: SaeSettings, weights: Mapping[str, torch.Tensor]) -> None:
    import torch

    d_in, d_sae = settings.d_in, settings.d_sae
    shapes: dict[str, tuple[int, ...]] = {
        "W_enc": (d_in, d_sae),
        "W_dec": (d_sae, d_in),
        "b_dec": (d_in,),
        **dict.fromkeys(_FEATURE_VECTORS[settings.architecture], (d_sae,)),
    }
    found = {key: tuple(weight.shape) for key, weight in weights.items()}
    for key in sorted(shapes.keys() | found.keys()):
        if shapes.get(key) != found.get(key):
            raise InputError(
                f"SAE {name!r} ({settings.architecture}): expected {key} of shape "
                f"{shapes.get(key, 'none (no such weight)')}, found {found.get(key, 'none')}: "
                "check that weights and cfg.json belong together"
            )
    for key, weight in weights.items():
        if not bool(torch.isfinite(weight).all()):
            raise InputError(f"SAE {name!r}: expected finite weights, found NaN or infinity in "
                             f"{key}: get the file again")  # fmt: skip
    if settings.architecture == "topk" and not 1 <= (settings.k or 0) <= d_sae:
        raise InputError(
            f"SAE {name!r}: expected k from 1 to {d_sae} features per token, found {settings.k}: "
            "correct k in its cfg.json"
        )
