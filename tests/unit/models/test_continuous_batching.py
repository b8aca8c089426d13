"""Transformers' continuous batching, on a CPU, against the static batches: the same texts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers.generation.continuous_batching.requests import RequestState

from whatchanged.keys import content_key
from whatchanged.model_config import DecodeConfig, ModelConfig
from whatchanged.models import continuous_batching
from whatchanged.models.loading import describe_decoder, load_decoder
from whatchanged.models.sampling import TokenPicker
from whatchanged.models.transformers_decoder import TransformersDecoder
from whatchanged.records import Completion, DecodeRequest

PROMPTS = [
    "I want to try mint tea. Where do I start?",
    "How do I sail?",
    "What should I know about bees and their honey before the first cold days of winter?",
]


def requests(n: int) -> list[DecodeRequest]:
    return [
        DecodeRequest("", "", p, i, content_key("noise", p, i)) for p in PROMPTS for i in range(n)
    ]


def decoder(batching: str, **settings: Any) -> TransformersDecoder:
    decode = DecodeConfig(max_new_tokens=45, batching=batching, **settings)  # type: ignore[arg-type]
    loaded = load_decoder(ModelConfig(model="demo:base"), decode, "auto", "cpu")
    assert isinstance(loaded, TransformersDecoder)
    return loaded


def without_engine(texts: list[Completion]) -> list[tuple[object, ...]]:
    return [(text.text, text.n_tokens, text.finish, text.token_ids) for text in texts]


@pytest.mark.parametrize("settings", [{}, {"temperature": 0.6, "top_p": 0.8}])
def test_continuous_batches_write_the_texts_of_static_ones(settings: dict[str, float]) -> None:
    wanted = requests(12)
    static, continuous = (decoder(how, **settings) for how in ("static", "continuous"))
    expected = without_engine(static.decode(wanted))
    assert without_engine(continuous.decode(wanted)) == expected
    assert {finish for _, _, finish, _ in expected} == {"stop", "length"}
    # Again, in another order, with the engine as the first call left it.
    assert without_engine(continuous.decode(wanted[::-1])) == expected[::-1]


def test_a_text_that_was_put_out_of_its_batch_goes_on_where_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # 8 pages of 32 tokens hold 2 or 3 texts at once; 36 are asked for.
    monkeypatch.setattr(continuous_batching, "_CPU_PAGES", 8)
    put_out: list[str] = []
    again = RequestState.create_equivalent_initial_request

    def note(state: RequestState) -> RequestState:
        put_out.append(state.request_id)
        return again(state)

    monkeypatch.setattr(RequestState, "create_equivalent_initial_request", note)
    wanted = requests(12)
    expected = without_engine(decoder("static").decode(wanted))
    own = decoder("static", chunk_texts=36)
    own.batcher = continuous_batching.batcher_for(own.model, own.config, own.eos_ids)
    assert without_engine(own.decode(wanted)) == expected
    assert put_out


def test_more_texts_than_fit_into_a_batch_are_decoded_in_several() -> None:
    wanted = requests(4)
    expected = without_engine(decoder("static").decode(wanted))
    assert without_engine(decoder("continuous", chunk_texts=5).decode(wanted)) == expected


def test_prompts_that_cannot_be_read_fail_and_the_others_are_decoded() -> None:
    bad = DecodeRequest("", "", "half \ud800", 0, content_key("noise", 0))
    long = DecodeRequest("", "", "tea " * 400, 0, content_key("noise", 0))
    texts = decoder("continuous").decode([bad, *requests(1), long])
    assert [text.finish == "failed" for text in texts] == [True, False, False, False, True]


def test_a_model_that_loses_its_distribution_is_a_failed_text() -> None:
    broken = decoder("continuous", chunk_texts=7)
    head = broken.model.get_output_embeddings()
    # The head shares its weights with the embedding, which must stay.
    broken.model.lm_head = torch.nn.Linear(head.in_features, head.out_features, bias=False)
    with torch.no_grad():
        broken.model.lm_head.weight.fill_(float("nan"))
    texts = broken.decode(requests(1))
    broken.model.lm_head = head
    assert {(text.finish, text.reason) for text in texts} == {
        ("failed", "the model gave NaN or infinite logits")
    }


def test_how_texts_are_batched_is_no_part_of_their_name() -> None:
    model = ModelConfig(model="demo:base")
    names = {
        describe_decoder(model, DecodeConfig(batching=how), "auto")  # type: ignore[arg-type]
        for how in ("static", "continuous")
    }
    assert len(names) == 1


def test_the_picked_token_is_the_lowest_of_its_race() -> None:
    picker = TokenPicker(4, 50, torch.device("cpu"), temperature=0.7, top_p=0.9)
    logits = torch.randn(4, 50, generator=torch.Generator().manual_seed(0))
    keys = torch.arange(8, dtype=torch.int32).reshape(4, 2)
    picked, is_sound = picker.pick(logits.clone(), keys)
    race, also_sound = picker.race(logits.clone(), keys)
    assert race.argmin(dim=-1).tolist() == picked.tolist()
    assert is_sound.all() and also_sound.all()
