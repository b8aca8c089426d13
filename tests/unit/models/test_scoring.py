"""Texts under both models."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.unit.models.tiny_models import CHAT_TEMPLATE, SENTENCES, save_causal_model
from whatchanged.keys import content_key
from whatchanged.model_config import DecodeConfig, ModelConfig
from whatchanged.models.scoring import PairScorer
from whatchanged.models.transformers_decoder import TransformersDecoder, load_decoder
from whatchanged.records import DecodeRequest, ScoreRequest

PROMPTS = ("A lamp", SENTENCES[0], "How do I plan a garden?")


def load(folder: Path, temperature: float = 1.0) -> TransformersDecoder:
    decode = DecodeConfig(max_new_tokens=12, temperature=temperature)
    return load_decoder(ModelConfig(model=str(folder)), decode, "cpu", "plain")


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folders = [tmp_path_factory.mktemp(name) for name in ("base", "intervention")]
    save_causal_model(folders[0], seed=0, initializer_range=0.05)
    save_causal_model(folders[1], seed=1, initializer_range=0.05)
    return folders[0], folders[1]


def write(decoder: TransformersDecoder, n: int = 4) -> list[ScoreRequest]:
    requests = [
        DecodeRequest(content_key("t", p, i), p, p, i, content_key("noise", p, i))
        for p in PROMPTS
        for i in range(n)
    ]
    completions = decoder.decode(requests)
    return [
        ScoreRequest(request.prompt, completion.text, completion.token_ids)
        for request, completion in zip(requests, completions, strict=True)
    ]


def distributions(decoder: TransformersDecoder, request: ScoreRequest) -> torch.Tensor:
    """The log-probabilities at every position of a reply, one text at a time."""
    prompt = decoder.tokenizer(request.prompt)["input_ids"]
    ids = torch.tensor([[*prompt, *request.token_ids]])
    with torch.inference_mode():
        logits = decoder.model(ids).logits[0, len(prompt) - 1 : -1].double()
    return (logits / decoder.config.temperature).log_softmax(-1)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_scores_are_those_of_one_text_at_a_time(
    sides: tuple[Path, Path], temperature: float
) -> None:
    base, intervention = (load(folder, temperature) for folder in sides)
    requests = write(base)
    scores = PairScorer(base, intervention, True).score(requests)
    for request, score in zip(requests, scores, strict=True):
        p, q = distributions(base, request), distributions(intervention, request)
        drawn = torch.tensor(request.token_ids)[:, None]
        assert score.logprob_base == pytest.approx(float(p.gather(1, drawn).sum()), rel=1e-4)
        assert score.differences == pytest.approx(
            (p.gather(1, drawn) - q.gather(1, drawn))[:, 0].numpy(), abs=1e-3
        )
        assert score.kl_base == pytest.approx(float((p.exp() * (p - q)).sum()), rel=1e-3)
        assert score.kl_intervention == pytest.approx(float((q.exp() * (q - p)).sum()), rel=1e-3)
        variation = (p.exp() - q.exp()).abs().sum(-1) / 2
        assert score.parting == pytest.approx(1 - float((1 - variation).prod()), abs=1e-4)


def test_the_divergence_has_the_mean_of_the_log_ratio_and_less_noise(
    sides: tuple[Path, Path],
) -> None:
    base, intervention = (load(folder) for folder in sides)
    scores = PairScorer(base, intervention, True).score(write(base, 150))
    ratios = np.array([s.logprob_base - s.logprob_intervention for s in scores])
    divergences = np.array([s.kl_base for s in scores])
    error = math.hypot(ratios.std(), divergences.std()) / math.sqrt(len(scores))
    assert abs(ratios.mean() - divergences.mean()) < 4 * error
    assert divergences.std() < ratios.std() / 2


def test_equal_models_never_part(sides: tuple[Path, Path]) -> None:
    base = load(sides[0])
    for score in PairScorer(base, base, True).score(write(base, 1)):
        assert score.logprob_base == score.logprob_intervention < 0
        assert (score.kl_base, score.kl_intervention, score.parting) == (0.0, 0.0, 0.0)


def test_texts_without_tokens_and_unreadable_prompts_have_no_score(
    sides: tuple[Path, Path],
) -> None:
    base, intervention = (load(folder) for folder in sides)
    known = write(base, 1)[0]
    requests = [
        ScoreRequest("A lamp", "", ()),
        known,
        ScoreRequest("word " * 500, known.text, known.token_ids),
        known,
    ]
    scores = PairScorer(base, intervention, True).score(requests)
    assert [math.isnan(score.parting) for score in scores] == [True, False, True, False]
    assert scores[1] is scores[3]
    assert PairScorer(base, intervention, True).score([]) == []


def test_models_with_other_tokens_are_compared_by_whole_texts(sides: tuple[Path, Path]) -> None:
    base, intervention = (load(folder) for folder in sides)
    ids = [tuple(base.tokenizer(s, add_special_tokens=False)["input_ids"]) for s in SENTENCES]
    requests = [ScoreRequest("A lamp", *pair) for pair in zip(SENTENCES, ids, strict=True)]
    by_tokens = PairScorer(base, intervention, True).score(requests)
    by_texts = PairScorer(base, intervention, False).score(requests)
    for one, other in zip(by_tokens, by_texts, strict=True):
        assert other.logprob_base == pytest.approx(one.logprob_base, rel=1e-4)
        assert other.logprob_intervention == pytest.approx(one.logprob_intervention, rel=1e-4)
        assert math.isnan(other.kl_base)
        assert math.isnan(other.parting)


def test_each_side_reads_the_prompt_in_its_own_format(
    sides: tuple[Path, Path], tmp_path: Path
) -> None:
    chat = save_causal_model(tmp_path, seed=1, initializer_range=0.05, chat_template=CHAT_TEMPLATE)
    base, plain = (load(folder) for folder in sides)
    decode = DecodeConfig(max_new_tokens=12)
    chatty = load_decoder(ModelConfig(model=str(chat)), decode, "cpu", "chat")
    [request] = write(base, 1)[:1]
    [apart] = PairScorer(base, chatty, True).score([request])
    [alike] = PairScorer(base, plain, True).score([request])
    assert apart.logprob_base == pytest.approx(alike.logprob_base, rel=1e-5)
    ids = chatty.encoder.encode([request.prompt])[0].ids
    with torch.inference_mode():
        logits = chatty.model(torch.tensor([[*ids, *request.token_ids]])).logits
    logits = logits[0, len(ids) - 1 : -1]
    drawn = logits.log_softmax(-1).gather(1, torch.tensor(request.token_ids)[:, None])
    assert apart.logprob_intervention == pytest.approx(float(drawn.sum()), rel=1e-4)
    assert apart.logprob_intervention != pytest.approx(alike.logprob_intervention, rel=1e-3)


def test_a_padded_vocabulary_is_no_obstacle(sides: tuple[Path, Path]) -> None:
    base, intervention, padded = load(sides[0]), load(sides[1]), load(sides[1])
    requests = write(base, 1)
    n_vocab = padded.model.get_input_embeddings().weight.shape[0]
    padded.model.resize_token_embeddings(n_vocab + 64)
    with torch.no_grad():
        padded.model.get_input_embeddings().weight[n_vocab:] = 0
    for one, other in zip(
        PairScorer(base, intervention, True).score(requests),
        PairScorer(base, padded, True).score(requests),
        strict=True,
    ):
        assert other.logprob_intervention == pytest.approx(one.logprob_intervention, rel=1e-4)
        assert other.parting == pytest.approx(one.parting, abs=1e-4)


def test_moved_mass_is_weighted_by_how_far_both_models_would_have_got(
    sides: tuple[Path, Path],
) -> None:
    base, intervention = (load(folder) for folder in sides)
    requests = write(base, 1)
    for request, score in zip(
        requests, PairScorer(base, intervention, True).score(requests), strict=True
    ):
        log_p, log_q = distributions(base, request), distributions(intervention, request)
        drawn = torch.tensor(request.token_ids)[:, None]
        p, q = (d.gather(1, drawn)[:, 0].cumsum(0).exp()[:-1] for d in (log_p, log_q))
        common = torch.cat([torch.ones(1), 2 * torch.minimum(p, q) / (p + q)])[:, None]
        gained = (log_q.exp() - log_p.exp()) * common
        masses = {
            1: gained.clamp(min=0).sum(0).numpy(),
            -1: gained.clamp(max=0).sum(0).numpy(),
        }
        assert 0 < len(score.moved_tokens) <= 32
        for token, mass in zip(score.moved_tokens, score.moved_mass, strict=True):
            assert mass == pytest.approx(masses[int(np.sign(mass))][token], abs=1e-4)
        everything = np.abs(np.concatenate(list(masses.values())))
        kept = np.sort(everything[everything >= 1e-3])[::-1][:32]
        assert np.sort(np.abs(score.moved_mass))[::-1] == pytest.approx(kept, abs=1e-4)


def test_at_the_first_place_all_that_moves_counts(sides: tuple[Path, Path]) -> None:
    base, intervention = (load(folder) for folder in sides)
    [request] = write(base, 1)[:1]
    first = ScoreRequest(request.prompt, request.text[:1], request.token_ids[:1])
    [score] = PairScorer(base, intervention, True).score([first])
    p, q = distributions(base, first)[0].exp(), distributions(intervention, first)[0].exp()
    for token, mass in zip(score.moved_tokens, score.moved_mass, strict=True):
        assert mass == pytest.approx(float(q[token] - p[token]), abs=1e-5)


def test_equal_models_move_nothing(sides: tuple[Path, Path]) -> None:
    base = load(sides[0])
    for score in PairScorer(base, base, True).score(write(base, 1)):
        assert len(score.moved_tokens) == len(score.moved_mass) == 0
