"""The one door to the terminal: control characters are shown, never sent.

Model output, file names and messages of other libraries reach people through this file.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import TextIO

from whatchanged.escape import show_hidden


def say(text: str) -> None:
    """Prints a result on standard output."""
    _write(sys.stdout, text)


def tell(text: str) -> None:
    """Prints news, advice or an error on standard error."""
    _write(sys.stderr, text)


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows as lines of columns as wide as their longest cell; the last column is left ragged."""
    if not rows:
        return ""
    safe = [[show_hidden(cell).replace("\n", " ") for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in safe) for i in range(len(safe[0]) - 1)]
    lines = (
        "  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[-1]])
        for row in safe
    )
    return "\n".join(line.rstrip() for line in lines)


def configure_logging() -> None:
    """Sends the library's log records to standard error, one plain line each.

    Prefect configures its own loggers; this one does not propagate, so no line comes twice.
    """
    logger = logging.getLogger("whatchanged")
    if logger.handlers:
        return
    handler = logging.StreamHandler()
    handler.setFormatter(_SafeFormatter("%(levelname)s: %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False


class _SafeFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return show_hidden(super().format(record))


def _write(stream: TextIO, text: str) -> None:
    encoding = stream.encoding or "utf-8"
    line = show_hidden(text).encode(encoding, "backslashreplace").decode(encoding)
    print(line, file=stream, flush=True)
