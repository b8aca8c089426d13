"""Random tokens that do not depend on the batch: one stream of uniforms per text, and inversion.

A text's uniforms come from a counter-based generator (Philox4x64-10: Salmon et al. 2011, "Parallel
random numbers: as easy as 1, 2, 3") keyed by the text's own key. Step t of the text uses uniform t,
whatever else is in the batch. The token is found by inverting the cumulative distribution in token
order: a rounding difference in the logits changes a token only when the uniform lies within that
difference of a boundary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from whatchanged.keys import seed_from_key

if TYPE_CHECKING:
    import torch

# Part of a decoder's identity: raise it with any change that alters a drawn token.
SAMPLING_VERSION = 1


def draw_uniforms(text_keys: Sequence[str], n_steps: int) -> NDArray[np.float64]:
    """Uniforms in [0, 1), shape `(n_texts, n_steps)`; row i depends on `text_keys[i]` alone.

    A shorter `n_steps` gives a prefix of the same rows.
    """
    uniforms = np.empty((len(text_keys), n_steps))
    for row, key in zip(uniforms, text_keys, strict=True):
        np.random.Generator(np.random.Philox(key=seed_from_key(key))).random(out=row)
    return uniforms


def pick_tokens(
    logits: torch.Tensor, uniforms: torch.Tensor, temperature: float = 1.0, top_p: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """The token of each row, and whether the row had a distribution at all; both `(n_rows,)`.

    `logits` is `(n_rows, n_vocab)`, `uniforms` `(n_rows,)` float64 in [0, 1). `top_p` below 1
    keeps the smallest set of most likely tokens whose probability reaches it (nucleus sampling:
    Holtzman et al. 2020). A row with NaN or without a finite logit is marked False, and its token
    means nothing. A token of probability zero is never picked.

    The cumulative sum is taken in two levels, over blocks and within the block that holds the
    uniform, in float64: a full cumulative sum of the vocabulary costs several times more.
    """
    import torch

    weights = _relative_weights(logits, temperature)
    if top_p < 1:
        weights = _nucleus(weights, top_p)
    n_rows, n_vocab = weights.shape
    width = 2 ** round(math.log2(max(n_vocab, 2)) / 2)
    if n_vocab % width:
        weights = torch.nn.functional.pad(weights, (0, width - n_vocab % width))
    blocks = weights.view(n_rows, -1, width)
    reached = blocks.sum(-1, dtype=torch.float64).cumsum(-1)
    total = reached[:, -1]
    has_distribution = torch.isfinite(total) & (total > 0)
    target = _below(uniforms * total, total)
    block = (reached <= target[:, None]).sum(-1).clamp_(max=blocks.shape[1] - 1)
    rows = torch.arange(n_rows, device=weights.device)
    within = blocks[rows, block].double().cumsum(-1)
    before = torch.where(block > 0, reached[rows, (block - 1).clamp_(min=0)], 0.0)
    rest = _below(target - before, within[:, -1])
    offset = (within <= rest[:, None]).sum(-1).clamp_(max=width - 1)
    return block * width + offset, has_distribution


def _relative_weights(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    # The maximum goes first, so that a small temperature cannot overflow.
    scores = logits.float() - logits.amax(dim=-1, keepdim=True).float()
    if temperature != 1:
        scores.div_(temperature)
    return scores.exp_()


def _nucleus(weights: torch.Tensor, top_p: float) -> torch.Tensor:
    import torch

    ordered, order = weights.sort(dim=-1, descending=True, stable=True)
    before = ordered.double().cumsum(-1) - ordered
    kept = before < top_p * ordered.sum(-1, keepdim=True, dtype=torch.float64)
    # The most likely token stays even where top_p is so small that rounding would drop it; a
    # row of NaN stays NaN.
    kept[:, 0] = True
    return torch.zeros_like(weights).scatter_(-1, order, torch.where(kept, ordered, 0.0))


def _below(values: torch.Tensor, limits: torch.Tensor) -> torch.Tensor:
    """`values`, but less than `limits` where rounding carried them there."""
    import torch

    return torch.minimum(values, torch.nextafter(limits, torch.zeros_like(limits)))
