"""Named places where a test can kill the process, to prove that nothing stored is ever torn.

`WHATCHANGED_FAULT=store.after_write:3` sends SIGKILL to the own process the third time that it
passes `store.after_write`; `decode.before_chunk:3:transient` raises TransientError there instead,
which the task tries again. Unset, a point costs one look into the environment.
"""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter

from whatchanged.errors import TransientError

# Those of every write; the task of a chunk of texts passes `decode.before_chunk` too.
POINTS = (
    "store.before_write",
    "store.mid_write",
    "store.after_write",
    "store.before_publish",
    "store.after_publish",
    "embeddings.before_commit",
    "embeddings.after_commit",
)

_passed: Counter[str] = Counter()
_lock = threading.Lock()


def point(name: str) -> None:
    """Nothing, unless this point is armed and has now been passed often enough.

    Raises TransientError where it is armed with that.
    """
    armed = os.environ.get("WHATCHANGED_FAULT")
    if armed:
        _pass(name, armed)


def _pass(name: str, armed: str) -> None:
    target, _, rest = armed.partition(":")
    nth, _, kind = rest.partition(":")
    if name != target:
        return
    with _lock:
        _passed[name] += 1
        reached = _passed[name] == int(nth or 1)
    if reached and kind == "transient":
        raise TransientError(f"WHATCHANGED_FAULT asked {name} to fail this once: try again")
    if reached:
        os.kill(os.getpid(), signal.SIGKILL)
