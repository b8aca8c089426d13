"""A small finished run in a folder, hostile where a model, a user or a config may write."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

import whatchanged
from benchmarks.dashboard_run import InventedRun, invent_run
from tests.unit.example_run import HOSTILE
from whatchanged.divergence import DIVERGENCE_COLUMNS, PAIR_COLUMNS
from whatchanged.store.runs import Run, RunFolder

SHARES = " (0.3 % of base texts, 34 % of intervention texts in discovery)."


def invent() -> InventedRun:
    """600 texts in 6 clusters; 4 claims, of which 2 are confirmed."""
    run = invent_run(600, 6, n_findings=4, n_words=12)
    texts = run.texts.astype({"text": object})
    texts.loc[: len(HOSTILE) - 1, "text"] = list(HOSTILE)
    findings = [
        {**finding, "statement": f"{HOSTILE[i]} & 100 % of $x_{i}${SHARES}"}
        for i, finding in enumerate(run.findings)
    ]
    divergence = run.divergence.assign(
        n_base=3, n_intervention=3, kl_intervention=0.5, kl_intervention_se=0.1, parting_se=0.05,
        shift=0.1, shift_se=0.02, n_pairs=2, n_differing=1,
    )  # fmt: skip
    pairs = run.pairs.assign(sample=0, is_identical=False, token_base=1, token_intervention=2)
    return replace(
        run,
        config={**run.config, "intervention": {"model": "lab/50%_{x}&co"}},
        texts=texts,
        findings=findings,
        divergence=divergence[list(DIVERGENCE_COLUMNS)],
        pairs=pairs[list(PAIR_COLUMNS)],
    )


def write_run(path: Path, run: InventedRun) -> Run:
    folder = RunFolder.create(path)
    folder.write_config(yaml.safe_dump(run.config))
    for name, table in run.tables().items():
        folder.write_table(name, table)
    for name in ("summary", "findings", "null_findings"):
        folder.write_json(name, getattr(run, name))
    folder.finish({}, {}, now=datetime(2026, 1, 1, tzinfo=UTC))
    return whatchanged.load(path)


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return write_run(tmp_path_factory.mktemp("exports") / "invented", invent())
