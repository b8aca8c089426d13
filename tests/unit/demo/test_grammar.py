from __future__ import annotations

import random
import re

import pytest

from whatchanged.demo.grammar import (
    Topic,
    fill,
    fillings,
    prompt_bank,
    prompts_of,
    sentence_forms,
    write_example,
)
from whatchanged.demo.pair import DEMO

HAT = Topic(
    name="hat",
    subjects=("a cap", "a beret"),
    prompts=("Do you like {subject}?", "What shall I wear?"),
    openers=("{Subject} is {warm|soft}.",),
    details=("It keeps the {rain|sun} out.", "It fits."),
    tips=("Brush {subject} often.",),
    closers=("Enjoy it.",),
)

SENTENCE = re.compile(r"^[A-Z][A-Za-z ,]+\.$")


def test_fillings_are_every_combination_in_a_fixed_order() -> None:
    assert list(fillings("{a|b} of {subject} {1|2}", "tea")) == [
        "a of tea 1",
        "a of tea 2",
        "b of tea 1",
        "b of tea 2",
    ]


def test_a_filling_is_one_of_all_fillings() -> None:
    template = "{Subject} is {warm|soft} and {light|red}."
    drawn = {fill(template, "a cap", random.Random(i)) for i in range(100)}
    assert drawn == set(fillings(template, "a cap"))


def test_prompts_know_their_subject() -> None:
    assert set(prompts_of(HAT)) == {
        ("Do you like a cap?\n", "a cap"),
        ("Do you like a beret?\n", "a beret"),
        ("What shall I wear?\n", None),
    }


def test_the_bank_goes_round_the_subjects() -> None:
    bank = prompt_bank((HAT,), n_per_topic=3, seed=0)
    assert bank[0] == {"prompt": "What shall I wear?\n", "group": "hat"}
    assert {row["prompt"] for row in bank[1:]} == {
        "Do you like a cap?\n",
        "Do you like a beret?\n",
    }


def test_the_same_seed_writes_the_same_text() -> None:
    def written(seed: int) -> list[str]:
        rng = random.Random(seed)
        return [write_example(topic, rng).text for topic in DEMO.topics]

    assert written(3) == written(3)
    assert written(3) != written(4)


def test_there_are_24_topics_with_distinct_names() -> None:
    assert len({topic.name for topic in DEMO.topics}) == len(DEMO.topics) >= 24


@pytest.mark.parametrize("topic", DEMO.topics, ids=lambda topic: topic.name)
def test_every_sentence_of_a_topic_is_well_formed(topic: Topic) -> None:
    sentences = sentence_forms(topic)
    assert 80 <= len(sentences) <= 400
    for sentence in sentences:
        assert SENTENCE.match(sentence), sentence
        assert not re.search(r"  | ,|\b(?:an? an?|the the)\b", sentence), sentence
        assert not re.search(r"\ba [aeiou](?!ne|ni|se)", sentence), sentence
        assert not re.search(r"\ban [^aeiouh]", sentence), sentence


@pytest.mark.parametrize("topic", DEMO.topics, ids=lambda topic: topic.name)
def test_every_topic_writes_varied_texts_of_a_few_sentences(topic: Topic) -> None:
    rng = random.Random(0)
    texts = [write_example(topic, rng) for _ in range(300)]
    n_words = [len(text.text.split()) for text in texts]
    assert len({text.text for text in texts}) >= 295
    assert {len(text.reply) for text in texts} == {3, 4, 5}
    assert 26 <= sum(n_words) / len(n_words) <= 42
    assert max(n_words) <= 60


def test_no_sentence_belongs_to_two_forms() -> None:
    n_sentences = sum(len(sentence_forms(topic)) for topic in DEMO.topics)
    merged = {sentence for topic in DEMO.topics for sentence in sentence_forms(topic)}
    assert len(merged) == n_sentences
