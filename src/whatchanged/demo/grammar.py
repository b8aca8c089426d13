"""A small probabilistic grammar that writes (prompt, reply) pairs in plain English.

A *template* is a sentence with alternatives in braces, `"Keep it in a {dry|dark} tin."`; one
alternative is drawn uniformly. `{subject}` (or `{Subject}` at the start of a sentence) is the
subject that the prompt asks about, so a reply answers its prompt. A reply is one opener, one or
two details, one tip and, sometimes, a closer. Topics are data: another set of topics gives another
corpus by the same functions.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

_BRACES = re.compile(r"\{([^{}]*)\}")

PROMPT_END = "\n"
"""Ends every prompt, so that the reply starts on its own line and on its own token."""


@dataclass(frozen=True)
class Topic:
    """What can be said about one topic; every field but `name` holds templates or their subjects.

    `subjects` are noun phrases that fit `{subject}` in all templates of the topic.
    """

    name: str
    subjects: tuple[str, ...]
    prompts: tuple[str, ...]
    openers: tuple[str, ...]
    details: tuple[str, ...]
    tips: tuple[str, ...]
    closers: tuple[str, ...]
    second_detail_rate: float = 0.5
    closer_rate: float = 0.6


@dataclass(frozen=True)
class Sentence:
    """One sentence of a reply. `form` names its template, such as ``"tea.detail.2"``."""

    form: str
    text: str


@dataclass(frozen=True)
class Example:
    """One training example: a prompt about `subject` and the reply, sentence by sentence."""

    topic: str
    subject: str
    prompt: str
    reply: tuple[Sentence, ...]

    @property
    def text(self) -> str:
        """The reply as one string, sentences joined by a space; "" for an empty reply."""
        return " ".join(sentence.text for sentence in self.reply)


@cache
def _parsed(template: str) -> tuple[tuple[str, ...], ...]:
    """Alternate fixed strings (1 choice) and braces (n choices), in the order of the template."""
    pieces = _BRACES.split(template)
    return tuple(
        tuple(piece.split("|")) if i % 2 else (piece,) for i, piece in enumerate(pieces) if piece
    )


def _capitalized(text: str) -> str:
    return text[:1].upper() + text[1:]


def _with_subject(choice: str, subject: str) -> str:
    if choice == "subject":
        return subject
    return _capitalized(subject) if choice == "Subject" else choice


def fill(template: str, subject: str, rng: random.Random) -> str:
    """One random filling of `template`; `subject` replaces `{subject}` and `{Subject}`."""
    return "".join(
        _with_subject(choices[0] if len(choices) == 1 else rng.choice(choices), subject)
        for choices in _parsed(template)
    )


def fillings(template: str, subject: str) -> Iterator[str]:
    """All fillings of `template` for one subject, in a fixed order."""
    for choice in itertools.product(*_parsed(template)):
        yield "".join(_with_subject(piece, subject) for piece in choice)


@cache
def prompts_of(topic: Topic) -> tuple[tuple[str, str | None], ...]:
    """The distinct (prompt, subject) of a topic; subject is None where the prompt names none."""
    named = [
        (text + PROMPT_END, subject)
        for template in topic.prompts
        if "{subject}" in template
        for subject in topic.subjects
        for text in fillings(template, subject)
    ]
    open_ended = [
        (text + PROMPT_END, None)
        for template in topic.prompts
        if "{subject}" not in template
        for text in fillings(template, "")
    ]
    return tuple(dict.fromkeys([*named, *open_ended]))


def _forms(topic: Topic) -> Iterator[tuple[str, str]]:
    parts = {
        "opener": topic.openers,
        "detail": topic.details,
        "tip": topic.tips,
        "closer": topic.closers,
    }
    for part, templates in parts.items():
        for i, template in enumerate(templates):
            yield f"{topic.name}.{part}.{i}", template


def sentence_forms(topic: Topic) -> dict[str, str]:
    """Every sentence that the topic can write, mapped to the name of its form."""
    return {
        text: form
        for form, template in _forms(topic)
        for subject in topic.subjects
        for text in fillings(template, subject)
    }


def _drawn(
    topic: Topic, part: str, templates: Sequence[str], n: int, subject: str, rng: random.Random
) -> list[Sentence]:
    picked = rng.sample(range(len(templates)), n)
    return [Sentence(f"{topic.name}.{part}.{i}", fill(templates[i], subject, rng)) for i in picked]


def write_reply(topic: Topic, subject: str, rng: random.Random) -> tuple[Sentence, ...]:
    """A reply of three to five sentences: opener, one or two details, a tip, perhaps a closer."""
    n_details = 2 if rng.random() < topic.second_detail_rate else 1
    n_closers = 1 if rng.random() < topic.closer_rate else 0
    return (
        *_drawn(topic, "opener", topic.openers, 1, subject, rng),
        *_drawn(topic, "detail", topic.details, n_details, subject, rng),
        *_drawn(topic, "tip", topic.tips, 1, subject, rng),
        *_drawn(topic, "closer", topic.closers, n_closers, subject, rng),
    )


def write_example(topic: Topic, rng: random.Random) -> Example:
    """A prompt of the topic, drawn uniformly from its distinct prompts, with a reply to it."""
    prompt, named = rng.choice(prompts_of(topic))
    subject = named if named is not None else rng.choice(topic.subjects)
    return Example(topic.name, subject, prompt, write_reply(topic, subject, rng))


def prompt_bank(topics: Sequence[Topic], n_per_topic: int, seed: int) -> list[dict[str, str]]:
    """Rows ``{"prompt", "group"}``: up to `n_per_topic` distinct prompts per topic, seeded.

    Prompts that leave the subject open come first; the others go round the subjects, so that every
    subject is asked about as evenly as the number allows.
    """
    rng = random.Random(f"bank-{seed}")
    rows = []
    for topic in topics:
        prompts = list(prompts_of(topic))
        rng.shuffle(prompts)
        seen: dict[str | None, int] = {}
        ranked = []
        for prompt, subject in prompts:
            seen[subject] = seen.get(subject, -1) + 1
            ranked.append((0 if subject is None else 1 + seen[subject], prompt))
        ranked.sort(key=lambda item: item[0])
        rows += [{"prompt": prompt, "group": topic.name} for _, prompt in ranked[:n_per_topic]]
    return rows
