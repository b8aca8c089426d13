"""Real audits of the embedded pair under a real Prefect server."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import logging
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import whatchanged
from tests.flows.conftest import Finished
from whatchanged.keys import file_digest
from whatchanged.prompts import read_prompts
from whatchanged.store.embeddings import EmbeddingCache

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


def findings_of(folder: Path) -> bytes:
    """The findings' bytes; only the run's own name in cluster ids may differ between runs."""
    return (folder / "findings.json").read_bytes().replace(folder.name.encode() + b"-", b"RUN-")


def test_an_audit_fills_its_run_folder(finished: Finished) -> None:
    summary, loaded = finished.summary, whatchanged.load(finished.folder)
    assert loaded.summary == {k: v for k, v in summary.items() if k != "run"}
    sides = [summary["decode"][side] for side in ("base", "intervention")]
    # The screen's short texts are scored and counted, but they are not part of the run's texts.
    n_screened = sum(side["n_screen"] for side in sides)
    n_texts = loaded.texts.groupby("side").size()
    assert n_texts["intervention"] == sides[1]["n_decoded"] - sides[1]["n_screen"]
    # The null control shares the base's discovery texts, and its fresh ones as far as they go.
    discovered = (loaded.texts["split"] == "discovery") & (loaded.texts["side"] == "base")
    n_null_fresh = summary["decode"]["null"]["n_decoded"] - discovered.sum()
    n_own = sides[0]["n_decoded"] - sides[0]["n_screen"] - n_texts["base"]
    assert 0 <= n_own < n_null_fresh
    assert n_screened == 2 * 4 * (loaded.prompts["split"] == "discovery").sum()
    assert loaded.divergence["parting"].between(0, 1).sum() == n_screened / 8
    assert len(loaded.pairs) == (loaded.texts["split"] == "discovery").sum() / 2
    scored = loaded.texts[loaded.texts["split"] == "discovery"]
    assert (scored[["logprob_base", "logprob_intervention"]] < 0).all().all()
    assert [len(d) for d in scored["differences"]] == [len(ids) for ids in scored["token_ids"]]
    assert set(loaded.texts["split"]) == {"discovery", "validation"}
    assert set(loaded.verdicts["hypothesis_id"]) == {f["id"] for f in loaded.findings}
    named = {f["cluster"] for f in loaded.findings} - {None}
    assert named <= set(loaded.clusters["cluster"])
    assert any(f["status"] == "confirmed" for f in loaded.findings)
    assert summary["null_control"]["n_hypotheses"] == len(loaded.null_findings)
    assert summary["stop_reason"]
    splits = loaded.prompts.set_index("prompt_key")["split"]
    assert (loaded.texts["prompt_key"].map(splits) == loaded.texts["split"]).all()
    for name in ("report.md", "report.html", "figures"):
        assert (finished.folder / name).exists()


def test_a_second_run_decodes_embeds_and_judges_nothing(
    finished: Finished, cache: Path, tmp_path: Path
) -> None:
    again = run(finished.config, tmp_path / "again")
    assert count(again, "n_decoded") == 0
    assert count(again, "n_cached") == count(finished.summary, "n_decoded")
    assert again["embed"]["n_embedded"] == 0
    assert all(again["judge"][tier]["n_calls"] == 0 for tier in ("cheap", "expensive"))
    assert findings_of(tmp_path / "again") == findings_of(finished.folder)


def test_device_and_batch_size_change_no_key(
    finished: Finished, cache: Path, tmp_path: Path
) -> None:
    again = run(finished.config, tmp_path / "again", run__device="cpu", decode__batch_size=7)
    assert count(again, "n_decoded") == 0


def test_a_setting_that_matters_changes_the_texts(
    finished: Finished, cache: Path, tmp_path: Path
) -> None:
    other = run(
        finished.config, tmp_path / "other", decode__temperature=0.9, validate__null_control=False
    )
    assert count(other, "n_cached") == 0
    assert other["null_control"] is None


def test_a_damaged_artifact_is_computed_again_and_alone(
    finished: Finished, cache: Path, tmp_path: Path
) -> None:
    chunks = [p for p in (cache / "artifacts").rglob("*") if is_chunk_of_texts(p)]
    damaged = max(chunks, key=lambda p: p.stat().st_size)
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[: len(whole) // 2])
    again = run(finished.config, tmp_path / "again")
    assert 0 < count(again, "n_decoded") <= 300
    assert damaged.read_bytes() == whole
    assert findings_of(tmp_path / "again") == findings_of(finished.folder)


def is_chunk_of_texts(path: Path) -> bool:
    if not path.is_file():
        return False
    header, _, payload = path.read_bytes().partition(b"\n")
    if json.loads(header)["kind"] != "table":
        return False
    columns = set(pd.read_parquet(io.BytesIO(payload)).columns)
    return "token_ids" in columns and "label" not in columns


def test_a_damaged_embedding_cache_is_rebuilt(
    finished: Finished, cache: Path, tmp_path: Path
) -> None:
    file = cache / "embeddings.lmdb"
    n_rows = EmbeddingCache(cache).check().n_rows
    file.write_bytes(b"garbage" * (file.stat().st_size // 7))
    # Another limit to growth: clustering needs every vector again, of the same texts.
    with pytest.warns(UserWarning, match="vectors are computed again"):
        run(finished.config, tmp_path / "again", cluster__max_growth=0.24)
    assert len(list((cache / "quarantine").iterdir())) == 1
    rebuilt = EmbeddingCache(cache).check()
    assert rebuilt.n_damaged == 0
    distinct = whatchanged.load(tmp_path / "again").segments["segment_key"].nunique()
    assert distinct <= rebuilt.n_rows <= n_rows


KILLS = ("store.after_publish:3", "store.before_publish:12", "embeddings.after_commit:2",
         "store.after_publish:30", "store.before_write:45", "store.after_publish:60")  # fmt: skip


def child(
    api: str, cache: Path, config: Path, run_dir: Path, *, fault: str = "", max_file_bytes: int = 0
) -> tuple[int, str]:
    """Exit code and standard error of the real command in a process of its own."""

    def limit() -> None:
        if max_file_bytes:
            resource.setrlimit(resource.RLIMIT_FSIZE, (max_file_bytes, resource.RLIM_INFINITY))

    env = {
        **os.environ,
        "PREFECT_API_URL": api,
        "PREFECT_LOCAL_STORAGE_PATH": str(cache / "prefect"),
        "WHATCHANGED_CACHE": str(cache),
        "HF_HUB_OFFLINE": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        **({"WHATCHANGED_FAULT": fault} if fault else {}),
    }
    done = subprocess.run(
        [sys.executable, "-m", "whatchanged", "run", config, "--run-dir", run_dir],
        env=env,
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
        preexec_fn=limit,
    )
    return done.returncode, done.stderr


def test_a_run_killed_again_and_again_ends_with_the_same_findings(
    finished: Finished, prefect_api: str, tmp_path: Path
) -> None:
    cache, killed = tmp_path / "cache", tmp_path / "killed"
    codes = [child(prefect_api, cache, finished.config, killed, fault=fault)[0] for fault in KILLS]
    assert set(codes) <= {0, -signal.SIGKILL}
    assert codes.count(-signal.SIGKILL) >= 4
    code, said = child(prefect_api, cache, finished.config, killed)
    assert code == 0, said
    last = whatchanged.load(killed)
    assert findings_of(killed) == findings_of(finished.folder)
    assert count(last.summary, "n_decoded") < count(finished.summary, "n_decoded")
    assert file_digest(killed / "texts.parquet") == file_digest(finished.folder / "texts.parquet")


def test_a_full_disk_says_so_and_loses_nothing(
    finished: Finished, prefect_api: str, tmp_path: Path
) -> None:
    cache, full = tmp_path / "cache", tmp_path / "full"
    code, said = child(prefect_api, cache, finished.config, full, max_file_bytes=20_000)
    assert code == 1
    (sentence,) = (line for line in said.splitlines() if line.startswith("whatchanged: "))
    assert "free" in sentence
    code, said = child(prefect_api, cache, finished.config, full)
    assert code == 0, said
    assert findings_of(full) == findings_of(finished.folder)


@pytest.mark.skipif(importlib.util.find_spec("mlflow") is not None, reason="mlflow is installed")
def test_a_tracker_that_fails_costs_a_warning_and_nothing_else(
    finished: Finished, cache: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "tracked"
    summary = run(finished.config, folder, tracking__mlflow="audits")
    problem = summary["tracking"]["mlflow"]["problem"]
    assert "expected the package mlflow" in problem
    assert whatchanged.load(folder).summary["tracking"] == summary["tracking"]
    assert findings_of(folder) == findings_of(finished.folder)
    assert finished.summary["tracking"] == {}


def test_a_bank_with_duplicates_is_the_same_audit_and_says_so(
    finished: Finished, cache: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = read_prompts("demo:prompts.jsonl")
    bank = tmp_path / "bank.csv"
    with bank.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["group", "prompt"])
        writer.writerows((row.group, row.prompt) for row in (*rows, *rows[:3]))
    logger = logging.getLogger("prefect.flow_runs")
    logger.addHandler(caplog.handler)
    try:
        summary = run(finished.config, tmp_path / "again", prompts__file=bank)
    finally:
        logger.removeHandler(caplog.handler)
    assert summary["prompts"] == {"n": len(rows), "n_duplicates": 3, "format": "rows"}
    assert f"3 of {len(rows) + 3} prompts were left out" in caplog.text
    assert finished.summary["prompts"]["n_duplicates"] == 0
    assert whatchanged.load(tmp_path / "again").summary["prompts"] == summary["prompts"]
    # The same rows under the same keys: nothing is decoded again.
    assert count(summary, "n_decoded") == 0
