"""MLP neurons as components."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from whatchanged.errors import UsageError
from whatchanged.models.components import Probe

if TYPE_CHECKING:
    import torch

# First and last projection of an MLP, as transformers names them in the families of Llama (Qwen,
# Gemma, Mistral), Phi-3, GPT-2, GPT-NeoX, OPT and Phi, GPT-J, and Falcon-like ones.
_PROJECTIONS = (
    ("up_proj", "down_proj"),
    ("gate_up_proj", "down_proj"),
    ("c_fc", "c_proj"),
    ("dense_h_to_4h", "dense_4h_to_h"),
    ("fc1", "fc2"),
    ("fc_in", "fc_out"),
)


@dataclass(frozen=True)
class NeuronSource:
    """The neurons of every MLP: what enters its last projection.

    In a plain MLP that is the activation after the first projection; in a gated one the activated
    gate times the other branch. `name` stands before the module in a label.
    """

    name: str = "neurons"

    def probes(self, model: Any) -> tuple[Probe, ...]:
        """One probe per MLP, in the model's order. Raises UsageError where none is recognized."""
        found = tuple(
            Probe(
                f"{self.name}/{mlp}",
                f"{mlp}.{last}",
                "input",
                _width(model.get_submodule(f"{mlp}.{last}")),
                _as_float32,
            )
            for mlp, module in model.named_modules()
            for first, last in _PROJECTIONS
            if mlp and {first, last} <= dict(module.named_children()).keys()
        )
        if not found:
            known = ", ".join("/".join(pair) for pair in _PROJECTIONS)
            raise UsageError(
                f"expected MLPs with projections named {known}, found none in "
                f"{type(model).__name__}: leave the neurons out"
            )
        return found


def _width(projection: Any) -> int:
    """The width of a projection's input; Conv1D stores its weight the other way round."""
    is_linear = hasattr(projection, "in_features")
    return int(projection.in_features if is_linear else projection.weight.shape[0])


def _as_float32(passing: torch.Tensor) -> torch.Tensor:
    return passing.float()
