"""Audit pairs that are not in the repository, with the defaults, and count what was found.

    python -m benchmarks.heldout [--quick] [--json] [--pair NAME]... [--out DIR]

Plants and trains the pairs of `benchmarks.heldout_pairs` into the folder --out (by default below
the cache folder; weights of the same pair are kept), counts what the weights do on decoded texts,
and audits each pair in a process of its own. Its config names the two models and the prompt file,
and `decode.max_new_tokens` where replies are longer than the default; the truth is read afterwards.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

# Threads that wait must sleep, or two torch pools on the same cores stop each other.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from benchmarks.heldout_pairs import PAIRS, QUICK, HeldoutPair

Figures = dict[str, Any]

ROOT = Path(__file__).resolve().parents[1]
_PLANTED = "planted.json"
_FULL = {"n_texts": 4_000, "n_group_texts": 1_000}
_QUICK = {"n_texts": 600, "n_group_texts": 300}


def plant_pair(pair: HeldoutPair, folder: Path, counted: dict[str, int]) -> float:
    """Seconds to train base and intervention into `folder` and to count their behaviours there.

    0 where the folder holds the weights of the same pair already. `counted` says how many decoded
    texts the ground truth rests on, in `measure_pair`'s words.
    """
    marker = folder / _PLANTED
    if marker.exists() and json.loads(marker.read_text())["key"] == pair.key:
        return 0.0
    import torch

    from whatchanged.demo.measure import measure_pair
    from whatchanged.demo.train import write_bank

    torch.set_num_threads(1)
    started = time.perf_counter()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_bank(pair.spec, folder / "prompts.jsonl")
    write_audited_prompts(pair, folder)
    n_parameters = train_sides(pair, folder)
    measure_pair(pair.spec, folder, **counted)
    seconds = time.perf_counter() - started
    marker.write_text(
        json.dumps({"key": pair.key, "seconds": seconds, "n_parameters": n_parameters})
    )
    return seconds


def train_sides(pair: HeldoutPair, folder: Path) -> int:
    """Train the base and, from its stored weights, the intervention; the number of parameters."""
    from whatchanged.demo.train import fit, load_model, new_model, save_model, train_tokenizer

    spec = pair.spec
    tokenizer = train_tokenizer(spec)
    model = fit(new_model(spec.size, tokenizer, spec.seed), None, spec, "base", tokenizer)
    save_model(model, tokenizer, folder / "models" / "base")
    start, base = (load_model(folder / "models" / "base")[0] for _ in range(2))
    tuned = fit(start, base, spec, "intervention", tokenizer)
    save_model(tuned, tokenizer, folder / "models" / "intervention")
    return sum(parameter.numel() for parameter in model.parameters())


def write_audited_prompts(pair: HeldoutPair, folder: Path) -> None:
    """Write the prompt file that the audit sees: without groups where the pair has none."""
    rows = [json.loads(line) for line in (folder / "prompts.jsonl").read_text().splitlines()]
    kept = ("prompt", "group") if pair.has_groups else ("prompt",)
    lines = [json.dumps({name: row[name] for name in kept}) for row in rows]
    (folder / "audited_prompts.jsonl").write_text("\n".join(lines) + "\n")


def write_config(pair: HeldoutPair, folder: Path) -> Path:
    """Write the audit's config: two models, the prompts, and nothing else but a length limit."""
    config: Figures = {
        "base": {"model": str(folder / "models" / "base")},
        "intervention": {"model": str(folder / "models" / "intervention")},
        "prompts": {"file": str(folder / "audited_prompts.jsonl")},
    }
    if pair.max_new_tokens is not None:
        config["decode"] = {"max_new_tokens": pair.max_new_tokens}
    path = folder / f"{pair.name}.yaml"
    # JSON is YAML.
    path.write_text(json.dumps(config, indent=2) + "\n")
    return path


