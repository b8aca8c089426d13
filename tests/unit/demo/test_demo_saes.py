"""The embedded SAEs: their files, how good they are, and that their specialists are real."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from whatchanged.demo import demo_path
from whatchanged.demo.categories import categorized_texts
from whatchanged.demo.pair import DEMO
from whatchanged.demo.saes import SAE_NAMES, demo_sae_path
from whatchanged.demo.train_saes import SPECS, fire, fit, new_sae, plant_topics, revival_loss
from whatchanged.errors import InputError
from whatchanged.models.sae_effects import ablate_features, matched_features, recovered_losses
from whatchanged.models.sae_features import Extraction, extract_features
from whatchanged.models.sae_folders import load_sae_folder
from whatchanged.models.saes import Sae

N_PER_TOPIC = 15
MAX_SAE_BYTES = 320_000


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@cache
def base() -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = demo_path("base")
    return AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(
        folder
    )


@cache
def saes() -> dict[str, Sae]:
    return {name: load_sae_folder(demo_sae_path(name)) for name in SAE_NAMES}


@cache
def rows() -> tuple[tuple[str, str], ...]:
    found = categorized_texts(DEMO.topics, N_PER_TOPIC, seed=0)
    return tuple((row["text"], row["category"]) for row in found)


@cache
def extraction() -> Extraction:
    return extract_features(*base(), list(saes().values()), [text for text, _ in rows()])


def fires(name: str) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Where each feature fires, `(n_texts, d_sae)`."""
    return extraction().features[name].pooled.toarray() > 0


def is_topic(topic: str) -> np.ndarray[Any, np.dtype[np.bool_]]:
    return np.array([category == topic for _, category in rows()])


