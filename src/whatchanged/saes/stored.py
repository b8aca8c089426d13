"""Extracted features as named arrays, and back: sparse rows stay sparse."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from whatchanged.saes.features import SaeCard, SaeFeatures
from whatchanged.saes.quality import SaeQuality

if TYPE_CHECKING:
    from scipy.sparse import csr_array

    from whatchanged.models.sae_features import ExtractedFeatures, Extraction
    from whatchanged.models.saes import SaeSettings

_LAYER = re.compile(r"(?:^|\.)(\d+)(?:\.|$)")


@dataclass(frozen=True, eq=False)
class ReadFeatures:
    """What one SAE found in texts: `sae` pooled, `tokens (n_tokens, d_sae)` token by token.

    The tokens of text i are `text_starts[i]` to `text_starts[i + 1]` of `token_ids (n_tokens,)`.
    """

    sae: SaeFeatures
    tokens: csr_array
    token_ids: NDArray[np.int64]
    text_starts: NDArray[np.int64]

    def ids_of(self, text: int) -> list[int]:
        """The token ids of one text."""
        ids: list[int] = self.token_ids[
            self.text_starts[text] : self.text_starts[text + 1]
        ].tolist()
        return ids

    def rows(self, places: NDArray[np.int64]) -> SaeFeatures:
        """The pooled features of some of the texts."""
        return SaeFeatures(self.sae.card, self.sae.values[places])

    def firing_rates(self, places: Sequence[int]) -> NDArray[np.float64]:
        """The share of the tokens of some of the texts on which each feature fires, `(d_sae,)`."""
        starts = self.text_starts
        own = np.concatenate([np.arange(starts[i], starts[i + 1]) for i in places])
        n_firing = np.bincount(self.tokens[own].indices, minlength=self.sae.d_sae)
        return np.asarray(n_firing / len(own), dtype=np.float64)


def pack_features(found: ExtractedFeatures, extraction: Extraction) -> dict[str, NDArray[Any]]:
    """The arrays that `unpack_features` reads. The tokens must have been kept."""
    assert found.tokens is not None, "extracted with keep_tokens"
    arrays: dict[str, NDArray[Any]] = {
        "token_ids": extraction.token_ids,
        "text_starts": extraction.text_starts,
    }
    for name, matrix in (("pooled", found.pooled), ("tokens", found.tokens)):
        # Explicit zeros would count as firing.
        matrix.eliminate_zeros()
        arrays[f"{name}.data"] = matrix.data.astype(np.float32)
        arrays[f"{name}.indices"] = matrix.indices.astype(np.int32)
        arrays[f"{name}.indptr"] = matrix.indptr.astype(np.int64)
    return arrays


def unpack_features(arrays: Mapping[str, NDArray[Any]], card: SaeCard, d_sae: int) -> ReadFeatures:
    """The features in `pack_features`' arrays, of the SAE that the card names."""
    from scipy.sparse import csr_array

    def matrix(name: str) -> csr_array:
        parts = [arrays[f"{name}.{part}"] for part in ("data", "indices", "indptr")]
        return csr_array(tuple(parts), shape=(len(parts[2]) - 1, d_sae))

    return ReadFeatures(
        SaeFeatures(card, matrix("pooled")),
        matrix("tokens"),
        arrays["token_ids"],
        arrays["text_starts"],
    )


def make_card(name: str, settings: SaeSettings, quality: SaeQuality) -> SaeCard:
    """The card of an SAE; its layer is the first number in the hook point's name."""
    layer = _LAYER.search(settings.hook_name)
    return SaeCard(
        name=name,
        hook_point=settings.hook_name,
        layer=int(layer[1]) if layer else None,
        quality=quality,
        metadata={"neuronpedia_id": settings.neuronpedia_id},
    )
