"""`whatchanged push`, against a hub on this machine."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.loopback.hub import LoopbackHub, Repository
from tests.unit.exports.conftest import invent, write_run
from whatchanged.cli import main
from whatchanged.store.runs import load_run

TOKEN = "hf_canary2f8a61d3"  # noqa: S105


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with its report, in a folder of this file's own."""
    folder = tmp_path_factory.mktemp("push") / "example"
    write_run(folder, invent())
    assert main(["report", str(folder)]) == 0
    return folder


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with LoopbackHub(TOKEN) as running:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", running.url)
        yield running


def test_the_report_and_the_dashboard_are_pushed_and_private(
    run: Path, hub: LoopbackHub, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["push", str(run), "--repo", "owner/audits"]) == 0
    found = hub.repositories["owner/audits"]
    assert found.is_private
    assert found.messages == ["Add the audit example"]
    for name in ("report.html", "report.md"):
        assert found.files[name] == load_run(run).read_bytes(name)
    assert b"<!doctype html>" in found.files["dashboard/index.html"]
    assert any(name.startswith("dashboard/data/") for name in found.files)
    card = found.files["README.md"].decode()
    assert card.startswith("---\ntags:\n- whatchanged\n")
    assert "# example" in card
    said = capsys.readouterr().out
    assert f"{hub.url}/datasets/owner/audits (private)" in said
    # Neither tables nor activations: what people read, and nothing else.
    tops = {name.split("/")[0] for name in found.files}
    assert tops <= {"README.md", "report.html", "report.md", "figures", "dashboard"}


def test_a_repository_is_public_only_where_that_is_asked_for(
    run: Path, hub: LoopbackHub, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.repositories["owner/open"] = Repository(is_private=False)
    assert main(["push", str(run), "--repo", "owner/open"]) == 2
    said = capsys.readouterr().err
    assert "expected owner/open to be private, found a public repository" in said
    assert hub.repositories["owner/open"].files == {}
    assert main(["push", str(run), "--repo", "owner/open", "--public"]) == 0
    assert hub.repositories["owner/open"].files
    assert main(["push", str(run), "--repo", "owner/new", "--public"]) == 0
    assert not hub.repositories["owner/new"].is_private


def test_a_dry_run_says_what_would_be_pushed_and_asks_no_hub(
    run: Path, hub: LoopbackHub, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["push", str(run), "--repo", "owner/audits", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "dashboard/index.html" in said and "nothing was pushed" in said
    assert hub.repositories == {}


def test_offline_a_push_is_one_sentence(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert main(["push", str(run), "--repo", "owner/audits"]) == 2
    said = capsys.readouterr().err
    assert "found HF_HUB_OFFLINE set: unset it to push" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("token", ["hf_wrong", ""])
def test_a_token_that_may_not_write_is_missed_with_code_5(
    run: Path, hub: LoopbackHub, token: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    assert main(["push", str(run), "--repo", "owner/audits"]) == 5
    said = capsys.readouterr().err
    assert "expected a token that may write to owner/audits" in said
    assert said.count("\n") == 1
    assert TOKEN not in said


def test_a_name_that_is_no_repository_is_refused(
    run: Path, hub: LoopbackHub, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["push", str(run), "--repo", "owner//audits"]) == 2
    assert "expected --repo owner/name, found 'owner//audits'" in capsys.readouterr().err


def test_a_hub_that_nobody_answers_fails_and_leaves_the_run_as_it_is(
    run: Path, hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
        assert main(["push", str(run), "--repo", "owner/audits"]) == 1
    assert "so push again" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
