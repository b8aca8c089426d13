"""How often each token id was under a firing unit, in memory that is bounded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

# 16 million counts of 4 bytes; 200 clusters on two sides then have room for 41,942 token ids.
_MAX_CELLS = 2**24
_OTHER = 0
_UNSEEN = -1


class TokenCounts:
    """Counts per token id and group: `counts (n_places, n_groups)`, `token_ids (n_places,)`.

    A token id gets a place when it is first met. Place 0 (id -1) counts the ids that came after the
    table was full: frequent ids are met early, so only rare ones end there. The counts of an id
    that has a place are exact, up to 2^32 - 1.
    """

    def __init__(self, n_groups: int, max_cells: int = _MAX_CELLS) -> None:
        self._max_places = max(2, max_cells // max(1, n_groups))
        self._place_of_id = np.full(0, _UNSEEN, np.int32)
        self._counts = np.zeros((self._max_places, n_groups), np.uint32)
        self.token_ids = np.full(1, -1, np.int64)

    @property
    def counts(self) -> NDArray[np.uint32]:
        """`(n_places, n_groups)`"""
        return self._counts[: len(self.token_ids)]

    def add(
        self,
        token_ids: NDArray[np.integer[Any]],
        rows: NDArray[np.integer[Any]],
        groups: NDArray[np.integer[Any]],
    ) -> None:
        """Count, for each firing, the token of its row: `token_ids (n_rows,)`, the other two
        `(n_firings,)`."""
        cells = self._places(token_ids)[rows] * self._counts.shape[1] + groups
        np.add.at(self._counts.reshape(-1), cells, np.uint32(1))

    def merge(self, later: TokenCounts) -> None:
        """Take in the counts of later texts."""
        places = np.concatenate([[_OTHER], self._places(later.token_ids[1:])])
        np.add.at(self._counts, places, later.counts)

    def most_frequent(self, group: int, n: int) -> list[tuple[int, int]]:
        """Up to `n` token ids with their counts above zero, most frequent first, then by id."""
        counts = self.counts[1:, group]
        ids = self.token_ids[1:]
        order = np.lexsort((ids, -counts.astype(np.int64)))[:n]
        return [(int(ids[i]), int(counts[i])) for i in order if counts[i]]

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The table for storing."""
        return {"token_ids": self.token_ids, "counts": self.counts}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> TokenCounts:
        """The table that `arrays` gave."""
        table = cls(arrays["counts"].shape[1])
        table._places(np.asarray(arrays["token_ids"])[1:])
        table._counts[: len(arrays["counts"])] = arrays["counts"]
        return table

    def _places(self, token_ids: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
        """The place of each id; new ids get one, in the order in which they are met."""
        highest = int(token_ids.max(initial=-1))
        if highest >= len(self._place_of_id):
            grown = np.full(highest + 1 + highest // 2, _UNSEEN, np.int32)
            grown[: len(self._place_of_id)] = self._place_of_id
            self._place_of_id = grown
        places = self._place_of_id[token_ids]
        if places.min(initial=0) == _UNSEEN:
            new, first = np.unique(token_ids[places == _UNSEEN], return_index=True)
            new = new[np.argsort(first)]
            room = self._max_places - len(self.token_ids)
            self._place_of_id[new] = _OTHER
            self._place_of_id[new[:room]] = len(self.token_ids) + np.arange(len(new[:room]))
            self.token_ids = np.concatenate([self.token_ids, new[:room].astype(np.int64)])
            places = self._place_of_id[token_ids]
        found: NDArray[np.int64] = places.astype(np.int64)
        return found
