"""The whole path of a deployment on this machine: server, pool, worker, runs, and dead ones."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import whatchanged

PROJECT = Path(__file__).parents[2]
CANARY = "sk-canary-5c0d1e7f2b"
SMALLEST = """\
base: {model: demo:base}
intervention: {model: demo:intervention}
prompts: {file: demo:prompts.jsonl}
divergence: {texts_per_prompt: 1}
decode: {chunk_texts: 150, max_new_tokens: 64}
cluster: {n_clusters: 8}
sample: {seed_texts: 288, round_texts: 144, max_rounds: 0}
validate: {texts_per_hypothesis: 120, max_texts_per_hypothesis: 120, n_permutations: 500,
           null_control: false}
activations: {sources: []}
report: {dashboard: false}
"""
# The parts of a run that are never cached: they write the run's own folder.
NEVER_CACHED = {"report", "store activations"}
pytestmark = [pytest.mark.flows, pytest.mark.long, pytest.mark.timeout(1500)]


@dataclass(frozen=True)
class Deployed:
    """A server with its worker; a run that met a transient failure, and one after it."""

    local: Any
    client: Any
    config: Path
    first: Any
    second: Any


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    from flows import deploy

    home = tmp_path_factory.mktemp("deployed")
    config = home / "small.yaml"
    config.write_text(SMALLEST)
    local = deploy.Local(home, deploy.free_port())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", CANARY)
        with deploy.served(local) as client:
            deploy.register(client, local.environment)
            # What is there already stays.
            deploy.register(client, local.environment)
            with deploy.running(*local.worker):
                ends = []
                for name, fault in (("first", deploy.TRANSIENT_FAULT), ("second", "")):
                    asked = {"config": str(config), "run_dir": str(home / "runs" / name)}
                    asked_id = deploy.launch(client, "audit/local", asked, fault)
                    ends.append(deploy.follow(client, asked_id, patience_s=600))
                yield Deployed(local, client, config, *ends)


def test_a_worker_of_the_pool_runs_both_to_completion(deployed: Deployed) -> None:
    for run in (deployed.first, deployed.second):
        assert run.state.name == "Completed"
        assert run.work_pool_name == "local-pool"
        assert (deployed.local.home / "runs" / run.name / "report.html").is_file()


def test_a_transient_failure_shows_as_a_retry_with_its_reason(deployed: Deployed) -> None:
    from flows.deploy import read_retries, read_task_runs

    (line,) = read_retries(deployed.client, deployed.first.id)
    assert "asked decode.before_chunk to fail this once" in line
    assert " - Retry 1/3 will start " in line
    (retried,) = (
        run for run in read_task_runs(deployed.client, deployed.first.id) if run.run_count == 2
    )
    states = [state.name for state in deployed.client.read_task_run_states(retried.id)]
    assert states == ["Pending", "Running", "AwaitingRetry", "Retrying", "Completed"]
    assert retried.name.startswith("decode pair ")


def test_a_second_run_shows_cached_tasks(deployed: Deployed) -> None:
    from flows.deploy import read_task_runs

    states = {
        run.name: run.state_name for run in read_task_runs(deployed.client, deployed.second.id)
    }
    computed = {name for name, state in states.items() if state != "Cached"}
    assert computed == NEVER_CACHED
    assert len(states) - len(computed) > 20
    summary = whatchanged.load(deployed.local.home / "runs" / "second").summary
    assert sum(side["n_decoded"] for side in summary["decode"].values()) == 0


def test_the_page_has_progress_tables_and_one_summary(deployed: Deployed) -> None:
    with closing(sqlite3.connect(deployed.local.database)) as database:
        rows = database.execute(
            "select key, type, data from artifact where flow_run_id = ?", [str(deployed.first.id)]
        ).fetchall()
    kinds = {key: kind for key, kind, _ in rows if key}
    assert kinds["decode-pair-discovery"] == "progress"
    assert kinds["decode-pair-discovery-tasks"] == "table"
    assert kinds["judge-pair-tasks"] == "table"
    assert [key for key, kind in kinds.items() if kind == "markdown"].count("overview") == 1
    (overview,) = (data for key, _, data in rows if key == "overview")
    assert "asked decode.before_chunk to fail this once" in overview


def test_the_database_of_the_server_holds_no_text_no_prompt_and_no_key(deployed: Deployed) -> None:
    raw = b"".join(path.read_bytes() for path in deployed.local.database.parent.glob("prefect.db*"))
    assert CANARY.encode() not in raw
    held = runs_of_words(stored_words(deployed.local.database))
    # The search finds what is there.
    assert runs_of_words("asked decode before_chunk to fail this once") <= held
    texts = whatchanged.load(deployed.local.home / "runs" / "first").texts
    own = pd.concat([texts["text"], texts["prompt"]]).drop_duplicates()
    searched = [runs_of_words(text) for text in own]
    assert sum(map(bool, searched)) > 500
    assert [words for words in searched if words & held] == []


def stored_words(database: Path) -> str:
    """Everything in every table, as one text."""
    with closing(sqlite3.connect(database)) as opened:
        return "\n".join(opened.iterdump())


def runs_of_words(text: str, n: int = 5) -> set[tuple[str, ...]]:
    """Every `n` words in a row, whatever stands between them; none in a shorter text."""
    words = re.findall(r"[a-z_]+", text.lower().replace("\\n", " "))
    return set(zip(*(words[start:] for start in range(n)), strict=False))


def test_every_deployment_has_a_pool_an_environment_and_a_limit(deployed: Deployed) -> None:
    found = deployed.client.read_deployments()
    assert len(found) == 6
    for one in found:
        assert one.work_pool_name == f"{one.name}-pool"
        assert one.job_variables["env"]["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == "30"
        assert one.global_concurrency_limit.limit == 1
    (scheduled,) = (schedule for one in found for schedule in one.schedules)
    assert not scheduled.active


def test_a_run_that_is_killed_under_a_worker_is_crashed_at_once(deployed: Deployed) -> None:
    from flows.deploy import follow, launch

    # Another seed: nothing of it is cached.
    run_dir = deployed.local.home / "runs" / "killed"
    asked = {"config": str(deployed.config), "run_dir": str(run_dir), "overrides": ["seed=5"]}
    asked_id = launch(deployed.client, "audit/local", asked, "decode.before_chunk:2")
    run = follow(deployed.client, asked_id, patience_s=400)
    assert run.state.name == "Crashed"
    assert "SIGKILL" in run.state.message


def test_a_run_whose_process_died_unseen_is_crashed_by_the_automation(deployed: Deployed) -> None:
    from flows.deploy import follow

    run_dir = deployed.local.home / "runs" / "unseen"
    env = {**deployed.local.environment, "WHATCHANGED_FAULT": "decode.before_chunk:2"}
    command = [sys.executable, "-m", "flows.audit", "--config", str(deployed.config),
               "--set", "seed=6", "--run-dir", str(run_dir)]  # fmt: skip
    died = subprocess.run(
        command, cwd=PROJECT, env=env, capture_output=True, timeout=400, check=False
    )
    assert died.returncode == -signal.SIGKILL
    (run,) = (run for run in deployed.client.read_flow_runs() if run.name == "unseen")
    assert run.state.name == "Running"
    ended = follow(deployed.client, run.id, patience_s=400)
    assert ended.state.name == "Crashed"
    assert "No heartbeat" in ended.state.message


def test_what_was_started_is_stopped_with_its_children(tmp_path: Path) -> None:
    from flows.deploy import running

    command, log = ["sh", "-c", "sleep 300 & echo $!; wait"], tmp_path / "log"
    with running(command, os.environ, log) as process:
        while not (log.is_file() and (said := log.read_text().strip())):
            time.sleep(0.05)
    assert process.returncode is not None
    deadline = time.monotonic() + 10
    while is_at_work(said) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_at_work(said)


def is_at_work(pid: str) -> bool:
    """Whether the process is there, and not only its entry that nobody has collected yet."""
    told = subprocess.run(["ps", "-o", "stat=", "-p", pid], capture_output=True, text=True)
    return bool(told.stdout.strip()) and not told.stdout.startswith("Z")
