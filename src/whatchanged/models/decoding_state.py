"""A batch of texts while a causal language model continues them: cache, positions, padding."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@dataclass
class DecodingState:
    """What the model needs to continue a batch. `positions` `(n_rows, 1)` are those of the next
    tokens; `mask` `(n_rows, n_prompt_tokens + n_new)` is None where no prompt is padded."""

    forward: Callable[..., torch.Tensor]
    cache: Any
    positions: torch.Tensor
    mask: torch.Tensor | None
    n_seen: int

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """Next-token logits `(n_rows, n_vocab)` after one more token per row."""
        self.n_seen += 1
        mask = None if self.mask is None else self.mask[:, : self.n_seen]
        logits = self.forward(tokens[:, None], mask, self.positions, self.cache)
        self.positions = self.positions + 1
        return logits

    def keep(self, rows: torch.Tensor) -> None:
        """Take these rows of the batch, `(n_kept,)`, in this order; a row may be taken twice."""
        self.cache.reorder_cache(rows)
        self.positions = self.positions[rows]
        if self.mask is not None:
            self.mask = self.mask[rows]


def prefill(
    model: Any, prompts: Sequence[tuple[int, ...]], n_new: int
) -> tuple[DecodingState, torch.Tensor]:
    """The state after the prompts, and the logits `(n_rows, n_vocab)` of each row's first token.

    Shorter prompts are padded on the left. Equal prompts must be neighbours: each run of them
    goes through the model once.
    """
    import torch
    from transformers import DynamicCache

    runs = [(ids, len(list(run))) for ids, run in groupby(prompts)]
    width = max(len(ids) for ids, _ in runs)
    device = model.device
    tokens = torch.tensor([[0] * (width - len(ids)) + list(ids) for ids, _ in runs], device=device)
    starts = torch.tensor([[width - len(ids)] for ids, _ in runs], device=device)
    positions = (torch.arange(width, device=device)[None] - starts).clamp_(min=0)
    mask = None
    if min(len(ids) for ids, _ in runs) < width:
        mask = (torch.arange(width + n_new, device=device)[None] >= starts).long()
    state = DecodingState(
        forward_pass(model), DynamicCache(config=model.config), positions[:, -1:] + 1, mask, width
    )
    seen = None if mask is None else mask[:, :width]
    logits = state.forward(tokens, seen, positions, state.cache)
    if len(runs) < len(prompts):
        rows = torch.repeat_interleave(torch.tensor([n for _, n in runs], device=device))
        state.keep(rows)
        logits = logits[rows]
    return state, logits


def forward_pass(model: Any) -> Callable[..., torch.Tensor]:
    """The model as a function of tokens, mask, positions and cache: logits of the last position,
    `(n_rows, n_vocab)`. It passes only the arguments that this architecture knows."""
    known = inspect.signature(model.forward).parameters
    has_positions = "position_ids" in known
    options: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in known else {}

    def forward(
        tokens: torch.Tensor, mask: torch.Tensor | None, positions: torch.Tensor, cache: Any
    ) -> torch.Tensor:
        placed = {"position_ids": positions} if has_positions else {}
        output = model(
            input_ids=tokens,
            attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
            **placed,
            **options,
        )
        logits: torch.Tensor = output.logits[:, -1]
        return logits

    return forward
