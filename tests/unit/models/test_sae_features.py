"""Features of texts: batches, padding, the start token, pooling and reconstruction."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from tests.unit.models.small_saes import make_sae
from tests.unit.models.tiny_models import SENTENCES, make_tokenizer
from whatchanged.errors import InputError, UsageError
from whatchanged.models.hook_points import changed_at, find_hook_point
from whatchanged.models.sae_features import extract_features, pool_tokens
from whatchanged.models.sae_inputs import padded, read_texts
from whatchanged.models.saes import Sae

TEXTS = (*SENTENCES, "She asked.", "A lamp", SENTENCES[0], "The river and the old map of it.")
START_ID = 1


@cache
def tokenizer(side: str) -> Any:
    """A tokenizer whose start token is its padding token, as in GPT-2."""
    made = make_tokenizer()
    made.pad_token = made.bos_token
    made.padding_side = side
    assert made.pad_token_id == made.bos_token_id == START_ID
    return made


@cache
def llama() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            hidden_size=96, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=1,
            intermediate_size=128, vocab_size=len(tokenizer("left")), max_position_embeddings=64,
            initializer_range=0.12,
        )
    ).eval()  # fmt: skip


@cache
def gpt2() -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    vocab_size = len(tokenizer("left"))
    config = GPT2Config(n_embd=96, n_layer=2, n_head=4, n_positions=64, vocab_size=vocab_size)
    return GPT2LMHeadModel(config).eval()


def four_saes(**settings: Any) -> tuple[Sae, ...]:
    return (
        make_sae("standard", name="a", hook_name="blocks.0.hook_resid_pre", **settings),
        make_sae("topk", name="b", seed=2, hook_name="blocks.1.hook_resid_post", **settings),
        make_sae("jumprelu", name="c", seed=3, hook_name="blocks.1.hook_resid_post", **settings),
        make_sae("gated", name="d", seed=4, hook_name="blocks.1.hook_mlp_out", **settings),
    )


def alone(model: Any, sae: Sae, text: str, *, starts: bool = True) -> torch.Tensor:
    """What an SAE finds in one text without any batch, `(n_tokens, d_sae)`."""
    ids = tokenizer("left")(text, add_special_tokens=False)["input_ids"]
    seen: list[torch.Tensor] = []

    def see(x: torch.Tensor) -> torch.Tensor:
        seen.append(x)
        return x

    point = find_hook_point(model, sae.settings.hook_name)
    with torch.inference_mode(), changed_at(model, point, see):
        model(input_ids=torch.tensor([[START_ID, *ids] if starts else ids]))
        return sae.encode(seen[0][0])


# Batches -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("pooling", ["last", "max", "mean"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("make_model", [llama, gpt2])
def test_batched_equals_one_by_one(make_model: Any, side: str, pooling: Any) -> None:
    model, saes = make_model(), four_saes()
    batched = extract_features(model, tokenizer(side), saes, TEXTS, pooling=pooling)
    single = extract_features(model, tokenizer(side), saes, TEXTS, pooling=pooling, batch_size=1)
    assert (batched.n_forward_passes, single.n_forward_passes) == (1, len(TEXTS))
    for sae in saes:
        found = batched.features[sae.name].pooled.toarray()
        expected = single.features[sae.name].pooled.toarray()
        assert np.abs(expected).max() > 0.1
        np.testing.assert_allclose(found, expected, atol=1e-5)
        for row, text in zip(found, TEXTS, strict=True):
            features = alone(model, sae, text).numpy()
            pooled = {"last": features[-1], "max": features.max(0), "mean": features.mean(0)}
            np.testing.assert_allclose(row, pooled[pooling], atol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_last_token_is_found_where_the_start_token_is_the_padding_token(side: str) -> None:
    # Counting the ids that differ from the padding token would miss one: the start token.
    sae = make_sae(name="a")
    found = extract_features(llama(), tokenizer(side), [sae], ["A lamp", SENTENCES[0]],
                             pooling="last")  # fmt: skip
    features = alone(llama(), sae, "A lamp")
    row = found.features["a"].pooled[[0]].toarray()[0]
    np.testing.assert_allclose(row, features[-1].numpy(), atol=1e-5)
    assert np.abs(row - features[-2].numpy()).max() > 0.01


def test_one_forward_pass_per_batch_serves_all_hook_points_and_saes() -> None:
    model, calls = llama(), []
    handle = model.register_forward_hook(lambda *_: calls.append(1))
    try:
        found = extract_features(model, tokenizer("right"), four_saes(), TEXTS, batch_size=4)
    finally:
        handle.remove()
    assert len(calls) == found.n_forward_passes == 3


def test_twenty_saes_find_what_each_finds_alone() -> None:
    saes = [make_sae(name=f"sae {i}", seed=i) for i in range(20)]
    together = extract_features(llama(), tokenizer("right"), saes, TEXTS)
    assert (list(together.features), together.n_forward_passes) == ([sae.name for sae in saes], 1)
    for sae in saes[:2]:
        single = extract_features(llama(), tokenizer("right"), [sae], TEXTS).features[sae.name]
        found = together.features[sae.name].pooled
        np.testing.assert_allclose(found.toarray(), single.pooled.toarray(), atol=1e-6)


def test_a_text_that_occurs_twice_keeps_both_rows() -> None:
    pooled = (
        extract_features(llama(), tokenizer("right"), [make_sae(name="a")], TEXTS)
        .features["a"]
        .pooled
    )
    assert pooled.shape == (9, 40) and pooled.dtype == np.float32
    np.testing.assert_allclose(pooled[[0]].toarray(), pooled[[7]].toarray(), atol=1e-6)


@pytest.mark.parametrize("side", ["left", "right"])
def test_tokens_stand_in_the_order_asked(side: str) -> None:
    sae = make_sae(name="a", excluded_tokens=(START_ID,))
    found = extract_features(llama(), tokenizer(side), [sae], TEXTS, keep_tokens=True, batch_size=2)
    tokens = found.features["a"].tokens
    assert tokens.shape == (found.text_starts[-1], 40)
    for i, text in enumerate(TEXTS):
        part = slice(found.text_starts[i], found.text_starts[i + 1])
        ids = tokenizer(side)(text, add_special_tokens=False)["input_ids"]
        assert found.token_ids[part].tolist() == [START_ID, *ids]
        expected = alone(llama(), sae, text).numpy()
        expected[0] = 0
        np.testing.assert_allclose(tokens[part].toarray(), expected, atol=1e-5)


def test_tokens_are_kept_only_when_asked() -> None:
    found = extract_features(llama(), tokenizer("right"), [make_sae(name="a")], TEXTS)
    assert found.features["a"].tokens is None


def test_rows_are_padded_on_either_side() -> None:
    ids, mask = padded([(5, 6, 7), (8,)], "left")
    assert ids.tolist() == [[5, 6, 7], [0, 0, 8]]
    assert mask.tolist() == [[True, True, True], [False, False, True]]
    ids, mask = padded([(5, 6, 7), (8,)], "right")
    assert ids.tolist() == [[5, 6, 7], [8, 0, 0]]


# What counts -------------------------------------------------------------------------------------


def counted(sae: Sae, text: str, **options: Any) -> list[bool]:
    return [
        bool(c) for c in read_texts(tokenizer("left"), [sae], [text], **options).counts["sae"][0]
    ]


def test_tokens_that_the_config_excludes_do_not_count() -> None:
    n_tokens = len(tokenizer("left")("A lamp", add_special_tokens=False)["input_ids"])
    assert counted(make_sae(), "A lamp") == [True] * (n_tokens + 1)
    for settings in ({"excluded_tokens": True}, {"positions": (1, None)}):
        assert counted(make_sae(**settings), "A lamp") == [False] + [True] * n_tokens
    assert counted(make_sae(positions=(None, 2)), "A lamp")[:3] == [True, True, False]
    assert counted(make_sae(), "A lamp", leave_out_start=True) == [False] + [True] * n_tokens
    assert (
        counted(make_sae(prepends_start=False), "A lamp", leave_out_start=True) == [True] * n_tokens
    )


def test_without_a_start_token_none_is_put_before_a_text() -> None:
    sae = make_sae(name="a", prepends_start=False)
    found = extract_features(llama(), tokenizer("right"), [sae], TEXTS[:2])
    expected = alone(llama(), sae, TEXTS[0], starts=False).amax(0).numpy()
    np.testing.assert_allclose(found.features["a"].pooled[[0]].toarray()[0], expected, atol=1e-5)


def test_a_tokenizer_without_a_start_token_starts_with_its_end_token() -> None:
    other = make_tokenizer()
    other.bos_token = None
    assert read_texts(other, [make_sae()], ["A lamp"]).rows[0][0] == other.eos_token_id == 2
    other.eos_token = None
    with pytest.raises(InputError, match="wants a start token"):
        read_texts(other, [make_sae()], ["A lamp"])


def test_centered_activations_have_no_mean_where_the_model_does_not_mind() -> None:
    plain = make_sae(name="a")
    # Reading without the mean is reading with directions that have none.
    balanced = plain.weights["W_enc"] - plain.weights["W_enc"].mean(dim=0)
    bias = plain.weights["b_dec"] - plain.weights["b_dec"].mean()
    plain = replace(plain, weights={**plain.weights, "b_dec": bias})
    centered = replace(plain, name="b", settings=replace(plain.settings, is_centered=True))
    same = replace(plain, name="c", weights={**plain.weights, "W_enc": balanced})
    found = extract_features(gpt2(), tokenizer("right"), [plain, centered, same], TEXTS)
    a, b, c = (found.features[name].pooled.toarray() for name in "abc")
    assert np.abs(a - b).max() > 0.01
    np.testing.assert_allclose(b, c, atol=1e-5)
    found = extract_features(llama(), tokenizer("right"), [plain, centered], TEXTS)
    np.testing.assert_array_equal(*(found.features[name].pooled.toarray() for name in "ab"))


# Pooling -----------------------------------------------------------------------------------------


def test_pooling_by_hand() -> None:
    tokens = csr_array(np.array([[0, 0], [1, 0], [3, 2], [0, 4], [0, 0]], dtype=np.float32))
    counts = [np.array([False, True, True]), np.array([True, False])]
    assert pool_tokens(tokens, counts, "last").toarray().tolist() == [[3, 2], [0, 4]]
    assert pool_tokens(tokens, counts, "max").toarray().tolist() == [[3, 2], [0, 4]]
    assert pool_tokens(tokens, counts, "mean").toarray().tolist() == [[2, 1], [0, 4]]
    nothing = csr_array((5, 2), dtype=np.float32)
    for pooling in ("last", "max", "mean"):
        assert pool_tokens(nothing, counts, pooling).toarray().tolist() == [[0, 0], [0, 0]]


# Reconstruction ----------------------------------------------------------------------------------


def test_a_perfect_sae_explains_all_and_one_that_gives_its_bias_almost_nothing() -> None:
    # Features for both signs of every dimension write exactly what they read.
    identity = torch.eye(96)
    weights = {
        "W_enc": torch.cat([identity, -identity], 1),
        "W_dec": torch.cat([identity, -identity]),
        "b_enc": torch.zeros(192),
        "b_dec": torch.zeros(96),
    }
    perfect = replace(make_sae(name="perfect", d_sae=192), weights=weights)
    blind = {**weights, "b_enc": torch.full((192,), -1e6)}
    saes = [perfect, replace(perfect, name="blind", weights=blind)]
    found = extract_features(llama(), tokenizer("right"), saes, TEXTS, batch_size=3)
    good, bad = (found.features[name].reconstruction for name in ("perfect", "blind"))
    assert good.explained_variance == pytest.approx(1, abs=1e-6)
    assert good.l0 == pytest.approx(96, abs=0.1)
    assert good.n_tokens == found.text_starts[-1]
    assert (bad.l0, bad.dead_share) == (0, 1)
    # Zeros are never better than the mean.
    assert bad.explained_variance <= 0


def test_explained_variance_l0_and_rates_are_those_of_all_tokens_at_once() -> None:
    sae = make_sae("topk", name="a", excluded_tokens=(START_ID,))
    found = extract_features(llama(), tokenizer("right"), [sae], TEXTS, batch_size=2)
    point = find_hook_point(llama(), sae.settings.hook_name)
    seen: list[torch.Tensor] = []
    for text in TEXTS:
        ids = tokenizer("left")(text, add_special_tokens=False)["input_ids"]
        with torch.inference_mode(), changed_at(llama(), point, lambda x: seen.append(x) or x):
            llama()(input_ids=torch.tensor([[START_ID, *ids]]))
    x = torch.cat([part[0, 1:] for part in seen])
    features = sae.encode(x)
    error = (x - sae.decode(features, x)).square().sum()
    expected = 1 - error / (x - x.mean(0)).square().sum()
    quality = found.features["a"].reconstruction
    assert quality.explained_variance == pytest.approx(expected.item(), abs=1e-5)
    np.testing.assert_allclose(quality.firing_rates, (features > 0).double().mean(0).numpy())
    assert quality.l0 == pytest.approx((features > 0).sum(1).double().mean().item())
    assert quality.dead_share == (features == 0).all(0).double().mean().item()


def test_activations_without_variance_have_no_explained_variance() -> None:
    sae = make_sae(name="a", hook_name="model.embed_tokens", prepends_start=False)
    found = extract_features(llama(), tokenizer("right"), [sae], ["!", "!"])
    assert np.isnan(found.features["a"].reconstruction.explained_variance)


# Bad input ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("saes", "texts", "said"),
    [
        ([], TEXTS, "expected SAEs with names of their own, found none"),
        ([make_sae(), make_sae()], TEXTS, "found 'sae' twice"),
        ([make_sae(d_in=64)], TEXTS, "expected a hook point of width 64, found 96 at blocks.1"),
        ([make_sae(hook_name="blocks.7.hook_resid_post")], TEXTS, "expected a hook point"),
        ([make_sae()], [], "expected at least one text"),
        ([make_sae()], ["A lamp", "  "], "expected words in every text, found none in text 1"),
        ([make_sae()], ["half \ud800"], "half of a surrogate pair"),
        ([make_sae(context_size=4)], TEXTS, "at most 4 tokens, the context .* found .* text 0"),
        ([make_sae(positions=(30, None))], ["A lamp"], "a token that counts for SAE 'sae'"),
        (
            [make_sae(name="a"), make_sae(name="b", prepends_start=False)],
            TEXTS,
            "'a' with a start token before every text and 'b' without",
        ),
    ],
)
def test_bad_input_is_refused_in_a_sentence(saes: Any, texts: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        extract_features(llama(), tokenizer("right"), saes, texts)


def test_unknown_centering_is_refused_where_it_matters() -> None:
    sae = make_sae(is_centered=None)
    with pytest.raises(InputError, match="SAE 'sae': expected to know whether its activations"):
        extract_features(gpt2(), tokenizer("right"), [sae], TEXTS)
    assert extract_features(llama(), tokenizer("right"), [sae], TEXTS).n_forward_passes == 1


def test_poolings_and_batches_that_do_not_exist_are_refused() -> None:
    with pytest.raises(UsageError, match="expected pooling last, max, mean, found 'sum'"):
        extract_features(llama(), tokenizer("right"), [make_sae()], TEXTS, pooling="sum")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="at least 1 text, found 0"):
        extract_features(llama(), tokenizer("right"), [make_sae()], TEXTS, batch_size=0)
