"""The parts that hold texts: shards of rows, and the index that finds a row by its key."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from whatchanged.dashboard.columns import encode_part
from whatchanged.dashboard.rows import Rows, key_bytes

SIDES = ("base", "intervention")
SPLITS = ("discovery", "validation")
FINISHES = ("stop", "length", "failed")
UNSCORED = 255
# Differences of log-probabilities travel as thousandths of a nat.
NATS_SCALE = 1000
MAX_NATS = 32.0

Split = Callable[[str, Sequence[int]], list[str] | None]


def encode_shard(
    rows: Rows,
    shard: int,
    *,
    prompts: Mapping[str, int],
    judgements: Judgements,
    split: Split | None,
    kept: NDArray[np.bool_],
) -> bytes:
    """The texts of one shard; those that are not `kept` (by row) have figures but no words.

    `prompts` numbers the prompts by key. `split` cuts a text at its tokens; without it, differences
    per token travel without the words that they belong to (`has_pieces` 0).
    """
    start, end = int(rows.starts[shard]), int(rows.starts[shard + 1])
    texts = rows.texts.iloc[start:end]
    keys, first, local = np.unique(
        texts["prompt_key"].to_numpy(dtype=object), return_index=True, return_inverse=True
    )
    known = [
        {"number": prompts.get(str(key)), "text": texts["prompt"].iloc[int(i)]}
        for key, i in zip(keys, first, strict=True)
    ]
    columns = {
        "key": key_bytes(list(texts["text_key"])),
        "side": _codes(texts["side"], SIDES),
        "split": _codes(texts["split"], SPLITS),
        "round": texts["round"].to_numpy(dtype=np.uint16),
        "prompt": local.astype(np.uint16),
        "n_tokens": texts["n_tokens"].to_numpy(dtype=np.uint32),
        "finish": _codes(texts["finish"], FINISHES),
        "label": texts["label"].to_numpy(dtype=np.int32),
        "margin": texts["margin"].to_numpy(dtype=np.float32),
        "logprob_base": texts["logprob_base"].to_numpy(dtype=np.float32),
        "logprob_intervention": texts["logprob_intervention"].to_numpy(dtype=np.float32),
    }
    shown = kept[start:end]
    columns |= _token_columns(texts, shown, split)
    columns |= judgements.columns(start, end)
    words = [text if show else None for text, show in zip(texts["text"], shown, strict=True)]
    values = {"start": start, "texts": words, "prompts": known}
    return encode_part(values, columns)


class Judgements:
    """Which hypotheses a text was judged for, with the final score of each: by row."""

    def __init__(self, row: NDArray[np.int64], finding: NDArray[np.int64],
                 score: NDArray[np.float64]) -> None:  # fmt: skip
        order = np.lexsort((finding, row))
        self._row, self._finding = row[order], finding[order]
        self._score = pack_scores(score[order])

    def columns(self, start: int, end: int) -> dict[str, NDArray[Any]]:
        """The columns of rows `[start, end)`; `judged_start (n + 1,)` cuts the other two."""
        cuts = np.searchsorted(self._row, np.arange(start, end + 1))
        inside = slice(int(cuts[0]), int(cuts[-1]))
        return {
            "judged_start": (cuts - cuts[0]).astype(np.uint32),
            "judged_finding": self._finding[inside].astype(np.uint16),
            "judged_score": self._score[inside],
        }


def pack_scores(scores: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Scores in [0, 1] in steps of 1/254, and `UNSCORED` for none.

    Rounds away from one half: no score changes its side of the threshold.
    """
    scaled = scores * 254
    rounded = np.where(scores >= 0.5, np.ceil(scaled - 1e-9), np.floor(scaled + 1e-9))
    return np.where(np.isnan(scores), UNSCORED, np.clip(rounded, 0, 254)).astype(np.uint8)


def encode_key_bucket(rows: Rows, bucket: int) -> bytes:
    """The keys of one bucket with their rows."""
    found = rows.buckets[bucket]
    keys = rows.texts["text_key"].to_numpy(dtype=object)[found]
    return encode_part({}, {"key": key_bytes(keys.tolist()), "row": found.astype(np.uint32)})


def _codes(column: pd.Series[Any], names: Sequence[str]) -> NDArray[np.uint8]:
    """The place of each value among the names; one past the last for anything else."""
    found = pd.Categorical(column, categories=list(names)).codes
    return np.where(found < 0, len(names), found).astype(np.uint8)


def _token_columns(
    texts: pd.DataFrame, shown: NDArray[np.bool_], split: Split | None
) -> dict[str, NDArray[Any]]:
    """Per token: characters (UTF-16 code units, as pages count) and difference in nats,
    intervention minus base.

    A text without differences, or without its words, has no tokens here. `has_pieces` says whether
    the lengths are known.
    """
    starts, lengths = [0], list[int]()
    nats, has_pieces = list[float](), list[bool]()
    for text, ids, values, show in zip(
        texts["text"], texts["token_ids"], texts["differences"], shown, strict=True
    ):
        # The tables hold base minus intervention; every other difference is the reverse.
        differences = -_numbers(values) if show else np.zeros(0)
        tokens = [] if ids is None or np.ndim(ids) != 1 else [int(i) for i in ids]
        pieces = None
        if split is not None and len(differences) and len(tokens) == len(differences):
            pieces = split(text, tokens)
        has_pieces.append(pieces is not None)
        lengths += [0] * len(differences) if pieces is None else map(count_units, pieces)
        nats += differences.tolist()
        starts.append(len(nats))
    scaled = np.clip(np.array(nats, dtype=np.float64), -MAX_NATS, MAX_NATS) * NATS_SCALE
    return {
        "token_start": np.array(starts, dtype=np.uint32),
        "token_length": np.array(lengths, dtype=np.uint16),
        "token_nats": np.round(np.nan_to_num(scaled)).astype(np.int16),
        "has_pieces": np.array(has_pieces, dtype=np.uint8),
    }


def count_units(text: str) -> int:
    """The length of a text as JavaScript counts it: UTF-16 code units."""
    return len(text) if text.isascii() else len(text.encode("utf-16-le", "surrogatepass")) // 2


def _numbers(values: Any) -> NDArray[np.float64]:
    if values is None or np.ndim(values) != 1:
        return np.zeros(0)
    return np.asarray(values, dtype=np.float64)
