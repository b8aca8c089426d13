"""Libraries that a child preloads, so that the machine around it is another one."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


def build(source: str, folder: Path, *flags: str) -> str:
    """The path of a C source of this folder, built as a library in `folder`; skips the test where
    there is no compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip(f"needs a C compiler (cc) for {source}")
    library = folder / f"{source}.so"
    path = Path(__file__).with_name(source)
    words = ["-shared", "-fPIC", *flags, "-o", str(library), str(path), "-ldl"]
    subprocess.run([compiler, *words], check=True)
    return str(library)
