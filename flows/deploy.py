"""The deployments of `prefect.yaml`, with the pools, limits and automation that they need.

python -m flows.deploy                                         # on the server in PREFECT_API_URL
python -m flows.deploy --local --config configs/quick.yaml     # the whole path, on loopback
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeAlias
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    LogFilter,
    LogFilterFlowRunId,
)
from prefect.client.schemas.objects import FlowRun, Log, StateType, TaskRun
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.exceptions import ObjectAlreadyExists
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.workers.process import ProcessWorker

from tasks.caching import GPU, PAID
from whatchanged.store.atomic import ensure_folder

PROJECT = Path(__file__).resolve().parents[1]
FLOWS = ("audit", "collect-activations", "compare-saes")
POOLS = ("local-pool", "gpu-pool")
# Tasks with these tags run one at a time over all workers.
LIMITS = {GPU: 1, PAID: 1}
# A chunk that cannot be decoded the first time; the task tries again.
TRANSIENT_FAULT = "decode.before_chunk:2:transient"
HEARTBEAT = "prefect.flow-run.heartbeat"
# Command, environment and log of a process.
Start: TypeAlias = tuple[list[str], dict[str, str], Path]
MISSED_HEARTBEATS = "whatchanged: no heartbeat, so crashed"


def crash_the_dead(within: timedelta = timedelta(seconds=90)) -> AutomationCore:
    """The automation that marks a run of our flows as crashed that sends no heartbeat any more.

    A worker sees its runs die; nobody sees a worker die, nor a local run. `within` is at least
    three heartbeats (`PREFECT_FLOWS_HEARTBEAT_FREQUENCY`, 30 s in every way into our flows).
    """
    ends = {f"prefect.flow-run.{end}" for end in ("Completed", "Failed", "Cancelled", "Crashed")}
    return AutomationCore(
        name=MISSED_HEARTBEATS,
        description=f"A flow run that is silent for {within.total_seconds():.0f} s is dead.",
        trigger=EventTrigger(
            posture=Posture.Proactive,
            match=ResourceSpecification.model_validate(
                {"prefect.resource.id": "prefect.flow-run.*"}
            ),
            # Other people's flows on the same server may have a slower heart.
            match_related=ResourceSpecification.model_validate(
                {"prefect.resource.role": "flow", "prefect.resource.name": list(FLOWS)}
            ),
            after={HEARTBEAT},
            expect={HEARTBEAT, *ends},
            for_each={"prefect.resource.id"},
            threshold=1,
            within=within,
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED,
                name="Crashed",
                message="No heartbeat: the process or its machine died. Run it again: finished "
                "stages are cached.",
            )
        ],
    )


def register(client: SyncPrefectClient, environment: Mapping[str, str]) -> None:
    """Create what is missing of pools, limits and automation, then the deployments.

    The pools come first: a deployment to a pool that does not exist deploys nothing.
    """
    template = ProcessWorker.get_default_base_job_template()
    for name in POOLS:
        with suppress(ObjectAlreadyExists):
            client.create_work_pool(
                WorkPoolCreate(name=name, type="process", base_job_template=template)
            )
    for tag, limit in LIMITS.items():
        client.create_concurrency_limit(tag, limit)
    if not client.read_automations_by_name(MISSED_HEARTBEATS):
        client.create_automation(crash_the_dead())
    subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"],
        cwd=PROJECT,
        env={**environment, "PROJECT_HOME": str(PROJECT)},
        stdout=subprocess.DEVNULL,
        check=True,
    )


@dataclass(frozen=True)
class Local:
    """A server of its own on loopback, whose database, cache and runs lie in one folder."""

    home: Path
    port: int

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.port}/api"

    @property
    def database(self) -> Path:
        return self.home / "prefect" / "prefect.db"

    @property
    def environment(self) -> dict[str, str]:
        """What its processes find in their environment. The page in the browser would ask port 4200
        unless told otherwise."""
        return {
            **os.environ,
            "PREFECT_HOME": str(self.home / "prefect"),
            "PREFECT_API_URL": self.api,
            "PREFECT_UI_API_URL": self.api,
            "PREFECT_SERVER_UI_API_URL": self.api,
            "WHATCHANGED_CACHE": str(self.home / "cache"),
            "PREFECT_LOCAL_STORAGE_PATH": str(self.home / "cache" / "prefect"),
        }

    @property
    def server(self) -> Start:
        """What `running` needs to know of the server."""
        place = ["--host", "127.0.0.1", "--port", str(self.port)]
        return self._start("server", *place)

    @property
    def worker(self) -> Start:
        """What `running` needs to know of the worker."""
        return self._start("worker", "--pool", "local-pool", "--limit", "1")

    def _start(self, what: str, *options: str) -> Start:
        command = [sys.executable, "-m", "prefect", what, "start", *options]
        return command, self.environment, self.home / f"{what}.log"


@contextmanager
def running(
    command: list[str], environment: Mapping[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that writes what it says into `log`; stopped at the end with all it started."""
    process = subprocess.Popen(
        ["sh", "-c", 'exec "$@" > "$0" 2>&1', str(log), *command],
        cwd=PROJECT, env=dict(environment), start_new_session=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(30)
        # Its own session: nobody else's process is in it.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


@contextmanager
def served(local: Local, patience_s: float = 180.0) -> Iterator[SyncPrefectClient]:
    """A client of the running server. Raises TimeoutError where it does not answer in time."""
    with ExitStack() as stack:
        server = stack.enter_context(running(*local.server))
        stack.enter_context(temporary_settings({PREFECT_API_URL: local.api}))
        client = stack.enter_context(get_client(sync_client=True))
        deadline = time.monotonic() + patience_s
        while client.api_healthcheck() is not None:
            if server.poll() is not None or time.monotonic() > deadline:
                raise TimeoutError(
                    f"the Prefect server on {local.api} did not start: see {local.home}/server.log"
                )
            time.sleep(0.5)
        yield client


def launch(
    client: SyncPrefectClient, deployment: str, parameters: Mapping[str, Any], fault: str = ""
) -> UUID:
    """Ask for a run of a deployment; its id. `fault` is `WHATCHANGED_FAULT` in its process."""
    target = client.read_deployment_by_name(deployment)
    variables = {"env": {"WHATCHANGED_FAULT": fault}} if fault else {}
    created = client.create_flow_run_from_deployment(
        target.id, parameters=dict(parameters), job_variables=variables
    )
    return created.id


def follow(client: SyncPrefectClient, flow_run_id: UUID, patience_s: float = 3600.0) -> FlowRun:
    """The flow run once it has ended; its states are printed as they come.

    Raises TimeoutError after `patience_s`.
    """
    seen = ""
    deadline = time.monotonic() + patience_s
    while True:
        run = client.read_flow_run(flow_run_id)
        state = run.state
        if state and state.name and state.name != seen:
            seen = state.name
            print(f"{datetime.now(UTC):%H:%M:%S}  {run.name}: {seen}", flush=True)
        if state and state.is_final():
            return run
        if time.monotonic() > deadline:
            raise TimeoutError(f"{run.name} has not ended; it is {seen or 'unknown'}")
        time.sleep(1.0)


def read_task_runs(client: SyncPrefectClient, flow_run_id: UUID) -> list[TaskRun]:
    """Every task run of a flow run, in the order of their start."""
    only = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id]))
    found: list[TaskRun] = []
    while page := client.read_task_runs(flow_run_filter=only, limit=200, offset=len(found)):
        found += page
    return sorted(found, key=lambda run: (run.start_time is None, run.start_time, run.name))


