"""Who computes the chunks: this process, processes beside it, or the workers of a Ray cluster.

A worker gets a chunk's requests and the name of its model, loads that model once, and leaves its
output in the store that all see. A chunk whose worker dies is computed by another.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Self, TypeAlias

from prefect import Task
from prefect.context import FlowRunContext
from prefect.exceptions import CrashedRun
from prefect.futures import PrefectFuture, wait
from prefect.settings import PREFECT_API_URL, PREFECT_LOCAL_STORAGE_PATH, temporary_settings
from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner

from whatchanged.errors import WhatchangedError
from whatchanged.models import ray_cluster
from whatchanged.run_config import RunConfig

Runner: TypeAlias = TaskRunner[PrefectFuture[Any]]

MAX_DEATHS = 3
_PATIENCE_S = 2.0
# What a worker must know of this process's environment; keys are not among it.
_PASSED = (
    "WHATCHANGED_CACHE", "HF_HOME", "HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY",
    "OMP_WAIT_POLICY", "TOKENIZERS_PARALLELISM", "DO_NOT_TRACK",
    "PREFECT_RESULTS_DEFAULT_SERIALIZER", "PREFECT_SERVER_ANALYTICS_ENABLED",
)  # fmt: skip


class Workers:
    """The processes that compute chunks, as a context: they end with it, and Ray's cluster is left.

    Open it within a flow run. With `runner: threads` it holds nothing. A chunk takes `n_gpus` GPUs,
    where it takes any.
    """

    def __init__(self, run: RunConfig, n_gpus: int = 1) -> None:
        self.run = run
        self.n_gpus = n_gpus
        self._runner: Runner | None = None
        self._generation = 0
        self._others: frozenset[BaseProcess] = frozenset()
        self._own: set[BaseProcess] = set()
        self._stack = ExitStack()

    @property
    def are_elsewhere(self) -> bool:
        """Whether chunks leave this process."""
        return self._runner is not None

    def __enter__(self) -> Self:
        if self.run.is_spread:
            self._open()
        return self

    def __exit__(self, *_: object) -> None:
        self._runner = None
        self._stack.close()

    def __reduce__(self) -> tuple[Any, ...]:
        # What travels to a worker has no workers of its own.
        return Workers, (RunConfig(device=self.run.device),)

    def submit(self, task: Task[..., Any], inputs: dict[str, Any]) -> Submitted:
        """The task on its way to a worker."""
        return Submitted(self, lambda: self._submit(task, inputs))

    @property
    def generation(self) -> int:
        """How often the processes were opened anew."""
        return self._generation

    def has_lost_one(self) -> bool:
        """Whether one of the processes has died. The pool is told late, or never where a process
        takes the lock of its queue along, and then waits for ever."""
        self._own |= set(multiprocessing.active_children()) - self._others
        return any(not process.is_alive() for process in self._own)

    def _submit(self, task: Task[..., Any], inputs: dict[str, Any]) -> PrefectFuture[Any]:
        assert self._runner is not None, "no worker without an open context"
        with _reachable_server(), self._resources():
            return self._runner.submit(task, inputs)

    @contextmanager
    def _resources(self) -> Iterator[None]:
        """One core per chunk, and its GPUs where chunks run on GPUs."""
        if self.run.runner != "ray":
            yield
            return
        from prefect_ray.context import remote_options

        wants_gpu = self.run.device != "cpu" and ray_cluster.n_gpus() > 0
        with remote_options(
            num_cpus=1,
            num_gpus=self.n_gpus if wants_gpu else 0,
            max_retries=ray_cluster.MAX_RETRIES,
        ):
            yield

    def _open(self) -> None:
        runner: Any
        if self.run.runner == "processes":
            self._others, self._own = frozenset(multiprocessing.active_children()), set()
            runner = ProcessPoolTaskRunner(max_workers=n_processes(self.run))
        else:
            from prefect_ray import RayTaskRunner

            ray_cluster.connect(self.run.ray_address, _worker_variables())
            self._stack.callback(ray_cluster.disconnect)
            runner = RayTaskRunner()
        self._runner = self._stack.enter_context(runner)

    def revive(self, generation: int) -> None:
        """Open the processes anew after a death, once for all chunks of one generation: a pool that
        lost one of its processes is of no use. Ray replaces workers by itself."""
        if generation == self._generation:
            self._generation += 1
            if self.run.runner == "processes":
                self.has_lost_one()
                for process in self._own:
                    # The others may wait for what the dead one held, deaf to a polite signal.
                    process.kill()
                self._stack.close()
                self._open()


class Submitted:
    """A chunk at a worker, submitted again where that dies."""

    def __init__(self, workers: Workers, submit: Callable[[], PrefectFuture[Any]]) -> None:
        self._workers, self._submit = workers, submit
        self._generation, self._future = workers.generation, submit()

    def result(self) -> Any:
        """What the task returned, or raise what it raised; WhatchangedError where its workers died
        one after the other."""
        for n_deaths in range(MAX_DEATHS + 1):
            try:
                self._wait()
                return self._future.result()
            except Exception as error:
                # Of a pool that was opened anew, whatever its chunks say is that it was closed.
                if not _is_death(error) and self._generation == self._workers.generation:
                    raise
            if n_deaths < MAX_DEATHS:
                self._workers.revive(self._generation)
                self._generation, self._future = self._workers.generation, self._submit()
        raise WhatchangedError(
            f"expected a worker to finish its chunk, found {MAX_DEATHS + 1} that died of it, most "
            "often for want of memory: lower decode.chunk_texts or decode.batch_size; finished "
            "chunks are kept"
        )

    def _wait(self) -> None:
        """Wait for processes, one of which may die unheard; raises BrokenExecutor then."""
        if self._workers.run.runner != "processes":
            return
        while wait([self._future], timeout=_PATIENCE_S).not_done:
            is_old = self._generation != self._workers.generation
            if is_old or self._workers.has_lost_one():
                raise BrokenExecutor("a process died")


def n_processes(run: RunConfig) -> int:
    """How many processes `runner: processes` means; auto is one per core."""
    return (os.cpu_count() or 1) if run.workers == "auto" else run.workers


def _is_death(error: Exception) -> bool:
    if isinstance(error, BrokenExecutor | CrashedRun):
        return True
    return type(error).__module__.startswith("ray.") and ray_cluster.is_death(error)


def _worker_variables() -> dict[str, str]:
    project = str(Path(__file__).resolve().parents[1])
    library = str(Path(ray_cluster.__file__).resolve().parents[2])
    path = os.pathsep.join([project, library, *filter(None, [os.environ.get("PYTHONPATH")])])
    passed = {name: os.environ[name] for name in _PASSED if name in os.environ}
    storage = str(PREFECT_LOCAL_STORAGE_PATH.value())
    return {**passed, "PYTHONPATH": path, "PREFECT_LOCAL_STORAGE_PATH": storage}


def _reachable_server() -> Any:
    """Settings that name the server of this flow run: a worker would start a temporary one of its
    own beside the temporary one of this process."""
    context = FlowRunContext.get()
    client: Any = None if context is None else context.client
    address = None if client is None else str(client.api_url)
    if PREFECT_API_URL.value() or not address:
        return nullcontext()
    return temporary_settings({PREFECT_API_URL: address})
