"""Real audits of the embedded pair whose judges and proposer are a server on this machine, through
both client libraries. The count of calls is always the server's."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import whatchanged
from benchmarks.judge_cost import read_bill
from tests.faults.audits import environment_of, fork_audit
from tests.faults.nursery import KILLED, Child, Nursery, nursery
from tests.flows.conftest import SMALL, Finished
from tests.flows.test_audit import PROJECT, findings_of, run
from tests.loopback.misbehaviour import Misbehaviour
from tests.loopback.rules import Noise
from tests.loopback.server import Loopback
from whatchanged.config_file import load_config
from whatchanged.plan import count_prompts, plan_audit
from whatchanged.planned_calls import measure_judged
from whatchanged.prompts import read_prompts
from whatchanged.records import Judgement, Question
from whatchanged.truth import match_behaviours, read_ground_truth

pytestmark = pytest.mark.flows

KEY_VARIABLE = "WHATCHANGED_TEST_KEY"
CANARY = "canary-3f9b1c77e2d04a58"
N_AT_ONCE = 8
PRICES = """\
models:
  judge-small: {input: 0.10, output: 0.40}
  judge-large: {input: 1.25, output: 10.00}
  proposer-large: {input: 1.25, output: 10.00}
"""


def paid_config(home: Path, server: Loopback, *, extra: str = "") -> Path:
    """The small audit with a cheap judge behind OpenAI's API, the others behind Gemini's."""
    (home / "prices.yaml").write_text(PRICES)
    api = f"key_variable: {KEY_VARIABLE}, max_concurrency: {N_AT_ONCE}"
    config = home / "paid.yaml"
    config.write_text(
        SMALL.replace("n_permutations: 2000}", "n_permutations: 2000, null_control: false}")
        + f"""\
hypothesize: {{proposer: gemini, model: proposer-large, endpoint: "{server.url}", {api}}}
judge:
  cheap: {{provider: openai_compatible, model: judge-small, endpoint: "{server.url}/v1", {api}}}
  expensive: {{provider: gemini, model: judge-large, endpoint: "{server.url}", {api}}}
budget: {{max_usd: 50, prices: "{home / "prices.yaml"}"}}
{extra}"""
    )
    return config


@pytest.fixture(scope="module")
def server() -> Iterator[Loopback]:
    noise = Noise(error_rate=0.1, borderline_rate=0.1, exact=frozenset({"judge-large"}))
    with Loopback(noise=noise, key=CANARY) as running:
        yield running


@dataclass(frozen=True)
class Paid:
    """An undisturbed paid audit, and the server's counts after it. Nobody may write into it."""

    config: Path
    folder: Path
    cache: Path
    summary: dict[str, Any]
    counts: dict[str, Any]


@pytest.fixture(scope="module")
def paid(
    server: Loopback, finished: Finished, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Paid]:
    home = tmp_path_factory.mktemp("paid")
    cache, folder = home / "cache", home / "first"
    # The texts are there: what is left is to propose and to judge.
    shutil.copytree(finished.cache, cache)
    config = paid_config(home, server)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WHATCHANGED_CACHE", str(cache))
        patch.setenv(KEY_VARIABLE, CANARY)
        summary = run(config, folder)
        yield Paid(config, folder, cache, summary, server.counts())


def read_artifact(key: str) -> list[dict[str, Any]]:
    from prefect.artifacts import Artifact

    found = Artifact.get(key)
    assert found is not None
    return list(json.loads(found.data))


def test_a_paid_audit_finds_and_counts(paid: Paid) -> None:
    loaded = whatchanged.load(paid.folder)
    assert any(finding["status"] == "confirmed" for finding in loaded.findings)
    assert len(loaded.verdicts) > 0
    verdicts = loaded.verdicts
    assert not verdicts.duplicated(["hypothesis_id", "tier", "text_key"]).any()
    judged = paid.summary["judge"]
    for tier, model in (("cheap", "judge-small"), ("expensive", "judge-large")):
        assert judged[tier]["n_calls"] == (verdicts["tier"] == tier).sum()
        assert judged[tier]["n_unscored"] == 0
        # Texts that read alike are one call.
        assert 0 < paid.counts["per_model"][model] <= judged[tier]["n_calls"]
        assert judged[tier]["cost_usd"] > 0
    assert judged["expensive"]["n_calls"] < judged["cheap"]["n_calls"] / 2
    assert judged["audit"]["n_audited"] > 0


