"""Train the embedded SAEs from nothing: `python -m whatchanged.demo.train_saes [--out DIR]`.

A developer tool: it writes `DIR/{topk,jumprelu,poor}/` (DIR is `saes/` of this package by default).
Each reads the residual stream behind another layer of the embedded base model, on texts of its
grammar. TopK is trained as by Gao et al. 2024, with their auxiliary loss for features that do not
fire, and one feature per topic is planted in it; JumpReLU as BatchTopK (Bussmann et al. 2024),
whose mean threshold it keeps. Few features per token make for features that belong to one topic.
The poor one gets too few features and hardly any training.

Weights are stored as float16 and are loaded as float32: the configuration says so.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from whatchanged.demo import demo_path
from whatchanged.demo.categories import categorized_texts
from whatchanged.demo.pair import DEMO, PairSpec
from whatchanged.models.components import ComponentCollector
from whatchanged.models.sae_folders import sae_arrays, sae_config
from whatchanged.models.sae_inputs import batches_of, find_places, padded, read_texts
from whatchanged.models.saes import Sae, SaeSettings
from whatchanged.store.sae_folders import write_sae_folder

if TYPE_CHECKING:
    import torch

_BATCH_TOKENS = 1024
# A feature that has not fired for so many tokens is made to explain what the others leave over.
_SILENT_TOKENS = 50_000
_N_REVIVED = 32
_AUXILIARY_WEIGHT = 1 / 32
# Mean activation of a planted feature where it fires, of activations of mean norm sqrt(d_in): large
# enough to be among the k largest.
_PLANTED_SIZE = 8.0
_PLANTING_STEPS = 600
_TRAINING_SEED = 1_000_003


@dataclass(frozen=True)
class SaeSpec:
    """What one SAE is trained from: the residual stream behind `layer`, `k` features per token (on
    average, for JumpReLU) out of `d_sae`, for `n_steps` batches at the peak learning rate `lr`.

    `plants_topics`: the first features are planted (`plant_topics`), one per topic, and stay as
    they are while the others learn."""

    name: str
    layer: int
    architecture: Literal["topk", "jumprelu"]
    k: int
    d_sae: int
    n_steps: int
    lr: float = 1e-3
    plants_topics: bool = False

    @property
    def hook_name(self) -> str:
        return f"blocks.{self.layer}.hook_resid_post"


SPECS = (
    SaeSpec("topk", layer=1, architecture="topk", k=6, d_sae=512, n_steps=1500, plants_topics=True),
    SaeSpec("jumprelu", layer=2, architecture="jumprelu", k=10, d_sae=768, n_steps=2000),
    SaeSpec("poor", layer=0, architecture="topk", k=2, d_sae=64, n_steps=40),
)


def read_activations(
    model: Any, tokenizer: Any, sae: Sae, texts: list[str]
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the SAE reads on every token of the texts that counts for it, `(n_tokens, d_in)`, and
    which text each token is of, `(n_tokens,)`."""
    import torch

    places = find_places(model, [sae])
    read = read_texts(tokenizer, [sae], texts)
    collector = ComponentCollector(model, [places])
    parts, text_of = [], []
    for batch in batches_of(read.rows, "cpu", None):
        ids, mask = padded([read.rows[i] for i in batch], "right")
        counts = np.concatenate([read.counts[sae.name][i] for i in batch])
        found = collector.collect(ids, mask)[places.label(sae)][mask]
        parts.append(torch.from_numpy(found[counts]))
        text_of += [i for i in batch for _ in range(read.counts[sae.name][i].sum())]
    return torch.cat(parts), torch.tensor(text_of)


def new_sae(spec: SaeSpec, model: Any, seed: int) -> Sae:
    """An untrained SAE: unit directions at random, read as they are written."""
    import torch

    d_in = int(model.config.hidden_size)
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(spec.d_sae, d_in, generator=generator)
    directions /= directions.norm(dim=1, keepdim=True)
    weights = {
        "W_enc": directions.T.clone(),
        "W_dec": directions,
        "b_enc": torch.zeros(spec.d_sae),
        "b_dec": torch.zeros(d_in),
    }
    if spec.architecture == "jumprelu":
        weights["threshold"] = torch.zeros(spec.d_sae)
    settings = SaeSettings(
        architecture=spec.architecture,
        d_in=d_in,
        d_sae=spec.d_sae,
        hook_name=spec.hook_name,
        normalization="none",
        prepends_start=True,
        context_size=int(model.config.max_position_embeddings),
        k=spec.k if spec.architecture == "topk" else None,
        excluded_tokens=True,
        model_name="demo:base",
    )
    return Sae(spec.name, settings, weights)


