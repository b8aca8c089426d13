"""The components of both models of the embedded pair, read on the replies of real texts."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from whatchanged.activations.evidence import is_control
from whatchanged.config import ActivationsConfig, AuditConfig
from whatchanged.errors import UsageError
from whatchanged.model_config import DecodeConfig, ModelConfig
from whatchanged.models.component_readings import (
    ComponentReader,
    load_contributions,
    load_reader,
    open_reader,
)
from whatchanged.models.contribution_totals import open_contributions, pair_collector
from whatchanged.models.loading import load_scorer
from whatchanged.models.scoring import PairScorer

PROMPTS = (
    "How do I make good tea?",
    "Is chess hard to learn?",
    "How do I make good tea?",
    "What helps me sleep?",
)
REPLIES = (
    "Use fresh water and wait four minutes.",
    "No.",
    "A cup of mint tea calms both the body and the mind, and it needs neither milk nor sugar.",
    "Go to bed early.",
)
MLP = "model.layers.1.mlp"
N_DIRECTIONS = 3


@cache
def pair() -> PairScorer:
    base, intervention = (ModelConfig(model=f"demo:{side}") for side in ("base", "intervention"))
    found = load_scorer(base, intervention, DecodeConfig(), "auto", "cpu")
    assert isinstance(found, PairScorer)
    return found


@cache
def reader(*sources: str) -> ComponentReader:
    config = ActivationsConfig(
        sources=sources or ("weight_delta", "neurons"), n_directions=N_DIRECTIONS
    )
    return open_reader(pair(), config, seed=5)


@cache
def replies() -> list[list[int]]:
    tokenizer = pair().base.tokenizer
    return [tokenizer(reply, add_special_tokens=False)["input_ids"] for reply in REPLIES]


def read(
    own: ComponentReader, prompts: Sequence[str], ids: Sequence[Sequence[int]]
) -> list[dict[str, NDArray[np.float32]]]:
    """Per text and module, the activations `(n_reply, n_components)`."""
    found: dict[int, dict[str, NDArray[np.float32]]] = {}
    for batch in own.read(prompts, ids):
        for place, row in enumerate(batch.rows):
            n = len(ids[row])
            assert batch.mask[place].tolist() == [i < n for i in range(batch.mask.shape[1])]
            blocks = {name: block[place] for name, block in batch.activations.items()}
            assert not any(block[n:].any() for block in blocks.values())
            found[row] = {name: block[:n] for name, block in blocks.items()}
    return [found[row] for row in range(len(ids))]


def inputs_of(side: str, site: str, text: int) -> NDArray[np.float32]:
    """What enters a module at a reply's tokens, one text alone `(n_reply, width)`."""
    decoder = getattr(pair(), side)
    prompt = decoder.tokenizer(PROMPTS[text])["input_ids"]
    caught: list[torch.Tensor] = []
    handle = decoder.model.get_submodule(site).register_forward_pre_hook(
        lambda _, inputs: caught.append(inputs[0])
    )
    with torch.inference_mode():
        decoder.model(input_ids=torch.tensor([[*prompt, *replies()[text]]]))
    handle.remove()
    return caught[0][0, len(prompt) :].numpy()


# What is read ------------------------------------------------------------------------------------


def test_the_neurons_of_both_models_are_read_at_the_tokens_of_each_reply() -> None:
    found = read(reader(), PROMPTS, replies())
    for text, side in ((0, "base"), (2, "intervention"), (1, "intervention")):
        expected = inputs_of(side, f"{MLP}.down_proj", text)
        assert found[text][f"neurons@{side}/{MLP}"] == pytest.approx(expected, abs=1e-4)


def test_the_two_models_show_different_neurons_on_one_text() -> None:
    found = read(reader(), PROMPTS, replies())[0]
    base, intervention = (found[f"neurons@{side}/{MLP}"] for side in ("base", "intervention"))
    assert np.abs(base - intervention).max() > 0.01


