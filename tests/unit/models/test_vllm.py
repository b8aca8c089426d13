"""vLLM as an engine: against its double everywhere, and against itself where it is installed."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.models import fake_vllm
from tests.unit.models.tiny_models import CHAT_TEMPLATE, save_causal_model
from whatchanged.config import parse_config
from whatchanged.errors import ConfigError, InputError, MissingDependencyError
from whatchanged.keys import content_key
from whatchanged.model_config import DecodeConfig, ModelConfig
from whatchanged.models import loading
from whatchanged.models.loading import check_side, describe_decoder, load_decoder, load_scorer
from whatchanged.models.vllm_decoder import VllmDecoder
from whatchanged.models.vllm_scorer import VllmScorer, compare_places
from whatchanged.records import Completion, DecodeRequest, ScoreRequest

HAS_VLLM = importlib.util.find_spec("vllm") is not None
SETTINGS = DecodeConfig(engine="vllm", max_new_tokens=24)
PROMPTS = ["The harbour was", "Write about a library, a lamp", "How do I plan a garden"]


@pytest.fixture(scope="module", params=["double", "installed"])
def engines(request: pytest.FixtureRequest) -> Iterator[list[dict[str, Any]]]:
    """vLLM's double, and vLLM; what engines were started with."""
    if request.param == "double":
        with fake_vllm.installed() as started:
            yield started
        loading._engine.cache_clear()
        return
    if not HAS_VLLM:
        pytest.skip("vllm is not installed")
    yield []
    loading._engine.cache_clear()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two models of one shape: the second one's head is a little off."""
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    folders = [tmp_path_factory.mktemp(name) for name in ("base", "intervention")]
    for folder in folders:
        # vLLM's kernels for CPUs know no narrower heads.
        save_causal_model(
            folder, hidden_size=128, head_dim=32, num_key_value_heads=2, num_hidden_layers=2,
            tie_word_embeddings=False,
        )  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(folders[1])
    with torch.no_grad():
        noise = torch.randn(model.lm_head.weight.shape, generator=torch.Generator().manual_seed(1))
        model.lm_head.weight.add_(0.01 * noise)
    model.save_pretrained(folders[1])
    for folder in folders:
        # So many tokens end a text that some do.
        GenerationConfig(eos_token_id=list(range(2, 12)), pad_token_id=0).save_pretrained(folder)
    return folders[0], folders[1]


def requests(n: int) -> list[DecodeRequest]:
    return [
        DecodeRequest("", "", p, i, content_key("noise", p, i)) for p in PROMPTS for i in range(n)
    ]


def write(folder: Path, engine: str, n: int, **settings: Any) -> list[Completion]:
    decode = SETTINGS.model_copy(update={"engine": engine, **settings})
    return load_decoder(ModelConfig(model=str(folder)), decode, "plain", "cpu").decode(requests(n))


def drawn(texts: list[Completion]) -> list[tuple[object, ...]]:
    return [(text.text, text.n_tokens, text.finish, text.token_ids) for text in texts]


@pytest.mark.parametrize("settings", [{}, {"temperature": 0.7, "top_p": 0.8}])
def test_vllm_writes_the_texts_that_transformers_writes(
    engines: object, pair: tuple[Path, Path], settings: dict[str, float]
) -> None:
    expected = drawn(write(pair[0], "transformers", 6, **settings))
    found = write(pair[0], "vllm", 6, **settings)
    assert drawn(found) == expected
    assert {finish for _, _, finish, _ in expected} == {"stop", "length"}
    assert all(text.decoded_by.startswith("vllm 0.") for text in found)
    # Again, from the prefix cache.
    assert drawn(write(pair[0], "vllm", 6, **settings)) == expected


def test_texts_are_coupled_across_models_as_ever(engines: object, pair: tuple[Path, Path]) -> None:
    base, intervention = (drawn(write(folder, "vllm", 6)) for folder in pair)
    n_equal = sum(one == other for one, other in zip(base, intervention, strict=True))
    assert 0 < n_equal < len(base)


def test_one_engine_serves_the_screen_and_the_texts_whatever_their_length(
    engines: list[dict[str, Any]], pair: tuple[Path, Path]
) -> None:
    before = len(engines)
    write(pair[1], "vllm", 1, max_new_tokens=8)
    write(pair[1], "vllm", 1, max_new_tokens=16)
    asked = ModelConfig(model=str(pair[1]), system_prompt="Be brief.")
    load_decoder(asked, SETTINGS, "plain", "cpu").decode(requests(1))
    assert len(engines) - before <= 1
    assert loading._engine.cache_info().currsize <= 2


