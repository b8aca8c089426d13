"""Transformers' continuous batching with this project's noise: a request that ends leaves its place
to the next one, and what a prompt's samples share is cached once, in pages.

The engine picks the most likely token; what it is given for logits is the race of `sampling`, so
that it picks what the static batches pick, up to rounding: texts keep their keys and stay coupled.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from whatchanged.errors import MissingDependencyError
from whatchanged.model_config import DecodeConfig
from whatchanged.models.sampling import TokenPicker, draw_noise_keys

if TYPE_CHECKING:
    import torch

# A page is filled and shared as a whole, and prompts of an audit are short.
_PAGE_TOKENS = 32
# On a CPU, where transformers does not measure the memory that is left.
_CPU_PAGES, _CPU_BATCH_TOKENS = 1024, 1024
_WAIT_S = 1.0


# More at once only grow the working set: each takes 8 bytes per token of the vocabulary for noise.
_MAX_REQUESTS = 256
# Of the memory that is free when the first text is decoded; the other side takes its part too.
_MEMORY_SHARE = 0.4


@dataclass(frozen=True)
class ContinuousBatcher:
    """Draws tokens for up to `n_requests` at once with `model`, which must not run meanwhile."""

    model: Any
    n_requests: int
    n_new: int
    eos_ids: tuple[int, ...]
    temperature: float
    top_p: float

    def sample(
        self, prompts: Sequence[tuple[int, ...]], noise_keys: Sequence[str]
    ) -> Iterator[tuple[list[int], bool]]:
        """Per prompt, in the order asked: its new tokens, with the one that ends it where one does,
        and whether each was drawn from a distribution.

        Raises what ended the engine, where it ended before all texts did.
        """
        for start in range(0, len(prompts), self.n_requests):
            part = slice(start, start + self.n_requests)
            yield from self._sample_part(prompts[part], noise_keys[part])

    def _sample_part(
        self, prompts: Sequence[tuple[int, ...]], noise_keys: Sequence[str]
    ) -> list[tuple[list[int], bool]]:
        places = {f"{place}": place for place in range(len(prompts))}
        self._race.enter(places, noise_keys)
        found: dict[str, Any] = {}
        with self._running() as manager:
            # Prompts that begin alike go in together, so that they find each other's pages.
            for name in sorted(places, key=lambda name: (prompts[places[name]], places[name])):
                manager.add_request(
                    list(prompts[places[name]]),
                    request_id=name,
                    max_new_tokens=self.n_new,
                    eos_token_id=list(self.eos_ids) or None,
                )
            while len(found) < len(places):
                output = manager.get_result(timeout=_WAIT_S)
                if output is not None and output.is_finished():
                    found[output.request_id] = output
                elif output is None and not manager.is_running():
                    raise RuntimeError("transformers' continuous batching ended before its texts")
        if errors := sorted({output.error for output in found.values() if output.error}):
            raise RuntimeError(errors[0])
        is_sound = self._race.are_sound()
        return [(list(found[name].generated_tokens), is_sound[places[name]]) for name in places]

    @contextmanager
    def _running(self) -> Iterator[Any]:
        manager = self._manager
        # On its way out, the engine gives the model its own attention back; on its way in again, it
        # takes it.
        manager.switch_to_cb_friendly_attn(self.model)
        manager.start()
        try:
            yield manager
        finally:
            manager.stop(block=True)

    @cached_property
    def _race(self) -> Any:
        return _noise_race(self)

    @cached_property
    def _manager(self) -> Any:
        """The engine, with our race in place of transformers' own processors."""
        from transformers import GenerationConfig, LogitsProcessorList

        try:
            from transformers.generation.configuration_utils import ContinuousBatchingConfig
            from transformers.generation.continuous_batching.cb_logits_processors import (
                ContinuousBatchingLogitsProcessorList,
            )
        except ImportError:
            raise MissingDependencyError(
                "decode.batching: continuous needs the continuous batching of transformers 5.19 "
                "to 5.23, and the installed version has another: install one of these, or use "
                "static"
            ) from None
        # It tells of every session and of what a GPU would do better.
        logging.getLogger("ContinuousBatchingLogger").setLevel(logging.ERROR)
        is_cpu = self.model.device.type == "cpu"
        manager = self.model.init_continuous_batching(
            generation_config=GenerationConfig(
                do_sample=False, max_new_tokens=self.n_new, eos_token_id=list(self.eos_ids) or -1
            ),
            continuous_batching_config=ContinuousBatchingConfig(
                page_size=_PAGE_TOKENS,
                num_blocks=_CPU_PAGES if is_cpu else None,
                max_batch_tokens=_CPU_BATCH_TOKENS if is_cpu else None,
                max_memory_percent=_MEMORY_SHARE,
                max_requests_per_batch=self.n_requests,
                # The step of a token is counted from those that are there.
                use_async_batching=False,
            ),
        )
        processors = ContinuousBatchingLogitsProcessorList(LogitsProcessorList([self._race]))
        processors.tensors_required = 1
        manager.logit_processor = processors
        return manager


