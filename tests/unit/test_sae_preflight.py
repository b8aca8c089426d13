"""Comparisons that cannot start, through the real command: one sentence, exit 2, no folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.unit.models.small_saes import make_sae
from whatchanged.cli import main
from whatchanged.demo.saes import demo_sae_path
from whatchanged.models.sae_folders import sae_arrays, sae_config
from whatchanged.sae_config import load_comparison
from whatchanged.sae_preflight import check_comparison
from whatchanged.store.sae_folders import write_sae_folder

CONFIG = "model: {model: demo:base}\nsaes: [{folder: demo:topk}]\ntexts: {file: t.jsonl}\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder with a config and three texts."""
    torch.set_num_threads(1)
    (tmp_path / "c.yaml").write_text(CONFIG)
    write_texts(tmp_path, ("Tea is hot.", "tea"), ("Dogs run.", "dogs"), ("Dogs bark.", "dogs"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_texts(folder: Path, *rows: tuple[str, str]) -> None:
    lines = [json.dumps({"text": text, "category": category}) for text, category in rows]
    (folder / "t.jsonl").write_text("\n".join(lines))


def write_sae(folder: Path, **settings: Any) -> None:
    sae = make_sae(**settings)
    write_sae_folder(folder, sae_config(sae), sae_arrays(sae))


def refuses(
    capsys: pytest.CaptureFixture[str], *expected: str, overrides: tuple[str, ...] = ()
) -> None:
    arguments = [word for override in overrides for word in ("--set", override)]
    assert main(["compare-saes", "c.yaml", "--run-dir", "run", *arguments]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("whatchanged: ")
    for part in expected:
        assert part in err
    assert not Path("run").exists()


def test_a_comparison_that_can_start_is_let_through(here: Path) -> None:
    # One text in a category is little, and no mistake.
    config = load_comparison(Path("c.yaml"), ["intervention={model: demo:intervention}"]).config
    check_comparison(config, Path("run"))
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("pooing=max", "did you mean 'pooling'?"),
        ("saes=[{folder: absent}]", "found no cfg.json and no sae_weights.safetensors"),
        ("saes=[{folder: demo:best}]", "there are topk, jumprelu, poor"),
        ("saes=[{folder: demo:topk}, {folder: demo:topk}]", "found 'topk' twice: name each"),
        ("texts.file=absent.jsonl", "expected a file of categorized texts"),
        ("model.model=absent/", "found no folder 'absent/'"),
        ("concepts={long: ['" + "word " * 300 + "']}", "expected texts of at most 256 tokens"),
    ],
)
def test_what_a_config_names_wrongly_is_said(
    here: Path, capsys: pytest.CaptureFixture[str], override: str, expected: str
) -> None:
    refuses(capsys, expected, overrides=(override,))


def test_an_sae_of_another_width_is_named_with_both(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_sae(here / "wide", d_in=128)
    refuses(capsys, "SAE 'wide'", "width 128", "found 96", overrides=("saes=[{folder: wide}]",))


def test_an_unknown_hook_point_comes_with_the_known_ones(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_sae(here / "lost", hook_name="blocks.9.hook_resid_post")
    refuses(
        capsys, "'blocks.9.hook_resid_post'", "hook_resid_post", "N below 3",
        overrides=("saes=[{folder: lost}]",),
    )  # fmt: skip


def test_an_sae_without_an_architecture_is_refused_until_the_config_says_it(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(demo_sae_path("topk"), here / "bare")
    stated = json.loads((here / "bare" / "cfg.json").read_text())
    architecture = stated.pop("architecture")
    (here / "bare" / "cfg.json").write_text(json.dumps(stated))
    refuses(capsys, "expected architecture", overrides=("saes=[{folder: bare}]",))
    named = f"saes=[{{folder: bare, overrides: {{architecture: {architecture}}}}}]"
    check_comparison(load_comparison(Path("c.yaml"), [named]).config, Path("run"))


def test_an_empty_text_is_named_with_its_line(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_texts(here, ("Tea is hot.", "tea"), ("  ", "dogs"))
    refuses(capsys, "t.jsonl, line 2", "expected a text, found an empty one")


def test_a_folder_that_is_no_run_is_left_alone(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "run").mkdir()
    (here / "run" / "thesis.txt").write_text("mine")
    assert main(["compare-saes", "c.yaml", "--run-dir", "run"]) == 2
    assert "expected a run or an empty folder at run" in capsys.readouterr().err
    assert [path.name for path in (here / "run").iterdir()] == ["thesis.txt"]
