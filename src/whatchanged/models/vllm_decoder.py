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

from whatchanged.errors import InputError, MissingDependencyError, first_line
from whatchanged.model_config import DecodeConfig, VllmConfig
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
# batches are run by the runner that takes processors of logits as `vllm_noise` is one. vLLM tells
# its makers of its use, unless it is told not to.
_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "1",
    "VLLM_USE_V2_MODEL_RUNNER": "0",
    "VLLM_NO_USAGE_STATS": "1",
}


@dataclass
class VllmEngine:
    """A model in a running engine; further threads wait for one that uses it."""

    llm: Any
    tokenizer: Any
    eos_ids: tuple[int, ...]
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def config(self) -> Any:
        """What the engine found out about the model."""
        return self.llm.llm_engine.model_config


@dataclass
class VllmDecoder:
    """A model in a vLLM engine as a `Decoder`. Build it with `open_decoder`."""

    engine: VllmEngine
    encoder: PromptEncoder
    config: DecodeConfig
    decoded_by: str = ""

    @property
    def tokenizer(self) -> Any:
        """The model's own."""
        return self.engine.tokenizer

    def decode(self, requests: Sequence[DecodeRequest]) -> list[Completion]:
        """One completion per request, in the order asked; a prompt that cannot be read gives one
        with finish "failed" and the reason."""
        distinct = list(dict.fromkeys(request.prompt for request in requests))
        encoded = dict(zip(distinct, self.encoder.encode(distinct), strict=True))
        readable = [request for request in requests if not encoded[request.prompt].problem]
        drawn = self._draw(readable, [encoded[request.prompt].ids for request in readable])
        texts = iter(
            write_completions(
                self.tokenizer, drawn, [True] * len(drawn), self.engine.eos_ids, self.decoded_by
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
                stop_token_ids=list(self.engine.eos_ids),
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
        with self.engine.lock:
            return list(self.engine.llm.generate(rows, params, use_tqdm=False))


def check_installed() -> None:
    """Nothing, where vLLM can be imported; else MissingDependencyError."""
    if importlib.util.find_spec("vllm") is None:
        raise MissingDependencyError(
            "decode.engine: vllm needs the package vllm, found none: pip install vllm in an "
            "environment with the CUDA that it asks for, or set decode.engine to transformers"
        )


def start_engine(name: str, revision: str | None, dtype: str, own: VllmConfig) -> VllmEngine:
    """An engine with the weights that `name` and `revision` mean.

    Raises what `resolve_model` raises, MissingDependencyError without vLLM, and InputError where it
    does not start with this model.
    """
    check_installed()
    resolved = resolve_model(name, revision)
    for variable, value in _ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    from transformers import AutoTokenizer
    from vllm import LLM

    try:
        tokenizer = AutoTokenizer.from_pretrained(resolved.path, trust_remote_code=False)
        llm = LLM(
            model=str(resolved.path),
            dtype=_own_dtype(resolved.path) if dtype == "auto" else dtype,
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
        said = first_line(error)
        raise InputError(
            f"expected vLLM to start with {name!r}, found {type(error).__name__}: {said}: "
            "check the model and decode.vllm"
        ) from error
    hf_config = llm.llm_engine.model_config.hf_config
    return VllmEngine(
        llm, tokenizer, end_ids(_generation_config(resolved.path), hf_config, tokenizer)
    )


def open_decoder(
    engine: VllmEngine,
    system_prompt: str | None,
    decode: DecodeConfig,
    device: str,
    prompt_format: PromptFormat,
) -> VllmDecoder:
    """A decoder in a running engine. Raises what `prompt_encoder` raises."""
    encoder = prompt_encoder(
        engine.tokenizer,
        prompt_format,
        system_prompt,
        max_tokens=engine.config.max_model_len - decode.max_new_tokens,
        n_vocab=engine.config.get_vocab_size(),
    )
    return VllmDecoder(engine, encoder, decode, _describe_engine(engine.config, device))


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
