"""Trackers of experiments: Weights & Biases and MLflow, told once, at the end of a run.

Each gets exactly what a `TrackedRun` holds. What wandb would gather by itself (console output, the
repository, the program's source, figures of the machine) is switched off. A run that ends again
under the same key goes on in the tracker's run of before.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias

from whatchanged.errors import MissingDependencyError, first_line
from whatchanged.tracking import TrackedRun
from whatchanged.tracking_config import TrackingConfig

# Tells a tracker of a run; where it can be seen.
Tracker: TypeAlias = Callable[[TrackedRun], str]

_INIT_S = 30.0
_KEY_TAG = "whatchanged.key"
# MLflow's client waits for minutes for a server that is not there.
_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}


def open_trackers(config: TrackingConfig, folder: Path, *, is_offline: bool) -> dict[str, Tracker]:
    """The trackers of a config by name. wandb keeps its files in `folder`; with `is_offline` it
    leaves them there, to be sent by `wandb sync`."""
    found: dict[str, Tracker] = {}
    if config.wandb is not None:
        project = config.wandb
        found["wandb"] = lambda run: log_to_wandb(run, project, folder, is_offline=is_offline)
    if config.mlflow is not None:
        experiment = config.mlflow
        found["mlflow"] = lambda run: log_to_mlflow(run, experiment)
    return found


def log_to_wandb(run: TrackedRun, project: str, folder: Path, *, is_offline: bool) -> str:
    """Tell Weights & Biases; the address of the run, or the folder that holds it offline.

    Raises MissingDependencyError without the package, and what it raises.
    """
    try:
        import wandb
    except ImportError:
        raise _missing("wandb") from None
    entity, _, name = project.rpartition("/")
    settings = wandb.Settings(
        console="off", disable_git=True, disable_code=True, disable_job_creation=True,
        save_code=False, x_disable_stats=True, x_disable_meta=True, x_disable_machine_info=True,
        x_save_requirements=False, silent=True, init_timeout=_INIT_S,
    )  # fmt: skip
    logged = wandb.init(
        project=name,
        entity=entity or None,
        name=run.name,
        id=run.key[:32],
        resume="allow",
        config=dict(run.settings),
        dir=str(folder),
        mode="offline" if is_offline else None,
        settings=settings,
    )
    try:
        for measures in run.rounds:
            logged.log({f"round/{name}": value for name, value in measures.items()})
        logged.summary.update(dict(run.measures))
        if run.statements:
            columns = list(run.statements[0])
            rows = [[found[column] for column in columns] for found in run.statements]
            logged.log({"findings": wandb.Table(columns=columns, data=rows)})
    finally:
        logged.finish()
    return str(logged.url or logged.dir)


def log_to_mlflow(run: TrackedRun, experiment: str) -> str:
    """Tell MLflow; the address of the run in its store.

    Raises MissingDependencyError without the package, and what it raises.
    """
    for name, value in _PATIENCE.items():
        os.environ.setdefault(name, value)
    try:
        from mlflow.entities import Metric, Param
        from mlflow.tracking import MlflowClient
    except ImportError:
        raise _missing("mlflow") from None
    client = MlflowClient()
    found = client.get_experiment_by_name(experiment)
    place = found.experiment_id if found else client.create_experiment(experiment)
    earlier = client.search_runs([place], f"tags.`{_KEY_TAG}` = '{run.key}'", max_results=1)
    logged = (
        earlier[0]
        if earlier
        else client.create_run(place, run_name=run.name, tags={_KEY_TAG: run.key})
    )
    run_id = logged.info.run_id
    # MLflow refuses another value of a parameter that is there.
    known: Mapping[str, str] = logged.data.params
    params = [Param(name, str(value)) for name, value in run.settings.items() if name not in known]
    metrics = [Metric(name, value, 0, 0) for name, value in run.measures.items()]
    for step, measures in enumerate(run.rounds):
        metrics += [Metric(f"round/{name}", value, 0, step) for name, value in measures.items()]
    client.log_batch(run_id, metrics=metrics, params=params)
    if run.statements:
        client.log_dict(run_id, {"findings": list(run.statements)}, "findings.json")
    client.set_terminated(run_id)
    return f"{client.tracking_uri}#/experiments/{place}/runs/{run_id}"


def _missing(package: str) -> MissingDependencyError:
    return MissingDependencyError(
        f"expected the package {package} for tracking.{package}, found none: pip install "
        f"'whatchanged[{package}]'"
    )


def describe_failure(error: BaseException) -> str:
    """A tracker's failure in one line; its message may be long."""
    said = first_line(error)
    return f"{type(error).__name__}: {said}"[:300]