def test_directions_and_random_ones_are_read_in_the_intervention() -> None:
    found = read(reader(), PROMPTS, replies())[2]
    directions = reader().directions
    assert directions is not None
    seen = inputs_of("intervention", f"{MLP}.down_proj", 2)
    reads = directions.weights[f"{MLP}.down_proj"].reads
    assert found[f"weight_delta/{MLP}.down_proj"] == pytest.approx(seen @ reads, abs=1e-4)
    random = found[f"random/{MLP}.down_proj"]
    assert random.shape == (len(replies()[2]), N_DIRECTIONS)
    assert np.abs(random - found[f"weight_delta/{MLP}.down_proj"]).max() > 0.01


def test_modules_are_named_by_source_and_side_and_random_ones_are_known_as_controls() -> None:
    modules = reader().modules
    sources = [name.partition("/")[0] for name in modules]
    assert list(dict.fromkeys(sources)) == [
        "neurons@base", "weight_delta", "random", "neurons@intervention"
    ]  # fmt: skip
    own = [name for name in sources if name == "weight_delta"]
    assert int(is_control(list(modules)).sum()) == sources.count("random") == len(own)
    assert list(read(reader(), PROMPTS, replies())[0]) == list(modules)
    assert {n for name, n in modules.items() if not name.startswith("neurons")} == {N_DIRECTIONS}


def test_one_source_alone_reads_nothing_else() -> None:
    assert {name.partition("/")[0] for name in reader("weight_delta").modules} == {
        "weight_delta", "random"
    }  # fmt: skip
    assert {name.partition("/")[0] for name in reader("neurons").modules} == {
        "neurons@base", "neurons@intervention"
    }  # fmt: skip
    assert reader("neurons").directions is None


# How it is read ----------------------------------------------------------------------------------


