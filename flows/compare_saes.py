"""The comparison of SAEs: what do their features say of categorized texts?

python -m flows.compare_saes --config configs/saes.yaml
"""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner

from tasks.dashboard import dashboard
from tasks.job import name_run
from tasks.sae_comparison import open_comparison
from tasks.saes import Found, ablate, analyze, compare, extract, overlap, report


@flow(
    name="compare-saes",
    flow_run_name=name_run,
    # One at a time: two models on one device would only wait for each other.
    task_runner=ThreadPoolTaskRunner(max_workers=1),  # type: ignore[arg-type]  # invariance
)
def compare_saes(
    config: str, overrides: list[str] | None = None, run_dir: str | None = None
) -> dict[str, Any]:
    """Run the comparison of a config file; the content of `summary.json`, with the run's folder."""
    comparison = open_comparison(config, overrides or [], run_dir)
    extracted = {side: extract(comparison, side) for side in comparison.models}
    own = extracted["base"]
    analyzed = analyze(comparison, own)
    ablated = ablate(comparison, own, analyzed)
    changed = compare(comparison, extracted)
    found = Found(extracted, analyzed, ablated, changed, overlap(comparison, own))
    summary = report(comparison, found)
    if comparison.config.dashboard:
        dashboard(summary["run"])
    return summary


if __name__ == "__main__":
    import argparse

    parser = argparse.ArgumentParser(description="Run the comparison of a config file.")
    parser.add_argument("--config", required=True)
    parser.add_argument("--set", action="append", default=[], metavar="a.b=c", dest="overrides")
    parser.add_argument("--run-dir")
    compare_saes(**vars(parser.parse_args()))
