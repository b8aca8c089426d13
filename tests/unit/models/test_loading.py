from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.models.tiny_models import save_causal_model
from whatchanged.config import EmbedConfig, JudgeTierConfig
from whatchanged.model_config import DecodeConfig, ModelConfig
from whatchanged.models.loading import (
    describe_decoder,
    describe_embedder,
    describe_judge,
    load_decoder,
)
from whatchanged.models.transformers_decoder import TransformersDecoder
from whatchanged.run_config import RunConfig


def described(folder: Path, prompt_format: str = "auto", **settings: Any) -> str:
    model = {key: settings.pop(key) for key in ("dtype", "system_prompt") if key in settings}
    return describe_decoder(
        ModelConfig(model=str(folder), **model), DecodeConfig(**settings), prompt_format
    )


def test_a_decoder_is_named_by_all_that_changes_a_text(causal_folder: Path, tmp_path: Path) -> None:
    save_causal_model(tmp_path, seed=5)
    names = [
        described(causal_folder),
        described(causal_folder, temperature=0.5),
        described(causal_folder, top_p=0.5),
        described(causal_folder, max_new_tokens=13),
        described(causal_folder, dtype="bfloat16"),
        described(causal_folder, "plain"),
        described(causal_folder, system_prompt="Be brief."),
        described(tmp_path),
    ]
    assert len(set(names)) == len(names)


def test_a_decoder_is_not_named_by_how_fast_or_where_it_runs(
    causal_folder: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in causal_folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    assert described(causal_folder, batch_size=3, chunk_texts=7) == described(copy)


def test_a_changed_chat_template_is_another_decoder(causal_folder: Path, tmp_path: Path) -> None:
    save_causal_model(tmp_path, chat_template="{{ messages[-1]['content'] }}")
    before = described(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    save_causal_model(other, chat_template="> {{ messages[-1]['content'] }}")
    assert described(other) != before


def test_an_embedder_is_named_by_weights_and_precision_not_by_batch_size() -> None:
    names = {describe_embedder(EmbedConfig(precision=p)) for p in ("auto", "float32")}
    assert len(names) == 2
    assert describe_embedder(EmbedConfig(batch_size=3)) == describe_embedder(EmbedConfig())


def test_judges_have_different_names() -> None:
    embed = EmbedConfig()
    lexical, embedding = (
        describe_judge(JudgeTierConfig(provider=p), embed) for p in ("lexical", "embedding")
    )
    assert lexical != embedding
    assert describe_embedder(embed) in embedding.replace("\\", "")


def test_a_model_is_loaded_once(causal_folder: Path) -> None:
    model, decode = ModelConfig(model=str(causal_folder)), DecodeConfig(max_new_tokens=4)
    device = RunConfig().device
    first = load_decoder(model, decode, "auto", device)
    assert load_decoder(model, decode, "auto", device) is first


def test_texts_of_any_length_share_one_model_in_memory(causal_folder: Path) -> None:
    model = ModelConfig(model=str(causal_folder))
    short, long = (
        load_decoder(model, DecodeConfig(max_new_tokens=n), "auto", "cpu") for n in (4, 8)
    )
    assert isinstance(short, TransformersDecoder)
    assert isinstance(long, TransformersDecoder)
    assert short.model is long.model
    assert short._lock is long._lock
    assert (short.config.max_new_tokens, long.config.max_new_tokens) == (4, 8)


def test_a_gpu_is_told_by_what_is_asked_for_and_by_its_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from whatchanged.models import device

    driver = tmp_path / "driver"
    monkeypatch.setattr(device, "_GPU_DRIVERS", (driver,))
    assert [device.may_use_gpu(name) for name in ("cpu", "cuda:0", "auto")] == [False, True, False]
    driver.touch()
    assert device.may_use_gpu("auto")
    assert not device.may_use_gpu("cpu")