def batcher_for(model: Any, decode: DecodeConfig, eos_ids: tuple[int, ...]) -> ContinuousBatcher:
    """The batcher of a model for these settings."""
    n_requests = min(decode.chunk_texts, _MAX_REQUESTS)
    return ContinuousBatcher(
        model, n_requests, decode.max_new_tokens, eos_ids, decode.temperature, decode.top_p
    )


def _noise_race(batcher: ContinuousBatcher) -> Any:
    """The processor of logits that makes the engine pick our tokens."""
    import torch
    from transformers.generation.continuous_batching.cb_logits_processors import (
        ContinuousBatchingLogitsProcessor,
    )

    class NoiseRace(ContinuousBatchingLogitsProcessor):  # type: ignore[misc]
        """Turns logits into races. Of each row it is told one number: which request's which step.

        The keys of all steps lie in one table, whose last row is for rows that pad a batch.
        """

        supported_kwargs: dict[str, type] = {}  # noqa: RUF012
        ignored_kwargs = ()

        def __init__(self) -> None:
            self.n_new = batcher.n_new
            device, n_rows = batcher.model.device, batcher.n_requests * batcher.n_new + 1
            self.keys = torch.zeros(n_rows, 2, dtype=torch.int32, device=device)
            self.is_broken = torch.zeros(n_rows, dtype=torch.bool, device=device)
            self.places: dict[str, int] = {}
            n_vocab = batcher.model.get_output_embeddings().weight.shape[0]
            self.picker = TokenPicker(
                batcher.n_requests, n_vocab, device,
                temperature=batcher.temperature, top_p=batcher.top_p,
            )  # fmt: skip

        def enter(self, places: dict[str, int], noise_keys: Sequence[str]) -> None:
            """Whose steps follow, by the names of requests."""
            drawn = torch.from_numpy(draw_noise_keys(noise_keys, self.n_new)).reshape(-1, 2)
            self.keys[: len(drawn)] = drawn.to(self.keys.device)
            self.is_broken.zero_()
            self.places = places

        def are_sound(self) -> list[bool]:
            """Per request, whether every step had a distribution."""
            broken = self.is_broken[:-1].reshape(-1, self.n_new).any(dim=1)
            return [not one for one in broken.tolist()]

        def fill_defaults(self, int32_tensor: torch.Tensor) -> None:
            int32_tensor.fill_(len(self.keys) - 1)

        def prepare_tensor_args(self, requests_with_new_token: list[Any]) -> torch.Tensor:
            rows = [self._row(request.state) for request in requests_with_new_token]
            return torch.tensor(rows, dtype=torch.int32)

        def _row(self, state: Any) -> int:
            # A request that was put out of the batch comes back with its tokens in its prompt.
            n_before = len(state.initial_tokens) - state._true_initial_tokens
            step = len(state.generated_tokens) + (n_before if state._true_initial_tokens else 0)
            return self.places[state.request_id] * self.n_new + min(step, self.n_new - 1)

        def __call__(self, scores: torch.Tensor, tensor_arg: torch.Tensor) -> torch.Tensor:
            rows = tensor_arg[: scores.size(0)].long()
            race, has_distribution = self.picker.race(scores, self.keys[rows])
            self.is_broken[rows] |= ~has_distribution
            return -race

    return NoiseRace()
