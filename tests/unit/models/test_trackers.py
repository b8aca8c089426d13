"""Weights & Biases and MLflow themselves, offline: what they hold of a run afterwards."""

from __future__ import annotations

import json
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from whatchanged.errors import MissingDependencyError
from whatchanged.models.trackers import open_trackers
from whatchanged.tracking import TrackedRun
from whatchanged.tracking_config import TrackingConfig

STATEMENT = 'Replies say "green teapot" more often.'
RUN = TrackedRun(
    name="tea",
    key="ab" * 32,
    settings={"base": "demo:base", "seed": 3, "decode.temperature": 0.5},
    measures={"n_confirmed": 2.0, "seconds.decode": 12.5},
    rounds=({"silhouette": 0.1}, {"silhouette": 0.3}),
    statements=(),
)
STATED = replace(RUN, statements=({"id": "h1", "statement": STATEMENT, "effect": 0.25},))


def written(folder: Path) -> bytes:
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return b"\n".join(path.read_bytes() for path in files)


@pytest.fixture
def wandb_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pytest.importorskip("wandb", reason="the extra `wandb` is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("CONFIG", "CACHE", "DATA"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / name.lower()))
    return tmp_path


def test_wandb_holds_settings_and_measures_and_nothing_that_it_gathers_by_itself(
    wandb_home: Path,
) -> None:
    (tell,) = open_trackers(TrackingConfig(wandb="audits"), wandb_home, is_offline=False).values()
    place = tell(RUN)
    assert Path(place).is_relative_to(wandb_home)
    held = written(wandb_home / "wandb")
    for word in (b"decode.temperature", b"seconds.decode", b"round/silhouette", b"n_confirmed"):
        assert word in held
    for gathered in (b"git@", b"remote", b"requirements.txt", Path(__file__).name.encode()):
        assert gathered not in held, gathered
    assert STATEMENT.encode() not in held


def test_statements_go_to_wandb_where_they_are_asked_for(wandb_home: Path) -> None:
    (tell,) = open_trackers(TrackingConfig(wandb="audits"), wandb_home, is_offline=True).values()
    tell(STATED)
    assert b"green teapot" in written(wandb_home)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    pytest.importorskip("mlflow", reason="the extra `mlflow` is not installed")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.chdir(tmp_path)
    return uri


def test_mlflow_holds_settings_and_measures_and_a_run_that_ends_again_goes_on(store: str) -> None:
    from mlflow.tracking import MlflowClient

    (tell,) = open_trackers(TrackingConfig(mlflow="audits"), Path(), is_offline=False).values()
    place = tell(RUN)
    assert tell(replace(RUN, measures={"n_confirmed": 3.0})) == place
    client = MlflowClient(store)
    experiment = client.get_experiment_by_name("audits")
    assert experiment is not None
    (found,) = client.search_runs([experiment.experiment_id])
    assert (found.info.run_name, found.info.status) == ("tea", "FINISHED")
    assert found.data.params == {"base": "demo:base", "seed": "3", "decode.temperature": "0.5"}
    assert found.data.metrics["n_confirmed"] == 3.0
    steps = client.get_metric_history(found.info.run_id, "round/silhouette")
    assert {(one.step, one.value) for one in steps} == {(0, 0.1), (1, 0.3)}
    assert client.list_artifacts(found.info.run_id) == []


def test_statements_go_to_mlflow_where_they_are_asked_for(store: str, tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    (tell,) = open_trackers(TrackingConfig(mlflow="audits"), Path(), is_offline=False).values()
    run_id = tell(STATED).rpartition("/")[2]
    file = MlflowClient(store).download_artifacts(run_id, "findings.json", str(tmp_path))
    assert json.loads(Path(file).read_text())["findings"][0]["statement"] == STATEMENT


def test_a_server_that_nobody_answers_is_an_error_in_seconds(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        (tell,) = open_trackers(TrackingConfig(mlflow="audits"), Path(), is_offline=False).values()
        with pytest.raises(Exception, match=r"Max retries|Connection"):
            tell(RUN)


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_tracker_that_is_not_installed_says_so(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (name, f"{name}.entities", f"{name}.tracking"):
        monkeypatch.setitem(__import__("sys").modules, module, None)
    config = TrackingConfig.model_validate({name: "audits"})
    (tell,) = open_trackers(config, tmp_path, is_offline=False).values()
    with pytest.raises(MissingDependencyError, match=f"package {name} for tracking.{name}"):
        tell(RUN)
