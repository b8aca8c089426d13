"""The texts of a batch of activations: checked at the door, in one sentence where they are bad."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whatchanged.activations.events import MAX_ROWS
from whatchanged.errors import UsageError
from whatchanged.keys import KEY_LENGTH

N_KEY_BYTES = KEY_LENGTH // 2


@dataclass(frozen=True, eq=False, slots=True)
class TextBatch:
    """The texts of a batch. `keys`: 64 hex characters each; `is_intervention (n_texts,)`: the side
    that wrote the text; `starts (n_texts + 1,)`: the rows of text i are `starts[i]` up to
    `starts[i + 1]`; `token_ids (n_rows,)`: the real tokens of all texts, without padding."""

    keys: tuple[str, ...]
    is_intervention: NDArray[np.bool_]
    starts: NDArray[np.int64]
    token_ids: NDArray[np.integer[Any]]


def as_block(activations: NDArray[Any], texts: TextBatch, n_columns: int) -> NDArray[np.float32]:
    """The activations as a dense float32 block, all shapes checked."""
    if activations.dtype not in (np.float32, np.float16):
        raise UsageError(f"expected activations of 32 or 16 bits, found {activations.dtype}")
    n_texts, n_rows = len(texts.keys), len(texts.token_ids)
    n_tokens = np.diff(texts.starts)
    shapes = {
        "activations": (activations.shape, (n_rows, n_columns)),
        "is_intervention": (texts.is_intervention.shape, (n_texts,)),
        "starts": (texts.starts.shape, (n_texts + 1,)),
        "first and last start": ((int(texts.starts[0]), int(texts.starts[-1])), (0, n_rows)),
    }
    for name, (found, expected) in shapes.items():
        if found != expected:
            raise UsageError(
                f"expected {name} {expected} in a batch of {n_texts:,} texts, {n_rows:,} tokens and"
                f" {n_columns:,} components, found {found}: hand over what belongs together"
            )
    if n_texts and (n_tokens.min() < 0 or n_tokens.max() >= MAX_ROWS):
        raise UsageError(
            f"expected texts of 0 to {MAX_ROWS - 1:,} tokens, found {n_tokens.min():,} to"
            f" {n_tokens.max():,}: cut long texts"
        )
    if n_rows and not 0 <= texts.token_ids.min() <= texts.token_ids.max() < 2**32:
        raise UsageError("expected token ids from 0 up to 2^32, found one outside: check them")
    return np.ascontiguousarray(activations, np.float32)


def key_bytes(keys: tuple[str, ...]) -> NDArray[np.uint8]:
    """`(n_texts, 32)`"""
    joined = "".join(keys)
    try:
        data = bytes.fromhex(joined)
    except ValueError:
        data = b""
    if data.hex() != joined or any(len(key) != KEY_LENGTH for key in keys):
        odd = next((k for k in keys if len(k) != KEY_LENGTH), keys[0])
        raise UsageError(
            f"expected text keys of {KEY_LENGTH} lower-case hex characters, found {odd!r}: make"
            " them with keys.content_key"
        )
    return np.frombuffer(data, np.uint8).reshape(-1, N_KEY_BYTES)


def priorities(keys: NDArray[np.uint8], seed: int) -> NDArray[np.float64]:
    """`(n_texts,)` in [0, 1): a random number of each text's own, whatever batch it comes in.

    Keys are uniform already; the finalizer of SplitMix64 (Steele et al. 2014) mixes the seed in.
    """
    mixed = np.ascontiguousarray(keys[:, :8]).view("<u8").reshape(-1).astype(np.uint64)
    mixed += np.uint64((seed * 0x9E3779B97F4A7C15) % 2**64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed ^= mixed >> np.uint64(shift)
        mixed *= np.uint64(factor)
    mixed ^= mixed >> np.uint64(31)
    return (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53


def cuts(starts: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Ranges of texts of at most `MAX_ROWS` rows each: one, unless the batch is very large."""
    cuts, low, n_texts = [], 0, len(starts) - 1
    while low < n_texts:
        high = int(np.searchsorted(starts, starts[low] + MAX_ROWS, side="right")) - 1
        cuts.append((low, min(high, n_texts)))
        low = high
    return cuts
