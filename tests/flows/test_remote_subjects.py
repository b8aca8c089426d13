"""Real audits whose subjects are behind an API: a server on this machine that decodes with the
embedded models, asked through OpenAI's client. The count of calls is always the server's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import whatchanged
from tests.flows.conftest import SMALL
from tests.flows.test_audit import PROJECT, findings_of, run
from tests.loopback.misbehaviour import Misbehaviour
from tests.loopback.server import Loopback
from whatchanged.config_file import load_config
from whatchanged.plan import count_prompts, plan_audit
from whatchanged.prompts import read_prompts
from whatchanged.truth import match_behaviours, read_ground_truth

pytestmark = pytest.mark.flows

SUBJECTS = {"plain": "demo:base", "tuned": "demo:intervention"}
KEY_VARIABLE = "WHATCHANGED_TEST_KEY"
CANARY = "canary-5e7d90ab13f24c66"
N_AT_ONCE = 16
PRICES = "models:\n  plain: {input: 0.10, output: 0.40}\n  tuned: {input: 0.20, output: 0.80}\n"
LOCAL = {"base": "{model: demo:base}", "intervention": "{model: demo:intervention}"}
# Too few texts to find anything with, enough to be paid for.
TINY = """\
base: {model: demo:base}
intervention: {model: demo:intervention}
prompts: {file: demo:prompts.jsonl}
decode: {chunk_texts: 150, max_new_tokens: 96}
sample: {seed_texts: 432, max_rounds: 0}
hypothesize: {max_hypotheses: 8}
validate: {texts_per_hypothesis: 80, max_texts_per_hypothesis: 80, n_permutations: 2000}
report: {dashboard: false}
"""


def remote_config(home: Path, server: Loopback, *sides: str, audit: str = SMALL) -> Path:
    """An audit with some sides behind the server; the null control is left out."""
    text = audit.replace("n_permutations: 2000}", "n_permutations: 2000, null_control: false}")
    text = text.replace("activations: {sources: []}\n", "")
    for side, model in (("base", "plain"), ("intervention", "tuned")):
        if side in sides:
            remote = (
                f"{{model: {model}, engine: openai_compatible, endpoint: '{server.url}/v1',"
                f" key_variable: {KEY_VARIABLE}, max_concurrency: {N_AT_ONCE}}}"
            )
            text = text.replace(f"{side}: {LOCAL[side]}", f"{side}: {remote}")
    (home / "prices.yaml").write_text(PRICES)
    config = home / "remote.yaml"
    config.write_text(f"{text}budget: {{prices: '{home / 'prices.yaml'}', max_usd: 5}}\n")
    return config


@dataclass(frozen=True)
class Audited:
    """An undisturbed audit of a remote intervention, and the server's counts after it."""

    config: Path
    folder: Path
    summary: dict[str, Any]
    counts: dict[str, Any]


@pytest.fixture(scope="module")
def server() -> Iterator[Loopback]:
    with Loopback(subjects=SUBJECTS, key=CANARY) as running:
        yield running


@pytest.fixture(scope="module")
def audited(
    server: Loopback, prefect_api: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Audited]:
    assert prefect_api
    home = tmp_path_factory.mktemp("remote")
    config, folder = remote_config(home, server, "intervention"), home / "first"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WHATCHANGED_CACHE", str(home / "cache"))
        patch.setenv(KEY_VARIABLE, CANARY)
        summary = run(config, folder)
        yield Audited(config, folder, summary, server.counts())


def test_planted_changes_of_a_remote_model_are_found(audited: Audited) -> None:
    loaded = whatchanged.load(audited.folder)
    behaviours = read_ground_truth("demo:ground_truth.json")
    assert behaviours is not None
    matches = match_behaviours(loaded.findings, loaded.texts, behaviours)
    found = {match.behaviour.id for match in matches if match.finding_ids}
    # Independent texts, and few of them: only the large changes can be seen.
    assert len(found) >= 2, found


def test_every_text_of_a_remote_model_is_one_call_and_says_who_wrote_it(audited: Audited) -> None:
    texts = whatchanged.load(audited.folder).texts
    remote = texts[texts["side"] == "intervention"]
    decoded = audited.summary["decode"]["intervention"]
    assert audited.counts["n_calls"] == audited.counts["n_distinct"] == decoded["n_decoded"]
    assert set(remote["decoded_by"]) == {"tuned loopback"}
    assert set(texts[texts["side"] == "base"]["decoded_by"].str.split().str[0]) == {"transformers"}
    bill = audited.summary["bill"]["intervention"]
    assert bill["n_calls"] == audited.counts["n_calls"]
    assert bill["spent_usd"] == pytest.approx(
        (0.20 * bill["n_tokens_in"] + 0.80 * bill["n_tokens_out"]) * 1e-6
    )


def test_the_report_says_how_remote_sides_were_compared_and_what_was_not_read(
    audited: Audited,
) -> None:
    coupling = audited.summary["coupling"]
    assert (coupling["n_pairs"], coupling["divergence"]) == (0, "none")
    report = (audited.folder / "report.md").read_text()
    assert "decoded independently: the intervention is behind an API" in report
    assert "prompts were compared by sampled texts alone, because the intervention is" in report
    assert "| intervention | `tuned` |" in report
    activations = whatchanged.load(audited.folder).read_bytes("activations/summary.json").decode()
    assert activations.count("so that nothing of it can be read") == 2


def test_a_plan_counts_the_calls_to_the_subject(audited: Audited) -> None:
    config = load_config(audited.config).config
    prompts = count_prompts(read_prompts(config.prompts.file), config.prompts.validation_share)
    plan = plan_audit(config, prompts, None)
    calls, usd = plan.calls["intervention"], plan.usd["intervention"]
    assert calls.low <= audited.counts["n_calls"] <= calls.high
    assert usd.low <= audited.summary["bill"]["intervention"]["spent_usd"] <= usd.high
    assert "base" not in plan.calls


