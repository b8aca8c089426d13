"""Real collections of activations on finished audits of the embedded pair."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import whatchanged
from tests.flows.conftest import SMALL, Finished
from whatchanged.activations import passes
from whatchanged.activations.evidence import CONTRIBUTION_COLUMNS, SELECTIVE_COLUMNS
from whatchanged.activations.tables import COMPONENT_COLUMNS, TOKEN_COLUMNS
from whatchanged.errors import ConfigError, InputError, UsageError, WhatchangedError
from whatchanged.store.activation_reader import ActivationStore
from whatchanged.store.atomic import is_temporary
from whatchanged.store.runs import Run, RunFolder

PROJECT = Path(__file__).parents[2]
SOURCES = "activations.sources=[weight_delta, neurons]"
FEW = (
    SOURCES,
    "activations.max_texts=200",
    "activations.chunk_texts=60",
    "activations.contributions.texts_per_finding=8",
)
pytestmark = pytest.mark.flows


def collect(run: Path, *overrides: str) -> dict[str, Any]:
    from flows.collect_activations import collect_activations

    return collect_activations(run=str(run), overrides=list(overrides))


def files_of(run: Path) -> dict[str, bytes]:
    """The files of a collection, without how long it took."""
    folder = run / "activations"
    files = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
    files["summary.json"] = json.dumps(
        {name: value for name, value in json.loads(files["summary.json"]).items()
         if name != "seconds"}
    ).encode()  # fmt: skip
    return files


@dataclass(frozen=True)
class Collected:
    """An undisturbed collection: its run, its cache and its summary. Nobody may write there."""

    run: Path
    cache: Path
    summary: dict[str, Any]

    @property
    def loaded(self) -> Run:
        return whatchanged.load(self.run)

    def table(self, name: str) -> pd.DataFrame:
        return self.loaded.read_table(f"activations/{name}")

    @property
    def store(self) -> ActivationStore:
        return ActivationStore(self.run / "activations" / "store")


@pytest.fixture(scope="module")
def collected(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> Collected:
    home = tmp_path_factory.mktemp("collected")
    run, cache = home / "run", home / "cache"
    shutil.copytree(finished.folder, run)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WHATCHANGED_CACHE", str(cache))
        summary = collect(run, *FEW)
    return Collected(run, cache, summary)


@pytest.fixture
def own(collected: Collected, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the collected run, of the test's own, with a copy of its cache."""
    run = tmp_path / "run"
    shutil.copytree(collected.run, run)
    shutil.copytree(collected.cache, tmp_path / "cache")
    monkeypatch.setenv("WHATCHANGED_CACHE", str(tmp_path / "cache"))
    return run


# Who reads ---------------------------------------------------------------------------------------


