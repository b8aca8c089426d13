from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from tests.unit.exports.conftest import invent, write_run
from whatchanged.cli.export import FORMATS, export_run
from whatchanged.errors import InputError, UsageError
from whatchanged.exports.atlas import ATLAS_COLUMNS, tabulate_atlas
from whatchanged.store.exports import LISTING, write_export_file, write_listed_folder
from whatchanged.store.runs import Run, RunFolder

LISTED = ("tables", "latex", "figures")
FILES = ("html", "atlas", "model-card")


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("format", [*LISTED, "atlas", "model-card"])
def test_an_export_twice_gives_the_same_files_and_leaves_the_run_sound(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], format: str
) -> None:
    run = write_run(tmp_path / "run", invent())
    assert export_run(run.path, format, None) == 0
    first = contents(run.path)
    assert export_run(run.path, format, None) == 0
    assert contents(run.path) == first
    assert all(name in first for name in run.manifest["files"])
    line = capsys.readouterr().out.splitlines()[0]
    assert line.startswith(str(run.path / "exports" / format))


@pytest.mark.parametrize(
    ("given", "advice"),
    [("tabels", "did you mean 'tables'?"), ("modelcard", "did you mean 'model-card'?"),
     ("xyz", "choose one of these")],
)  # fmt: skip
def test_an_unknown_format_is_one_sentence_with_the_nearest_name(
    tmp_path: Path, given: str, advice: str
) -> None:
    with pytest.raises(UsageError) as caught:
        export_run(tmp_path, given, None)
    assert caught.value.exit_code == 2
    assert str(caught.value) == (
        "expected --format to be one of folder, html, tables, latex, figures, atlas, model-card, "
        f"found '{given}': {advice}"
    )


@pytest.mark.parametrize("format", FORMATS)
def test_a_run_that_is_not_finished_is_refused_and_nothing_is_written(
    tmp_path: Path, format: str
) -> None:
    RunFolder.create(tmp_path / "run").write_json("summary.json", {})
    before = contents(tmp_path)
    with pytest.raises(InputError, match="is unfinished: run again") as caught:
        export_run(tmp_path / "run", format, tmp_path / "out")
    assert caught.value.exit_code == 2
    assert contents(tmp_path) == before


@pytest.mark.parametrize("format", LISTED)
def test_a_folder_with_other_files_is_refused_and_left_as_it_is(
    run: Run, tmp_path: Path, format: str
) -> None:
    (tmp_path / "findings.csv").write_text("mine")
    with pytest.raises(InputError, match=r"found 'findings\.csv': choose another --out") as caught:
        export_run(run.path, format, tmp_path)
    assert caught.value.exit_code == 2
    assert contents(tmp_path) == {"findings.csv": b"mine"}


@pytest.mark.parametrize("format", FILES)
def test_a_file_that_is_there_is_never_overwritten(run: Run, tmp_path: Path, format: str) -> None:
    path = tmp_path / "README.md"
    path.write_text("mine")
    with pytest.raises(InputError, match="remove it or choose another --out"):
        export_run(run.path, format, path)
    assert path.read_text() == "mine"


def test_a_file_that_somebody_added_to_an_export_keeps_it_from_being_replaced(
    tmp_path: Path,
) -> None:
    write_listed_folder(tmp_path, "tables", [("a.csv", b"1")])
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"found 'notes\.txt'"):
        write_listed_folder(tmp_path, "tables", [("a.csv", b"2")])
    assert (tmp_path / "a.csv").read_bytes() == b"1"


def test_an_export_of_another_format_is_not_replaced(tmp_path: Path) -> None:
    write_listed_folder(tmp_path, "tables", [("a.csv", b"1")])
    with pytest.raises(InputError, match="an earlier export of latex"):
        write_listed_folder(tmp_path, "latex", [("a.tex", b"2")])
    assert sorted(contents(tmp_path)) == ["a.csv", LISTING]


def test_what_an_earlier_export_had_and_this_one_has_not_is_removed(tmp_path: Path) -> None:
    write_listed_folder(tmp_path, "tables", [("a.csv", b"1"), ("b.csv", b"2")])
    assert write_listed_folder(tmp_path, "tables", [("b.csv", b"33")]) == 2
    assert sorted(contents(tmp_path)) == ["b.csv", LISTING]
    assert json.loads((tmp_path / LISTING).read_bytes()) == {
        "format": "tables", "files": ["b.csv"],
    }  # fmt: skip


def test_an_export_that_was_cut_short_can_be_made_again(tmp_path: Path) -> None:
    def breaks() -> object:
        yield "a.csv", b"1"
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_listed_folder(tmp_path, "tables", breaks())  # type: ignore[arg-type]
    write_listed_folder(tmp_path, "tables", [("b.csv", b"2")])
    assert sorted(contents(tmp_path)) == ["b.csv", LISTING]


def test_a_listing_that_cannot_be_read_makes_the_folder_a_strangers(tmp_path: Path) -> None:
    (tmp_path / LISTING).write_text("[]")
    with pytest.raises(InputError, match=r"found 'export\.json'"):
        write_listed_folder(tmp_path, "tables", [("a.csv", b"1")])


def test_a_folder_export_needs_a_folder_and_a_file_export_a_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("mine")
    with pytest.raises(InputError, match="expected a folder"):
        write_listed_folder(path, "tables", [])
    with pytest.raises(InputError, match="expected a file name"):
        write_export_file(tmp_path, b"")


def test_the_atlas_file_has_the_columns_that_embedding_atlas_is_told_of(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "my map.parquet"
    export_run(run.path, "atlas", path)
    table = pq.read_table(path).to_pandas()
    assert tuple(table) == ATLAS_COLUMNS
    assert {str(table[name].dtype) for name in ("x", "y", "margin")} == {"float32"}
    assert f"`embedding-atlas '{path}' --text text --x x --y y`" in capsys.readouterr().out


def test_the_atlas_has_each_mapped_text_with_its_side_group_and_cluster(run: Run) -> None:
    table = tabulate_atlas(run).set_index("text_key")
    texts = run.texts.set_index("text_key")
    prompts = run.prompts.set_index("prompt_key")
    # One pair in three is fresh, and fresh texts are not on the map.
    assert len(table) == 400
    first = table.iloc[0]
    source = texts.loc[table.index[0]]
    assert first["side"] == source["side"]
    assert first["group"] == prompts.loc[source["prompt_key"], "group"]
    assert first["cluster"] == f"invented-6-t{source['label']}"
    assert first["exemplar"] == f"Exemplar of t{source['label']}."
    # The invented base gives -2.0 nats per token and the intervention -1.9.
    assert table["nats_per_token"].to_numpy() == pytest.approx(0.1, abs=1e-6)


def test_noise_has_no_cluster_and_unscored_texts_no_difference(run: Run) -> None:
    noise = replace(invent(), texts=run.texts.assign(label=-1, logprob_base=float("nan")))
    table = tabulate_atlas(noise)
    assert set(table["cluster"]) == {"noise"}
    assert table["nats_per_token"].isna().all()


def test_a_run_without_a_map_has_no_atlas() -> None:
    bare = replace(invent(), map=pd.DataFrame({"text_key": [], "x": [], "y": []}))
    with pytest.raises(InputError, match="found no text on it"):
        tabulate_atlas(bare)