def test_which_texts_share_a_batch_changes_nothing_beyond_rounding(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    together = read(reader(), PROMPTS, replies())
    turned = read(reader(), PROMPTS[::-1], replies()[::-1])[::-1]
    monkeypatch.setattr("whatchanged.models.component_readings._MAX_ROWS", 1)
    alone = read(reader(), PROMPTS, replies())
    for name in reader().modules:
        scale = max(np.abs(text[name]).max() for text in together)
        for others in (turned, alone):
            for one, other in zip(together, others, strict=True):
                assert np.abs(one[name] - other[name]).max() <= 1e-5 * scale


def test_every_text_is_read_once_longest_first_within_the_memory_that_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert [batch.rows for batch in reader().read(PROMPTS, replies())] == [(2, 0, 3, 1)]
    monkeypatch.setattr("whatchanged.models.component_readings.batch_bytes", lambda _: 0)
    assert [batch.rows for batch in reader().read(PROMPTS, replies())] == [(2,), (0,), (3,), (1,)]
    assert list(reader().read([], [])) == []


def test_a_system_prompt_of_one_side_leaves_replies_beside_each_other() -> None:
    intervention = copy.copy(pair().intervention)
    intervention.encoder = replace(intervention.encoder, system_prompt="Be brief.")
    prompted = open_reader(PairScorer(pair().base, intervention, True), ActivationsConfig(), seed=5)
    plain, found = (read(own, PROMPTS, replies())[0] for own in (reader(), prompted))
    base, other = f"neurons@base/{MLP}", f"neurons@intervention/{MLP}"
    assert np.abs(found[base] - plain[base]).max() < 1e-4
    assert found[other].shape == plain[other].shape
    assert np.abs(found[other] - plain[other]).max() > 0.01


def test_a_prompt_that_a_model_cannot_read_is_said() -> None:
    with pytest.raises(UsageError, match=r"the base can read, found that .* surrogate pair"):
        list(reader().read(["\ud83d"], [[5]]))
    with pytest.raises(UsageError, match=r"found that the prompt has \d+ tokens"):
        list(reader().read(["tea " * 5000], [[5]]))


# What a pair does not have -----------------------------------------------------------------------


def opened(base: Any, intervention: Any, has_same_tokens: bool = True) -> ComponentReader:
    return open_reader(
        PairScorer(base, intervention, has_same_tokens), ActivationsConfig(n_directions=2), seed=0
    )


def test_models_with_different_tokens_are_not_read_at_all() -> None:
    found = opened(pair().base, pair().intervention, has_same_tokens=False)
    assert found.modules == {}
    assert set(found.skipped) == {"weight_delta", "neurons"}
    assert all("different tokens" in reason for reason in found.skipped.values())


def test_a_pair_with_equal_weights_has_no_directions() -> None:
    found = opened(pair().base, pair().base)
    assert found.skipped == {"weight_delta": "no linear layer's weights differ"}
    assert found.directions is None
    assert {name.partition("/")[0] for name in found.modules} == {
        "neurons@base", "neurons@intervention"
    }  # fmt: skip


def test_an_architecture_without_mlps_has_no_neurons() -> None:
    def renamed(decoder: Any) -> Any:
        other = copy.copy(decoder)
        other.model = copy.deepcopy(decoder.model)
        for layer in other.model.model.layers:
            layer.mlp.first = layer.mlp.up_proj
            del layer.mlp.up_proj
        return other

    found = opened(renamed(pair().base), renamed(pair().intervention))
    assert list(found.skipped) == ["neurons"]
    assert "expected MLPs with projections named" in found.skipped["neurons"]
    assert {name.partition("/")[0] for name in found.modules} == {"weight_delta", "random"}


def test_models_of_different_shape_have_no_directions() -> None:
    smaller = copy.copy(pair().base)
    smaller.model = copy.deepcopy(pair().base.model)
    del smaller.model.model.layers[2]
    found = opened(smaller, pair().intervention)
    assert list(found.skipped) == ["weight_delta"]
    assert "the same linear layers" in found.skipped["weight_delta"]


# Contributions -----------------------------------------------------------------------------------


def test_contributions_and_their_controls_are_of_the_texts_in_the_order_asked() -> None:
    directions = reader().directions
    assert directions is not None
    own = open_contributions(pair(), directions, n_points=2, seed=1)
    found = own.compare(PROMPTS, replies())
    n = sum(parts.n_components for parts in directions.weights.values())
    assert found.values.shape == found.controls.shape == (4, n)
    assert found.strengths.shape == (n,)
    turned = own.compare(PROMPTS[::-1], replies()[::-1])
    assert turned.values[::-1] == pytest.approx(found.values, abs=1e-4)
    assert turned.log_ratios[::-1] == pytest.approx(found.log_ratios, abs=1e-4)
    assert np.abs(found.values - found.controls).max() > 0.01


def test_two_prompts_in_different_words_have_no_contributions() -> None:
    directions = reader().directions
    assert directions is not None
    intervention = copy.copy(pair().intervention)
    intervention.encoder = replace(intervention.encoder, system_prompt="Be brief.")
    own = open_contributions(
        PairScorer(pair().base, intervention, True), directions, n_points=1, seed=0
    )
    with pytest.raises(UsageError, match="of one side's own"):
        own.compare(PROMPTS, replies())


def test_two_tokenizers_have_no_contributions() -> None:
    directions = reader().directions
    assert directions is not None
    with pytest.raises(UsageError, match="one tokenizer, found two"):
        pair_collector(PairScorer(pair().base, pair().intervention, False), directions)


def audit(intervention: str, *sources: str) -> AuditConfig:
    return AuditConfig(
        base=ModelConfig(model="demo:base"),
        intervention=ModelConfig(model=intervention),
        activations=ActivationsConfig.model_validate({"sources": sources, "n_directions": 1}),
    )


def test_a_config_opens_its_pair_once() -> None:
    config = audit("demo:intervention", "weight_delta", "neurons")
    assert load_reader(config) is load_reader(audit("demo:intervention", "weight_delta", "neurons"))
    assert load_contributions(config).pair is load_reader(config).pair


def test_a_pair_without_a_weight_change_has_no_contributions_and_says_why() -> None:
    with pytest.raises(UsageError, match="found none: no linear layer's weights differ"):
        load_contributions(audit("demo:base", "weight_delta"))
    with pytest.raises(UsageError, match="weight_delta is not among the sources"):
        load_contributions(audit("demo:intervention", "neurons"))