def test_an_engine_is_started_as_the_config_says(
    engines: list[dict[str, Any]], pair: tuple[Path, Path]
) -> None:
    write(pair[0], "vllm", 1)
    if not engines:
        pytest.skip("vllm itself does not tell")
    asked = engines[0]
    assert asked["enable_prefix_caching"] is True
    assert asked["trust_remote_code"] is False
    # The checkpoint's own: vLLM would halve it.
    assert asked["dtype"] == "float32"
    assert (asked["tensor_parallel_size"], asked["gpu_memory_utilization"]) == (1, 0.4)
    assert asked["logits_processors"] == ["whatchanged.models.vllm_noise:NoiseRace"]


def test_prompts_that_cannot_be_read_fail_and_the_others_are_decoded(
    engines: object, pair: tuple[Path, Path]
) -> None:
    decoder = load_decoder(ModelConfig(model=str(pair[0])), SETTINGS, "plain", "cpu")
    bad = replace(requests(1)[0], prompt="half \ud800")
    long = replace(requests(1)[0], prompt="lamp " * 200)
    texts = decoder.decode([bad, *requests(1), long])
    assert [text.finish == "failed" for text in texts] == [True, False, False, False, True]
    assert "the model's context leaves room for 104" in texts[-1].reason


# Scoring ---------------------------------------------------------------------------------------


def scored_requests(pair: tuple[Path, Path]) -> list[ScoreRequest]:
    return [
        ScoreRequest(request.prompt, text.text, text.token_ids)
        for folder in pair
        for request, text in zip(requests(4), write(folder, "transformers", 4), strict=True)
    ]


def scorer(pair: tuple[Path, Path], engine: str) -> Any:
    base, intervention = (ModelConfig(model=str(folder)) for folder in pair)
    decode = SETTINGS.model_copy(update={"engine": engine})
    return load_scorer(base, intervention, decode, "plain", "cpu")


def test_scores_have_the_totals_of_transformers_and_bound_its_divergences(
    engines: object, pair: tuple[Path, Path]
) -> None:
    wanted = scored_requests(pair)
    exact = scorer(pair, "transformers").score(wanted)
    found = scorer(pair, "vllm")
    assert isinstance(found, VllmScorer)
    for one, other in zip(exact, found.score(wanted), strict=True):
        assert other.logprob_base == pytest.approx(one.logprob_base, abs=1e-3)
        assert other.logprob_intervention == pytest.approx(one.logprob_intervention, abs=1e-3)
        np.testing.assert_allclose(other.differences, one.differences, atol=1e-4)
        for name in ("kl_base", "kl_intervention", "parting"):
            bound, value = getattr(other, name), getattr(one, name)
            assert 0 <= bound <= value + 1e-3
            # 20 tokens of these hold about half of the probability.
            assert bound > 0.2 * value
        common = set(one.moved_tokens[:5].tolist()) & set(other.moved_tokens.tolist())
        assert len(common) >= 3


def test_two_models_with_tokens_of_their_own_have_totals_alone(
    engines: object, pair: tuple[Path, Path]
) -> None:
    one = load_decoder(ModelConfig(model=str(pair[0])), SETTINGS, "plain", "cpu")
    assert isinstance(one, VllmDecoder)
    text = write(pair[0], "transformers", 1)[0]
    (score,) = VllmScorer(one, one, has_same_tokens=False).score(
        [ScoreRequest(PROMPTS[0], text.text, ())]
    )
    assert score.logprob_base == score.logprob_intervention < 0
    assert math.isnan(score.parting)
    assert len(score.differences) == 0


def test_texts_that_cannot_be_scored_are_nan(engines: object, pair: tuple[Path, Path]) -> None:
    scores = scorer(pair, "vllm").score(
        [ScoreRequest(PROMPTS[0], "", ()), ScoreRequest("half \ud800", "a", (5,)),
         ScoreRequest(PROMPTS[0], "a", (5,))]
    )  # fmt: skip
    assert [math.isnan(score.logprob_base) for score in scores] == [True, True, False]