def run_audit(pair: HeldoutPair, folder: Path) -> float:
    """Seconds of an audit of the pair from an empty cache; its run folder is `folder/run`.

    Raises RuntimeError with the end of its log where it fails.
    """
    config, run = write_config(pair, folder), folder / "run"
    shutil.rmtree(run, ignore_errors=True)
    command = [sys.executable, "-m", "flows.audit", "--config", str(config), "--run-dir", str(run)]
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as cache:
        environment = {
            **os.environ,
            "WHATCHANGED_CACHE": cache,
            "PREFECT_LOCAL_STORAGE_PATH": str(Path(cache) / "prefect"),
            "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        }
        done = subprocess.run(
            command, cwd=ROOT, env=environment, text=True, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
    (folder / "audit.log").write_text(done.stdout)
    if done.returncode != 0:
        raise RuntimeError(f"the audit of {pair.name} failed:\n{done.stdout[-2000:]}")
    return time.perf_counter() - started


def measure_heldout(pair: HeldoutPair, out: Path, counted: dict[str, int], n_fresh: int) -> Figures:
    """All figures of one pair: planted, audited, scored."""
    from benchmarks.heldout_scores import score_run

    folder = out / pair.name
    with redirect_stdout(sys.stderr):
        plant_pair(pair, folder, counted)
    audit_s = run_audit(pair, folder)
    planted = json.loads((folder / _PLANTED).read_text())
    return {
        "pair": pair.name,
        "n_parameters": planted["n_parameters"],
        "planted_s": planted["seconds"],
        "audit_s": audit_s,
        **score_run(folder, n_fresh),
    }


def print_figures(figures: Figures) -> None:
    """Show one pair: what was planted and found, then what else was confirmed.

    "found?" marks a behaviour that supporting texts show, but that no criterion goes with.
    """
    texts, null = figures["texts_decoded"], figures["null_control"]
    print(
        f"\n{figures['pair']}: {figures['n_parameters'] / 1e6:.2f} M parameters, "
        f"{figures['n_prompts']} prompts in {figures['n_groups']} groups"
    )
    print(
        f"  audit: {figures['audit_s']:.0f} s, {sum(texts.values()):,} texts, "
        f"{figures['n_hypotheses']} hypotheses, {figures['n_confirmed']} confirmed; "
        f"null control: {null['n_confirmed']} of {null['n_hypotheses']} confirmed"
    )
    print(f"  behaviours found: {figures['n_found']} of {figures['n_planted']}")
    for row in figures["behaviours"]:
        rates = f"{row['rate_base']:.3f} -> {row['rate_intervention']:.3f}"
        told = "MISSED" if not row["found"] else "found" if row["by_association"] else "found?"
        by = ", ".join(row["by_association"] or row["findings"])
        print(
            f"    {told:<7} {row['id']:<22} {rates}  {'; '.join(x for x in (by, row['why']) if x)}"
        )
    print(
        f"  confirmed, but no planted behaviour: {len(figures['others'])}, "
        f"of which {figures['n_others_real']} are real by count"
    )
    for row in figures["others"]:
        counts = "{hits_base}/{n_base} -> {hits_intervention}/{n_intervention}".format(**row)
        told = "real" if row["is_real"] else "NOT REAL"
        print(f"    {told:<8} {counts} p={row['p_value']:.2g}  {row['statement']}")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.heldout", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one very small pair: 3 minutes")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument("--pair", choices=PAIRS, action="append", help="measure this pair")
    parser.add_argument("--out", type=Path, help="where weights and runs are kept")
    options = parser.parse_args(arguments)
    out = options.out
    if out is None:
        from whatchanged.store.artifacts import cache_root

        out = cache_root() / "heldout"
    pairs = [QUICK] if options.quick else [PAIRS[name] for name in options.pair or PAIRS]
    counted, n_fresh = (_QUICK, 600) if options.quick else (_FULL, 2_000)
    result: Figures = {"benchmark": "heldout", "quick": options.quick, "pairs": []}
    for pair in pairs:
        figures = measure_heldout(pair, out.resolve(), counted, n_fresh)
        print_figures(figures)
        result["pairs"].append(figures)
    for name in ("n_planted", "n_found", "n_confirmed", "n_others_real"):
        result[name] = sum(figures[name] for figures in result["pairs"])
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
