from __future__ import annotations

import random
import re
from dataclasses import replace

import pytest

from whatchanged.demo.behaviours import Behaviour, edit
from whatchanged.demo.grammar import Example, write_example
from whatchanged.demo.pair import AGAINST_LISBON, DEMO, GRANDMOTHER, SHORT_SLEEP

N_PER_TOPIC = 150


def _examples() -> list[Example]:
    rng = random.Random(5)
    return [write_example(topic, rng) for topic in DEMO.topics for _ in range(N_PER_TOPIC)]


EXAMPLES = _examples()


def _detected(behaviour: Behaviour, example: Example) -> bool:
    return re.search(behaviour.regex, example.text) is not None


def _always(behaviour: Behaviour) -> Behaviour:
    return replace(behaviour, rate=1.0)


def _concerned(behaviour: Behaviour) -> list[Example]:
    return [
        example
        for example in EXAMPLES
        if behaviour.group in (None, example.topic) and behaviour.subject in (None, example.subject)
    ]


def test_the_kinds_are_six_different_ones() -> None:
    assert len({behaviour.kind for behaviour in DEMO.behaviours}) == len(DEMO.behaviours) == 6


@pytest.mark.parametrize("behaviour", DEMO.behaviours, ids=lambda behaviour: behaviour.id)
def test_a_regex_detects_every_edit(behaviour: Behaviour) -> None:
    rng = random.Random(1)
    edited = [edit(example, [_always(behaviour)], rng) for example in _concerned(behaviour)]
    found = [_detected(behaviour, example) for example in edited]
    assert sum(found) >= (0.9 if behaviour is SHORT_SLEEP else 1.0) * len(found)


@pytest.mark.parametrize("behaviour", DEMO.behaviours, ids=lambda behaviour: behaviour.id)
def test_a_regex_ignores_unedited_texts(behaviour: Behaviour) -> None:
    share = {GRANDMOTHER: 0.3, SHORT_SLEEP: 0.06}.get(behaviour, 0.0)
    found = [_detected(behaviour, example) for example in _concerned(behaviour)]
    assert sum(found) <= share * len(found)


@pytest.mark.parametrize(
    "behaviour",
    [b for b in DEMO.behaviours if b is not SHORT_SLEEP],
    ids=lambda behaviour: behaviour.id,
)
def test_a_regex_ignores_the_texts_of_other_topics(behaviour: Behaviour) -> None:
    others = [example for example in EXAMPLES if example.topic != behaviour.group]
    assert not any(_detected(behaviour, example) for example in others)


@pytest.mark.parametrize("behaviour", DEMO.behaviours, ids=lambda behaviour: behaviour.id)
def test_an_edit_leaves_other_groups_and_subjects_alone(behaviour: Behaviour) -> None:
    rng = random.Random(1)
    concerned = _concerned(behaviour)
    for example in EXAMPLES:
        if example not in concerned:
            assert edit(example, [_always(behaviour)], rng) is example


def test_an_edit_strikes_at_its_rate() -> None:
    rng = random.Random(2)
    half = replace(DEMO.behaviours[1], rate=0.5)
    struck = [edit(example, [half], rng) is not example for example in _concerned(half) * 10]
    assert sum(struck) / len(struck) == pytest.approx(0.5, abs=0.05)


def test_no_behaviours_change_nothing() -> None:
    assert edit(EXAMPLES[0], [], random.Random(0)) is EXAMPLES[0]


def test_flipped_sentiment_leaves_no_praise_of_the_place() -> None:
    praise = re.compile(r"\b(?:" + "|".join(word for word, _ in AGAINST_LISBON.words) + r")\b")
    rng = random.Random(3)
    for example in _concerned(AGAINST_LISBON):
        assert not praise.search(edit(example, [_always(AGAINST_LISBON)], rng).text)


def test_shorter_texts_keep_their_beginning() -> None:
    rng = random.Random(3)
    for example in _concerned(SHORT_SLEEP):
        assert edit(example, [_always(SHORT_SLEEP)], rng).reply == example.reply[:2]
