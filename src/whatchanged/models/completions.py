"""From the tokens that an engine drew to the texts that they write."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from whatchanged.records import Completion, Finish

NO_DISTRIBUTION = "the model gave NaN or infinite logits"


def write_completions(
    tokenizer: Any,
    rows: Sequence[Sequence[int]],
    is_sound: Sequence[bool],
    eos_ids: Sequence[int],
    decoded_by: str,
) -> list[Completion]:
    """One completion per row of tokens. What stands after the first token that ends a text means
    nothing; a row that lost its distribution on the way has failed."""
    eos = set(eos_ids)
    ends = [next((i for i, token in enumerate(row) if token in eos), len(row)) for row in rows]
    texts = tokenizer.batch_decode(
        [list(row[:end]) for row, end in zip(rows, ends, strict=True)],
        skip_special_tokens=True,
        clean_up_tokenization_spaces=False,
    )
    return [
        _completion(text, row, end, decoded_by) if sound else failed(NO_DISTRIBUTION)
        for text, row, end, sound in zip(texts, rows, ends, is_sound, strict=True)
    ]


def end_ids(*named_by: Any) -> tuple[int, ...]:
    """Every token that ends a text, whichever of these names it (`eos_token_id` of a generation
    config, a model's config, a tokenizer); a model may name none."""
    named = [getattr(one, "eos_token_id", None) for one in named_by]
    ids = {i for entry in named for i in (entry if isinstance(entry, list) else [entry])}
    return tuple(sorted(i for i in ids if i is not None))


def failed(reason: str) -> Completion:
    """A text that could not be decoded, and why."""
    return Completion("", 0, "failed", reason)


def _completion(text: str, row: Sequence[int], end: int, decoded_by: str) -> Completion:
    finish: Finish = "stop" if end < len(row) else "length"
    return Completion(text, end, finish, token_ids=tuple(row[: end + 1]), decoded_by=decoded_by)
