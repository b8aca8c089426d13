"""The latents of the embedded SAEs as components, beside all other sources, and SAEs that do not
fit."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from whatchanged.config import ActivationsConfig
from whatchanged.demo.saes import demo_sae_path
from whatchanged.model_config import DecodeConfig, ModelConfig
from whatchanged.models.component_readings import ComponentReader, open_reader
from whatchanged.models.components import ComponentCollector
from whatchanged.models.loading import load_scorer
from whatchanged.models.sae_latents import SaeLatents, load_listed
from whatchanged.models.sae_loading import load_sae
from whatchanged.models.scoring import PairScorer
from whatchanged.sae_source import SaeSource

PROMPT, REPLY = "How do I make good tea?", "Use fresh water and wait four minutes."


@cache
def pair() -> PairScorer:
    base, intervention = (ModelConfig(model=f"demo:{side}") for side in ("base", "intervention"))
    found = load_scorer(base, intervention, DecodeConfig(), "auto", "cpu")
    assert isinstance(found, PairScorer)
    return found


def opened(*saes: dict[str, Any], sources: tuple[str, ...] = ("saes",)) -> ComponentReader:
    config = ActivationsConfig.model_validate({"sources": sources, "saes": saes})
    return open_reader(pair(), config, seed=0)


def reply_ids(text: str) -> list[int]:
    ids: list[int] = pair().base.tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def changed_copy(folder: Path, **metadata: Any) -> Path:
    """The embedded `topk` in a folder of the test's own, with another config."""
    shutil.copytree(demo_sae_path("topk"), folder)
    config = json.loads((folder / "cfg.json").read_text())
    config["metadata"] |= metadata
    (folder / "cfg.json").write_text(json.dumps(config))
    return folder


# What is read ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "layer"), [("topk", 1), ("jumprelu", 2)])
@pytest.mark.parametrize("side", ["base", "intervention"])
def test_latents_are_those_of_the_sae_on_what_its_layer_puts_out(
    name: str, layer: int, side: str
) -> None:
    decoder = getattr(pair(), side)
    reply = reply_ids(REPLY)
    prompt = decoder.tokenizer(PROMPT)["input_ids"]
    caught: list[torch.Tensor] = []
    handle = decoder.model.model.layers[layer].register_forward_hook(
        lambda _module, _inputs, out: caught.append(out[0] if isinstance(out, tuple) else out)
    )
    with torch.inference_mode():
        decoder.model(input_ids=torch.tensor([[*prompt, *reply]]))
    handle.remove()
    sae = load_sae(SaeSource(folder=f"demo:{name}"))
    expected = sae.encode(caught[0][0, len(prompt) :]).numpy()
    (batch,) = opened({"folder": f"demo:{name}"}).read([PROMPT], [reply])
    found = batch.activations[f"saes@{side}/{name}"][0]
    assert found == pytest.approx(expected, abs=1e-4)
    assert ((found > 0) == (expected > 0)).mean() > 0.999
    assert (expected > 0).any(axis=1).all()


def test_all_sources_come_from_one_forward_pass_of_each_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = opened(
        {"folder": "demo:topk"}, {"folder": "demo:jumprelu"},
        sources=("weight_delta", "neurons", "saes"),
    )  # fmt: skip
    n_passes = {"base": 0, "intervention": 0}
    handles = [
        getattr(pair(), side).model.register_forward_pre_hook(
            lambda *_, side=side: n_passes.update({side: n_passes[side] + 1})
        )
        for side in n_passes
    ]
    (batch,) = own.read([PROMPT, PROMPT], [reply_ids(REPLY), reply_ids("No.")])
    for handle in handles:
        handle.remove()
    assert n_passes == {"base": 1, "intervention": 1}
    assert list(batch.activations) == list(own.modules)
    assert {name.partition("/")[0] for name in own.modules} == {
        "neurons@base", "saes@base", "weight_delta", "random", "neurons@intervention",
        "saes@intervention",
    }  # fmt: skip
    assert own.modules["saes@base/topk"] == own.modules["saes@intervention/topk"] == 512


def test_the_two_models_show_different_latents_on_one_text() -> None:
    (batch,) = opened({"folder": "demo:topk"}).read([PROMPT], [reply_ids(REPLY)])
    base, intervention = (batch.activations[f"saes@{s}/topk"] for s in ("base", "intervention"))
    assert np.abs(base - intervention).max() > 0.01


