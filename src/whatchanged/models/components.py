"""Components of a model, read in one forward pass: what fires, where, on which token.

A source says at which modules it reads and how it turns what passes there into components; a
collector hooks all sources' places at once. Beyond this room, activations are plain numpy arrays.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from whatchanged.errors import UsageError

if TYPE_CHECKING:
    import torch

Activations: TypeAlias = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Probe:
    """One place where a source reads.

    `module` is the name under which the components are labelled (`module:index`), the source's
    name before a slash. `site` is the dotted name of the torch module, `reads` which end of it,
    `encode` what turns `(batch, seq, width)` there into `(batch, seq, n_components)` float32.
    `counts` says of token ids and mask `(batch, seq)` at which tokens the components mean
    something: at others they are 0. None: everywhere.
    """

    module: str
    site: str
    reads: Literal["input", "output"]
    n_components: int
    encode: Callable[[torch.Tensor], torch.Tensor]
    counts: Callable[[NDArray[np.int64], NDArray[np.bool_]], NDArray[np.bool_]] | None = None


class ComponentSource(Protocol):
    """Something that knows components of a model: neurons, rank-one directions, latents of sparse
    autoencoders."""

    def probes(self, model: Any) -> tuple[Probe, ...]:
        """Where to read in this model, in the order in which its modules are concatenated.

        Raises UsageError for a model that does not have what the source needs.
        """
        ...


class ComponentCollector:
    """Reads the components of several sources in one forward pass of a transformers model.

    The model must be in evaluation mode; it stays on its device and in its precision.
    """

    def __init__(self, model: Any, sources: Sequence[ComponentSource]) -> None:
        """Raises UsageError for two probes of one name, and for a site the model does not have."""
        self._model = model
        self._probes = tuple(probe for source in sources for probe in source.probes(model))
        self._context = getattr(
            model.config.get_text_config(decoder=True), "max_position_embeddings", None
        )
        self._has_positions = "position_ids" in inspect.signature(model.forward).parameters
        names = [probe.module for probe in self._probes]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise UsageError(
                f"expected one probe per module name, found {twice[0]!r} twice: "
                "give one of the two sources another name"
            )
        for probe in self._probes:
            submodule(model, probe.site)

    @property
    def modules(self) -> dict[str, int]:
        """The number of components of each module, in the order of `collect`."""
        return {probe.module: probe.n_components for probe in self._probes}

    def collect(self, token_ids: NDArray[np.int64], mask: NDArray[np.bool_]) -> Activations:
        """The activations of each module, `(batch, seq, n_components)` float32.

        `token_ids` and `mask` (true at real tokens) are `(batch, seq)`. Padding may stand on
        either side, and what is returned at its places means nothing. Logits are computed for the
        last place only, whatever the model's head would do.

        Raises UsageError for shapes that disagree, a text without tokens or longer than the
        context, an id outside the vocabulary, and components of another shape than announced.
        """
        import torch

        self.check(token_ids, mask)
        device = self._model.device
        seen = torch.from_numpy(np.ascontiguousarray(mask, dtype=np.int64)).to(device)
        options: dict[str, Any] = {}
        if self._has_positions:
            options["position_ids"] = (seen.cumsum(1) - 1).clamp_(min=0)
        with torch.inference_mode(), self._hooked(mask.shape) as found:
            self._model(
                input_ids=torch.from_numpy(
                    np.where(mask, token_ids, 0).astype(np.int64, copy=False)
                ).to(device),
                attention_mask=seen,
                use_cache=False,
                **options,
            )
        if missing := [name for name in self.modules if name not in found]:
            raise UsageError(
                f"expected the model to pass through every module, and it never reached "
                f"{missing[0]!r}: leave its source out"
            )
        blocks = {name: found[name].cpu().numpy() for name in self.modules}
        for probe in self._probes:
            if probe.counts is not None:
                blocks[probe.module][~probe.counts(token_ids, mask)] = 0
        return blocks

    @contextmanager
    def _hooked(self, shape: tuple[int, ...]) -> Iterator[dict[str, torch.Tensor]]:
        """Collect what the probes see within the block; no hook outlives it."""
        found: dict[str, torch.Tensor] = {}
        handles = []
        try:
            for probe in self._probes:
                site = submodule(self._model, probe.site)
                if probe.reads == "input":
                    handles.append(site.register_forward_pre_hook(_input_hook(probe, shape, found)))
                else:
                    handles.append(site.register_forward_hook(_output_hook(probe, shape, found)))
            head = self._model.get_output_embeddings()
            if head is not None:
                # Registered last, so that a probe of the head still sees every place.
                handles.append(head.register_forward_pre_hook(_keep_last_place))
            yield found
        finally:
            for handle in handles:
                handle.remove()

    def check(self, token_ids: NDArray[np.int64], mask: NDArray[np.bool_]) -> None:
        """Nothing. Raises UsageError for a batch that the model cannot read: shapes that differ, a
        row without a token or beyond the context, an id that is not in the vocabulary."""
        if token_ids.ndim != 2 or token_ids.shape != mask.shape or token_ids.size == 0:
            raise UsageError(
                "expected token ids and mask of one shape (batch, seq), both at least 1, found "
                f"{token_ids.shape} and {mask.shape}"
            )
        lengths = np.asarray(mask, dtype=bool).sum(axis=1)
        if not lengths.all():
            raise UsageError(
                f"expected a token in every text, found none in row {int(np.argmin(lengths))}: "
                "leave empty texts out"
            )
        if self._context is not None and lengths.max() > self._context:
            raise UsageError(
                f"expected texts of at most {self._context} tokens, the model's context, found "
                f"{int(lengths.max())}: leave long texts out or cut them"
            )
        n_vocab = self._model.get_input_embeddings().weight.shape[0]
        ids = token_ids[np.asarray(mask, dtype=bool)]
        if ids.min() < 0 or ids.max() >= n_vocab:
            raise UsageError(
                f"expected token ids from 0 to {n_vocab - 1}, found {int(ids.min())} to "
                f"{int(ids.max())}: use the tokenizer of this model"
            )


def pad_rows(rows: Sequence[Sequence[int]]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Texts of any length as token ids and mask `(n_rows, longest row)`, padded on the right."""
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    mask = np.arange(lengths.max(initial=0)) < lengths[:, None]
    ids = np.zeros(mask.shape, dtype=np.int64)
    ids[mask] = [token for row in rows for token in row]
    return ids, mask


