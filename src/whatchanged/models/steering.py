"""A steering vector: one vector that is added to what a decoder layer puts out, at every token
(activation addition: Turner et al. 2023, "Steering language models with activation engineering").

It lives in a safetensors file of three tensors: `vector` `(d_model,)`, and the numbers `layer`
(counted from 0) and `scale`. The layer's output becomes `output + scale * vector`, at the prompt's
tokens as at the reply's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whatchanged.errors import InputError
from whatchanged.keys import file_digest
from whatchanged.models.components import ComponentCollector, Probe, pad_rows, submodule
from whatchanged.models.hook_points import HookPoint, find_hook_point

_TENSORS = ("vector", "layer", "scale")
_N_ROWS = 32


@dataclass(frozen=True)
class Steering:
    """A vector `(d_model,)` float32, the layer at whose output it is added, and how often."""

    vector: NDArray[np.float32]
    layer: int
    scale: float


def read_steering(path: Path) -> Steering:
    """The steering vector in a file.

    Raises InputError for a file that is not there, is no safetensors file, lacks a tensor, or
    holds something else than one finite vector and two numbers.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    if not path.is_file():
        raise InputError(f"steering: expected a safetensors file {path}, found none: check it")
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"steering {path}: expected a safetensors file, found another ({error}): save it again"
        ) from None
    if missing := [name for name in _TENSORS if name not in tensors]:
        raise InputError(
            f"steering {path}: expected the tensors {', '.join(_TENSORS)}, found no "
            f"{missing[0]!r}: add it"
        )
    vector, layer, scale = (np.asarray(tensors[name], np.float64) for name in _TENSORS)
    if vector.ndim != 1 or layer.size != 1 or scale.size != 1:
        raise InputError(
            f"steering {path}: expected one vector and two numbers, found the shapes "
            f"{vector.shape}, {layer.shape} and {scale.shape}: save one vector per file"
        )
    if not (np.isfinite(vector).all() and np.isfinite(scale).all()):
        raise InputError(f"steering {path}: expected finite numbers, found NaN or infinity")
    return Steering(vector.astype(np.float32), int(layer.item()), float(scale.item()))


def identify_steering(path: Path) -> str:
    """The name of exactly this file's content; raises InputError where there is no file."""
    if not path.is_file():
        raise InputError(f"steering: expected a safetensors file {path}, found none: check it")
    return f"file@{file_digest(path)}"


def encode_steering(steering: Steering) -> bytes:
    """The bytes of a file that `read_steering` reads."""
    from safetensors.numpy import save

    tensors = {
        "vector": np.asarray(steering.vector, np.float32),
        "layer": np.array([steering.layer], np.int64),
        "scale": np.array([steering.scale], np.float64),
    }
    return bytes(save(tensors))


def check_fits(steering: Steering, config: Any) -> None:
    """Nothing, where a model of this transformers config can be steered so.

    Raises InputError for a layer that the model does not have and a vector of another width.
    """
    text_config = config.get_text_config(decoder=True)
    n_layers, d_model = text_config.num_hidden_layers, text_config.hidden_size
    if not 0 <= steering.layer < n_layers:
        raise InputError(
            f"steering: expected a layer from 0 to {n_layers - 1}, the layers of the model, found "
            f"{steering.layer}: name one of these"
        )
    if len(steering.vector) != d_model:
        raise InputError(
            f"steering: expected a vector of {d_model} numbers, the width of the model, found "
            f"{len(steering.vector)}: use a vector that was made for this model"
        )


def steer(network: Any, steering: Steering) -> Any:
    """The network with the vector added at the layer's output in every forward pass, whether it
    decodes or scores. `network` is changed in place. Raises what `check_fits` and
    `find_hook_point` raise."""
    import torch

    check_fits(steering, network.config)
    added = torch.from_numpy(steering.vector * np.float32(steering.scale)).to(network.device)

    def add(_module: Any, _inputs: Any, output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        steered = hidden + added.to(hidden)
        return (steered, *output[1:]) if isinstance(output, tuple) else steered

    submodule(network, _output_of(network, steering.layer).site).register_forward_hook(add)
    return network


def _output_of(network: Any, layer: int) -> HookPoint:
    return find_hook_point(network, f"blocks.{layer}.hook_resid_post")


@dataclass(frozen=True)
class _LayerSource:
    """What a decoder layer puts out, `(batch, seq, d_model)`, as components."""

    layer: int

    def probes(self, model: Any) -> tuple[Probe, ...]:
        point = _output_of(model, self.layer)
        return (Probe("output", point.site, point.reads, point.width, lambda seen: seen.float()),)


def mean_output(network: Any, rows: Sequence[Sequence[int]], layer: int) -> NDArray[np.float32]:
    """The mean of what a layer puts out over all tokens of some texts, `(d_model,)`.

    `rows` are the token ids of each text, at least one. The difference of the means of two sets
    of texts steers from the second to the first (difference in means: Marks and Tegmark 2023,
    "The geometry of truth"). Raises what `ComponentCollector` raises.
    """
    collector = ComponentCollector(network, [_LayerSource(layer)])
    total, n_tokens = 0.0, 0
    for start in range(0, len(rows), _N_ROWS):
        ids, mask = pad_rows(rows[start : start + _N_ROWS])
        seen = collector.collect(ids, mask)["output"][mask]
        total = total + seen.sum(axis=0, dtype=np.float64)
        n_tokens += len(seen)
    return np.asarray(total / n_tokens, np.float32)
