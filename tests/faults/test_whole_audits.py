"""Whole audits that are killed, moved to another clock, starved of disk or damaged."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import whatchanged
from tests.faults.audits import audit, environment_of, fork_audit, outputs
from tests.faults.kills import Kills, at_random_moments, sweep
from tests.faults.nursery import Child, Nursery, nursery
from tests.faults.preload import build
from whatchanged.keys import file_digest
from whatchanged.store.artifacts import ArtifactStore
from whatchanged.store.faults import POINTS
from whatchanged.store.verify import verify

RecordProperty = Callable[[str, object], None]

pytestmark = pytest.mark.flows
N_FLIPS = 5
# Each of these starts is also the recovery from the one before it.
KILLS = ("store.before_write:9", "store.mid_write:25", "embeddings.before_commit:1",
         "store.after_write:30", "store.before_publish:30", "store.after_publish:40")  # fmt: skip


@pytest.fixture(scope="module")
def warm(prefect_api: str) -> Iterator[Nursery]:
    """Where audits are forked that reach the server of the tests."""
    with nursery("tests.faults.whole_audit", **environment_of(prefect_api)) as opened:
        yield opened


@pytest.fixture(scope="module")
def undisturbed(warm: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of a finished audit. Nobody may write into it."""
    home = tmp_path_factory.mktemp("undisturbed")
    child = fork_audit(warm, home)
    assert child.wait() == 0, child.said()
    return home


@pytest.fixture
def kills(warm: Nursery) -> Kills:
    return Kills(lambda home, fault: fork_audit(warm, home, WHATCHANGED_FAULT=fault))


def test_an_audit_killed_at_a_spread_of_writes_ends_with_the_same_files(
    undisturbed: Path, kills: Kills, tmp_path: Path, record_property: RecordProperty
) -> None:
    home = tmp_path / "killed"
    kills.follow(home, KILLS)
    assert outputs(home) == outputs(undisturbed)
    sweep(home)
    assert kills.n_kills == len(KILLS)
    kills.record(record_property, "kills_through_prefect")


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_audits_killed_at_25_random_moments_end_with_the_same_files(
    undisturbed: Path, kills: Kills, tmp_path: Path, record_property: RecordProperty
) -> None:
    def check(home: Path) -> None:
        assert outputs(home) == outputs(undisturbed)

    at_random_moments(kills, tmp_path, 25, 5, check)
    kills.record(record_property, "kills_through_prefect")


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("point", POINTS)
def test_audits_killed_at_any_write_and_again_in_recovery_end_with_the_same_files(
    undisturbed: Path, kills: Kills, tmp_path: Path, point: str, record_property: RecordProperty
) -> None:
    spread = (1, 2) if point.startswith("embeddings") else (2, 8, 20, 40, 60)
    kills.follow(tmp_path, [f"{point}:{nth}" for nth in spread])
    assert outputs(tmp_path) == outputs(undisturbed)
    assert kills.n_kills >= len(spread) - 1
    kills.record(record_property, "kills_through_prefect")


