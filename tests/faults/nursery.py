"""Processes that begin with everything imported: forked from one that has only imported.

`python -m tests.faults.nursery MODULE` imports the module and forks a child for every order that
it reads; the child calls the module's `main` with the order's words. A kill then costs the work
that it hits, and no imports.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KILLED = -signal.SIGKILL
ROOT = Path(__file__).parents[2]


@dataclass
class Child:
    """A process that was started. Whoever started it must wait for it."""

    pid: int
    log: Path
    _nursery: Nursery
    _status: int | None = None

    def kill(self) -> None:
        """SIGKILL. Nobody else can have its number: it is not buried before `wait`."""
        os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> int:
        """The exit code, negative for a signal. What the child printed is in `log`."""
        if self._status is None:
            self._status = self._nursery.bury(self.pid)
        return self._status

    def has_ended(self) -> bool:
        """Whether there is nothing left but to `wait`."""
        state = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state == "Z"

    def wait_until_it_says(self, word: str) -> None:
        while word not in self.said():
            time.sleep(0.001)

    def said(self) -> str:
        return self.log.read_text(errors="replace")


class Nursery:
    """The side of the test: orders children, one at a time or many at once. `folder` has what they
    print."""

    def __init__(self, module: str, folder: Path, *flags: str, **environment: str) -> None:
        self.folder = folder
        self._alive: list[int] = []
        self._n_started = 0
        self._process = subprocess.Popen(
            [sys.executable, *flags, "-m", "tests.faults.nursery", module],
            env={**os.environ, **environment},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, text=True,
        )  # fmt: skip

    def start(self, *words: str, **environment: str) -> Child:
        """A child that has begun, with these words for `main` and this added to its environment."""
        self._n_started += 1
        log = self.folder / f"{self._n_started}.log"
        log.touch()
        pid = self._order({"words": words, "environment": environment, "log": str(log)})
        self._alive.append(pid)
        return Child(pid, log, self)

    def bury(self, pid: int) -> int:
        """The exit code of a child, once it has ended."""
        status = self._order({"wait": pid})
        self._alive.remove(pid)
        return status

    def close(self) -> None:
        """End the nursery and whoever lives in it."""
        for pid in self._alive:
            os.kill(pid, signal.SIGKILL)
        self._process.communicate()

    def _order(self, order: dict[str, Any]) -> int:
        """The nursery's answer. Raises RuntimeError where it is gone."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{json.dumps(order)}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError("the nursery ended: its words are above")
        return int(answer)


@contextmanager
def nursery(module: str, *flags: str, **environment: str) -> Iterator[Nursery]:
    """A nursery of one module, started by Python with these flags and this added to its
    environment; it ends with its children."""
    with tempfile.TemporaryDirectory() as folder:
        opened = Nursery(module, Path(folder), *flags, **environment)
        try:
            yield opened
        finally:
            opened.close()


def serve(main: Callable[..., object]) -> None:
    """Fork and bury as ordered, until no more orders come; then end what is left."""
    # Another thread would not live on in a child, and what it held would stay locked there.
    # OpenBLAS and Arrow's allocator look after their own at every fork.
    assert threading.active_count() == 1
    alive: set[int] = set()
    for line in sys.stdin:
        order = json.loads(line)
        if "wait" in order:
            _, status = os.waitpid(order["wait"], 0)
            alive.discard(order["wait"])
            answer = os.waitstatus_to_exitcode(status)
        else:
            answer = os.fork()
            if answer == 0:
                _live(main, order)
            alive.add(answer)
        print(answer, flush=True)
    for pid in alive:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _live(main: Callable[..., object], order: dict[str, Any]) -> None:
    log = os.open(order["log"], os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.update(order["environment"])
    code: object = 1
    try:
        code = main(*order["words"]) or 0
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        # Nothing of the nursery is to be tidied up by its children.
        os._exit(code if isinstance(code, int) else 1)


if __name__ == "__main__":
    serve(importlib.import_module(sys.argv[1]).main)
