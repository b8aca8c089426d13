"""Checks a cache, and prints what it found as JSON: `main(FOLDER)`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from whatchanged.store.verify import verify

EVERY = 10


def main(folder: str) -> None:
    print(json.dumps(asdict(verify(Path(folder), every=EVERY))))