def submodule(model: Any, name: str) -> Any:
    """The torch module of this dotted name; raises UsageError where the model has none."""
    try:
        return model.get_submodule(name)
    except AttributeError:
        raise UsageError(
            f"expected a module {name!r} in {type(model).__name__}, found none: "
            "use components that were made for this architecture"
        ) from None


def linear_weights(model: Any) -> dict[str, torch.Tensor]:
    """The weight `(d_out, d_in)` of every linear layer, GPT-2's Conv1D included, by its name.

    Tables that are looked up (embeddings) and gains of norms multiply no input and are not here.
    Raises UsageError for a layer whose weights are packed integers.
    """
    import torch
    from transformers.pytorch_utils import Conv1D

    weights: dict[str, torch.Tensor] = {}
    for name, module in model.named_modules():
        if not isinstance(module, torch.nn.Linear | Conv1D):
            continue
        weight = module.weight.detach()
        if not weight.is_floating_point():
            raise UsageError(
                f"expected floating-point weights in {name!r}, found {weight.dtype}: "
                "load the model without quantization"
            )
        weights[name] = weight.T if isinstance(module, Conv1D) else weight
    return weights


def _input_hook(probe: Probe, shape: tuple[int, ...], found: dict[str, torch.Tensor]) -> Any:
    def hook(_module: Any, inputs: tuple[Any, ...]) -> None:
        found[probe.module] = _encoded(probe, inputs[0], shape)

    return hook


def _output_hook(probe: Probe, shape: tuple[int, ...], found: dict[str, torch.Tensor]) -> Any:
    def hook(_module: Any, _inputs: tuple[Any, ...], output: Any) -> None:
        first = output[0] if isinstance(output, tuple) else output
        found[probe.module] = _encoded(probe, first, shape)

    return hook


def _encoded(probe: Probe, passing: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    encoded = probe.encode(passing)
    if encoded.ndim == 2:  # some architectures (OPT) pass all tokens of a batch as one row
        encoded = encoded.reshape(*shape[:1], -1, encoded.shape[-1])
    if encoded.shape != (*shape, probe.n_components):
        raise UsageError(
            f"{probe.module}: expected activations of shape {(*shape, probe.n_components)}, "
            f"found {tuple(encoded.shape)}"
        )
    return encoded


def _keep_last_place(_module: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return (inputs[0][:, -1:], *inputs[1:])
