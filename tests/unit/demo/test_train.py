from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from whatchanged.demo.measure import Decoded, measure_pair, sentences_of, text_log_probs
from whatchanged.demo.pair import DEMO, SIDES, ModelSize, PairSpec, Recipe
from whatchanged.demo.train import (
    Encoded,
    _first_difference,
    batch_loss,
    batch_of,
    encode_pairs,
    load_model,
    new_model,
    train_pair,
    train_tokenizer,
)

TINY = PairSpec(
    topics=DEMO.topics[:2],
    behaviours=tuple(b for b in DEMO.behaviours if b.group in (None, "tea")),
    size=ModelSize(vocab_size=400, hidden_size=16, n_layers=1, n_heads=2, mlp_size=32),
    base=Recipe(n_steps=3, lr=1e-3, batch_texts=4),
    finetune=Recipe(n_steps=3, lr=1e-3, batch_texts=4, hard_weight=0.2),
    n_bank_prompts=3,
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch

    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("pair")
    train_pair(TINY, out)
    return out


def test_the_first_difference_is_where_the_edit_starts() -> None:
    assert _first_difference([1, 2, 3], [1, 2, 3]) == 3
    assert _first_difference([1, 2, 3], [1, 9, 2, 3]) == 1
    assert _first_difference([1, 2, 3], [1, 2]) == 2


def test_only_the_reply_and_its_end_are_targets() -> None:
    # Targets are tokens 1.. of each text: a text of 5 with a prompt of 3 has two.
    batch = batch_of([Encoded((1, 5, 6, 7, 2), 3, 4), Encoded((1, 5, 7, 2), 2, 4)], pad_id=0)
    assert batch.ids.tolist() == [[1, 5, 6, 7, 2], [1, 5, 7, 2, 0]]
    assert batch.is_target.tolist() == [[False, False, True, True], [False, True, True, False]]
    assert batch.is_soft.tolist() == [[False, False, True, False], [False, True, True, False]]


def test_the_loss_of_the_base_against_itself_has_no_gradient() -> None:
    tokenizer = train_tokenizer(TINY, n_texts=200)
    model, base = (new_model(TINY.size, tokenizer, seed=0) for _ in range(2))
    texts = encode_pairs([("Tea?\n", "Good tea.", "Good tea.")], tokenizer)
    loss = batch_loss(model, base, batch_of(texts, tokenizer.pad_token_id), hard_weight=0.0)
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
    assert max(float(p.grad.abs().max()) for p in model.parameters()) < 1e-6


def test_a_pair_is_trained_saved_and_counted(tiny: Path) -> None:
    rows = measure_pair(TINY, tiny, n_texts=12, n_group_texts=6)
    assert [row["id"] for row in rows] == [b.id for b in TINY.behaviours]
    assert json.loads((tiny / "ground_truth.json").read_text()) == {"behaviours": rows}
    assert len((tiny / "prompts.jsonl").read_text().splitlines()) == 6
    assert sorted(p.name for p in (tiny / "models").iterdir()) == sorted(SIDES)


def test_training_is_deterministic(tiny: Path, tmp_path: Path) -> None:
    train_pair(TINY, tmp_path)
    for side in SIDES:
        file = Path("models") / side / "model.safetensors"
        assert (tiny / file).read_bytes() == (tmp_path / file).read_bytes()


def test_another_seed_gives_another_pair(tiny: Path, tmp_path: Path) -> None:
    train_pair(replace(TINY, seed=1), tmp_path)
    file = Path("models") / "base" / "model.safetensors"
    assert (tiny / file).read_bytes() != (tmp_path / file).read_bytes()


def test_log_probabilities_do_not_depend_on_the_batch(tiny: Path) -> None:
    model, tokenizer = load_model(tiny / "models" / "base")
    texts = [Decoded("tea", "Tea?\n", "Warm the pot."), Decoded("tea", "Tea?\n", "Pour it slowly.")]
    together = text_log_probs(model, tokenizer, texts)
    apart = [text_log_probs(model, tokenizer, [text])[0] for text in texts]
    assert together.tolist() == pytest.approx(apart, rel=1e-5)


def test_sentences_are_split_after_their_end() -> None:
    assert sentences_of("One. Two three. ") == ["One.", "Two three."]
    assert sentences_of(" ") == []