def fire(before: torch.Tensor, k: int, per_batch: bool) -> torch.Tensor:
    """The `k` largest of each row, or `k` per row on average over the batch; none below 0."""
    import torch

    rows = before.flatten()[None] if per_batch else before
    n_kept = k * len(before) if per_batch else k
    values, places = rows.topk(n_kept, dim=-1, sorted=False)
    kept = torch.zeros_like(rows).scatter(-1, places, torch.relu(values))
    return kept.reshape(before.shape)


def revival_loss(
    before: torch.Tensor, is_silent: torch.Tensor, missing: torch.Tensor, directions: torch.Tensor
) -> torch.Tensor:
    """How badly silent features explain what the others leave over, relative to that; a scalar."""
    import torch

    n_revived = min(_N_REVIVED, int(is_silent.sum()))
    if n_revived == 0:
        return torch.zeros(())
    features = fire(before.masked_fill(~is_silent, -torch.inf), n_revived, per_batch=False)
    left_over = missing.detach()
    return (left_over - features @ directions).square().mean() / left_over.square().mean()


def plant_topics(
    activations: torch.Tensor, topics: torch.Tensor, generator: torch.Generator
) -> dict[str, torch.Tensor]:
    """Features that fire on tokens of one topic each and write what these have in common.

    Their encoders are logistic regressions of each topic against the others on `activations
    (n_tokens, d_in)`, their decoders the least squares of the activations on what then fires, both
    about the mean activation. Weights `W_enc (d_in, n_topics)`, `b_enc` and `W_dec`.
    """
    import torch

    centred = activations - activations.mean(dim=0)
    n_topics = int(topics.max()) + 1
    encoder = torch.zeros(activations.shape[1], n_topics, requires_grad=True)
    bias = torch.zeros(n_topics, requires_grad=True)
    optimizer = torch.optim.Adam((encoder, bias), lr=1e-2)
    for _ in range(_PLANTING_STEPS):
        picked = torch.randint(len(centred), (_BATCH_TOKENS,), generator=generator)
        is_topic = torch.nn.functional.one_hot(topics[picked], n_topics).float()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            centred[picked] @ encoder + bias, is_topic
        )
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.no_grad():
        fired = torch.relu(centred @ encoder + bias)
        gain = _PLANTED_SIZE / fired[fired > 0].mean()
        # In 64 bits: in 32, LAPACK's last bits depend on where in memory its inputs lie.
        decoder = torch.linalg.lstsq((gain * fired).double(), centred.double()).solution
        return {"W_enc": gain * encoder, "b_enc": gain * bias, "W_dec": decoder.float()}


