"""What to decode: text keys, requests and fixed chunks. Decoding itself is a model's business.

A text is named by its model, its settings and the key of its noise, which prompt, seed, stream and
index fix. So the same request is the same text wherever it is decoded, and a stored text is never
asked for twice. Two models that decode from one stream share their noise: their texts are pairs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import pandas as pd

from whatchanged.keys import content_key
from whatchanged.records import Chunk, Completion, DecodeRequest, Prompt, Purpose, Side

TEXTUAL = ("text_key", "prompt_key", "prompt", "text", "finish", "reason", "decoded_by")

# Whose noise. A coupled intervention decodes with the base's.
Stream = Literal["base", "intervention", "null"]


def plan_requests(
    prompts: Sequence[Prompt],
    counts: Mapping[str, int],
    already: Mapping[str, int],
    *,
    decoder_identity: str,
    seed: int,
    stream: Stream,
    purpose: Purpose,
    available: Mapping[str, int] | None = None,
) -> list[DecodeRequest]:
    """`counts[prompt_key]` new requests per prompt, numbered on from `already[prompt_key]`, but of
    recorded texts none beyond the `available` ones.

    Prompts that are absent from `counts` get none. Different streams are independent, and the
    screen's texts are so of all others.
    """
    streams = (stream, "screen") if purpose == "screen" else (stream,)

    def new_places(key: str) -> range:
        start = already.get(key, 0)
        end = start + counts.get(key, 0)
        return range(start, end if available is None else min(end, available.get(key, 0)))

    return [
        DecodeRequest(
            text_key=content_key("text/2", decoder_identity, noise_key),
            prompt_key=prompt.key,
            prompt=prompt.prompt,
            index=index,
            noise_key=noise_key,
            stream=stream,
        )
        for prompt in prompts
        for index in new_places(prompt.key)
        for noise_key in (content_key("noise/1", seed, streams, prompt.prompt, index),)
    ]


def plan_chunks(
    requests: Sequence[DecodeRequest],
    *,
    side: Side,
    split: Purpose,
    round_index: int,
    chunk_texts: int,
) -> list[Chunk]:
    """The requests as consecutive chunks of nearly equal size, at most `chunk_texts` each.

    A prompt's samples stay together where they fit, so that they share one prefill. No requests
    give no chunks.
    """
    if not requests:
        return []
    n_chunks = math.ceil(len(requests) / chunk_texts)
    size = math.ceil(len(requests) / n_chunks)
    parts = [tuple(requests[start : start + size]) for start in range(0, len(requests), size)]
    return [
        Chunk(
            key=content_key(
                "decode/3", side, split, round_index, [request.text_key for request in part]
            ),
            side=side,
            split=split,
            round=round_index,
            requests=part,
        )
        for part in parts
    ]


def take_known(
    requests: Sequence[DecodeRequest], known: pd.DataFrame, *, side: Side, round_index: int
) -> tuple[pd.DataFrame, list[DecodeRequest]]:
    """The rows of `known` texts that are asked for, in the order of the requests and now of this
    side and round, and the requests that are left."""
    rows = known.drop_duplicates("text_key").set_index("text_key", drop=False)
    found = [request.text_key for request in requests if request.text_key in rows.index]
    taken = rows.loc[found].assign(side=side, round=round_index).reset_index(drop=True)
    names = set(found)
    return taken, [request for request in requests if request.text_key not in names]


def tabulate_texts(chunk: Chunk, completions: Sequence[Completion]) -> pd.DataFrame:
    """One row per request of the chunk: the texts table, with the reason of each failed text.

    The columns that later stages fill (label, margin, log-probabilities) are added when the run
    folder is written.
    """
    return pd.DataFrame(
        {
            "text_key": [request.text_key for request in chunk.requests],
            "prompt_key": [request.prompt_key for request in chunk.requests],
            "sample": [request.index for request in chunk.requests],
            "side": chunk.side,
            "split": chunk.split,
            "round": chunk.round,
            "prompt": [request.prompt for request in chunk.requests],
            "text": [completion.text for completion in completions],
            "n_tokens": [completion.n_tokens for completion in completions],
            "finish": [completion.finish for completion in completions],
            "reason": [completion.reason for completion in completions],
            "token_ids": [np.array(c.token_ids, dtype=np.int32) for c in completions],
            "decoded_by": [completion.decoded_by for completion in completions],
        }
    )


def empty_texts() -> pd.DataFrame:
    """The texts table without a row, its columns of the usual types."""
    table = tabulate_texts(Chunk("", "base", "discovery", 0, ()), ())
    return table.astype(dict.fromkeys(TEXTUAL, str) | {"sample": int, "n_tokens": int})
