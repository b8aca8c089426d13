"""What the README promises of the demo, measured on the real thing."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

import whatchanged
from benchmarks.heldout_scores import recount
from whatchanged.truth import match_behaviours, read_ground_truth, unmatched_confirmed

PROJECT = Path(__file__).parents[2]
FINDINGS_ALONE = (
    "validate.null_control=false", "activations.sources=[]", "report.dashboard=false"
)  # fmt: skip
pytestmark = pytest.mark.flows


def audit(config: str, run_dir: Path, *overrides: str) -> dict[str, Any]:
    from flows.audit import audit

    path = str(PROJECT / "configs" / config)
    return audit(config=path, overrides=list(overrides), run_dir=str(run_dir))


@pytest.mark.timeout(900)
def test_the_demo_finds_what_was_planted_and_little_else(
    prefect_api: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WHATCHANGED_CACHE", str(tmp_path / "cache"))
    # Work done, which wall time is not where neighbours share the cores.
    started = time.process_time()
    audit("demo.yaml", tmp_path / "demo")
    first_s = time.process_time() - started
    run = whatchanged.load(tmp_path / "demo")
    behaviours = read_ground_truth("demo:ground_truth.json")
    assert behaviours is not None
    matches = match_behaviours(run.findings, run.texts, behaviours)
    assert sum(bool(match.finding_ids) for match in matches) >= 5

    others = set(unmatched_confirmed(run.findings, matches))
    recounted = recount([f for f in run.findings if f["id"] in others], run, tmp_path, 2_000)
    assert sum(not row["is_real"] for row in recounted) <= 1

    started = time.process_time()
    again = audit("demo.yaml", tmp_path / "again")
    again_s = time.process_time() - started
    print(f"{first_s:.1f} and {again_s:.1f} s of processor time")
    assert sum(side["n_decoded"] for side in again["decode"].values()) == 0
    assert again["embed"]["n_embedded"] == 0
    assert again_s < first_s / 4


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_base_against_itself_confirms_nothing_in_19_of_20_seeds(
    prefect_api: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WHATCHANGED_CACHE", str(tmp_path / "cache"))
    n_confirmed = [
        audit("null.yaml", tmp_path / f"null-{seed}", f"seed={seed}",
              *FINDINGS_ALONE)["n_confirmed"]
        for seed in range(20)
    ]  # fmt: skip
    print("confirmed per seed:", n_confirmed)
    assert sum(n == 0 for n in n_confirmed) >= 19


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_fine_tune_that_plants_nothing_is_hardly_noticed(
    prefect_api: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WHATCHANGED_CACHE", str(tmp_path / "cache"))
    n_confirmed = [
        audit("null_intervention.yaml", tmp_path / f"null-{seed}", f"seed={seed}",
              *FINDINGS_ALONE)["n_confirmed"]
        for seed in range(5)
    ]  # fmt: skip
    print("confirmed per seed:", n_confirmed)
    assert max(n_confirmed) <= 1
