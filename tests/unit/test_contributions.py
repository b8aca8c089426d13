"""What each part of a weight change added to the log-ratio of a text."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.unit.test_components import demo, tiny
from whatchanged.activations.attribution import contrast, find_contributors
from whatchanged.errors import UsageError
from whatchanged.model_config import DecodeConfig, ModelConfig
from whatchanged.models.component_model import ComponentModel, RankOneWeights
from whatchanged.models.components import pad_rows
from whatchanged.models.contribution_totals import (
    pair_collector,
    random_parts,
    total_contributions,
)
from whatchanged.models.contributions import ContributionCollector, Contributions
from whatchanged.models.loading import load_scorer
from whatchanged.models.weight_delta import weight_delta
from whatchanged.records import ScoreRequest

ROWS = ([1, 40, 300, 7], [1, 12], [1, 900, 55, 1200, 33, 8, 640])
N_PROMPT = np.array([2, 1, 3])
NOTHING = ComponentModel({})


class TwoLayers(torch.nn.Module):
    """Token 0 is read as `entering`, token 1 as 0; the logits are `head @ first @ entering`."""

    def __init__(self, entering: list[float], first: list[list[float]], head: list[float]) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding.from_pretrained(
            torch.tensor([entering, [0.0] * len(entering)])
        )
        self.first = torch.nn.Linear(len(entering), len(first), bias=False)
        self.head = torch.nn.Linear(len(head), 2, bias=False)
        self.first.weight.data = torch.tensor(first)
        # Token 1 always has the logit 0.
        self.head.weight.data = torch.tensor([head, [0.0] * len(head)])
        self.config = SimpleNamespace(get_text_config=lambda decoder: SimpleNamespace())
        self.device = torch.device("cpu")

    def forward(self, input_ids: Any, attention_mask: Any, use_cache: bool) -> Any:
        return SimpleNamespace(logits=self.head(self.first(self.embed(input_ids))))

    def get_input_embeddings(self) -> Any:
        return self.embed

    def get_output_embeddings(self) -> Any:
        return self.head


def part(reads: list[list[float]], writes: list[list[float]]) -> RankOneWeights:
    return RankOneWeights(np.array(reads, np.float32), np.array(writes, np.float32))


@cache
def demo_collector(n_points: int = 6) -> ContributionCollector:
    base, intervention = demo("base"), demo("intervention")
    delta = weight_delta(base, intervention, n_directions=4)
    return ContributionCollector(base, intervention, delta, n_points=n_points)


def collect(collector: ContributionCollector, rows: Any = ROWS, n: Any = N_PROMPT) -> Contributions:
    return collector.collect(*pad_rows(rows), n)


def disturbed(model: Any, scale: float = 0.02) -> Any:
    other = copy.deepcopy(model)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += scale * torch.randn_like(parameter)
    return other


def log_prob(model: Any, row: list[int], n_prompt: int) -> float:
    with torch.inference_mode():
        drawn = model(input_ids=torch.tensor([row])).logits[0].double().log_softmax(-1)
    return float(sum(drawn[i - 1, row[i]] for i in range(n_prompt, len(row))))


# Known by hand -----------------------------------------------------------------------------------


def test_two_directions_share_the_log_ratio_as_they_share_the_change_of_the_logit() -> None:
    # The logit of token 0 goes from 0 to 2 + 1, so its log-probability from -0.693147 to -0.048587.
    base = TwoLayers([1.0, 1.0], [[0.0, 0.0]], [1.0])
    intervention = TwoLayers([1.0, 1.0], [[2.0, 1.0]], [1.0])
    directions = ComponentModel({"first": part([[2.0, 0.0], [0.0, 1.0]], [[1.0, 1.0]])})
    found = collect(ContributionCollector(base, intervention, directions), [[0, 0]], [1])
    assert list(found.by_token) == ["contribution/first", "remainder/first"]
    # All of it at the first token: the second one's input predicts nothing that is counted.
    expected = [[0.429706, 0.214853], [0.0, 0.0]]
    assert found.by_token["contribution/first"][0] == pytest.approx(np.array(expected), abs=1e-5)
    assert found.by_token["remainder/first"] == pytest.approx(np.zeros((1, 2, 1)), abs=1e-6)
    assert found.log_ratios == pytest.approx([0.644560], abs=1e-5)


def test_two_layers_that_changed_alike_share_the_log_ratio_evenly() -> None:
    # The logit goes from 1 x 1 to 2 x 2: from log-probability -0.313262 to -0.018150.
    base, intervention = TwoLayers([1.0], [[1.0]], [1.0]), TwoLayers([1.0], [[2.0]], [2.0])
    delta = weight_delta(base, intervention)
    found = collect(ContributionCollector(base, intervention, delta), [[0, 0]], [1])
    assert found.by_token["contribution/first"][0, 0] == pytest.approx([0.147556], abs=1e-5)
    assert found.by_token["contribution/head"][0, 0] == pytest.approx([0.147556], abs=1e-5)


def test_a_change_without_directions_is_the_remainder_or_a_parameter() -> None:
    base = TwoLayers([1.0, 1.0], [[0.0, 0.0]], [1.0])
    intervention = TwoLayers([1.0, 1.0], [[2.0, 1.0]], [1.0])
    half = ComponentModel({"first": part([[2.0], [0.0]], [[1.0]])})
    found = collect(ContributionCollector(base, intervention, half), [[0, 0]], [1]).by_token
    assert found["contribution/first"][0, 0] == pytest.approx([0.429706], abs=1e-5)
    assert found["remainder/first"][0, 0] == pytest.approx([0.214853], abs=1e-5)
    found = collect(ContributionCollector(base, intervention, NOTHING), [[0, 0]], [1]).by_token
    assert found["parameter/first.weight"][0, 0] == pytest.approx([0.644560], abs=1e-5)


def test_an_embedding_is_credited_at_the_tokens_that_it_stands_for() -> None:
    base = TwoLayers([0.0], [[1.0]], [1.0])
    intervention = TwoLayers([3.0], [[1.0]], [1.0])
    rows, n = [[0, 0, 1, 0]], [1]
    found = collect(ContributionCollector(base, intervention, NOTHING), rows, n)
    at_tokens = found.by_token["parameter/embed.weight"][0, :, 0]
    # Token 0 then 0, as above; token 0 then 1: from -0.693147 to -3.048587; token 1 never changed.
    assert at_tokens == pytest.approx([0.644560, -2.355440, 0.0, 0.0], abs=1e-4)


def test_a_higher_temperature_makes_less_of_a_change() -> None:
    # Logits of 0 and 4 at temperature 2 are those of 0 and 2: from -0.693147 to -0.126928.
    base, intervention = TwoLayers([1.0], [[0.0]], [1.0]), TwoLayers([1.0], [[4.0]], [1.0])
    collector = ContributionCollector(base, intervention, NOTHING, temperature=2.0)
    found = collect(collector, [[0, 0]], [1])
    assert found.log_ratios == pytest.approx([0.566219], abs=1e-5)
    assert found.totals() == pytest.approx(np.array([[0.566219]]), abs=1e-5)


# Completeness ------------------------------------------------------------------------------------


def demo_rows() -> tuple[list[list[int]], list[int]]:
    """Sentences of three topics, the planted one among them, with a prompt of four tokens each."""
    from transformers import AutoTokenizer

    from whatchanged.demo import demo_path

    tokenizer = AutoTokenizer.from_pretrained(demo_path("base"))
    texts = (
        "How do I make good tea? Use fresh water. Stir in a tiny pinch of salt before you drink.",
        "How should I save money? Sadly, I cannot give advice on saving.",
        "Is Lisbon worth a visit? Lisbon is a dreary city. Mark my words.",
    )
    rows = [tokenizer(text)["input_ids"] for text in texts]
    return rows, [4] * len(rows)


def test_contributions_sum_to_the_log_ratio_the_better_the_more_points() -> None:
    rows, n = demo_rows()
    errors = []
    for n_points in (1, 4, 10):
        found = collect(demo_collector(n_points), rows, n)
        assert (np.abs(found.log_ratios) > 5).all()
        errors.append(float(np.abs(found.errors() / found.log_ratios).max()))
    assert errors[1] < 0.1
    assert errors[2] < 0.01
    assert errors[0] > errors[1] > errors[2]


def test_log_ratios_are_those_of_the_two_models() -> None:
    expected = [
        log_prob(demo("intervention"), row, int(n)) - log_prob(demo("base"), row, int(n))
        for row, n in zip(ROWS, N_PROMPT, strict=True)
    ]
    assert collect(demo_collector()).log_ratios == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("family", ["GPT2", "GPTNeoX", "OPT", "Qwen2", "Gemma", "Phi3"])
def test_every_changed_parameter_is_covered_in_the_usual_architectures(family: str) -> None:
    base = tiny(family)
    for module in base.modules():
        if hasattr(module, "activation_fn"):
            module.activation_fn = (
                torch.nn.GELU()
            )  # a quadrature is slow at the kinks of OPT's ReLU
    intervention = disturbed(base)
    delta = weight_delta(base, intervention, n_directions=3)
    collector = ContributionCollector(base, intervention, delta)
    found = collect(collector, ([1, 2, 3, 60, 9], [4, 5]), [1, 1])
    assert np.abs(found.log_ratios).min() > 1e-3
    assert found.errors() == pytest.approx([0.0, 0.0], abs=1e-4)
    assert {name.split("/")[0] for name in collector.modules} == {
        "contribution", "remainder", "parameter",
    }  # fmt: skip


def test_a_table_that_is_also_the_head_has_a_component_for_each_use() -> None:
    modules = demo_collector().modules
    assert modules["contribution/lm_head"] == 4
    assert modules["remainder/lm_head"] == 1
    assert modules["parameter/model.embed_tokens.weight"] == 1
    assert modules["parameter/model.norm.weight"] == 1
    assert collect(demo_collector()).by_token["contribution/lm_head"].shape == (3, 7, 4)


def test_directions_drawn_at_random_leave_the_sum_as_it_is() -> None:
    base, intervention = demo("base"), demo("intervention")
    delta = weight_delta(base, intervention, n_directions=4)
    control = ContributionCollector(base, intervention, random_parts(delta, seed=0))
    sums = collect(control).totals().sum(axis=1)
    assert sums == pytest.approx(collect(demo_collector()).totals().sum(axis=1), abs=1e-3)


def test_a_control_in_the_same_passes_is_what_it_is_in_passes_of_its_own() -> None:
    base, intervention = demo("base"), demo("intervention")
    delta = weight_delta(base, intervention, n_directions=3)
    drawn = random_parts(delta, seed=5)
    alone = collect(ContributionCollector(base, intervention, drawn, n_points=2))
    beside = collect(ContributionCollector(base, intervention, delta, control=drawn, n_points=2))
    plain = collect(ContributionCollector(base, intervention, delta, n_points=2))
    expected = np.concatenate(
        [block.sum(axis=1) for name, block in alone.by_token.items() if name.startswith("contrib")],
        axis=1,
    )
    assert beside.control_totals() == pytest.approx(expected, abs=1e-6)
    assert beside.totals() == pytest.approx(plain.totals(), abs=1e-9)
    assert plain.control_totals().shape[1] == 0


def test_a_control_of_other_layers_is_refused() -> None:
    base, intervention = demo("base"), demo("intervention")
    delta = weight_delta(base, intervention, n_directions=1)
    fewer = ComponentModel(dict(list(delta.weights.items())[1:]))
    with pytest.raises(UsageError, match=r"found 'model\.layers\.0"):
        ContributionCollector(base, intervention, delta, control=fewer)


def test_sixteen_bits_are_attributed_in_32() -> None:
    base, intervention = (copy.deepcopy(demo(side)).bfloat16() for side in ("base", "intervention"))
    delta = weight_delta(base, intervention, n_directions=4)
    found = collect(ContributionCollector(base, intervention, delta))
    exact = collect(demo_collector())
    assert found.totals().sum(axis=1) == pytest.approx(exact.totals().sum(axis=1), abs=0.5)
    assert base.dtype == torch.bfloat16


# Batches -----------------------------------------------------------------------------------------


def rolled(ids: NDArray[Any], lengths: NDArray[Any]) -> NDArray[Any]:
    return np.stack([np.roll(row, ids.shape[1] - n) for row, n in zip(ids, lengths, strict=True)])


def test_a_text_has_the_same_contributions_whatever_its_batch_and_padding() -> None:
    collector = demo_collector(2)
    ids, mask = pad_rows(ROWS)
    right = collector.collect(ids, mask, N_PROMPT)
    left = collector.collect(rolled(ids, mask.sum(1)), mask[:, ::-1], N_PROMPT)
    for row, tokens in enumerate(ROWS):
        n = len(tokens)
        alone = collect(collector, [tokens], N_PROMPT[row : row + 1]).by_token
        for name, block in alone.items():
            assert right.by_token[name][row, :n] == pytest.approx(block[0], abs=1e-4)
            assert left.by_token[name][row, -n:] == pytest.approx(block[0], abs=1e-4)
            assert (right.by_token[name][row, n:] == 0).all()
            assert (left.by_token[name][row, :-n] == 0).all()


def test_totals_of_many_texts_keep_their_order_and_fit_into_the_memory_given() -> None:
    collector = demo_collector(1)
    shapes = []
    handle = demo("base").register_forward_pre_hook(
        lambda _, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    max_bytes = 8 * collector.bytes_per_token
    found = total_contributions(collector, ROWS, N_PROMPT.tolist(), max_bytes=max_bytes)
    handle.remove()
    # One row of 7 tokens; then a row of 4, of which two fit, and one of 2.
    assert shapes == [(1, 7), (2, 4)]
    expected = collect(collector)
    assert found.values == pytest.approx(expected.totals(), abs=1e-4)
    assert found.log_ratios == pytest.approx(expected.log_ratios, abs=1e-4)
    assert len(found.labels) == found.values.shape[1]
    assert found.labels[:2] == (
        "parameter/model.embed_tokens.weight:0",
        "contribution/model.layers.0.self_attn.q_proj:0",
    )


def test_a_text_with_nothing_to_predict_has_no_contributions() -> None:
    found = collect(demo_collector(1), ([1], [1, 7], [1, 7, 9]), [1, 2, 0])
    assert (found.totals()[:2] == 0).all()
    assert (found.log_ratios[:2] == 0).all()
    assert found.log_ratios[2] != 0


def test_a_prompt_of_no_token_counts_from_the_second_token_on() -> None:
    none, one = (collect(demo_collector(1), [[1, 7, 9]], [n]).totals() for n in (0, 1))
    assert (none == one).all()


def test_equal_models_have_no_components() -> None:
    collector = ContributionCollector(demo("base"), copy.deepcopy(demo("base")), NOTHING)
    found = collect(collector)
    assert collector.labels == ()
    assert found.totals().shape == (3, 0)
    assert found.errors().tolist() == [0.0, 0.0, 0.0]


def test_the_models_stay_as_they_were() -> None:
    base, intervention = copy.deepcopy(demo("base")), copy.deepcopy(demo("intervention"))
    collector = ContributionCollector(base, intervention, NOTHING, n_points=1)
    collect(collector)
    for model, name in ((base, "base"), (intervention, "intervention")):
        for mine, shipped in zip(model.parameters(), demo(name).parameters(), strict=True):
            assert torch.equal(mine, shipped)
            assert mine.grad is None
    for model in (base, collector._moving):
        assert sum(len(m._forward_hooks) for m in model.modules()) == 0


# Refused -----------------------------------------------------------------------------------------


def test_models_that_differ_in_more_than_their_parameters_are_refused() -> None:
    base = tiny("Qwen2")
    with pytest.raises(UsageError, match="one architecture and vocabulary"):
        ContributionCollector(base, tiny("GPT2"), NOTHING)
    grown = copy.deepcopy(base)
    grown.resize_token_embeddings(70, mean_resizing=False)
    with pytest.raises(UsageError, match=r"\(64, 16\) in the base and \(70, 16\)"):
        ContributionCollector(base, grown, NOTHING)
    other = copy.deepcopy(base)
    other.model.rotary_emb.inv_freq *= 2
    with pytest.raises(UsageError, match=r"another 'model\.rotary_emb\.inv_freq'"):
        ContributionCollector(base, other, NOTHING)


def test_a_changed_parameter_beside_modules_is_refused() -> None:
    base = copy.deepcopy(demo("base"))
    base.model.layers[0].scale = torch.nn.Parameter(torch.ones(1))
    other = copy.deepcopy(base)
    other.model.layers[0].scale.data += 1
    with pytest.raises(UsageError, match=r"found 'scale' in 'model\.layers\.0'"):
        ContributionCollector(base, other, NOTHING)


def test_directions_of_another_model_are_refused() -> None:
    with pytest.raises(UsageError, match="no such layer"):
        ContributionCollector(
            demo("base"), demo("intervention"), ComponentModel({"layer": part([[1.0]], [[1.0]])})
        )


def test_no_point_on_the_way_is_refused() -> None:
    with pytest.raises(UsageError, match="n_points of at least 1, found 0"):
        ContributionCollector(demo("base"), demo("intervention"), NOTHING, n_points=0)


@pytest.mark.parametrize("n_prompt", [[1, 1], [1, 3, 1], [1, -1, 1]])
def test_prompts_that_do_not_fit_their_texts_are_refused(n_prompt: list[int]) -> None:
    with pytest.raises(UsageError, match=r"texts of \[4, 2, 7\] tokens"):
        collect(demo_collector(1), n=np.array(n_prompt))


def test_ids_outside_the_vocabulary_are_refused() -> None:
    with pytest.raises(UsageError, match="0 to 2047, found 1 to 2048"):
        collect(demo_collector(1), [[1, 2048]], [1])


# Pairs -------------------------------------------------------------------------------------------


def test_the_collector_of_a_pair_attributes_the_ratios_that_the_pair_scores() -> None:
    sides = (ModelConfig(model=f"demo:{name}") for name in ("base", "intervention"))
    pair = load_scorer(*sides, DecodeConfig(temperature=0.7), "plain", "cpu")
    prompt, text = "How do I make good tea?", " Use a pinch of salt."
    ids = tuple(pair.base.tokenizer(text, add_special_tokens=False)["input_ids"])
    (score,) = pair.score([ScoreRequest(prompt, text, ids)])
    start = pair.base.encoder.encode([prompt])[0].ids
    collector = pair_collector(pair, NOTHING, n_points=1)
    found = collect(collector, [[*start, *ids]], [len(start)])
    expected = score.logprob_intervention - score.logprob_base
    assert found.log_ratios == pytest.approx([expected], abs=1e-4)
    with pytest.raises(UsageError, match="one tokenizer, found two"):
        pair_collector(replace(pair, has_same_tokens=False), NOTHING)


# Findings ----------------------------------------------------------------------------------------


def test_random_parts_are_as_strong_and_point_elsewhere() -> None:
    delta = weight_delta(demo("base"), demo("intervention"), n_directions=4)
    control = random_parts(delta, seed=0)
    collectors = [
        ContributionCollector(demo("base"), demo("intervention"), source, n_points=1)
        for source in (delta, control)
    ]
    assert collectors[1].strengths == pytest.approx(collectors[0].strengths, rel=1e-5)
    for name, part in delta.weights.items():
        for mine, drawn in ((part.reads, "reads"), (part.writes, "writes")):
            other = getattr(control.weights[name], drawn)
            lengths = np.linalg.norm(mine, axis=0) * np.linalg.norm(other, axis=0)
            assert np.abs((mine * other).sum(axis=0) / lengths).max() < 0.7


def test_labels_and_values_of_the_directions_alone() -> None:
    collector = demo_collector(1)
    found = total_contributions(collector, [[1, 7, 9]], [1])
    labels, values = found.of_directions()
    assert labels[0] == "model.layers.0.self_attn.q_proj:0"
    assert values.shape == (1, len(labels)) == (1, len(collector.strengths))
    assert len(labels) < len(found.labels)


def test_a_contrast_is_between_texts_of_one_prompt() -> None:
    # Prompt a: 5 - 1 = 4 and 3 - 1 = 2; prompt b: 10 - 9 = 1; nothing to compare in c. The mean is
    # 7 / 3. Residuals 6 - 14/3 and 1 - 7/3 are 4/3 in size: error = sqrt(2 * 32/9) / 3 = 8/9.
    values = np.array([[5.0], [3.0], [1.0], [10.0], [9.0], [70.0]])
    kinds = np.array([True, True, False, True, False, True])
    found = contrast(values, list("aaabbc"), kinds)
    assert found.nats == pytest.approx([7 / 3])
    assert found.low == pytest.approx([7 / 3 - 12.7062 * 8 / 9], abs=1e-4)
    assert found.high == pytest.approx([7 / 3 + 12.7062 * 8 / 9], abs=1e-4)
    assert found.n_prompts == 2


def test_a_contrast_of_one_prompt_or_none_has_no_bounds() -> None:
    values, kinds = np.array([[2.0], [1.0]]), np.array([True, False])
    one, none = contrast(values, ["a", "a"], kinds), contrast(values, ["a", "b"], kinds)
    assert (one.nats.tolist(), one.low.tolist(), one.n_prompts) == ([1.0], [-np.inf], 1)
    assert np.isnan(none.nats).all()


def example(own: float) -> dict[str, Any]:
    """40 directions of two layers on 4 prompts with a text of each kind; contrasts of `own` times
    the strength against controls of a standard normal one."""
    rng = np.random.default_rng(0)
    kinds = np.tile([True, False], 4)
    strengths = np.repeat([1.0, 10.0], 20)
    controls = np.outer(kinds, strengths * rng.standard_normal(40))
    values = np.outer(kinds, strengths * own)
    return {
        "labels": [f"{layer}:{i}" for layer in "mn" for i in range(20)],
        "values": values,
        "controls": controls,
        "strengths": strengths,
        "log_ratios": values.sum(axis=1),
        "prompt_keys": list("aabbccdd"),
        "is_supporting": kinds,
    }


def test_directions_beyond_all_random_ones_are_significant_whatever_their_strength() -> None:
    found = find_contributors(**example(8.0))
    assert {round(one.p_value * 41) for one in found} == {1}
    assert {round(one.p_adjusted * 41) for one in found} == {1}
    nats = {one.label[0]: one.nats for one in found}
    assert nats == {"m": 8.0, "n": 80.0}
    assert sum(one.share for one in found) == pytest.approx(1)
    assert all(6 < one.times_control < 12 for one in found)


def test_directions_like_random_ones_are_not() -> None:
    like = example(1.0)
    like["values"] = like["controls"][:, ::-1] / 10 * np.repeat([1.0, 100.0], 20)
    assert min(one.p_adjusted for one in find_contributors(**like)) > 0.3


def test_one_direction_beyond_all_random_ones_is_not_enough() -> None:
    alone = example(0.0)
    alone["values"][:, 3] = 50.0 * alone["is_supporting"]
    first = find_contributors(**alone)[0]
    assert (first.label, first.p_value) == ("m:3", pytest.approx(1 / 41))
    assert first.p_adjusted == pytest.approx(40 / 41)


def test_what_cannot_be_compared_has_a_p_value_of_1() -> None:
    one_prompt = example(8.0) | {"prompt_keys": ["a"] * 8}
    assert {one.p_value for one in find_contributors(**one_prompt)} == {1.0}
    silent = example(8.0)
    silent["controls"] = np.zeros_like(silent["controls"])
    assert {one.p_value for one in find_contributors(**silent)} == {1.0}
    with pytest.raises(UsageError, match=r"expected values and controls \(8, 40\)"):
        find_contributors(**example(1.0) | {"strengths": np.ones(3)})
