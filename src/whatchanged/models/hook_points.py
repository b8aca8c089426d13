"""Places in a model by the names that sparse autoencoders carry, as modules of transformers.

A name is TransformerLens's (`blocks.3.hook_resid_post`) or the dotted path of a module, which means
its output (`model.layers.3`, also with `.output` or `.input` behind it).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from whatchanged.errors import InputError, UsageError
from whatchanged.models.components import submodule

if TYPE_CHECKING:
    import torch

Change = Callable[["torch.Tensor"], "torch.Tensor"]

_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")
_END = re.compile(r"(.+)\.(input|output)")
# What enters the norm before the MLP; in blocks that norm the MLP's output alone, the MLP itself.
_BEFORE_MLP = ("pre_feedforward_layernorm", "post_attention_layernorm", "ln_2")
_ATTENTION = ("self_attn", "attn", "attention")
_ATTENTION_LAST = ("self_attn.o_proj", "attn.c_proj", "attention.dense")
_MLP_LAST = ("mlp.down_proj", "mlp.c_proj", "mlp.dense_4h_to_h")
_NAMES = (
    "hook_resid_pre", "hook_resid_mid", "hook_resid_post", "hook_mlp_in", "hook_mlp_out",
    "hook_attn_out", "attn.hook_z", "mlp.hook_post",
)  # fmt: skip


@dataclass(frozen=True)
class HookPoint:
    """One place: which end of the module `site`, how wide it is there, and whether what passes
    is (or is added to) the residual stream."""

    name: str
    site: str
    reads: Literal["input", "output"]
    width: int
    is_residual: bool


def find_hook_point(model: Any, name: str) -> HookPoint:
    """The place of this name in a transformers model.

    `attn.hook_z` has the heads side by side, `(..., n_heads * d_head)`. Raises InputError for a
    name that is no place in this model.
    """
    block = _BLOCK.fullmatch(name)
    try:
        return _in_block(model, name, int(block[1]), block[2]) if block else _by_path(model, name)
    except UsageError:
        raise InputError(
            f"expected a hook point of {type(model).__name__}, found {name!r}: known are "
            f"blocks.N.NAME with N below {_n_layers(model)} and NAME one of {', '.join(_NAMES)} "
            "where the architecture has it, and paths of modules"
        ) from None


def has_centering_norms(model: Any) -> bool:
    """Whether the model's norms take the mean away (LayerNorm), so that a residual stream without
    its mean is the same to the model. An RMSNorm leaves it in."""
    import torch

    return any(isinstance(module, torch.nn.LayerNorm) for module in model.modules())


@contextmanager
def changed_at(model: Any, point: HookPoint, change: Change) -> Iterator[None]:
    """Pass what is at the hook point through `change` within the block; no hook outlives it."""

    def on_input(_module: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (change(inputs[0]), *inputs[1:])

    def on_output(_module: Any, _inputs: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, tuple):
            return (change(output[0]), *output[1:])
        return change(output)

    site = submodule(model, point.site)
    if point.reads == "input":
        handle = site.register_forward_pre_hook(on_input)
    else:
        handle = site.register_forward_hook(on_output)
    try:
        yield
    finally:
        handle.remove()


def _by_path(model: Any, name: str) -> HookPoint:
    if end := _END.fullmatch(name):
        site, reads = end[1], end[2]
    else:
        site, reads = name, "output"
    module = submodule(model, site)
    is_input = reads == "input"
    width = getattr(module, "in_features" if is_input else "out_features", _d_model(model))
    return HookPoint(name, site, "input" if is_input else "output", width, width == _d_model(model))


def _in_block(model: Any, name: str, index: int, part: str) -> HookPoint:
    layer = f"{_layers_path(model)}.{index}"
    children = dict(submodule(model, layer).named_modules())

    def first_of(*paths: str) -> str:
        found = next((path for path in paths if path in children), None)
        if found is None:
            raise UsageError(f"{layer} has none of {', '.join(paths)}")
        return f"{layer}.{found}"

    is_sandwiched = "post_feedforward_layernorm" in children
    d_model = _d_model(model)
    match part:
        case "hook_resid_pre":
            return HookPoint(name, layer, "input", d_model, True)
        case "hook_resid_post":
            return HookPoint(name, layer, "output", d_model, True)
        case "hook_resid_mid" | "hook_mlp_in":
            if part == "hook_resid_mid" and _is_parallel(model):
                raise UsageError("attention and MLP read the same residual stream")
            paths = ("mlp",) if is_sandwiched and _BEFORE_MLP[0] not in children else _BEFORE_MLP
            return HookPoint(name, first_of(*paths), "input", d_model, True)
        case "hook_mlp_out":
            site = first_of("post_feedforward_layernorm" if is_sandwiched else "mlp")
            return HookPoint(name, site, "output", d_model, True)
        case "hook_attn_out":
            paths = ("post_attention_layernorm",) if is_sandwiched else _ATTENTION
            return HookPoint(name, first_of(*paths), "output", d_model, True)
        case "attn.hook_z" | "mlp.hook_post":
            site = first_of(*(_ATTENTION_LAST if part == "attn.hook_z" else _MLP_LAST))
            return HookPoint(name, site, "input", _width_into(submodule(model, site)), False)
    raise UsageError(f"{part} is unknown")


def _layers_path(model: Any) -> str:
    """The dotted name of the list of decoder layers."""
    import torch

    for path, module in model.named_modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == _n_layers(model):
            return str(path)
    raise UsageError(f"{type(model).__name__} has no list of {_n_layers(model)} layers")


def _width_into(projection: Any) -> int:
    # GPT-2's Conv1D stores its weight the other way round.
    is_linear = hasattr(projection, "in_features")
    return int(projection.in_features if is_linear else projection.weight.shape[0])


def _n_layers(model: Any) -> int:
    return int(model.config.get_text_config(decoder=True).num_hidden_layers)


def _d_model(model: Any) -> int:
    return int(model.config.get_text_config(decoder=True).hidden_size)


def _is_parallel(model: Any) -> bool:
    return bool(getattr(model.config, "use_parallel_residual", False))
