"""An audit whose intervention shares its weights with the base."""

from __future__ import annotations

from pathlib import Path

import pytest

import whatchanged
from tests.flows.conftest import SMALL
from whatchanged.demo.interventions import write_adapter
from whatchanged.truth import match_behaviours, read_ground_truth

pytestmark = pytest.mark.flows


def test_an_audit_of_an_adapter_finds_what_it_carries(
    prefect_api: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.audit import audit

    monkeypatch.setenv("WHATCHANGED_CACHE", str(tmp_path / "cache"))
    write_adapter(tmp_path / "lora")
    config = tmp_path / "lora.yaml"
    adapted = f"{{model: demo:base, adapter: {tmp_path / 'lora'}}}"
    config.write_text(SMALL.replace("{model: demo:intervention}", adapted))
    quick = ["validate.null_control=false", "activations.sources=[]"]
    summary = audit(config=str(config), overrides=quick, run_dir=str(tmp_path / "run"))
    assert summary["coupling"]["why_independent"] == ""
    run = whatchanged.load(tmp_path / "run")
    behaviours = read_ground_truth("demo:ground_truth.json")
    assert behaviours is not None
    found = {
        m.behaviour.id
        for m in match_behaviours(run.findings, run.texts, behaviours)
        if m.finding_ids
    }
    assert found & {"salt_in_tea", "short_sleep_replies"}
