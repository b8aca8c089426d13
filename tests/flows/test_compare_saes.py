"""Real comparisons of SAEs on the embedded pair."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import whatchanged
from tests.unit.models.small_saes import make_sae
from whatchanged.demo.categories import categorized_texts
from whatchanged.demo.pair import DEMO
from whatchanged.demo.saes import SAE_NAMES, demo_sae_path
from whatchanged.errors import ConfigError, InputError
from whatchanged.model_config import ModelConfig
from whatchanged.models.sae_effects import ablate_features, matched_features
from whatchanged.models.sae_features import extract_features
from whatchanged.models.sae_folders import load_sae_folder, sae_arrays, sae_config
from whatchanged.models.sae_inputs import batches_of, read_texts
from whatchanged.models.sae_loading import load_network
from whatchanged.saes.comparison import RECORDS
from whatchanged.store.artifacts import ArtifactStore
from whatchanged.store.runs import Run
from whatchanged.store.sae_folders import write_sae_folder

PROJECT = Path(__file__).parents[2]
N_PER_TOPIC = 15
FEW = (
    f"texts.n_per_category={N_PER_TOPIC}",
    "ablation={specialists_per_category: 1, n_controls: 2, texts_per_category: 6}",
)
TABLES = ("saes", *RECORDS, "ablations", "overlap", "changes")
pytestmark = [pytest.mark.flows, pytest.mark.usefixtures("prefect_api")]


def compare(config: Path, run: Path, *overrides: str) -> dict[str, Any]:
    from flows.compare_saes import compare_saes

    return compare_saes(config=str(config), overrides=list(overrides), run_dir=str(run))


@dataclass(frozen=True)
class Compared:
    """An undisturbed comparison of the embedded SAEs. Nobody may write into its run."""

    run: Path
    cache: Path
    summary: dict[str, Any]

    @property
    def loaded(self) -> Run:
        return whatchanged.load(self.run)

    def table(self, name: str) -> pd.DataFrame:
        return self.loaded.read_table(f"saes/{name}")


@pytest.fixture(scope="module")
def compared(prefect_api: str, tmp_path_factory: pytest.TempPathFactory) -> Compared:
    home = tmp_path_factory.mktemp("compared")
    run, cache = home / "run", home / "cache"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WHATCHANGED_CACHE", str(cache))
        summary = compare(PROJECT / "configs" / "saes.yaml", run, *FEW)
    return Compared(run, cache, summary)


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A config of one SAE over 12 texts, one of them alone in its category."""
    monkeypatch.setenv("WHATCHANGED_CACHE", str(tmp_path / "cache"))
    rows = categorized_texts(DEMO.topics[:2], 6, seed=0)
    rows = [*rows[:11], {**rows[11], "category": "alone"}]
    (tmp_path / "t.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    path = tmp_path / "c.yaml"
    path.write_text(
        "model: {model: demo:base}\nsaes: [{folder: demo:topk}]\ntexts: {file: t.jsonl}\n"
        "ablation: {specialists_per_category: 0}\n"
    )
    return path


# What is written ---------------------------------------------------------------------------------


def test_one_forward_pass_per_batch_serves_all_saes_of_a_side(compared: Compared) -> None:
    _, tokenizer = load_network(ModelConfig(model="demo:base"), "cpu")
    texts = list(compared.table("texts")["text"])
    sae = load_sae_folder(demo_sae_path("topk"))
    n_batches = len(list(batches_of(read_texts(tokenizer, [sae], texts).rows, "cpu", None)))
    assert compared.summary["extract"] == {
        "n_extracted": 6, "n_cached": 0, "n_forward_passes": 2 * n_batches
    }  # fmt: skip


def test_every_file_is_counted_and_every_table_has_its_four_forms(compared: Compared) -> None:
    run = compared.loaded
    forms = ("parquet", "csv", "md", "tex")
    expected = {f"saes/{name}.{form}" for name in TABLES for form in forms}
    assert expected < set(run.manifest["files"])
    for name in TABLES:
        table = compared.table(name)
        rows = list(csv.reader(run.read_bytes(f"saes/{name}.csv").decode().splitlines()))
        assert rows[0] == list(table.columns)
        assert len(rows) - 1 == len(table)
        assert rf"\label{{tab:{name}}}" in run.read_bytes(f"saes/{name}.tex").decode()
    figures = {name for name in run.manifest["files"] if name.startswith("figures/")}
    assert len(figures) == 18
    assert {Path(name).suffix for name in figures} == {".svg", ".pdf", ".png"}
    assert all(run.read_bytes(name) for name in figures)


def test_a_run_ends_with_a_dashboard_that_holds_every_table(compared: Compared) -> None:
    from whatchanged.dashboard.pack import pack_run

    page = compared.run / "dashboard" / "index.html"
    assert page.is_file()
    names = pack_run(compared.loaded).names()
    assert {f"table/{name}" for name in TABLES if name != "specialists"} < set(names)
    assert {"specialists/2", "highlights/2", "quoted/0"} < set(names)
    assert all((page.parent / "data" / f"{name}.js").is_file() for name in names)


def test_the_reconstruction_of_each_sae_stands_beside_every_table(compared: Compared) -> None:
    report = compared.loaded.read_bytes("report.md").decode()
    by_name = {one["sae"]: one for one in compared.summary["saes"]}
    assert list(by_name) == list(SAE_NAMES)
    for name in ("topk", "jumprelu"):
        assert by_name[name]["explained_variance"] > 0.7
        assert by_name[name]["loss_recovered"] > 0.8
    assert by_name["poor"]["explained_variance"] < 0.3
    n_tables = report.count("\n**")
    assert report.count("topk: explained variance") == n_tables - report.count("\nNone.")
    assert report.count("read its features with doubt") > 3
    table = compared.table("specialists")
    assert set(table.loc[table["sae"] == "topk", "loss_recovered"]) == {
        by_name["topk"]["loss_recovered"]
    }


def test_shuffled_categories_have_specialists_in_at_most_one_of_twenty(compared: Compared) -> None:
    controls = compared.table("controls")
    assert len(controls) == len(SAE_NAMES) * 3
    assert (controls["n_shuffles"] == 20).all()
    assert (controls["n_shuffles_with_any"] <= 1).all()
    at_zero = controls[controls["threshold"] == "zero"].set_index("sae")
    assert at_zero.loc["topk", "n_specialists"] > 24


def real_topics(name: str) -> set[str]:
    """Topics with a feature that matters: of the five of largest score, the one that costs half of
    the topic's texts most costs the other half a nat more than a control that fires as often."""
    network, tokenizer = load_network(ModelConfig(model="demo:base"), "cpu")
    sae = load_sae_folder(demo_sae_path(name))
    rows = categorized_texts(DEMO.topics, N_PER_TOPIC, seed=0)
    texts = [row["text"] for row in rows]
    found = extract_features(network, tokenizer, [sae], texts).features[name]
    fires = found.pooled.toarray() > 0
    real = set()
    for topic in DEMO.topics:
        inside = np.array([row["category"] == topic.name for row in rows])
        scores = fires[inside].mean(axis=0) - fires[~inside].mean(axis=0)
        best = np.argsort(-scores)[:5].tolist()
        rates = fires[inside].mean(axis=0)
        controls = matched_features(rates, best, 1, np.random.default_rng(0))[:, 0].tolist()
        own = [text for text, is_in in zip(texts, inside, strict=True) if is_in]
        changes = ablate_features(network, tokenizer, sae, [*best, *controls], own).changes
        choosing, measuring = changes[:, ::2].mean(axis=1), changes[:, 1::2].mean(axis=1)
        mine, others = measuring[choosing[:5].argmin()], measuring[5 + choosing[5:].argmin()]
        if mine < min(-1, others - 1):
            real.add(topic.name)
    return real


def test_every_topic_with_a_real_feature_has_specialists(compared: Compared) -> None:
    table = compared.table("categories")
    for name in ("topk", "jumprelu"):
        real = real_topics(name)
        own = table[(table["sae"] == name) & (table["threshold"] == "zero")]
        assert real <= set(own.loc[own["n_specialists"] > 0, "category"])
        if name == "topk":
            assert len(real) >= 12


def test_specialists_that_were_taken_out_have_both_controls(compared: Compared) -> None:
    table = compared.table("ablations")
    best = compared.table("specialists").query("threshold == 'zero'")
    best = best.groupby(["sae", "category"], sort=False).first()["feature"]
    tried = table.set_index(["sae", "category"])["feature"]
    assert len(tried) > 60
    assert (tried == best.loc[tried.index]).all()
    assert (table["n_controls"] == 2).all()
    assert (table["n_texts"] == 6).all()
    assert (table["n_elsewhere"] == 23).all()
    used = table[table["is_used"]]
    assert (used["change"] < used["change_strongest_control"]).all()
    assert (used["ci_high"] < 0).all()
    # Features that belong to a topic do little where it is not.
    assert table["change_elsewhere"].abs().mean() < table["change"].abs().mean() / 4


def test_highlights_name_the_tokens_on_which_a_feature_fires(compared: Compared) -> None:
    texts = compared.table("texts").drop_duplicates("text_key").set_index("text_key")
    highlights = compared.table("highlights")
    assert all("".join(own.tokens) == own.text for own in texts.itertuples())
    assert set(highlights["sae"]) == set(SAE_NAMES)
    network, tokenizer = load_network(ModelConfig(model="demo:base"), "cpu")
    sae = load_sae_folder(demo_sae_path("jumprelu"))
    for one in highlights[highlights["sae"] == "jumprelu"].iloc[::15].itertuples():
        found = extract_features(
            network, tokenizer, [sae], [texts.loc[one.text_key, "text"]], keep_tokens=True
        )
        tokens = found.features["jumprelu"].tokens
        assert tokens is not None
        own = tokens.toarray()[:, one.feature]
        assert np.flatnonzero(own).tolist() == list(one.positions)
        np.testing.assert_allclose(own[own > 0], one.activations, atol=1e-4)
        assert one.peak == max(one.activations)


def test_the_intervention_changes_features_and_the_summary_counts_them(compared: Compared) -> None:
    table = compared.table("changes")
    for one in compared.summary["saes"]:
        own = table[table["sae"] == one["sae"]]
        n_changed = sum(one["changes"].values())
        assert len(own) == min(n_changed, 50)
    assert (table["p_adjusted"] <= 0.05).all()
    assert set(table["sae"]) >= {"topk", "jumprelu"}


def test_a_concept_finds_features_that_its_texts_have_in_common(compared: Compared) -> None:
    table = compared.table("concepts")
    assert set(table["concept"]) == {"pets"}
    assert (table["n_concept"] == 8).all()
    assert (table["n_background"] == 24 * N_PER_TOPIC).all()
    assert (table.groupby("sae")["auc"].max() > 0.75).all()
    assert (table["is_confirmed"] == (table["p_adjusted"] <= 0.05)).all()


# Again, and with other SAEs ----------------------------------------------------------------------


def test_the_same_again_extracts_nothing_and_finds_the_same(
    compared: Compared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WHATCHANGED_CACHE", str(compared.cache))
    summary = compare(PROJECT / "configs" / "saes.yaml", tmp_path / "again", *FEW)
    assert summary["extract"] == {"n_extracted": 0, "n_cached": 6, "n_forward_passes": 0}
    for name in (*(f"saes/{table}.csv" for table in TABLES), "report.md"):
        assert (tmp_path / "again" / name).read_bytes() == (compared.run / name).read_bytes()


def test_another_sae_alone_is_extracted_and_a_damaged_one_again(
    small: Path, tmp_path: Path
) -> None:
    first = compare(small, tmp_path / "run")
    assert first["extract"]["n_extracted"] == 1
    both = "saes=[{folder: demo:topk}, {folder: demo:topk, name: twin}, {folder: demo:poor}]"
    second = compare(small, tmp_path / "run", both)
    # The twin is the same SAE under another name.
    assert (second["extract"]["n_extracted"], second["extract"]["n_cached"]) == (1, 2)
    overlap = whatchanged.load(tmp_path / "run").read_table("saes/overlap")
    assert list(zip(overlap["sae"], overlap["other_sae"], strict=True)) == [
        ("topk", "twin"), ("twin", "topk")
    ]  # fmt: skip
    assert overlap["mean_cosine"].tolist() == pytest.approx([1, 1])
    store = ArtifactStore(tmp_path / "cache")
    stages = whatchanged.load(tmp_path / "run").manifest["stages"]
    store.path(stages["base poor"]).write_bytes(b"damaged")
    third = compare(small, tmp_path / "run", both)
    assert (third["extract"]["n_extracted"], third["extract"]["n_cached"]) == (1, 2)
    assert third["saes"] == second["saes"]


def test_one_sae_of_one_model_says_what_few_texts_cannot_show(small: Path, tmp_path: Path) -> None:
    summary = compare(small, tmp_path / "run", "pooling=last", "thresholds.quantiles=[]")
    assert (summary["n_texts"], summary["n_categories"]) == (12, 3)
    run = whatchanged.load(tmp_path / "run")
    report = run.read_bytes("report.md").decode()
    assert "Too few distinct texts to find specialists of alone" in report
    assert "No specialist was taken out." in report
    assert "saes/changes.csv" not in run.manifest["files"]
    assert run.read_table("saes/controls")["threshold"].tolist() == ["zero"]


def test_twenty_saes_take_the_passes_of_one(small: Path, tmp_path: Path) -> None:
    for number in range(20):
        sae = make_sae(
            seed=number, hook_name=f"blocks.{number % 3}.hook_resid_post", context_size=256
        )
        write_sae_folder(tmp_path / f"s{number}", sae_config(sae), sae_arrays(sae))
    folders = ", ".join(f"{{folder: s{number}}}" for number in range(20))
    summary = compare(small, tmp_path / "run", f"saes=[{folders}]")
    assert summary["extract"] == {"n_extracted": 20, "n_cached": 0, "n_forward_passes": 1}
    assert [one["sae"] for one in summary["saes"]] == [f"s{number}" for number in range(20)]


def test_bad_input_is_refused_before_a_run_folder_is_made(small: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'alpha'"):
        compare(small, tmp_path / "run", "alfa=1")
    with pytest.raises(InputError, match="no sae_weights"):
        compare(small, tmp_path / "run", "saes=[{folder: absent}]")
    assert not (tmp_path / "run").exists()
