"""What judging costs and what it loses: wave by wave against every text by the expensive judge.

    python -m benchmarks.judge_cost [--quick] [--json] [--seed N] [--run DIR]

Simulated audits with known truth (`benchmarks.judge_worlds`). A cheap call costs 1, an expensive
one 20; the reference asks the expensive judge about every text and pays for nothing else. The
settings were chosen on seeds 1 to 11; runs start from another.

`real` is the power over hypotheses that are true, `FDR` the mean share of false ones among the
confirmed, `agree` the share of hypotheses on which both reach the same conclusion, `cover` how
often the predicted 95 % interval holds the expected difference of expensive verdicts, over all
hypotheses that it is given for (not those dropped on cheap scores alone).

With `--run`, the bill of a finished paid run (`configs/gemini.yaml`, say, against
`tests.loopback.server`) comes first: what its judges were paid, and what the expensive one would
have been paid for every text of every hypothesis, at its mean price of that run.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.judge_audit import Progress, Settings, judge_all, judge_audit
from benchmarks.judge_worlds import World, draw_case
from whatchanged.errors import InputError
from whatchanged.store.runs import load_run
from whatchanged.summary import tabulate_judging
from whatchanged.verdicts import TIERS

Figures = dict[str, Any]

PRICE_RATIO = 20
MIXED = World()
NULL = World(real_share=0.0, small_share=0.0)


def measure(name: str, world: World, settings: Settings, n_audits: int, seed: int) -> Figures:
    """One row of the table: `n_audits` audits of a world, and their reference."""
    rng, rows = np.random.default_rng(seed), []
    false_shares: list[tuple[float, float]] = []
    started = time.perf_counter()
    for _ in range(n_audits):
        cases = [draw_case(world, rng) for _ in range(world.n_hypotheses)]
        found = judge_audit(cases, world, settings, rng)
        reference = judge_all(cases, world)
        confirmed = np.array([state.is_confirmed for state in found])
        is_real = np.array([case.is_real for case in cases])
        false_shares.append((_false_share(confirmed, is_real), _false_share(reference, is_real)))
        rows += [(_costs(state), *_coverage(state), *flags) for state, *flags in zip(
            found, is_real, [case.is_fooled for case in cases], confirmed, reference, strict=True,
        )]  # fmt: skip
    costs, given, covered, width, real, fooled, confirmed, reference = map(
        np.array, zip(*rows, strict=True)
    )
    false, false_reference = np.mean(false_shares, axis=0)
    return {
        "name": name,
        "n_audits": n_audits,
        "n_hypotheses": len(rows),
        "cost": float(costs[:, 0].sum() / costs[:, 1].sum()),
        "asked": float(costs[:, 2].sum() / costs[:, 1].sum() * PRICE_RATIO),
        "power": _mean(confirmed[real]),
        "power_reference": _mean(reference[real]),
        "agreement": _mean(confirmed == reference),
        "fdr": float(false),
        "fdr_error": float(np.std([f for f, _ in false_shares]) / math.sqrt(n_audits)),
        "fdr_reference": float(false_reference),
        "coverage": _mean(covered[given]),
        "coverage_confirmed": _mean(covered[given & confirmed]),
        "width_confirmed": _mean(width[given & confirmed]),
        "fooled_confirmed": _mean(confirmed[fooled]),
        "wall_s": time.perf_counter() - started,
    }


def _costs(state: Progress) -> tuple[float, float, float]:
    """In units of a cheap call: what was paid, what the reference pays, and for how many texts the
    expensive judge was asked."""
    n_texts = int(state.case.is_distinct.sum())
    return (
        state.n_read + PRICE_RATIO * state.n_asked,
        PRICE_RATIO * n_texts,
        state.n_asked,
    )


def _coverage(state: Progress) -> tuple[bool, bool, float]:
    """Whether there is an interval, whether it holds the truth, and how wide it is."""
    if state.interval is None:
        return False, False, 0.0
    low, high = state.interval.ci_low, state.interval.ci_high
    return True, low <= state.case.effect <= high, high - low


def _false_share(confirmed: np.ndarray, is_real: np.ndarray) -> float:
    return float((confirmed & ~is_real).sum() / max(1, confirmed.sum()))


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None


def read_bill(path: Path) -> Figures:
    """What judging a finished run cost, and what the expensive judge alone would have cost.

    `cost` is their ratio, `cost_simulated` what it would be at the price ratio of the simulated
    worlds; the proposer is in neither. Raises InputError where the folder is no finished run, or
    its judges were not both paid, at known prices, by it.
    """
    summary = load_run(path).summary
    rows = {row["for"]: row for row in tabulate_judging(summary["judge"], summary["bill"])}
    if not rows.keys() >= {"cheap", "expensive", "expensive on every text"}:
        raise InputError(
            f"expected a run at {path} that paid both judges at known prices, found none: run a"
            " config with two judges behind an API in a new folder and an empty cache"
        )
    paid, everything = [rows[tier] for tier in TIERS], rows["expensive on every text"]
    usd, n_texts = sum(row["dollars"] for row in paid), everything["calls"]
    n_cheap, n_expensive = (row["calls"] for row in paid)
    return {
        "n_texts": n_texts,
        "n_calls": {"cheap": n_cheap, "expensive": n_expensive},
        "usd": usd,
        "usd_everything": everything["dollars"],
        "cost": usd / everything["dollars"],
        "cost_simulated": (n_cheap / PRICE_RATIO + n_expensive) / n_texts,
    }


def plan_rows(is_quick: bool) -> list[tuple[str, World, Settings, int]]:
    """The worlds and settings measured: what is claimed first, then what varies."""
    many, few = (100, 12) if is_quick else (1000, 100)
    default = Settings()
    # A strict guard needs waves in which it can be met.
    whole = replace(
        default,
        waves=(*default.waves, 1.0),
        borderline_waves=(*default.borderline_waves, 1.0),
        spent=(0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
    )
    fooled = replace(MIXED, fooled_share=0.1)
    rows = [("mixed", MIXED, default, many), ("nothing changed", NULL, default, many)]
    rows += [
        (
            f"cheap wrong {low:.0%} to {high:.0%}",
            replace(MIXED, cheap_error=(low, high)),
            default,
            few,
        )
        for low, high in ((0.04, 0.06), (0.18, 0.22), (0.28, 0.32))
    ]
    rows += [
        ("expensive wrong 6%", replace(MIXED, expensive_error=0.06), default, few),
        ("all false: small", replace(NULL, small_share=1.0), default, 4 * few),
        ("coupled pairs", replace(MIXED, is_paired=True), default, few),
        ("1/10 fooled, cheap alone", fooled, replace(default, max_guard=1.0), few),
        ("1/10 fooled", fooled, default, few),
    ]
    rows += [
        (f"1/10 fooled, guard {guard}", fooled, replace(whole, max_guard=guard), few)
        for guard in (0.2, 0.05)
    ]
    return rows


def print_row(row: Figures) -> None:
    print(
        f"{row['name']:<28}{row['n_hypotheses']:>7}{row['cost']:>7.3f}{row['asked']:>7.3f}"
        f"{_show(row['power']):>7}{_show(row['power_reference']):>7}{_show(row['agreement']):>7}"
        f"{_show(row['fdr']):>7}{_show(row['fdr_reference']):>7}{_show(row['coverage']):>7}"
        f"{_show(row['coverage_confirmed']):>7}{_show(row['width_confirmed']):>7}"
        f"{_show(row['fooled_confirmed']):>7}"
        f"{row['wall_s']:>6.0f}",
        flush=True,
    )


def _show(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.3f}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.judge_cost", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="a tenth of the audits: 2 minutes")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--run", type=Path, metavar="DIR", help="a finished paid run")
    options = parser.parse_args(arguments)
    print(f"{asdict(MIXED)}\n{asdict(Settings())}", file=sys.stderr)
    bill = None if options.run is None else read_bill(options.run)
    if bill is not None:
        print(
            f"{options.run}: {bill['n_texts']:,} texts to judge,"
            f" {bill['n_calls']['cheap']:,} cheap and {bill['n_calls']['expensive']:,} expensive"
            f" calls, ${bill['usd']:.4f} instead of ${bill['usd_everything']:.4f}:"
            f" {bill['cost']:.3f} (at a price ratio of {PRICE_RATIO}: {bill['cost_simulated']:.3f})"
        )
    names = ("hyp.", "cost", "asked", "real", "(all)", "agree", "FDR", "(all)", "cover", "conf.",
             "width", "fooled")  # fmt: skip
    print(" " * 28 + "".join(f"{name:>7}" for name in names) + f"{'s':>6}")
    rows = []
    for name, world, settings, n_audits in plan_rows(options.quick):
        rows.append(measure(name, world, settings, n_audits, options.seed))
        print_row(rows[-1])
    print("(all): every text by the expensive judge; conf., width: of confirmed; fooled: confirmed")
    if options.json:
        found = {"benchmark": "judge_cost", "quick": options.quick, "rows": rows, "bill": bill}
        print(json.dumps(found))


if __name__ == "__main__":
    main()
