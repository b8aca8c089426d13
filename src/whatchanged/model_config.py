"""The models of an audit and how they decode: blocks of a config."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from whatchanged.api_config import ApiConfig
from whatchanged.config_blocks import Block

Auto = Literal["auto"]
# Who can be asked to decode. `openai_compatible` is a model behind an API; the others decode here.
DecodingEngine = Literal["transformers", "vllm", "openai_compatible"]
# Who gives texts: recorded ones are handed out by none of these.
Engine = Literal["transformers", "vllm", "openai_compatible", "recorded"]
REMOTE: DecodingEngine = "openai_compatible"
VLLM: DecodingEngine = "vllm"
RECORDED: Engine = "recorded"


class ModelConfig(Block):
    """One side: a local folder, a hub id or the name of a model behind an API, and what is done to
    it before it decodes.

    `adapter` (a LoRA: a folder or a hub id) is merged into the weights, then the linear layers but
    the head are rounded (`quantization`), and then a vector is added to what a layer puts out
    (`steering`: a safetensors file, see `whatchanged.models.steering`). `system_prompt` stands
    before every prompt: in the chat template, or as plain text without one. `thinking: strip`
    takes what stands between a reasoning model's think markers out of its texts.

    `engine` is the side's own in place of `decode.engine`. A model behind an API has an `endpoint`
    (null: OpenAI's own), a key in the environment variable `key_variable`, at most
    `max_concurrency` calls in flight, and may cost at most `max_usd` within `budget.max_usd`.

    `texts` in place of `model` is a file of texts that were recorded before
    (`whatchanged.recorded`); of a file with a column `side`, the rows whose value is `side` (null:
    the name of the block).
    """

    model: str = ""
    texts: str | None = None
    side: str | None = None
    revision: str | None = None
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    system_prompt: str | None = None
    quantization: Literal["int8", "int4"] | None = None
    adapter: str | None = None
    steering: str | None = None
    thinking: Literal["keep", "strip"] = "keep"
    engine: DecodingEngine | None = None
    endpoint: str | None = None
    key_variable: str | None = None
    max_concurrency: int = Field(32, ge=1)
    max_usd: float | None = Field(None, ge=0)

    @model_validator(mode="after")
    def _is_a_model_or_texts(self) -> Self:
        if self.model and self.texts:
            raise ValueError("expected `model` or `texts`, not both: remove one of them")
        if not self.model and not self.texts:
            raise ValueError(
                "expected `model`, a model to decode with, or `texts`, a file of recorded texts"
            )
        if self.side is not None and not self.texts:
            raise ValueError("`side` chooses rows of recorded `texts`: remove it beside `model`")
        return self

    @property
    def is_recorded(self) -> bool:
        """Whether the side is texts that were recorded before."""
        return self.texts is not None

    def engine_for(self, decode: DecodeConfig) -> Engine:
        """Who gives the texts of this side."""
        return RECORDED if self.is_recorded else self.engine or decode.engine

    def is_remote(self, decode: DecodeConfig) -> bool:
        """Whether the side is a model behind an API."""
        return self.engine_for(decode) == REMOTE


# The keys of a side that only a model behind an API has, and those that need its weights.
API_KEYS = ("endpoint", "key_variable", "max_concurrency", "max_usd")
WEIGHT_KEYS = ("revision", "dtype", "quantization", "adapter", "steering")
# What is done to weights in transformers alone.
CHANGED_KEYS = ("quantization", "adapter", "steering")


class VllmConfig(Block):
    """One engine: over how many GPUs its weights are spread, which share of each GPU's memory it
    takes (both sides have an engine), and the longest prompt with its reply, in tokens (null: the
    model's own limit). None of it changes a key."""

    tensor_parallel_size: int = Field(1, ge=1)
    gpu_memory_utilization: float = Field(0.4, gt=0, le=1)
    max_model_len: int | None = Field(None, ge=1)


class DecodeConfig(Block):
    """How texts are sampled. `coupling: auto` decodes both sides with the same noise where their
    tokens are the same. `batching` (of transformers: a batch as it was put together, or one whose
    places are taken again as texts end) and `batch_size` (of static batches) never change a key."""

    engine: DecodingEngine = "transformers"
    max_new_tokens: int = Field(48, ge=1)
    temperature: float = Field(1.0, gt=0)
    top_p: float = Field(1.0, gt=0, le=1)
    coupling: Literal["auto", "off"] = "auto"
    batching: Literal["static", "continuous"] = "static"
    batch_size: int | Auto = "auto"
    vllm: VllmConfig = VllmConfig()
    chunk_texts: int = Field(500, ge=1)


def check_keys(side: str, model: ModelConfig, decode: DecodeConfig) -> None:
    """Nothing, where the engine of a side can do what its keys ask for; else ValueError."""
    engine = model.engine_for(decode)
    defaults = ModelConfig(model=model.model, texts=model.texts, side=model.side)
    unfit: dict[Engine, tuple[tuple[str, ...], str]] = {
        "transformers": (API_KEYS, f"is for a model behind an API: set `{side}.engine: {REMOTE}`"),
        VLLM: (
            (*API_KEYS, *CHANGED_KEYS),
            f"is nothing that vllm does here: set `{side}.engine` to the engine that does",
        ),
        REMOTE: (
            WEIGHT_KEYS,
            "needs a model whose weights are here, and an API serves its own as they are: choose "
            "another engine",
        ),
        RECORDED: (
            (*API_KEYS, *WEIGHT_KEYS, "system_prompt", "thinking", "engine"),
            "changes how a model decodes, and recorded texts stand",
        ),
    }
    keys, reason = unfit[engine]
    for key in keys:
        if getattr(model, key) != getattr(defaults, key):
            raise ValueError(f"`{side}.{key}` {reason}, or remove the key")


def name_recorded_sides(raw: Any) -> Any:
    """The raw config, in which every side of recorded texts says which rows are its own: those of
    its own name where it says nothing."""
    if not isinstance(raw, Mapping):
        return raw
    named = dict(raw)
    for side in ("base", "intervention"):
        block = named.get(side)
        if isinstance(block, Mapping) and block.get("texts") and block.get("side") is None:
            named[side] = {**block, "side": side}
        elif isinstance(block, ModelConfig) and block.is_recorded and block.side is None:
            named[side] = block.model_copy(update={"side": side})
    return named


def subject_api(model: ModelConfig, decode: DecodeConfig) -> ApiConfig:
    """A side behind an API, as what its calls need."""
    return ApiConfig(
        provider=REMOTE,
        model=model.model,
        endpoint=model.endpoint,
        key_variable=model.key_variable,
        max_tokens=decode.max_new_tokens,
        temperature=decode.temperature,
        max_concurrency=model.max_concurrency,
    )


def name_sides(sides: Iterable[str]) -> str:
    """Some sides as a sentence begins: `the base is`, `the base and the intervention are`."""
    named = [f"the {side}" for side in sides]
    return f"{' and '.join(named)} {'is' if len(named) == 1 else 'are'}"
