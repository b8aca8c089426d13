"""Whether two models can decode with one noise: what coupled texts need."""

from __future__ import annotations

from functools import lru_cache

from whatchanged.model_config import DecodeConfig, ModelConfig, name_sides
from whatchanged.models.loading import describe_decoder
from whatchanged.models.weights import resolve_model

_TOKENIZER = "tokenizer.json"


@lru_cache(maxsize=64)
def why_independent(
    base: ModelConfig, intervention: ModelConfig, decode: DecodeConfig, prompt_format: str
) -> str:
    """Why the two sides cannot decode with shared noise; empty where they can.

    Noise belongs to token ids, so both must give the same id to the same token. And a model
    coupled with itself writes every text twice, which tests nothing.
    """
    if decode.coupling == "off":
        return "the config asks for independent decoding"
    if recorded := [
        name for name, side in (("base", base), ("intervention", intervention)) if side.is_recorded
    ]:
        return f"{name_sides(recorded)} recorded texts, whose random numbers nobody knows"
    if remote := [
        name
        for name, side in (("base", base), ("intervention", intervention))
        if side.is_remote(decode)
    ]:
        return f"{name_sides(remote)} behind an API, which draws its own random numbers"
    one, other = (describe_decoder(side, decode, prompt_format) for side in (base, intervention))
    if one == other:
        return "both sides are the same model, whose coupled texts would be equal"
    if not has_same_tokens(base, intervention):
        return "the tokenizers differ, so their token ids mean different things"
    return ""


def has_same_tokens(base: ModelConfig, intervention: ModelConfig) -> bool:
    """Whether the tokenizers of both models give every token the same id.

    Equal files need no loading. Raises what loading a tokenizer raises.
    """
    folders = [resolve_model(side.model, side.revision).path for side in (base, intervention)]
    files = [folder / _TOKENIZER for folder in folders]
    if all(file.is_file() for file in files):
        first, second = (file.read_bytes() for file in files)
        if first == second:
            return True
    from transformers import AutoTokenizer

    first_ids, second_ids = (
        AutoTokenizer.from_pretrained(folder, trust_remote_code=False).get_vocab()
        for folder in folders
    )
    return bool(first_ids == second_ids)
