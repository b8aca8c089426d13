"""Decode with vLLM's offline engine: its scheduler and paged cache, this project's noise.

One engine per model. Several GPUs serve one engine (`tensor_parallel_size`), or
one engine each: chunks are independent, so workers (`run.runner: ray`) are what other engines call
data parallel; vLLM refuses that within one process.
"""

from __future__ import annotations

import importlib.util
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from whatchanged.config import DecodeConfig, ModelConfig
from whatchanged.errors import InputError, MissingDependencyError
from whatchanged.models.completions import end_ids, failed, write_completions
from whatchanged.models.device import choose_device, name_device
from whatchanged.models.prompt_encoding import PromptEncoder, PromptFormat, prompt_encoder
from whatchanged.models.weights import resolve_model
from whatchanged.records import Completion, DecodeRequest

# How many of the most likely tokens the divergence is made of: vLLM gives them one by one.
N_LOGPROBS = 20
# What a request's `extra_args` hold for our noise, which the engine loads by its name.
NOISE_KEY, TEMPERATURE, TOP_P = "noise_key", "temperature", "top_p"
_NOISE = "whatchanged.models.vllm_noise:NoiseRace"
# Engines of one process share their distributed state, so each has a process of its own; and its
# batches are run by the runner that takes processors of logits as `vllm_noise` is one.
_ENVIRONMENT = {"VLLM_ENABLE_V1_MULTIPROCESSING": "1", "VLLM_USE_V2_MODEL_RUNNER": "0"}


@dataclass
class VllmDecoder:
    """A model in a vLLM engine as a `Decoder`. Build it with `load_decoder`."""

    engine: Any
    tokenizer: Any
    encoder: PromptEncoder
    config: DecodeConfig
    eos_ids: tuple[int, ...]
    decoded_by: str = ""
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def decode(self, requests: Sequence[DecodeRequest]) -> list[Completion]:
        """One completion per request, in the order asked; a prompt that cannot be read gives one
        with finish "failed" and the reason."""
        distinct = list(dict.fromkeys(request.prompt for request in requests))
        encoded = dict(zip(distinct, self.encoder.encode(distinct), strict=True))
        readable = [request for request in requests if not encoded[request.prompt].problem]
        drawn = self._draw(readable, [encoded[request.prompt].ids for request in readable])
        texts = iter(
            write_completions(
                self.tokenizer, drawn, [True] * len(drawn), self.eos_ids, self.decoded_by
            )
        )
        return [
            failed(encoded[request.prompt].problem)
            if encoded[request.prompt].problem
            else next(texts)
            for request in requests
        ]

    def logprobs(self, prompts: Sequence[tuple[int, ...]]) -> list[list[dict[int, float]]]:
        """Per row of tokens and place in it, from the second on: the log-probabilities, in nats and
        at temperature 1, of the token that stands there and of the most likely ones."""
        params = self._params(max_tokens=1, temperature=0.0, prompt_logprobs=N_LOGPROBS)
        return [
            [{token: found.logprob for token, found in place.items()} for place in places[1:]]
            for places in (output.prompt_logprobs for output in self._generate(prompts, params))
        ]

    def _draw(
        self, requests: Sequence[DecodeRequest], prompts: Sequence[tuple[int, ...]]
    ) -> list[list[int]]:
        settings = {TEMPERATURE: self.config.temperature, TOP_P: self.config.top_p}
        params = [
            self._params(
                max_tokens=self.config.max_new_tokens,
                # The largest of what our race makes of the logits.
                temperature=0.0,
                stop_token_ids=list(self.eos_ids),
                extra_args={NOISE_KEY: request.noise_key, **settings},
            )
            for request in requests
        ]
        return [list(output.outputs[0].token_ids) for output in self._generate(prompts, params)]

    def _params(self, **settings: Any) -> Any:
        from vllm import SamplingParams

        return SamplingParams(detokenize=False, **settings)

    def _generate(self, prompts: Sequence[tuple[int, ...]], params: Any) -> list[Any]:
        if not prompts:
            return []
        rows = [{"prompt_token_ids": list(ids)} for ids in prompts]
        with self._lock:
            return list(self.engine.generate(rows, params, use_tqdm=False))


def check_installed() -> None:
    """Nothing, where vLLM can be imported; else MissingDependencyError."""
    if importlib.util.find_spec("vllm") is None:
        raise MissingDependencyError(
            "decode.engine: vllm needs the package vllm, found none: pip install vllm in an "
            "environment with the CUDA that it asks for, or set decode.engine to transformers"
        )


def load_decoder(
    model: ModelConfig, decode: DecodeConfig, device: str, prompt_format: PromptFormat
) -> VllmDecoder:
    """The decoder that a config describes, its engine started.

    Raises what `resolve_model` and `prompt_encoder` raise, MissingDependencyError without vLLM, and
    InputError where it does not start with this model.
    """
    check_installed()
    resolved = resolve_model(model.model, model.revision)
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from transformers import AutoTokenizer
    from vllm import LLM

    own = decode.vllm
    try:
        tokenizer = AutoTokenizer.from_pretrained(resolved.path, trust_remote_code=False)
        engine = LLM(
            model=str(resolved.path),
            dtype=_own_dtype(resolved.path) if model.dtype == "auto" else model.dtype,
            trust_remote_code=False,
            tensor_parallel_size=own.tensor_parallel_size,
            gpu_memory_utilization=own.gpu_memory_utilization,
            max_model_len=own.max_model_len,
            enable_prefix_caching=True,
            logits_processors=[_NOISE],
            max_logprobs=N_LOGPROBS,
            # Of the weights, before the temperature: what two models are compared by.
            logprobs_mode="raw_logprobs",
        )
    except Exception as error:  # of many types, from configuration, weights and the device alike
        first_line = (str(error).splitlines() or [""])[0]
        raise InputError(
            f"expected vLLM to start with {model.model!r}, found {type(error).__name__}: "
            f"{first_line}: check the model and decode.vllm"
        ) from error
    config = engine.llm_engine.model_config
    encoder = prompt_encoder(
        tokenizer,
        prompt_format,
        model.system_prompt,
        max_tokens=config.max_model_len - decode.max_new_tokens,
        n_vocab=config.get_vocab_size(),
    )
    ends = end_ids(_generation_config(resolved.path), config.hf_config, tokenizer)
    return VllmDecoder(engine, tokenizer, encoder, decode, ends, _describe_engine(config, device))


def _own_dtype(folder: Path) -> str:
    """The checkpoint's own precision, as in the other engine: vLLM's `auto` would take 16 bits in
    the place of 32."""
    from transformers import AutoConfig

    dtype = getattr(AutoConfig.from_pretrained(folder, trust_remote_code=False), "dtype", None)
    return "auto" if dtype is None else str(dtype).removeprefix("torch.")


def _generation_config(folder: Path) -> Any:
    from transformers import GenerationConfig

    try:
        return GenerationConfig.from_pretrained(folder)
    except OSError:  # a model may have none
        return None


def _describe_engine(config: Any, device: str) -> str:
    import torch
    import vllm

    versions = f"vllm {vllm.__version__}, torch {torch.__version__}"
    dtype = str(config.dtype).removeprefix("torch.")
    return f"{versions}, {name_device(choose_device(device))}, {dtype}"
