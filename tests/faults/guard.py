"""Runs a module that may neither unpickle, nor run code of untrusted folders, nor call elsewhere.

`python -m tests.faults.guard REPORT FOLDERS MODULE [ARGUMENT]...`: FOLDERS, separated by colons,
are untrusted. Every forbidden call raises ForbiddenError where it is made and is a line of REPORT
(JSON: call, where), so that one that is caught and forgotten is still seen. Starting a process is
forbidden too: it would have no guard. Sockets that native code opens by itself go unseen.
"""

from __future__ import annotations

import json
import os
import pickle  # noqa: TID251  to forbid it
import runpy
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from whatchanged.models.offline import host_asked_for, is_this_machine

PROCESSES = {
    "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.system", "pty.spawn",
    "subprocess.Popen",
}  # fmt: skip
# How joblib, below scikit-learn, counts the machine's cores.
COUNTS_CORES = {"lscpu"}


class ForbiddenError(RuntimeError):
    """What an audit of untrusted models must never do."""


class Guard:
    """Raises ForbiddenError, and writes it down, wherever a rule is broken."""

    def __init__(self, report: Path, folders: list[Path]) -> None:
        self.report = os.open(report, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.folders = folders

    def install(self) -> None:
        """Watches this process until it ends; an audit hook cannot be taken out."""
        sys.addaudithook(self.watch)
        # Python reports a pickle only where it names a class: these are refused whatever they read.
        pickle.load = self.refuser("pickle.load")
        pickle.loads = self.refuser("pickle.loads")
        import torch

        load = torch.load

        def load_weights(*args: Any, **settings: Any) -> Any:
            if settings.get("weights_only") is not True:
                self.refuse("torch.load without weights_only")
            return load(*args, **settings)

        torch.load = load_weights

    def refuser(self, call: str) -> Callable[..., Any]:
        def refuse(*_args: Any, **_settings: Any) -> Any:
            self.refuse(call)

        return refuse

    def refuse(self, call: str) -> None:
        frames = [
            f"{frame.filename}:{frame.lineno} {frame.name}"
            for frame in traceback.extract_stack()
            if frame.filename != __file__
        ]
        line = json.dumps({"call": call, "where": frames[-8:]})
        os.write(self.report, f"{line}\n".encode())
        raise ForbiddenError(call)

    def watch(self, event: str, args: tuple[Any, ...]) -> None:
        if event == "pickle.find_class":
            self.refuse(f"{event} {args[0]}.{args[1]}")
        elif event in ("marshal.load", "marshal.loads"):
            # Importing a compiled module; whose module it is, its `exec` says.
            if not sys._getframe(1).f_code.co_filename.startswith("<frozen "):
                self.refuse(event)
        elif event == "exec":
            self.check_source(event, args[0].co_filename)
        elif event == "compile":
            self.check_source(event, args[1])
        elif (host := host_asked_for(event, args)) is not None:
            if not is_this_machine(host):
                self.refuse(f"{event} {host}")
        elif event == "subprocess.Popen" and args[0] in COUNTS_CORES:
            pass
        elif event in PROCESSES:
            self.refuse(f"{event} {args[0] if args else ''}")

    def check_source(self, event: str, name: Any) -> None:
        name = os.fsdecode(name) if isinstance(name, str | bytes) else ""
        if any(name.startswith(f"{folder}{os.sep}") for folder in self.folders):
            self.refuse(f"{event} {name}")


def main(report: str, folders: str, module: str, *arguments: str) -> None:
    Guard(Path(report), [Path(folder) for folder in folders.split(":")]).install()
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
