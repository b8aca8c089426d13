"""A small double of what this project uses of vLLM 0.33: the same names, arguments and contracts,
over a model of transformers.

Its scheduler holds three rows, so that requests wait, enter, leave and move within the batch, and
tells the processors of logits as vLLM does: a list of tokens that grows, rows removed, added and
moved. Arguments that vLLM does not know are refused, as there.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum, auto
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

import torch

N_ROWS = 3
started: list[dict[str, Any]] = []


@dataclass(frozen=True)
class SamplingParams:
    max_tokens: int = 16
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    stop_token_ids: list[int] | None = None
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    detokenize: bool = True
    extra_args: dict[str, Any] | None = None


@dataclass(frozen=True)
class Logprob:
    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


class MoveDirectionality(Enum):
    UNIDIRECTIONAL = auto()
    SWAP = auto()


@dataclass(frozen=True)
class BatchUpdate:
    batch_size: int
    removed: Sequence[int]
    added: Sequence[tuple[int, SamplingParams, list[int] | None, list[int]]]
    moved: Sequence[tuple[int, int, MoveDirectionality]]


class LogitsProcessor:
    """The base class of processors; `apply` gets `(n_rows, n_vocab)`."""


def process_dict_updates(entries: dict[int, Any], update: BatchUpdate | None, new: Any) -> bool:
    """State per row, followed through an update: added, removed, moved."""
    if update is None:
        return False
    for index, params, prompt, output in update.added:
        entries.pop(index, None)
        if (state := new(params, prompt, output)) is not None:
            entries[index] = state
    for index in update.removed:
        entries.pop(index, None)
    for one, other, how in update.moved:
        first, second = entries.pop(one, None), entries.pop(other, None)
        if first is not None:
            entries[other] = first
        if second is not None and how is MoveDirectionality.SWAP:
            entries[one] = second
    return True


@dataclass
class Running:
    place: int
    prompt: list[int]
    params: SamplingParams
    output: list[int] = field(default_factory=list)


class LLM:
    """The offline engine, with the arguments that are passed to it here."""

    def __init__(
        self,
        model: str,
        *,
        dtype: str,
        trust_remote_code: bool,
        tensor_parallel_size: int,
        gpu_memory_utilization: float,
        max_model_len: int | None,
        enable_prefix_caching: bool,
        logits_processors: list[str],
        max_logprobs: int,
        logprobs_mode: str,
    ) -> None:
        started.append({key: value for key, value in locals().items() if key != "self"})
        from transformers import AutoModelForCausalLM

        assert not trust_remote_code
        self.model = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
        config = self.model.config
        self._limits = max_logprobs, max_model_len or config.max_position_embeddings
        self.llm_engine = SimpleNamespace(
            model_config=SimpleNamespace(
                max_model_len=self._limits[1],
                dtype=torch.float32,
                hf_config=config,
                get_vocab_size=lambda: config.vocab_size,
            )
        )
        settings = SimpleNamespace(scheduler_config=SimpleNamespace(max_num_seqs=N_ROWS))
        self._processors = []
        for name in logits_processors:
            module, _, kind = name.partition(":")
            processor = getattr(import_module(module), kind)
            assert issubclass(processor, LogitsProcessor)
            self._processors.append(processor(settings, torch.device("cpu"), False))

    def generate(
        self, prompts: list[dict[str, list[int]]], params: Any, *, use_tqdm: bool = True
    ) -> list[Any]:
        """One output per prompt, in the order asked."""
        each = params if isinstance(params, list) else [params] * len(prompts)
        waiting = [
            Running(place, prompt["prompt_token_ids"], one)
            for place, (prompt, one) in enumerate(zip(prompts, each, strict=True))
        ]
        outputs: list[Any] = [None] * len(prompts)
        batch: dict[int, Running] = {}
        with torch.inference_mode():
            left: list[int] = []
            while waiting or batch:
                update = self._change(batch, waiting, left)
                self._step(batch, update)
                left = []
                for row, one in list(batch.items()):
                    if output := self._finished(one):
                        outputs[one.place] = output
                        del batch[row]
                        left.append(row)
        return outputs

    def _change(
        self, batch: dict[int, Running], waiting: list[Running], left: list[int]
    ) -> BatchUpdate | None:
        """Requests enter the rows that others left; then the last rows move into what is free."""
        free = sorted({*left, *range(len(batch) + len(left), N_ROWS)})
        added, moved = [], []
        while waiting and free:
            one, row = waiting.pop(0), free.pop(0)
            assert len(one.prompt) + one.params.max_tokens <= self._limits[1]
            batch[row] = one
            added.append((row, one.params, one.prompt, one.output))
        while free and batch and max(batch) > free[0]:
            last, row = max(batch), free.pop(0)
            batch[row] = batch.pop(last)
            moved.append((last, row, MoveDirectionality.UNIDIRECTIONAL))
        gone = [row for row in left if row not in batch]
        changed = bool(added or gone or moved)
        return BatchUpdate(len(batch), gone, added, moved) if changed else None

    def _step(self, batch: dict[int, Running], update: BatchUpdate | None) -> None:
        rows = [batch[row] for row in sorted(batch)]
        logits = torch.stack([self._logits(one.prompt + one.output)[-1] for one in rows])
        for processor in self._processors:
            processor.update_state(update)
            logits = processor.apply(logits)
        assert all(one.params.temperature == 0 for one in rows), "only greedy here"
        for one, token in zip(rows, logits.argmax(dim=-1).tolist(), strict=True):
            one.output.append(token)

    def _finished(self, one: Running) -> Any:
        ends = {self.model.config.eos_token_id, *(one.params.stop_token_ids or ())}
        is_stopped = one.output[-1] in ends
        if not is_stopped and len(one.output) < one.params.max_tokens:
            return None
        finish = "stop" if is_stopped else "length"
        completion = SimpleNamespace(token_ids=one.output, text="", finish_reason=finish)
        return SimpleNamespace(
            outputs=[completion], prompt_logprobs=self._prompt_logprobs(one), finished=True
        )

    def _prompt_logprobs(self, one: Running) -> list[dict[int, Logprob] | None] | None:
        n = one.params.prompt_logprobs
        if n is None:
            return None
        assert n <= self._limits[0]
        found: list[dict[int, Logprob] | None] = [None]
        rows = torch.log_softmax(self._logits(one.prompt), dim=-1)
        for row, token in zip(rows[:-1], one.prompt[1:], strict=True):
            best = row.topk(n)
            place = {token: Logprob(float(row[token]))}
            place |= {
                i: Logprob(v)
                for i, v in zip(best.indices.tolist(), best.values.tolist(), strict=True)
            }
            found.append(place)
        return found

    def _logits(self, ids: list[int]) -> torch.Tensor:
        logits: torch.Tensor = self.model(input_ids=torch.tensor([ids])).logits[0].float()
        return logits


@contextmanager
def installed() -> Iterator[list[dict[str, Any]]]:
    """This module in the place of vLLM; the arguments of each engine that is started."""
    names = {
        "vllm": {"LLM": LLM, "SamplingParams": SamplingParams, "__version__": "0.33.0+double"},
        "vllm.v1": {},
        "vllm.v1.sample": {},
        "vllm.v1.sample.logits_processor": {"LogitsProcessor": LogitsProcessor},
        "vllm.v1.sample.logits_processor.builtin": {"process_dict_updates": process_dict_updates},
    }
    ours = "whatchanged.models.vllm_noise"
    saved = {name: sys.modules.pop(name, None) for name in (*names, ours)}
    for name, contents in names.items():
        module = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)
        vars(module).update(contents)
        sys.modules[name] = module
    started.clear()
    try:
        yield started
    finally:
        for name, module in saved.items():
            sys.modules.pop(name, None)
            if module is not None:
                sys.modules[name] = module
