"""How much each part of a weight change added to a text's log-ratio.

An activation says that a direction was read, not that it mattered. A contribution says how many
nats of log p_intervention(text) - log p_base(text) came through it: integrated gradients
(Sundararajan, Taly and Yan 2017) along the straight line in weight space from the base to the
intervention. Where a layer's weight changed by rank-one parts sigma u v^T, the integral splits:
each part gets, at every token, sigma (v . input) times (u . gradient at the output). Over all
parts and tokens, contributions sum to the log-ratio, up to the error of the quadrature.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from whatchanged.errors import UsageError
from whatchanged.models.changed_modules import (
    ChangedModule,
    check_architectures,
    find_changed,
)
from whatchanged.models.component_model import ComponentModel
from whatchanged.models.components import (
    Activations,
    ComponentCollector,
    linear_weights,
)

if TYPE_CHECKING:
    import torch

DIRECTIONS = "contribution"
REMAINDER = "remainder"
PARAMETER = "parameter"
CONTROL = "control"


@dataclass(frozen=True)
class Contributions:
    """What each component added to the log-ratio of each text of a batch, in nats.

    `by_token` holds `(batch, seq, n_components)` per module, 0 at padding. A value stands at the
    token on which the component acted, in the prompt or the reply; which later tokens it made
    likelier is not told. `log_ratios (batch,)` are those of the two models themselves. `controls`
    is like `by_token`, of the control's directions, and no part of any sum.
    """

    by_token: Activations
    log_ratios: NDArray[np.float64]
    controls: Activations = field(default_factory=dict)

    def totals(self) -> NDArray[np.float64]:
        """Per text and component, module after module: `(batch, n_components)`."""
        return self._summed(self.by_token)

    def control_totals(self) -> NDArray[np.float64]:
        """Per text and direction of the control: `(batch, n_directions)`."""
        return self._summed(self.controls)

    def _summed(self, by_token: Activations) -> NDArray[np.float64]:
        blocks = [block.sum(axis=1, dtype=np.float64) for block in by_token.values()]
        return np.concatenate([np.zeros((len(self.log_ratios), 0)), *blocks], axis=1)

    def errors(self) -> NDArray[np.float64]:
        """By how much the contributions exceed each text's log-ratio, in nats `(batch,)`."""
        error: NDArray[np.float64] = self.totals().sum(axis=1) - self.log_ratios
        return error


