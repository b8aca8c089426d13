"""Audits of the fakes, without Prefect: forked, so that they can be killed hundreds of times."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults.bare_audit import MAX_IN_FLIGHT
from tests.faults.kills import (
    Kill,
    Kills,
    at_random_moments,
    count_torn,
    finished,
    n_answers,
    sweep,
)
from tests.faults.nursery import Nursery, nursery
from tests.loopback.server import Loopback
from whatchanged.keys import file_digest
from whatchanged.store import atomic
from whatchanged.store.faults import POINTS
from whatchanged.store.ledger import Ledger

RecordProperty = Callable[[str, object], None]


@dataclass(frozen=True)
class Warm:
    """Where bare audits are forked, the server that they pay, and what one leaves that nobody
    kills."""

    nursery: Nursery
    server: Loopback
    undisturbed: dict[str, str]


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    home = tmp_path_factory.mktemp("undisturbed")
    with Loopback() as server, nursery("tests.faults.bare_audit") as opened:
        PaidKills(opened, server).follow(home, ())
        yield Warm(opened, server, outputs(home))


@pytest.fixture
def audits(warm: Warm) -> PaidKills:
    return PaidKills(warm.nursery, warm.server)


class PaidKills(Kills):
    """Kills of audits that pay, beside the server's own count of their calls."""

    def __init__(self, nursery: Nursery, server: Loopback) -> None:
        environment = {"WHATCHANGED_TEST_KEY": "of-the-test"}
        super().__init__(
            lambda home, fault: nursery.start(
                str(home), server.url, WHATCHANGED_FAULT=fault, **environment
            )
        )
        self.server = server
        self.n_extra = self.most_extra = 0

    def start(self, home: Path, kill: Kill | None = None) -> None:
        n_answered, n_calls = n_answers(finished(home)), self.count_calls()
        super().start(home, kill)
        n_answered, n_calls = n_answers(finished(home)) - n_answered, self.count_calls() - n_calls
        # Calls that brought no answer are made again.
        self.most_extra = max(self.most_extra, n_calls - n_answered)

    def follow(self, home: Path, kills: Sequence[Kill]) -> None:
        n_kills, n_calls = self.n_kills, self.count_calls()
        super().follow(home, kills)
        n_distinct = self.server.counts()["n_distinct"]
        n_extra = self.count_calls() - n_calls - n_distinct
        totals = Ledger(home / "cache", "run").totals()
        # Whatever the server was asked is in the ledger, and what it was asked twice stands open.
        assert totals.n_answered == n_distinct
        assert n_extra <= totals.n_open <= (self.n_kills - n_kills) * MAX_IN_FLIGHT
        self.n_extra += n_extra
        sweep(home)

    def count_calls(self) -> int:
        """The calls that reached the server, once it has read all that the dead had sent."""
        time.sleep(0.005)
        while self.server.n_in_flight:
            time.sleep(0.001)
        return int(self.server.counts()["n_calls"])

    def record(self, record_property: RecordProperty, name: str = "kills_of_bare_audits") -> None:
        super().record(record_property, name)
        record_property("extra_calls", self.n_extra)
        record_property("extra_calls_bound", self.n_kills * MAX_IN_FLIGHT)
        record_property("extra_calls_of_one_kill", self.most_extra)
        assert self.most_extra <= MAX_IN_FLIGHT


def outputs(home: Path) -> dict[str, str]:
    """The digest of every file of the run, of the date and all, and of every artifact."""
    return {
        str(path.relative_to(home)): file_digest(path)
        for folder in (home / "run", home / "cache" / "artifacts")
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def kill_at_random_moments(audits: PaidKills, warm: Warm, folder: Path, n_kills: int) -> None:
    def check(home: Path) -> None:
        assert outputs(home) == warm.undisturbed

    at_random_moments(audits, folder, n_kills, 3, check)


def test_audits_killed_at_random_moments_end_with_the_same_bytes(
    audits: PaidKills, warm: Warm, tmp_path: Path, record_property: RecordProperty
) -> None:
    kill_at_random_moments(audits, warm, tmp_path, 24)
    audits.record(record_property)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_audits_killed_at_250_random_moments_end_with_the_same_bytes(
    audits: PaidKills, warm: Warm, tmp_path: Path, record_property: RecordProperty
) -> None:
    kill_at_random_moments(audits, warm, tmp_path, 250)
    audits.record(record_property)


@pytest.mark.parametrize("point", POINTS)
def test_audits_killed_at_some_writes_and_again_in_recovery_end_with_the_same_bytes(
    audits: PaidKills, warm: Warm, tmp_path: Path, point: str, record_property: RecordProperty
) -> None:
    # From the start of an audit into its midst, and from there to its end.
    audits.follow(tmp_path, [f"{point}:{nth}" for nth in (2, 12, 20)])
    assert outputs(tmp_path) == warm.undisturbed
    assert audits.n_kills == (1 if point.startswith("embeddings") else 3)
    audits.record(record_property)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("point", POINTS)
def test_audits_killed_at_every_write_and_again_in_recovery_end_with_the_same_bytes(
    audits: PaidKills, warm: Warm, tmp_path: Path, point: str, record_property: RecordProperty
) -> None:
    home, nth, n_kills = tmp_path / "killed", 1, -1
    while audits.n_kills > n_kills:
        n_kills = audits.n_kills
        audits.follow(home, [f"{point}:{nth}", f"{point}:{max(1, nth // 3)}"])
        assert outputs(home) == warm.undisturbed
        shutil.rmtree(home)
        nth += 1
    assert nth > 3 if point.startswith("embeddings") else nth > 40
    audits.record(record_property)


@pytest.mark.parametrize(
    "step", [16_384, pytest.param(1024, marks=[pytest.mark.long, pytest.mark.timeout(1800)])]
)
def test_audits_on_a_disk_that_grows_end_with_the_same_bytes(
    warm: Warm, tmp_path: Path, step: int, record_property: RecordProperty
) -> None:
    n_bytes, n_full, n_lost, n_torn, status = 1024, 0, 0, 0, -1
    while status != 0:
        before = finished(tmp_path)
        words = (str(tmp_path), warm.server.url, str(n_bytes))
        child = warm.nursery.start(*words, WHATCHANGED_TEST_KEY="of-the-test")
        status = child.wait()
        if status != 0:
            (told,) = child.said().splitlines()
            assert told.startswith("cannot write")
            assert "are free there" in told
            n_full += 1
        after = finished(tmp_path)
        n_lost += sum(after.get(name) != digest for name, digest in before.items())
        n_torn += count_torn(tmp_path)
        n_bytes += step
    record_property("full_disks", n_full)
    record_property("results_lost", n_lost)
    record_property("files_torn", n_torn)
    assert (n_lost, n_torn) == (0, 0)
    assert n_full >= 4
    assert not any(atomic.is_temporary(path.name) for path in tmp_path.rglob("*"))
    assert outputs(tmp_path) == warm.undisturbed
