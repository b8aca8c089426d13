"""Planted behaviours found against texts decoded: exhaustive, uniform and active sampling.

    python -m benchmarks.sampling [--quick] [--json] [--pairs demo,letters,rare,null] [--seeds N]
                                  [--variants PART,...] [--out DIR]

Every audit of the grid runs on a text pool of its pair and seed (`benchmarks.sampling_audit`).
Budgets are texts per side, the screen's included. Results are appended to `sampling.jsonl` in --out
as they come, under keys of their config and of the sources, so an interrupted run goes on where it
stopped and results of other code are never mixed in. Pairs that do not ship are those of
`benchmarks.heldout_pairs`, planted below --out unless they lie there (by default in the cache
folder; --quick measures anew in a temporary one). --variants keeps those whose name holds a part.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

# Threads that wait must sleep, or two torch pools on the same cores stop each other.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from benchmarks.heldout_pairs import PAIRS
from whatchanged.config import AcquisitionName, AuditConfig
from whatchanged.keys import content_key, file_digest

Figures = dict[str, Any]

ROOT = Path(__file__).resolve().parents[1]
EXHAUSTIVE, BUDGET, SMALL = 20_000, 2_000, 500
DEFAULT = f"combined-{BUDGET}-coupled"
QUICK = (f"uniform-{BUDGET}-coupled", DEFAULT, f"combined-{SMALL}-coupled")
# Centroids are kept where clusterings are compared.
_COMPARED = ("uniform", "combined")


@dataclass(frozen=True)
class Variant:
    """A way to sample: `method` is "uniform" or an acquisition; `n_texts` are per side."""

    method: str
    n_texts: int
    is_coupled: bool

    @property
    def name(self) -> str:
        return f"{self.method}-{self.n_texts}-{'coupled' if self.is_coupled else 'independent'}"


GRID = tuple(
    Variant(method, n_texts, is_coupled)
    for method, n_texts in (
        ("uniform", SMALL),
        ("uniform", BUDGET),
        ("combined", SMALL),
        *((name, BUDGET) for name in get_args(AcquisitionName)),
        ("uniform", EXHAUSTIVE),
    )
    for is_coupled in (True, False)
)


def configure(config: AuditConfig, variant: Variant, n_prompts: int, seed: int) -> AuditConfig:
    """The config of one audit, which decodes at most `variant.n_texts` per side before validation.

    Of what the screen of `n_prompts` discovery prompts leaves, the seed round gets at most a half
    and each round at most a quarter, so that a small budget has rounds at all.
    """
    is_uniform = variant.method == "uniform"
    coupling = "auto" if variant.is_coupled else "off"
    sample = {
        "strategy": "uniform" if is_uniform else "active",
        "acquisition": config.sample.acquisition if is_uniform else variant.method,
        "max_texts": variant.n_texts,
    }
    config = config.model_copy(
        update={
            "sample": config.sample.model_copy(update=sample),
            "decode": config.decode.model_copy(update={"coupling": coupling}),
            "seed": seed,
        }
    )
    left = config.sample_after_screen(n_prompts).max_texts
    rounds = {
        "seed_texts": max(1, min(config.sample.seed_texts, left // 2)),
        "round_texts": max(1, min(config.sample.round_texts, left // 4)),
    }
    return config.model_copy(update={"sample": config.sample.model_copy(update=rounds)})


class Results:
    """The rows of a JSON Lines file, one per measurement, found again by their key."""

    def __init__(self, path: Path) -> None:
        self.path = path
        written = path.read_text() if path.exists() else ""
        whole = written[: written.rfind("\n") + 1]
        if whole != written:  # the last row was cut off
            path.write_text(whole)
        rows = map(json.loads, whole.splitlines())
        self.rows: dict[str, Figures] = {row["key"]: row for row in rows}

    def add(self, key: str, row: Figures) -> Figures:
        """Append a row, which is on the disk before this returns."""
        self.rows[key] = {"key": key, **row}
        with self.path.open("a") as file:
            file.write(json.dumps(self.rows[key]) + "\n")
        return self.rows[key]


def source_digest() -> str:
    """Names the code that results depend on."""
    files = sorted((ROOT / "src" / "whatchanged").rglob("*.py"))
    files += [ROOT / "benchmarks" / f"{name}.py" for name in ("sampling_audit", "text_pool")]
    return content_key("source/1", [[str(p.relative_to(ROOT)), file_digest(p)] for p in files])


def measure_pair(
    name: str, variants: Sequence[Variant], seeds: Sequence[int], out: Path, is_quick: bool
) -> Figures:
    """All audits of one pair, its screen, its clusterings and its unplanted findings counted."""
    from benchmarks.sampling_measures import compare_clusterings, open_pair, recount_findings

    with redirect_stdout(sys.stderr):
        pair = open_pair(name, out)
    results = Results(out / "sampling.jsonl")
    key = content_key(
        "sampling/1", source_digest(), name, [pair.models.name(s, pair.config.decode) for s in
        ("base", "intervention")],
    )  # fmt: skip
    audits, screens = [], []
    for seed in seeds:
        done = measure_seed(pair, variants, seed, results, key, out)
        audits += done["audits"]
        screens.append(done["screen"])
    n_fresh = 600 if is_quick else 2_000
    unplanted = recount_findings(pair, audits, results, key, n_fresh)
    clusterings = {} if is_quick else compare_clusterings(pair, audits, out)
    return {
        "pair": name,
        "planted": [behaviour.id for behaviour in pair.truth],
        "audits": audits,
        "screens": screens,
        "unplanted": unplanted,
        "clusterings": clusterings,
    }


def measure_seed(
    pair: Any, variants: Sequence[Variant], seed: int, results: Results, key: str, out: Path
) -> Figures:
    """The audits and the screen of one seed: those that are not among the results are run."""
    import numpy as np

    from benchmarks.sampling_audit import run_audit
    from benchmarks.sampling_measures import measure_screen, open_pool

    pool = open_pool(pair, seed)
    n_prompts = len(pool.in_split("discovery"))
    audits = []
    for variant in variants:
        config = configure(pair.config, variant, n_prompts, seed)
        own = content_key("audit/1", key, config.model_dump(mode="json"))
        if own not in results.rows:
            started, decoded = time.perf_counter(), pool.n_decoded
            outcome = run_audit(pool, config, pair.truth)
            row = {
                "kind": "audit", "pair": pair.name, "seed": seed, "variant": variant.name,
                **{k: v for k, v in asdict(outcome).items() if k != "centroids"},
                "n_texts": outcome.n_texts,
                "texts_per_prompt": config.n_screen_texts(n_prompts),
                "wall_s": time.perf_counter() - started,
                "n_newly_decoded": pool.n_decoded - decoded,
            }  # fmt: skip
            if variant.method in _COMPARED:
                (out / "centroids").mkdir(exist_ok=True)
                np.save(out / "centroids" / f"{own}.npy", outcome.centroids)
            print_audit(results.add(own, row))
        audits.append(results.rows[own])
    own = content_key("screen/3", key, pair.config.model_dump(mode="json"), seed)
    if own not in results.rows:
        found = measure_screen(pair, pool)
        results.add(own, {"kind": "screen", "pair": pair.name, "seed": seed, **found})
    return {"audits": audits, "screen": results.rows[own]}


def print_audit(row: Figures) -> None:
    """One line per audit, on the error stream: a grid takes hours."""
    print(
        f"{row['pair']:<9} seed {row['seed']} {row['variant']:<30} "
        f"{len(row['found'])}/{row['n_planted']} found, {row['n_confirmed']} of "
        f"{row['n_hypotheses']} confirmed, {len(row['unplanted'])} unplanted, "
        f"{row['n_texts']} texts, {row['wall_s']:.0f} s",
        file=sys.stderr,
        flush=True,
    )


def summarize_variants(pairs: Sequence[Figures]) -> list[Figures]:
    """One row per variant: recall over seeds and behaviours with its 95 % Wilson interval (which
    takes them as independent; the seeds of one behaviour are not quite), texts, and the findings
    that are not significant in a recount on fresh texts ("false": at most so many are, since a
    recount can miss a small difference)."""
    from whatchanged.stats import wilson_interval

    names = dict.fromkeys(row["variant"] for pair in pairs for row in pair["audits"])
    is_real = {
        (pair["pair"], *_claim(row)): row["is_real"] for pair in pairs for row in pair["unplanted"]
    }
    rows = []
    for name in names:
        audits = [row for pair in pairs for row in pair["audits"] if row["variant"] == name]
        n_found = sum(len(row["found"]) for row in audits)
        n_planted = sum(row["n_planted"] for row in audits)
        interval = wilson_interval(n_found, n_planted) if n_planted else None
        others = [(row["pair"], *_claim(found)) for row in audits for found in row["unplanted"]]
        by_pair = {}
        for pair in pairs:
            mine = [row for row in audits if row["pair"] == pair["pair"]]
            by_pair[pair["pair"]] = sum(len(row["found"]) for row in mine) / max(1, len(mine))
        rows.append(
            {
                "variant": name,
                "n_audits": len(audits),
                "recall": n_found / n_planted if n_planted else None,
                "recall_low": interval.low if interval else None,
                "recall_high": interval.high if interval else None,
                "found_by_pair": by_pair,
                "n_confirmed": sum(row["n_confirmed"] for row in audits),
                "n_unplanted": len(others),
                "n_false": sum(not is_real[other] for other in others),
                **{
                    f"mean_{column}": sum(row[column] for row in audits) / len(audits)
                    for column in (
                        "n_texts", "n_screen", "n_validation", "n_tokens", "n_hypotheses",
                        "n_rounds",
                    )
                },
                "mean_cluster_s": sum(r["seconds"]["cluster"] for r in audits) / len(audits),
                "mean_share_identical": _mean([row["share_identical"] for row in audits]),
            }
        )  # fmt: skip
    return rows


def _claim(found: Figures) -> tuple[str, str, str]:
    return found["criterion"], found["direction"], found["scope"] or ""


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def summarize_screens(pairs: Sequence[Figures]) -> Figures:
    """Mean AUC over seeds per pair, ranking and number of short texts; None without carriers."""
    found: Figures = {}
    for pair in pairs:
        names = dict.fromkeys(name for row in pair["screens"] for name in row["auc"])
        found[pair["pair"]] = {
            "n_carriers": _mean([row["n_carriers"] for row in pair["screens"]]),
            "n_prompts": _mean([row["n_prompts"] for row in pair["screens"]]),
            "n_dropped": _mean([row["n_dropped"] for row in pair["screens"]]),
            "n_carriers_dropped": _mean([row["n_carriers_dropped"] for row in pair["screens"]]),
            "risk": _mean([row["risk"] for row in pair["screens"]]),
            **{name: _mean([row["auc"][name] for row in pair["screens"]]) for name in names},
        }
    return found


def print_figures(figures: Figures) -> None:
    """The tables: variants, unplanted findings, screens, clusterings."""
    names = [pair["pair"] for pair in figures["pairs"]]
    planted = "  ".join(f"{p['pair']} of {len(p['planted'])}" for p in figures["pairs"])
    print(f"\nbehaviours found (mean per audit: {planted}); texts per side; both sides' tokens")
    print(
        f"{'variant':<30}{'recall':>7} {'95 %':<14}"
        + "".join(f"{name:>9}" for name in names)
        + f"{'texts':>8}{'screen':>7}{'fresh':>7}{'tokens':>9}{'tested':>7}{'false':>7}{'same':>6}"
    )
    for row in figures["variants"]:
        interval = f"[{_show(row['recall_low'])}, {_show(row['recall_high'])}]"
        print(
            f"{row['variant']:<30}{_show(row['recall']):>7} {interval:<14}"
            + "".join(f"{row['found_by_pair'][name]:>9.2f}" for name in names)
            + f"{row['mean_n_texts']:>8.0f}{row['mean_n_screen']:>7.0f}"
            f"{row['mean_n_validation']:>7.0f}{row['mean_n_tokens']:>9.0f}"
            f"{row['mean_n_hypotheses']:>7.1f}"
            f"{row['n_false']:>4}/{row['n_confirmed']}{_show(row['mean_share_identical']):>6}"
        )
    print("false: confirmed, about nothing planted, not significant in a recount / all confirmed")
    for pair in figures["pairs"]:
        for row in pair["unplanted"]:
            counts = "{hits_base}/{n_base} -> {hits_intervention}/{n_intervention}".format(**row)
            told = "real" if row["is_real"] else "NOT REAL"
            print(f"  {pair['pair']:<9} {told:<8} {counts} p={row['p_value']:.2g}  "
                  f"{row['statement']}")  # fmt: skip
    print("\nscreen: AUC with which short texts per prompt and side rank carriers above the others")
    for name, row in figures["screen"].items():
        told = "  ".join(f"{k} {_show(v)}" for k, v in row.items() if not k.startswith("n_"))
        print(
            f"  {name:<9} {row['n_carriers']:.0f} of {row['n_prompts']:.0f} prompts, "
            f"{row['n_dropped']:.1f} dropped, {row['n_carriers_dropped']:.1f} of them carriers  "
            f"{told}"
        )
    for pair in figures["pairs"]:
        for name, row in pair["clusterings"].items():
            told = "  ".join(f"{k} {_show(v)}" for k, v in row.items())
            print(f"clustering {pair['pair']:<9} {name:<30} {told}")


def _show(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def claim_figures(figures: Figures) -> Figures:
    """The figures in short: what the last line holds with --json."""
    return {
        "benchmark": "sampling",
        "quick": figures["quick"],
        "pairs": {pair["pair"]: len(pair["planted"]) for pair in figures["pairs"]},
        "n_seeds": figures["n_seeds"],
        "variants": figures["variants"],
        "screen": figures["screen"],
        "clusterings": {pair["pair"]: pair["clusterings"] for pair in figures["pairs"]},
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sampling", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="demo pair, 1 seed: 3 minutes")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument("--pairs", default="demo,letters,rare,null", help="names, with commas")
    parser.add_argument("--seeds", type=int, default=5, help="audits per variant and pair")
    parser.add_argument("--variants", default="", help="parts of names, with commas")
    parser.add_argument("--out", type=Path, help="where pairs and results are kept")
    options = parser.parse_args(arguments)
    names = ["demo"] if options.quick else options.pairs.split(",")
    if unknown := [name for name in names if name not in ("demo", *PAIRS)]:
        parser.error(f"no such pair: {', '.join(unknown)}; there are demo, {', '.join(PAIRS)}")
    parts = QUICK if options.quick else options.variants.split(",")
    variants = [variant for variant in GRID if any(part in variant.name for part in parts)]
    seeds = range(1 if options.quick else options.seeds)
    import torch

    # One thread gives the same sums everywhere, and these models are too small for more.
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        out = options.out or (Path(temporary) if options.quick else _default_out())
        out.mkdir(parents=True, exist_ok=True)
        pairs = [measure_pair(n, variants, seeds, out.resolve(), options.quick) for n in names]
    figures: Figures = {"quick": options.quick, "n_seeds": len(seeds), "pairs": pairs}
    figures["variants"] = summarize_variants(pairs)
    figures["screen"] = summarize_screens(pairs)
    print_figures(figures)
    if options.json:
        print(json.dumps(claim_figures(figures)))


def _default_out() -> Path:
    from whatchanged.store.artifacts import cache_root

    return cache_root() / "heldout"


if __name__ == "__main__":
    main()