def test_a_second_run_asks_for_nothing(audited: Audited, server: Loopback, tmp_path: Path) -> None:
    before = server.counts()["n_calls"]
    again = run(audited.config, tmp_path / "again")
    assert server.counts()["n_calls"] == before
    assert again["decode"]["intervention"]["n_decoded"] == 0
    assert findings_of(tmp_path / "again") == findings_of(audited.folder)


# Runs of their own process ---------------------------------------------------------------------


def start_child(
    api: str, cache: Path, config: Path, run_dir: Path, *overrides: str
) -> subprocess.Popen[str]:
    env = {
        **os.environ,
        "PREFECT_API_URL": api,
        "PREFECT_LOCAL_STORAGE_PATH": str(cache / "prefect"),
        "WHATCHANGED_CACHE": str(cache),
        KEY_VARIABLE: CANARY,
    }
    sets = [word for override in overrides for word in ("--set", override)]
    return subprocess.Popen(
        [sys.executable, "-m", "whatchanged", "run", config, "--run-dir", run_dir, *sets],
        env=env, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def end_child(process: subprocess.Popen[str]) -> tuple[int, str]:
    said, _ = process.communicate(timeout=800)
    return process.returncode, said


def test_killed_runs_lose_no_paid_text_and_both_sides_may_be_remote(
    server: Loopback, prefect_api: str, tmp_path: Path
) -> None:
    server.forget()
    config = remote_config(tmp_path, server, "base", "intervention", audit=TINY)
    folder, cache, n_kills = tmp_path / "killed", tmp_path / "cache", 0
    for until in (100, 700):
        process = start_child(prefect_api, cache, config, folder)
        while server.counts()["n_calls"] < until and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        n_kills += end_child(process)[0] == -signal.SIGKILL
    assert n_kills == 2
    code, said = end_child(start_child(prefect_api, cache, config, folder))
    assert code == 0, said
    counts = server.counts()
    assert counts["n_calls"] <= counts["n_distinct"] + n_kills * N_AT_ONCE
    loaded = whatchanged.load(folder)
    bill = loaded.summary["bill"]
    assert {name: part["model"] for name, part in bill.items()} == {
        "base": "plain", "intervention": "tuned",
    }  # fmt: skip
    # What was about to be sent when the process died is held as a call.
    n_billed = sum(part["n_calls"] for part in bill.values())
    assert counts["n_calls"] <= n_billed <= counts["n_calls"] + n_kills * N_AT_ONCE
    texts = loaded.texts
    assert (texts["finish"] != "failed").all()
    assert len(texts) == counts["n_distinct"]


def test_a_run_ends_at_its_budget_or_its_sides_with_code_4_and_a_larger_one_finishes_it(
    audited: Audited, server: Loopback, prefect_api: str, tmp_path: Path
) -> None:
    spent = audited.summary["bill"]["intervention"]["spent_usd"]
    server.forget()
    folder, cache, n_before = tmp_path / "capped", tmp_path / "cache", 0
    for cap in (f"budget.max_usd={spent / 3}", f"intervention.max_usd={spent * 2 / 3}"):
        code, said = end_child(start_child(prefect_api, cache, audited.config, folder, cap))
        assert code == 4, said
        assert "and run again, what was answered is not paid for twice" in said
        n_calls = server.counts()["n_calls"]
        assert n_before < n_calls < audited.counts["n_calls"]
        n_before = n_calls
    code, said = end_child(start_child(prefect_api, cache, audited.config, folder))
    assert code == 0, said
    counts = server.counts()
    assert counts["n_calls"] == counts["n_distinct"] == audited.counts["n_calls"]
    assert findings_of(folder) == findings_of(audited.folder)


def test_a_text_that_failed_is_asked_for_again_by_the_next_run_and_no_other(
    server: Loopback, prefect_api: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert prefect_api
    monkeypatch.setenv("WHATCHANGED_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv(KEY_VARIABLE, CANARY)
    server.forget()
    config = remote_config(tmp_path, server, "intervention", audit=TINY)
    # A filter in the way of one text in twenty, which is not tried again within a run.
    monkeypatch.setattr(server, "misbehaviour", Misbehaviour(chances={"filtered": 0.05}))
    down = run(config, tmp_path / "down")
    failed = down["decode"]["intervention"]["n_failed"]
    assert failed == down["failed_items"] == server.counts()["per_kind"]["filtered"] > 0
    texts = whatchanged.load(tmp_path / "down").texts
    assert (texts["finish"] == "failed").sum() == failed
    monkeypatch.setattr(server, "misbehaviour", Misbehaviour())
    up = run(config, tmp_path / "up")
    assert up["failed_items"] == 0
    n_good = Counter(call.request for call in server.calls if call.kind == "ok")
    assert set(n_good.values()) == {1}
    assert {call.request for call in server.calls if call.kind == "filtered"} <= n_good.keys()


def test_the_key_is_nowhere_on_disk(audited: Audited, tmp_path: Path) -> None:
    from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL, PREFECT_LOCAL_STORAGE_PATH

    database = Path(str(PREFECT_API_DATABASE_CONNECTION_URL.value()).partition("///")[2])
    roots = [tmp_path.parent, audited.folder.parent, PREFECT_LOCAL_STORAGE_PATH.value()]
    files = [path for root in roots for path in root.rglob("*") if path.is_file()]
    assert any(path.name == "calls.sqlite" for path in files)
    files += database.parent.glob(f"{database.name}*")
    assert [path for path in files if CANARY.encode() in path.read_bytes()] == []
