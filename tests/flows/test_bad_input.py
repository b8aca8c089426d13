"""Bad input through the real command: one sentence, the documented exit code, nothing lost."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from whatchanged.demo import demo_path

CONFIG = """\
base: {{model: {base}}}
intervention: {{model: demo:intervention}}
prompts: {{file: {prompts}}}
"""
PROMPTS = ['{"prompt": "How do I make good tea?"}', '{"prompt": "Is chess hard to learn?"}']


def audit(folder: Path, *arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "whatchanged", "run", folder / "c.yaml",
         "--run-dir", folder / "run", *arguments],
        env={**os.environ, "WHATCHANGED_CACHE": str(folder / "cache"), "HF_HUB_OFFLINE": "1"},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.stdout == ""
    return done.returncode, done.stderr.strip()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "prompts.jsonl").write_text("\n".join(PROMPTS))
    (tmp_path / "c.yaml").write_text(CONFIG.format(base="demo:base", prompts="prompts.jsonl"))
    return tmp_path


def says(folder: Path, *expected: str, arguments: tuple[str, ...] = (), code: int = 2) -> None:
    found_code, said = audit(folder, *arguments)
    assert found_code == code, said
    assert said.startswith("whatchanged: ")
    assert "\n" not in said
    for part in expected:
        assert part in said


def test_an_unknown_key_comes_with_the_nearest_known_one(folder: Path) -> None:
    says(folder, "unknown key 'decode.temprature'", "did you mean 'temperature'?",
         arguments=("--set", "decode.temprature=1"))  # fmt: skip


def test_a_model_folder_without_weights_is_named(folder: Path) -> None:
    (folder / "empty-model").mkdir()
    shutil.copy(demo_path("base") / "config.json", folder / "empty-model")
    says(folder, "empty-model", "expected weights in *.safetensors, found none",
         arguments=("--set", f"base.model={folder / 'empty-model'}"))  # fmt: skip


def test_a_hub_model_that_cannot_be_had_is_a_missing_dependency(folder: Path) -> None:
    says(folder, "expected the weights of nobody/nothing", code=5,
         arguments=("--set", "base.model=nobody/nothing"))  # fmt: skip


def test_an_empty_prompt_file_is_said(folder: Path) -> None:
    (folder / "prompts.jsonl").write_text("\n")
    says(folder, "found an empty file", 'add rows like {"prompt"')


def test_a_prompt_with_half_a_surrogate_pair_is_said(folder: Path) -> None:
    (folder / "prompts.jsonl").write_text('{"prompt": "a\\ud83d"}\n{"prompt": "b"}')
    says(folder, "line 1", "lone surrogate '\\ud83d'", "remove or replace it")


def test_no_prompt_left_for_validation_is_said(folder: Path) -> None:
    (folder / "prompts.jsonl").write_text(PROMPTS[0])
    says(folder, "expected at least 2 distinct prompts, found 1")


def test_more_clusters_than_texts_are_said(folder: Path) -> None:
    says(folder, "found 4000 clusters for 1000 texts",
         arguments=("--set", "cluster.n_clusters=4000"))  # fmt: skip


def test_a_run_folder_of_a_newer_version_is_left_alone(folder: Path) -> None:
    (folder / "run").mkdir()
    manifest = folder / "run" / "manifest.json"
    manifest.write_text(json.dumps({"schema_version": 99, "files": {}}))
    says(folder, "schema version 99", "upgrade whatchanged")
    assert json.loads(manifest.read_text())["schema_version"] == 99
    assert list((folder / "run").iterdir()) == [manifest]


def test_a_folder_with_other_things_is_left_alone(folder: Path) -> None:
    (folder / "run").mkdir()
    (folder / "run" / "thesis.tex").write_text("years of work")
    says(folder, "found 'thesis.tex'", "choose another --run-dir")
    assert (folder / "run" / "thesis.tex").read_text() == "years of work"
