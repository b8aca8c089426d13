"""The comparison table of SAEs: batched, from one pass, against text by text, three times per SAE.

    python -m benchmarks.saes [--quick] [--json]

Four SAEs, 700 texts of 5 to 100 tokens, CPU time of one thread, the ways in turns. The notebooks'
way asks the model once per text, SAE and row of the table (strongest, most frequent, most selective
features), keeps every activation, and encodes the last token; what it finds must be what we find.
Beside the embedded model and SAEs stands a random model of the size of GPT-2 small with SAEs of
24,576 features, on 100 of the texts, of which the notebooks' way reads every fifth.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from benchmarks.timing import speed_ratio, time_in_turns
from whatchanged.demo import demo_path
from whatchanged.demo.categories import categorized_texts
from whatchanged.demo.pair import DEMO
from whatchanged.demo.saes import SAE_NAMES, demo_sae_path
from whatchanged.demo.train_saes import SPECS, new_sae
from whatchanged.models.sae_features import extract_features
from whatchanged.models.sae_folders import load_sae_folder
from whatchanged.models.saes import Sae
from whatchanged.saes.category_tests import measure_categories
from whatchanged.saes.features import SaeFeatures, group_texts
from whatchanged.saes.quality import SaeQuality
from whatchanged.saes.stored import make_card
from whatchanged.saes.strength import rank_features

Figures = dict[str, Any]
Table = dict[str, list[list[int]]]

N_TEXTS, N_CATEGORIES, N_SHOWN = 700, 7, 5
_LENGTHS = (5, 100)
_LARGE = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
          "num_attention_heads": 12, "num_key_value_heads": 12}  # fmt: skip
_LARGE_FEATURES = 24_576


@dataclass(frozen=True)
class Scene:
    """A model, its tokenizer and SAEs of its residual stream, texts and their categories."""

    model: Any
    tokenizer: Any
    saes: tuple[Sae, ...]
    texts: tuple[str, ...]
    categories: tuple[str, ...]


def embedded_scene() -> Scene:
    """The embedded model with its three SAEs, and an untrained one as the fourth."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(demo_path("base")).eval()
    tokenizer = AutoTokenizer.from_pretrained(demo_path("base"))
    saes = [load_sae_folder(demo_sae_path(name)) for name in SAE_NAMES]
    untrained = new_sae(replace(SPECS[0], name="untrained", layer=2), model, seed=0)
    return Scene(model, tokenizer, (*saes, untrained), *make_texts(tokenizer))


