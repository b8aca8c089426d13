"""Search over all texts of a run on the server's side: by words, in one pass over the column."""

from __future__ import annotations

import re
from functools import cached_property
from typing import Any, Literal

import numpy as np

from whatchanged.dashboard.rows import Rows
from whatchanged.dashboard.text_parts import SIDES
from whatchanged.store.codec import escape_text

MAX_HITS = 20_000
_NO_LETTER = r"[^\p{L}\p{N}_]"

As = Literal["words", "whole"]


class TextSearch:
    """The texts of a pack as one column that is searched from end to end: no index to build."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    def find(self, query: str, as_: As, *, is_case_kept: bool) -> dict[str, Any]:
        """The rows of the first `MAX_HITS` texts that hold the query, with what groups them.

        `n` counts them all. An empty query finds nothing.
        """
        found = np.flatnonzero(self._mask(query, as_, is_case_kept)) if query else np.zeros(0, int)
        shown = found[:MAX_HITS]
        texts = self._rows.texts.iloc[shown]
        return {
            "n": len(found),
            "row": shown.tolist(),
            "side": (texts["side"] == SIDES[1]).astype(int).tolist(),
            "label": texts["label"].astype(int).tolist(),
            "split": (texts["split"] == "validation").astype(int).tolist(),
        }

    def _mask(self, query: str, as_: As, is_case_kept: bool) -> np.ndarray[Any, Any]:
        import pyarrow.compute as pc

        wanted = escape_text(query)
        if as_ == "whole":
            pattern = f"(?:^|{_NO_LETTER}){re.escape(wanted)}(?:$|{_NO_LETTER})"
            mask = pc.match_substring_regex(self._column, pattern, ignore_case=not is_case_kept)
        else:
            mask = pc.match_substring(self._column, wanted, ignore_case=not is_case_kept)
        return np.asarray(mask.to_numpy(zero_copy_only=False), dtype=bool)

    @cached_property
    def _column(self) -> Any:
        import pyarrow as pa

        return pa.array([escape_text(text) for text in self._rows.texts["text"]], pa.large_string())
