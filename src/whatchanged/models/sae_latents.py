"""The latents of sparse autoencoders as components, read in the passes of all other sources.

Texts are read as they were decoded, whatever start token an SAE saw in training; at tokens unlike
those that it was trained on, its latents are 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from whatchanged.errors import InputError, MissingDependencyError
from whatchanged.models.components import Probe
from whatchanged.models.sae_inputs import Places, find_places, is_like_training
from whatchanged.models.sae_loading import load_sae
from whatchanged.models.saes import Sae
from whatchanged.sae_source import SaeSource

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class SaeLatents:
    """The latents of SAEs of one model as a source. `special_ids` are the tokenizer's; `name`
    stands before the SAE's in a label."""

    saes: tuple[Sae, ...]
    special_ids: tuple[int, ...] = ()
    name: str = "saes"

    def probes(self, model: Any) -> tuple[Probe, ...]:
        """One probe per SAE. Raises what `find_places` raises for SAEs that do not fit."""
        places = find_places(model, self.saes)
        return tuple(
            Probe(
                f"{self.name}/{sae.name}",
                places.points[sae.name].site,
                places.points[sae.name].reads,
                sae.settings.d_sae,
                partial(_encode, places, sae.to(model.device)),
                self._counting(sae),
            )
            for sae in self.saes
        )

    def _counting(
        self, sae: Sae
    ) -> Callable[[NDArray[np.int64], NDArray[np.bool_]], NDArray[np.bool_]]:
        def counts(token_ids: NDArray[np.int64], mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
            positions = np.cumsum(mask, axis=1) - 1
            return mask & is_like_training(sae, self.special_ids, token_ids, positions)

        return counts


@dataclass(frozen=True)
class ListedSaes:
    """The SAEs of a config's list that could be loaded, and by `saes/NAME` why others could not."""

    saes: tuple[Sae, ...]
    skipped: Mapping[str, str]

    def described(self) -> list[list[str]]:
        """What decides their latents, for a content key: their weights, never where they lie."""
        return [[sae.name, sae.identity] for sae in self.saes] + [
            [name, reason] for name, reason in self.skipped.items()
        ]

    def fitting(self, models: Sequence[Any]) -> ListedSaes:
        """Those that fit all of the models; the others are skipped with the reason."""
        kept, skipped = [], dict(self.skipped)
        for sae in self.saes:
            try:
                for model in models:
                    find_places(model, [sae])
                kept.append(sae)
            except InputError as error:
                skipped[f"saes/{sae.name}"] = str(error)
        return ListedSaes(tuple(kept), skipped)


@lru_cache(maxsize=1)
def load_listed(sources: tuple[SaeSource, ...]) -> ListedSaes:
    """The SAEs of a config's list; the last list stays in memory. Of two with one name the first
    is kept."""
    found: dict[str, Sae] = {}
    skipped = {}
    for number, source in enumerate(sources):
        try:
            sae = load_sae(source)
        except (InputError, MissingDependencyError) as error:
            name = source.name or source.id or Path(source.folder or "").name
            skipped[f"saes/{name}"] = str(error)
            continue
        if sae.name in found:
            skipped[f"saes/{sae.name} (number {number + 1} of the list)"] = (
                "another SAE of the list has this name: give it a `name` of its own"
            )
        else:
            found[sae.name] = sae
    return ListedSaes(tuple(found.values()), skipped)


def _encode(places: Places, sae: Sae, passing: torch.Tensor) -> torch.Tensor:
    return sae.encode(places.entering(sae, passing))