def fit(sae: Sae, spec: SaeSpec, activations: torch.Tensor, topics: torch.Tensor, seed: int) -> Sae:
    """The SAE trained on `activations (n_tokens, d_in)` of tokens of `topics (n_tokens,)`; the same
    arguments give the same weights on one machine. Prints explained variance and silent features a
    few times.

    Activations are scaled to a mean norm of sqrt(d_in) for training, and the weights back after it.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    scale = sae.settings.d_in**0.5 / activations.norm(dim=1).mean()
    activations = activations * scale
    trained = {name: weight.clone() for name, weight in sae.weights.items() if name != "threshold"}
    trained["b_dec"] = activations.mean(dim=0)
    n_planted = 0
    if spec.plants_topics:
        planted = plant_topics(activations, topics, generator)
        n_planted = len(planted["W_dec"])
        trained["W_enc"][:, :n_planted] = planted["W_enc"]
        trained["b_enc"][:n_planted] = planted["b_enc"]
        trained["W_dec"][:n_planted] = planted["W_dec"]
    planted_part = slice(n_planted)
    frozen: dict[str, Any] = {}
    if n_planted:
        frozen = {
            "W_enc": (slice(None), planted_part),
            "b_enc": planted_part,
            "W_dec": planted_part,
            "b_dec": slice(None),
        }
    norms = trained["W_dec"].norm(dim=1, keepdim=True)
    for weight in trained.values():
        weight.requires_grad_(True)
    optimizer = torch.optim.Adam(trained.values(), lr=spec.lr, betas=(0.9, 0.999))
    variance = (activations - activations.mean(dim=0)).square().mean()
    silent_for = torch.zeros(spec.d_sae)
    threshold = torch.zeros(())
    is_jumping = spec.architecture == "jumprelu"
    for step in range(spec.n_steps):
        for group in optimizer.param_groups:
            group["lr"] = spec.lr * min(1.0, 5 * (1 - step / spec.n_steps))
        picked = torch.randint(len(activations), (_BATCH_TOKENS,), generator=generator)
        batch = activations[picked]
        before = (batch - trained["b_dec"]) @ trained["W_enc"] + trained["b_enc"]
        features = fire(before, spec.k, per_batch=is_jumping)
        missing = batch - features @ trained["W_dec"] - trained["b_dec"]
        error = missing.square().mean() / variance
        revival = revival_loss(before, silent_for > _SILENT_TOKENS, missing, trained["W_dec"])
        optimizer.zero_grad()
        (error + _AUXILIARY_WEIGHT * revival).backward()  # type: ignore[no-untyped-call]
        for name, part in frozen.items():
            gradient = trained[name].grad
            assert gradient is not None, "every weight takes part"
            gradient[part] = 0
        optimizer.step()
        with torch.no_grad():
            trained["W_dec"] *= norms / trained["W_dec"].norm(dim=1, keepdim=True)
            fired = features > 0
            silent_for = torch.where(fired.any(dim=0), 0.0, silent_for + len(batch))
            # The mean over the second half: by then the smallest kept value hardly moves.
            if is_jumping and step >= spec.n_steps // 2:
                threshold += features[fired].min() / (spec.n_steps - spec.n_steps // 2)
        if (step + 1) % max(1, spec.n_steps // 4) == 0:
            n_silent = int((silent_for > _SILENT_TOKENS).sum())
            print(f"{spec.name} step {step + 1}: {1 - error.item():.3f} explained, "
                  f"{n_silent} silent", flush=True)  # fmt: skip
    return replace(sae, weights=_unscaled(trained, sae, float(scale), float(threshold)))


def _unscaled(
    trained: dict[str, torch.Tensor], sae: Sae, scale: float, threshold: float
) -> dict[str, torch.Tensor]:
    """Weights for activations as they are, rounded as they will be stored."""
    import torch

    weights = {name: weight.detach() for name, weight in trained.items()}
    weights["W_enc"] = weights["W_enc"] * scale
    weights["W_dec"] = weights["W_dec"] / scale
    weights["b_dec"] = weights["b_dec"] / scale
    if "threshold" in sae.weights:
        weights["threshold"] = torch.full((sae.settings.d_sae,), threshold)
    return {name: weight.half().float() for name, weight in weights.items()}


def train_saes(pair: PairSpec, out_dir: Path, n_texts_per_topic: int = 200) -> dict[str, float]:
    """Train the three SAEs on the base model into `out_dir`; wall seconds by name."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(demo_path("base")).eval()
    tokenizer = AutoTokenizer.from_pretrained(demo_path("base"))
    rows = categorized_texts(pair.topics, n_texts_per_topic, _TRAINING_SEED)
    texts = [row["text"] for row in rows]
    names = [topic.name for topic in pair.topics]
    topic_of = torch.tensor([names.index(row["category"]) for row in rows])
    seconds = {}
    for seed, spec in enumerate(SPECS):
        started = time.monotonic()
        sae = new_sae(spec, model, seed)
        activations, text_of = read_activations(model, tokenizer, sae, texts)
        sae = fit(sae, spec, activations, topic_of[text_of], seed)
        write_sae_folder(out_dir / spec.name, sae_config(sae), sae_arrays(sae, half=True))
        seconds[spec.name] = time.monotonic() - started
        print(f"{spec.name}: {seconds[spec.name]:.0f} s", flush=True)
    return seconds


def main() -> None:
    """Command line: train the SAEs that ship."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "saes")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import torch

    torch.set_num_threads(args.threads)
    train_saes(DEMO, args.out)


if __name__ == "__main__":
    main()
