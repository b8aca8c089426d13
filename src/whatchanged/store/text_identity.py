"""Which texts have been stored, so that no key ever stands for two different texts.

Of each text 20 bytes are kept: 128 bits of its key and a checksum of its tokens. New ones go into
a dictionary, which is turned into sorted arrays before it grows large; arrays of like sizes are
merged, so that there are few to search.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from whatchanged.errors import UsageError

_MAX_RECENT = 4096


class _Run(NamedTuple):
    """Identities `(n,)` in ascending order of `high`; `low` completes 128 bits of the key."""

    high: NDArray[np.int64]
    low: NDArray[np.int64]
    check: NDArray[np.uint32]


class SeenTexts:
    """The identities of all texts so far."""

    def __init__(self) -> None:
        self._recent: dict[bytes, int] = {}
        self._runs: list[_Run] = []
        self._new: list[_Run] = []

    def add(self, keys: NDArray[np.uint8], token_ids: NDArray[Any], starts: Sequence[int]) -> None:
        """Remember texts: `keys (n_texts, 32)` bytes, the tokens of text i from `starts[i]` up to
        `starts[i + 1]`. The same text may come again.

        Raises UsageError for a key that was met with other tokens; then nothing is remembered.
        """
        data = np.ascontiguousarray(token_ids, "<u4").data.cast("B")
        checks = [zlib.crc32(data[4 * low : 4 * high]) for low, high in pairwise(starts)]
        names = [row.tobytes() for row in keys[:, :16]]
        found: dict[bytes, int] = {}
        for text, (name, check) in enumerate(zip(names, checks, strict=True)):
            if found.setdefault(name, self._recent.get(name, check)) != check:
                _refuse(keys[text])
        new = _run(names, checks)
        self._refuse_known(new, keys)
        self._recent |= found
        self._new.append(new)
        if len(self._recent) > _MAX_RECENT:
            self._insert(_run(list(self._recent), list(self._recent.values())))
            self._recent = {}

    def take_new(self) -> dict[str, NDArray[Any]]:
        """What was added since the last call, for storing."""
        new, self._new = _join(self._new), []
        return new._asdict()

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Remember what `take_new` gave."""
        self._insert(_Run(**arrays))

    def _refuse_known(self, new: _Run, keys: NDArray[np.uint8]) -> None:
        for known in self._runs:
            places = np.searchsorted(known.high, new.high)
            places[places == len(known.high)] = 0
            # Rare: a text that comes again, or one of 10^19 that only looks like it.
            for text in np.flatnonzero(known.high[places] == new.high).tolist():
                twins = (known.high == new.high[text]) & (known.low == new.low[text])
                if (known.check[twins] != new.check[text]).any():
                    _refuse(keys[text])

    def _insert(self, new: _Run) -> None:
        while self._runs and len(self._runs[-1].high) <= 2 * len(new.high):
            new = _join([self._runs.pop(), new])
        order = np.argsort(new.high, kind="stable")
        self._runs.append(_Run(new.high[order], new.low[order], new.check[order]))


def _run(names: Sequence[bytes], checks: Sequence[int]) -> _Run:
    halves = np.frombuffer(b"".join(names), "<i8").reshape(-1, 2)
    return _Run(halves[:, 0].copy(), halves[:, 1].copy(), np.array(checks, np.uint32))


def _join(runs: Sequence[_Run]) -> _Run:
    if not runs:
        return _run([], [])
    high, low, check = zip(*runs, strict=True)
    return _Run(np.concatenate(high), np.concatenate(low), np.concatenate(check))


def _refuse(key: NDArray[np.uint8]) -> None:
    raise UsageError(
        f"expected one text per key, found the key {key.tobytes().hex()} with other tokens than"
        " before: a key must name the text and everything that its tokens depend on"
    )
