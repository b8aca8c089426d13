"""This project's noise inside vLLM: loaded by name in the processes of its engine, and only there.

vLLM's own random numbers follow a request's seed and its model's vocabulary; ours follow text, step
and token (`sampling`), so that a text is that of the other engines, up to rounding, and the texts
of two models are coupled. The engine is asked for the most likely token of what it is given here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from vllm.v1.sample.logits_processor import LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates

from whatchanged.models.sampling import TokenPicker, draw_noise_keys
from whatchanged.models.vllm_decoder import NOISE_KEY, TEMPERATURE, TOP_P


class NoiseRace(LogitsProcessor):  # type: ignore[misc]  # vllm has no types here
    """Turns the logits of requests that name a noise key into races; others are left alone.

    Per row of the batch it keeps the noise of all steps, `(n_steps, 2)`, and the list in which the
    engine collects the tokens.
    """

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        self._device = device
        self._n_rows = int(vllm_config.scheduler_config.max_num_seqs)
        self._texts: dict[int, tuple[Any, list[int]]] = {}
        self._settings = 1.0, 1.0
        self._picker: TokenPicker | None = None

    def is_argmax_invariant(self) -> bool:
        """No: the most likely token is the one that is picked."""
        return False

    def update_state(self, batch_update: Any) -> None:
        """Follow the rows that came, went and moved."""
        process_dict_updates(self._texts, batch_update, self._enter)

    def _enter(self, params: Any, _prompt: Any, tokens: list[int]) -> tuple[Any, list[int]] | None:
        asked = params.extra_args or {}
        if NOISE_KEY not in asked:
            return None
        settings = asked[TEMPERATURE], asked[TOP_P]
        if settings != self._settings:
            self._settings, self._picker = settings, None
        return draw_noise_keys([asked[NOISE_KEY]], params.max_tokens)[0], tokens

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """The logits `(n_rows, n_vocab)`, in place."""
        if not self._texts:
            return logits
        if self._picker is None:
            temperature, top_p = self._settings
            self._picker = TokenPicker(
                self._n_rows, logits.shape[1], self._device, temperature=temperature, top_p=top_p
            )
        rows = torch.tensor(list(self._texts), device=self._device)
        # A row that has drawn all of its tokens may be asked once more before it leaves.
        noise = np.stack(
            [keys[min(len(done), len(keys) - 1)] for keys, done in self._texts.values()]
        )
        race, _ = self._picker.race(logits[rows], torch.from_numpy(noise).to(self._device))
        logits[rows] = -race
        return logits
