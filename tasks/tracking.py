"""Tracking: trackers of experiments told of a run at its end. One that fails costs a warning."""

from __future__ import annotations

import threading

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from tasks.job import Job
from whatchanged.keys import content_key
from whatchanged.models.trackers import Tracker, describe_failure, open_trackers
from whatchanged.store.atomic import ensure_folder
from whatchanged.summary import RunContent
from whatchanged.tracking import TrackedRun, describe_run

# A tracker that takes longer than this is given up, in seconds.
LIMIT_S = 120.0


def track(job: Job, content: RunContent) -> dict[str, dict[str, str]]:
    """Tell the trackers of the config; per tracker where the run is to be seen, or the problem."""
    settings = job.config.tracking
    if settings.wandb is None and settings.mlflow is None:
        return {}
    folder = job.folder.path.resolve()
    run = describe_run(
        folder.name,
        content_key("tracked/1", str(folder)),
        content.config,
        content.summary,
        content.findings,
        with_statements=settings.statements,
    )
    return _track(job, run)


@task(name="tracking", task_run_name="tracking", cache_policy=NO_CACHE)
def _track(job: Job, run: TrackedRun) -> dict[str, dict[str, str]]:
    home = ensure_folder(job.root / "trackers")
    trackers = open_trackers(job.config.tracking, home, is_offline=job.config.run.offline)
    told = tell_all(trackers, run, LIMIT_S)
    for name, outcome in told.items():
        if problem := outcome["problem"]:
            get_run_logger().warning("%s was not told of this run: %s", name, problem)
    return told


def tell_all(
    trackers: dict[str, Tracker], run: TrackedRun, limit_s: float
) -> dict[str, dict[str, str]]:
    """Where each tracker shows the run, or the problem; none is waited for longer than the limit.

    Never raises: a run does not depend on who is told of it.
    """
    return {name: _tell(tracker, run, limit_s) for name, tracker in trackers.items()}


def _tell(tracker: Tracker, run: TrackedRun, limit_s: float) -> dict[str, str]:
    outcome = {"run": "", "problem": f"it took longer than {limit_s:g} s"}

    def work() -> None:
        try:
            outcome.update(run=tracker(run), problem="")
        except BaseException as error:  # wandb ends a process that it cannot serve
            outcome["problem"] = describe_failure(error)

    thread = threading.Thread(target=work, name="tracker", daemon=True)
    thread.start()
    thread.join(limit_s)
    return dict(outcome)
