"""The insides of a finished audit: which components of the two models fire on its texts?

python -m flows.collect_activations --run runs/demo
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow
from prefect.runtime import flow_run
from prefect.task_runners import ThreadPoolTaskRunner

from tasks.activations import collect
from tasks.collection import open_collection
from tasks.dashboard import dashboard
from tasks.workers import Workers


def name_collection() -> str:
    """The flow run's name: the run folder's."""
    return f"activations of {Path(flow_run.parameters['run']).name}"


@flow(
    name="collect-activations",
    flow_run_name=name_collection,
    # One at a time: two models on one device would only wait for each other.
    task_runner=ThreadPoolTaskRunner(max_workers=1),  # type: ignore[arg-type]  # invariance
)
def collect_activations(run: str, overrides: list[str] | None = None) -> dict[str, Any]:
    """Add the folder `activations` to a finished run, or replace it; its summary."""
    collection = open_collection(run, overrides or [])
    with Workers(collection.config.run) as workers:
        summary = collect(collection, workers)
    if collection.config.report.dashboard:
        dashboard(run)
    return summary


if __name__ == "__main__":
    import argparse

    parser = argparse.ArgumentParser(description="Collect the activations of a finished audit.")
    parser.add_argument("--run", required=True)
    parser.add_argument("--set", action="append", default=[], metavar="a.b=c", dest="overrides")
    collect_activations(**vars(parser.parse_args()))
