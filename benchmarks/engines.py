"""Engines against plain batched `model.generate`: tokens per second and memory, on a model of
random weights in the shape of Llama.

    python -m benchmarks.engines [--quick] [--json] [--size tiny|small|1b|8b] [--engines NAMES]

Every engine runs in a process of its own, so that its memory is its own: one run that is not
counted, then the median of the repeats. Engines that are not installed are said to be so. All but
`generate` draw with the same noise, and it is counted how many of their texts are those of the
static batches.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.profile import decode_requests, generate_texts, read_prompts
from benchmarks.timing import median_rate, time_in_turns

Figures = dict[str, Any]

# Layers, width, heads, key-value heads, MLP width, vocabulary. The larger ones are those of Llama.
SIZES = {
    "tiny": (2, 128, 4, 2, 256, 2048),
    "small": (8, 512, 8, 4, 1536, 32_000),
    "1b": (16, 2048, 32, 8, 8192, 128_256),
    "8b": (32, 4096, 32, 8, 14_336, 128_256),
}
ENGINES = ("generate", "static", "continuous", "vllm")
GENERATE_BATCHES = (64, 256)
N_NEW_TOKENS = 48
_DIGEST = "digest"


def save_model(folder: Path, size: str) -> Path:
    """A model of random weights with the demo's tokenizer, in the precision of the device."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from whatchanged.models.weights import resolve_model

    n_layers, width, n_heads, n_kv_heads, mlp, vocabulary = SIZES[size]
    config = LlamaConfig(
        num_hidden_layers=n_layers, hidden_size=width, num_attention_heads=n_heads,
        num_key_value_heads=n_kv_heads, intermediate_size=mlp, vocab_size=vocabulary,
        max_position_embeddings=2048, bos_token_id=1, eos_token_id=2, pad_token_id=0,
        initializer_range=0.1 if size == "tiny" else 0.02,
    )  # fmt: skip
    is_on_gpu = torch.cuda.is_available()
    torch.manual_seed(0)
    with torch.device("cuda" if is_on_gpu else "cpu"):
        model = LlamaForCausalLM(config)
    model.to(torch.bfloat16 if is_on_gpu else torch.float32).save_pretrained(folder)
    AutoTokenizer.from_pretrained(resolve_model("demo:base").path).save_pretrained(folder)
    return folder


def measure(engine: str, folder: Path, n_prompts: int, n_samples: int, n_repeats: int) -> Figures:
    """What one engine makes of the same requests, in this process."""
    import torch

    from whatchanged.keys import content_key
    from whatchanged.model_config import DecodeConfig, ModelConfig
    from whatchanged.models.loading import load_decoder

    requests = decode_requests(read_prompts(n_prompts), n_samples)
    decode = DecodeConfig(
        engine="vllm" if engine == "vllm" else "transformers",
        batching="continuous" if engine == "continuous" else "static",
        max_new_tokens=N_NEW_TOKENS,
    )
    decoder: Any = load_decoder(ModelConfig(model=str(folder)), decode, "plain", "auto")
    found: Figures = {"engine": engine, "n_texts": len(requests)}
    n_tokens: list[float] = []
    if engine == "generate":
        prompts = [request.prompt for request in requests]
        ways = {
            f"{size}": lambda size=size: n_tokens.append(generate_texts(decoder, prompts, size))
            for size in GENERATE_BATCHES
        }
        seconds = time_in_turns(ways, n_repeats)
        best = min(seconds, key=lambda size: min(seconds[size]))
        found |= {"batch": int(best), "seconds": seconds[best]}
    else:
        texts: list[Any] = []

        def write() -> None:
            texts[:] = decoder.decode(requests)
            n_tokens.append(sum(text.n_tokens for text in texts) / len(texts))

        found["seconds"] = time_in_turns({engine: write}, n_repeats)[engine]
        found[_DIGEST] = [content_key("tokens", list(text.token_ids)) for text in texts]
    found["tokens_per_s"] = n_tokens[-1] * median_rate(len(requests), found["seconds"])
    found["tokens_per_text"] = n_tokens[-1]
    # Of this process, and of the largest that it started: vLLM's engine is one.
    peaks = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, -1))
    own, child = (peak * 1024 for peak in peaks)
    found |= {
        "peak_memory_bytes": own,
        "peak_child_bytes": child,
        # Of all processes: vLLM's engine has one of its own.
        "gpu_bytes": _used_gpu_bytes(),
        "device": torch.cuda.get_device_name(0) if torch.cuda.is_available() else "cpu",
    }
    return found


def _used_gpu_bytes() -> int:
    import torch

    if not torch.cuda.is_available():
        return 0
    free, total = torch.cuda.mem_get_info()
    return total - free


def run_child(engine: str, folder: Path, counts: tuple[int, int, int]) -> Figures:
    """The figures of one engine from a process of its own, or why there are none."""
    command = [sys.executable, "-m", "benchmarks.engines", "--child", engine, str(folder)]
    done = subprocess.run(
        [*command, *map(str, counts)], capture_output=True, text=True, check=False
    )
    if done.returncode == 0:
        found: Figures = json.loads(done.stdout.splitlines()[-1])
        return found
    said = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
    return {"engine": engine, "problem": said.rpartition("Error: ")[2]}


def show(rows: list[Figures]) -> str:
    """A table, and how many texts of each engine are those of the static batches."""
    plain = next((row for row in rows if row["engine"] == "generate" and "seconds" in row), None)
    static = next((row.get(_DIGEST) for row in rows if row["engine"] == "static"), None)
    lines = ["engine       tokens/s   x generate   memory (MiB)   its child   GPU   same texts"]
    for row in rows:
        if "problem" in row:
            lines.append(f"{row['engine']:<12} {row['problem']}")
            continue
        times = row["tokens_per_s"] / plain["tokens_per_s"] if plain else float("nan")
        own = row.get(_DIGEST)
        same = "" if not own or not static else _count_equal(own, static)
        names = ("peak_memory_bytes", "peak_child_bytes", "gpu_bytes")
        own_mib, child, gpu = (row[name] / 2**20 for name in names)
        lines.append(
            f"{row['engine']:<12} {row['tokens_per_s']:>8,.0f} {times:>12.2f} {own_mib:>14,.0f}"
            f" {child:>11,.0f} {gpu:>5,.0f}   {same}"
        )
    return "\n".join(lines)


def _count_equal(own: list[str], static: list[str]) -> str:
    n_equal = sum(one == other for one, other in zip(own, static, strict=True))
    return f"{n_equal} of {len(static)}"


def main() -> None:
    """Print the table; with --json, the figures as the last line."""
    if sys.argv[1:2] == ["--child"]:
        engine, folder, *counts = sys.argv[2:]
        figures = measure(engine, Path(folder), *map(int, counts))
        print(json.dumps(figures))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few texts, one repeat")
    parser.add_argument("--json", action="store_true", dest="as_json")
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--engines", default=",".join(ENGINES))
    given = parser.parse_args()
    counts = (16, 8, 1) if given.quick else (64, 16, 3)
    with tempfile.TemporaryDirectory() as home:
        folder = save_model(Path(home) / "model", given.size)
        rows = [run_child(engine, folder, counts) for engine in given.engines.split(",")]
    print(f"{given.size}: {counts[0]} prompts, {counts[1]} texts each, {N_NEW_TOKENS} new tokens")
    print(show(rows))
    if given.as_json:
        kept = [{k: v for k, v in row.items() if k != _DIGEST} for row in rows]
        print(json.dumps({"size": given.size, "engines": kept, "n_cpus": os.cpu_count()}))


if __name__ == "__main__":
    main()
