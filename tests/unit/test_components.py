"""Components of real models, read in one forward pass."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from whatchanged.demo import demo_path
from whatchanged.errors import UsageError
from whatchanged.models.component_model import ComponentModel, RankOneWeights
from whatchanged.models.components import ComponentCollector, Probe, linear_weights, pad_rows
from whatchanged.models.neurons import NeuronSource
from whatchanged.models.weight_delta import random_directions, weight_delta

ROWS = ([1, 40, 300, 7], [1, 12], [1, 900, 55, 1200, 33, 8, 640])
DOWN = "model.layers.1.mlp.down_proj"


@cache
def demo(name: str) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(demo_path(name), dtype=torch.float32).eval()


@cache
def demo_delta() -> ComponentModel:
    return weight_delta(demo("base"), demo("intervention"), n_directions=4)


def inputs_of(model: Any, site: str, row: list[int]) -> NDArray[np.float32]:
    """What enters a module on one text alone, `(n_tokens, width)`."""
    seen = []
    handle = model.get_submodule(site).register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    with torch.inference_mode():
        model(input_ids=torch.tensor([row]))
    handle.remove()
    return seen[0][0].numpy()


def collect(model: Any, *sources: Any, rows: Any = ROWS) -> dict[str, NDArray[np.float32]]:
    return ComponentCollector(model, sources).collect(*pad_rows(rows))


def changed(model: Any, layer: str, change: Any) -> Any:
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.get_submodule(layer).weight += torch.as_tensor(change, dtype=torch.float32)
    return other


class Latents:
    """A source that a later kind of component would be: an encoder of a layer's output."""

    def probes(self, model: Any) -> tuple[Probe, ...]:
        encoder = torch.linspace(-1, 1, 96 * 5).reshape(96, 5)
        return (
            Probe(
                "latents/1",
                "model.layers.1",
                "output",
                5,
                lambda residual: torch.relu(residual @ encoder),
            ),
        )


# Neurons -----------------------------------------------------------------------------------------


def test_neurons_of_a_gated_mlp_are_the_gate_times_the_other_branch() -> None:
    model = demo("base")
    found = collect(model, NeuronSource())
    assert list(found) == [f"neurons/model.layers.{i}.mlp" for i in range(3)]
    mlp = model.model.layers[2].mlp
    entering = torch.from_numpy(inputs_of(model, "model.layers.2.mlp.up_proj", ROWS[0]))
    gate = torch.nn.functional.silu(entering @ mlp.gate_proj.weight.T)
    expected = (gate * (entering @ mlp.up_proj.weight.T)).detach().numpy()
    neurons = found["neurons/model.layers.2.mlp"]
    assert neurons.shape == (3, 7, 256)
    assert neurons.dtype == np.float32
    # float32's usual tolerance, 1e-5 and 1.3e-6 of the value: these reach 5, and sums of 96 round
    # differently in a batch.
    torch.testing.assert_close(torch.from_numpy(neurons[0, :4]), torch.from_numpy(expected))


