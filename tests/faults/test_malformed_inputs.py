"""Malformed configs and inputs: one sentence, the documented exit code, and nothing lost.

Everything is refused before a run folder is made, so that no case starts Prefect.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from whatchanged.cli import main
from whatchanged.demo import demo_path

CONFIG = """\
base: {model: demo:base}
intervention: {model: demo:intervention}
prompts: {file: prompts.jsonl}
"""
PROMPTS = ['{"prompt": "How do I make good tea?"}', '{"prompt": "Is chess hard to learn?"}']
API = "{provider: openai_compatible, model: judge-small, endpoint: 'http://127.0.0.1:9/v1'}"


@dataclass(frozen=True)
class Case:
    """What is wrong in a folder that was right, or with the arguments; what is said of it."""

    said: tuple[str, ...]
    arguments: Sequence[str] = ()
    spoil: Callable[[Path], object] | None = None
    code: int = 2


def sets(*overrides: str) -> list[str]:
    return [word for override in overrides for word in ("--set", override)]


def writes(name: str, content: str | bytes) -> Callable[[Path], object]:
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / name).write_bytes(data)


def removes(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def config_with(line: str) -> Callable[[Path], object]:
    return writes("c.yaml", f"{CONFIG}{line}\n")


def model_without_weights(folder: Path) -> None:
    (folder / "empty-model").mkdir()
    shutil.copy(demo_path("base") / "config.json", folder / "empty-model")


def model_with_pickled_weights(folder: Path) -> None:
    model_without_weights(folder)
    (folder / "empty-model" / "pytorch_model.bin").write_bytes(b"\x80\x04.")


def run_holds(name: str, content: str) -> Callable[[Path], object]:
    def spoil(folder: Path) -> None:
        (folder / "run").mkdir()
        (folder / "run" / name).write_text(content)

    return spoil


CASES = {
    "no config": Case(("c.yaml", "expected a config file"), spoil=removes("c.yaml")),
    "empty config": Case(("expected a mapping",), spoil=writes("c.yaml", "")),
    "a list for a config": Case(("expected a mapping",), spoil=writes("c.yaml", "- base\n")),
    "broken YAML": Case(("c.yaml", "YAML"), spoil=writes("c.yaml", "base: {model: [\n")),
    "YAML that names code": Case(
        ("c.yaml", "YAML"),
        spoil=writes("c.yaml", "base: !!python/object/apply:os.system [id]\n"),
    ),
    "bytes that are no text": Case(
        ("c.yaml", "UTF-8"), spoil=writes("c.yaml", b"base: \xff\xfe\n")
    ),
    "no models": Case(("base", "intervention"), spoil=writes("c.yaml", "seed: 1\n")),
    "an unknown key": Case(
        ("unknown key 'decode.temprature'", "did you mean 'temperature'?"),
        sets("decode.temprature=1"),
    ),
    "a key given twice": Case(
        ("line 5", "'seed' stands twice"), spoil=config_with("seed: 1\nseed: 2")
    ),
    "a word for a number": Case(("sample.seed_texts", "many"), sets("sample.seed_texts=many")),
    "a number out of range": Case(("validate.alpha", "2"), sets("validate.alpha=2")),
    "no number": Case(("decode.temperature", "nan"), sets("decode.temperature=.nan")),
    "a band upside down": Case(
        ("borderline must be [low, high]",), sets("judge.borderline=[0.6, 0.4]")
    ),
    "an override without a value": Case(("--set", "seed"), sets("seed")),
    "more clusters than texts": Case(
        ("found 4000 clusters for 1000 texts",), sets("cluster.n_clusters=4000")
    ),
    "no prompt file": Case(("prompts.jsonl",), spoil=removes("prompts.jsonl")),
    "an empty prompt file": Case(
        ("found an empty file", 'add rows like {"prompt"'), spoil=writes("prompts.jsonl", "\n")
    ),
    "a prompt line that is no JSON": Case(
        ("line 2",), spoil=writes("prompts.jsonl", f"{PROMPTS[0]}\n{{prompt: b}}\n")
    ),
    "a row without a prompt": Case(
        ("line 1", "prompt"), spoil=writes("prompts.jsonl", f'{{"text": "a"}}\n{PROMPTS[0]}\n')
    ),
    "half a surrogate pair": Case(
        ("line 1", "lone surrogate '\\ud83d'", "remove or replace it"),
        spoil=writes("prompts.jsonl", '{"prompt": "a\\ud83d"}\n{"prompt": "b"}'),
    ),
    "no prompt left for validation": Case(
        ("expected at least 2 distinct prompts, found 1",),
        spoil=writes("prompts.jsonl", PROMPTS[0]),
    ),
    "a model folder without weights": Case(
        ("empty-model", "expected weights in *.safetensors, found none"),
        sets("base.model=empty-model"),
        model_without_weights,
    ),
    "weights as pickle only": Case(
        ("empty-model", "*.safetensors"), sets("base.model=empty-model"), model_with_pickled_weights
    ),
    "a hub model that cannot be had": Case(
        ("expected the weights of nobody/nothing",), sets("base.model=nobody/nothing"), code=5
    ),
    "a judge without its key": Case(
        ("NO_SUCH_KEY",),
        spoil=config_with(f"judge: {{cheap: {API.replace('}', ', key_variable: NO_SUCH_KEY}')}}}"),
        code=5,
    ),
    "a budget without a price": Case(
        ("expected a price for 'judge-small'",),
        sets("budget.max_usd=1"),
        config_with(f"judge: {{cheap: {API.replace('}', ', key_variable: A_KEY}')}}}"),
    ),
    "an adapter that is none": Case(
        ("expected the weights of no-adapter",), sets("intervention.adapter=no-adapter"), code=5
    ),
    "a steering file that is none": Case(
        ("vector",), sets("intervention.steering=no-vector.safetensors")
    ),
    "a ground truth that is none": Case(("truth.json",), sets("report.ground_truth=truth.json")),
    "a run folder of a newer version": Case(
        ("schema version 99", "upgrade whatchanged"),
        spoil=run_holds("manifest.json", json.dumps({"schema_version": 99, "files": {}})),
    ),
    "a folder with other things": Case(
        ("found 'thesis.tex'", "choose another --run-dir"),
        spoil=run_holds("thesis.tex", "years of work"),
    ),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "prompts.jsonl").write_text("\n".join(PROMPTS))
    (tmp_path / "c.yaml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WHATCHANGED_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("A_KEY", "canary-5d1f")
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    return tmp_path


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "cache" not in path.parts
    }


@pytest.mark.parametrize("name", CASES)
def test_what_is_malformed_is_one_sentence_and_changes_nothing(
    folder: Path,
    name: str,
    capsys: pytest.CaptureFixture[str],
    record_property: pytest.RecordProperty,
) -> None:
    case = CASES[name]
    if case.spoil is not None:
        case.spoil(folder)
    before = files(folder)
    code = main(["run", "c.yaml", "--run-dir", "run", *case.arguments])
    out, err = capsys.readouterr()
    assert code == case.code, err
    assert out == ""
    assert err.startswith("whatchanged: ")
    assert err.count("\n") == 1
    for part in case.said:
        assert part in err
    assert "canary" not in err
    assert files(folder) == before
    record_property("malformed_inputs", 1)


def test_the_folder_that_the_cases_spoil_is_right(folder: Path) -> None:
    assert main(["plan", "c.yaml"]) == 0


def test_a_process_says_the_same_as_a_call(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "whatchanged", "run", "c.yaml", "--set", "decode.temprature=1"],
        env=dict(os.environ), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("whatchanged: ")
    assert done.stderr.count("\n") == 1
