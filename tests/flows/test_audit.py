"""Real audits of the embedded pair under a real Prefect server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import whatchanged
from whatchanged.keys import file_digest

PROJECT = Path(__file__).parents[2]
pytestmark = pytest.mark.flows


def run(config: Path, run_dir: Path, **overrides: Any) -> dict[str, Any]:
    from flows.audit import audit

    return audit(
        config=str(config),
        overrides=[f"{key.replace('__', '.')}={value}" for key, value in overrides.items()],
        run_dir=str(run_dir),
    )


def count(summary: dict[str, Any], what: str) -> int:
    return sum(side[what] for side in summary["decode"].values())


@pytest.fixture
def first(
    prefect_api: str, cache: Path, small_config: Path, tmp_path: Path
) -> tuple[dict[str, Any], Path]:
    folder = tmp_path / "first"
    return run(small_config, folder), folder


def test_an_audit_fills_its_run_folder(first: tuple[dict[str, Any], Path]) -> None:
    summary, folder = first
    loaded = whatchanged.load(folder)
    assert loaded.summary == {k: v for k, v in summary.items() if k != "run"}
    assert len(loaded.texts) == sum(
        summary["decode"][side]["n_decoded"] for side in ("base", "intervention")
    )
    assert set(loaded.texts["split"]) == {"discovery", "validation"}
    assert set(loaded.verdicts["hypothesis_id"]) == {f["id"] for f in loaded.findings}
    assert any(f["status"] == "confirmed" for f in loaded.findings)
    assert summary["null_control"]["n_hypotheses"] == len(loaded.null_findings)
    assert summary["stop_reason"]
    splits = loaded.prompts.set_index("prompt_key")["split"]
    assert (loaded.texts["prompt_key"].map(splits) == loaded.texts["split"]).all()
    for name in ("report.md", "report.html", "figures"):
        assert (folder / name).exists()


def test_a_second_run_decodes_embeds_and_judges_nothing(
    first: tuple[dict[str, Any], Path], small_config: Path, tmp_path: Path
) -> None:
    summary, folder = first
    again = run(small_config, tmp_path / "again")
    assert count(again, "n_decoded") == 0
    assert count(again, "n_cached") == count(summary, "n_decoded")
    assert again["embed"]["n_embedded"] == 0
    assert all(again["judge"][tier]["n_calls"] == 0 for tier in ("cheap", "expensive"))
    findings = (tmp_path / "again" / "findings.json").read_bytes()
    assert findings.replace(b"again-", b"first-") == (folder / "findings.json").read_bytes()


def test_device_and_batch_size_change_no_key(
    first: tuple[dict[str, Any], Path], small_config: Path, tmp_path: Path
) -> None:
    again = run(small_config, tmp_path / "again", run__device="cpu", decode__batch_size=7)
    assert count(again, "n_decoded") == 0


def test_a_setting_that_matters_changes_the_texts(
    first: tuple[dict[str, Any], Path], small_config: Path, tmp_path: Path
) -> None:
    other = run(small_config, tmp_path / "other", decode__temperature=0.9)
    assert count(other, "n_cached") == 0


def test_a_damaged_artifact_is_computed_again_and_alone(
    first: tuple[dict[str, Any], Path], cache: Path, small_config: Path, tmp_path: Path
) -> None:
    _, folder = first
    chunks = [p for p in (cache / "artifacts").rglob("*") if is_chunk_of_texts(p)]
    damaged = max(chunks, key=lambda p: p.stat().st_size)
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[: len(whole) // 2])
    again = run(small_config, tmp_path / "again")
    assert 0 < count(again, "n_decoded") <= 100
    assert damaged.read_bytes() == whole
    findings = (tmp_path / "again" / "findings.json").read_bytes()
    assert findings.replace(b"again-", b"first-") == (folder / "findings.json").read_bytes()


def is_chunk_of_texts(path: Path) -> bool:
    import io

    import pandas as pd

    if not path.is_file():
        return False
    header, _, payload = path.read_bytes().partition(b"\n")
    if b'"kind":"table"' not in header.replace(b" ", b""):
        return False
    return "sample" in pd.read_parquet(io.BytesIO(payload)).columns and (
        "label" not in pd.read_parquet(io.BytesIO(payload)).columns
    )


KILLS = ("store.after_publish:3", "store.before_publish:12", "embeddings.after_commit:2",
         "store.after_publish:30", "store.before_write:45", "store.after_publish:60")  # fmt: skip


def child(api: str, cache: Path, config: Path, run_dir: Path, fault: str | None) -> int:
    env = {
        **os.environ,
        "PREFECT_API_URL": api,
        "PREFECT_LOCAL_STORAGE_PATH": str(cache / "prefect"),
        "WHATCHANGED_CACHE": str(cache),
        "HF_HUB_OFFLINE": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    if fault:
        env["WHATCHANGED_FAULT"] = fault
    done = subprocess.run(
        [sys.executable, "-m", "flows.audit", "--config", config, "--run-dir", run_dir],
        env=env,
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr[-2000:]
    return done.returncode


def test_a_run_killed_again_and_again_ends_with_the_same_findings(
    first: tuple[dict[str, Any], Path],
    prefect_api: str,
    small_config: Path,
    tmp_path: Path,
) -> None:
    summary, folder = first
    other_cache, killed = tmp_path / "other-cache", tmp_path / "killed"
    codes = [child(prefect_api, other_cache, small_config, killed, fault) for fault in KILLS]
    assert codes.count(-signal.SIGKILL) >= 4
    assert child(prefect_api, other_cache, small_config, killed, None) == 0
    finished = whatchanged.load(killed)
    findings = (killed / "findings.json").read_bytes()
    assert findings.replace(b"killed-", b"first-") == (folder / "findings.json").read_bytes()
    assert count(finished.summary, "n_decoded") < count(summary, "n_decoded")
    assert (killed / "texts.parquet").exists()
    assert file_digest(killed / "texts.parquet") == file_digest(folder / "texts.parquet")
