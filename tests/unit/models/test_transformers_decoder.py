import json
import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chi2

from tests.unit.models.tiny_models import SENTENCES, save_causal_model
from whatchanged.errors import ConfigError, InputError
from whatchanged.keys import content_key
from whatchanged.model_config import DecodeConfig, ModelConfig
from whatchanged.models.prompt_encoding import PromptFormat
from whatchanged.models.transformers_decoder import (
    BatchLimit,
    TransformersDecoder,
    batch_limit,
    load_decoder,
)
from whatchanged.records import Completion, DecodeRequest

# Four lengths in tokens, so that a batch of them needs padding.
PROMPTS = (SENTENCES[0], "How do I plan a garden?", "A lamp", "The train leaves at seven, but")


def requests_for(prompts: tuple[str, ...] = PROMPTS, n: int = 8) -> list[DecodeRequest]:
    return [
        DecodeRequest(
            content_key("text", p, i), content_key("prompt", p), p, i, content_key("noise", p, i)
        )
        for i in range(n)
        for p in prompts
    ]


def load(
    folder: Path,
    *,
    prompt_format: PromptFormat = "auto",
    system_prompt: str | None = None,
    dtype: str = "auto",
    **decode: Any,
) -> TransformersDecoder:
    model = ModelConfig.model_validate(
        {"model": str(folder), "system_prompt": system_prompt, "dtype": dtype}
    )
    return load_decoder(
        model, DecodeConfig(**({"max_new_tokens": 12} | decode)), "cpu", prompt_format
    )


def texts_of(completions: list[Completion]) -> list[str]:
    return [completion.text for completion in completions]


class Wrapped:
    """A model whose forward pass goes through a function first."""

    def __init__(self, model: Any, before: Callable[[Any], None], after: Callable[..., None]):
        self.config, self.device, self.forward = model.config, model.device, model.forward
        self.model, self.before, self.after = model, before, after

    def __call__(self, **inputs: Any) -> Any:
        self.before(inputs["input_ids"])
        output = self.model(**inputs)
        self.after(inputs["input_ids"], output)
        return output


def wrap(
    decoder: TransformersDecoder,
    *,
    before: Callable[[Any], None] = lambda ids: None,
    after: Callable[..., None] = lambda ids, output: None,
) -> None:
    decoder.model = Wrapped(decoder.model, before, after)


def refuse_above(n_rows: int, sizes: list[int]) -> Callable[[Any], None]:
    def before(ids: Any) -> None:
        sizes.append(len(ids))
        if len(ids) > n_rows:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")

    return before


