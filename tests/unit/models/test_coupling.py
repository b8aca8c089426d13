"""Texts of two models that were decoded with the same noise."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import chi2_contingency

from tests.unit.models.tiny_models import save_causal_model
from whatchanged.keys import content_key
from whatchanged.model_config import DecodeConfig, ModelConfig
from whatchanged.models.coupling import has_same_tokens, why_independent
from whatchanged.models.transformers_decoder import load_decoder
from whatchanged.records import DecodeRequest

DECODE = DecodeConfig(max_new_tokens=3, temperature=0.7)
N = 3000


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model, and the same one after a small step in a random direction."""
    base = save_causal_model(tmp_path_factory.mktemp("base"))
    moved = save_causal_model(tmp_path_factory.mktemp("moved"))
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(moved, dtype=torch.float32)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.04 * weight.std() * torch.randn(weight.shape, generator=generator)
    model.save_pretrained(moved)
    return base, moved


def decode(folder: Path, noise: str) -> list[tuple[int, ...]]:
    requests = [
        DecodeRequest(content_key("text", i), "p", "A lamp", i, content_key(noise, i))
        for i in range(N)
    ]
    decoder = load_decoder(ModelConfig(model=str(folder)), DECODE, "cpu", "plain")
    return [completion.token_ids for completion in decoder.decode(requests)]


def test_coupled_texts_have_the_distribution_of_independent_ones(
    folders: tuple[Path, Path],
) -> None:
    base, moved = folders
    first, coupled, independent = decode(base, "a"), decode(moved, "a"), decode(moved, "b")
    # The second token depends on the first, so that the pair of them tests both steps.
    counts = [Counter(ids[:2] for ids in side) for side in (coupled, independent)]
    common = [pair for pair, _ in (counts[0] + counts[1]).most_common(60)]
    table = np.array([[count[pair] for pair in common] for count in counts])
    rest = [[N - row.sum()] for row in table]
    assert chi2_contingency(np.hstack([table, rest])).pvalue > 0.001
    # And yet they agree with the other model's texts far more often than chance would have it.
    agree = np.mean([one == other for one, other in zip(first, coupled, strict=True)])
    by_chance = np.mean([one == other for one, other in zip(first, independent, strict=True)])
    assert agree > 0.5
    assert by_chance < 0.1


def test_a_model_is_not_coupled_with_itself(folders: tuple[Path, Path]) -> None:
    base, moved = (ModelConfig(model=str(folder)) for folder in folders)
    assert why_independent(base, moved, DECODE, "auto") == ""
    assert "same model" in why_independent(base, base, DECODE, "auto")
    # With another system prompt or precision the same weights are another side.
    assert why_independent(base, base.model_copy(update={"dtype": "float16"}), DECODE, "auto") == ""


def test_coupling_can_be_turned_off(folders: tuple[Path, Path]) -> None:
    base, moved = (ModelConfig(model=str(folder)) for folder in folders)
    off = DECODE.model_copy(update={"coupling": "off"})
    assert "config" in why_independent(base, moved, off, "auto")


def test_what_counts_is_which_id_a_token_has(folders: tuple[Path, Path], tmp_path: Path) -> None:
    base, moved = (ModelConfig(model=str(folder)) for folder in folders)
    file = folders[1] / "tokenizer.json"
    written = file.read_text()
    file.write_text(written + "\n")
    assert has_same_tokens(base, moved)
    file.write_text(written)

    other = save_causal_model(tmp_path)
    text = (other / "tokenizer.json").read_text()
    (other / "tokenizer.json").write_text(text.replace('"<pad>"', '"<none>"'))
    assert not has_same_tokens(base, ModelConfig(model=str(other)))
    reason = why_independent(base, ModelConfig(model=str(other)), DECODE, "auto")
    assert "tokenizers differ" in reason
