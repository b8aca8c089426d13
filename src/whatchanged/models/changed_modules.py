"""Which modules' own parameters differ between two models of one architecture."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from whatchanged.errors import UsageError
from whatchanged.models.component_model import ComponentModel

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class ChangedModule:
    """A module with parameters of its own that changed.

    `parts` are the directions `(d_in, n)` and `(d_out, n)` of a linear layer's weight;
    `parameters` names the changed parameters without directions.
    """

    name: str
    parts: tuple[torch.Tensor, torch.Tensor] | None
    parameters: tuple[str, ...]


def find_changed(
    base: Any, intervention: Any, directions: ComponentModel
) -> Iterator[ChangedModule]:
    """The modules with changed parameters, and those with directions, in the model's order.

    Raises UsageError where such a module holds further ones: what its parameters do cannot then
    be told from what goes on below it.
    """
    import torch

    for name, module in base.named_modules():
        other = intervention.get_submodule(name)
        changed = [
            each
            for each, parameter in module.named_parameters(recurse=False)
            if not torch.equal(parameter, other.get_parameter(each).to(parameter.device))
        ]
        parts = None
        if given := directions.weights.get(name):
            reads, writes = (
                torch.from_numpy(x).to(base.device) for x in (given.reads, given.writes)
            )
            parts = reads, writes
            changed = [each for each in changed if each != "weight"]
        if changed and next(module.children(), None) is not None:
            raise UsageError(
                f"expected changed parameters in modules that hold no others, found "
                f"{changed[0]!r} in {name or type(module).__name__!r}: this architecture's "
                "contributions cannot be told apart"
            )
        if changed or parts is not None:
            yield ChangedModule(name, parts, tuple(changed))


def check_architectures(base: Any, intervention: Any) -> None:
    """Nothing, where two models differ in the values of their parameters alone.

    Raises UsageError for other parameters, other shapes (a vocabulary that grew) or buffers.
    """
    import torch

    before, after = (
        {name: tuple(p.shape) for name, p in model.named_parameters()}
        for model in (base, intervention)
    )
    if before != after:
        odd = sorted(name for name, _ in before.items() ^ after.items())[0]
        raise UsageError(
            f"expected two models of one architecture and vocabulary, found {odd!r} of shape "
            f"{before.get(odd)} in the base and {after.get(odd)} in the intervention: merge "
            "adapters into their model, and leave contributions out for other pairs"
        )
    tables = dict(intervention.named_buffers())
    for name, buffer in base.named_buffers():
        if name not in tables or not torch.equal(buffer.cpu(), tables[name].cpu()):
            raise UsageError(
                f"expected two models that differ in their parameters alone, found another "
                f"{name!r}: leave contributions out for this pair"
            )