def test_latents_are_0_at_tokens_unlike_those_of_training(tmp_path: Path) -> None:
    special = pair().base.tokenizer.eos_token_id
    reply = [*reply_ids(REPLY), special]
    n_prompt = len(pair().base.tokenizer(PROMPT)["input_ids"])
    (batch,) = opened({"folder": "demo:topk"}).read([PROMPT], [reply])
    fires = (batch.activations["saes@base/topk"][0] > 0).any(axis=1)
    assert fires.tolist() == [True] * (len(reply) - 1) + [False]
    short = changed_copy(tmp_path / "short", context_size=n_prompt + 3)
    late = changed_copy(tmp_path / "late", seqpos_slice=[n_prompt + 2, None])
    (batch,) = opened({"folder": str(short)}, {"folder": str(late)}).read([PROMPT], [reply])
    n = len(reply)
    fires = (batch.activations["saes@base/short"][0] > 0).any(axis=1)
    assert fires.tolist() == [True] * 3 + [False] * (n - 3)
    fires = (batch.activations["saes@base/late"][0] > 0).any(axis=1)
    assert fires.tolist() == [False] * 2 + [True] * (n - 3) + [False]


def test_padding_changes_no_latent_and_counts_for_none() -> None:
    model = pair().base.model
    sae = load_sae(SaeSource(folder="demo:topk"))
    collector = ComponentCollector(model, [SaeLatents((sae,))])
    ids = np.array([[1, *reply_ids(REPLY)]])
    mask = np.ones(ids.shape, dtype=bool)
    alone = collector.collect(ids, mask)["saes/topk"]
    before = np.zeros((1, 3), dtype=np.int64)
    padded = collector.collect(
        np.hstack([before, ids]), np.hstack([before.astype(bool), mask])
    )["saes/topk"]  # fmt: skip
    assert not padded[:, :3].any()
    assert padded[:, 3:] == pytest.approx(alone, abs=1e-4)


# How much memory ---------------------------------------------------------------------------------


def test_the_latents_bound_the_batch_as_other_components_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = opened({"folder": "demo:topk"})
    reply = reply_ids(REPLY)
    n_tokens = len(pair().base.tokenizer(PROMPT)["input_ids"]) + len(reply)
    # 4 bytes for 3 copies of 512 latents in each model, and for 3 more while one is encoded.
    n_bytes = 4 * n_tokens * (3 * 1024 + 3 * 512)
    for room, sizes in ((2 * n_bytes, [2, 1]), (2 * n_bytes - 1, [1, 1, 1]), (0, [1, 1, 1])):
        monkeypatch.setattr(
            "whatchanged.models.component_readings.batch_bytes", lambda _, room=room: room
        )
        batches = list(own.read([PROMPT] * 3, [reply] * 3))
        assert [len(batch.rows) for batch in batches] == sizes


# SAEs that do not fit ----------------------------------------------------------------------------


def test_an_sae_that_does_not_fit_is_skipped_with_the_reason_and_others_are_read(
    tmp_path: Path,
) -> None:
    # The neurons' 256 are wider than the SAE's 96.
    wide = changed_copy(tmp_path / "wide", hook_name="blocks.0.mlp.hook_post")
    lost = changed_copy(tmp_path / "lost", hook_name="blocks.0.hook_nowhere")
    deep = changed_copy(tmp_path / "deep", hook_name="blocks.3.hook_resid_post")
    own = opened(
        *({"folder": str(folder)} for folder in (wide, lost, deep, tmp_path / "gone")),
        {"folder": "demo:topk"},
        {"folder": "demo:nothing"},
        {"folder": "demo:poor", "name": "topk"},
    )
    assert list(own.modules) == ["saes@base/topk", "saes@intervention/topk"]
    assert own.modules["saes@base/topk"] == 512
    skipped = dict(own.skipped)
    assert "width 96, found 256 at blocks.0.mlp.hook_post" in skipped.pop("saes/wide")
    assert "found 'blocks.0.hook_nowhere': known are blocks.N.NAME" in skipped.pop("saes/lost")
    assert "N below 3" in skipped.pop("saes/deep")
    assert "found no cfg.json and no sae_weights.safetensors" in skipped.pop("saes/gone")
    assert "there are topk, jumprelu, poor" in skipped.pop("saes/demo:nothing")
    assert "another SAE of the list has this name" in skipped.pop(
        "saes/topk (number 7 of the list)"
    )
    assert skipped == {}


def test_without_an_sae_that_fits_nothing_is_read(tmp_path: Path) -> None:
    own = opened({"folder": str(tmp_path)})
    assert own.modules == {}
    assert list(own.skipped) == [f"saes/{tmp_path.name}"]


# Keys --------------------------------------------------------------------------------------------


def test_a_key_names_the_weights_and_never_the_place(tmp_path: Path) -> None:
    copy = changed_copy(tmp_path / "topk")
    here, there = (
        load_listed((SaeSource(folder=folder),)).described() for folder in ("demo:topk", str(copy))
    )
    assert here == there
    other = changed_copy(tmp_path / "other" / "topk", context_size=255)
    assert load_listed((SaeSource(folder=str(other)),)).described() != here


def test_equal_sources_have_equal_hashes() -> None:
    one, other = (SaeSource(folder="demo:topk", overrides={"k": k}) for k in (5, 6))
    assert hash(one) == hash(SaeSource(folder="demo:topk", overrides={"k": 5}))
    assert hash(one) != hash(other)
