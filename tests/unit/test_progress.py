from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest

from whatchanged.progress import StageBar, describe_pace

SHOWN = """
from whatchanged.progress import StageBar
with StageBar("decode, round 2") as bar:
    bar.advance(1, 4)
"""


def test_nothing_is_drawn_where_nobody_watches(capfd: pytest.CaptureFixture[str]) -> None:
    with StageBar("decode") as bar:
        bar.advance(1, 2)
    assert capfd.readouterr() == ("", "")


def test_a_terminal_sees_the_stage() -> None:
    ours, theirs = pty.openpty()
    subprocess.run([sys.executable, "-c", SHOWN], stderr=theirs, check=True, timeout=60)
    os.close(theirs)
    assert b"decode, round 2" in os.read(ours, 100_000)
    os.close(ours)


def test_an_error_passes_through_and_closes_the_bar() -> None:
    with pytest.raises(KeyError), StageBar("decode"):
        raise KeyError("x")


def test_the_pace_counts_only_what_was_computed() -> None:
    # 2 of 4 computed in 10 s: two more take 10 s.
    said = describe_pace(
        3, 5, n_computed=2, n_to_compute=4, n_items=1200, unit="texts", seconds=10.0
    )
    assert said == "3 of 5 tasks, 1,200 texts in 10.0 s, 120.0 per second, about 10 s left"


def test_a_stage_of_cache_hits_has_no_pace() -> None:
    said = describe_pace(5, 5, n_computed=0, n_to_compute=0, n_items=0, unit="texts", seconds=0.1)
    assert said == "5 of 5 tasks, all cached so far"
