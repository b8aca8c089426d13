"""SAEs with random weights, made on the spot."""

from __future__ import annotations

from typing import Any

import torch

from whatchanged.models.saes import Architecture, Sae, SaeSettings


def make_sae(
    architecture: Architecture = "standard",
    *,
    name: str = "sae",
    d_in: int = 96,
    d_sae: int = 40,
    hook_name: str = "blocks.1.hook_resid_post",
    seed: int = 0,
    **settings: Any,
) -> Sae:
    """An SAE whose features fire on a fair share of unit-sized activations."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    weights = {
        "W_enc": draw(d_in, d_sae) / d_in**0.5,
        "W_dec": draw(d_sae, d_in),
        "b_dec": draw(d_in) / 10,
    }
    if architecture == "gated":
        weights |= {name: draw(d_sae) / 10 for name in ("b_gate", "b_mag", "r_mag")}
    else:
        weights["b_enc"] = draw(d_sae) / 10
    if architecture == "jumprelu":
        weights["threshold"] = draw(d_sae).abs() / 2
    options: dict[str, Any] = {
        "normalization": "none",
        "prepends_start": True,
        "context_size": 64,
        "k": 3 if architecture == "topk" else None,
    }
    return Sae(
        name, SaeSettings(architecture, d_in, d_sae, hook_name, **(options | settings)), weights
    )
