"""What Prefect's page shows of a stage with many tasks: progress, pace, a table; never a text."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import cast
from uuid import UUID

from prefect import get_run_logger
from prefect.artifacts import (
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.client.schemas.objects import Log
from prefect.runtime import flow_run

from tasks.caching import Manifest, Started
from whatchanged.errors import TransientError
from whatchanged.overview import tabulate_work
from whatchanged.progress import StageBar, describe_pace


def follow(started: Sequence[Started], key: str, unit: str, bar: StageBar) -> list[Manifest]:
    """Wait for the tasks of a stage in order: what they returned. `unit` is what they count.

    Artifacts have the key of the stage: lower-case letters, digits and dashes. Where tasks still
    fail in a way that trying again might help, the others are done all the same and kept; then
    TransientError names those that failed. Any other error is raised at once.
    """
    if not started:
        return []
    begun = time.perf_counter()
    artifact = cast(
        UUID, create_progress_artifact(0.0, key=key, description=f"{unit}: share of tasks done")
    )
    logger = get_run_logger()
    done: list[Manifest] = []
    failed: dict[str, TransientError] = {}
    rows = []
    for number, one in enumerate(started, start=1):
        try:
            manifest = one.result()
        except TransientError as error:
            failed[one.name] = error
            continue
        done.append(manifest)
        rows.append(
            tabulate_work(one.name, manifest.n, manifest.seconds, is_cached=manifest.cached)
        )
        update_progress_artifact(artifact, 100.0 * number / len(started))
        bar.advance(number, len(started))
        computed = [part for part in done if not part.cached]
        pace = describe_pace(
            number, len(started), n_computed=len(computed),
            n_to_compute=sum(not other.is_known for other in started),
            n_items=sum(part.n for part in computed), unit=unit,
            seconds=time.perf_counter() - begun,
        )  # fmt: skip
        logger.info("%s: %s", key, pace)
    create_table_artifact(rows, key=f"{key}-tasks", description=f"The tasks of {key}")
    if failed:
        first, reason = next(iter(failed.items()))
        raise TransientError(
            f"{len(failed)} of {len(started)} tasks of {key} failed again and again, the first"
            f" {first!r} ({reason}): run again, the others are kept"
        ) from reason
    return done


def read_retries() -> list[str]:
    """What the server's log of this flow run says of every retry so far: the task's error, which
    attempt comes next, and when. The states of a task run do not hold the reason."""
    if flow_run.id is None:
        return []
    only = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[UUID(flow_run.id)]))
    found: list[Log] = []
    with get_client(sync_client=True) as client:
        while page := client.read_logs(only, limit=200, offset=len(found)):
            found += page
    return [log.message.splitlines()[0] for log in found if " - Retry " in log.message]
