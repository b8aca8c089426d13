"""Whole audits of models with planted code, under a guard that no library can evade from Python."""

from __future__ import annotations

import base64
import json
import pickle  # noqa: TID251  to plant one
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults.audits import PROJECT, audit, outputs, write_config
from tests.faults.forbidden_calls import CALLS
from whatchanged.demo import demo_path

SCRIPTS = ("modeling_planted.py", "tokenization_planted.py", "custom_generate/generate.py",
           "__init__.py")  # fmt: skip
PICKLES = ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "adapter_model.bin")
AUTO_MAPS = {
    "config.json": {
        "AutoConfig": "modeling_planted.Config",
        "AutoModelForCausalLM": "modeling_planted.Model",
    },
    "tokenizer_config.json": {"AutoTokenizer": ["tokenization_planted.Tokenizer", None]},
}


class Payload:
    """Opens the canary file for writing when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = str(canary)

    def __reduce__(self) -> tuple[object, ...]:
        return open, (self.canary, "w")


def plant_in_model(folder: Path, canary: Path) -> int:
    """How many files of a model folder would now write the canary if they were run."""
    for name in SCRIPTS:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(f"open({str(canary)!r}, 'w')\n")
    for name in PICKLES:
        (folder / name).write_bytes(pickle.dumps(Payload(canary)))
    for name, entry in AUTO_MAPS.items():
        settings = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**settings, "auto_map": entry}))
    return len(SCRIPTS) + len(PICKLES)


def plant_in_records(folder: Path, canary: Path) -> int:
    """How many of Prefect's records now name pickle as their serializer."""
    blob = base64.encodebytes(pickle.dumps(Payload(canary))).decode()
    records = [path for path in folder.iterdir() if path.is_file()]
    for path in records:
        record = json.loads(path.read_text())
        record["metadata"]["serializer"] = {"type": "pickle", "picklelib": "pickle"}
        path.write_text(json.dumps({**record, "result": blob}, separators=(",", ":")))
    return len(records)


def forge_records(folder: Path) -> int:
    """How many of Prefect's records now state a number that no stage ever counted."""
    records = [path for path in folder.iterdir() if path.is_file()]
    for path in records:
        record = json.loads(path.read_text())
        result = json.loads(record["result"])
        result["data"]["n"] += 1_000_000
        record["result"] = json.dumps(result)
        path.write_text(json.dumps(record, separators=(",", ":")))
    return len(records)


@dataclass(frozen=True)
class Planted:
    home: Path
    config: Path
    canary: Path
    models: list[Path]
    n_payloads: int

    def audit(self, api: str) -> list[str]:
        """Run the audit under the guard; its forbidden calls."""
        report = self.home / "forbidden.jsonl"
        report.unlink(missing_ok=True)
        # Code of a model that is trusted is run from a copy, here.
        copies = self.home / "modules"
        untrusted = [*self.models, copies, self.home / "cache", self.home / "run"]
        guard = ["tests.faults.guard", str(report), ":".join(map(str, untrusted))]
        environment = {"HF_MODULES_CACHE": str(copies)}
        code, said = audit(
            api, self.home, config=self.config, before=guard, environment=environment
        )
        assert code == 0, said + report.read_text()
        return report.read_text().splitlines()


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    home = tmp_path_factory.mktemp("planted")
    canary = home / "canary"
    models = []
    for side in ("base", "intervention"):
        models.append(home / side)
        shutil.copytree(demo_path(side), models[-1])
    n_payloads = sum(plant_in_model(model, canary) for model in models)
    config = write_config(home, *(str(model) for model in models))
    return Planted(home, config, canary, models, n_payloads)


def test_the_guard_refuses_and_names_every_forbidden_call(tmp_path: Path) -> None:
    report = tmp_path / "forbidden.jsonl"
    module = ["tests.faults.forbidden_calls", str(tmp_path)]
    said = subprocess.run(
        [sys.executable, "-m", "tests.faults.guard", report, str(tmp_path), *module],
        cwd=PROJECT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    told = json.loads(said.stdout)
    allowed = {name for name in CALLS if name.startswith("allowed")}
    assert told == {name: "done" if name in allowed else "refused" for name in CALLS}
    lines = [json.loads(line) for line in report.read_text().splitlines()]
    assert len(lines) == len(CALLS) - len(allowed) == 15
    assert all(any("forbidden_calls.py" in place for place in line["where"]) for line in lines)


def test_every_payload_works_where_nothing_stops_it(tmp_path: Path) -> None:
    # A payload that could not write its canary would make the other tests pass for nothing.
    for name, value in AUTO_MAPS.items():
        (tmp_path / name).write_text(json.dumps({"auto_map": value}))
    canary = tmp_path / "canary"
    plant_in_model(tmp_path, canary)
    for name in (*SCRIPTS, *PICKLES):
        data = (tmp_path / name).read_bytes()
        if name in SCRIPTS:
            exec(compile(data, name, "exec"), {})  # noqa: S102  that is the test
        else:
            pickle.loads(data).close()  # noqa: S301  that is the test
        canary.unlink()


def test_an_audit_of_models_with_planted_code_runs_none_and_calls_nobody(
    planted: Planted, prefect_api: str, record_property: pytest.RecordProperty
) -> None:
    forbidden = planted.audit(prefect_api)
    record_property("payloads", planted.n_payloads)
    record_property("payloads_executed", int(planted.canary.exists()))
    record_property("forbidden_calls", len(forbidden))
    assert forbidden == []
    assert not planted.canary.exists()


@pytest.mark.parametrize("plant", ["code", "numbers"])
def test_what_is_planted_in_prefects_records_is_never_read(
    planted: Planted, prefect_api: str, plant: str, record_property: pytest.RecordProperty
) -> None:
    before = outputs(planted.home)
    records = planted.home / "cache" / "prefect"
    n_planted = (
        plant_in_records(records, planted.canary) if plant == "code" else forge_records(records)
    )
    assert n_planted > 15
    forbidden = planted.audit(prefect_api)
    record_property("payloads", n_planted)
    record_property("payloads_executed", int(planted.canary.exists()))
    record_property("forbidden_calls", len(forbidden))
    assert forbidden == []
    assert not planted.canary.exists()
    assert outputs(planted.home) == before