def test_workers_read_what_this_process_reads(
    collected: Collected, finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / collected.run.name
    shutil.copytree(finished.folder, run)
    monkeypatch.setenv("WHATCHANGED_CACHE", str(tmp_path / "cache"))
    collect(run, *FEW, "run.runner=processes", "run.workers=2")
    assert files_of(run) == files_of(collected.run)


# What is written ---------------------------------------------------------------------------------


def test_the_summary_counts_what_was_read(collected: Collected) -> None:
    summary = collected.summary
    stated = json.loads(collected.loaded.read_bytes("activations/summary.json"))
    assert stated == summary
    assert (summary["n_texts"], summary["skipped"]) == (200, {})
    assert summary["sources"] == ["weight_delta", "neurons"]
    assert collected.store.n_texts == 200
    assert summary["n_components"] == collected.store.groups.n_components
    assert summary["n_clusters"] == collected.store.groups.n_clusters > 0
    assert summary["n_events"] == collected.store.n_events > 0
    assert summary["store_bytes"] == collected.store.n_bytes
    assert collected.store.check() == []


def test_the_audit_is_as_it_was_and_the_run_counts_what_was_added(
    collected: Collected, finished: Finished
) -> None:
    before, after = (whatchanged.load(run).manifest for run in (finished.folder, collected.run))
    own = {name for name in after["files"] if name.startswith("activations/")}
    assert {name: after["files"][name] for name in after["files"].keys() - own} == {
        name: stated for name, stated in before["files"].items()
        if not name.startswith("activations/")
    }  # fmt: skip
    assert own == {
        path.relative_to(collected.run).as_posix()
        for path in (collected.run / "activations").rglob("*")
        if path.is_file()
    }
    assert after["stages"].keys() == before["stages"].keys()
    assert after["stages"]["activations"] != before["stages"]["activations"]


def test_every_component_has_a_row_with_its_source_and_its_group(collected: Collected) -> None:
    table, groups = collected.table("components"), collected.store.groups
    assert tuple(table.columns) == COMPONENT_COLUMNS
    is_control = table["source"] == "random"
    assert set(table["source"]) == {
        "weight_delta", "random", "neurons@base", "neurons@intervention"
    }  # fmt: skip
    assert is_control.sum() == (table["source"] == "weight_delta").sum()
    own = table[~is_control]
    assert tuple(own["label"]) == groups.labels
    assert table["label"].is_unique
    named = [None if number < 0 else groups.clusters[number] for number in groups.cluster_of]
    assert [None if pd.isna(name) else name for name in own["cluster"]] == named
    assert table.loc[is_control, "cluster"].isna().all()
    assert own.groupby("cluster").size().min() >= 2
    assert (table["maximum"] > 0).all()
    # The default share is one half.
    assert (table["threshold"] == table["maximum"] / 2).all()
    # Every component reaches its largest magnitude somewhere, so it fires somewhere.
    rates = table[["rate_base", "rate_intervention"]]
    assert rates.stack().between(0, 1).all()
    assert (rates.max(axis=1) > 0).all()


def test_what_fires_in_the_store_is_what_the_tables_count(collected: Collected) -> None:
    # `keep: sample` keeps the texts that the summaries list; of few texts, all.
    texts = collected.loaded.texts.drop_duplicates("text_key").set_index("text_key")
    table = collected.table("components").set_index("label")
    keys, peaks = collected.store.peaks()
    labels = collected.store.groups.labels
    assert len(keys) == collected.store.n_stored == 200
    shares = np.zeros((len(labels), 2))
    is_intervention = (texts.loc[keys, "side"] == "intervention").to_numpy()
    for number in range(0, len(labels), 97):
        rows = list(collected.store.component_rows(labels[number]))
        rates = {row.text_key: float((row.activations != 0).mean()) for row in rows}
        for side in (0, 1):
            own = [rates.get(key, 0.0) for key in np.array(keys)[is_intervention == bool(side)]]
            shares[number, side] = np.mean(own)
        assert table.loc[labels[number], ["rate_base", "rate_intervention"]].tolist() == (
            pytest.approx(shares[number].tolist(), abs=1e-6)
        )
        for row in rows:
            assert row.token_ids.tolist() == list(texts.loc[row.text_key, "token_ids"])
    n_planted = {source: int((table["source"] == source).sum()) for source in set(table["source"])}
    assert peaks.shape == (200, sum(n_planted.values()) - n_planted["random"])


def test_selective_units_are_of_known_comparisons_and_units(collected: Collected) -> None:
    table, run = collected.table("selective"), collected.loaded
    assert tuple(table.columns) == SELECTIVE_COLUMNS
    confirmed = {f["id"] for f in run.findings if f["status"] == "confirmed"}
    findings = table[table["kind"] == "finding"]
    assert set(findings["name"]) == confirmed
    assert set(table.loc[table["kind"] == "cluster", "name"]) <= set(run.clusters["cluster"])
    assert set(table.loc[table["kind"] == "run", "contrast"]) == {"sides"}
    assert table.groupby(["kind", "name", "contrast"]).size().max() <= 8
    groups = collected.store.groups
    assert set(table.loc[table["is_cluster"], "unit"]) <= set(groups.clusters)
    assert set(table.loc[~table["is_cluster"], "unit"]) <= set(groups.labels)
    measured = table[table["n_prompts"] > 0]
    assert (measured["ci_low"] <= measured["auc"]).all()
    assert (measured["auc"] <= measured["ci_high"]).all()
    assert (table["p_value"] <= table["p_adjusted"]).all()
    assert table["p_adjusted"].between(0, 1).all()


def test_contributions_are_of_every_direction_to_every_confirmed_finding(
    collected: Collected,
) -> None:
    table, summary = collected.table("contributions"), collected.summary
    assert tuple(table.columns) == CONTRIBUTION_COLUMNS
    components = collected.table("components")
    n = int((components["source"] == "weight_delta").sum())
    attributed = [part for part in summary["contributions"] if part["n_texts"]]
    assert attributed
    assert all(part["n_directions"] == n and part["n_texts"] <= 8 for part in attributed)
    assert table.groupby("finding").size().to_dict() == {p["finding"]: n for p in attributed}
    labels = components.loc[components["source"] == "weight_delta", "label"]
    assert set("weight_delta/" + table["label"]) == set(labels)
    for part in attributed:
        own = table[table["finding"] == part["finding"]]
        assert part["n_significant"] == (own["p_adjusted"] <= 0.05).sum()
        assert part["share"] == pytest.approx(own["share"].sum())
        assert own["nats"].sum() == pytest.approx(part["share"] * part["log_ratio_nats"])


def test_tokens_are_shown_where_the_store_says_that_they_fire(collected: Collected) -> None:
    table, run = collected.table("tokens"), collected.loaded
    assert tuple(table.columns) == TOKEN_COLUMNS
    assert table.groupby(["finding", "text_key"]).size().max() <= 3
    by_id = {finding["id"]: finding for finding in run.findings}
    n_tokens = run.texts.drop_duplicates("text_key").set_index("text_key")["token_ids"].map(len)
    rows = {unit: {row.text_key: row for row in collected.store.component_rows(unit)}
            for unit in set(table["unit"])}  # fmt: skip
    n_fired = 0
    for shown in table.itertuples():
        finding = by_id[shown.finding]
        assert shown.text_key in [*finding["supporting"], *finding["contradicting"]]
        assert all(0 <= at < n_tokens[shown.text_key] for at in shown.positions)
        stored = rows[shown.unit].get(shown.text_key)
        fires = [] if stored is None else np.flatnonzero(stored.activations).tolist()
        assert shown.positions.tolist() == fires
        if fires:
            assert stored is not None
            # The store keeps 16 bits.
            assert shown.activations == pytest.approx(stored.activations[fires], rel=1e-3)
            n_fired += 1
    assert n_fired > 0


# Again, and after a kill -------------------------------------------------------------------------


def test_a_second_collection_computes_nothing_and_writes_the_same(
    collected: Collected, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise AssertionError("computed again")

    for name in ("load_reader", "load_contributions", "group_firings", "remember"):
        monkeypatch.setattr(f"tasks.activations.{name}", fail)
    collect(own, *FEW)
    assert files_of(own) == files_of(collected.run)


def test_other_verdicts_on_the_same_texts_are_compared_anew(own: Path) -> None:
    from tasks.collection import open_collection

    def state() -> tuple[str, Any]:
        everything = open_collection(str(own), ["activations.max_texts=100000"])
        return everything.key, everything.stated_contrasts

    verdicts = whatchanged.load(own).verdicts
    key, stated = state()
    turned = verdicts.assign(score=1 - verdicts["score"])
    change_run(own, lambda folder: folder.write_table("verdicts", turned))
    assert state()[0] == key
    assert state()[1] != stated


def child(run: Path, cache: Path, api: str, fault: str) -> tuple[int, str]:
    """Exit code and standard error of the real command in a process of its own."""
    overrides = [part for override in FEW for part in ("--set", override)]
    done = subprocess.run(
        [sys.executable, "-m", "flows.collect_activations", "--run", run, *overrides],
        env={
            **os.environ,
            "PREFECT_API_URL": api,
            "PREFECT_LOCAL_STORAGE_PATH": str(cache / "prefect"),
            "WHATCHANGED_CACHE": str(cache),
            "WHATCHANGED_FAULT": fault,
            "HF_HUB_OFFLINE": "1",
            "OMP_WAIT_POLICY": "PASSIVE",
        },
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )
    return done.returncode, done.stderr


def n_published(cache: Path) -> int:
    files = (path for path in (cache / "artifacts").rglob("*") if path.is_file())
    return sum(not is_temporary(path.name) for path in files)


def test_a_collection_killed_while_it_reads_goes_on_where_it_stopped(
    collected: Collected,
    finished: Finished,
    prefect_api: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, cache = tmp_path / "run", tmp_path / "cache"
    shutil.copytree(finished.folder, run)
    # Two files for the survey, two for each of 4 chunks that are measured, two for the choice:
    # the fifteenth is the second chunk that is read.
    code, said = child(run, cache, prefect_api, "store.after_publish:15")
    assert code == -signal.SIGKILL, said
    assert n_published(cache) == 15
    assert whatchanged.load(run).manifest == whatchanged.load(finished.folder).manifest
    monkeypatch.setenv("WHATCHANGED_CACHE", str(cache))
    n_read: list[int] = []
    read_chunk = passes.read_chunk

    def counted(*arguments: Any) -> Any:
        n_read.append(1)
        return read_chunk(*arguments)

    monkeypatch.setattr(passes, "read_chunk", counted)
    monkeypatch.setattr(passes, "measure_chunk", None)
    summary = collect(run, *FEW)
    # The first chunk was stored; the second one's numbers were, without the note that they are.
    assert len(n_read) == 3
    # Another process may run on as many threads as it likes, which decides how sums are rounded.
    assert summary["n_events"] == pytest.approx(collected.summary["n_events"], rel=1e-4)
    tables = [whatchanged.load(run).read_table("activations/components"),
              collected.table("components")]  # fmt: skip
    found, expected = (table.drop(columns="cluster") for table in tables)
    pd.testing.assert_frame_equal(found, expected, check_exact=False, atol=1e-4, rtol=1e-4)


def test_a_collection_killed_while_it_writes_leaves_a_run_without_it(
    collected: Collected, own: Path, prefect_api: str
) -> None:
    # All is known, so the first files are the manifest and the journal of the run without a
    # collection, then those of the store.
    cache = own.parent / "cache"
    code, said = child(own, cache, prefect_api, "store.after_publish:4")
    assert code == -signal.SIGKILL, said
    left = whatchanged.load(own)
    assert not any(name.startswith("activations/") for name in left.manifest["files"])
    assert (own / "activations").is_dir()
    (own / "activations" / "store" / "leftover").write_bytes(b"of the killed one")
    collect(own, *FEW)
    assert files_of(own) == files_of(collected.run)


def test_the_earlier_collection_stands_until_the_next_one_is_written(
    collected: Collected, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise InputError("the models are gone")

    monkeypatch.setattr("tasks.activations.load_reader", fail)
    with pytest.raises(InputError, match="the models are gone"):
        collect(own, *FEW, "activations.n_directions=2")
    assert files_of(own) == files_of(collected.run)
    assert whatchanged.load(own).manifest == collected.loaded.manifest


# Bad input, and pairs that lack something --------------------------------------------------------


def change_run(run: Path, change: Callable[[RunFolder], object]) -> None:
    """Make a finished run anew with a change."""
    earlier = whatchanged.load(run).manifest
    names = [name for name in earlier["files"] if not name.startswith("activations/")]
    contents = {name: (run / name).read_bytes() for name in names}
    folder = RunFolder.create(run)
    for name, data in contents.items():
        folder.write_bytes(name, data)
    change(folder)
    folder.finish(earlier["stages"], earlier["versions"])


def change_model(run: Path, model: str) -> None:
    """Make the run one of another intervention."""
    config = (run / "config.yaml").read_text().replace("demo:intervention", model)
    assert model in config
    change_run(run, lambda folder: folder.write_config(config))


@pytest.mark.parametrize(
    ("override", "error", "parts"),
    [
        ("decode.temperature=0.5", UsageError,
         ["overrides of activations or run", "'decode.temperature=0.5'", "run the audit again"]),
        ("activations.sources=[neuron]", ConfigError, ["activations.sources", "'neurons'"]),
        ("activations.sources=[saes]", ConfigError, ["needs `saes`", "[{folder: demo:topk}]"]),
        ("activations.saes=[{folde: demo:topk}]", ConfigError, ["did you mean 'folder'?"]),
        ("activations.max_textes=7", ConfigError, ["did you mean 'max_texts'?"]),
        ("activations.firing_share=1", ConfigError, ["activations.firing_share"]),
        ("activations", ConfigError, ["--set expects key=value"]),
    ],
)  # fmt: skip
def test_an_override_that_cannot_be_is_one_sentence(
    finished: Finished, override: str, error: type[WhatchangedError], parts: list[str]
) -> None:
    from tasks.collection import open_collection

    with pytest.raises(error) as raised:
        open_collection(str(finished.folder), [override])
    said = str(raised.value)
    assert "\n" not in said
    assert all(part in said for part in parts), said


def test_a_folder_without_a_run_is_one_sentence(prefect_api: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected a run folder at .*: check the path$"):
        collect(tmp_path)
    RunFolder.create(tmp_path / "unfinished")
    with pytest.raises(InputError, match="is unfinished: run again"):
        collect(tmp_path / "unfinished")


def test_a_run_whose_model_is_gone_is_one_sentence_and_keeps_what_it_had(
    own: Path, tmp_path: Path
) -> None:
    gone = tmp_path / "gone"
    change_model(own, str(gone))
    before = whatchanged.load(own).manifest
    with pytest.raises(WhatchangedError) as raised:
        collect(own, *FEW)
    assert str(gone) in str(raised.value)
    assert "\n" not in str(raised.value)
    assert whatchanged.load(own).manifest == before


def test_a_source_that_the_pair_does_not_have_is_skipped_with_the_reason(own: Path) -> None:
    change_model(own, "demo:base")
    summary = collect(own, *FEW)
    assert summary["skipped"] == {"weight_delta": "no linear layer's weights differ"}
    run = whatchanged.load(own)
    assert json.loads(run.read_bytes("activations/summary.json")) == summary
    components = run.read_table("activations/components")
    assert set(components["source"]) == {"neurons@base", "neurons@intervention"}
    assert run.read_table("activations/contributions").empty
    assert summary["contributions"] == []


def test_latents_of_saes_are_collected_beside_other_components(own: Path, tmp_path: Path) -> None:
    from whatchanged.activations.evidence import describe_collection
    from whatchanged.dashboard.activation_parts import ActivationParts, read_collected
    from whatchanged.dashboard.rows import order_texts

    saes = f"activations.saes=[{{folder: demo:topk}}, {{folder: {tmp_path}/gone}}]"
    summary = collect(own, *FEW, "activations.sources=[saes, weight_delta]", saes)
    assert list(summary["skipped"]) == ["saes/gone"]
    assert "found no cfg.json" in summary["skipped"]["saes/gone"]
    run = whatchanged.load(own)
    components, selective = (
        run.read_table(f"activations/{name}") for name in ("components", "selective")
    )
    counts = components["source"].value_counts().to_dict()
    assert {name: counts[name] for name in summary["n_by_source"]} == summary["n_by_source"]
    assert set(summary["n_by_source"]) == {"saes@base", "saes@intervention", "weight_delta"}
    latents = components[components["source"].str.startswith("saes@")]
    assert latents["label"].str.fullmatch(r"saes@(base|intervention)/topk:\d+").all()
    store = ActivationStore(own / "activations" / "store")
    assert set(latents["label"]) <= set(store.groups.labels)
    named = selective["unit"].str.startswith("saes@")
    assert named.any()
    assert set(selective.loc[named, "unit"]) <= set(latents["label"])
    said = describe_collection(summary)
    assert f"{counts['saes@base']:,} saes@base" in said
    assert [row["unit"] in said for row in summary["selective"]].count(False) == 0
    assert {row["finding"] for row in summary["selective"]} <= set(selective["name"])
    found = read_collected(run)
    assert not isinstance(found, str)
    ids = [finding["id"] for finding in run.findings]
    parts = ActivationParts(found, order_texts(run.texts, run.findings), ids)
    assert {unit for unit in parts.units if unit.startswith("saes@")} >= set(
        selective.loc[named, "unit"]
    )
    assert b'"source":"saes@' in parts.encode().replace(b'": "', b'":"')


def test_without_a_source_nothing_is_read(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.activations.load_reader", None)
    summary = collect(own, "activations.sources=[]")
    assert (summary["sources"], summary["n_components"]) == ([], 0)
    assert [path.name for path in (own / "activations").iterdir()] == ["summary.json"]
    assert whatchanged.load(own).read_bytes("activations/summary.json")


def test_a_run_without_a_text_to_read_is_collected_all_the_same(own: Path) -> None:
    texts = whatchanged.load(own).texts
    silent = texts.assign(token_ids=[[] for _ in range(len(texts))])
    change_run(own, lambda folder: folder.write_table("texts", silent))
    summary = collect(own, *FEW)
    assert (summary["n_texts"], summary["n_components"]) == (0, 0)
    assert whatchanged.load(own)


# The null pair -----------------------------------------------------------------------------------


def test_two_models_that_write_alike_are_told_apart_by_no_component(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.audit import audit

    monkeypatch.setenv("WHATCHANGED_CACHE", str(tmp_path / "cache"))
    config, run = tmp_path / "null.yaml", tmp_path / "run"
    config.write_text(SMALL.replace("demo:intervention", "demo:null_intervention"))
    reading = (SOURCES, "activations.max_texts=600")
    audit(
        config=str(config),
        overrides=["validate.null_control=false", *reading],
        run_dir=str(run),
    )
    selective = whatchanged.load(run).read_table("activations/selective")
    sides = selective[selective["contrast"] == "sides"]
    assert sides.loc[sides["kind"] == "run", "n_prompts"].min() >= 30
    assert (sides["p_adjusted"] > 0.05).all()
    # On as many texts of a pair that differs, the same tests tell the sides and the findings apart.
    changed = tmp_path / "changed"
    shutil.copytree(finished.folder, changed)
    collect(changed, *reading)
    found = whatchanged.load(changed).read_table("activations/selective")
    for contrast in ("sides", "texts"):
        assert (found.loc[found["contrast"] == contrast, "p_adjusted"] <= 0.05).any(), contrast
