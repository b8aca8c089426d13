"""What a later stage adds to a finished run, and takes out of it again."""

import json
from datetime import UTC, datetime

import pytest

import whatchanged
from whatchanged.errors import InputError
from whatchanged.store.runs import RunFolder, load_run

STAGE = "activations"
KEY = "cd" * 32
NOON = datetime(2025, 1, 2, 12, tzinfo=UTC)


@pytest.fixture
def run(tmp_path):
    folder = RunFolder.create(tmp_path / "run")
    folder.write_config("seed: 3\n")
    folder.write_json("summary", {"stop_reason": "resolved"})
    folder.write_json("findings", [])
    folder.write_bytes("activations.txt", b"of the audit")
    folder.finish({"decode": "ab" * 32}, {"whatchanged": "0.1.0"}, now=NOON)
    return folder


def extend(run, key=KEY, **files):
    for name, data in files.items():
        run.write_bytes(f"{STAGE}/{name}", data)
    return run.extend(STAGE, key)


def added(run):
    return {n for n in load_run(run.path).manifest["files"] if n.startswith(f"{STAGE}/")}


def test_what_a_stage_added_counts_as_the_runs_own(run):
    before = load_run(run.path).manifest
    run.write_json(f"{STAGE}/summary", {"n_texts": 2})
    (run.path / STAGE / "store").mkdir()
    (run.path / STAGE / "store" / "events").write_bytes(b"of another writer")
    run.extend(STAGE, KEY)
    after = load_run(run.path)
    assert added(run) == {"activations/summary.json", "activations/store/events"}
    assert after.read_bytes("activations/store/events") == b"of another writer"
    assert after.manifest["stages"] == {"decode": "ab" * 32, STAGE: KEY}
    # All that was there is stated as it was.
    assert after.manifest["files"].items() >= before["files"].items()
    assert {k: after.manifest[k] for k in ("created_utc", "versions", "schema_version")} == {
        k: before[k] for k in ("created_utc", "versions", "schema_version")
    }


def test_the_run_loads_at_every_step(run):
    extend(run, events=b"1")
    steps = [
        lambda: run.retract(STAGE),
        lambda: run.write_bytes(f"{STAGE}/events", b"2"),
        lambda: run.write_bytes(f"{STAGE}/more", b"3"),
        lambda: run.extend(STAGE, KEY),
    ]
    stated = []
    for step in steps:
        step()
        assert whatchanged.load(run.path).config == {"seed": 3}
        stated.append(added(run))
    assert stated == [set(), set(), set(), {"activations/events", "activations/more"}]


def test_retracting_leaves_what_the_run_was(run):
    before = (run.path / "manifest.json").read_bytes()
    extend(run, events=b"1")
    run.retract(STAGE)
    assert (run.path / "manifest.json").read_bytes() == before
    assert not (run.path / STAGE).exists()
    # Only the folder of the stage's name is the stage's.
    assert load_run(run.path).read_bytes("activations.txt") == b"of the audit"
    run.retract(STAGE)
    assert (run.path / "manifest.json").read_bytes() == before


def test_leftovers_of_a_killed_stage_vanish(run):
    run.write_bytes(f"{STAGE}/torn", b"of a collection that was killed")
    run.retract(STAGE)
    extend(run, events=b"1")
    assert added(run) == {"activations/events"}
    assert not (run.path / STAGE / "torn").exists()


def test_leftovers_of_a_killed_stage_vanish_when_the_run_is_made_again(run):
    run.write_bytes(f"{STAGE}/torn", b"of a collection that was killed")
    again = RunFolder.create(run.path)
    again.write_config("seed: 4\n")
    again.finish({}, {})
    assert not (run.path / STAGE / "torn").exists()


def test_a_run_that_is_made_again_loses_what_was_added_to_the_earlier_one(run):
    extend(run, events=b"1")
    again = RunFolder.create(run.path)
    again.write_config("seed: 4\n")
    again.write_json("summary", {})
    again.write_json("findings", [])
    again.finish({}, {})
    assert added(run) == set()
    assert not (run.path / STAGE / "events").exists()


def test_temporaries_are_not_counted(run):
    run.write_bytes(f"{STAGE}/events", b"1")
    temporary = run.path / STAGE / ".events.host-1.4242.0.tmp"
    temporary.write_bytes(b"half")
    run.extend(STAGE, KEY)
    assert added(run) == {"activations/events"}


@pytest.mark.parametrize("step", ["extend", "retract"])
def test_a_file_damaged_before_is_found_all_the_same(run, step):
    (run.path / "summary.json").write_bytes(b'{"stop_reason": "edited"}')
    if step == "extend":
        extend(run, events=b"1")
    else:
        run.retract(STAGE)
    with pytest.raises(InputError, match=r"summary\.json of the run .* is damaged"):
        load_run(run.path)


def test_an_added_file_that_is_damaged_later_is_found(run):
    extend(run, events=b"1")
    (run.path / STAGE / "events").write_bytes(b"2")
    with pytest.raises(InputError, match=r"activations/events of the run .* is damaged"):
        load_run(run.path).read_bytes(f"{STAGE}/events")


def test_an_unfinished_run_is_refused(tmp_path):
    run = RunFolder.create(tmp_path)
    run.write_bytes(f"{STAGE}/events", b"1")
    for change in (lambda: run.extend(STAGE, KEY), lambda: run.retract(STAGE)):
        with pytest.raises(InputError, match="unfinished"):
            change()
    assert (tmp_path / STAGE / "events").exists()


def test_a_damaged_manifest_is_never_written_over(run):
    path = run.path / "manifest.json"
    stated = json.loads(path.read_bytes())
    stated["files"].pop("summary.json")
    path.write_text(json.dumps(stated))
    for change in (lambda: run.extend(STAGE, KEY), lambda: run.retract(STAGE)):
        with pytest.raises(InputError, match="is damaged"):
            change()
    assert json.loads(path.read_bytes()) == stated