def test_the_account_of_a_paid_run_is_an_artifact(paid: Paid) -> None:
    proposer, cheap, expensive, everything = read_artifact("judging")
    per_model = paid.counts["per_model"]
    calls = [row["calls"] for row in (proposer, cheap, expensive)]
    assert calls == [per_model[model] for model in ("proposer-large", "judge-small", "judge-large")]
    assert cheap["dollars"] == pytest.approx(paid.summary["judge"]["cheap"]["cost_usd"], abs=1e-4)
    assert 0 < everything["saved"] < 1
    assert everything["dollars"] > expensive["dollars"]
    bill = paid.summary["bill"]
    for row, name in ((proposer, "proposer"), (cheap, "cheap"), (expensive, "expensive")):
        # The server counts a token per 4 bytes; a score is 13 bytes.
        assert row["tokens in"] == bill[name]["n_tokens_in"] > 100 * row["calls"]
        assert row["tokens out"] == bill[name]["n_tokens_out"] >= 4 * row["calls"]
    # Prices of a million tokens: 0.10 in, 0.40 out.
    assert cheap["dollars"] == pytest.approx(
        (0.10 * cheap["tokens in"] + 0.40 * cheap["tokens out"]) * 1e-6, abs=1e-4
    )


def test_confirmed_findings_are_summed_up_in_themes_for_one_call_more(paid: Paid) -> None:
    confirmed = [
        f["id"] for f in whatchanged.load(paid.folder).findings if f["status"] == "confirmed"
    ]
    assert len(confirmed) > 1
    found = paid.summary["themes"]
    assert found["missing"] == ""
    assert [theme["findings"] for theme in found["themes"]] == [confirmed]
    assert "Recurring themes" in (paid.folder / "report.md").read_text()


def test_a_finding_costs_what_its_answers_cost(paid: Paid) -> None:
    findings = whatchanged.load(paid.folder).findings
    spent = sum(paid.summary["judge"][tier]["cost_usd"] for tier in ("cheap", "expensive"))
    # Nothing else is in the bill of an undisturbed run, and no two of its findings share an answer.
    assert sum(finding["cost_usd"] for finding in findings) == pytest.approx(spent)


def test_the_bill_of_a_paid_run_is_compared_with_asking_the_expensive_judge_everything(
    paid: Paid,
) -> None:
    bill = read_bill(paid.folder)
    per_model = paid.counts["per_model"]
    assert bill["n_calls"] == {
        "cheap": per_model["judge-small"], "expensive": per_model["judge-large"],
    }  # fmt: skip
    dear = paid.summary["bill"]["expensive"]
    mean_usd = dear["spent_usd"] / per_model["judge-large"]
    assert bill["usd_everything"] == pytest.approx(bill["n_texts"] * mean_usd, abs=1e-3)
    assert bill["cost"] == pytest.approx(bill["usd"] / bill["usd_everything"], abs=1e-3)


def paying_tasks() -> list[str]:
    """The task runs that asked for a slot among those that pay."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import TaskRunFilter, TaskRunFilterTags

    tagged = TaskRunFilter(tags=TaskRunFilterTags(all_=["paid-calls"]))
    with get_client(sync_client=True) as client:
        return [task_run.name for task_run in client.read_task_runs(task_run_filter=tagged)]


def test_a_second_run_pays_nothing(paid: Paid, server: Loopback, tmp_path: Path) -> None:
    before, paying = server.counts()["n_calls"], paying_tasks()
    assert paying
    assert all(name.startswith(("judge pair cheap", "judge pair expensive")) for name in paying)
    again = run(paid.config, tmp_path / "again")
    assert server.counts()["n_calls"] == before
    # Nor does it wait for those that do.
    assert sorted(paying_tasks()) == sorted(paying)
    assert all(again["judge"][tier]["cost_usd"] == 0 for tier in ("cheap", "expensive"))
    assert findings_of(tmp_path / "again") == findings_of(paid.folder)


# Runs of their own process -------------------------------------------------------------------


@pytest.fixture(scope="module")
def warm(prefect_api: str) -> Iterator[Nursery]:
    """Where runs are forked that reach the server of the tests."""
    with nursery("tests.faults.whole_audit", **environment_of(prefect_api)) as opened:
        yield opened


def start_child(warm: Nursery, cache: Path, config: Path, run_dir: Path, *overrides: str) -> Child:
    sets = [word for override in overrides for word in ("--set", override)]
    words = ["run", str(config), "--run-dir", str(run_dir), *sets]
    return fork_audit(warm, cache.parent, *words, **{KEY_VARIABLE: CANARY})


def fresh_server(latency_s: float = 0.0, **settings: Any) -> Loopback:
    """A server that answers as the module's does; a new address is a new judge to the cache."""
    noise = Noise(error_rate=0.1, borderline_rate=0.1, exact=frozenset({"judge-large"}))
    return Loopback(noise=noise, key=CANARY, latency_s=latency_s, **settings)


