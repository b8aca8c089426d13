"""A model's linear layers rounded to few bits: weights only, symmetric, by torchao.

`int8` has one scale per output, `int4` one per group of 32 inputs. The rounded values are kept in
the model's own precision, in which weight-only quantization computes anyway: texts show what the
rounding does, and what reads weights reads it in them. Memory is not saved, and kernels that also
round activations are another intervention.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from whatchanged.errors import MissingDependencyError, UsageError

Scheme = Literal["int8", "int4"]

_INT4_GROUP = 32


def check_installed() -> None:
    """Nothing, where models can be quantized; raises MissingDependencyError where they cannot."""
    if importlib.util.find_spec("torchao") is None:
        raise MissingDependencyError(
            "quantization: expected the package torchao, found none: "
            "pip install 'whatchanged[quantization]'"
        )


def quantize(network: Any, scheme: Scheme) -> Any:
    """The network with rounded linear layers, its head and its embeddings as they were. `network`
    is changed in place.

    Raises MissingDependencyError without torchao, UsageError for a network that keeps most of its
    weights elsewhere than in linear layers, and for `int4` where a layer's inputs are no multiple
    of 32.
    """
    check_installed()
    layers = _linear_layers(network)
    _check_share(network, layers)
    with _quiet_import():
        import torch
        from torchao.quantization import IntxWeightOnlyConfig, quantize_
        from torchao.quantization.granularity import PerAxis, PerGroup
    if scheme == "int8":
        config = IntxWeightOnlyConfig(weight_dtype=torch.int8, granularity=PerAxis(0))
    else:
        _check_groups(layers)
        four_bits = torch.int4  # type: ignore[attr-defined]  # torch's stubs leave it out
        config = IntxWeightOnlyConfig(weight_dtype=four_bits, granularity=PerGroup(_INT4_GROUP))
    quantize_(network, config, filter_fn=lambda _module, name: name in layers)
    for module in layers.values():
        module.weight = torch.nn.Parameter(module.weight.dequantize(), requires_grad=False)
    return network


def _linear_layers(network: Any) -> dict[str, Any]:
    import torch

    head = network.get_output_embeddings()
    return {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    }


def _check_share(network: Any, layers: dict[str, Any]) -> None:
    # A self that was hardly rounded would pass for a harmless quantization.
    tables = {id(network.get_input_embeddings().weight)}
    if network.get_output_embeddings() is not None:
        tables.add(id(network.get_output_embeddings().weight))
    n_inner = sum(p.numel() for p in network.parameters() if id(p) not in tables)
    n_rounded = sum(module.weight.numel() for module in layers.values())
    if n_rounded < n_inner / 2:
        raise UsageError(
            f"quantization: expected at least half of the weights in linear layers, found "
            f"{n_rounded / max(n_inner, 1):.0%} in {type(network).__name__}: quantize a model of "
            "another architecture"
        )


def _check_groups(layers: dict[str, Any]) -> None:
    for name, module in layers.items():
        if module.in_features % _INT4_GROUP:
            raise UsageError(
                f"quantization: int4 expected a multiple of {_INT4_GROUP} inputs in every linear "
                f"layer, found {module.in_features} in {name!r}: use int8"
            )


@contextmanager
def _quiet_import() -> Iterator[None]:
    """Keep back what torchao and torch log while torchao looks for its GPU kernels."""
    loggers = [logging.getLogger(name) for name in ("torchao", "torch.utils._pytree")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