def tiny(family: str) -> Any:
    import transformers

    torch.manual_seed(0)
    sizes = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    wide = {**sizes, "intermediate_size": 24, "num_key_value_heads": 1}
    options: dict[str, dict[str, Any]] = {
        "GPT2": {"vocab_size": 64, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_inner": 24},
        "GPTNeoX": {**sizes, "intermediate_size": 24},
        "OPT": {**sizes, "ffn_dim": 24, "word_embed_proj_dim": 16},
        "Qwen2": wide,
        "Gemma": {**wide, "head_dim": 8},
        "Phi3": {**wide, "pad_token_id": 0},
    }
    config = getattr(transformers, f"{family}Config")(
        **options[family], bos_token_id=1, eos_token_id=2
    )
    return transformers.AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize("family", ["GPT2", "GPTNeoX", "OPT", "Qwen2", "Gemma", "Phi3"])
def test_neurons_are_found_in_the_usual_architectures(family: str) -> None:
    found = collect(tiny(family), NeuronSource(), rows=([1, 2, 3], [4, 5]))
    assert [block.shape for block in found.values()] == [(2, 3, 24), (2, 3, 24)]


def test_neurons_of_a_plain_mlp_are_its_activation_after_the_first_projection() -> None:
    model = tiny("GPT2")
    found = collect(model, NeuronSource(), rows=([1, 2, 3],))
    entering = torch.from_numpy(inputs_of(model, "transformer.h.0.mlp.c_fc", [1, 2, 3]))
    fc = model.transformer.h[0].mlp.c_fc
    expected = torch.nn.functional.gelu(entering @ fc.weight + fc.bias, approximate="tanh")
    neurons = found["neurons/transformer.h.0.mlp"][0]
    assert neurons == pytest.approx(expected.detach().numpy(), abs=1e-6)


def test_a_model_without_mlps_is_refused() -> None:
    model = copy.deepcopy(demo("base"))
    for layer in model.model.layers:
        layer.mlp = torch.nn.Identity()
    with pytest.raises(UsageError, match="expected MLPs"):
        ComponentCollector(model, [NeuronSource()])


# Weight-delta directions -------------------------------------------------------------------------


def test_a_planted_rank_one_change_is_found_with_its_scale_and_its_sign() -> None:
    base = demo("base")
    reads, writes = np.zeros(256), np.zeros(96)
    # The largest entry of v is negative as planted, so both vectors turn round.
    reads[[3, 200]], writes[[1, 5]] = (0.6, -0.8), (1.0, 0.0)
    delta = weight_delta(base, changed(base, DOWN, 2.5 * np.outer(writes, reads)))
    assert list(delta.weights) == [DOWN]
    found = delta.weights[DOWN]
    assert found.n_components == 1
    assert found.reads[[3, 200], 0] == pytest.approx([-1.5, 2.0], abs=1e-5)
    assert found.writes[1, 0] == pytest.approx(-1.0, abs=1e-5)
    entering = inputs_of(base, DOWN, ROWS[1])
    activation = collect(base, delta)[f"weight_delta/{DOWN}"]
    assert activation.shape == (3, 7, 1)
    expected = 2.0 * entering[:, 200] - 1.5 * entering[:, 3]
    assert activation[1, :2, 0] == pytest.approx(expected, abs=1e-4)


def test_a_change_of_a_conv1d_is_read_the_right_way_round() -> None:
    base = tiny("GPT2")
    change = np.zeros((16, 24))  # GPT-2 stores (in, out)
    change[2, 7] = 3.0
    delta = weight_delta(base, changed(base, "transformer.h.1.mlp.c_fc", change))
    (found,) = delta.weights.values()
    assert (found.reads.shape, found.writes.shape) == ((16, 1), (24, 1))
    assert found.reads[2, 0] == pytest.approx(3.0, abs=1e-6)
    assert found.writes[7, 0] == pytest.approx(1.0, abs=1e-6)


def test_all_directions_together_are_the_change() -> None:
    base, intervention = demo("base"), demo("intervention")
    delta = weight_delta(base, intervention, n_directions=96)
    before, after = linear_weights(base), linear_weights(intervention)
    for layer in ("lm_head", "model.layers.0.self_attn.k_proj", DOWN):
        parts = delta.weights[layer]
        change = (after[layer] - before[layer]).numpy()
        assert parts.writes @ parts.reads.T == pytest.approx(change, abs=1e-4)


def test_directions_are_those_of_a_full_decomposition_strongest_first() -> None:
    change = linear_weights(demo("intervention"))[DOWN] - linear_weights(demo("base"))[DOWN]
    expected = np.linalg.svd(change.numpy(), compute_uv=False)[:4]
    scales = np.linalg.norm(demo_delta().weights[DOWN].reads, axis=0)
    assert scales == pytest.approx(expected, rel=0.02)
    assert (np.diff(scales) < 0).all()


def test_equal_seeds_give_equal_directions() -> None:
    again = weight_delta(demo("base"), demo("intervention"), n_directions=4)
    for layer, parts in demo_delta().weights.items():
        assert (again.weights[layer].reads == parts.reads).all()


def test_equal_models_have_no_directions() -> None:
    assert weight_delta(demo("base"), demo("base")).weights == {}


def test_a_vocabulary_that_grew_is_compared_over_the_shared_rows() -> None:
    base = tiny("Qwen2")
    grown = copy.deepcopy(base)
    grown.resize_token_embeddings(70, mean_resizing=False)
    assert weight_delta(base, grown).weights == {}


@pytest.mark.parametrize("n_directions", [0, -1])
def test_no_directions_cannot_be_asked_for(n_directions: int) -> None:
    with pytest.raises(UsageError, match="n_directions of at least 1"):
        weight_delta(demo("base"), demo("base"), n_directions=n_directions)


def test_models_of_two_architectures_have_no_difference() -> None:
    with pytest.raises(UsageError, match="only one has"):
        weight_delta(tiny("GPT2"), tiny("OPT"))


def test_weights_that_are_not_finite_are_refused() -> None:
    broken = changed(demo("base"), DOWN, np.full((96, 256), np.nan))
    with pytest.raises(UsageError, match=f"NaN or infinite ones in '{DOWN}'"):
        weight_delta(demo("base"), broken)


def test_random_directions_are_as_many_and_as_long() -> None:
    control = random_directions(demo_delta(), seed=3)
    assert list(control.weights) == list(demo_delta().weights)
    found, like = (np.linalg.norm(s.weights[DOWN].reads, axis=0) for s in (control, demo_delta()))
    assert found == pytest.approx(like, rel=1e-5)
    cosines = (control.weights[DOWN].reads * demo_delta().weights[DOWN].reads).sum(0) / found**2
    assert np.abs(cosines).max() < 0.3


# Component models --------------------------------------------------------------------------------


def test_a_component_model_whose_sum_is_the_weight_has_no_residual() -> None:
    model = demo("base")
    weight = linear_weights(model)[DOWN].numpy()
    whole = RankOneWeights(np.eye(256, dtype=np.float32), weight)
    half = RankOneWeights(np.eye(256, dtype=np.float32), weight / 2)
    assert ComponentModel({DOWN: whole}).residuals(model) == {DOWN: 0.0}
    assert ComponentModel({DOWN: half}).residuals(model)[DOWN] == pytest.approx(0.5)
    found = collect(model, ComponentModel({DOWN: whole}))[f"components/{DOWN}"]
    assert found[2] == pytest.approx(inputs_of(model, DOWN, ROWS[2]), rel=2e-6, abs=1e-5)


def test_components_of_another_model_are_refused() -> None:
    parts = RankOneWeights(np.zeros((8, 2), np.float32), np.zeros((4, 2), np.float32))
    with pytest.raises(UsageError, match=r"of shape \(4, 8\).*one of \(96, 256\)"):
        ComponentCollector(demo("base"), [ComponentModel({DOWN: parts})])
    with pytest.raises(UsageError, match="no such layer"):
        ComponentCollector(demo("base"), [ComponentModel({"model.layers.9": parts})])


def test_rank_one_weights_must_fit_each_other_and_be_finite() -> None:
    with pytest.raises(UsageError, match="expected reads"):
        RankOneWeights(np.zeros((8, 2), np.float32), np.zeros((4, 3), np.float32))
    with pytest.raises(UsageError, match="finite"):
        RankOneWeights(np.full((8, 1), np.inf, np.float32), np.zeros((4, 1), np.float32))


# Collecting --------------------------------------------------------------------------------------


def test_all_sources_are_read_in_one_forward_pass_in_their_order() -> None:
    model = demo("intervention")
    n_passes = []
    handle = model.register_forward_pre_hook(lambda *_: n_passes.append(1))
    found = collect(model, Latents(), demo_delta(), NeuronSource())
    handle.remove()
    assert len(n_passes) == 1
    names = list(found)
    assert names[0] == "latents/1"
    assert names[1] == "weight_delta/model.layers.0.self_attn.q_proj"
    assert names[-1] == "neurons/model.layers.2.mlp"
    assert found["latents/1"].shape == (3, 7, 5)
    alone = collect(model, NeuronSource())
    assert (alone[names[-1]] == found[names[-1]]).all()


def test_a_text_has_the_same_activations_whatever_its_batch_and_padding() -> None:
    collector = ComponentCollector(demo("base"), [NeuronSource(), demo_delta()])
    ids, mask = pad_rows(ROWS)
    right = collector.collect(ids, mask)
    left = collector.collect(
        np.stack([np.roll(row, 7 - n) for row, n in zip(ids, mask.sum(1), strict=True)]),
        mask[:, ::-1],
    )
    for row, tokens in enumerate(ROWS):
        n = len(tokens)
        alone = collector.collect(*pad_rows([tokens]))
        for name, block in alone.items():
            assert right[name][row, :n] == pytest.approx(block[0], abs=1e-4)
            assert left[name][row, -n:] == pytest.approx(block[0], abs=1e-4)


@pytest.mark.parametrize("n_texts", [1, 128])
def test_a_batch_may_hold_one_text_or_many(n_texts: int) -> None:
    found = collect(demo("base"), demo_delta(), rows=[ROWS[0]] * n_texts)
    assert found["weight_delta/lm_head"].shape == (n_texts, 4, 4)


def test_the_head_is_read_at_every_place() -> None:
    found = collect(demo("base"), demo_delta())["weight_delta/lm_head"][2]
    entering = inputs_of(demo("base"), "lm_head", ROWS[2])
    assert found == pytest.approx(entering @ demo_delta().weights["lm_head"].reads, abs=1e-3)


def test_no_hook_outlives_a_pass_even_one_that_fails() -> None:
    class Wrong:
        def probes(self, model: Any) -> tuple[Probe, ...]:
            return (Probe("wrong", "model.layers.0", "output", 7, lambda x: x),)

    model = copy.deepcopy(demo("base"))
    with pytest.raises(UsageError, match=r"wrong: expected activations of shape \(3, 7, 7\)"):
        collect(model, NeuronSource(), Wrong())
    collect(model, NeuronSource(), demo_delta())
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    assert sum(hooks) == 0


def test_two_sources_of_one_name_are_refused() -> None:
    with pytest.raises(UsageError, match=r"'neurons/model\.layers\.0\.mlp' twice"):
        ComponentCollector(demo("base"), [NeuronSource(), NeuronSource()])


def test_batches_that_the_model_cannot_read_are_refused() -> None:
    collector = ComponentCollector(demo("base"), [NeuronSource()])
    ids, mask = pad_rows(ROWS)
    with pytest.raises(UsageError, match=r"one shape.*\(3, 7\) and \(3, 6\)"):
        collector.collect(ids, mask[:, :6])
    with pytest.raises(UsageError, match="found none in row 1"):
        collector.collect(ids, mask & (np.arange(3) != 1)[:, None])
    with pytest.raises(UsageError, match=r"0 to 2047, found 1 to 2048"):
        collector.collect(*pad_rows([[1, 2048]]))
    with pytest.raises(UsageError, match=r"at most 256 tokens.*found 257"):
        collector.collect(*pad_rows([[1] * 257]))
    with pytest.raises(UsageError, match="both at least 1"):
        collector.collect(*pad_rows([]))


def test_a_site_that_does_not_exist_is_refused() -> None:
    class Lost:
        def probes(self, model: Any) -> tuple[Probe, ...]:
            return (Probe("lost", "model.layers.9", "output", 1, lambda x: x),)

    with pytest.raises(UsageError, match=r"'model\.layers\.9' in LlamaForCausalLM, found none"):
        ComponentCollector(demo("base"), [Lost()])
