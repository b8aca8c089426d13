"""The web pack, read back by a reader of its own: what the page relies on."""

from __future__ import annotations

import base64
import gzip
import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmarks.dashboard_run import InventedRun, invent_run, pack_invented
from whatchanged.dashboard.columns import as_script, encode_part
from whatchanged.dashboard.judged_parts import count_cells, kappa
from whatchanged.dashboard.material_parts import encode_clusters
from whatchanged.dashboard.pack import Pack
from whatchanged.dashboard.rows import keep_words, key_bytes, order_texts
from whatchanged.dashboard.shell import page_script, write_folder, write_index, write_one_file
from whatchanged.dashboard.text_parts import UNSCORED, count_units, pack_scores
from whatchanged.errors import InputError, UsageError
from whatchanged.models.token_pieces import TokenPieces
from whatchanged.store.exports import write_export_file, write_export_folder


@pytest.fixture(scope="module")
def run() -> InventedRun:
    return invent_run(600, 6, n_findings=4, n_words=12)


@pytest.fixture(scope="module")
def pack(run: InventedRun) -> Pack:
    return pack_invented(run)


def read_part(data: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray[Any, Any]]]:
    """The values and the columns of a part, by the format's own words."""
    (length,) = struct.unpack_from("<I", data)
    header = json.loads(data[4 : 4 + length])
    first = -(-(4 + length) // 8) * 8
    types = {"Uint8Array": "<u1", "Uint16Array": "<u2", "Uint32Array": "<u4", "Int16Array": "<i2",
             "Int32Array": "<i4", "Float32Array": "<f4"}  # fmt: skip
    columns = {
        name: np.frombuffer(data, types[kind], size, first + offset)
        for name, kind, offset, size in header["columns"]
    }
    return header["values"], columns


def all_texts(pack: Pack) -> list[str | None]:
    n_shards = len(read_part(pack.part("manifest"))[0]["shards"]) - 1
    shards = [read_part(pack.part(f"texts/{i}"))[0] for i in range(n_shards)]
    return [text for shard in shards for text in shard["texts"]]


def test_a_part_holds_its_values_and_its_columns_at_multiples_of_eight() -> None:
    data = encode_part(
        {"a": [1, None]}, {"x": np.array([1, 2, 3], np.uint8), "y": np.array([0.5], np.float32)}
    )
    values, columns = read_part(data)
    assert values == {"a": [1, None]}
    assert columns["x"].tolist() == [1, 2, 3]
    assert columns["y"].tolist() == [0.5]
    assert len(data) % 8 == 0


def test_values_keep_any_string_and_undefined_numbers_become_null() -> None:
    hostile = "</script>\ud800\u202e\x00 ﷐ é"
    values, _ = read_part(encode_part({"t": hostile, "n": [float("nan"), float("inf"), 1.5]}, {}))
    assert values == {"t": hostile, "n": [None, None, 1.5]}


def test_a_column_of_a_type_that_no_page_reads_is_refused() -> None:
    with pytest.raises(ValueError, match="'x' has type int64"):
        encode_part({}, {"x": np.array([1])})


def test_a_script_holds_nothing_but_one_call_with_base64() -> None:
    script = as_script("texts/0", encode_part({"t": "</script><script>alert(1)"}, {})).decode()
    head, _, rest = script.partition('("texts/0","')
    assert head == "whatchangedPart"
    text, _, tail = rest.partition('"')
    assert tail == ")\n"
    values, _ = read_part(gzip.decompress(base64.b64decode(text, validate=True)))
    assert values == {"t": "</script><script>alert(1)"}


def test_the_same_run_gives_the_same_bytes(run: InventedRun, pack: Pack) -> None:
    again = dict(pack_invented(run).parts())
    assert again == {name: pack.part(name) for name in pack.names()}


def test_every_text_stands_in_exactly_one_shard(run: InventedRun, pack: Pack) -> None:
    texts = all_texts(pack)
    assert len(texts) == 600
    assert sorted(map(str, texts)) == sorted(run.texts["text"])


def test_no_part_is_larger_than_a_page_should_parse(pack: Pack) -> None:
    assert max(len(part) for _, part in pack.parts()) < 2_000_000


def test_quoted_texts_come_first_and_a_cluster_is_one_range_of_rows(run: InventedRun) -> None:
    rows = order_texts(run.texts, run.findings)
    quoted = {k for f in run.findings for k in (*f["supporting"], *f["contradicting"])}
    assert set(rows.texts["text_key"][: rows.n_quoted]) == quoted
    for label, (start, end) in rows.clusters.items():
        inside = rows.texts.iloc[start:end]
        expected = (run.texts["label"] == label) & (run.texts["split"] == "discovery")
        assert (inside["label"] == label).all()
        assert end - start == expected.sum()
    assert set(np.diff(rows.starts) > 0) == {True}


def test_shards_are_cut_at_a_number_of_texts_and_at_a_number_of_bytes() -> None:
    few = invent_run(2, 1, n_findings=0, n_words=4).texts
    fresh = pd.concat([few.assign(split="validation", label=-1)] * 600, ignore_index=True)
    fresh["text_key"] = [f"{i:064x}" for i in range(1200)]
    assert order_texts(fresh, []).starts.tolist() == [0, 500, 1000, 1200]
    long = fresh.assign(text="x" * 150_000).iloc[:5]
    # Two of 150,000 bytes fit into 400,000, a third does not.
    assert order_texts(long, []).starts.tolist() == [0, 2, 4, 5]


def test_a_key_finds_its_row_through_its_bucket(run: InventedRun, pack: Pack) -> None:
    manifest, _ = read_part(pack.part("manifest"))
    n = manifest["n_key_buckets"]
    for key in run.texts["text_key"].iloc[:50]:
        _, columns = read_part(pack.part(f"keys/{int(key[:2], 16) * n // 256}"))
        keys = columns["key"].reshape(-1, 16)
        (place,) = np.flatnonzero((keys == key_bytes([key])[0]).all(axis=1))
        assert pack.rows.texts["text_key"].iloc[columns["row"][place]] == key


def test_token_lengths_add_up_to_the_text_and_differences_are_intervention_minus_base(
    run: InventedRun, pack: Pack
) -> None:
    row = pack.rows.clusters[min(pack.rows.clusters)][0]
    shard = int(np.searchsorted(pack.rows.starts, row, side="right")) - 1
    values, columns = read_part(pack.part(f"texts/{shard}"))
    i = row - values["start"]
    tokens = slice(columns["token_start"][i], columns["token_start"][i + 1])
    source = pack.rows.texts.iloc[row]
    assert columns["token_length"][tokens].sum() == len(values["texts"][i])
    np.testing.assert_allclose(
        columns["token_nats"][tokens] / 1000, -source["differences"], atol=0.0006
    )
    assert columns["has_pieces"][i] == 1


def test_without_a_tokenizer_the_reason_is_in_the_manifest(run: InventedRun) -> None:
    pack = Pack(run, name="r", load_pieces=lambda: "there is no tokenizer here")
    manifest, _ = read_part(pack.part("manifest"))
    assert manifest["no_pieces"] == "there is no tokenizer here"
    _, columns = read_part(pack.part("texts/1"))
    assert columns["has_pieces"].sum() == 0


@pytest.mark.parametrize(("text", "n"), [("", 0), ("abc", 3), ("é", 1), ("😀a", 3), ("\ud800", 1)])
def test_lengths_are_counted_as_a_page_counts_them(text: str, n: int) -> None:
    assert count_units(text) == n


def test_scores_keep_their_side_of_the_threshold() -> None:
    packed = pack_scores(np.array([0.0, 0.4999, 0.5, 0.5001, 1.0, np.nan]))
    # 0.4999 * 254 is 126.97 and 0.5 * 254 is 127: what is below one half stays below 127.
    assert packed.tolist() == [0, 126, 127, 128, 254, UNSCORED]


def test_the_confusion_matrix_counts_scored_texts_only() -> None:
    cells = count_cells(
        np.array([0.9, 0.1, 0.5, np.nan, 0.2]), np.array([1, 1, 0, 1, 0], dtype=np.uint8)
    )
    assert cells == {
        "base_met": 1, "base_unmet": 1, "intervention_met": 1, "intervention_unmet": 1,
    }  # fmt: skip


def test_kappa_is_agreement_beyond_chance() -> None:
    one = np.array([True, True, False, False])
    # They agree on 3 of 4; by chance on 1/2 * 3/4 + 1/2 * 1/4 = 1/2; (3/4 - 1/2) / (1/2) = 1/2.
    assert kappa(one, np.array([True, True, True, False])) == pytest.approx(0.5)
    assert kappa(one, one) == 1.0
    assert kappa(np.ones(3, bool), np.ones(3, bool)) is None
    assert kappa(np.ones(0, bool), np.ones(0, bool)) is None


def test_a_hypothesis_holds_every_text_that_tested_it(run: InventedRun, pack: Pack) -> None:
    values, columns = read_part(pack.part("hypothesis/0"))
    own = run.verdicts[run.verdicts["hypothesis_id"] == "h000"]
    assert len(columns["row"]) == own["text_key"].nunique()
    final, cheap, expensive = values["table"]
    assert (cheap["n_judged"], expensive["n_judged"]) == tuple(
        (own["tier"] == tier).sum() for tier in ("cheap", "expensive")
    )
    assert final["n_scored"] == sum(final["cells"].values()) == len(columns["row"])
    keys = pack.rows.texts["text_key"].iloc[values["supporting"]].tolist()
    assert keys == run.findings[0]["supporting"]


def test_only_scores_that_the_test_used_are_called_those_of_the_test(run: InventedRun) -> None:
    waves = replace(run, config={**run.config, "judge": {"spend": "waves"}})
    values, columns = read_part(pack_invented(waves).part("hypothesis/0"))
    assert values["tiers"] == [row["tier"] for row in values["table"]]
    # Each judge by its own scores, and before them what the last one that answered said.
    assert values["tiers"] == ["latest", "cheap", "expensive"]
    cascade = replace(run, config={**run.config, "judge": {"spend": "cascade"}})
    same, as_tested = read_part(pack_invented(cascade).part("hypothesis/0"))
    assert same["tiers"] == ["final", "cheap", "expensive"]
    assert as_tested["score_0"].tolist() == columns["score_0"].tolist()


def test_a_text_knows_which_hypotheses_were_judged_on_it(run: InventedRun, pack: Pack) -> None:
    key = run.findings[1]["supporting"][0]
    row = pack.rows.by_key[key]
    values, columns = read_part(pack.part("texts/0"))
    i = row - values["start"]
    judged = columns["judged_finding"][columns["judged_start"][i] : columns["judged_start"][i + 1]]
    expected = run.verdicts[run.verdicts["text_key"] == key]["hypothesis_id"].unique()
    assert [f"h{n:03d}" for n in judged] == sorted(expected)


def test_only_the_words_are_left_out_of_a_thin_pack(run: InventedRun, pack: Pack) -> None:
    thin = Pack(run, name="invented", texts_per_cluster=2)
    kept = keep_words(thin.rows, 2)
    n_clusters = len(thin.rows.clusters)
    assert kept.sum() == thin.rows.n_quoted + 2 * n_clusters
    texts = all_texts(thin)
    assert [text is not None for text in texts] == kept.tolist()
    assert read_part(thin.part("hypothesis/0"))[0] == read_part(pack.part("hypothesis/0"))[0]
    assert read_part(thin.part("manifest"))[0]["n_kept"] == kept.sum()


def test_a_thin_pack_keeps_the_texts_nearest_to_the_centre(run: InventedRun) -> None:
    rows = order_texts(run.texts, run.findings)
    start, end = next(iter(rows.clusters.values()))
    kept = keep_words(rows, 1)[start:end]
    # A margin of 0 is the centre, one of 1 the boundary.
    margins = rows.texts["margin"].iloc[start:end]
    assert margins[kept].item() == margins.min()


def test_sentences_are_counted_per_side_and_point_to_their_texts(
    run: InventedRun, pack: Pack
) -> None:
    values, columns = read_part(pack.part("segments/0"))
    own = run.segments[run.segments["label"] == 0].merge(run.texts[["text_key", "side"]])
    counts = own.groupby("segment").size()
    assert len(values["sentences"]) == len(counts)
    for i, sentence in enumerate(values["sentences"]):
        assert columns["n_base"][i] + columns["n_intervention"][i] == counts[sentence]
        row = columns["at_row"][columns["at_sentence"] == i][0]
        key = pack.rows.texts["text_key"].iloc[int(row)]
        assert ((own["text_key"] == key) & (own["segment"] == sentence)).any()


def test_the_map_has_one_scale_for_both_axes(run: InventedRun) -> None:
    flat = run.map.assign(y=run.map["x"] * 0.5)
    _, columns = read_part(pack_invented(replace(run, map=flat)).part("points/0"))
    assert columns["x"].min() == 0
    assert columns["x"].max() == 65_535
    assert abs(int(columns["y"].max()) - 32_768) <= 1


def test_a_prompt_finds_its_texts_and_its_pairs(run: InventedRun, pack: Pack) -> None:
    values, columns = read_part(pack.part("prompts/0"))
    _, keys = read_part(pack.part("prompt_keys"))
    for i in range(len(values["prompts"])):
        key = keys["key"].reshape(-1, 16)[i].tobytes().hex()
        own = run.texts[run.texts["prompt_key"].str.startswith(key)]
        rows = columns["text_row"][columns["text_start"][i] : columns["text_start"][i + 1]]
        assert set(pack.rows.texts["text_key"].iloc[rows]) == set(own["text_key"])
    assert len(columns["pair_base"]) == len(run.pairs)
    partings = [prompt["parting"] for prompt in values["prompts"]]
    assert partings == sorted(partings, reverse=True)


def test_an_empty_run_has_a_pack(run: InventedRun) -> None:
    empty = replace(
        run, findings=[], null_findings=[], config={}, summary={},
        **{name: getattr(run, name).iloc[:0] for name in
           ("texts", "segments", "prompts", "clusters", "verdicts", "map", "divergence", "pairs")},
    )  # fmt: skip
    parts = dict(pack_invented(empty).parts())
    assert read_part(parts["manifest"])[0]["n_texts"] == 0
    assert read_part(parts["verdict"])[0]["headline"] == "Nothing to compare"


def test_the_index_allows_its_own_script_and_style_and_nothing_else() -> None:
    page = write_index("a run").decode()
    assert "default-src 'none'; style-src 'sha256-" in page
    assert "script-src 'self';" in page
    assert "connect-src" not in page
    assert "connect-src 'self'" in write_index("a run", is_served=True).decode()
    assert "unsafe" not in page


def test_one_file_names_its_script_by_digest_and_escapes_the_run(pack: Pack) -> None:
    page = write_one_file("<i>&\u202e", [("manifest", pack.part("manifest"))]).decode()
    assert "script-src 'sha256-" in page
    assert "'self'" not in page.split("</head>")[0]
    assert "<title>&lt;i&gt;&amp;⟨U+202E⟩ · whatchanged</title>" in page
    assert page.count("<script") == 2


def test_the_built_script_cannot_end_the_element_that_holds_it() -> None:
    assert b"</script" not in page_script().lower()
    assert b"<!--" not in page_script()
    assert page_script().isascii()


def test_one_file_that_would_open_slowly_is_refused() -> None:
    noise = np.random.default_rng(0).integers(0, 255, 40_000_000, dtype=np.uint8).tobytes()
    with pytest.raises(UsageError, match="--format folder"):
        write_one_file("r", [("manifest", noise)])


def test_an_export_replaces_an_earlier_one_and_never_a_strangers_folder(
    pack: Pack, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    write_export_folder(folder, write_folder("r", pack.parts()))
    (folder / "data" / "texts" / "999.js").write_text("stale")
    write_export_folder(folder, write_folder("r", pack.parts()))
    assert not (folder / "data" / "texts" / "999.js").exists()
    assert (folder / "index.html").exists()
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"found 'notes\.txt'"):
        write_export_folder(other, write_folder("r", pack.parts()))
    with pytest.raises(InputError, match="expected a file name"):
        write_export_file(other, b"")


class Spelling:
    """A tokenizer in which 3 and 4 are two halves of one character and 9 writes nothing."""

    pieces = {1: b"Tea", 2: b" is", 3: "é".encode()[:1], 4: "é".encode()[1:], 9: b""}  # noqa: RUF012

    def decode(self, ids: list[int], *, skip_special_tokens: bool) -> str:
        return b"".join(self.pieces[i] for i in ids).decode("utf-8", "replace")


def test_a_character_of_two_tokens_belongs_to_the_one_that_completes_it() -> None:
    pieces = TokenPieces(Spelling())
    assert pieces.split("Tea is", [1, 2, 9]) == ["Tea", " is", ""]
    assert pieces.split("Teaé is", [1, 3, 4, 2]) == ["Tea", "", "é", " is"]
    assert pieces.split("Coffee", [1, 2]) is None


def test_a_cluster_has_no_history_from_before_its_number_was_its_own(run: InventedRun) -> None:
    rows = pd.DataFrame(
        # Label 0 continues throughout; label 1 ends after round 0, and its number is used again.
        [(0, 0, -1), (1, 0, 0), (2, 0, 0), (0, 1, -1), (1, 1, 0), (2, 1, 1)],
        columns=["round", "label", "lineage"],
    ).assign(level="text", cluster="c", difference=0.0, ci_low=0.0, ci_high=0.0)
    texts = order_texts(run.texts, run.findings)
    found = read_part(encode_clusters(rows, texts, [], []))[0]["clusters"]
    assert [cluster["history"]["round"] for cluster in found] == [[0, 1, 2], [1, 2]]
