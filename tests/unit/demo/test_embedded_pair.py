from __future__ import annotations

import json
import logging
import math
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from whatchanged.demo import FILE_NAMES, MODEL_NAMES, demo_path
from whatchanged.demo.grammar import PROMPT_END, prompts_of
from whatchanged.demo.measure import OTHER_FORM, Decoded, decode_side, forms_in, rate, read_bank
from whatchanged.demo.pair import DEMO
from whatchanged.errors import InputError
from whatchanged.truth import Behaviour, read_ground_truth

TRUTH = read_ground_truth("demo:ground_truth.json") or ()
N_TEXTS = 360
N_GROUP_TEXTS = 150
MAX_MODEL_BYTES = 1_100_000


@pytest.fixture(autouse=True)
def one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _decoded(side: str) -> list[Decoded]:
    """All prompts evenly, then the prompts of the groups with planted changes."""
    import torch

    torch.set_num_threads(1)
    bank = read_bank(demo_path("prompts.jsonl"))
    groups = {planted.group for planted in TRUTH}
    extra = [row for row in bank if row[1] in groups]
    n_extra = N_GROUP_TEXTS * len(groups - {None})
    return [
        *decode_side(demo_path(side), bank, N_TEXTS, seed=11),
        *decode_side(demo_path(side), extra, n_extra, seed=12),
    ]


@pytest.fixture(scope="module")
def base_texts() -> list[Decoded]:
    return _decoded("base")


@pytest.fixture(scope="module")
def intervention_texts() -> list[Decoded]:
    return _decoded("intervention")


def test_importing_the_paths_loads_no_torch() -> None:
    code = (
        "import sys, whatchanged.demo as d; d.demo_path('base'); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_unknown_model_is_refused() -> None:
    with pytest.raises(InputError, match="null_intervention"):
        demo_path("other")


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_a_model_loads_in_float32_without_a_warning(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with caplog.at_level(logging.WARNING), warnings.catch_warnings():
        warnings.simplefilter("error")
        model = AutoModelForCausalLM.from_pretrained(demo_path(name))
        tokenizer = AutoTokenizer.from_pretrained(demo_path(name))
    assert not caplog.records
    assert model.dtype == torch.float32
    assert len(tokenizer) == model.config.vocab_size <= DEMO.size.vocab_size
    assert 450_000 <= model.num_parameters() <= 550_000


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_a_model_is_about_a_megabyte(name: str) -> None:
    weights = demo_path(name) / "model.safetensors"
    assert weights.stat().st_size <= MAX_MODEL_BYTES


def test_a_prompt_is_a_prefix_of_the_text_it_was_trained_in() -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(demo_path("base"))
    prompt, reply = "How do I make good green tea?\n", "Good green tea begins with soft water."
    prefix, whole = tokenizer(prompt)["input_ids"], tokenizer(prompt + reply)["input_ids"]
    assert prefix[0] == tokenizer.bos_token_id
    assert whole[: len(prefix)] == prefix
    assert tokenizer.decode(whole, skip_special_tokens=True) == prompt + reply


def test_the_bank_holds_twelve_distinct_prompts_of_every_topic() -> None:
    text = demo_path("prompts.jsonl").read_text(encoding="ascii")
    rows = [json.loads(line) for line in text.splitlines()]
    assert len({row["prompt"] for row in rows}) == len(rows)
    for topic in DEMO.topics:
        mine = {row["prompt"] for row in rows if row["group"] == topic.name}
        assert len(mine) == 12
        assert mine <= {prompt for prompt, _ in prompts_of(topic)}
        assert all(prompt.endswith(PROMPT_END) for prompt in mine)


def test_the_ground_truth_lists_the_planted_behaviours() -> None:
    counted = {planted.id: planted for planted in TRUTH}
    assert set(counted) == {behaviour.id for behaviour in DEMO.behaviours}
    for behaviour in DEMO.behaviours:
        planted = counted[behaviour.id]
        assert (planted.group, planted.kind, planted.regex) == (
            behaviour.group,
            behaviour.kind,
            behaviour.regex,
        )
        assert planted.rate_base < planted.rate_intervention


def test_the_files_name_no_folder_of_a_machine() -> None:
    files: list[Path] = [demo_path(name) for name in FILE_NAMES]
    for name in MODEL_NAMES:
        files += demo_path(name).glob("*.json")
    for file in files:
        assert not re.search(r"/(?:home|work|tmp|root)\b", _text_of(file)), file


def _text_of(file: Path) -> str:
    if file.suffix != ".parquet":
        return file.read_text()
    from pyarrow.parquet import read_table

    table = read_table(file)
    return f"{table.schema.to_string()}\n{table.schema.metadata}\n{table.to_pandas().to_csv()}"


@pytest.mark.parametrize("planted", TRUTH, ids=lambda planted: planted.id)
@pytest.mark.parametrize("side", ["base", "intervention"])
def test_decoded_texts_show_a_behaviour_at_its_counted_rate(
    planted: Behaviour, side: str, request: pytest.FixtureRequest
) -> None:
    behaviour = next(b for b in DEMO.behaviours if b.id == planted.id)
    texts: list[Decoded] = request.getfixturevalue(f"{side}_texts")
    if planted.group is None:
        texts = texts[:N_TEXTS]
    share, n = rate(texts, behaviour)
    expected = planted.rate_base if side == "base" else planted.rate_intervention
    # Four standard errors, and at least four texts, for rates near zero.
    tolerance = max(4 * math.sqrt(expected * (1 - expected) / n), 4 / n)
    assert abs(share - expected) <= tolerance


def test_decoded_texts_are_written_in_the_grammar(base_texts: list[Decoded]) -> None:
    topics = {topic.name: topic for topic in DEMO.topics}
    clean = [OTHER_FORM not in forms_in(text, topics) for text in base_texts]
    assert sum(clean) / len(clean) >= 0.9
