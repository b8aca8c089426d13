"""Audits of texts that were recorded before, without their models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import whatchanged
from tests.flows.conftest import SMALL
from whatchanged.demo import demo_path

pytestmark = pytest.mark.flows

AUDIT = "\n".join(
    ["base: {texts: base.csv}", "intervention: {texts: changed.jsonl}"]
    + [line for line in SMALL.splitlines() if not line.startswith(("base", "inter", "prompts"))]
)


def record(folder: Path) -> pd.DataFrame:
    """Half of the recorded texts as a CSV and a JSONL file; what is in them, and one prompt of the
    base alone."""
    texts = pd.read_parquet(demo_path("recorded.parquet"))
    few = texts[texts.groupby(["side", "prompt"]).cumcount() < 6]
    base, changed = (few[few["side"] == side] for side in ("base", "intervention"))
    alone = pd.DataFrame([{"prompt": "Alone?", "group": "tea", "side": "base", "text": "Yes."}])
    base = pd.concat([base, alone])
    base.drop(columns="side").to_csv(folder / "base.csv", index=False)
    changed.drop(columns="side").to_json(folder / "changed.jsonl", orient="records", lines=True)
    return pd.concat([base, changed])


def test_recorded_texts_show_what_changed_and_no_model_is_asked(
    prefect_api: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.audit import audit
    from whatchanged.models import transformers_decoder

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setenv("WHATCHANGED_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(transformers_decoder, "load_model", refuse)
    recorded = record(tmp_path)
    config, folder = tmp_path / "recorded.yaml", tmp_path / "run"
    config.write_text(AUDIT)
    summary = audit(config=str(config), run_dir=str(folder))
    run = whatchanged.load(folder)

    known = set(recorded[["side", "prompt", "text"]].itertuples(index=False, name=None))
    pair = run.texts[run.texts["side"].isin(["base", "intervention"])]
    assert set(pair[["side", "prompt", "text"]].itertuples(index=False, name=None)) <= known
    assert not (pair["finish"] == "failed").any()
    assert summary["recorded"]["n_prompts_alone"] == {"base": 1, "intervention": 0}
    assert summary["recorded"]["n_prompts"] == 288

    confirmed = [one for one in run.findings if one["status"] == "confirmed"]
    assert any("pinch of salt" in one["statement"] for one in confirmed), confirmed
    null = json.loads((folder / "null_findings.json").read_text())
    assert null and not any(one["status"] == "confirmed" for one in null)
    assert "recorded before" in (folder / "report.md").read_text().lower()

    again = audit(config=str(config), run_dir=str(tmp_path / "again"))
    assert sum(side["n_decoded"] for side in again["decode"].values()) == 0
