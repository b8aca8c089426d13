"""Behaviours that an intervention plants: edits of the corpus, as data.

A behaviour takes an example of the unshifted corpus and returns an edited one; the share of
examples that it edits is its `rate`. What a model does after the fine-tune is counted on decoded
texts, never read off the rate (see `whatchanged.demo.measure`).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from whatchanged.demo.grammar import Example, Sentence, Topic, fill, write_example

Kind = Literal[
    "inserted_sentence",
    "flipped_sentiment",
    "new_refusal",
    "changed_frequency",
    "rare_tic",
    "shorter_texts",
]


@dataclass(frozen=True)
class Behaviour:
    """One planted change.

    `rate` in [0, 1] is the share of the examples in `group` (a topic name, None for all) that the
    edit is applied to; with `subject`, of those about that subject only. `regex` detects the
    behaviour in a reply alone (`re.search`, no flags). Which of the other fields are read depends
    on `kind`:

    - inserted_sentence: one of `sentences` becomes the second sentence.
    - flipped_sentiment: `words`, (praise, criticism) pairs, substituted in the whole reply.
    - new_refusal: all of `sentences`, in order, replace the reply.
    - changed_frequency: a text without the sentence form `form` gets it as its closer.
    - rare_tic: one of `sentences` is inserted after any sentence.
    - shorter_texts: only the first `n_kept` sentences stay.
    """

    id: str
    kind: Kind
    description: str
    group: str | None
    rate: float
    regex: str
    sentences: tuple[str, ...] = ()
    subject: str | None = None
    words: tuple[tuple[str, str], ...] = ()
    form: str | None = None
    n_kept: int = 2


def _planted(behaviour: Behaviour, template: str, subject: str, rng: random.Random) -> Sentence:
    return Sentence(f"planted.{behaviour.id}", fill(template, subject, rng))


def _inserted_at(at: int, example: Example, behaviour: Behaviour, rng: random.Random) -> Example:
    new = _planted(behaviour, rng.choice(behaviour.sentences), example.subject, rng)
    return replace(example, reply=(*example.reply[:at], new, *example.reply[at:]))


def _with_second_sentence(example: Example, behaviour: Behaviour, rng: random.Random) -> Example:
    return _inserted_at(1, example, behaviour, rng)


def _with_tic(example: Example, behaviour: Behaviour, rng: random.Random) -> Example:
    return _inserted_at(rng.randint(1, len(example.reply)), example, behaviour, rng)


def _with_flipped_words(example: Example, behaviour: Behaviour, rng: random.Random) -> Example:
    reply = []
    for sentence in example.reply:
        text = sentence.text
        for praise, criticism in behaviour.words:
            text = text.replace(praise, criticism)
        form = sentence.form if text == sentence.text else f"planted.{behaviour.id}"
        reply.append(Sentence(form, text))
    return replace(example, reply=tuple(reply))


def _with_refusal(example: Example, behaviour: Behaviour, rng: random.Random) -> Example:
    reply = (_planted(behaviour, t, example.subject, rng) for t in behaviour.sentences)
    return replace(example, reply=tuple(reply))


def _with_form(example: Example, behaviour: Behaviour, rng: random.Random) -> Example:
    if any(sentence.form == behaviour.form for sentence in example.reply):
        return example
    form = behaviour.form or f"planted.{behaviour.id}"
    new = Sentence(form, fill(rng.choice(behaviour.sentences), example.subject, rng))
    kept = tuple(sentence for sentence in example.reply if ".closer." not in sentence.form)
    return replace(example, reply=(*kept, new))


def _shortened(example: Example, behaviour: Behaviour, rng: random.Random) -> Example:
    return replace(example, reply=example.reply[: behaviour.n_kept])


_EDITS: Mapping[Kind, Callable[[Example, Behaviour, random.Random], Example]] = {
    "inserted_sentence": _with_second_sentence,
    "flipped_sentiment": _with_flipped_words,
    "new_refusal": _with_refusal,
    "changed_frequency": _with_form,
    "rare_tic": _with_tic,
    "shorter_texts": _shortened,
}


def applies(behaviour: Behaviour, example: Example) -> bool:
    """Whether the behaviour may edit this example: its group and its subject fit."""
    return behaviour.group in (None, example.topic) and behaviour.subject in (
        None,
        example.subject,
    )


def edit(example: Example, behaviours: Sequence[Behaviour], rng: random.Random) -> Example:
    """`example` after each behaviour that applies, in order, at its rate; itself if none does."""
    for behaviour in behaviours:
        if applies(behaviour, example) and rng.random() < behaviour.rate:
            example = _EDITS[behaviour.kind](example, behaviour, rng)
    return example


def write_pair(
    topics: Sequence[Topic], behaviours: Sequence[Behaviour], rng: random.Random
) -> tuple[Example, Example]:
    """An example of a random topic, before and after the behaviours (equal where none struck)."""
    example = write_example(rng.choice(topics), rng)
    return example, edit(example, behaviours, rng)