@pytest.fixture
def texts(finished: Finished, tmp_path: Path) -> Path:
    """A cache that holds the texts of the small audit and nothing that was paid for."""
    cache = tmp_path / "cache"
    shutil.copytree(finished.cache, cache)
    return cache


def test_a_killed_run_pays_at_most_for_the_calls_in_flight_again(
    paid: Paid,
    texts: Path,
    warm: Nursery,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    with fresh_server(latency_s=0.02) as own:
        config = paid_config(tmp_path, own)
        n_kills, killed = 0, tmp_path / "killed"
        for until in (40, 400):
            child = start_child(warm, texts, config, killed)
            while own.counts()["n_calls"] < until and not child.has_ended():
                time.sleep(0.01)
            child.kill()
            n_kills += child.wait() == KILLED
        assert n_kills == 2
        last = start_child(warm, texts, config, killed)
        assert last.wait() == 0, last.said()
        counts = own.counts()
    record_property("kills_through_prefect", n_kills)
    record_property("extra_calls", counts["n_calls"] - counts["n_distinct"])
    record_property("extra_calls_bound", n_kills * N_AT_ONCE)
    assert counts["n_distinct"] == paid.counts["n_distinct"]
    assert counts["n_calls"] <= counts["n_distinct"] + n_kills * N_AT_ONCE
    # Also in what each has cost, although three processes paid.
    assert findings_of(killed) == findings_of(paid.folder)
    judged = whatchanged.load(killed).summary["judge"]
    for tier in ("cheap", "expensive"):
        # What a kill cut off is paid twice at most, and its bill may be unknown.
        assert judged[tier]["cost_usd"] == pytest.approx(
            paid.summary["judge"][tier]["cost_usd"], rel=0.02
        )


def test_a_run_ends_at_its_budget_with_code_4_and_a_larger_one_finishes_it(
    paid: Paid, texts: Path, warm: Nursery, tmp_path: Path
) -> None:
    spent = sum(paid.summary["judge"][tier]["cost_usd"] for tier in ("cheap", "expensive"))
    with fresh_server() as own:
        config = paid_config(tmp_path, own)
        folder = tmp_path / "capped"
        cap = f"budget.max_usd={spent / 2}"
        child = start_child(warm, texts, config, folder, cap)
        assert child.wait() == 4, child.said()
        assert "raise budget.max_usd and run again" in child.said()
        n_before = own.counts()["n_calls"]
        assert 0 < n_before < paid.counts["n_calls"]
        child = start_child(warm, texts, config, folder)
        assert child.wait() == 0, child.said()
        assert own.counts()["n_calls"] == paid.counts["n_calls"]
    assert findings_of(folder) == findings_of(paid.folder)


# Errors ----------------------------------------------------------------------------------------


def test_a_key_that_is_refused_ends_the_run_and_is_quoted_nowhere(
    texts: Path, warm: Nursery, tmp_path: Path
) -> None:
    with fresh_server(misbehaviour=Misbehaviour(("echo_key",) * 50)) as own:
        config = paid_config(tmp_path, own)
        child = start_child(warm, texts, config, tmp_path / "refused")
        assert child.wait() == 5, child.said()
    assert CANARY not in child.said()


def test_the_key_is_nowhere_on_disk(
    paid: Paid, warm: Nursery, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL, PREFECT_LOCAL_STORAGE_PATH

    database = Path(str(PREFECT_API_DATABASE_CONNECTION_URL.value()).partition("///")[2])
    assert database.is_file()
    # All runs of this file lie below one folder, with their caches.
    roots = [tmp_path.parent, paid.folder.parent, warm.folder, PREFECT_LOCAL_STORAGE_PATH.value()]
    files = [path for root in roots for path in root.rglob("*") if path.is_file()]
    assert any(path.name == "calls.sqlite" for path in files)
    files += database.parent.glob(f"{database.name}*")
    holders = [path for path in files if CANARY.encode() in path.read_bytes()]
    record_property("files_searched", len(files))
    record_property("secrets_found", len(holders))
    assert holders == []


class Shaky:
    """A judge that cannot answer about some texts while it is down."""

    identity = "shaky"
    is_down = True

    def judge(self, questions: Sequence[Question]) -> list[Judgement]:
        from whatchanged.models.lexical_judge import LexicalJudge

        answers = LexicalJudge().judge(questions)
        return [
            Judgement(None, "failed", "no connection")
            if self.is_down and len(question.text) % 10 == 0
            else answer
            for question, answer in zip(questions, answers, strict=True)
        ]


def test_a_judgement_that_failed_is_asked_for_again_by_the_next_run(
    finished: Finished, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tasks.judge

    monkeypatch.setenv("WHATCHANGED_CACHE", str(texts))
    judge = Shaky()
    monkeypatch.setattr(tasks.judge, "load_judge", lambda *_: judge)
    settings = {"judge__spend": "waves", "validate__null_control": False}
    down = run(finished.config, tmp_path / "down", **settings)
    assert down["judge"]["cheap"]["n_unscored"] > 0
    judge.is_down = False
    up = run(finished.config, tmp_path / "up", **settings)
    assert up["judge"]["cheap"]["n_unscored"] == 0
    assert up["judge"]["cheap"]["n_calls"] > 0
    third = run(finished.config, tmp_path / "third", **settings)
    assert all(third["judge"][tier]["n_calls"] == 0 for tier in ("cheap", "expensive"))
    assert findings_of(tmp_path / "third") == findings_of(tmp_path / "up")


def test_the_expensive_judge_alone_sees_every_text_where_that_is_asked_for(
    finished: Finished, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tasks.judge
    from whatchanged.models.lexical_judge import LexicalJudge

    monkeypatch.setenv("WHATCHANGED_CACHE", str(texts))
    monkeypatch.setattr(tasks.judge, "load_judge", lambda *_: LexicalJudge())
    settings = {"judge__spend": "expensive", "validate__null_control": False}
    summary = run(finished.config, tmp_path / "all", **settings)
    loaded = whatchanged.load(tmp_path / "all")
    assert set(loaded.verdicts["tier"]) == {"expensive"}
    assert summary["judge"]["cheap"]["n_calls"] == 0
    n_texts = {f["id"]: f["n_texts"] for f in loaded.findings}
    assert loaded.verdicts.groupby("hypothesis_id").size().to_dict() == n_texts
    assert any(f["status"] == "confirmed" for f in loaded.findings)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_the_demo_is_audited_by_paid_judges_as_its_config_says(
    prefect_api: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WHATCHANGED_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("GEMINI_API_KEY", CANARY)
    noise = Noise(error_rate=0.1, borderline_rate=0.1, exact=frozenset({"gemini-2.5-pro"}))
    with Loopback(noise=noise, key=CANARY) as own:
        blocks = ("hypothesize", "judge__cheap", "judge__expensive")
        started = time.perf_counter()
        summary = run(
            PROJECT / "configs" / "gemini.yaml",
            tmp_path / "gemini",
            **{f"{block}__endpoint": own.url for block in blocks},
        )
        seconds = time.perf_counter() - started
        counts = own.counts()
    loaded = whatchanged.load(tmp_path / "gemini")
    behaviours = read_ground_truth("demo:ground_truth.json")
    assert behaviours is not None
    matches = match_behaviours(loaded.findings, loaded.texts, behaviours)
    n_found = sum(bool(match.finding_ids) for match in matches)
    print(f"{seconds:.0f} s, {counts['per_model']}, {n_found} of {len(matches)} planted changes")
    print(summary["judge"], summary["n_hypotheses"], summary["n_confirmed"])
    print(summary["null_control"], summary["seconds"], read_artifact("judging"))
    assert n_found >= 5
    assert set(counts["per_model"]) == {"gemini-2.5-flash-lite", "gemini-2.5-pro"}
    bill = summary["bill"]
    assert sum(part["n_calls"] for part in bill.values()) == counts["n_calls"]

    config = load_config(PROJECT / "configs" / "gemini.yaml", ()).config
    prompts = count_prompts(read_prompts(config.prompts.file), config.prompts.validation_share)
    judged = measure_judged(summary, loaded.config, "runs/gemini", is_same=True)
    for plan in (plan_audit(config, prompts, None), plan_audit(config, prompts, None, judged)):
        for name, part in bill.items():
            assert plan.expected_calls[name] == pytest.approx(part["n_calls"], rel=0.2)
        spent = sum(part["spent_usd"] for part in bill.values())
        assert sum(plan.expected_usd.values()) == pytest.approx(spent, rel=0.2)
        assert all(plan.calls[name].high >= part["n_calls"] for name, part in bill.items())
