"""What a person at a terminal sees of long work: a bar for the stage that runs.

Where nobody watches (a pipe, a log, a worker) there is no bar: Prefect's log has a plain line for
every task.
"""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.progress import Progress


def describe_pace(
    n_done: int,
    n_all: int,
    *,
    n_computed: int,
    n_to_compute: int,
    n_items: int,
    unit: str,
    seconds: float,
) -> str:
    """How far the tasks of a stage are. Of all that are done, `n_computed` were no cache hits and
    gave `n_items` in `seconds`; the time left assumes that the others to compute take as long."""
    done = f"{n_done} of {n_all} tasks"
    if not n_computed or seconds <= 0:
        return f"{done}, all cached so far"
    left_s = seconds / n_computed * (n_to_compute - n_computed)
    rate = f"{n_items:,} {unit} in {seconds:.1f} s, {n_items / seconds:.1f} per second"
    return f"{done}, {rate}, about {left_s:.0f} s left"


def is_watched() -> bool:
    """Whether standard error is a terminal."""
    return sys.stderr.isatty()


class StageBar:
    """The bar of one stage, while its context lasts; it draws nothing unless `is_watched`."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._bars: Progress | None = None

    def __enter__(self) -> Self:
        if is_watched():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

            self._bars = Progress(
                TextColumn("{task.description:<44}"),
                BarColumn(),
                TimeElapsedColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._bars.add_task(self._label, total=None)
            self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def advance(self, n_done: int, n_all: int) -> None:
        """Say how much of the stage is done; until then its length counts as unknown."""
        if self._bars is not None:
            self._bars.update(self._bars.task_ids[0], completed=n_done, total=n_all)
