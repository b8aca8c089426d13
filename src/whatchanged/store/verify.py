"""A full check of everything that is stored: digests, rows, paid calls, temporaries.

A check of a large cache takes long. It is made of parts in a fixed order (artifacts by key, the
embedding cache, the ledger, the files of each run by name), and now and then writes down how far
it is: `verify.json` in the cache. One that was interrupted goes on from there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from whatchanged.errors import InputError, StorageError
from whatchanged.store import atomic, codec
from whatchanged.store.artifacts import ArtifactStore
from whatchanged.store.embeddings import EmbeddingCache
from whatchanged.store.ledger import Ledger
from whatchanged.store.runs import MANIFEST, Run, is_unfinished, read_manifest

CHECKPOINT = "verify.json"
_VERSION = 1
# What was checked longer ago than this is checked again.
_MAX_AGE_S = 7 * 86_400


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What a check found. `problems` has one sentence each; damaged cache entries cost time only,
    a damaged run file must be made again. `n_before` of what was checked, an interrupted check had
    checked already."""

    n_checked: int = 0
    n_damaged: int = 0
    n_quarantined: int = 0
    n_swept: int = 0
    n_bytes: int = 0
    problems: tuple[str, ...] = ()
    n_before: int = 0

    def __add__(self, other: VerifyReport) -> VerifyReport:
        return VerifyReport(
            self.n_checked + other.n_checked,
            self.n_damaged + other.n_damaged,
            self.n_quarantined + other.n_quarantined,
            self.n_swept + other.n_swept,
            self.n_bytes + other.n_bytes,
            self.problems + other.problems,
            self.n_before + other.n_before,
        )


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of a check: its place among all, as a list that sorts, and what finds its damage."""

    place: list[int | str]
    check: Callable[[], VerifyReport]


def is_cache(path: Path) -> bool:
    """Whether a folder is a cache, and no run."""
    parts = ("artifacts", EmbeddingCache(path).path.name, Ledger(path, "").path.name)
    return any((path / name).exists() for name in parts)


def verify(
    root: Path, runs: Sequence[Path] = (), *, anew: bool = False, every: int = 1000
) -> VerifyReport:
    """What is damaged in the cache below `root` and in these runs; strays are removed.

    Checked are artifacts (a damaged one is quarantined), rows of the embedding cache, the ledger of
    paid calls (a damaged one is quarantined, and what is sound in it kept), and files of runs. An
    absent cache is an empty one. A check of the same cache and runs that was interrupted goes on
    where it was at most `every` parts ago, unless that was more than a week ago or it is to begin
    `anew`. Raises StorageError where another process writes for too long.
    """
    report = VerifyReport(n_swept=sum(atomic.sweep(folder) for folder in (root, *runs)))
    checkpoint = _Checkpoint(root, runs)
    before, place = (VerifyReport(), []) if anew else checkpoint.read()
    report += before
    left = (part for part in _parts(root, runs) if part.place > place)
    for number, part in enumerate(left, start=1):
        report += part.check()
        if number % every == 0:
            checkpoint.write(report, part.place)
    checkpoint.remove()
    return report


@dataclass(frozen=True, slots=True)
class _Checkpoint:
    """How far a check is; it helps where it can be written and read, and is missed nowhere."""

    root: Path
    runs: Sequence[Path]

    @property
    def path(self) -> Path:
        return self.root / CHECKPOINT

    def read(self) -> tuple[VerifyReport, list[int | str]]:
        """What an interrupted check of the same things had found, and its last place."""
        try:
            is_old = time.time() - self.path.stat().st_mtime > _MAX_AGE_S
            found = codec.json_value(self.path.read_bytes())
            if is_old or found["version"] != _VERSION or found["runs"] != self._names():
                return VerifyReport(), []
            report = VerifyReport(**found["report"])
            n_before = report.n_checked
            problems = tuple(report.problems)
            return replace(report, problems=problems, n_before=n_before), list(found["place"])
        except (OSError, ValueError, KeyError, TypeError):
            return VerifyReport(), []

    def write(self, report: VerifyReport, place: list[int | str]) -> None:
        kept = replace(report, n_swept=0, n_before=0)
        state = {"version": _VERSION, "runs": self._names(), "report": asdict(kept), "place": place}
        with suppress(StorageError):
            atomic.replace(self.path, codec.json_bytes(state))

    def remove(self) -> None:
        with suppress(OSError):
            self.path.unlink(missing_ok=True)

    def _names(self) -> list[str]:
        return [str(run.resolve()) for run in self.runs]


def _parts(root: Path, runs: Sequence[Path]) -> Iterator[_Part]:
    store = ArtifactStore(root)
    for key in store.list_keys():
        yield _Part([0, key], partial(_verify_artifact, store, key))
    yield _Part([1], partial(_verify_embeddings, root))
    yield _Part([2], partial(_verify_ledger, root))
    for number, run in enumerate(runs, start=3):
        yield from _run_parts(number, run)


def _verify_artifact(store: ArtifactStore, key: str) -> VerifyReport:
    try:
        n_bytes = store.path(key).stat().st_size
    except FileNotFoundError:
        return VerifyReport()
    n_damaged = store.n_damaged
    report = VerifyReport(n_checked=1, n_bytes=n_bytes)
    if not store.has(key):
        report += _damage(f"artifact {key} was damaged: moved to quarantine")
    return replace(report, n_quarantined=store.n_damaged - n_damaged)


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


def _run_parts(number: int, path: Path) -> Iterator[_Part]:
    if is_unfinished(path):
        problem = f"the run {path} is unfinished: run it again"
        yield _Part([number, ""], lambda: VerifyReport(problems=(problem,)))
        return
    try:
        run = Run(path, read_manifest(path))
    except InputError as error:
        damage = _damage(str(error))
        yield _Part([number, ""], lambda: damage)
        return
    n_bytes = (path / MANIFEST).stat().st_size
    yield _Part([number, ""], lambda: VerifyReport(n_checked=1, n_bytes=n_bytes))
    for name in sorted(run.manifest["files"]):
        yield _Part([number, name], partial(_verify_file, run, name))


def _verify_file(run: Run, name: str) -> VerifyReport:
    report = VerifyReport(n_checked=1, n_bytes=run.manifest["files"][name]["n_bytes"])
    try:
        run.read_bytes(name)
    except InputError as error:
        report += _damage(str(error))
    return report


def _damage(sentence: str) -> VerifyReport:
    return VerifyReport(n_damaged=1, problems=(sentence,))
