from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest

from whatchanged.progress import StageBar

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
