"""What SAEs of one model read: their places in it, texts as tokens, and which of these count."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from whatchanged.errors import InputError
from whatchanged.models.components import Probe, pad_rows
from whatchanged.models.hook_points import HookPoint, find_hook_point, has_centering_norms
from whatchanged.models.sae_folders import UNKNOWN_CENTERING
from whatchanged.models.saes import Sae

if TYPE_CHECKING:
    import torch

TokenIds: TypeAlias = tuple[int, ...]

# Padded tokens of one forward pass, by kind of device; more only grow the working set, and pages
# that a processor gets anew for every large tensor cost it a tenth.
_MAX_TOKENS = {"cpu": 2048, "cuda": 32_768}


@dataclass(frozen=True)
class ReadTexts:
    """Texts as token ids, in the order asked, the start token first where the SAEs want one.

    `counts[name]` says of every text which of its tokens count for that SAE, `(n_tokens,)` each.
    """

    rows: tuple[TokenIds, ...]
    counts: Mapping[str, tuple[NDArray[np.bool_], ...]]


@dataclass(frozen=True)
class Places:
    """Where SAEs read in one model, by the SAE's name; as a source of components, the activations
    there. `is_centering`: the model's norms take the mean away."""

    points: Mapping[str, HookPoint]
    is_centering: bool

    def probes(self, _model: Any) -> tuple[Probe, ...]:
        """One probe for each place, however many SAEs read there."""
        distinct = {label(point): point for point in self.points.values()}
        return tuple(
            Probe(module, point.site, point.reads, point.width, _as_float32)
            for module, point in distinct.items()
        )

    def label(self, sae: Sae) -> str:
        """The name under which the activations that an SAE reads are collected."""
        return label(self.points[sae.name])

    def entering(self, sae: Sae, passing: torch.Tensor) -> torch.Tensor:
        """What enters an SAE, float32, of what passes its place: without its mean over the
        dimensions where the SAE was trained so and the model does not mind."""
        if self._takes_mean(sae):
            return passing.float() - passing.float().mean(dim=-1, keepdim=True)
        return passing.float()

    def _takes_mean(self, sae: Sae) -> bool:
        """Whether `entering` takes the mean away."""
        is_residual = self.points[sae.name].is_residual
        return bool(sae.settings.is_centered and self.is_centering and is_residual)


def label(point: HookPoint) -> str:
    """One name for each place, whatever SAEs call it."""
    return f"{point.site}.{point.reads}"


def find_places(model: Any, saes: Sequence[Sae]) -> Places:
    """The places of all SAEs.

    Raises InputError for no SAE, two of one name, an unknown hook point, a width that is not the
    SAE's, and where it is unknown but matters whether activations were centered.
    """
    names = [sae.name for sae in saes]
    if not names or (twice := [name for name in names if names.count(name) > 1]):
        found = f"{twice[0]!r} twice" if names else "none"
        raise InputError(f"expected SAEs with names of their own, found {found}: name each")
    is_centering = has_centering_norms(model)
    points = {}
    for sae in saes:
        point = points[sae.name] = find_hook_point(model, sae.settings.hook_name)
        if point.width != sae.settings.d_in:
            raise InputError(
                f"SAE {sae.name!r}: expected a hook point of width {sae.settings.d_in}, found "
                f"{point.width} at {point.name} of {type(model).__name__}: use the model that it "
                f"was trained on ({sae.settings.model_name or 'its config does not say which'})"
            )
        if sae.settings.is_centered is None and is_centering and point.is_residual:
            raise InputError(f"SAE {sae.name!r}: {UNKNOWN_CENTERING}")
    return Places(points, is_centering)


def read_texts(
    tokenizer: Any, saes: Sequence[Sae], texts: Sequence[str], *, leave_out_start: bool = False
) -> ReadTexts:
    """The texts in tokens, as all SAEs want them.

    `leave_out_start` lets the start token count for no SAE. Without a start token of its own, a
    tokenizer's end token starts a text, as in TransformerLens.

    Raises InputError for SAEs that disagree about the start token, a tokenizer without one that is
    wanted, no texts, and a text that is empty, not Unicode, longer than an SAE's context, or has no
    token that counts.
    """
    if not texts:
        raise InputError("expected at least one text, found none: give some")
    start = _start_id(tokenizer, saes)
    for place, text in enumerate(texts):
        _check_text(place, text)
    encoded = tokenizer(list(texts), add_special_tokens=False, truncation=False)["input_ids"]
    rows = tuple(tuple(ids if start is None else [start, *ids]) for ids in encoded)
    without_start = leave_out_start and start is not None
    # SAEs that were trained on the same tokens share the answer.
    alike = {_counting(sae): sae for sae in reversed(saes)}
    counts = {kind: _counts(tokenizer, sae, rows, without_start) for kind, sae in alike.items()}
    return ReadTexts(rows, {sae.name: counts[_counting(sae)] for sae in saes})


