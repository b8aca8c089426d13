"""What the weight-delta directions of the demo pair contributed to its planted behaviours.

    python -m benchmarks.contributions [--quick] [--json]

Decodes texts of the base, the intervention and the null intervention, marks those that show a
planted behaviour by the ground truth's patterns, and compares them with other texts of the same
prompts: `log-ratio` in nats, the `share` of it that all directions together carried and their AUC
within prompts, and how many directions exceed the `control` of random ones. The null pair beside
them should have none. `--quick` decodes fewer texts, of the planted topics only, so that a tic on
any topic has too few.
"""

from __future__ import annotations

import argparse
import json
import os
import re
from dataclasses import dataclass
from typing import Any

# Threads that wait must sleep, or two torch pools on the same cores stop each other.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np

from whatchanged.activations.attribution import contrast, find_contributors
from whatchanged.demo import demo_path
from whatchanged.demo.measure import read_bank
from whatchanged.keys import content_key
from whatchanged.model_config import DecodeConfig, ModelConfig
from whatchanged.models.contribution_totals import pair_collector, total_contributions
from whatchanged.models.loading import load_scorer
from whatchanged.models.weight_delta import weight_delta
from whatchanged.records import DecodeRequest
from whatchanged.stats import auc

DECODE = DecodeConfig(max_new_tokens=96)
SIDES = {"intervention": "demo:intervention", "null": "demo:null_intervention"}


@dataclass(frozen=True)
class Row:
    """One decoded text of a prompt."""

    side: str
    prompt: str
    group: str
    text: str
    n_prompt: int
    ids: tuple[int, ...]


def decode(decoder: Any, side: str, bank: list[tuple[str, str]], n_texts: int) -> list[Row]:
    """`n_texts` texts of every prompt."""
    asked = [(prompt, group, i) for prompt, group in bank for i in range(n_texts)]
    requests = [
        DecodeRequest(
            content_key("benchmark-text", side, prompt, i),
            content_key("benchmark-prompt", prompt),
            prompt,
            i,
            content_key("benchmark-noise", side, prompt, i),
        )
        for prompt, _, i in asked
    ]
    starts = {prompt: decoder.encoder.encode([prompt])[0].ids for prompt, _ in bank}
    return [
        Row(side, p, group, c.text, len(starts[p]), (*starts[p], *c.token_ids))
        for (p, group, _), c in zip(asked, decoder.decode(requests), strict=True)
    ]


def auc_within(values: np.ndarray, prompts: list[str], kinds: np.ndarray) -> float:
    """The chance that a supporting text has more than another text of its prompt."""
    names = np.array(prompts)
    won, n_pairs = 0.0, 0
    for prompt in set(prompts):
        ours, others = (values[(names == prompt) & (kinds == kind)] for kind in (True, False))
        n = len(ours) * len(others)
        won += n * auc(others, ours) if n else 0.0
        n_pairs += n
    return won / n_pairs


def measure_pair(name: str, bank: list[tuple[str, str]], n_texts: int, n_points: int) -> list[Any]:
    """One line of figures per finding of a pair: the planted behaviours, and side against side."""
    sides = [ModelConfig(model=model) for model in ("demo:base", SIDES[name])]
    pair = load_scorer(sides[0], sides[1], DECODE, "plain", "auto")
    rows = decode(pair.base, "base", bank, n_texts)
    rows += decode(pair.intervention, name, bank, n_texts)
    delta = weight_delta(pair.base.model, pair.intervention.model)
    collector = pair_collector(pair, delta, n_points=n_points, seed=0)
    totals = total_contributions(collector, [r.ids for r in rows], [r.n_prompt for r in rows])
    findings = {"side": (None, np.array([row.side != "base" for row in rows]))}
    for planted in json.loads(demo_path("ground_truth.json").read_text())["behaviours"]:
        shows = [re.search(planted["regex"], row.text) is not None for row in rows]
        findings[planted["id"]] = planted["group"], np.array(shows)
    lines = []
    for finding, (group, shows) in findings.items():
        kept = np.flatnonzero([group in (None, row.group) for row in rows])
        prompts = [rows[i].prompt for i in kept]
        kinds = shows[kept]
        labels, values = totals.of_directions()
        ratios = totals.log_ratios[kept]
        of_ratio = contrast(ratios[:, None], prompts, kinds)
        figures = {"pair": name, "finding": finding, "n": [int(kinds.sum()), int((~kinds).sum())]}
        if of_ratio.n_prompts >= 2:
            controls = totals.controls[kept]
            parts = find_contributors(
                labels, values[kept], controls, collector.strengths, ratios, prompts, kinds
            )
            nats = float(of_ratio.nats[0])
            figures |= {
                "nats": nats,
                "share": sum(part.nats for part in parts) / nats,
                "auc": auc_within(values[kept].sum(axis=1), prompts, kinds),
                "n_directions": len(parts),
                "n_significant": sum(part.p_adjusted <= 0.05 for part in parts),
            }
        lines.append(figures)
    return lines


def main() -> None:
    """Command line: measure both pairs and print their table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="fewer texts, within three minutes")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    args = parser.parse_args()
    bank = read_bank(demo_path("prompts.jsonl"))
    if args.quick:
        planted = json.loads(demo_path("ground_truth.json").read_text())["behaviours"]
        groups = {behaviour["group"] for behaviour in planted}
        bank = [(prompt, group) for prompt, group in bank if group in groups]
    print(f"{'pair':13s}{'finding':22s}{'texts':>12s}{'nats':>9s}{'share':>7s}{'AUC':>6s}  control")
    lines = []
    for name in SIDES:
        for line in measure_pair(name, bank, 4 if args.quick else 7, 2 if args.quick else 6):
            lines.append(line)
            start = f"{line['pair']:13s}{line['finding']:22s}{'/'.join(map(str, line['n'])):>12s}"
            if "nats" not in line:
                print(f"{start}   too few texts", flush=True)
                continue
            share = f"{line['nats']:9.3f}{line['share']:7.2f}{line['auc']:6.2f}"
            print(f"{start}{share}  {line['n_significant']} of {line['n_directions']}", flush=True)
    if args.json:
        print(json.dumps({"findings": lines}))


if __name__ == "__main__":
    main()
