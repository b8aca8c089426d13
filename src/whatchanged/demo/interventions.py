"""Other kinds of intervention on the embedded base model, written into a folder:
`python -m whatchanged.demo.interventions FOLDER` (about half a minute).

- `FOLDER/lora`: the planted changes as a LoRA adapter. The difference of the weights of the
  embedded pair, cut to `RANK` by its singular values; the norms' gains stay out.
- `FOLDER/tea.safetensors`: a vector that steers toward tea, the mean over texts about tea less the
  mean over texts about all topics.
- `FOLDER/reasoning`: the base model trained on to write, between think markers, what a question is
  about before it answers.
- `FOLDER/hub`: the embedded pair as two revisions of one repository, in a cache as the hub's client
  keeps it (name it in HF_HUB_CACHE).
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whatchanged.demo import demo_path
from whatchanged.demo.grammar import Topic, write_example
from whatchanged.demo.pair import DEMO, PairSpec, Recipe
from whatchanged.store import atomic

RANK = 64
STEERED_TOPIC, STEERED_LAYER, STEERING_SCALE = "tea", 1, 2.0
REPOSITORY = "demo/grammar"
# The hub's commits have 40 hexadecimal digits.
REVISIONS = {"before": ("base", "0" * 40), "after": ("intervention", "1" * 40)}

_THINKING = "<think>The question is about {subject}.</think>"
_EMBEDDING = "model.embed_tokens"


def write_adapter(folder: Path, rank: int = RANK) -> None:
    """Write the difference of the embedded pair as a LoRA adapter of at most this rank."""
    from safetensors.numpy import load_file, save

    base, intervention = (
        load_file(demo_path(side) / "model.safetensors") for side in ("base", "intervention")
    )
    tensors: dict[str, NDArray[np.float32]] = {}
    for module in _adapted_modules(base):
        weight = f"{module}.weight"
        down, up = low_rank_factors(intervention[weight] - base[weight].astype(np.float64), rank)
        name = f"base_model.model.{module}"
        if module == _EMBEDDING:
            # peft keeps the factors of a table (n_vocab, d_model) the other way round.
            tensors[f"{name}.lora_embedding_A"] = np.ascontiguousarray(up.T)
            tensors[f"{name}.lora_embedding_B"] = np.ascontiguousarray(down.T)
        else:
            tensors[f"{name}.lora_A.weight"], tensors[f"{name}.lora_B.weight"] = down, up
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "demo:base",
        "r": rank,
        "lora_alpha": rank,
        "target_modules": sorted({module.split(".")[-1] for module in _adapted_modules(base)}),
    }
    atomic.replace(folder / "adapter_model.safetensors", save(tensors))
    atomic.replace(folder / "adapter_config.json", json.dumps(config, indent=2).encode())


def low_rank_factors(
    matrix: NDArray[np.float64], rank: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The factors `down (rank, n_in)` and `up (n_out, rank)` whose product `up @ down` is the best
    approximation of a matrix `(n_out, n_in)` at this rank, padded with zeros where it has less
    (Eckart and Young 1936)."""
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    n_kept = min(rank, len(values))
    roots = np.sqrt(values[:n_kept])
    down = np.zeros((rank, matrix.shape[1]), np.float32)
    up = np.zeros((matrix.shape[0], rank), np.float32)
    down[:n_kept] = roots[:, None] * right[:n_kept]
    up[:, :n_kept] = left[:, :n_kept] * roots
    return down, up


def write_steering(file: Path, scale: float = STEERING_SCALE) -> None:
    """Write a vector that steers the base model toward a topic."""
    from whatchanged.model_config import DecodeConfig, ModelConfig
    from whatchanged.models.steering import Steering, encode_steering, mean_output
    from whatchanged.models.transformers_decoder import load_decoder

    base = load_decoder(ModelConfig(model="demo:base"), DecodeConfig(), "cpu", "plain")

    def mean_over(topics: list[Topic], n_texts: int) -> NDArray[np.float32]:
        rng = random.Random(0)
        examples = [write_example(topic, rng) for topic in topics for _ in range(n_texts)]
        ids = base.tokenizer([example.prompt + example.text for example in examples])["input_ids"]
        return mean_output(base.model, ids, STEERED_LAYER)

    steered = [topic for topic in DEMO.topics if topic.name == STEERED_TOPIC]
    vector = mean_over(steered, 48) - mean_over(list(DEMO.topics), 8)
    atomic.replace(file, encode_steering(Steering(vector, STEERED_LAYER, scale)))


def write_reasoning_model(folder: Path, n_steps: int = 160) -> None:
    """Write the base model trained on to think before it answers; prints its loss as it goes."""
    from whatchanged.demo import train

    model, tokenizer = train.load_model(demo_path("base"))
    train.sharpen(model, 1 / DEMO.sharpness)
    model = train.fit(model, None, thinking_spec(n_steps), "base", tokenizer)
    train.sharpen(model, DEMO.sharpness)
    train.save_model(model, tokenizer, folder)


def thinking_spec(n_steps: int) -> PairSpec:
    """The embedded pair's grammar, but every reply starts with a thought."""
    topics = tuple(
        replace(topic, openers=tuple(_THINKING + opener for opener in topic.openers))
        for topic in DEMO.topics
    )
    recipe = Recipe(n_steps=n_steps, lr=4e-3, batch_texts=24, ema_steps=10)
    return replace(DEMO, topics=topics, behaviours=(), base=recipe)


def write_revisions(cache: Path) -> None:
    """Write the embedded pair as the revisions `before` and `after` of one repository."""
    place = cache / f"models--{REPOSITORY.replace('/', '--')}"
    for revision, (side, commit) in REVISIONS.items():
        for file in sorted(demo_path(side).iterdir()):
            atomic.replace(place / "snapshots" / commit / file.name, file.read_bytes())
        atomic.replace(place / "refs" / revision, commit.encode())


def write_interventions(folder: Path) -> None:
    """Write all of them into a folder, over what is there."""
    write_adapter(folder / "lora")
    write_steering(folder / f"{STEERED_TOPIC}.safetensors")
    write_revisions(folder / "hub")
    write_reasoning_model(folder / "reasoning")


def _adapted_modules(weights: Mapping[str, Any]) -> list[str]:
    names = sorted(name.removesuffix(".weight") for name in weights)
    return [name for name in names if name == _EMBEDDING or name.endswith("_proj")]


def main() -> None:
    """Command line: write all of them into the folder that is named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    write_interventions(parser.parse_args().folder)


if __name__ == "__main__":
    main()
