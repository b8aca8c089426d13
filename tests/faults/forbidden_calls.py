"""Makes every kind of call that the guard forbids, and some that it allows.

`python -m tests.faults.forbidden_calls FOLDER` prints, as JSON, what each was told: "refused", or
else the name of the error, or "done".
"""

from __future__ import annotations

import datetime
import importlib.util
import io
import json
import marshal
import os
import pickle  # noqa: TID251  to see that it is refused
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

# A documentation address: nobody has it.
ELSEWHERE = ("192.0.2.1", 9)
DATE = pickle.dumps(datetime.date(2000, 1, 1))


def saved(save: Callable[[Any, io.BytesIO], None], value: Any) -> io.BytesIO:
    file = io.BytesIO()
    save(value, file)
    return io.BytesIO(file.getvalue())


def connect(family: socket.AddressFamily, address: tuple[str, int]) -> None:
    with socket.socket(family) as client:
        client.settimeout(2)
        client.connect(address)


def send_datagram() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.sendto(b"x", ELSEWHERE)


def folder() -> Path:
    return Path(sys.argv[1])


def import_from_folder() -> None:
    file = folder() / "modeling_planted.py"
    file.write_text("x = 1\n")
    spec = importlib.util.spec_from_file_location("modeling_planted", file)
    assert spec is not None and spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))


def connect_here() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        connect(socket.AF_INET, server.getsockname())


OBJECTS = np.array([{}], dtype=object)
CALLS: dict[str, Callable[[], Any]] = {
    "pickle.loads": lambda: pickle.loads(pickle.dumps(1)),  # noqa: S301
    "pickle.load": lambda: pickle.load(io.BytesIO(pickle.dumps(1))),  # noqa: S301
    "pickle.find_class": lambda: pickle.Unpickler(io.BytesIO(DATE)).load(),  # noqa: S301
    "numpy.load": lambda: np.load(
        saved(lambda v, f: np.save(f, v, allow_pickle=True), OBJECTS), allow_pickle=True
    ),
    "torch.load": lambda: torch.load(saved(torch.save, {"a": 1}), weights_only=False),
    "torch.load, unsaid": lambda: torch.load(saved(torch.save, {"a": 1})),
    "marshal.loads": lambda: marshal.loads(marshal.dumps(1)),  # noqa: S302
    "compile": lambda: compile("1", str(folder() / "code.py"), "eval"),
    "import": import_from_folder,
    "connect": lambda: connect(socket.AF_INET, ELSEWHERE),
    "connect, IPv6": lambda: connect(socket.AF_INET6, ("2001:db8::1", 9)),
    "send": send_datagram,
    "look up": lambda: socket.getaddrinfo("example.invalid", 443),
    "process": lambda: subprocess.run(["true"], check=True),
    "system": lambda: os.system("true"),  # noqa: S605  it is refused
    "allowed: weights": lambda: torch.load(saved(torch.save, {"a": 1}), weights_only=True),
    "allowed: connect here": connect_here,
    "allowed: compile": lambda: compile("1", "<string>", "eval"),
}


def told(call: Callable[[], Any]) -> str:
    try:
        call()
    except Exception as error:
        return "refused" if type(error).__name__ == "ForbiddenError" else type(error).__name__
    return "done"


if __name__ == "__main__":
    print(json.dumps({name: told(call) for name, call in CALLS.items()}))
