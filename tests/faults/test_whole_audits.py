"""Whole audits that are killed, moved to another clock, starved of disk or damaged."""

from __future__ import annotations

import json
import random
import resource
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

import whatchanged
from tests.faults.audits import audit, outputs
from whatchanged.keys import file_digest
from whatchanged.store import atomic
from whatchanged.store.artifacts import ArtifactStore
from whatchanged.store.embeddings import EmbeddingCache
from whatchanged.store.faults import POINTS
from whatchanged.store.verify import verify

pytestmark = pytest.mark.flows
N_FLIPS = 5
# Each of these starts is also the recovery from the one before it.
KILLS = ("store.before_write:9", "store.mid_write:25", "embeddings.before_commit:1",
         "store.after_write:30", "store.before_publish:30", "store.after_publish:40")  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(prefect_api: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of a finished audit. Nobody may write into it."""
    home = tmp_path_factory.mktemp("undisturbed")
    code, said = audit(prefect_api, home)
    assert code == 0, said
    return home


def artifacts(home: Path) -> dict[str, str]:
    store = ArtifactStore(home / "cache")
    return {key: file_digest(store.path(key)) for key in store.list_keys()}


def kill_again_and_again(api: str, home: Path, faults: Sequence[str]) -> tuple[int, int, int]:
    """How many of the starts were killed, and how many finished artifacts the next starts lost or
    changed; the last start is not disturbed, and ends well. The last number counts torn files."""
    n_kills = n_torn = 0
    finished: dict[str, str] = {}
    for fault in faults:
        code, said = audit(api, home, environment={"WHATCHANGED_FAULT": fault})
        assert code in (0, -signal.SIGKILL), said
        n_kills += code == -signal.SIGKILL
        store = ArtifactStore(home / "cache")
        n_torn += sum(not store.has(key) for key in store.list_keys())
        n_torn += EmbeddingCache(home / "cache").check().n_damaged
        finished |= artifacts(home)
    code, said = audit(api, home)
    assert code == 0, said
    last = artifacts(home)
    n_lost = sum(last.get(key) != digest for key, digest in finished.items())
    return n_kills, n_lost, n_torn


def test_an_audit_killed_at_a_spread_of_writes_ends_with_the_same_files(
    undisturbed: Path, prefect_api: str, tmp_path: Path, record_property: pytest.RecordProperty
) -> None:
    home = tmp_path / "killed"
    n_kills, n_lost, n_torn = kill_again_and_again(prefect_api, home, KILLS)
    record_property("kills", n_kills)
    record_property("results_lost", n_lost)
    record_property("files_torn", n_torn)
    assert n_kills == len(KILLS)
    assert (n_lost, n_torn) == (0, 0)
    assert outputs(home) == outputs(undisturbed)
    # The temporaries that kills leave are known as such, and swept.
    atomic.sweep(home / "cache")
    assert not any(atomic.is_temporary(path.name) for path in home.rglob("*"))


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("point", POINTS)
def test_an_audit_killed_at_any_write_and_again_in_recovery_ends_with_the_same_files(
    undisturbed: Path,
    prefect_api: str,
    tmp_path: Path,
    point: str,
    record_property: pytest.RecordProperty,
) -> None:
    spread = (1, 2) if point.startswith("embeddings") else (1, 4, 12, 30, 50, 70)
    n_kills = n_lost = n_torn = 0
    for nth in spread:
        home = tmp_path / str(nth)
        faults = (f"{point}:{nth}", f"{point}:{max(1, nth // 2)}")
        counts = kill_again_and_again(prefect_api, home, faults)
        n_kills, n_lost, n_torn = n_kills + counts[0], n_lost + counts[1], n_torn + counts[2]
        assert outputs(home) == outputs(undisturbed)
        shutil.rmtree(home)
    record_property("kills", n_kills)
    record_property("results_lost", n_lost)
    record_property("files_torn", n_torn)
    assert n_kills >= len(spread)
    assert (n_lost, n_torn) == (0, 0)


@pytest.fixture(scope="module")
def earlier_clock(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A library that sets the clock of the process that preloads it back by 400 days."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler (cc) for a clock of the child's own")
    library = tmp_path_factory.mktemp("clock") / "earlier.so"
    source = Path(__file__).with_name("earlier_clock.c")
    words = ["-shared", "-fPIC", f"-DSHIFT_S={400 * 86_400}", "-o", str(library), str(source)]
    subprocess.run([compiler, *words, "-ldl"], check=True)
    return str(library)


def test_another_date_zone_locale_and_hash_seed_give_the_same_files(
    undisturbed: Path, prefect_api: str, tmp_path: Path, earlier_clock: str
) -> None:
    elsewhere = {
        "LD_PRELOAD": earlier_clock,
        "TZ": "Pacific/Chatham",
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
    undisturbed: Path, tmp_path: Path, record_property: pytest.RecordProperty
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
    undisturbed: Path, prefect_api: str, tmp_path: Path, record_property: pytest.RecordProperty
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
    code, said = audit(prefect_api, home)
    assert code == 0, said
    assert outputs(home) == outputs(undisturbed)


def collected(home: Path) -> dict[str, str]:
    folder = home / "run" / "activations"
    return {
        path.relative_to(folder).as_posix(): file_digest(path)
        for path in folder.rglob("*")
        if path.is_file() and path.name != "summary.json"
    }


def test_a_disk_that_fills_while_activations_are_collected_loses_nothing(
    undisturbed: Path, prefect_api: str, tmp_path: Path
) -> None:
    def fill() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, resource.RLIM_INFINITY))

    homes = [tmp_path / "full", tmp_path / "roomy"]
    for home in homes:
        shutil.copytree(undisturbed, home)
    full, roomy = homes
    commands = [
        ["collect", str(home / "run"), "--set", "activations.sources=[neurons]"] for home in homes
    ]
    code, said = audit(prefect_api, full, command=commands[0], limit=fill)
    assert code == 1, said
    assert any("are free there" in line for line in said.splitlines())
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
    for home, command in zip(homes, commands, strict=True):
        code, said = audit(prefect_api, home, command=command)
        assert code == 0, said
    assert collected(full) == collected(roomy) != {}
