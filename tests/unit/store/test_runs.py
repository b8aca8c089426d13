import json
from datetime import UTC, datetime

import pandas as pd
import pytest

import whatchanged
from whatchanged.errors import InputError
from whatchanged.records import PROMPT_COLUMNS
from whatchanged.store.runs import RunFolder, is_unfinished, load_run

NOON = datetime(2025, 1, 2, 12, tzinfo=UTC)


def write_run(path, **more):
    run = RunFolder.create(path)
    run.write_config("seed: 3  # default\n")
    run.write_json("summary", {"stop_reason": "resolved"})
    run.write_json("findings.json", [{"id": "h1"}, {"id": "h2"}])
    run.write_table(
        "prompts", pd.DataFrame([("k", "hello", "g", "discovery")], columns=PROMPT_COLUMNS)
    )
    for name, data in more.items():
        run.write_bytes(name, data)
    run.finish({"decode": "ab" * 32}, {"whatchanged": "0.1.0"}, now=NOON)
    return run


def test_a_finished_run_can_be_loaded(tmp_path):
    write_run(tmp_path / "run")
    run = whatchanged.load(tmp_path / "run")
    assert run.config == {"seed": 3}
    assert run.summary == {"stop_reason": "resolved"}
    assert [finding["id"] for finding in run.findings] == ["h1", "h2"]
    assert list(run.prompts["prompt"]) == ["hello"]
    assert run.manifest["stages"] == {"decode": "ab" * 32}
    assert run.manifest["created_utc"] == "2025-01-02T12:00:00+00:00"
    assert run.manifest["schema_version"] == 1
    assert sorted(run.manifest["files"]) == [
        "config.yaml", "findings.json", "prompts.parquet", "summary.json",
    ]  # fmt: skip


def test_the_same_run_has_the_same_bytes(tmp_path):
    write_run(tmp_path / "one")
    write_run(tmp_path / "two")
    assert {p.name: p.read_bytes() for p in (tmp_path / "one").iterdir()} == {
        p.name: p.read_bytes() for p in (tmp_path / "two").iterdir()
    }


def test_a_run_without_a_table_says_so(tmp_path):
    write_run(tmp_path)
    with pytest.raises(InputError, match=r"holds no verdicts\.parquet"):
        _ = load_run(tmp_path).verdicts


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(InputError, match="expected a run folder"):
        load_run(tmp_path)
    with pytest.raises(InputError, match="expected a run folder"):
        load_run(tmp_path / "absent")
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match=r"found 'thesis\.tex'"):
        RunFolder.create(tmp_path)
    with pytest.raises(InputError, match="found a file"):
        RunFolder.create(tmp_path / "thesis.tex")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_an_unfinished_run_says_to_run_again(tmp_path):
    run = RunFolder.create(tmp_path)
    run.write_config("seed: 3\n")
    assert is_unfinished(tmp_path)
    with pytest.raises(InputError, match="unfinished"):
        load_run(tmp_path)


def test_a_run_that_is_started_again_is_unfinished_until_it_ends(tmp_path):
    write_run(tmp_path)
    assert not is_unfinished(tmp_path)
    RunFolder.create(tmp_path)
    with pytest.raises(InputError, match="unfinished"):
        load_run(tmp_path)
    write_run(tmp_path)
    assert load_run(tmp_path).config == {"seed": 3}


def test_leftovers_of_an_earlier_run_go_and_files_of_others_stay(tmp_path):
    write_run(tmp_path, old=b"of the first run")
    RunFolder.create(tmp_path).write_bytes("torn", b"of a run that was killed")
    (tmp_path / "notes.txt").write_text("mine")
    write_run(tmp_path, figure=b"new")
    names = {path.name for path in tmp_path.iterdir()}
    assert names & {"old", "torn", "notes.txt", "figure"} == {"notes.txt", "figure"}
    assert "notes.txt" not in load_run(tmp_path).manifest["files"]


def test_a_copied_run_without_its_journal_can_be_started_again(tmp_path):
    write_run(tmp_path, old=b"of the first run")
    (tmp_path / ".run.jsonl").unlink()
    write_run(tmp_path)
    assert not (tmp_path / "old").exists()


def test_files_of_another_writer_are_adopted(tmp_path):
    run = RunFolder.create(tmp_path)
    (tmp_path / "activations").mkdir()
    (tmp_path / "activations" / "part").write_bytes(b"x")
    run.adopt("activations/part")
    RunFolder(tmp_path).write_config("{}")
    run.write_json("summary", {})
    run.write_json("findings", [])
    run.finish({}, {})
    assert load_run(tmp_path).manifest["files"]["activations/part"]["n_bytes"] == 1


@pytest.mark.parametrize("name", ["config.yaml", "summary.json", "findings.json"])
def test_a_damaged_or_missing_file_is_named(tmp_path, name):
    write_run(tmp_path)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes() + b" ")
    with pytest.raises(InputError, match=f"{name} of the run .* is damaged .* run again"):
        load_run(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(InputError, match=f"{name} of the run .* cannot be read .* run again"):
        load_run(tmp_path)


def test_a_damaged_table_is_named_when_it_is_asked_for(tmp_path):
    write_run(tmp_path)
    run = load_run(tmp_path)
    (tmp_path / "prompts.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"prompts\.parquet of the run .* is damaged"):
        _ = run.prompts


def test_any_damage_to_the_manifest_is_found(tmp_path):
    write_run(tmp_path)
    path = tmp_path / "manifest.json"
    sound = path.read_bytes()
    for at in range(0, len(sound) - 1, 7):
        path.write_bytes(sound[:at] + bytes([sound[at] ^ 4]) + sound[at + 1 :])
        with pytest.raises(InputError, match=r"damaged|upgrade"):
            load_run(tmp_path)


def test_a_run_of_a_newer_version_is_refused_with_advice(tmp_path):
    write_run(tmp_path)
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 2}))
    for use in (load_run, RunFolder.create):
        with pytest.raises(InputError, match=r"schema version 2, .* upgrade whatchanged"):
            use(tmp_path)
    assert path.exists()


@pytest.mark.parametrize("name", ["/etc/passwd", "../other", "", "manifest.json", ".run.jsonl"])
def test_names_that_lead_elsewhere_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match="no name of a file"):
        RunFolder.create(tmp_path).write_bytes(name, b"")


def test_a_known_table_needs_its_columns(tmp_path):
    with pytest.raises(ValueError, match=r"prompts\.parquet lacks the columns prompt_key, group"):
        RunFolder.create(tmp_path).write_table("prompts", pd.DataFrame({"prompt": [], "split": []}))


def test_a_journal_that_is_cut_at_any_byte_of_its_last_line_hides_no_other(tmp_path):
    run = RunFolder.create(tmp_path)
    run.write_bytes("first", b"1")
    journal = tmp_path / ".run.jsonl"
    before = journal.read_bytes()
    run.write_bytes("cut", b"2")
    whole = journal.read_bytes()
    for end in range(len(before), len(whole)):
        (tmp_path / "manifest.json").unlink(missing_ok=True)
        journal.write_bytes(whole[:end])
        RunFolder(tmp_path).write_bytes("next", b"3")
        run.finish({}, {})
        files = json.loads((tmp_path / "manifest.json").read_text())["files"].keys()
        assert files - {"cut"} == {"first", "next"}
