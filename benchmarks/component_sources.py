"""What collecting components costs beside the forward pass: time and memory.

    python -m benchmarks.component_sources [--quick] [--json] [--base NAME] [--intervention NAME]
        [--sae FOLDER]...

Both passes read the same batch in one process, in turns; what is compared are medians of the ratios
of neighbouring turns. The plain pass is `model(input_ids, attention_mask)`; `lean` is the same
without logits but for the last place, which collecting does not compute either. `process` adds the
joining of modules. SAEs that do not fit the model are left out. Memory is the growth of the
process's peak over that of plain passes.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

# Threads that wait must sleep, or two torch pools on the same cores stop each other.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np

from benchmarks.timing import time_in_turns

Figures = dict[str, Any]

N_TEXTS, N_TOKENS = 32, 128


def measure(
    base_name: str, intervention_name: str, sae_folders: Sequence[str], n_repeats: int
) -> Figures:
    """The figures of a pair: cost ratios, seconds of a plain pass, components, peak memory."""
    import torch

    from whatchanged.activations.processing import ComponentMaxima, process_activations
    from whatchanged.models.components import ComponentCollector, ComponentSource
    from whatchanged.models.neurons import NeuronSource
    from whatchanged.models.sae_latents import SaeLatents, load_listed
    from whatchanged.models.weight_delta import weight_delta
    from whatchanged.sae_source import SaeSource

    base, model = load_network(base_name), load_network(intervention_name)
    delta = weight_delta(base, model)
    listed = load_listed(tuple(SaeSource(folder=name) for name in sae_folders)).fitting([model])
    latents: list[ComponentSource] = [SaeLatents(listed.saes)] if listed.saes else []
    sources: dict[str, list[ComponentSource]] = {
        "neurons": [NeuronSource()],
        "weight_delta": [delta],
        "saes": latents,
        "all": [delta, NeuronSource(), *latents],
    }
    ids, mask = draw_batch(int(model.get_input_embeddings().weight.shape[0]))
    tokens = torch.from_numpy(ids).to(model.device)
    seen = torch.from_numpy(mask.astype(np.int64)).to(model.device)

    def run_plain(**options: Any) -> None:
        with torch.inference_mode():
            model(input_ids=tokens, attention_mask=seen, use_cache=False, **options)
        if model.device.type == "cuda":
            torch.cuda.synchronize()

    collectors = {
        name: ComponentCollector(model, parts) for name, parts in sources.items() if parts
    }
    maxima = ComponentMaxima(collectors["all"].modules)
    ways: dict[str, Callable[[], object]] = {
        "plain": run_plain,
        "lean": partial(run_plain, logits_to_keep=1),
        **{name: partial(c.collect, ids, mask) for name, c in collectors.items()},
    }
    time_in_turns({"plain": run_plain}, 2)
    plain_peak = peak_bytes()
    collectors["all"].collect(ids, mask)
    collect_peak = peak_bytes()
    maxima.add(collectors["all"].collect(ids, mask), mask)
    table = maxima.table()
    ways["process"] = lambda: process_activations(collectors["all"].collect(ids, mask), mask, table)
    seconds = time_in_turns(ways, n_repeats)
    return {
        "pair": [base_name, intervention_name],
        "device": str(model.device),
        "batch": [N_TEXTS, N_TOKENS],
        "saes": {sae.name: sae.settings.d_sae for sae in listed.saes},
        "n_components": {name: sum(c.modules.values()) for name, c in collectors.items()},
        "plain_s": statistics.median(seconds["plain"]),
        "times_plain": {name: paired_ratio(seconds[name], seconds["plain"]) for name in ways},
        "times_lean": {name: paired_ratio(seconds[name], seconds["lean"]) for name in ways},
        "collect_extra_peak_bytes": collect_peak - plain_peak,
        "process_extra_peak_bytes": peak_bytes() - plain_peak,
        "block_bytes": 4 * N_TEXTS * N_TOKENS * sum(collectors["all"].modules.values()),
        "n_repeats": n_repeats,
    }


def load_network(name: str) -> Any:
    """A model by a config's name, as the decoder loads it."""
    from whatchanged.model_config import DecodeConfig, ModelConfig
    from whatchanged.models.transformers_decoder import load_decoder

    return load_decoder(ModelConfig(model=name), DecodeConfig(), "auto", "auto").model


def draw_batch(n_vocab: int) -> tuple[np.ndarray, np.ndarray]:
    """Random tokens in texts of 64 to 128 tokens, and their mask."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(N_TOKENS // 2, N_TOKENS + 1, N_TEXTS)
    mask = np.arange(N_TOKENS) < lengths[:, None]
    return np.where(mask, rng.integers(3, n_vocab, mask.shape), 0), mask


def paired_ratio(slower: list[float], faster: list[float]) -> float:
    """The median of the ratios of turns that ran beside each other."""
    return statistics.median(a / b for a, b in zip(slower, faster, strict=True))


def peak_bytes() -> int:
    """The largest resident set of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Command line: measure one pair and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="fewer repeats, within a minute")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--base", default="demo:base")
    parser.add_argument("--intervention", default="demo:intervention")
    parser.add_argument("--sae", action="append", metavar="FOLDER", help="an SAE of the model")
    args = parser.parse_args()
    saes = args.sae or ["demo:topk", "demo:jumprelu"]
    figures = measure(args.base, args.intervention, saes, 15 if args.quick else 60)
    print(f"plain forward pass of {N_TEXTS} x {N_TOKENS} tokens: {figures['plain_s'] * 1e3:.1f} ms")
    for name, ratio in figures["times_plain"].items():
        lean = figures["times_lean"][name]
        print(f"  {name:14s} {ratio:5.2f} x plain  {lean:5.2f} x without logits")
    for name in ("block", "collect_extra_peak", "process_extra_peak"):
        print(f"  {name:20s} {figures[f'{name}_bytes'] / 1e6:6.1f} MB")
    if args.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