class ContributionCollector:
    """Attributes the log-ratios of texts under a pair of models to what changed between them.

    Components, module after module: `contribution/LAYER` are the given directions of a linear
    layer, numbered as in their source; `remainder/LAYER` is what changed in its weight beside
    them; `parameter/NAME` is a changed parameter without directions (an embedding, the gain of a
    norm, a bias). A parameter that two modules share is two components, one for each use.

    Beside both models, one copy in float32 lies in memory, and `bytes_per_token` for every place
    of a batch. The models must be in evaluation mode. One batch at a time.
    """

    def __init__(
        self,
        base: Any,
        intervention: Any,
        directions: ComponentModel,
        *,
        control: ComponentModel | None = None,
        n_points: int = 6,
        temperature: float = 1.0,
    ) -> None:
        """`directions` are `weight_delta(base, intervention)`; `control` are others in the same
        layers, such as random ones, which the same passes read beside them.

        `n_points` of a Gauss-Legendre quadrature lie between base and intervention, each a
        forward and a backward pass. Log-probabilities are of logits divided by `temperature`.

        Raises UsageError for models of two architectures, directions that do not fit them, a
        changed parameter of a module that holds other modules, and no point.
        """
        if n_points < 1:
            raise UsageError(f"expected n_points of at least 1, found {n_points}")
        check_architectures(base, intervention)
        for each in (directions, *([control] if control else [])):
            each.probes(base)
        self._base, self._intervention = base, intervention
        self._weights = linear_weights(base), linear_weights(intervention)
        self._temperature = temperature
        self._reader = ComponentCollector(base, ())
        self._has_positions = "position_ids" in inspect.signature(base.forward).parameters
        places, shares = np.polynomial.legendre.leggauss(n_points)
        self._points = list(zip((places / 2 + 0.5).tolist(), (shares / 2).tolist(), strict=True))
        self._moving = copy.deepcopy(base).float().requires_grad_(False)
        self._sites = tuple(find_changed(base, intervention, directions))
        self._controls = _tensors(control, base.device) if control else {}
        if odd := sorted(self._controls.keys() ^ directions.weights.keys()) if control else []:
            raise UsageError(
                f"expected a control in the layers of the directions, found {odd[0]!r} in one of "
                "them only: draw it from these directions"
            )

    @property
    def modules(self) -> dict[str, int]:
        """The number of components of each module, in the order of `collect`."""
        found: dict[str, int] = {}
        for site in self._sites:
            if site.parts is not None:
                found[f"{DIRECTIONS}/{site.name}"] = int(site.parts[0].shape[1])
                found[f"{REMAINDER}/{site.name}"] = 1
            found.update({f"{PARAMETER}/{site.name}.{name}": 1 for name in site.parameters})
        return found

    @property
    def _control_modules(self) -> dict[str, int]:
        """In the order of the directions' modules."""
        return {
            f"{CONTROL}/{site.name}": int(self._controls[site.name][0].shape[1])
            for site in self._sites
            if site.name in self._controls
        }

    @property
    def n_controls(self) -> int:
        """How many directions the control has."""
        return sum(self._control_modules.values())

    @property
    def labels(self) -> tuple[str, ...]:
        """`module:index` of every component, in the order of `Contributions.totals`."""
        return tuple(f"{name}:{i}" for name, size in self.modules.items() for i in range(size))

    @property
    def strengths(self) -> NDArray[np.float64]:
        """The norm (sigma) of every direction, in the order of their labels `(n_directions,)`."""
        norms = [
            (site.parts[0].norm(dim=0) * site.parts[1].norm(dim=0)).double().cpu().numpy()
            for site in self._sites
            if site.parts is not None
        ]
        return np.concatenate([np.zeros(0), *norms])

    @property
    def device(self) -> torch.device:
        """Where the models compute."""
        device: torch.device = self._base.device
        return device

    @property
    def bytes_per_token(self) -> int:
        """An upper estimate of what one place of a batch takes beside the models: logits and
        their softmax, the linear layers' outputs with what stands between them, contributions.

        Attention that keeps its weights (`eager`) takes 8 n_layers n_heads n_tokens bytes more.
        """
        width = sum(weight.shape[0] for weight in self._weights[0].values())
        n_components = sum((self.modules | self._control_modules).values())
        return 4 * (8 * width + 2 * n_components)

    def collect(
        self, token_ids: NDArray[np.int64], mask: NDArray[np.bool_], n_prompt: NDArray[np.int64]
    ) -> Contributions:
        """The contributions to the log-ratio of each text's reply, given its prompt.

        `token_ids` and `mask` (true at real tokens) are `(batch, seq)`, padded on either side; the
        first `n_prompt (batch,)` tokens of a text are its prompt. A text's first token is never
        counted, as nothing predicts it; a text with no token to count has contributions of 0.

        Raises UsageError for what `ComponentCollector.collect` refuses, and for prompts longer
        than their texts.
        """
        import torch

        batch = self._read(token_ids, mask, n_prompt)
        with torch.inference_mode():
            after, before = (
                self._log_probs(model, batch).cpu() for model in (self._intervention, self._base)
            )
        found = {
            name: torch.zeros((*batch.ids.shape, size), device=self._base.device)
            for name, size in (self.modules | self._control_modules).items()
        }
        for position, share in self._points:
            self._move_to(position)
            with torch.enable_grad(), self._hooked(batch.ids.shape, share, found):
                total = self._log_probs(self._moving, batch).sum()
                if total.requires_grad:
                    total.backward()  # type: ignore[no-untyped-call]
        real = batch.mask.to(self._base.device)[..., None]
        # What stands at padding before it is left out may be anything, NaN included.
        kept = {name: torch.where(real, x, 0.0).cpu().numpy() for name, x in found.items()}
        return Contributions(
            {name: kept[name] for name in self.modules},
            (after - before).numpy(),
            {name: kept[name] for name in self._control_modules},
        )

    def _read(
        self, token_ids: NDArray[np.int64], mask: NDArray[np.bool_], n_prompt: NDArray[np.int64]
    ) -> _Batch:
        import torch

        self._reader.check(token_ids, mask)
        real = np.asarray(mask, dtype=bool)
        starts = np.asarray(n_prompt)
        if starts.shape != real.shape[:1] or (starts < 0).any() or (starts > real.sum(1)).any():
            raise UsageError(
                f"expected of each of {len(real)} texts how many of its tokens are the prompt, "
                f"found {starts.tolist()} for texts of {real.sum(1).tolist()} tokens"
            )
        places = real.cumsum(axis=1) - 1
        is_counted = real & (places >= np.maximum(starts, 1)[:, None])
        ids = np.where(real, token_ids, 0).astype(np.int64, copy=False)
        parts = (ids, real, is_counted, places.clip(min=0))
        return _Batch(*(torch.from_numpy(np.ascontiguousarray(part)) for part in parts))

    def _log_probs(self, model: Any, batch: _Batch) -> torch.Tensor:
        """The log-probability of each text's counted tokens, `(batch,)` float64."""
        import torch

        ids, mask, is_counted, places = (
            x.to(model.device) for x in (batch.ids, batch.mask, batch.is_counted, batch.places)
        )
        options = {"position_ids": places} if self._has_positions else {}
        logits = model(input_ids=ids, attention_mask=mask.long(), use_cache=False, **options).logits
        # The logits of a place are of the token after it.
        is_counted = is_counted[:, 1:]
        drawn = torch.log_softmax(logits[:, :-1][is_counted].float() / self._temperature, dim=-1)
        counted = drawn.gather(1, ids[:, 1:][is_counted][:, None])[:, 0].double()
        return counted.new_zeros(len(ids)).index_add(0, is_counted.nonzero()[:, 0], counted)

    def _move_to(self, position: float) -> None:
        """Give the moving model the weights at a share of the way from base to intervention."""
        import torch

        before, after = (dict(m.named_parameters()) for m in (self._base, self._intervention))
        with torch.no_grad():
            for name, parameter in self._moving.named_parameters():
                start = before[name].float()
                parameter.copy_(start.lerp(after[name].to(start), position))

    @contextmanager
    def _hooked(
        self, shape: tuple[int, ...], share: float, found: dict[str, torch.Tensor]
    ) -> Iterator[None]:
        """Add to `found` within the block, at every backward pass; no hook outlives it."""
        handles = [
            self._moving.get_submodule(site.name).register_forward_hook(
                self._site_hook(site, shape, share, found), with_kwargs=True
            )
            for site in self._sites
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _site_hook(
        self,
        site: ChangedModule,
        shape: tuple[int, ...],
        share: float,
        found: dict[str, torch.Tensor],
    ) -> Callable[..., torch.Tensor]:
        def hook(module: Any, args: Any, kwargs: Any, output: torch.Tensor) -> torch.Tensor:
            _check_output(site.name, output, shape)
            passed_on = output
            if not output.requires_grad:
                # Gradients are needed from the first changed module on, and nowhere before it.
                output = output.detach().requires_grad_()
                passed_on = output.clone()
            entering = (args or tuple(kwargs.values()))[0].detach()
            tangents = {
                name: self._tangent(site, name, module, args, kwargs) for name in site.parameters
            }

            def add(gradient: torch.Tensor) -> None:
                gradient = gradient.reshape(*shape, -1)
                for name, tangent in tangents.items():
                    at_tokens = (tangent.reshape(*shape, -1) * gradient).sum(-1, keepdim=True)
                    found[f"{PARAMETER}/{site.name}.{name}"] += share * at_tokens
                if drawn := self._controls.get(site.name):
                    found[f"{CONTROL}/{site.name}"] += share * _through(
                        drawn, entering.reshape(*shape, -1), gradient
                    )
                if site.parts is not None:
                    parts, remainder = self._split(site, entering.reshape(*shape, -1), gradient)
                    found[f"{DIRECTIONS}/{site.name}"] += share * parts
                    found[f"{REMAINDER}/{site.name}"] += share * remainder

            output.register_hook(add)  # type: ignore[no-untyped-call]
            return passed_on

        return hook

    def _split(
        self, site: ChangedModule, entering: torch.Tensor, gradient: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The share of a linear layer's weight: of its directions, and of what is left."""
        assert site.parts is not None
        start, end = (weights[site.name] for weights in self._weights)
        change = end.to(site.parts[0]) - start.float()
        whole = ((entering @ change.T) * gradient).sum(-1, keepdim=True)
        parts = _through(site.parts, entering, gradient)
        return parts, whole - parts.sum(-1, keepdim=True)

    def _tangent(
        self, site: ChangedModule, name: str, module: Any, args: Any, kwargs: Any
    ) -> torch.Tensor:
        """How the output of a module moves with one of its parameters, its input held fast."""
        import torch

        start, end = (
            model.get_submodule(site.name).get_parameter(name).detach()
            for model in (self._base, self._intervention)
        )
        change = end.to(start.device, torch.float32) - start.float()
        now = {each: value.detach() for each, value in module.named_parameters()}
        # The base's module stands in: calling the moving one would call its hooks again.
        module = self._base.get_submodule(site.name)
        inputs = [x.detach() if isinstance(x, torch.Tensor) else x for x in args]

        def run(value: torch.Tensor) -> Any:
            return torch.func.functional_call(module, {**now, name: value}, tuple(inputs), kwargs)

        tangent: torch.Tensor = torch.func.jvp(run, (now[name],), (change,))[1]
        return tangent.detach()


@dataclass(frozen=True)
class _Batch:
    """Four `(batch, seq)` tensors on the host: token ids, which are real, which tokens'
    log-probabilities count, and every token's place in its text."""

    ids: torch.Tensor
    mask: torch.Tensor
    is_counted: torch.Tensor
    places: torch.Tensor


def _tensors(
    directions: ComponentModel, device: torch.device
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Reads and writes of each layer's directions."""
    import torch

    return {
        name: (torch.from_numpy(part.reads).to(device), torch.from_numpy(part.writes).to(device))
        for name, part in directions.weights.items()
    }


def _through(
    parts: tuple[torch.Tensor, torch.Tensor], entering: torch.Tensor, gradient: torch.Tensor
) -> torch.Tensor:
    """What rank-one parts (reads, writes) add at every token `(batch, seq, n_parts)`."""
    reads, writes = parts
    return (entering @ reads) * (gradient @ writes)


def _check_output(name: str, output: Any, shape: tuple[int, ...]) -> None:
    found = tuple(getattr(output, "shape", ()))
    # Some architectures (OPT) pass all tokens of a batch as one row.
    if found[:2] != tuple(shape) and found[:-1] != (shape[0] * shape[1],):
        raise UsageError(
            f"expected {name!r} to give one output per token {tuple(shape)}, found "
            f"{found or type(output).__name__}: this architecture's contributions cannot be told "
            "apart"
        )