def test_what_only_one_model_names_is_put_together() -> None:
    log = math.log
    # One place: 7 is drawn. Both name 7 and 8; only the base names 9, only the other 10.
    base = [{7: log(0.5), 8: log(0.2), 9: log(0.2)}]
    other = [{7: log(0.25), 8: log(0.4), 10: log(0.3)}]
    score = compare_places([7], base, other)
    assert score.logprob_base == pytest.approx(log(0.5))
    assert score.logprob_intervention == pytest.approx(log(0.25))
    # Distributions (0.5, 0.2, rest 0.3) and (0.25, 0.4, rest 0.35).
    assert score.parting == pytest.approx((0.25 + 0.2 + 0.05) / 2, abs=1e-6)
    kl = 0.5 * log(2) + 0.2 * log(0.5) + 0.3 * log(0.3 / 0.35)
    assert score.kl_base == pytest.approx(kl, abs=1e-6)
    moved = dict(zip(score.moved_tokens.tolist(), score.moved_mass.tolist(), strict=True))
    assert moved == {7: pytest.approx(-0.25), 8: pytest.approx(0.2)}


# By config -------------------------------------------------------------------------------------


@pytest.mark.skipif(HAS_VLLM, reason="vllm is installed")
def test_without_vllm_a_run_does_not_start_and_says_what_to_do(pair: tuple[Path, Path]) -> None:
    with pytest.raises(MissingDependencyError) as caught:
        check_side(ModelConfig(model=str(pair[0])), "vllm")
    assert "decode.engine: vllm needs the package vllm, found none" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 5
    with pytest.raises(MissingDependencyError):
        load_decoder(ModelConfig(model=str(pair[0])), SETTINGS, "plain", "cpu")


def test_a_model_that_vllm_cannot_start_with_is_one_sentence(tmp_path: Path) -> None:
    folder = save_causal_model(tmp_path)
    (folder / "model.safetensors").write_bytes(b"damaged")
    with fake_vllm.installed(), pytest.raises(InputError) as caught:
        load_decoder(ModelConfig(model=str(folder)), SETTINGS, "plain", "cpu")
    assert "expected vLLM to start with" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["adapter", "quantization", "steering"])
def test_what_vllm_does_not_do_to_a_model_is_refused(key: str) -> None:
    side = {"model": "b", key: "int8" if key == "quantization" else "x"}
    with pytest.raises(ConfigError, match=f"`intervention.{key}` is nothing that vllm does here"):
        config_with(side)


def config_with(side: dict[str, Any], **decode: Any) -> Any:
    blocks = {"base": {"model": "a"}, "intervention": side, "decode": {"engine": "vllm", **decode}}
    return parse_config(blocks, "test")


def test_texts_are_scored_where_both_engines_can_and_the_report_says_why_not() -> None:
    assert config_with({"model": "b"}).why_sampled == ""
    assert "temperature of 1" in config_with({"model": "b"}, temperature=0.5).why_sampled
    mixed = config_with({"model": "b", "engine": "transformers"})
    assert "different engines" in mixed.why_sampled
    assert mixed.why_unread == ""


def test_an_offline_run_holds_no_engine_in_a_process_of_its_own() -> None:
    blocks = {"base": {"model": "a"}, "intervention": {"model": "b"}, "decode": {"engine": "vllm"}}
    with pytest.raises(ConfigError, match=r"`run\.offline` holds one process, and each of vllm's"):
        parse_config({**blocks, "run": {"offline": True}}, "test")


def test_an_engine_has_keys_of_its_own_and_its_size_is_no_part_of_them(
    pair: tuple[Path, Path],
) -> None:
    model = ModelConfig(model=str(pair[0]))
    names = {
        describe_decoder(model, decode, "plain")
        for decode in (
            SETTINGS,
            parse_config(
                {"base": {"model": "a"}, "intervention": {"model": "b"},
                 "decode": {**SETTINGS.model_dump(), "vllm": {"tensor_parallel_size": 4}}}, "test",
            ).decode,
        )
    }  # fmt: skip
    assert len(names) == 1
    assert (
        describe_decoder(model, SETTINGS.model_copy(update={"engine": "transformers"}), "plain")
        not in names
    )


def test_thinking_is_cut_out_of_vllms_texts_too(tmp_path: Path) -> None:
    folder = save_causal_model(
        tmp_path, chat_template=CHAT_TEMPLATE, hidden_size=128, head_dim=32, num_key_value_heads=2
    )
    model = ModelConfig(model=str(folder), thinking="strip")
    with fake_vllm.installed():
        (text,) = load_decoder(model, SETTINGS, "chat", "cpu").decode(requests(1)[:1])
        loading._engine.cache_clear()
    # It opens no thinking: the whole text is the answer.
    assert text.finish in ("stop", "length")
