"""Stages as Prefect tasks whose cache never lies.

Every task takes `key`, the content key of its own output: stage name and version, the config that
matters, and the keys of its inputs; never a device or a batch size. The store holds the output and
its manifest under that key, and is the truth: a task whose output is gone or damaged runs again,
whatever Prefect remembers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prefect import Task
from prefect.cache_policies import CachePolicy
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import TaskRunContext
from prefect.futures import PrefectFuture
from prefect.serializers import JSONSerializer
from prefect.settings import PREFECT_LOCAL_STORAGE_PATH
from prefect.tasks import exponential_backoff
from prefect.utilities.annotations import quote
from pydantic import BaseModel, ConfigDict

from tasks.workers import Submitted, Workers
from whatchanged.errors import ArtifactError, TransientError
from whatchanged.keys import content_key
from whatchanged.store.artifacts import ArtifactStore

Count = int | float | str | None


class Manifest(BaseModel):
    """What a task returns: the key of its output, how many items it holds, and its counts.

    An output of several `parts` lies under `part_key(key, part)` each, else under `key` itself.
    `seconds` is the time of the computation, whenever that was; `cached` says that this run found
    the output in the store.
    """

    model_config = ConfigDict(frozen=True)

    key: str
    parts: tuple[str, ...] = ()
    n: int = 0
    seconds: float = 0.0
    counts: Mapping[str, Count] = {}
    cached: bool = False

    def measured(self, name: str) -> float | None:
        """A figure among the counts; None where it is undefined."""
        value = self.counts[name]
        return None if value is None else float(value)


@dataclass
class ByKey(CachePolicy):
    """The cache key is the task's name and its `key` argument."""

    def compute_key(
        self,
        task_ctx: TaskRunContext,
        inputs: dict[str, Any],
        flow_parameters: dict[str, Any],
        **_: Any,
    ) -> str:
        return f"{task_ctx.task.name}-{inputs['key']}"


# Tasks with this tag pay for calls, or compute on a GPU that others may be using: a server may hold
# a limit for each over all runs.
PAID, GPU = "paid-calls", "gpu"

CACHED: dict[str, Any] = {
    "cache_policy": ByKey(),
    "persist_result": True,
    "result_serializer": "json",
}


def is_transient(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """True where trying again may help: never for bad input or a full disk."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, TransientError | ConnectionError | TimeoutError)


RETRIED: dict[str, Any] = {
    "retries": 3,
    "retry_delay_seconds": exponential_backoff(backoff_factor=2),
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": is_transient,
}


@dataclass(frozen=True)
class Started:
    """A stage on its way."""

    name: str
    future: PrefectFuture[Manifest] | Submitted
    is_known: bool

    def result(self) -> Manifest:
        """Wait for the manifest, or raise what the stage raised."""
        # Prefect gives back what the first run returned; only we know that this run found it.
        manifest: Manifest = self.future.result()
        return manifest.model_copy(update={"cached": self.is_known})


def start(
    store: ArtifactStore,
    task: Task[..., Manifest],
    key: str,
    name: str,
    *,
    on_gpu: bool = False,
    is_paid: bool = False,
    workers: Workers | None = None,
    **inputs: Any,
) -> Started:
    """Submit a stage under its key; it is computed again unless the store verifies its output.

    A chunk that is not known goes to the `workers`, where these are elsewhere.

    A stage that computes `on_gpu` or `is_paid` has the tag whose limit the server holds. No other
    has it: asking for a slot takes up to two seconds.
    """
    known = recall(store, key)
    goes_elsewhere = known is None and workers is not None and workers.are_elsewhere
    tags: set[str] = set()
    if known is None and is_paid:
        tags.add(PAID)
    if known is None and on_gpu and not goes_elsewhere:  # a worker's GPU is its own
        tags.add(GPU)
    is_read = known is not None and _is_recorded(task.name, known)
    named = task.with_options(refresh_cache=not is_read, task_run_name=name, tags=tags)
    if workers is not None and goes_elsewhere:
        # Ray's runner takes a quoted value apart.
        return Started(name, workers.submit(named, {"key": key, **inputs}), is_known=False)
    passed = {name: value if _is_edge(value) else quote(value) for name, value in inputs.items()}
    return Started(name, named.submit(key=key, **passed), known is not None)


def _is_recorded(task: str, known: Manifest) -> bool:
    """Whether Prefect's record of a stage is there and says exactly what the store says.

    Prefect runs whatever code a record names as its serializer, so that any other record must never
    reach it: the stage runs again, finds its output, and writes the record anew.
    """
    try:
        written = (PREFECT_LOCAL_STORAGE_PATH.value() / f"{task}-{known.key}").read_text("utf-8")
        record = json.loads(written)
        result = json.loads(record["result"])
        serializer = record["metadata"]["serializer"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    # Compared as a whole too: of a name that comes twice, readers differ in which one they take.
    is_plain = json.dumps(record, separators=(",", ":"), ensure_ascii=False) == written
    said = {"__class__": "tasks.caching.Manifest", "data": known.model_dump(mode="json")}
    return bool(is_plain and serializer == JSONSerializer().model_dump() and result == said)


def _is_edge(value: Any) -> bool:
    """Manifests draw the edges of the graph; Prefect need not look into anything else, and must
    not look into what another thread may change."""
    items = value if isinstance(value, list) else [value]
    return bool(items) and all(isinstance(item, Manifest) for item in items)


def recall(store: ArtifactStore, key: str) -> Manifest | None:
    """The manifest of an output that the store verifies; else None."""
    try:
        manifest = Manifest.model_validate(store.get_json(_manifest_key(key)))
    except ArtifactError:
        return None
    outputs = [part_key(key, part) for part in manifest.parts] or [key]
    sound = all(store.has(output) for output in outputs)
    return manifest if sound else None


def remember(store: ArtifactStore, manifest: Manifest) -> Manifest:
    """Store a manifest beside its output, which must be there already; returns it."""
    store.put_json(_manifest_key(manifest.key), manifest.model_dump(mode="json"))
    return manifest


def part_key(key: str, part: str) -> str:
    """The key of one part of an output."""
    return content_key("part/1", key, part)


def _manifest_key(key: str) -> str:
    return content_key("manifest/1", key)
