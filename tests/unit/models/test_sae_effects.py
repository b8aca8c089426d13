"""What features do: ablation, its controls, and the loss that reconstructions recover."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from tests.unit.models.small_saes import make_sae
from tests.unit.models.tiny_models import SENTENCES, make_tokenizer
from whatchanged.errors import InputError, UsageError
from whatchanged.models.hook_points import changed_at, find_hook_point
from whatchanged.models.sae_effects import (
    RecoveredLoss,
    ablate_features,
    matched_features,
    recovered_losses,
)
from whatchanged.models.sae_features import extract_features
from whatchanged.models.saes import ARCHITECTURES, Sae

TEXTS = (*SENTENCES[:3], "She asked.", SENTENCES[0])
START_ID = 1


@cache
def tokenizer() -> Any:
    return make_tokenizer()


@cache
def model() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            hidden_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=1,
            intermediate_size=128, vocab_size=len(tokenizer()), max_position_embeddings=64,
            initializer_range=0.12,
        )
    ).eval()  # fmt: skip


def sae_at(hook_name: str = "blocks.0.hook_resid_post", **settings: Any) -> Sae:
    architecture = settings.pop("architecture", "standard")
    return make_sae(architecture, hook_name=hook_name, **settings)


def logprob(text: str, sae: Sae | None = None, change: Any = None) -> float:
    """The log-probability of one text, written out."""
    ids = torch.tensor([[START_ID, *tokenizer()(text, add_special_tokens=False)["input_ids"]]])
    with torch.inference_mode():
        if sae is None:
            logits = model()(input_ids=ids).logits
        else:
            with changed_at(model(), find_hook_point(model(), sae.settings.hook_name), change):
                logits = model()(input_ids=ids).logits
    drawn = logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])
    return float(drawn.sum())


def reading_and_writing() -> Sae:
    """An SAE whose features rebuild what it reads: both signs of every dimension."""
    identity = torch.eye(96)
    weights = {
        "W_enc": torch.cat([identity, -identity], 1),
        "W_dec": torch.cat([identity, -identity]),
        "b_enc": torch.zeros(192),
        "b_dec": torch.zeros(96),
    }
    return replace(sae_at(d_sae=192), weights=weights)


# Ablation ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("hook_name", ["blocks.0.hook_resid_post", "blocks.1.hook_mlp_in"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_ablation_is_a_text_scored_without_what_the_feature_writes(
    architecture: Any, hook_name: str
) -> None:
    sae = sae_at(hook_name, architecture=architecture)
    fires = extract_features(model(), tokenizer(), [sae], TEXTS).features["sae"].pooled
    feature = int(np.asarray((fires > 0).sum(axis=0)).argmax())
    found = ablate_features(model(), tokenizer(), sae, [feature], TEXTS)

    def without(x: torch.Tensor) -> torch.Tensor:
        features = sae.encode(x)
        kept = features.clone()
        kept[..., feature] = 0
        return x - sae.decode(features, x) + sae.decode(kept, x)

    for place, text in enumerate(TEXTS):
        clean, ablated = logprob(text), logprob(text, sae, without)
        assert found.logprobs[place] == pytest.approx(clean, abs=1e-3)
        assert found.changes[0, place] == pytest.approx(ablated - clean, abs=1e-3)
    assert np.abs(found.changes).max() > 0.01
    assert found.n_scored.tolist() == [
        len(tokenizer()(text, add_special_tokens=False)["input_ids"]) for text in TEXTS
    ]


def test_features_are_taken_out_one_at_a_time_and_in_the_order_asked() -> None:
    sae = sae_at("blocks.1.hook_resid_pre")
    both = ablate_features(model(), tokenizer(), sae, [7, 3], TEXTS)
    alone = ablate_features(model(), tokenizer(), sae, [3], TEXTS)
    assert both.features == (7, 3)
    np.testing.assert_allclose(both.changes[1], alone.changes[0], atol=1e-4)
    assert np.abs(both.changes[0] - both.changes[1]).max() > 0.01


def test_a_feature_that_does_not_fire_changes_exactly_nothing() -> None:
    sae = sae_at()
    bias = sae.weights["b_enc"].clone()
    bias[5] = -1e6
    found = ablate_features(
        model(), tokenizer(), replace(sae, weights={**sae.weights, "b_enc": bias}), [5], TEXTS
    )
    assert found.changes.tolist() == [[0.0] * len(TEXTS)]
    assert ablate_features(model(), tokenizer(), sae, [], TEXTS).changes.shape == (0, len(TEXTS))


def test_tokens_that_do_not_count_are_left_alone() -> None:
    sae = sae_at(excluded_tokens=(START_ID,))
    found = ablate_features(model(), tokenizer(), sae, [2], TEXTS[:1])

    def without(x: torch.Tensor) -> torch.Tensor:
        taken = sae.encode(x)[..., 2:3] * sae.weights["W_dec"][2]
        taken[:, 0] = 0
        return x - taken

    expected = logprob(TEXTS[0], sae, without) - logprob(TEXTS[0])
    assert found.changes[0, 0] == pytest.approx(expected, abs=1e-3)


def test_the_same_ablation_twice_is_equal_and_leaves_no_hook() -> None:
    before = logprob(TEXTS[0])
    first, second = (
        ablate_features(model(), tokenizer(), sae_at(), [1, 2, 3], TEXTS) for _ in range(2)
    )
    np.testing.assert_array_equal(first.changes, second.changes)
    assert logprob(TEXTS[0]) == before


def test_a_feature_that_the_sae_does_not_have_is_refused() -> None:
    with pytest.raises(UsageError, match="features from 0 to 39, found 40"):
        ablate_features(model(), tokenizer(), sae_at(), [3, 40], TEXTS)
    with pytest.raises(InputError, match="none in text 0"):
        ablate_features(model(), tokenizer(), sae_at(), [3], [""])


# Recovered loss ----------------------------------------------------------------------------------


def test_a_perfect_sae_has_the_models_loss_and_a_blind_one_that_of_zeros() -> None:
    perfect = reading_and_writing()
    blind = {**perfect.weights, "b_enc": torch.full((192,), -1e6)}
    saes = [perfect, replace(perfect, name="blind", weights=blind)]
    found = recovered_losses(model(), tokenizer(), saes, TEXTS)
    n_tokens = sum(len(tokenizer()(t, add_special_tokens=False)["input_ids"]) for t in TEXTS)
    assert found["sae"].model == pytest.approx(-sum(map(logprob, TEXTS)) / n_tokens, abs=1e-4)
    assert found["sae"].reconstructed == pytest.approx(found["sae"].model, abs=1e-5)
    zeroed = -sum(logprob(t, perfect, torch.zeros_like) for t in TEXTS) / n_tokens
    assert found["blind"].zeroed == pytest.approx(zeroed, abs=1e-4)
    assert found["blind"].reconstructed == pytest.approx(found["blind"].zeroed, abs=1e-9)


def test_the_recovered_share_is_of_the_way_back_from_zeros() -> None:
    assert RecoveredLoss(model=2.0, reconstructed=3.0, zeroed=6.0).share == 0.75
    assert RecoveredLoss(model=2.0, reconstructed=8.0, zeroed=6.0).share == -0.5
    assert math.isnan(RecoveredLoss(model=2.0, reconstructed=3.0, zeroed=2.0).share)


def test_texts_of_one_token_have_no_loss_to_recover() -> None:
    sae = sae_at(prepends_start=False)
    with pytest.raises(UsageError, match="a text of two tokens or more"):
        recovered_losses(model(), tokenizer(), [sae], ["!"])


# Controls ----------------------------------------------------------------------------------------


def test_controls_fire_nearly_as_often_and_are_none_of_the_features() -> None:
    rates = np.array([0.5, 0.0, 0.45, 0.1, 0.12, 0.4, 0.09, 0.55, 0.11])
    for seed in range(20):
        controls = matched_features(rates, [0, 3], 2, np.random.default_rng(seed))
        # Nearest by ratio: 0.55, 0.45, 0.4 and then 0.12; and 0.11, 0.09, 0.12 and then 0.4.
        assert set(controls[0]) <= {7, 2, 5, 4} and set(controls[1]) <= {8, 6, 4, 5}
        assert all(len(set(row)) == 2 for row in controls)
    drawn = {matched_features(rates, [0], 1, np.random.default_rng(i))[0, 0] for i in range(20)}
    assert drawn == {7, 2}


def test_controls_that_cannot_be_had_are_refused() -> None:
    rates = np.array([0.5, 0.0, 0.4])
    rng = np.random.default_rng(0)
    with pytest.raises(UsageError, match="expected 2 other features that fire, found 1"):
        matched_features(rates, [0], 2, rng)
    with pytest.raises(UsageError, match="feature 1 never fires"):
        matched_features(rates, [1], 1, rng)
