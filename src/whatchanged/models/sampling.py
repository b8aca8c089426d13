"""Random tokens by the Gumbel-max trick, with noise that is a function of (text, step, token id).

The token of a step is the one whose probability divided by an exponential variable is largest (the
exponential race, equal in law to the largest logit plus Gumbel noise: Maddison et al. 2014, "A*
sampling"). The noise does not depend on the batch, the worker or the model. Two models that decode
with the same noise key each draw from exactly their own distribution, and yet draw the same token
until they really disagree (Gumbel-max counterfactuals: Oberst and Sontag 2019; for language models:
Ravfogel et al. 2025): the chance of different tokens is at most 2 TV / (1 + TV), where TV is the
total variation between the two distributions.

Noise comes from counters, never from a state. Each step of a text has a 64-bit key from Philox4x64
(Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"). Each token id, scattered over
32 bits, is mixed with that key by an integer hash: the finalizer of MurmurHash3 with the constants
of Wellons 2018 ("Prospecting for hash functions"), half of the key before it and half halfway.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from whatchanged.keys import seed_from_key

if TYPE_CHECKING:
    import torch

# Part of a decoder's identity: raise it with any change that alters a drawn token.
SAMPLING_VERSION = 2

# Constants of the hash, as signed 32-bit integers.
_SPREAD, _FIRST, _SECOND = -1640531535, 0x7FEB352D, -2073254261
_LARGEST_BELOW_1 = 1 - 2**-24


def draw_noise_keys(noise_keys: Sequence[str], n_steps: int) -> NDArray[np.int32]:
    """The hash keys of every step, `(n_texts, n_steps, 2)`; row i depends on `noise_keys[i]` alone.

    A shorter `n_steps` gives a prefix of the same rows.
    """
    keys = np.empty((len(noise_keys), n_steps, 2), dtype=np.int32)
    for row, key in zip(keys, noise_keys, strict=True):
        drawn = np.random.Philox(key=seed_from_key(key)).random_raw(n_steps)
        row[:] = drawn.astype(np.uint64).view(np.int32).reshape(n_steps, 2)
    return keys


class TokenPicker:
    """Picks tokens for batches of at most `n_rows` rows over one vocabulary, step after step.

    It keeps the memory that the noise is made in: on a CPU, fresh memory for every step costs more
    than the arithmetic.
    """

    def __init__(
        self,
        n_rows: int,
        n_vocab: int,
        device: torch.device,
        *,
        temperature: float = 1.0,
        top_p: float = 1.0,
    ) -> None:
        import torch

        self.temperature, self.top_p = temperature, top_p
        tokens = torch.arange(n_vocab, dtype=torch.int32, device=device)
        self._columns = tokens.float()
        self._scattered = _mix(tokens * _SPREAD, torch.empty_like(tokens), None)
        self._noise = torch.empty(n_rows, n_vocab, dtype=torch.int32, device=device)
        self._scratch = torch.empty_like(self._noise)

    def pick(
        self, logits: torch.Tensor, noise_keys: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The token of each row, and whether the row had a distribution at all; both `(n_rows,)`.

        It is the last of those that `race` puts lowest.
        """
        race, has_distribution = self.race(logits, noise_keys)
        return _lowest_column(race, self._columns), has_distribution

    def race(
        self, logits: torch.Tensor, noise_keys: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What the picked token has the lowest value of, `(n_rows, n_vocab)`, and whether the row
        had a distribution at all, `(n_rows,)`; for engines that pick a token by themselves.

        `logits` is `(n_rows, n_vocab)`, `noise_keys` `(n_rows, 2)` int32. `top_p` below 1 keeps the
        smallest set of most likely tokens whose probability reaches it (nucleus sampling: Holtzman
        et al. 2020). A row with NaN or without a finite logit is marked False, and its token means
        nothing. A token of probability zero is never picked.
        """
        weights = relative_weights(logits, self.temperature)
        if self.top_p < 1:
            weights = _nucleus(weights, self.top_p)
        # The most likely token has weight 1, so a sound row's largest weight is 1 and a broken
        # one's is NaN; the maximum carries NaN through.
        has_distribution = weights.amax(dim=-1) > 0
        return weights.div_(self._negative_noise(noise_keys)), has_distribution

    def exponential_noise(self, noise_keys: torch.Tensor) -> torch.Tensor:
        """Standard exponential variables `(n_rows, n_vocab)`, float32, in [2^-31, 16.7].

        Entry (row, token) is a function of the row's key and the token id alone. Small values,
        which decide races, are exact to float32's relative precision.
        """
        return -self._negative_noise(noise_keys)

    def _negative_noise(self, noise_keys: torch.Tensor) -> torch.Tensor:
        """Exponential variables with the other sign, log(1 - uniform), until the next call."""
        import torch

        n_rows = len(noise_keys)
        mixed, scratch = self._noise[:n_rows], self._scratch[:n_rows]
        torch.bitwise_xor(self._scattered[None], noise_keys[:, :1], out=mixed)
        _mix(mixed, scratch, noise_keys[:, 1:]).bitwise_and_(0x7FFFFFFF)
        uniforms = torch.mul(mixed, -(2.0**-31), out=scratch.view(torch.float32))
        return uniforms.clamp_(min=-_LARGEST_BELOW_1, max=-(2.0**-31)).log1p_()


def relative_weights(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """Probabilities up to a factor per row, float32, the largest 1: `(n_rows, n_vocab)`."""
    # The maximum goes first, so that a small temperature cannot overflow.
    scores = logits.float() - logits.amax(dim=-1, keepdim=True).float()
    if temperature != 1:
        scores.div_(temperature)
    return scores.exp_()


def _mix(x: torch.Tensor, scratch: torch.Tensor, key: torch.Tensor | None) -> torch.Tensor:
    """32-bit integers, in place, by a bijection whose every output bit depends on every input bit.

    `key` goes in halfway. Torch shifts int32 with the sign, so the bits that come in are masked.
    """
    import torch

    for shift, mask, factor in ((16, 0xFFFF, _FIRST), (15, 0x1FFFF, _SECOND), (16, 0xFFFF, 1)):
        torch.bitwise_right_shift(x, shift, out=scratch)
        x.bitwise_xor_(scratch.bitwise_and_(mask))
        if key is not None and shift == 15:
            x.bitwise_xor_(key)
        x.mul_(factor)
    return x


def _lowest_column(values: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """The column of each row's lowest value, `(n_rows,)`; of equal ones the last, and 0 in a row of
    NaN. Several times faster than argmin, which torch does not vectorize on a CPU."""
    import torch

    is_lowest = values == values.amin(dim=-1, keepdim=True)
    # Whole numbers below 2^24 are exact in float32, and no vocabulary is as large.
    return torch.where(is_lowest, columns, 0.0).amax(dim=-1).long()


def _nucleus(weights: torch.Tensor, top_p: float) -> torch.Tensor:
    import torch

    ordered, order = weights.sort(dim=-1, descending=True, stable=True)
    before = ordered.double().cumsum(-1) - ordered
    kept = before < top_p * ordered.sum(-1, keepdim=True, dtype=torch.float64)
    # The most likely token stays even where top_p is so small that rounding would drop it; a
    # row of NaN stays NaN.
    kept[:, 0] = True
    return torch.zeros_like(weights).scatter_(-1, order, torch.where(kept, ordered, 0.0))