def batches_of(
    rows: Sequence[TokenIds], device: str, batch_size: int | None
) -> Iterator[list[int]]:
    """Places of rows that go through the model together: longest first, at most `batch_size`."""
    order = sorted(range(len(rows)), key=lambda place: (-len(rows[place]), place))
    while order:
        n_fitting = max(1, _MAX_TOKENS.get(device, 2048) // len(rows[order[0]]))
        n_rows = min(n_fitting, batch_size or n_fitting)
        yield order[:n_rows]
        order = order[n_rows:]


def padded(rows: Sequence[TokenIds], side: str) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Token ids and mask `(n_rows, longest row)`, padded on the left or the right."""
    ids, mask = pad_rows(rows)
    if side != "left":
        return ids, mask
    moved = np.zeros_like(ids)
    moved[mask[:, ::-1]] = ids[mask]
    return moved, np.ascontiguousarray(mask[:, ::-1])


def is_like_training(
    sae: Sae,
    special_ids: Sequence[int],
    token_ids: NDArray[np.int64],
    positions: NDArray[np.int64],
) -> NDArray[np.bool_]:
    """Which tokens are like those that an SAE was trained on, by id and by position in the text
    (0 is the first, negative ones are padding); all three arrays have one shape. `special_ids` are
    the tokenizer's."""
    settings = sae.settings
    excluded = settings.excluded_tokens
    if not isinstance(excluded, tuple):
        excluded = tuple(special_ids) if excluded else ()
    # The slice is of the training context, so a negative end counts from there.
    kept = np.zeros(settings.context_size, dtype=bool)
    kept[slice(*settings.positions)] = True
    is_kept = (positions >= 0) & (positions < len(kept))
    is_kept[is_kept] = kept[positions[is_kept]]
    return np.asarray(is_kept & ~np.isin(token_ids, excluded))


def _start_id(tokenizer: Any, saes: Sequence[Sae]) -> int | None:
    wanting = [sae.name for sae in saes if sae.settings.prepends_start]
    refusing = [sae.name for sae in saes if not sae.settings.prepends_start]
    if wanting and refusing:
        raise InputError(
            f"expected SAEs that read the same tokens, found {wanting[0]!r} with a start token "
            f"before every text and {refusing[0]!r} without: compare them in two runs"
        )
    if not wanting:
        return None
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if start is None:
        raise InputError(
            f"SAE {wanting[0]!r} wants a start token before every text, and the tokenizer has "
            "none: use the tokenizer of the model that it was trained on"
        )
    return int(start)


def _check_text(place: int, text: str) -> None:
    if not text.strip():
        raise InputError(f"expected words in every text, found none in text {place}: leave it out")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise InputError(
            f"text {place} holds half of a surrogate pair, so it has no tokens: leave it out"
        ) from None


def _counting(sae: Sae) -> Hashable:
    """What `_counts` depends on."""
    return sae.settings.context_size, sae.settings.excluded_tokens, sae.settings.positions


def _counts(
    tokenizer: Any, sae: Sae, rows: Sequence[TokenIds], without_start: bool
) -> tuple[NDArray[np.bool_], ...]:
    """Which tokens of each text are like those that the SAE was trained on."""
    context = sae.settings.context_size
    special = tuple(tokenizer.all_special_ids)
    counts = []
    for place, row in enumerate(rows):
        if len(row) > context:
            raise InputError(
                f"expected texts of at most {context} tokens, the context of SAE {sae.name!r} in "
                f"training, found {len(row)} in text {place}: cut it or leave it out"
            )
        ids, positions = np.array(row), np.arange(len(row))
        counts.append(is_like_training(sae, special, ids, positions))
        counts[-1][: int(without_start)] = False
        if not counts[-1].any():
            raise InputError(
                f"expected a token that counts for SAE {sae.name!r} in every text, found none in "
                f"text {place}: leave it out"
            )
    return tuple(counts)


def _as_float32(passing: torch.Tensor) -> torch.Tensor:
    return passing.float()
