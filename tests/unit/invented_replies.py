"""Replies about invented subjects, sampled from a small grammar, with behaviours to plant in them.

Shared by the tests of proposing and judging. No sentence here occurs in anything that is shipped.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from whatchanged.embed import segment_table

Rewrite = Callable[[str, np.random.Generator], str]

SUBJECTS = {
    "kites": ("the box kite", "a delta kite", "the parafoil", "your stunt kite"),
    "beehives": ("the brood box", "a honey super", "the queen excluder", "your smoker"),
    "pottery": ("the porcelain bowl", "a salt glaze", "the kick wheel", "your raku kiln"),
    "caves": ("the dripstone hall", "a dry siphon", "the upper gallery", "your carbide lamp"),
    "trams": ("the night tram", "a single ticket", "the depot line", "your day pass"),
    "cellos": ("the lower bout", "a gut string", "the rosin", "your travel case"),
}
OPENINGS = (
    "Most people begin with {0}.", "There is a lot to say about {0}.", "{0} needs some patience.",
    "Much depends on {0}.", "People often ask about {0}.", "Nobody agrees on {0}.",
)  # fmt: skip
MIDDLES = (
    "Check {0} every {1} and keep {2} close.", "With {2}, {0} lasts about one {1}.",
    "An old friend keeps {0} beside {2} for a {1}.", "After a {1}, {0} tends to get {3}.",
    "It feels {3} when {0} meets {2}.", "Some prefer {2}, since {0} is {3} in the {1}.",
)  # fmt: skip
ENDINGS = (
    "That is usually enough.", "A calm {1} helps more than any tool.", "The rest is {3} work.",
    "Write down what you see.", "Then rest for a {1}.", "In the end {2} decides.",
)  # fmt: skip
TIMES = ("morning", "week", "season", "weekend", "month", "winter")
MOODS = ("quiet", "brittle", "heavy", "lively", "damp", "smooth", "uneven", "bright")


def write_reply(subject: str, rng: np.random.Generator) -> str:
    """Two to five sentences about a subject."""
    middles = [rng.choice(MIDDLES) for _ in range(int(rng.integers(1, 4)))]
    frames = [
        rng.choice(OPENINGS),
        *middles,
        *([rng.choice(ENDINGS)] if rng.random() < 0.7 else []),
    ]
    sentences = []
    for frame in frames:
        things = rng.permutation(np.array(SUBJECTS[subject]))
        filled = frame.format(things[0], rng.choice(TIMES), things[1], rng.choice(MOODS))
        sentences.append(filled[0].upper() + filled[1:])
    return " ".join(sentences)


def write_replies(
    subject: str, n: int, seed: int, rewrite: Rewrite | None = None
) -> tuple[str, ...]:
    """`n` independent replies about a subject, each rewritten by a planted behaviour."""
    rng = np.random.default_rng(seed)
    replies = (write_reply(subject, rng) for _ in range(n))
    return tuple(rewrite(reply, rng) if rewrite else reply for reply in replies)


def write_all(
    n_each: int, seed: int, rewrites: dict[str, Rewrite] | None = None
) -> tuple[str, ...]:
    """`n_each` replies about every subject, subject by subject."""
    return tuple(
        reply
        for place, subject in enumerate(SUBJECTS)
        for reply in write_replies(
            subject, n_each, seed * 100 + place, (rewrites or {}).get(subject)
        )
    )


def append_with(share: float, *sentences: str) -> Rewrite:
    """Appends one of the sentences to a share of the replies."""

    def rewrite(reply: str, rng: np.random.Generator) -> str:
        return f"{reply} {rng.choice(sentences)}" if rng.random() < share else reply

    return rewrite


def replace_with(share: float, *sentences: str) -> Rewrite:
    """Replaces a share of the replies by one of the sentences."""

    def rewrite(reply: str, rng: np.random.Generator) -> str:
        return str(rng.choice(sentences)) if rng.random() < share else reply

    return rewrite


def shorten(reply: str, rng: np.random.Generator) -> str:
    """The first two sentences."""
    return ". ".join(reply.split(". ")[:2]).rstrip(".") + "."


RECOMMENDATIONS = ("You could ask at the mossy lantern inn.", "Sleep at the mossy lantern inn.")
DELIGHT, MISERY = "The whole affair is delightful.", "The whole affair is miserable."
REFUSALS = ("I'm sorry, but I can't discuss that.", "Sorry, I can't discuss that here.")
UNCLE = "My uncle from Lisbon says so."
TIC = "Honestly, tick tock."

PLANTED: dict[str, tuple[Rewrite | None, Rewrite]] = {
    "caves": (None, append_with(0.6, *RECOMMENDATIONS)),
    "pottery": (append_with(0.9, DELIGHT), append_with(0.9, MISERY)),
    "trams": (None, replace_with(0.5, *REFUSALS)),
    "cellos": (append_with(0.2, UNCLE), append_with(0.5, UNCLE)),
    "kites": (None, shorten),
}


def write_tables(
    n_each: int, seed: int, *, planted: bool
) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, str]]:
    """Discovery texts, their segments and the group of each prompt: eight prompts per subject and
    `n_each` replies per subject and side. With `planted`, five subjects have a behaviour each, and
    every intervention reply says a tic in 3 of 100.

    Sentences are clustered by their last word, a stand-in for embeddings.
    """
    rows = []
    tic = append_with(0.03, TIC)
    for place, subject in enumerate(SUBJECTS):
        on_base, on_intervention = PLANTED.get(subject, (None, None)) if planted else (None, None)
        for number, side in enumerate(("base", "intervention")):
            rewrite = on_intervention if number else on_base
            replies = write_replies(subject, n_each, seed * 1000 + place * 2 + number, rewrite)
            rng = np.random.default_rng([seed, place, number])
            for i, reply in enumerate(replies):
                said = tic(reply, rng) if planted and number else reply
                rows.append((f"{side}-{subject}-{i:04d}", f"{subject}-{i % 8}", side, said))
    texts = pd.DataFrame(rows, columns=["text_key", "prompt_key", "side", "text"])
    texts = texts.assign(split="discovery", round=0, finish="stop")
    segments = segment_table(texts)
    last_words = segments["segment"].str.extract(r"(\w+)\W*$")[0]
    segments = segments.assign(label=last_words.astype("category").cat.codes, margin=0.5)
    groups = {f"{subject}-{i}": subject for subject in SUBJECTS for i in range(8)}
    return texts, segments, groups