def scores(name: str, topic: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Of each feature, the share of the topic's texts that it fires on less that of the others."""
    inside = is_topic(topic)
    return fires(name)[inside].mean(axis=0) - fires(name)[~inside].mean(axis=0)


def n_topics_with(name: str, score: float) -> int:
    return sum(scores(name, topic.name).max() >= score for topic in DEMO.topics)


# Files -------------------------------------------------------------------------------------------


def test_three_saes_of_different_layers_ship_and_are_small() -> None:
    settings = {name: sae.settings for name, sae in saes().items()}
    assert {name: (s.architecture, s.hook_name) for name, s in settings.items()} == {
        "topk": ("topk", "blocks.1.hook_resid_post"),
        "jumprelu": ("jumprelu", "blocks.2.hook_resid_post"),
        "poor": ("topk", "blocks.0.hook_resid_post"),
    }
    for name in SAE_NAMES:
        files = list(demo_sae_path(name).iterdir())
        assert {file.name for file in files} == {"cfg.json", "sae_weights.safetensors"}
        assert sum(file.stat().st_size for file in files) < MAX_SAE_BYTES
    with pytest.raises(InputError, match="there are topk, jumprelu, poor"):
        demo_sae_path("gated")


# How good they are -------------------------------------------------------------------------------


def test_two_reconstruct_what_they_read_and_the_poor_one_does_not() -> None:
    quality = {name: part.reconstruction for name, part in extraction().features.items()}
    some = [text for text, _ in rows()[::8]]
    recovered = recovered_losses(*base(), list(saes().values()), some)
    for name in ("topk", "jumprelu"):
        assert quality[name].explained_variance > 0.7
        assert quality[name].dead_share < 0.05
        assert recovered[name].share > 0.8
    assert quality["topk"].l0 == pytest.approx(6, abs=0.01)
    assert 7 < quality["jumprelu"].l0 < 13
    assert quality["poor"].explained_variance < 0.3
    assert recovered["poor"].share < 0.2


def test_every_topic_has_a_selective_feature_in_the_good_ones_and_few_in_the_poor_one() -> None:
    n_topics = len(DEMO.topics)
    assert n_topics_with("topk", 0.75) == n_topics
    assert n_topics_with("jumprelu", 0.6) == n_topics
    assert n_topics_with("poor", 0.75) <= 4


def test_shuffled_categories_have_no_such_feature() -> None:
    order = np.random.default_rng(3).permutation(len(rows()))
    inside = is_topic("bees")[order]
    for name in SAE_NAMES:
        share = fires(name)[inside].mean(axis=0) - fires(name)[~inside].mean(axis=0)
        assert share.max() < 0.5


def test_every_topic_has_a_planted_feature_that_fires_on_it_and_hardly_elsewhere() -> None:
    for place, topic in enumerate(DEMO.topics):
        assert scores("topk", topic.name)[place] > 0.9


def strongest_effects(name: str, topic: str) -> tuple[float, float]:
    """The mean change in nats of the strongest of five specialists of a topic, and of the strongest
    of five controls that fire as often on its texts.

    The strongest is chosen on one half of the texts and measured on the other.
    """
    inside = is_topic(topic)
    specialists = np.argsort(-scores(name, topic))[:5].tolist()
    rates = fires(name)[inside].mean(axis=0)
    controls = matched_features(rates, specialists, 1, np.random.default_rng(0))[:, 0].tolist()
    texts = [text for (text, _), is_in in zip(rows(), inside, strict=True) if is_in]
    changes = ablate_features(*base(), saes()[name], [*specialists, *controls], texts).changes
    choosing, measuring = changes[:, ::2].mean(axis=1), changes[:, 1::2].mean(axis=1)
    best, best_control = choosing[:5].argmin(), 5 + choosing[5:].argmin()
    return float(measuring[best]), float(measuring[best_control])


def n_topics_with_real_specialists(name: str) -> int:
    """Topics whose specialist costs their texts a nat more than a control that fires as often."""
    effects = [strongest_effects(name, topic.name) for topic in DEMO.topics]
    return sum(specialist < min(-1, control - 1) for specialist, control in effects)


def test_most_topics_have_a_real_specialist_in_the_good_sae_and_few_in_the_poor_one() -> None:
    assert n_topics_with_real_specialists("topk") >= 12
    assert n_topics_with_real_specialists("poor") <= 5


# Texts -------------------------------------------------------------------------------------------


def test_categorized_texts_differ_and_more_of_them_start_with_the_fewer() -> None:
    found = categorized_texts(DEMO.topics, 4, seed=5)
    more = categorized_texts(DEMO.topics, 6, seed=5)
    assert [row["category"] for row in found] == [t.name for t in DEMO.topics for _ in range(4)]
    assert len({row["text"] for row in more}) == len(more)
    assert found[4:8] == more[6:10]
    assert found != categorized_texts(DEMO.topics, 4, seed=6)


# Training ----------------------------------------------------------------------------------------


def test_the_largest_fire_per_row_or_on_average_over_the_batch() -> None:
    before = torch.tensor([[3.0, -1.0, 2.0], [1.0, -2.0, 0.5]])
    assert fire(before, 1, per_batch=False).tolist() == [[3, 0, 0], [1, 0, 0]]
    assert fire(before, 1, per_batch=True).tolist() == [[3, 0, 2], [0, 0, 0]]
    assert fire(before, 3, per_batch=False).tolist() == [[3, 0, 2], [1, 0, 0.5]]


def test_silent_features_are_asked_to_explain_what_is_left() -> None:
    before, missing = torch.tensor([[2.0, 9.0]]), torch.tensor([[4.0, 0.0]])
    directions = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    is_silent = torch.tensor([True, False])
    # The silent one gives (2, 0): what is then missing is (2, 0), a quarter of (4, 0) squared.
    assert revival_loss(before, is_silent, missing, directions).item() == 0.25
    assert revival_loss(before, torch.tensor([False, False]), missing, directions).item() == 0


def test_a_planted_feature_fires_on_its_topic_and_writes_what_its_tokens_share() -> None:
    generator = torch.Generator().manual_seed(0)
    topics = torch.arange(3000) % 3
    shifts = torch.tensor([[5.0, 0.0, 0.0], [0.0, 5.0, 0.0], [0.0, 0.0, 5.0]])
    activations = shifts[topics] + torch.randn(3000, 3, generator=generator) / 4
    planted = plant_topics(activations, topics, generator)
    centred = activations - activations.mean(dim=0)
    fired = torch.relu(centred @ planted["W_enc"] + planted["b_enc"])
    assert ((fired > 0) == torch.nn.functional.one_hot(topics)).float().mean() > 0.99
    # The mean of all is (5/3, 5/3, 5/3): the first topic has 10/3 more of the first, 5/3 less of
    # the others.
    written = (fired @ planted["W_dec"])[topics == 0].mean(dim=0)
    torch.testing.assert_close(written, torch.tensor([10.0, -5.0, -5.0]) / 3, atol=0.3, rtol=0)


def test_training_twice_gives_the_same_weights_and_explains_more_than_before() -> None:
    from dataclasses import replace

    activations = torch.randn(2000, 96, generator=torch.Generator().manual_seed(0)) + 1
    topics = torch.arange(2000) % 4
    for spec in SPECS[:2]:
        short = replace(spec, n_steps=30, d_sae=64)
        untrained = new_sae(short, base()[0], seed=1)
        first, second = (fit(untrained, short, activations, topics, seed=2) for _ in range(2))
        assert first.identity == second.identity != untrained.identity

        def error(sae: Sae) -> float:
            return float((activations - sae.decode(sae.encode(activations), activations)).norm())

        assert error(first) < error(untrained)
