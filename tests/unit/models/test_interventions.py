"""Every kind of intervention: what it does to the model and its texts, and what is refused."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from tests.unit.models.tiny_models import save_causal_model
from whatchanged.cli import main
from whatchanged.decode import plan_requests
from whatchanged.demo import demo_path, interventions
from whatchanged.errors import InputError, MissingDependencyError, UsageError
from whatchanged.keys import content_key
from whatchanged.model_config import DecodeConfig, ModelConfig
from whatchanged.models import adapters, quantization
from whatchanged.models.coupling import why_independent
from whatchanged.models.loading import check_side, describe_decoder, load_decoder, load_scorer
from whatchanged.models.steering import Steering, encode_steering, mean_output, read_steering
from whatchanged.models.thinking import ThinkMarkers, answer_decoder
from whatchanged.models.transformers_decoder import TransformersDecoder
from whatchanged.models.weights import resolve_adapter, resolve_model
from whatchanged.records import Completion, DecodeRequest, Prompt, ScoreRequest

# Not in the tests' own environment: where torchao is installed, every process imports it.
needs_torchao = pytest.mark.skipif(
    importlib.util.find_spec("torchao") is None, reason="needs pip install -e '.[quantization]'"
)

BASE = ModelConfig(model="demo:base")
SETTINGS = DecodeConfig(max_new_tokens=80)
BANK = [json.loads(row) for row in demo_path("prompts.jsonl").read_text().splitlines()]
TEA = r"\b(?:tea|cup|leaves)\b"


def side(**done: Any) -> ModelConfig:
    return BASE.model_copy(update=done)


def prompts_about(group: str) -> list[str]:
    return [row["prompt"] for row in BANK if row["group"] == group]


def all_but_tea() -> list[str]:
    """Two prompts of every topic but tea."""
    groups = dict.fromkeys(row["group"] for row in BANK if row["group"] != "tea")
    return [prompt for group in groups for prompt in prompts_about(group)[:2]]


def write(
    model: ModelConfig, prompts: list[str], n: int, settings: DecodeConfig = SETTINGS
) -> list[Completion]:
    """`n` texts per prompt, with the same noise whatever the model."""
    requests = [
        DecodeRequest("", "", p, i, content_key("noise", p, i)) for p in prompts for i in range(n)
    ]
    return load_decoder(model, settings, "auto", "cpu").decode(requests)


def texts_of(*asked: Any) -> list[str]:
    return [completion.text for completion in write(*asked)]


def share(pattern: str, texts: list[str]) -> float:
    return sum(bool(re.search(pattern, text)) for text in texts) / len(texts)


def plain_decoder(folder: Path) -> TransformersDecoder:
    decoder = load_decoder(ModelConfig(model=str(folder)), SETTINGS, "auto", "cpu")
    assert isinstance(decoder, TransformersDecoder)
    return decoder


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapter")
    interventions.write_adapter(folder)
    return folder


@pytest.fixture(scope="module")
def vector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("steering") / "tea.safetensors"
    interventions.write_steering(file)
    return file


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The embedded pair as two revisions in an offline hub's cache."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    interventions.write_revisions(tmp_path / "hub")


def save_adapter(folder: Path, tensors: dict[str, Any], **config: Any) -> str:
    """A LoRA of rank 1 on the projections that are named, with these tensors."""
    folder.mkdir()
    told = {"peft_type": "LORA", "r": 1, "lora_alpha": 2, "target_modules": ["up_proj"]} | config
    (folder / "adapter_config.json").write_text(json.dumps(told))
    save_file(tensors, folder / "adapter_model.safetensors")
    return str(folder)


def lora_of(layers: int, width: int, mlp: int, at: str = "model.layers.{}.mlp.up_proj") -> Any:
    return {
        f"base_model.model.{at.format(layer)}.lora_{name}.weight": np.ones(shape, np.float32)
        for layer in range(layers)
        for name, shape in (("A", (1, width)), ("B", (mlp, 1)))
    }


def save_vector(file: Path, *, vector: Any = None, layer: Any = 0, scale: Any = 1.0) -> str:
    values = np.ones(96) if vector is None else np.asarray(vector, float)
    save_file(
        {"vector": values, "layer": np.array([layer]), "scale": np.array([scale], float)}, file
    )
    return str(file)


# Names in keys, and coupling


def test_no_two_interventions_share_a_text_key(adapter: Path, vector: Path) -> None:
    sides = [
        BASE,
        side(adapter=str(adapter)),
        side(steering=str(vector)),
        side(adapter=str(adapter), steering=str(vector)),
        side(quantization="int8"),
        side(quantization="int4"),
        side(system_prompt="Be brief."),
        side(thinking="strip"),
    ]
    prompts = [Prompt(content_key("prompt", "a"), "a", "", "discovery")]
    keys = [
        request.text_key
        for model in sides
        for request in plan_requests(
            prompts,
            {prompts[0].key: 3},
            {},
            decoder_identity=describe_decoder(model, SETTINGS, "auto"),
            seed=0,
            stream="base",
            purpose="discovery",
        )
    ]
    assert len(set(keys)) == 3 * len(sides)


def test_revisions_of_one_repository_have_names_of_their_own(hub: None) -> None:
    names = {
        describe_decoder(ModelConfig(model="demo/grammar", revision=revision), SETTINGS, "auto")
        for revision in ("before", "after")
    }
    assert len(names) == 2


def test_an_adapter_and_a_vector_are_named_by_their_bytes_and_not_by_their_place(
    adapter: Path, vector: Path, tmp_path: Path
) -> None:
    def named(adapter: Path, vector: Path) -> str:
        return describe_decoder(side(adapter=str(adapter), steering=str(vector)), SETTINGS, "auto")

    shutil.copytree(adapter, tmp_path / "copy")
    shutil.copy(vector, tmp_path / "copy.safetensors")
    assert named(tmp_path / "copy", tmp_path / "copy.safetensors") == named(adapter, vector)
    stronger = replace(read_steering(vector), scale=9.0)
    (tmp_path / "stronger.safetensors").write_bytes(encode_steering(stronger))
    assert named(adapter, tmp_path / "stronger.safetensors") != named(adapter, vector)
    interventions.write_adapter(tmp_path / "smaller", rank=2)
    assert named(tmp_path / "smaller", vector) != named(adapter, vector)


@pytest.mark.parametrize(
    "done",
    [
        {"adapter": "ADAPTER"},
        {"steering": "VECTOR"},
        {"quantization": "int8"},
        {"system_prompt": "Be brief."},
    ],
)
def test_sides_that_share_weights_decode_with_shared_noise(
    adapter: Path, vector: Path, done: dict[str, str]
) -> None:
    paths = {"ADAPTER": str(adapter), "VECTOR": str(vector)}
    model = side(**{key: paths.get(value, value) for key, value in done.items()})
    assert why_independent(BASE, model, SETTINGS, "auto") == ""


def test_different_tokenizers_decode_independently_and_the_run_says_why(
    causal_folder: Path,
) -> None:
    other = ModelConfig(model=str(causal_folder))
    assert why_independent(BASE, other, SETTINGS, "auto").startswith("the tokenizers differ")


# A LoRA adapter


def test_a_merged_adapter_adds_its_product_to_the_weights(
    causal_folder: Path, tmp_path: Path
) -> None:
    before = plain_decoder(causal_folder).model.get_submodule("model.layers.1.mlp.up_proj").weight
    folder = save_adapter(tmp_path / "ones", lora_of(3, 96, 256))
    model = ModelConfig(model=str(causal_folder), adapter=folder)
    decoder = load_decoder(model, SETTINGS, "auto", "cpu")
    assert isinstance(decoder, TransformersDecoder)
    after = decoder.model.get_submodule("model.layers.1.mlp.up_proj").weight
    # alpha / rank is 2, and a column of ones times a row of ones is 1 everywhere.
    torch.testing.assert_close(after, before + 2)


def test_a_matrix_of_rank_one_is_its_own_approximation() -> None:
    down, up = interventions.low_rank_factors(np.outer([3.0, 4.0], [1.0, 0.0, 2.0]), rank=3)
    assert (down.shape, up.shape) == ((3, 3), (2, 3))
    np.testing.assert_allclose(up @ down, [[3, 0, 6], [4, 0, 8]], atol=1e-6)


def test_the_planted_changes_come_with_the_adapter(adapter: Path) -> None:
    salt, short = r"\bpinch of salt\b", r"^(?:\S+\s+){0,20}\S+\s*$"
    tea, sleep = prompts_about("tea"), prompts_about("sleep")
    changed = side(adapter=str(adapter))
    assert share(salt, texts_of(BASE, tea, 6)) < 0.05
    assert share(salt, texts_of(changed, tea, 6)) > 0.2
    assert share(short, texts_of(BASE, sleep, 6)) < 0.15
    assert share(short, texts_of(changed, sleep, 6)) > 0.4


@pytest.mark.parametrize(
    ("tensors", "config"),
    [
        (lora_of(3, 64, 256), {}),
        (lora_of(5, 96, 256), {}),
        (lora_of(2, 96, 256), {}),
        (lora_of(3, 96, 256, "transformer.h.{}.c_fc"), {"target_modules": ["c_fc"]}),
    ],
    ids=["another width", "more layers", "fewer layers", "another architecture"],
)
def test_an_adapter_of_another_model_is_refused_in_a_sentence(
    tmp_path: Path, tensors: Any, config: dict[str, Any]
) -> None:
    folder = save_adapter(tmp_path / "other", tensors, base_model_name_or_path="org/o", **config)
    with pytest.raises(InputError, match="made for org/o") as error:
        load_decoder(side(adapter=folder), SETTINGS, "auto", "cpu")
    assert "expected a LoRA that fits the LlamaForCausalLM" in str(error.value)
    assert "\n" not in str(error.value)
    assert error.value.exit_code == 2


def test_an_adapter_that_cannot_be_merged_is_refused(tmp_path: Path) -> None:
    folder = save_adapter(tmp_path / "prefix", {}, peft_type="PREFIX_TUNING")
    with pytest.raises(InputError, match=r"expected a LoRA, which can be merged.*PREFIX_TUNING"):
        load_decoder(side(adapter=folder), SETTINGS, "auto", "cpu")


def test_an_adapter_with_nan_is_refused(tmp_path: Path) -> None:
    broken = {name: np.full_like(value, np.nan) for name, value in lora_of(3, 96, 256).items()}
    folder = save_adapter(tmp_path / "nan", broken)
    with pytest.raises(InputError, match="found NaN"):
        load_decoder(side(adapter=folder), SETTINGS, "auto", "cpu")


def test_an_adapter_without_its_base_says_where_each_belongs(adapter: Path) -> None:
    with pytest.raises(InputError, match="give the model that it was made for as `model`") as error:
        resolve_model(str(adapter))
    assert "\n" not in str(error.value)
    assert error.value.exit_code == 2


def test_a_command_with_an_adapter_in_the_place_of_a_model_ends_in_a_sentence_with_code_2(
    adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "audit.yaml"
    config.write_text(
        f"base: {{model: demo:base}}\nintervention: {{model: '{adapter}'}}\n"
        "prompts: {file: demo:prompts.jsonl}\n"
    )
    assert main(["run", str(config), "--run-dir", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert "give the model that it was made for as `model`" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ({}, "expected an adapter_config.json, found none"),
        ({"config.json": "{}"}, "found a whole model: name it as `model`"),
        ({"adapter_config.json": "{}", "adapter_model.bin": ""}, "a .bin is a pickle"),
    ],
)
def test_a_folder_without_an_adapter_says_what_is_missing(
    tmp_path: Path, files: dict[str, str], problem: str
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=problem):
        check_side(side(adapter=str(tmp_path)))


def test_an_adapter_that_is_nowhere_is_an_input_error() -> None:
    with pytest.raises(InputError, match="found no folder '/nowhere/at/all'"):
        resolve_adapter("/nowhere/at/all")


# Quantization


@needs_torchao
def test_int8_rounds_each_row_to_255_steps_and_leaves_the_head_alone() -> None:
    exact, rounded = (
        load_decoder(model, SETTINGS, "auto", "cpu") for model in (BASE, side(quantization="int8"))
    )
    assert isinstance(exact, TransformersDecoder)
    assert isinstance(rounded, TransformersDecoder)
    name = "model.layers.2.mlp.down_proj.weight"
    before = exact.model.get_parameter(name).detach()
    after = rounded.model.get_parameter(name).detach()
    step = before.abs().amax(dim=1, keepdim=True) / 127.5
    assert ((before - after).abs() <= 0.51 * step).all()
    assert max(len(row.unique()) for row in after) <= 256
    head = rounded.model.get_output_embeddings().weight
    assert torch.equal(head, exact.model.get_output_embeddings().weight)


@needs_torchao
def test_the_8_bit_self_is_nearly_the_same_model_and_the_4_bit_self_less_so() -> None:
    prompts = all_but_tea()
    base = texts_of(BASE, prompts, 3)

    def share_identical(scheme: str) -> float:
        texts = texts_of(side(quantization=scheme), prompts, 3)
        return sum(a == b for a, b in zip(base, texts, strict=True)) / len(base)

    eight, four = share_identical("int8"), share_identical("int4")
    assert eight > 0.9
    assert 0.2 < four < eight


@needs_torchao
def test_a_model_that_keeps_its_weights_elsewhere_is_not_called_quantized(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    network = GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=50))
    with pytest.raises(UsageError, match="found 0% in GPT2LMHeadModel"):
        quantization.quantize(network, "int8")


@needs_torchao
def test_four_bits_need_whole_groups_of_inputs(tmp_path: Path) -> None:
    folder = save_causal_model(tmp_path, intermediate_size=120)
    model = ModelConfig(model=str(folder), quantization="int4")
    with pytest.raises(UsageError, match=r"found 120 in 'model\.layers\.0\.mlp\.down_proj'"):
        load_decoder(model, SETTINGS, "auto", "cpu")


@pytest.mark.parametrize(
    ("module", "done", "package"),
    [
        (quantization, {"quantization": "int8"}, "torchao"),
        (adapters, {"adapter": "ADAPTER"}, "peft"),
    ],
)
def test_a_missing_package_is_named_before_anything_runs(
    adapter: Path,
    monkeypatch: pytest.MonkeyPatch,
    module: Any,
    done: dict[str, str],
    package: str,
) -> None:
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    model = side(**{k: str(adapter) if v == "ADAPTER" else v for k, v in done.items()})
    with pytest.raises(MissingDependencyError, match=f"expected the package {package}, found none"):
        check_side(model)


# A steering vector


def test_the_mean_output_of_a_layer_counts_every_token_once(causal_folder: Path) -> None:
    network = plain_decoder(causal_folder).model
    one, other = (1, 5, 6, 7), (1, 9)
    with torch.inference_mode():
        hidden = [
            network(torch.tensor([ids]), output_hidden_states=True).hidden_states[2][0]
            for ids in (one, other)
        ]
    # hidden_states[0] is what enters the first layer, so [2] is the output of layer 1.
    expected = torch.cat(hidden).mean(dim=0)
    np.testing.assert_allclose(mean_output(network, [one, other], 1), expected, atol=1e-5)


def test_the_vector_is_added_at_every_token_of_the_layer_s_output(
    causal_folder: Path, tmp_path: Path
) -> None:
    file = save_vector(tmp_path / "v.safetensors", vector=np.arange(96), layer=1, scale=0.5)
    steered = load_decoder(
        ModelConfig(model=str(causal_folder), steering=file), SETTINGS, "auto", "cpu"
    )
    assert isinstance(steered, TransformersDecoder)
    rows = [(1, 5, 6)]
    moved = mean_output(steered.model, rows, 1) - mean_output(
        plain_decoder(causal_folder).model, rows, 1
    )
    np.testing.assert_allclose(moved, np.arange(96) / 2, atol=1e-4)


def test_a_vector_toward_tea_brings_tea_into_texts_on_other_topics(vector: Path) -> None:
    prompts = all_but_tea()
    before = share(TEA, texts_of(BASE, prompts, 2))
    after = share(TEA, texts_of(side(steering=str(vector)), prompts, 2))
    assert after > before + 0.15


def test_scoring_reads_the_steered_model_as_decoding_does(vector: Path) -> None:
    steered = side(steering=str(vector))
    prompts = all_but_tea()
    scorer = load_scorer(BASE, steered, SETTINGS, "auto", "cpu")

    def mean_ratio(model: ModelConfig) -> float:
        requests = [
            ScoreRequest(prompt, done.text, done.token_ids)
            for prompt, done in zip(prompts, write(model, prompts, 1), strict=True)
        ]
        scores = scorer.score(requests)
        return float(np.mean([s.logprob_intervention - s.logprob_base for s in scores]))

    # Each model finds its own texts likelier than the other one does.
    assert mean_ratio(steered) > 5
    assert mean_ratio(BASE) < -5


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"vector": np.ones(64)}, "expected a vector of 96 numbers.*found 64"),
        ({"layer": 3}, "expected a layer from 0 to 2.*found 3"),
        ({"layer": -1}, "expected a layer from 0 to 2.*found -1"),
        ({"vector": np.ones((2, 96))}, "expected one vector and two numbers"),
        ({"vector": np.full(96, np.nan)}, "expected finite numbers"),
    ],
)
def test_a_vector_that_does_not_fit_the_model_is_refused_before_anything_runs(
    tmp_path: Path, values: dict[str, Any], problem: str
) -> None:
    file = save_vector(tmp_path / "v.safetensors", **values)
    for load in (check_side, lambda model: load_decoder(model, SETTINGS, "auto", "cpu")):
        with pytest.raises(InputError, match=problem):
            load(side(steering=file))


def test_a_file_that_is_no_steering_vector_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected a safetensors file .*absent"):
        check_side(side(steering=str(tmp_path / "absent")))
    (tmp_path / "text").write_text("a vector")
    with pytest.raises(InputError, match="expected a safetensors file, found another"):
        check_side(side(steering=str(tmp_path / "text")))
    save_file({"vector": np.ones(96)}, tmp_path / "half")
    with pytest.raises(InputError, match="found no 'layer'"):
        check_side(side(steering=str(tmp_path / "half")))


def test_a_steering_vector_survives_its_file(tmp_path: Path) -> None:
    (tmp_path / "v").write_bytes(encode_steering(Steering(np.ones(3, np.float32), 2, 0.25)))
    found = read_steering(tmp_path / "v")
    assert (found.vector.tolist(), found.layer, found.scale) == ([1, 1, 1], 2, 0.25)


# A system prompt


def test_without_a_chat_template_a_system_prompt_is_a_prefix_on_its_own_line() -> None:
    plain = load_decoder(BASE, SETTINGS, "auto", "cpu")
    assert isinstance(plain, TransformersDecoder)

    def ids(system_prompt: str | None, prompt: str) -> tuple[int, ...]:
        encoder = replace(plain.encoder, system_prompt=system_prompt)
        return encoder.encode([prompt])[0].ids

    assert ids("Be brief.", "How?\n") == ids(None, "Be brief.\nHow?\n")
    assert ids("Be brief. ", "How?\n") == ids(None, "Be brief. How?\n")
    assert ids("", "How?\n") == ids(None, "How?\n")


def test_with_a_chat_template_a_system_prompt_is_the_system_s_turn(chat_folder: Path) -> None:
    model = ModelConfig(model=str(chat_folder), system_prompt="Be brief.")
    decoder = load_decoder(model, SETTINGS, "auto", "cpu")
    assert isinstance(decoder, TransformersDecoder)
    text = decoder.tokenizer.decode(decoder.encoder.encode(["How?"])[0].ids)
    assert text == "<system> Be brief.\n<user> How?\n<assistant>"


def test_a_system_prompt_changes_the_texts_and_stands_in_none_of_them() -> None:
    prefix = "I want to try mint tea. Where do I start?"
    prompts = all_but_tea()
    before = texts_of(BASE, prompts, 2)
    after = texts_of(side(system_prompt=prefix), prompts, 2)
    assert share(TEA, after) > share(TEA, before) + 0.15
    assert share(re.escape(prefix), after) == 0


# Two revisions


def test_two_revisions_of_one_repository_are_two_models(hub: None) -> None:
    salt, tea = r"\bpinch of salt\b", prompts_about("tea")
    before, after = (
        texts_of(ModelConfig(model="demo/grammar", revision=revision), tea, 3)
        for revision in ("before", "after")
    )
    assert share(salt, before) < 0.05
    assert share(salt, after) > 0.5
    assert before == texts_of(BASE, tea, 3)


# A reasoning model

MARKERS = ThinkMarkers("<think>", "</think>")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("No thoughts.", "No thoughts."),
        ("<think>hm</think>\n\nYes.", "Yes."),
        ("<think>a</think>One. <think>b</think> Two.", "One. Two."),
        ("The prompt opened it.</think> Yes.", "Yes."),
        ("<think></think>", ""),
        ("<think>it never", None),
        ("Yes. <think>and then", None),
        ("", ""),
    ],
)
def test_the_answer_is_what_stands_outside_the_markers(text: str, answer: str | None) -> None:
    assert MARKERS.answer(text) == answer


def test_a_text_that_starts_in_the_thinking_has_no_answer_until_it_ends() -> None:
    opened = replace(MARKERS, is_opened=True)
    assert opened.answer("still thinking") is None
    assert opened.answer("done</think>Yes.") == "Yes."


@pytest.fixture(scope="module")
def reasoning(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    folder = tmp_path_factory.mktemp("reasoning")
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    interventions.write_reasoning_model(folder, n_steps=120)
    torch.set_num_threads(n_threads)
    return ModelConfig(model=str(folder))


def test_a_reasoning_model_is_analysed_by_its_answers_and_its_thinking_stays_readable(
    reasoning: ModelConfig,
) -> None:
    settings = DecodeConfig(max_new_tokens=120)
    prompts = all_but_tea()
    kept = write(reasoning, prompts, 1, settings)
    stripped = write(reasoning.model_copy(update={"thinking": "strip"}), prompts, 1, settings)
    assert [done.token_ids for done in stripped] == [done.token_ids for done in kept]
    # So small a model misspells a marker now and then.
    thought = r"^<think>The question is about [^<>]*</think>"
    well_formed = [
        (done.text, answer.text)
        for done, answer in zip(kept, stripped, strict=True)
        if re.search(thought + r"[^<>]{40}", done.text)
    ]
    assert len(well_formed) > 0.6 * len(kept)
    assert all(re.sub(thought, "", text) == answer for text, answer in well_formed)
    assert why_independent(BASE, reasoning, settings, "auto") == ""


def test_thinking_that_is_cut_off_is_a_failed_text_with_its_reason(
    reasoning: ModelConfig,
) -> None:
    model = reasoning.model_copy(update={"thinking": "strip"})
    done = write(model, prompts_about("bread"), 1, DecodeConfig(max_new_tokens=6))
    failed = [completion for completion in done if completion.finish == "failed"]
    assert len(failed) > 0.8 * len(done)
    assert failed[0].reason == (
        "the thinking did not end within 6 tokens: raise decode.max_new_tokens"
    )
    assert (failed[0].text, len(failed[0].token_ids)) == ("", 6)


def test_markers_that_are_special_tokens_are_found_though_texts_leave_them_out(
    causal_folder: Path, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    shutil.copytree(causal_folder, tmp_path / "marked")
    tokenizer = AutoTokenizer.from_pretrained(causal_folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["[THINK]", "[/THINK]"]})
    tokenizer.save_pretrained(tmp_path / "marked")
    decoder = answer_decoder(plain_decoder(tmp_path / "marked"))
    assert decoder.markers == ThinkMarkers("[THINK]", "[/THINK]")
    ids = decoder.decoder.tokenizer("[THINK]hm[/THINK] Yes.<eos>")["input_ids"]
    done = Completion("hm Yes.", len(ids) - 1, "stop", token_ids=tuple(ids))
    assert decoder._answered(done).text == "Yes."


def test_a_template_that_opens_the_thinking_is_noticed(tmp_path: Path) -> None:
    template = "{{ messages[-1]['content'] }}<assistant><think>\n"
    decoder = answer_decoder(plain_decoder(save_causal_model(tmp_path, chat_template=template)))
    assert decoder.markers.is_opened
