"""A full check of everything that is stored: digests, rows, paid calls, temporaries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from whatchanged.errors import InputError
from whatchanged.store import atomic
from whatchanged.store.artifacts import ArtifactStore
from whatchanged.store.embeddings import EmbeddingCache
from whatchanged.store.ledger import Ledger
from whatchanged.store.runs import MANIFEST, is_unfinished, load_run


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What a check found. `problems` has one sentence each; damaged cache entries cost time only,
    a damaged run file must be made again."""

    n_checked: int = 0
    n_damaged: int = 0
    n_quarantined: int = 0
    n_swept: int = 0
    n_bytes: int = 0
    problems: tuple[str, ...] = ()

    def __add__(self, other: VerifyReport) -> VerifyReport:
        return VerifyReport(
            self.n_checked + other.n_checked,
            self.n_damaged + other.n_damaged,
            self.n_quarantined + other.n_quarantined,
            self.n_swept + other.n_swept,
            self.n_bytes + other.n_bytes,
            self.problems + other.problems,
        )


def verify(root: Path, runs: Sequence[Path] = ()) -> VerifyReport:
    """What is damaged in the cache below `root` and in these runs; strays are removed.

    Checked are artifacts (a damaged one is quarantined), rows of the embedding cache, the ledger of
    paid calls (a damaged one is quarantined, and what is sound in it kept), and files of runs. An
    absent cache is an empty one. Raises StorageError where another process writes for too long.
    """
    report = VerifyReport(n_swept=sum(atomic.sweep(folder) for folder in (root, *runs)))
    report += _verify_artifacts(root) + _verify_embeddings(root) + _verify_ledger(root)
    for run in runs:
        report += _verify_run(run)
    return report


def _verify_artifacts(root: Path) -> VerifyReport:
    store = ArtifactStore(root)
    report = VerifyReport()
    for key in store.list_keys():
        n_bytes = store.path(key).stat().st_size
        report += VerifyReport(n_checked=1, n_bytes=n_bytes)
        if not store.has(key):
            report += _damage(f"artifact {key} was damaged: moved to quarantine")
    return replace(report, n_quarantined=store.n_damaged)


def _verify_embeddings(root: Path) -> VerifyReport:
    cache = EmbeddingCache(root)
    if not cache.path.exists():
        return VerifyReport()
    found = cache.check()
    report = VerifyReport(found.n_rows, found.n_damaged, 0, 0, found.n_bytes)
    if found.n_damaged:
        sentence = f"{found.n_damaged:,} embeddings were damaged: they are computed again"
        report = replace(report, problems=(sentence,))
    return report


def _verify_ledger(root: Path) -> VerifyReport:
    ledger = Ledger(root, "verify")
    if not ledger.path.exists():
        return VerifyReport()
    n_bytes = ledger.path.stat().st_size
    try:
        n_calls, repairs = ledger.check()
    except InputError as error:
        return VerifyReport(problems=(str(error),))
    finally:
        ledger.close()
    return VerifyReport(n_calls, len(repairs), len(repairs), 0, n_bytes, tuple(repairs))


def _verify_run(path: Path) -> VerifyReport:
    if is_unfinished(path):
        return VerifyReport(problems=(f"the run {path} is unfinished: run it again",))
    try:
        run = load_run(path)
    except InputError as error:
        return _damage(str(error))
    report = VerifyReport(n_checked=1, n_bytes=(path / MANIFEST).stat().st_size)
    for name, stated in run.manifest["files"].items():
        report += VerifyReport(n_checked=1, n_bytes=stated["n_bytes"])
        try:
            run.read_bytes(name)
        except InputError as error:
            report += _damage(str(error))
    return report


def _damage(sentence: str) -> VerifyReport:
    return VerifyReport(n_damaged=1, problems=(sentence,))
