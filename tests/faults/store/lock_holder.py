"""Holds a lock of the store until it is killed: that of the embedding cache, or of the ledger.

`main(FOLDER, "rows")`, `main(FOLDER, "ledger")`; either prints "held" once it has the lock.
"""

from __future__ import annotations

import time
from pathlib import Path

import lmdb

from whatchanged.store.embeddings import EmbeddingCache
from whatchanged.store.ledger import Ledger
from whatchanged.store.ledger_file import LedgerFile


def main(folder: str, what: str) -> None:
    root = Path(folder)
    if what == "ledger":
        path = Ledger(root, "run").path
        file = LedgerFile(path, 60.0)
        file.use(lambda connection: hold(connection, file))
    else:
        path = EmbeddingCache(root).path
        with lmdb.open(str(path), subdir=False).begin(write=True):
            wait()


def hold(connection: object, file: LedgerFile) -> None:
    with file.transaction(connection):
        wait()


def wait() -> None:
    print("held", flush=True)
    time.sleep(600)
