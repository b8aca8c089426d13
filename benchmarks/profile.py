"""Where the time goes: decoding, embedding and the embedding cache against the plain ways.

    python -m benchmarks.profile [--quick] [--json] [--only SECTION] [--run RUN_FOLDER]

Every comparison runs both ways in this process, in turns, and compares medians. With `--run`, the
seconds per stage of a finished run are added.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

# Threads that wait must sleep, or two torch pools on the same cores stop each other.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np

from benchmarks.timing import median_rate, speed_ratio, time_in_turns

Figures = dict[str, Any]

_N_NEW_TOKENS = 48
_N_VECTORS = 20_000
_D_EMBED = 384
_WORDS = """
the a of and to in is it was for on with as they at one have this from or by but what some we out
other all there when use your how an each she small large early late often never again almost
river garden kitchen morning lantern copper window station harbour letter winter market bread
"""


def measure_decoder(is_quick: bool, model: str = "demo:base") -> Figures:
    """Texts per second of our decoder and of plain `model.generate`, at batch 1 and at its best.

    Both sample at temperature 1 without top-k or top-p, over the same prompts sorted by length.
    """
    from whatchanged.model_config import DecodeConfig, ModelConfig
    from whatchanged.models.transformers_decoder import load_decoder

    prompts = read_prompts(32 if is_quick else 64)
    n_samples, n_repeats = (8, 3) if is_quick else (16, 7)
    decoder = load_decoder(
        ModelConfig(model=model), DecodeConfig(max_new_tokens=_N_NEW_TOKENS), "auto", "plain"
    )
    requests = decode_requests(prompts, n_samples)
    n_tokens: dict[str, float] = {}

    def ours() -> None:
        n_tokens["ours"] = statistics.mean(c.n_tokens for c in decoder.decode(requests))

    def generate(texts: Sequence[str], batch_size: int) -> None:
        n_tokens["generate"] = generate_texts(decoder, texts, batch_size)

    all_prompts = [request.prompt for request in requests]
    sizes = {
        f"{size}": lambda size=size: generate(all_prompts, size) for size in (16, 32, 64, 128, 256)
    }
    best = min(time_in_turns(sizes, 1).items(), key=lambda item: min(item[1]))[0]
    seconds = time_in_turns({"ours": ours, "generate": sizes[best]}, n_repeats)
    few = all_prompts[:: len(all_prompts) // 8][:8]
    single = time_in_turns({"generate": lambda: generate(few, 1)}, 3)["generate"]
    ours_rate = median_rate(len(requests), seconds["ours"])
    generate(all_prompts, int(best))
    return {
        "model": model,
        "n_texts": len(requests),
        "n_repeats": n_repeats,
        "ours_texts_per_s": ours_rate,
        "generate_best_batch": int(best),
        "generate_best_texts_per_s": median_rate(len(requests), seconds["generate"]),
        "generate_batch_1_texts_per_s": median_rate(len(few), single),
        "times_generate_best": speed_ratio(seconds["ours"], seconds["generate"]),
        "times_generate_batch_1": ours_rate / median_rate(len(few), single),
        "ours_tokens_per_text": n_tokens["ours"],
        "generate_tokens_per_text": n_tokens["generate"],
    }


def generate_texts(decoder: Any, prompts: Sequence[str], batch_size: int) -> float:
    """Decode with the plain `model.generate`; the mean number of new tokens per text."""
    import torch

    model, tokenizer = decoder.model, decoder.tokenizer
    tokenizer.padding_side = "left"
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token_id = tokenizer.eos_token_id
    ordered = sorted(prompts, key=len)
    lengths: list[int] = []
    for start in range(0, len(ordered), batch_size):
        inputs = tokenizer(
            ordered[start : start + batch_size],
            return_tensors="pt",
            padding=True,
            return_token_type_ids=False,
        ).to(model.device)
        with torch.inference_mode():
            rows = model.generate(
                **inputs,
                do_sample=True,
                temperature=1.0,
                top_k=0,
                max_new_tokens=_N_NEW_TOKENS,
                pad_token_id=tokenizer.pad_token_id,
            )
        new = rows[:, inputs["input_ids"].shape[1] :]
        tokenizer.batch_decode(new, skip_special_tokens=True)
        ended = torch.isin(new, torch.tensor([*decoder.eos_ids, tokenizer.pad_token_id]))
        lengths += (~ended).sum(-1).tolist()
    return statistics.mean(lengths)


def measure_embedder(is_quick: bool) -> Figures:
    """Texts per second of our embedder and of `SentenceTransformer.encode`, and how far their
    vectors are apart; texts of 3 to 120 words, most of them short, like replies and sentences."""
    from whatchanged.config import EmbedConfig
    from whatchanged.models.sentence_transformers_embedder import load_embedder

    n_texts, n_repeats = (300, 3) if is_quick else (1500, 5)
    texts = write_texts(n_texts)
    default = load_embedder(EmbedConfig(), "auto")
    exact = load_embedder(EmbedConfig(precision="float32"), "auto")
    seconds = time_in_turns(
        {
            "ours": lambda: default.embed(texts),
            "ours_float32": lambda: exact.embed(texts),
            "encode": lambda: plain_encode(exact, texts),
        },
        n_repeats,
    )
    reference = plain_encode(exact, texts)
    return {
        "n_texts": n_texts,
        "n_repeats": n_repeats,
        "precision": default.precision,
        "ours_texts_per_s": median_rate(n_texts, seconds["ours"]),
        "ours_float32_texts_per_s": median_rate(n_texts, seconds["ours_float32"]),
        "encode_texts_per_s": median_rate(n_texts, seconds["encode"]),
        "times_encode": speed_ratio(seconds["ours"], seconds["encode"]),
        "times_encode_float32": speed_ratio(seconds["ours_float32"], seconds["encode"]),
        "min_cosine": float((default.embed(texts) * reference).sum(axis=1).min()),
        "min_cosine_float32": float((exact.embed(texts) * reference).sum(axis=1).min()),
    }


def plain_encode(embedder: Any, texts: list[str]) -> Any:
    """What `SentenceTransformer.encode` gives with its default batch size."""
    return embedder.model.encode(texts, normalize_embeddings=True, show_progress_bar=False)


def measure_cache(is_quick: bool) -> Figures:
    """Seconds for 20,000 warm vectors from the embedding cache, from a numpy array, and from the
    model again (measured on a few texts and extrapolated)."""
    from whatchanged.config import EmbedConfig
    from whatchanged.keys import content_digests
    from whatchanged.models.sentence_transformers_embedder import load_embedder
    from whatchanged.store.embeddings import EmbeddingCache

    rng = np.random.default_rng(0)
    rows = rng.standard_normal((_N_VECTORS, _D_EMBED)).astype(np.float32)
    keys = content_digests("vector", map(str, range(_N_VECTORS)))
    order = rng.permutation(_N_VECTORS)
    asked = [keys[i] for i in order]
    n_again = 100 if is_quick else 400
    again = write_texts(n_again)
    embedder = load_embedder(EmbedConfig(), "auto")
    with tempfile.TemporaryDirectory() as folder:
        cache = EmbeddingCache(Path(folder))
        put = time_in_turns({"put": lambda: cache.put_many("profile", keys, rows)}, 1)
        known, found = cache.get_many("profile", asked, _D_EMBED)
        if not known.all() or not np.array_equal(found, rows[order]):
            raise RuntimeError("the cache gave back other vectors than it was given")
        seconds = time_in_turns(
            {
                "cache": lambda: cache.get_many("profile", asked, _D_EMBED),
                "gather": lambda: rows[order],
            },
            5 if is_quick else 15,
        )
    model = time_in_turns({"model": lambda: embedder.embed(again)}, 3)["model"]
    cache_s = statistics.median(seconds["cache"])
    again_s = statistics.median(model) * _N_VECTORS / n_again
    return {
        "n_vectors": _N_VECTORS,
        "d_embed": _D_EMBED,
        "cache_s": cache_s,
        "gather_s": statistics.median(seconds["gather"]),
        "cache_times_gather": speed_ratio(seconds["gather"], seconds["cache"]),
        "put_known_s": statistics.median(put["put"]),
        "embed_again_extrapolated_s": again_s,
        "embed_again_measured_texts": n_again,
        "times_embedding_again": again_s / cache_s,
    }


def stage_seconds(run: Path) -> Figures:
    """Seconds per stage of a finished run, from its summary, and each one's share of the sum."""
    seconds: dict[str, float] = json.loads((run / "summary.json").read_text())["seconds"]
    total = sum(seconds.values())
    shares = {name: value / total if total else 0.0 for name, value in seconds.items()}
    return {"run": run.name, "seconds": seconds, "shares": shares}