def read_retries(client: SyncPrefectClient, flow_run_id: UUID) -> list[str]:
    """What the log says of every retry: the reason, which one of how many, and when."""
    only = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[flow_run_id]))
    found: list[Log] = []
    while page := client.read_logs(only, limit=200, offset=len(found)):
        found += page
    said = (log.message.splitlines()[0] for log in found if log.message)
    return [line for line in said if " - Retry " in line]


def tell_end(client: SyncPrefectClient, run: FlowRun) -> None:
    """Print how a flow run ended: task runs by state, retries with their reason, the state."""
    names = [task.state_name or "" for task in read_task_runs(client, run.id)]
    counted = ", ".join(f"{names.count(name)} {name}" for name in sorted(set(names)))
    print(f"  tasks: {counted}")
    for line in read_retries(client, run.id):
        print(f"  retry: {line}")
    print(f"  final state: {run.state.name if run.state else 'unknown'}", flush=True)


def deploy_locally(config: str, home: Path, *, is_held: bool = False) -> int:
    """Server, pools, deployments, worker, and two runs, one failing for once and one cached; 0 if
    both completed. `is_held` leaves the server up until a key is pressed."""
    local = Local(ensure_folder(home.resolve()), free_port())
    with served(local) as client:
        print(f"server:  http://127.0.0.1:{local.port} (everything is in {local.home})", flush=True)
        register(client, local.environment)
        with running(*local.worker):
            ends = []
            for name, fault in (("first", TRANSIENT_FAULT), ("second", "")):
                parameters = {"config": config, "run_dir": str(local.home / "runs" / name)}
                run = follow(client, launch(client, "audit/local", parameters, fault))
                tell_end(client, run)
                ends.append(run.state is not None and run.state.is_completed())
        if is_held:
            input("Press Enter to stop the server.")
    return 0 if all(ends) else 1


def free_port() -> int:
    """A port on loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> int:
    import argparse

    parser = argparse.ArgumentParser(description="Deploy the flows.")
    parser.add_argument("--local", action="store_true", help="the whole path, on loopback")
    parser.add_argument("--config", default="configs/quick.yaml")
    parser.add_argument("--home", type=Path, help="default: a new folder in build/deploy-local")
    parser.add_argument("--hold", action="store_true", help="leave the server up until Enter")
    asked = parser.parse_args()
    if asked.local:
        stamp = f"{datetime.now(UTC):%Y%m%d-%H%M%S}"
        home = asked.home or PROJECT / "build" / "deploy-local" / stamp
        return deploy_locally(asked.config, home, is_held=asked.hold)
    if not PREFECT_API_URL.value():
        parser.error(
            "no Prefect server named: start one (prefect server start), then "
            "export PREFECT_API_URL=http://127.0.0.1:4200/api"
        )
    with get_client(sync_client=True) as client:
        register(client, os.environ)
    return 0


if __name__ == "__main__":
    sys.exit(main())
