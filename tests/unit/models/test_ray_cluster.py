"""What is said of a Ray cluster that is not there: found before a run starts, without Ray."""

from __future__ import annotations

import importlib.util
import socket
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from whatchanged.cli import main
from whatchanged.errors import ConfigError, MissingDependencyError
from whatchanged.models import ray_cluster

CONFIG = """\
base: {model: demo:base}
intervention: {model: demo:intervention}
prompts: {file: demo:prompts.jsonl}
"""


@pytest.fixture
def with_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray counts as installed: whether something answers is asked without it."""
    find = importlib.util.find_spec

    def found(name: str) -> ModuleSpec | None:
        return ModuleSpec(name, None) if name in ("ray", "prefect_ray") else find(name)

    monkeypatch.setattr(ray_cluster.importlib.util, "find_spec", found)


@pytest.fixture
def address() -> Iterator[str]:
    """A port that is taken and answers nobody."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


def test_an_address_that_nobody_answers_ends_the_command_with_one_sentence_and_code_5(
    with_ray: None, address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "audit.yaml"
    config.write_text(f"{CONFIG}run: {{runner: ray, ray_address: '{address}'}}\n")
    assert main(["run", str(config), "--run-dir", str(tmp_path / "run")]) == 5
    said = capsys.readouterr().err
    assert f"expected a Ray cluster at {address}, found none that answers" in said
    assert said.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_an_address_without_a_port_is_a_config_error(with_ray: None) -> None:
    with pytest.raises(ConfigError, match=r"expected host:port or ray://host:port") as caught:
        ray_cluster.check_ray("somewhere")
    assert caught.value.exit_code == 2


def test_without_ray_the_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_cluster.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'whatchanged\[ray\]'") as caught:
        ray_cluster.check_ray(None)
    assert caught.value.exit_code == 5
