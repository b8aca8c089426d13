"""What fires inside the models, as the pack tells it: read back by the reader of `test_pack`."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from test_pack import read_part

from benchmarks.dashboard_run import InventedRun, invent_activations, invent_run, pack_invented
from whatchanged.activations.groups import group_components
from whatchanged.dashboard.activation_parts import (
    MAX_BARS,
    NOT_COLLECTED,
    ActivationParts,
    Collected,
    read_collected,
)
from whatchanged.dashboard.pack import Pack
from whatchanged.dashboard.rows import order_texts
from whatchanged.store.activations import BatchProcessingStorage
from whatchanged.store.runs import RunFolder, load_run
from whatchanged.store.text_batch import TextBatch

LABELS = [f"weight_delta/layer.mlp:{i}" for i in range(6)]


@pytest.fixture(scope="module")
def run() -> InventedRun:
    return invent_run(60, 2, n_findings=2, n_words=9)


@pytest.fixture(scope="module")
def collected(run: InventedRun, tmp_path_factory: pytest.TempPathFactory) -> Collected:
    return invent_activations(run, tmp_path_factory.mktemp("store"), LABELS)


@pytest.fixture(scope="module")
def pack(run: InventedRun, collected: Collected) -> Pack:
    return pack_invented(run, collected)


def component(pack: Pack, label: str) -> tuple[dict[str, Any], dict[str, np.ndarray[Any, Any]]]:
    values, _ = read_part(pack.part("activations"))
    places = [i for i, unit in enumerate(values["units"]) if unit["label"] == label]
    return read_part(pack.part(f"component/{places[0]}"))


def activations_of(columns: dict[str, np.ndarray[Any, Any]], text: int) -> list[float]:
    start, end = columns["token_start"][text : text + 2]
    return [float(value) for value in columns["token_value"][start:end]]


def test_a_run_without_activations_says_how_to_add_them(run: InventedRun) -> None:
    pack = pack_invented(run)
    assert read_part(pack.part("manifest"))[0]["sections"]["activations"] == NOT_COLLECTED
    assert not {"activations", "component/0"} & set(pack.names())


def test_every_component_that_a_table_names_has_a_part_and_no_other(pack: Pack) -> None:
    values, _ = read_part(pack.part("activations"))
    assert [unit["label"] for unit in values["units"]] == [*LABELS, "invented-0-0"]
    assert {name for name in pack.names() if name.startswith("component/")} == {
        f"component/{i}" for i in range(7)
    }
    # The table holds the random directions as well.
    assert (values["n_components"], values["n_controls"]) == (6, 2)


def test_a_direction_that_the_store_does_not_hold_is_told_without_a_part(pack: Pack) -> None:
    values, _ = read_part(pack.part("activations"))
    own, far = values["contributions"]
    assert (own["label"], own["unit"]) == ("layer.mlp:0", 0)
    assert (far["label"], far["unit"]) == ("model.far.away:3", None)


def with_selective(collected: Collected, rows: list[dict[str, Any]]) -> Collected:
    first = collected.tables["selective"].iloc[0].to_dict()
    table = pd.DataFrame([{**first, "unit": LABELS[0], **row} for row in rows])
    return replace(collected, tables={**collected.tables, "selective": table})


def test_only_an_interval_that_leaves_out_the_random_control_is_beyond_it(
    run: InventedRun, collected: Collected
) -> None:
    rows = [
        # The control of 0.3 is 0.2 from one half, and so is 0.7.
        {"auc": 0.90, "ci_low": 0.75, "ci_high": 1.0, "control_auc": 0.3, "p_adjusted": 0.01},
        {"auc": 0.90, "ci_low": 0.65, "ci_high": 1.0, "control_auc": 0.3, "p_adjusted": 0.01},
        {"auc": 0.10, "ci_low": 0.0, "ci_high": 0.25, "control_auc": 0.7, "p_adjusted": 0.01},
        {"auc": 0.90, "ci_low": 0.75, "ci_high": 1.0, "control_auc": 0.3, "p_adjusted": 0.06},
        {"auc": 0.90, "ci_low": 0.6, "ci_high": 1.0, "control_auc": np.nan, "p_adjusted": 0.01},
        {"auc": np.nan, "ci_low": np.nan, "ci_high": np.nan, "control_auc": 0.3,
         "p_adjusted": 0.01},
    ]  # fmt: skip
    parts = ActivationParts(with_selective(collected, rows), order_texts(run.texts, []), [])
    values, _ = read_part(parts.encode())
    assert [row["is_beyond"] for row in values["selective"]] == [
        True, False, True, False, True, False,
    ]  # fmt: skip
    assert values["units"][0]["n_beyond"] == 3


def test_the_strongest_texts_come_first_and_the_others_from_weak_to_strong(
    run: InventedRun, pack: Pack
) -> None:
    values, columns = component(pack, LABELS[0])
    texts = pack.rows.texts
    for side, name in enumerate(("base", "intervention")):
        lengths = run.texts.loc[run.texts["side"] == name, "n_tokens"]
        # Tokens at even places fire with their place: a text of n has its peak at the last of them.
        peaks = sorted((lengths - 1) // 2 * 2, reverse=True)
        shown = [max(activations_of(columns, i)) for i in values["top"][side]]
        assert shown == peaks[:5]
        rows = columns["text_row"][values["top"][side]]
        assert (texts["side"].iloc[rows] == name).all()
        weak_first = [max(activations_of(columns, i)) for i in values["quantiles"][side]]
        assert weak_first == sorted(weak_first)
        assert weak_first[-1] == peaks[0]


def test_a_components_histogram_counts_the_tokens_on_which_it_fires(
    run: InventedRun, pack: Pack
) -> None:
    values, _ = component(pack, LABELS[0])
    for side, name in enumerate(("base", "intervention")):
        lengths = run.texts.loc[run.texts["side"] == name, "n_tokens"]
        # Places 2, 4, ... below n: place 0 has the value 0 and does not fire.
        n_firing = int(((lengths - 1) // 2).sum())
        assert values["n_firing"][side] == sum(values["bars"][side]) == n_firing
        assert values["n_firing_texts"][side] == (lengths > 2).sum()
    assert values["edges"][0] == 2.0
    assert len(values["bars"][0]) == len(values["edges"]) - 1 <= MAX_BARS


def test_a_component_that_fires_with_negative_values_is_shown_at_its_negative_pole(
    run: InventedRun, pack: Pack
) -> None:
    values, columns = component(pack, LABELS[1])
    assert values["is_reversed"]
    for side, name in enumerate(("base", "intervention")):
        lengths = run.texts.loc[run.texts["side"] == name, "n_tokens"]
        # Every third token fires with minus its place.
        lowest = sorted(-((lengths - 1) // 3 * 3))
        assert [min(activations_of(columns, i)) for i in values["top"][side]] == lowest[:5]
        weak_first = [min(activations_of(columns, i)) for i in values["quantiles"][side]]
        assert weak_first == sorted(weak_first, reverse=True)
        assert weak_first[-1] == lowest[0]
        assert values["n_firing"][side] == int(((lengths - 1) // 3).sum())
        assert sum(values["bars"][side]) == values["n_firing"][side]
    assert values["edges"][0] == 3.0


def test_a_silent_component_has_no_bars_and_no_texts(pack: Pack) -> None:
    values, columns = component(pack, LABELS[2])
    assert values["edges"] == []
    assert values["top"] == values["quantiles"] == [[], []]
    assert len(columns["text_row"]) == 0


def test_activations_stand_on_the_tokens_of_their_text(pack: Pack) -> None:
    values, columns = component(pack, LABELS[0])
    for i, row in enumerate(columns["text_row"]):
        text = pack.rows.texts.iloc[int(row)]
        start, end = columns["token_start"][i : i + 2]
        assert columns["has_pieces"][i] == 1
        assert columns["token_length"][start:end].sum() == len(text["text"])
        expected = [place if place % 2 == 0 else 0 for place in range(text["n_tokens"])]
        assert activations_of(columns, i) == expected
    assert values["cluster"] is None


def test_the_quoted_texts_know_which_components_were_looked_at_and_for_which_claim(
    run: InventedRun, pack: Pack
) -> None:
    _, columns = read_part(pack.part("activations"))
    rows = pack.rows.find(run.findings[0]["supporting"])
    assert sorted(set(columns["fires_row"].tolist())) == sorted(rows)
    assert set(columns["fires_finding"].tolist()) == {0}
    _, own = component(pack, LABELS[0])
    assert set(rows) <= set(own["text_row"].tolist())


def test_a_cluster_of_components_names_its_members_and_fires_with_their_sum(pack: Pack) -> None:
    values, columns = component(pack, "invented-0-0")
    assert values["members"] == LABELS[3:5]
    assert component(pack, LABELS[3])[0]["members"] == LABELS[3:5]
    # The members fire on places that are multiples of 5 and of 6, with the place as value.
    shown = activations_of(columns, values["top"][0][0])
    assert shown[:7] == [0, 0, 0, 0, 0, 5, 6]


def test_without_a_tokenizer_activations_come_without_lengths(
    run: InventedRun, collected: Collected
) -> None:
    pack = Pack(run, name="r", load_activations=lambda: collected)
    _, columns = component(pack, LABELS[0])
    assert columns["has_pieces"].sum() == columns["token_length"].sum() == 0
    assert len(columns["token_length"]) == len(columns["token_value"]) > 0


def test_where_the_store_keeps_no_activations_the_peak_stands_on_its_token(
    run: InventedRun, collected: Collected, tmp_path: Path
) -> None:
    texts = run.texts.iloc[:2]
    lengths = texts["n_tokens"].tolist()
    storage = BatchProcessingStorage.create(
        tmp_path / "s", group_components(LABELS, {}), keep="summaries"
    )
    values = np.zeros((sum(lengths), 2), np.float32)
    values[[1, 2, lengths[0] + 2], 0] = [1.5, 4.5, 2.5]
    values[[1, 3, lengths[0] + 1], 1] = [1.5, -4.5, -2.5]
    batch = TextBatch(tuple(texts["text_key"]), np.array([False, True]),
                      np.cumsum([0, *lengths]), np.zeros(sum(lengths), np.int64))  # fmt: skip
    storage.add_batch(values, np.array([0, 1]), batch)
    parts = ActivationParts(
        replace(collected, store=storage.finalize()), order_texts(run.texts, []), []
    )
    shown, columns = read_part(parts.encode_unit(0, None))
    assert activations_of(columns, shown["top"][0][0])[:4] == [0, 0, 4.5, 0]
    assert activations_of(columns, shown["top"][1][0])[:4] == [0, 0, 2.5, 0]
    shown, columns = read_part(parts.encode_unit(1, None))
    assert activations_of(columns, shown["top"][0][0])[:4] == [0, 0, 0, -4.5]
    assert activations_of(columns, shown["top"][1][0])[:4] == [0, -2.5, 0, 0]
    # Tokens are counted at both poles, bars at the negative one.
    assert (shown["n_firing"], [sum(side) for side in shown["bars"]]) == ([2, 1], [1, 1])
    assert shown["n_firing_texts"] == [1, 1]


def test_a_thin_pack_keeps_the_words_of_the_components_examples(
    run: InventedRun, collected: Collected
) -> None:
    thin = Pack(run, name="r", load_activations=lambda: collected, texts_per_cluster=0)
    _, columns = component(thin, LABELS[0])
    starts = read_part(thin.part("manifest"))[0]["shards"]
    for row in columns["text_row"].tolist():
        shard = int(np.searchsorted(starts, row, side="right")) - 1
        values, _ = read_part(thin.part(f"texts/{shard}"))
        assert values["texts"][row - values["start"]] is not None


def test_the_same_collection_gives_the_same_bytes(
    run: InventedRun, collected: Collected, pack: Pack
) -> None:
    again = pack_invented(run, collected)
    names = [name for name in pack.names() if name.startswith(("activations", "component/"))]
    assert len(names) == 8
    for name in names[::-1]:
        assert again.part(name) == pack.part(name)


@pytest.fixture
def folder(run: InventedRun, tmp_path: Path) -> Path:
    """A finished run with nothing in it but its activations."""
    path = tmp_path / "run"
    written = RunFolder.create(path)
    written.write_config("seed: 0\n")
    written.write_json("summary", {})
    written.write_json("findings", [])
    written.finish({}, {})
    found = invent_activations(run, path / "activations" / "store", LABELS)
    written.write_json("activations/summary.json", found.summary)
    for name, table in found.tables.items():
        written.write_table(f"activations/{name}", table)
    written.extend("activations", "key")
    return path


def test_a_collected_run_is_read_back(folder: Path) -> None:
    found = read_collected(load_run(folder))
    assert isinstance(found, Collected)
    assert list(found.tables["components"]["label"][:6]) == LABELS
    assert found.store.n_texts == 60


def test_a_run_that_was_not_collected_says_so(folder: Path) -> None:
    RunFolder(folder).retract("activations")
    assert read_collected(load_run(folder)) == NOT_COLLECTED


@pytest.mark.parametrize(
    "name",
    ["summary.json", "components.parquet", "tokens.parquet", "store/manifest.json",
     "store/components.json", "store/events-000000.safetensors"],
)  # fmt: skip
@pytest.mark.parametrize("harm", ["cut", "removed"])
def test_a_damaged_or_missing_file_is_the_reason_why_nothing_is_shown(
    folder: Path, name: str, harm: str
) -> None:
    path = folder / "activations" / name
    whole = path.read_bytes()
    path.unlink()
    if harm == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    found = read_collected(load_run(folder))
    assert isinstance(found, str)
    assert found.startswith("They cannot be read: ")


def test_a_table_of_another_form_is_the_reason_why_nothing_is_shown(folder: Path) -> None:
    written, run = RunFolder(folder), load_run(folder)
    table = run.read_table("activations/tokens").drop(columns="positions")
    written.write_table("activations/tokens", table)
    written.extend("activations", "key")
    found = read_collected(load_run(folder))
    assert isinstance(found, str)
    assert "a column 'positions' in activations/tokens.parquet, found none" in found


def test_where_no_component_could_be_read_the_skipped_sources_are_the_reason(
    folder: Path,
) -> None:
    shutil.rmtree(folder / "activations" / "store")
    written = RunFolder(folder)
    written.write_json(
        "activations/summary.json",
        {"n_components": 0, "skipped": {"weight_delta": "the shapes differ"}},
    )
    written.extend("activations", "key")
    assert read_collected(load_run(folder)) == (
        "No component could be read: weight_delta: the shapes differ."
    )
