"""Where each embedding of a namespace is: sorted key prefixes in memory, searched all at once.

Also the checksum of a row, which ties its floats to its key.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from whatchanged.keys import content_key

Words = NDArray[np.uint64]

KEY_BYTES = 32
_MAX_STEPS = 24


def key_words(keys: Sequence[str] | Sequence[bytes]) -> Words:
    """Keys (64 hex characters or 32 bytes each) as `(n_keys, 4)` words.

    Raises ValueError where a key has another length.
    """
    if not keys:
        return np.empty((0, 4), np.uint64)
    data = _joined(keys)
    if len(data) != KEY_BYTES * len(keys):
        raise ValueError("an embedding key is 64 hex characters or 32 bytes")
    return np.frombuffer(data, np.uint64).reshape(-1, 4)


def _joined(keys: Sequence[Any]) -> bytes:
    # All are of the first one's type: asking each of them would cost as much as finding it.
    return bytes.fromhex("".join(keys)) if isinstance(keys[0], str) else b"".join(keys)


def key_sums(words: Words) -> Words:
    """One checksum per key `(n_keys,)`, added to its row's so that a row belongs to one key."""
    sums: Words = np.einsum("ij,j->i", words, _weights(4))
    return sums


def row_sums(rows: NDArray[np.float32]) -> Words:
    """One checksum per row `(n_rows,)` of float32.

    A sum of 64-bit words with odd random weights, modulo 2^64: any one changed word changes it.
    The words' highest bits, two of which would cancel one another, count once more under weights
    of their own. Larger damage is missed with a chance of 2^-32 or less. Several times faster than
    a CRC of each row in a Python loop.
    """
    n_rows, d_embed = rows.shape
    if d_embed % 2:
        rows = np.concatenate([rows, np.zeros((n_rows, 1), np.float32)], axis=1)
    values = np.ascontiguousarray(rows).view(np.uint64)
    n_words = values.shape[1]
    highest = np.zeros((n_rows, -(-n_words // 8) * 8), np.bool_)
    np.less(values.view(np.int64), 0, out=highest[:, :n_words])
    eights = highest.view(np.uint64)
    weights = _weights(n_words + eights.shape[1])
    sums: Words = np.einsum("ij,j->i", values, weights[:n_words])
    sums += np.einsum("ij,j->i", eights, weights[n_words:])
    return sums


@cache
def _weights(n_weights: int) -> Words:
    blocks = (bytes.fromhex(content_key("row-weights/1", i)) for i in range(n_weights // 4 + 1))
    return np.frombuffer(b"".join(blocks), np.uint64)[:n_weights] | np.uint64(1)


class Entries(NamedTuple):
    """Of each stored row: its key's first word, its checksum (key and row), and its place,
    `block << 32 | row`."""

    prefixes: Words
    sums: Words
    places: NDArray[np.int64]

    def take(self, order: NDArray[np.intp]) -> Entries:
        """The entries at these positions, in this order."""
        return Entries(self.prefixes[order], self.sums[order], self.places[order])


class Found(NamedTuple):
    """Of each row that was found: its position in the question, its own checksum (without the
    key's part), its place."""

    positions: NDArray[np.intp]
    sums: Words
    places: NDArray[np.int64]

    def part(self, start: int, stop: int) -> Found:
        """The rows from `start` to `stop`."""
        return Found(self.positions[start:stop], self.sums[start:stop], self.places[start:stop])


class _Run:
    """Entries sorted by their first word, with a table of where each span of words begins.

    Keys are digests, so their first words are evenly spread: the table leads to within a few steps
    of the place, some four times faster than a binary search. Any other keys are found too.
    """

    def __init__(self, parts: Sequence[Entries]) -> None:
        entries = Entries(*(np.concatenate(column) for column in zip(*parts, strict=True)))
        self.entries = entries.take(np.argsort(entries.prefixes, kind="stable"))
        n_bits = min(max(1, len(self).bit_length()), 32)
        self._shift = np.uint64(64 - n_bits)
        spans = np.arange(1 << n_bits, dtype=np.uint64) << self._shift
        self._starts = np.searchsorted(self.entries.prefixes, spans)

    def __len__(self) -> int:
        return len(self.entries.prefixes)

    def find(self, prefixes: Words) -> tuple[NDArray[np.bool_], NDArray[np.intp]]:
        """Which first words are here, and where (of equal ones the first)."""
        last = len(self) - 1
        stored = self.entries.prefixes
        at = np.minimum(self._starts[prefixes >> self._shift], last)
        for _ in range(_MAX_STEPS):
            behind = (stored[at] < prefixes) & (at < last)
            if not behind.any():
                break
            at += behind
        else:
            at = np.minimum(np.searchsorted(stored, prefixes), last)
        hit = stored[at] == prefixes
        return hit, at[hit]


@dataclass
class EmbeddingIndex:
    """The entries of one namespace, found by the first 64 bits of a key; the checksum then says
    whether the row belongs to all of it.

    Where a key occurs twice, the newer entry counts: a row is only ever stored again because the
    older one was damaged. Two keys with equal first words (chance 1e-7 among two million) hide one
    another, and the hidden one counts as damaged.
    """

    last_block: int = -1
    _runs: list[_Run] = field(default_factory=list)

    def add(self, parts: Sequence[Entries]) -> None:
        """Remember entries, given from older to newer blocks, all newer than those known."""
        if not sum(len(part.sums) for part in parts):
            return
        self._runs.append(_Run(parts[::-1]))
        # Runs at least double in length towards the old end, so that adding n entries in many
        # small steps sorts each of them log(n) times and a search visits log(n) runs.
        while len(self._runs) > 1 and len(self._runs[-2]) < 2 * len(self._runs[-1]):
            newer, older = self._runs.pop(), self._runs.pop()
            self._runs.append(_Run([newer.entries, older.entries]))

    def find(self, words: Words) -> Found:
        """Where the rows of the asked keys `(n, 4)` are, in the order of their places."""
        asked = np.arange(len(words))
        prefixes = np.ascontiguousarray(words[:, 0])
        found = [Found(np.empty(0, np.intp), np.empty(0, np.uint64), np.empty(0, np.int64))]
        for run in reversed(self._runs):
            hit, at = run.find(prefixes)
            found.append(Found(asked[hit], run.entries.sums[at], run.entries.places[at]))
            asked, prefixes = asked[~hit], prefixes[~hit]
        positions, sums, places = (np.concatenate(column) for column in zip(*found, strict=True))
        order = np.argsort(places)
        positions = positions[order]
        return Found(positions, sums[order] - key_sums(words[positions]), places[order])