def large_scene(tokenizer: Any) -> Scene:
    """Random weights of the size of GPT-2 small and four TopK SAEs of 24,576 features."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(demo_path("base"), **_LARGE, head_dim=64)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    saes = tuple(
        new_sae(
            replace(SPECS[0], name=f"layer {layer}", layer=layer, d_sae=_LARGE_FEATURES, k=32),
            model,
            seed=layer,
        )
        for layer in (2, 5, 8, 11)
    )
    texts, categories = make_texts(tokenizer)
    return Scene(model, tokenizer, saes, texts[::7], categories[::7])


def make_texts(tokenizer: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Texts of evenly spread lengths in tokens, cut from texts of the grammar, by topic."""
    rng = random.Random(0)
    topics = DEMO.topics[:N_CATEGORIES]
    rows = categorized_texts(topics, 300, seed=0)
    texts, categories = [], []
    for topic in topics:
        joined = " ".join(row["text"] for row in rows if row["category"] == topic.name)
        ids = tokenizer(joined, add_special_tokens=False)["input_ids"]
        for _ in range(N_TEXTS // N_CATEGORIES):
            length = rng.randint(*_LENGTHS)
            start = rng.randrange(len(ids) - length)
            texts.append(tokenizer.decode(ids[start : start + length]))
            categories.append(topic.name)
    return tuple(texts), tuple(categories)


def in_batches(scene: Scene) -> tuple[Table, int]:
    """Our way: the table by SAE, and the forward passes."""
    found = extract_features(scene.model, scene.tokenizer, scene.saes, scene.texts, pooling="last")
    groups = group_texts(scene.texts, scene.categories)
    table: Table = {}
    for sae in scene.saes:
        card = make_card(sae.name, sae.settings, SaeQuality(None, None, None, None))
        features = SaeFeatures(card, found.features[sae.name].pooled)
        ranked = rank_features(features, measure_categories(features, groups), n_shown=N_SHOWN)
        table[sae.name] = [
            [row.feature for row in ranked if row.ranking == ranking]
            for ranking in ("strongest", "most frequent", "most selective")
        ]
    return table, found.n_forward_passes


def text_by_text(scene: Scene) -> tuple[Table, int]:
    """The notebooks' way: the table by SAE, and the forward passes."""
    n_passes = 0
    table: Table = {}
    texts, categories = scene.texts, scene.categories

    def extract(sae: Sae) -> np.ndarray:
        nonlocal n_passes
        layer = int(sae.settings.hook_name.split(".")[1])
        rows = []
        for text in texts:
            ids = [scene.tokenizer.bos_token_id]
            ids += scene.tokenizer(text, add_special_tokens=False)["input_ids"]
            rows.append(last_features(scene.model, sae, layer, ids))
            n_passes += 1
        return np.stack(rows)

    for sae in scene.saes:
        strongest = extract(sae).mean(axis=0)
        frequent = (extract(sae) > 0).mean(axis=0)
        fires = extract(sae) > 0
        best = np.full(fires.shape[1], -np.inf)
        for category in sorted(set(categories)):
            own = [text for text, name in zip(texts, categories, strict=True) if name == category]
            inside = [i for i, text in enumerate(texts) if text in own]
            outside = [i for i, text in enumerate(texts) if text not in own]
            best = np.maximum(best, fires[inside].mean(axis=0) - fires[outside].mean(axis=0))
        table[sae.name] = [
            np.argsort(-values, kind="stable")[:N_SHOWN].tolist()
            for values in (strongest, frequent, best)
        ]
    return table, n_passes


def last_features(model: Any, sae: Sae, layer: int, ids: list[int]) -> np.ndarray:
    """The features `(d_sae,)` of a text's last token."""
    import torch

    with torch.no_grad():
        cache = run_with_cache(model, torch.tensor([ids]))
        return np.asarray(sae.encode(cache[f"model.layers.{layer}"][0, -1]).numpy())


def run_with_cache(model: Any, ids: Any) -> dict[str, Any]:
    """What every module puts out, by its name: the notebooks' library keeps every activation, by
    hooks that it sets before a pass and removes after it."""
    cache: dict[str, Any] = {}

    def keeper(name: str) -> Callable[[Any, Any, Any], None]:
        def keep(_module: Any, _inputs: Any, output: Any) -> None:
            cache[name] = output[0] if isinstance(output, tuple) else output

        return keep

    handles = [module.register_forward_hook(keeper(name)) for name, module in model.named_modules()]
    try:
        model(input_ids=ids, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return cache


def measure_embedded(scene: Scene, n_repeats: int) -> Figures:
    """CPU seconds of both ways in turns, and whether they name the same features."""
    found: dict[str, tuple[Table, int]] = {}
    ways = {
        "batched": lambda: found.update(batched=in_batches(scene)),
        "text by text": lambda: found.update(notebook=text_by_text(scene)),
    }
    seconds = time_in_turns(ways, n_repeats, time.process_time)
    (ours, n_ours), (theirs, n_theirs) = found["batched"], found["notebook"]
    return {
        "ratio": speed_ratio(seconds["batched"], seconds["text by text"]),
        "batched_cpu_s": seconds["batched"],
        "text_by_text_cpu_s": seconds["text by text"],
        "n_forward_passes": n_ours,
        "n_forward_passes_text_by_text": n_theirs,
        # Selective features that tie are listed in another order, so they are left out.
        "same_strongest_and_most_frequent": all(ours[n][:2] == theirs[n][:2] for n in ours),
    }


def measure_large(scene: Scene) -> Figures:
    """CPU seconds of our way on the texts, and of the notebooks' on every fifth, times 5."""
    start = time.process_time()
    _, n_passes = in_batches(scene)
    batched_s = time.process_time() - start
    start = time.process_time()
    text_by_text(replace(scene, texts=scene.texts[::5], categories=scene.categories[::5]))
    notebook_s = 5 * (time.process_time() - start)
    return {
        "ratio": notebook_s / batched_s,
        "batched_cpu_s": batched_s,
        "text_by_text_cpu_s_scaled": notebook_s,
        "n_forward_passes": n_passes,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="one repeat, embedded SAEs only")
    parser.add_argument("--json", action="store_true", help="the figures as the last line")
    args = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    scene = embedded_scene()
    figures: Figures = {"embedded": measure_embedded(scene, 1 if args.quick else 3)}
    if not args.quick:
        figures["size of GPT-2 small"] = measure_large(large_scene(scene.tokenizer))
    for name, found in figures.items():
        print(f"{name}: {found['ratio']:.1f} times less CPU time, "
              f"{found['n_forward_passes']} forward passes", flush=True)  # fmt: skip
    if args.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