@pytest.fixture(scope="module")
def earlier_clock(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A library that sets the clock of the process that preloads it back by 400 days."""
    folder = tmp_path_factory.mktemp("clock")
    return build("earlier_clock.c", folder, f"-DSHIFT_S={400 * 86_400}")


@pytest.mark.parametrize(
    "zone",
    [
        "Pacific/Chatham",
        *(
            pytest.param(zone, marks=pytest.mark.long)
            for zone in ("America/St_Johns", "Asia/Kathmandu", "Antarctica/Troll")
        ),
    ],
)
def test_another_date_zone_locale_and_hash_seed_give_the_same_files(
    undisturbed: Path, prefect_api: str, tmp_path: Path, earlier_clock: str, zone: str
) -> None:
    elsewhere = {
        "LD_PRELOAD": earlier_clock,
        "TZ": zone,
        "LC_ALL": "tr_TR.UTF-8",
        "PYTHONHASHSEED": "4242",
    }
    code, said = audit(prefect_api, tmp_path / "elsewhere", environment=elsewhere)
    assert code == 0, said
    assert outputs(tmp_path / "elsewhere") == outputs(undisturbed)
    years = [
        whatchanged.load(home / "run").manifest["created_utc"][:10]
        for home in (undisturbed, tmp_path / "elsewhere")
    ]
    assert years[1] < years[0]


def flip_a_bit(path: Path, draw: random.Random) -> None:
    data = bytearray(path.read_bytes())
    # Not in the last byte: the newline at the end of a file of JSON may be any white space.
    data[draw.randrange(len(data) - 1)] ^= 1 << draw.randrange(8)
    path.write_bytes(data)


def test_a_flipped_bit_in_any_file_of_a_run_is_found_and_named(
    undisturbed: Path, tmp_path: Path, record_property: RecordProperty
) -> None:
    run = tmp_path / "run"
    shutil.copytree(undisturbed / "run", run)
    names = ["manifest.json", *whatchanged.load(run).manifest["files"]]
    draw = random.Random(0)
    unseen = []
    for name in names:
        sound = (run / name).read_bytes()
        for _ in range(N_FLIPS):
            flip_a_bit(run / name, draw)
            found = verify(tmp_path / "no cache", [run])
            if found.n_damaged != 1 or name not in found.problems[0]:
                unseen.append((name, found.problems))
            (run / name).write_bytes(sound)
    record_property("corruptions", len(names) * N_FLIPS)
    record_property("corruptions_unseen", len(unseen))
    assert len(names) >= 20
    assert unseen == []
    assert verify(tmp_path / "no cache", [run]).n_damaged == 0


def test_a_flipped_bit_in_every_artifact_is_found_and_computed_again(
    undisturbed: Path, warm: Nursery, tmp_path: Path, record_property: RecordProperty
) -> None:
    home = tmp_path / "damaged"
    shutil.copytree(undisturbed, home)
    store = ArtifactStore(home / "cache")
    keys, draw = list(store.list_keys()), random.Random(1)
    for key in keys:
        flip_a_bit(store.path(key), draw)
    found = verify(home / "cache")
    record_property("corruptions", len(keys))
    record_property("corruptions_unseen", len(keys) - found.n_quarantined)
    assert found.n_quarantined == found.n_damaged == len(keys) > 50
    again = fork_audit(warm, home)
    assert again.wait() == 0, again.said()
    assert outputs(home) == outputs(undisturbed)


def collected(home: Path) -> dict[str, str]:
    folder = home / "run" / "activations"
    return {
        path.relative_to(folder).as_posix(): file_digest(path)
        for path in folder.rglob("*")
        if path.is_file() and path.name != "summary.json"
    }


def test_a_disk_that_fills_while_activations_are_collected_loses_nothing(
    undisturbed: Path, warm: Nursery, tmp_path: Path
) -> None:
    homes = [tmp_path / "full", tmp_path / "roomy"]
    for home in homes:
        shutil.copytree(undisturbed, home)
    full, roomy = homes

    def collect(home: Path, n_bytes: int | None = None) -> Child:
        words = ["collect", str(home / "run"), "--set", "activations.sources=[neurons]"]
        return fork_audit(warm, home, *words, n_bytes=n_bytes)

    child = collect(full, 30_000)
    assert child.wait() == 1, child.said()
    assert any("are free there" in line for line in child.said().splitlines())
    # The run is what it was, and of its error Prefect keeps no pickle.
    assert (
        outputs(full).items()
        >= {
            name: digest
            for name, digest in outputs(undisturbed).items()
            if not name.startswith("activations/")
        }.items()
    )
    assert whatchanged.load(full / "run").findings == whatchanged.load(undisturbed / "run").findings
    for record in (full / "cache" / "prefect").iterdir():
        json.loads(record.read_text())
    for home in homes:
        child = collect(home)
        assert child.wait() == 0, child.said()
    assert collected(full) == collected(roomy) != {}
