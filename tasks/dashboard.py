"""The dashboard: the page of a finished run, and a link to it in the Prefect UI."""

from __future__ import annotations

from pathlib import Path

from prefect import get_run_logger, task
from prefect.artifacts import create_link_artifact
from prefect.cache_policies import NO_CACHE

from whatchanged.dashboard.export import export_folder
from whatchanged.store.runs import load_run


@task(name="dashboard", task_run_name="dashboard", cache_policy=NO_CACHE)
def dashboard(run: str) -> str:
    """Write the dashboard into a finished run's folder; its address. One there is replaced."""
    page, n_bytes = export_folder(load_run(Path(run)))
    address = page.resolve().as_uri()
    create_link_artifact(
        link=address, link_text=f"Dashboard of {Path(run).name}", key="dashboard",
        description="Opens in a browser on the machine that ran the flow.",
    )  # fmt: skip
    get_run_logger().info("dashboard: %s (%.1f MB)", address, n_bytes / 1e6)
    return address
