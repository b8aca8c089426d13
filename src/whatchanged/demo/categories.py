"""Categorized texts from the grammar: what the embedded model was trained to write, by topic."""

from __future__ import annotations

import random
from collections.abc import Sequence

from whatchanged.demo.grammar import Topic, write_example


def categorized_texts(topics: Sequence[Topic], n_per_topic: int, seed: int) -> list[dict[str, str]]:
    """Rows `{"text", "category"}`, topic after topic: a prompt with its reply, the topic's name.

    All texts differ; the same seed gives the same rows, and more of them start with the fewer.
    """
    rows = []
    for topic in topics:
        rng = random.Random(f"categories-{seed}-{topic.name}")
        texts: dict[str, None] = {}
        while len(texts) < n_per_topic:
            example = write_example(topic, rng)
            texts[example.prompt + example.text] = None
        rows += [{"text": text, "category": topic.name} for text in texts]
    return rows
