"""Decode texts with any causal language model of transformers, many prompts and samples at once.

Its own sampling loop instead of `model.generate`, for four reasons. Noise that is a function of
text, step and token makes a text independent of its worker, chunk and batch (up to rounding), and
couples the texts of two models (see `sampling`). One prefill serves all samples of a prompt. Rows
that are finished leave the batch.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from whatchanged.errors import InputError, first_line
from whatchanged.model_config import DecodeConfig, ModelConfig
from whatchanged.models.completions import end_ids, failed, write_completions
from whatchanged.models.continuous_batching import ContinuousBatcher, batcher_for
from whatchanged.models.decoding_state import prefill
from whatchanged.models.device import (
    batch_bytes,
    choose_device,
    is_out_of_memory,
    name_device,
    release_memory,
)
from whatchanged.models.prompt_encoding import PromptEncoder, PromptFormat, prompt_encoder
from whatchanged.models.sampling import TokenPicker, draw_noise_keys
from whatchanged.models.weights import ResolvedModel, resolve_model, without_progress_bars
from whatchanged.records import Completion, DecodeRequest

if TYPE_CHECKING:
    import torch

# More rows than this only grow the working set (measured on two cores with a small model).
_MAX_AUTO_ROWS = {"cpu": 256, "cuda": 1024}
# Reading a count from a GPU makes the host wait, so it is done once in this many steps.
_STEPS_PER_COUNT = {"cpu": 1, "cuda": 8}
# A batch is compacted when this share of its rows is left: copying the cache costs about a step.
_COMPACT_AT = 0.8

_NO_MEMORY = "out of memory, even alone in its batch"


@dataclass(frozen=True, slots=True)
class _Row:
    """A request with its prompt's token ids and its place in the order asked."""

    place: int
    request: DecodeRequest
    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class BatchLimit:
    """How many rows a batch may have, and how many bytes it may take beside the weights."""

    max_rows: int
    max_bytes: int
    bytes_per_token: int
    bytes_per_row: int

    def n_fitting(self, n_tokens: int) -> int:
        """How many rows of `n_tokens` (prompt and new ones) fit; at least one."""
        per_row = n_tokens * self.bytes_per_token + self.bytes_per_row
        return max(1, min(self.max_rows, self.max_bytes // per_row))


@dataclass
class TransformersDecoder:
    """A causal language model as a `Decoder`. Build it with `load_decoder`.

    One call of `decode` runs at a time; further threads wait. With a `batcher`, it fills the
    batches. Without one they are static, and `n_out_of_memory` counts those that did not fit: each
    halves the batch size for good.
    """

    model: Any
    tokenizer: Any
    encoder: PromptEncoder
    config: DecodeConfig
    limit: BatchLimit
    eos_ids: tuple[int, ...]
    decoded_by: str = ""
    batcher: ContinuousBatcher | None = None
    n_out_of_memory: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _max_rows: int | None = None

    def decode(self, requests: Sequence[DecodeRequest]) -> list[Completion]:
        """One completion per request, in the order asked.

        A prompt that is too long for the context, has no tokens, gives no finite logits or does
        not fit into memory alone gives a completion with finish "failed" and the reason.

        The batches depend on the set of requests, not on their order: the same set gives the
        same texts. Another set gives the same text for a key, but where rounding decides.
        """
        with self._lock:
            return self._decode(requests)

    def _decode(self, requests: Sequence[DecodeRequest]) -> list[Completion]:
        distinct = list(dict.fromkeys(request.prompt for request in requests))
        encoded = dict(zip(distinct, self.encoder.encode(distinct), strict=True))
        completions: dict[int, Completion] = {}
        rows: list[_Row] = []
        for place, request in enumerate(requests):
            prompt = encoded[request.prompt]
            if prompt.problem:
                completions[place] = failed(prompt.problem)
            else:
                rows.append(_Row(place, request, prompt.ids))
        if self.batcher is not None:
            drawn = self._decode_continuously(self.batcher, rows)
            completions |= {row.place: text for row, text in zip(rows, drawn, strict=True)}
            rows = []
        # Longest first: a batch that does not fit shows itself at the start.
        rows.sort(key=lambda row: (-len(row.ids), row.ids, row.request.text_key))
        while rows:
            n_rows = self._n_rows(len(rows[0].ids))
            batch = rows[:n_rows]
            texts = self._try_batch(batch)
            if texts is None and len(batch) > 1:
                continue
            rows = rows[len(batch) :]
            for row, text in zip(batch, texts or [failed(_NO_MEMORY)], strict=True):
                completions[row.place] = text
        return [completions[place] for place in range(len(requests))]

    def _decode_continuously(
        self, batcher: ContinuousBatcher, rows: Sequence[_Row]
    ) -> list[Completion]:
        found = list(
            batcher.sample([row.ids for row in rows], [row.request.noise_key for row in rows])
        )
        tokens, is_sound = [row for row, _ in found], [sound for _, sound in found]
        return write_completions(self.tokenizer, tokens, is_sound, self.eos_ids, self.decoded_by)

    def _n_rows(self, n_prompt_tokens: int) -> int:
        n_fitting = self.limit.n_fitting(n_prompt_tokens + self.config.max_new_tokens)
        return n_fitting if self._max_rows is None else min(n_fitting, self._max_rows)

    def _try_batch(self, batch: list[_Row]) -> list[Completion] | None:
        """The batch's completions, or None where it did not fit into memory."""
        try:
            return self._decode_batch(batch)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        self.n_out_of_memory += 1
        self._max_rows = max(1, len(batch) // 2)
        release_memory()
        return None

    def _decode_batch(self, batch: list[_Row]) -> list[Completion]:
        import torch

        with torch.inference_mode():
            tokens, is_broken = self._sample(batch)
        is_sound = (~is_broken).tolist()
        return write_completions(
            self.tokenizer, tokens.tolist(), is_sound, self.eos_ids, self.decoded_by
        )

    def _sample(self, batch: list[_Row]) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens `(n_rows, max_new_tokens)`, meaningless after a row's end-of-text token, and
        which rows lost their distribution `(n_rows,)`."""
        import torch

        device = self.model.device
        n_new = self.config.max_new_tokens
        keys = [row.request.noise_key for row in batch]
        noise_keys = torch.from_numpy(draw_noise_keys(keys, n_new)).to(device)
        eos = torch.tensor(self.eos_ids, device=device, dtype=torch.long)
        state, logits = prefill(self.model, [row.ids for row in batch], n_new)
        picker = TokenPicker(
            len(batch),
            logits.shape[-1],
            device,
            temperature=self.config.temperature,
            top_p=self.config.top_p,
        )
        tokens = torch.zeros(len(batch), n_new, dtype=torch.long, device=device)
        is_broken = torch.zeros(len(batch), dtype=torch.bool, device=device)
        is_alive = torch.ones(len(batch), dtype=torch.bool, device=device)
        rows = torch.arange(len(batch), device=device)
        steps_per_count = _STEPS_PER_COUNT.get(device.type, 8)
        for step in range(n_new):
            picked, is_sound = picker.pick(logits, noise_keys[rows, step])
            tokens[rows, step] = picked
            is_broken[rows] |= ~is_sound & is_alive
            is_alive &= is_sound & ~torch.isin(picked, eos)
            if step + 1 == n_new:
                break
            if step % steps_per_count == 0:
                n_alive = int(is_alive.sum())
                if n_alive == 0:
                    break
                if n_alive <= _COMPACT_AT * len(rows):
                    kept = is_alive.nonzero()[:, 0]
                    state.keep(kept)
                    rows, picked, is_alive = rows[kept], picked[kept], is_alive[kept]
            logits = state.step(picked)
        return tokens, is_broken


@dataclass
class LoadedModel:
    """A model in memory with its tokenizer, and the lock of all that run it."""

    network: Any
    tokenizer: Any
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)


def load_model(model: ModelConfig, device: str) -> LoadedModel:
    """The weights that a config names, on the device, with nothing done to them yet.

    `dtype: auto` is float32 on a CPU, where 16-bit arithmetic is slow, and the checkpoint's own
    on a GPU. Raises what `resolve_model` and `choose_device` raise, and InputError for a folder
    that transformers cannot load.
    """
    resolved = resolve_model(model.model, model.revision)
    target = choose_device(device)
    dtype = model.dtype
    if dtype == "auto" and target.type == "cpu":
        dtype = "float32"
    network, tokenizer = _load(resolved, model.model, dtype)
    return LoadedModel(network.to(target).eval(), tokenizer)


def open_decoder(
    loaded: LoadedModel,
    system_prompt: str | None,
    decode: DecodeConfig,
    prompt_format: PromptFormat,
) -> TransformersDecoder:
    """A decoder of a model in memory; any number may share it. Raises what `prompt_encoder`
    raises."""
    network, tokenizer = loaded.network, loaded.tokenizer
    text_config = network.config.get_text_config(decoder=True)
    context = getattr(text_config, "max_position_embeddings", None)
    encoder = prompt_encoder(
        tokenizer,
        prompt_format,
        system_prompt,
        max_tokens=None if context is None else context - decode.max_new_tokens,
        n_vocab=network.get_input_embeddings().weight.shape[0],
    )
    eos_ids = end_ids(getattr(network, "generation_config", None), network.config, tokenizer)
    return TransformersDecoder(
        network,
        tokenizer,
        encoder,
        decode,
        batch_limit(text_config, network.dtype.itemsize, network.device, decode.batch_size),
        eos_ids,
        decoded_by=_describe_engine(network),
        batcher=batcher_for(network, decode, eos_ids) if decode.batching == "continuous" else None,
        _lock=loaded.lock,
    )


def load_decoder(
    model: ModelConfig, decode: DecodeConfig, device: str, prompt_format: PromptFormat
) -> TransformersDecoder:
    """A decoder of the weights that a config names, with nothing done to them. Raises what
    `load_model` and `open_decoder` raise."""
    return open_decoder(load_model(model, device), model.system_prompt, decode, prompt_format)


def _load(resolved: ResolvedModel, name: str, dtype: str) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(resolved.path, trust_remote_code=False)
        with without_progress_bars():
            network = AutoModelForCausalLM.from_pretrained(
                resolved.path, dtype=dtype, trust_remote_code=False, use_safetensors=True
            )
    except (OSError, ValueError, KeyError, ImportError) as error:
        said = first_line(error)
        raise InputError(
            f"expected a causal language model with its tokenizer in {name!r}, and transformers "
            f"could not load it ({type(error).__name__}: {said}): check its files"
        ) from error
    return network, tokenizer


def _describe_engine(network: Any) -> str:
    """What two runs of one model must share for their texts to agree in every rounding."""
    import torch
    import transformers

    versions = f"transformers {transformers.__version__}, torch {torch.__version__}"
    dtype = str(network.dtype).removeprefix("torch.")
    return f"{versions}, {name_device(network.device)}, {dtype}"


def batch_limit(
    config: Any, bytes_per_value: int, device: torch.device, batch_size: int | str
) -> BatchLimit:
    """The limit for a model's text config on a device; a number as `batch_size` is obeyed.

    Counted per token: keys and values of every layer, and one layer's hidden and MLP
    activations during prefill. Per row: the logits and what sampling makes of them.
    """
    if isinstance(batch_size, int):
        return BatchLimit(batch_size, sys.maxsize, 1, 1)
    n_heads = config.num_attention_heads
    d_head = getattr(config, "head_dim", None) or config.hidden_size // n_heads
    n_kv_heads = getattr(config, "num_key_value_heads", None) or n_heads
    kept = 2 * config.num_hidden_layers * n_kv_heads * d_head
    d_mlp = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    passing = 8 * config.hidden_size + 3 * d_mlp
    return BatchLimit(
        _MAX_AUTO_ROWS.get(device.type, 256),
        batch_bytes(device),
        (kept + passing) * bytes_per_value,
        config.vocab_size * 16,
    )