def greedy(folder: Path, prompt: str, n_new: int, **options: Any) -> str:
    """What plain generate writes, one prompt at a time: no padding, no batch."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
    out = model.generate(ids, do_sample=False, max_new_tokens=n_new, pad_token_id=0, **options)
    text: str = tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
    return text


def test_loading_is_quiet(causal_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load(causal_folder)
    assert capfd.readouterr() == ("", "")


def test_zero_requests_give_zero_completions(causal_folder: Path) -> None:
    assert load(causal_folder).decode([]) == []


@pytest.mark.parametrize("batch_size", [3, 64])
def test_a_cold_decoder_writes_what_greedy_generate_writes(
    causal_folder: Path, batch_size: int
) -> None:
    decoder = load(causal_folder, temperature=1e-5, batch_size=batch_size)
    completions = decoder.decode(requests_for(n=2))
    expected = [greedy(causal_folder, prompt, 12) for prompt in PROMPTS]
    assert texts_of(completions) == expected * 2


def test_a_sliding_window_is_respected(tmp_path: Path) -> None:
    from transformers import MistralConfig, MistralForCausalLM

    save_causal_model(tmp_path)
    torch.manual_seed(1)
    MistralForCausalLM(
        MistralConfig(
            hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            intermediate_size=128, vocab_size=600, max_position_embeddings=128,
            sliding_window=6, initializer_range=0.2, bos_token_id=1, eos_token_id=2,
        )
    ).save_pretrained(tmp_path)  # fmt: skip
    completions = load(tmp_path, temperature=1e-5).decode(requests_for(n=2))
    assert texts_of(completions) == [greedy(tmp_path, prompt, 12) for prompt in PROMPTS] * 2


def test_learned_positions_are_counted_from_the_first_real_token(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    save_causal_model(tmp_path)
    torch.manual_seed(1)
    GPT2LMHeadModel(
        GPT2Config(
            n_embd=64, n_layer=2, n_head=4, vocab_size=600, n_positions=64,
            initializer_range=0.3, bos_token_id=1, eos_token_id=2,
        )
    ).save_pretrained(tmp_path)  # fmt: skip
    completions = load(tmp_path, temperature=1e-5).decode(requests_for(n=2))
    assert texts_of(completions) == [greedy(tmp_path, prompt, 12) for prompt in PROMPTS] * 2


def test_a_set_of_requests_gives_the_same_texts_in_any_order(causal_folder: Path) -> None:
    decoder = load(causal_folder, batch_size=8)
    requests = requests_for()
    shuffled = np.random.default_rng(0).permutation(len(requests))
    straight = decoder.decode(requests)
    other = decoder.decode([requests[i] for i in shuffled])
    assert [straight[i] for i in shuffled] == other
    assert straight == decoder.decode(requests)
    assert len(set(texts_of(straight))) > len(requests) // 2


def test_a_text_does_not_depend_on_its_batch_but_where_rounding_decides(
    causal_folder: Path,
) -> None:
    requests = requests_for(n=30)
    together = load(causal_folder, batch_size=120).decode(requests)
    for batch_size, chunk in ((5, 60), (16, 50), (64, 120)):
        decoder = load(causal_folder, batch_size=batch_size)
        apart = [
            completion
            for start in range(0, len(requests), chunk)
            for completion in decoder.decode(requests[start : start + chunk])
        ]
        equal = sum(a == b for a, b in zip(together, apart, strict=True))
        assert equal >= 0.99 * len(requests), f"{equal} of {len(requests)} at batch {batch_size}"


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 0.8)])
def test_first_tokens_follow_the_model_s_distribution(
    causal_folder: Path, temperature: float, top_p: float
) -> None:
    decoder = load(causal_folder, max_new_tokens=1, temperature=temperature, top_p=top_p)
    n = 4000
    ids = decoder.tokenizer(PROMPTS[1], return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        probs = (decoder.model(ids).logits[0, -1].double() / temperature).softmax(-1).numpy()
    order = np.argsort(-probs)
    n_kept = int(np.searchsorted(np.cumsum(probs[order]), top_p)) + 1
    probs[order[n_kept:]] = 0
    probs /= probs.sum()
    rows = [content_key("text", i) for i in range(n)]
    counts = count_tokens(decoder, rows)
    assert counts[probs == 0].sum() == 0
    # Tokens that are expected less than ten times are counted together.
    rare = probs * n < 10
    expected = np.append(probs[~rare], probs[rare].sum()) * n
    observed = np.append(counts[~rare], counts[rare].sum())
    used = expected > 0
    statistic = ((observed - expected)[used] ** 2 / expected[used]).sum()
    assert used.sum() > 5
    assert chi2.sf(statistic, used.sum() - 1) > 0.001


def count_tokens(decoder: TransformersDecoder, text_keys: list[str]) -> Any:
    """How often each token came first; texts do not tell (a token may be half a character)."""
    seen: list[list[int]] = []
    original = decoder.tokenizer.batch_decode
    decoder.tokenizer.batch_decode = lambda rows, **options: (
        seen.extend(rows) or original(rows, **options)
    )
    decoder.decode([DecodeRequest(key, "", PROMPTS[1], 0, key) for key in text_keys])
    [eos] = decoder.eos_ids
    tokens = [row[0] if row else eos for row in seen]
    return np.bincount(tokens, minlength=decoder.encoder.n_vocab)


def test_a_text_ends_before_the_token_that_ends_it(tmp_path: Path) -> None:
    save_causal_model(tmp_path)
    free = load(tmp_path, max_new_tokens=20)
    long = free.decode(requests_for())
    seen: list[list[int]] = []
    original = free.tokenizer.batch_decode
    free.tokenizer.batch_decode = lambda rows, **options: (
        seen.extend(rows) or original(rows, **options)
    )
    assert free.decode(requests_for()) == long
    places = np.bincount([token for row in seen for token in row])
    stops = [int(i) for i in np.argsort(-places)[:6]]
    generation = json.loads((tmp_path / "generation_config.json").read_text())
    (tmp_path / "generation_config.json").write_text(
        json.dumps(generation | {"eos_token_id": [2, *stops]})
    )
    decoder = load(tmp_path, max_new_tokens=20)
    stopped = decoder.decode(requests_for())
    # In the batch that counts the tokens, rows are sorted: match them by their texts.
    expected = {}
    for row in seen:
        cut = next((i for i, token in enumerate(row) if token in stops), len(row))
        expected[original([row], skip_special_tokens=True)[0]] = (
            original([row[:cut]], skip_special_tokens=True)[0],
            cut,
            cut < len(row),
        )
    n_stopped = 0
    for before, after in zip(long, stopped, strict=True):
        text, cut, has_stopped = expected[before.text]
        assert (after.text, after.n_tokens) == (text, cut)
        if has_stopped:
            assert after.finish == "stop"
            n_stopped += 1
    assert n_stopped > 16
    assert {c.finish for c in stopped} == {"stop", "length"}
    assert {c.n_tokens for c in stopped if c.finish == "length"} == {20}


def test_texts_hold_no_special_tokens(causal_folder: Path) -> None:
    for completion in load(causal_folder, max_new_tokens=40).decode(requests_for(n=20)):
        assert "<eos>" not in completion.text
        assert "<bos>" not in completion.text


def test_an_empty_prompt_continues_the_start_of_a_text(causal_folder: Path) -> None:
    decoder = load(causal_folder)
    [completion] = decoder.decode(
        [DecodeRequest(content_key("text", 0), "", "", 0, content_key("noise", 0))]
    )
    assert completion.finish != "failed"
    assert decoder.encoder.encode([""])[0].ids == (1,)


def test_a_prompt_that_is_too_long_fails_with_its_reason(causal_folder: Path) -> None:
    requests = requests_for((PROMPTS[0], "boat " * 200), n=1)
    good, bad = load(causal_folder).decode(requests)
    assert good.finish != "failed"
    assert (bad.text, bad.n_tokens, bad.finish) == ("", 0, "failed")
    # The context is 128 tokens, 12 of them for the reply.
    assert "leaves room for 116" in bad.reason


def test_a_prompt_that_just_fits_is_decoded(causal_folder: Path) -> None:
    decoder = load(causal_folder)
    n_words = next(n for n in range(300) if len(decoder.encoder.encode(["a" * n])[0].ids) == 116)
    fits, too_long = decoder.decode(requests_for(("a" * n_words, "a" * (n_words + 1)), n=1))
    assert (fits.finish, too_long.finish) == ("length", "failed")


def test_half_a_surrogate_pair_fails_with_its_reason(causal_folder: Path) -> None:
    bad, good = load(causal_folder).decode(requests_for(("\ud800", PROMPTS[1]), n=1))
    assert (bad.finish, good.finish) == ("failed", "length")
    assert "surrogate" in bad.reason


def test_a_token_outside_the_vocabulary_fails_with_its_reason(tmp_path: Path) -> None:
    save_causal_model(tmp_path, vocab_size=100)
    [completion] = load(tmp_path).decode(requests_for((SENTENCES[0],), n=1))
    assert completion.finish == "failed"
    assert "outside the model's vocabulary of 100" in completion.reason


def test_memory_that_runs_out_halves_the_batch_once_for_all_chunks(causal_folder: Path) -> None:
    requests = requests_for(n=16)
    expected = load(causal_folder, batch_size=64).decode(requests)
    decoder = load(causal_folder, batch_size=64)
    sizes: list[int] = []
    wrap(decoder, before=refuse_above(10, sizes))
    completions = decoder.decode(requests)
    assert [c.finish for c in completions].count("failed") == 0
    assert sum(a == b for a, b in zip(completions, expected, strict=True)) >= 63
    # 64 rows, 32, 16, then 8 fit.
    assert decoder.n_out_of_memory == 3
    decoder.decode(requests)
    assert decoder.n_out_of_memory == 3


def test_a_text_that_never_fits_into_memory_fails_with_its_reason(causal_folder: Path) -> None:
    decoder = load(causal_folder, batch_size=4)
    wrap(decoder, before=refuse_above(0, []))
    completions = decoder.decode(requests_for(n=1))
    assert [c.finish for c in completions] == ["failed"] * 4
    assert {c.reason for c in completions} == {"out of memory, even alone in its batch"}


@pytest.mark.parametrize("error", [torch.cuda.OutOfMemoryError("no"), MemoryError()])
def test_each_kind_of_memory_error_is_known(causal_folder: Path, error: Exception) -> None:
    decoder = load(causal_folder, batch_size=2)

    def before(ids: Any) -> None:
        if len(ids) > 1:
            raise error

    wrap(decoder, before=before)
    completions = decoder.decode(requests_for(n=1))
    assert [c.finish for c in completions].count("failed") == 0
    assert decoder.n_out_of_memory == 1


def test_an_error_of_another_kind_is_not_swallowed(causal_folder: Path) -> None:
    def before(ids: Any) -> None:
        raise RuntimeError("the shapes do not match")

    decoder = load(causal_folder)
    wrap(decoder, before=before)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        decoder.decode(requests_for(n=1))


def test_logits_that_are_not_finite_fail_that_text_alone(causal_folder: Path) -> None:
    requests = requests_for(n=1)
    expected = load(causal_folder).decode(requests)
    decoder = load(causal_folder)

    def after(ids: Any, output: Any) -> None:
        if ids.shape[1] > 1:
            output.logits[0] = math.nan

    wrap(decoder, after=after)
    completions = decoder.decode(requests)
    # The longest prompt comes first in the batch.
    assert [c.finish == "failed" for c in completions] == [True, False, False, False]
    assert completions[0].reason == "the model gave NaN or infinite logits"
    assert completions[1:] == expected[1:]


def test_one_prefill_serves_all_samples_of_a_prompt(causal_folder: Path) -> None:
    decoder = load(causal_folder, batch_size=64)
    shapes: list[tuple[int, ...]] = []
    wrap(decoder, before=lambda ids: shapes.append(tuple(ids.shape)))
    decoder.decode(requests_for(PROMPTS[:2], n=30))
    assert shapes[0][0] == 2
    assert shapes[1] == (60, 1)


def test_finished_rows_leave_the_batch(tmp_path: Path) -> None:
    save_causal_model(tmp_path, initializer_range=0.02)
    generation = json.loads((tmp_path / "generation_config.json").read_text())
    # Nearly uniform tokens, and half of them end a text.
    (tmp_path / "generation_config.json").write_text(
        json.dumps(generation | {"eos_token_id": list(range(0, 2048, 2))})
    )
    decoder = load(tmp_path, batch_size=64)
    n_rows: list[int] = []
    wrap(decoder, before=lambda ids: n_rows.append(len(ids)))
    decoder.decode(requests_for(n=16))
    assert n_rows[1] < 45
    assert n_rows[-1] <= 4
    assert len(n_rows) <= 12


def test_a_chat_model_gets_its_template_and_the_system_prompt(chat_folder: Path) -> None:
    decoder = load(chat_folder, system_prompt="Be brief.")
    [prompt] = decoder.encoder.encode(["Hello"])
    shown = decoder.tokenizer.decode(list(prompt.ids))
    assert shown == "<system> Be brief.\n<user> Hello\n<assistant>"


def test_a_plain_prompt_gets_the_tokenizer_s_own_special_tokens(chat_folder: Path) -> None:
    decoder = load(chat_folder, prompt_format="plain")
    [prompt] = decoder.encoder.encode(["Hello"])
    assert decoder.tokenizer.decode(list(prompt.ids)) == "<bos>Hello"


def test_a_chat_format_needs_a_template(causal_folder: Path) -> None:
    with pytest.raises(ConfigError, match="needs a chat template"):
        load(causal_folder, prompt_format="chat")


def test_a_template_that_refuses_a_system_prompt_is_a_config_error(tmp_path: Path) -> None:
    template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "{{ messages[-1]['content'] }}"
    )
    save_causal_model(tmp_path, chat_template=template)
    assert load(tmp_path).encoder.is_chat
    with pytest.raises(ConfigError, match="refuses a system prompt"):
        load(tmp_path, system_prompt="Be brief.")


def test_a_reply_that_fills_the_context_is_a_config_error(causal_folder: Path) -> None:
    with pytest.raises(ConfigError, match="max_new_tokens"):
        load(causal_folder, max_new_tokens=128)


def test_sixteen_bit_weights_are_computed_in_float32_on_a_cpu(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    save_causal_model(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    model.to(torch.float16).save_pretrained(tmp_path)
    assert load(tmp_path).model.dtype == torch.float32
    assert load(tmp_path, dtype="float16").model.dtype == torch.float16


def test_threads_get_the_texts_that_they_asked_for(causal_folder: Path) -> None:
    decoder = load(causal_folder)
    chunks = [requests_for((prompt,), n=6) for prompt in PROMPTS]
    expected = [decoder.decode(chunk) for chunk in chunks]
    found: dict[int, list[Completion]] = {}
    threads = [
        threading.Thread(target=lambda i=i: found.update({i: decoder.decode(chunks[i])}))
        for i in range(len(chunks))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[i] for i in range(len(chunks))] == expected


def test_a_folder_without_a_causal_model_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "nobody-knows"}')
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match="expected a causal language model"):
        load(tmp_path)


def test_an_unknown_device_is_a_config_error(causal_folder: Path) -> None:
    config = ModelConfig(model=str(causal_folder))
    for device in ("cuda:99", "warp-drive"):
        with pytest.raises(ConfigError, match=r"run\.device"):
            load_decoder(config, DecodeConfig(), device, "auto")


def test_a_batch_is_as_large_as_its_bytes_allow() -> None:
    limit = BatchLimit(max_rows=100, max_bytes=10_000, bytes_per_token=10, bytes_per_row=50)
    # A row of 20 tokens takes 250 bytes.
    assert limit.n_fitting(20) == 40
    assert limit.n_fitting(1) == 100
    assert limit.n_fitting(10_000) == 1


def test_a_batch_size_that_is_asked_for_is_obeyed(causal_folder: Path) -> None:
    config = load(causal_folder).model.config
    assert batch_limit(config, 4, torch.device("cpu"), 7).n_fitting(10**6) == 7
    assert batch_limit(config, 4, torch.device("cpu"), "auto").n_fitting(60) == 256