def read_prompts(n: int) -> list[str]:
    """The first prompts of the demo's bank."""
    from whatchanged.demo import demo_path

    lines = demo_path("prompts.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["prompt"] for line in lines[:: max(1, len(lines) // n)]][:n]


def decode_requests(prompts: Sequence[str], n_samples: int) -> list[Any]:
    """`n_samples` requests per prompt."""
    from whatchanged.keys import content_key
    from whatchanged.records import DecodeRequest

    return [
        DecodeRequest(
            content_key("profile", p, i), content_key("prompt", p), p, i, content_key("noise", p, i)
        )
        for p in prompts
        for i in range(n_samples)
    ]


def write_texts(n: int) -> list[str]:
    """Word sequences of 3 to 120 words, log-normal with a median of 14."""
    rng = np.random.default_rng(1)
    lengths = np.clip(rng.lognormal(np.log(14), 0.7, n), 3, 120).astype(int)
    words = _WORDS.split()
    return [" ".join(rng.choice(words, size)) for size in lengths]


SECTIONS: dict[str, Callable[[bool], Figures]] = {
    "decoder": measure_decoder,
    "embedder": measure_embedder,
    "embedding_cache": measure_cache,
}


def describe_machine() -> Figures:
    """What the figures depend on."""
    import platform

    import torch
    import transformers

    return {
        "n_cpus": os.cpu_count(),
        "n_threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer texts and repeats: 3 minutes")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument("--only", choices=SECTIONS, action="append", help="measure this section")
    parser.add_argument("--run", type=Path, help="add the seconds per stage of this run folder")
    options = parser.parse_args(arguments)
    result: Figures = {"benchmark": "profile", "quick": options.quick}
    result["machine"] = describe_machine()
    for name in options.only or SECTIONS:
        result[name] = SECTIONS[name](options.quick)
        print_section(name, result[name])
    if options.run is not None:
        result["stages"] = stage_seconds(options.run)
        print_section("stages", result["stages"])
    if options.json:
        print(json.dumps(result))


def print_section(name: str, figures: Figures) -> None:
    """Show one section's figures, one per line."""
    print(f"\n{name}")
    for key, value in figures.items():
        print(f"  {key:<32} {f'{value:.4g}' if isinstance(value, float) else value}")


if __name__ == "__main__":
    main()
