"""Single features on single texts, token by token: what a feature fires on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from whatchanged.escape import for_markdown
from whatchanged.saes.category_tests import FloatArray
from whatchanged.saes.comparison import SaeAnalysis
from whatchanged.saes.features import ZERO
from whatchanged.saes.stored import ReadFeatures
from whatchanged.saes.texts import Corpus

if TYPE_CHECKING:
    import pandas as pd

N_TEXTS = 3


@dataclass(frozen=True, slots=True)
class Highlight:
    """A text on which a feature fires, the `rank`th by its largest activation there (`peak`): the
    tokens where it does, by their position among the text's tokens (a start token is one)."""

    sae: str
    feature: int
    rank: int
    text_key: str
    category: str
    peak: float
    positions: tuple[int, ...]
    activations: tuple[float, ...]


def explored_features(analysis: SaeAnalysis) -> dict[int, set[str]]:
    """The features that are shown on texts, each with the categories that one text is shown of: the
    ranked ones, the best specialist of each category and the best feature of each concept."""
    explored: dict[int, set[str]] = {}
    for category, feature in best_specialists(analysis).items():
        explored.setdefault(feature, set()).add(category)
    of_concepts = {row.concept: row.feature for row in reversed(analysis.concepts)}
    for feature in (*of_concepts.values(), *(row.feature for row in analysis.rankings)):
        explored.setdefault(feature, set())
    return explored


def best_specialists(analysis: SaeAnalysis) -> dict[str, int]:
    """The specialist of largest score above zero, by category."""
    best: dict[str, int] = {}
    for row in analysis.specialists:
        if row.threshold == ZERO.name:
            best.setdefault(row.category, row.feature)
    return best


def highlight_features(
    read: ReadFeatures, corpus: Corpus, explored: Mapping[int, Set[str]], n_texts: int = N_TEXTS
) -> tuple[Highlight, ...]:
    """Each feature on the `n_texts` distinct categorized texts where a token has its largest
    activations, and on the first text of each of its categories; fewer where it fires on fewer."""
    found: list[Highlight] = []
    columns = read.tokens[:, list(explored)].tocsc()
    for number, (feature, categories) in enumerate(explored.items()):
        own = columns[:, [number]]
        tokens, values = own.indices, own.data
        text_of = np.searchsorted(read.text_starts, tokens, side="right") - 1
        peaks = np.zeros(len(corpus.texts))
        np.maximum.at(peaks, text_of, values)
        for rank, row in _best_rows(peaks, corpus, categories, n_texts):
            here = np.flatnonzero(text_of == row)
            here = here[np.argsort(tokens[here])]
            found.append(
                Highlight(
                    sae=read.sae.card.name,
                    feature=feature,
                    rank=rank,
                    text_key=corpus.keys[row],
                    category=corpus.rows[row].category,
                    peak=float(peaks[row]),
                    positions=tuple((tokens[here] - read.text_starts[row]).tolist()),
                    activations=tuple(values[here].tolist()),
                )
            )
    return tuple(found)


def _best_rows(
    peaks: FloatArray, corpus: Corpus, categories: Set[str], n_texts: int
) -> Iterator[tuple[int, int]]:
    """Ranks from 1 and rows of the distinct texts with the largest peaks, and of the first text of
    each category."""
    rows = corpus.groups.first_rows
    left = set(categories)
    for rank, row in enumerate(rows[np.argsort(-peaks[rows], kind="stable")].tolist(), start=1):
        if peaks[row] == 0 or (rank > n_texts and not left):
            return
        category = corpus.rows[row].category
        if rank <= n_texts or category in left:
            yield rank, row
        left.discard(category)


def tabulate_highlights(highlights: Sequence[Highlight]) -> pd.DataFrame:
    """A row per highlight; positions and activations are lists."""
    import pandas as pd

    names = list(Highlight.__dataclass_fields__)
    return pd.DataFrame(
        [[getattr(one, name) for name in names] for one in highlights], columns=names
    )


def tabulate_texts(corpus: Corpus, pieces: Sequence[Sequence[str] | None]) -> pd.DataFrame:
    """A row per text that was read: what `text_key` and `positions` of highlights mean.

    `pieces` are the texts in one piece per token, None where they cannot be told. The texts of a
    concept have no category.
    """
    import pandas as pd

    n_concept = len(corpus.texts) - len(corpus.rows)
    of_concepts = [name for name, own in corpus.concepts.items() for _ in own]
    return pd.DataFrame(
        {
            "text_key": corpus.keys,
            "category": [*corpus.categories, *([None] * n_concept)],
            "concept": [*([None] * len(corpus.rows)), *of_concepts],
            "text": corpus.texts,
            "tokens": [None if own is None else list(own) for own in pieces],
        }
    )


def show_highlight(highlight: Highlight, text: str, pieces: Sequence[str] | None) -> str:
    """The text on one line of Markdown, the tokens on which the feature fires in bold; without
    pieces, nothing is."""
    if pieces is None:
        return for_markdown(text)
    fires = set(highlight.positions)
    runs = groupby(range(len(pieces)), key=lambda position: position in fires)
    return "".join(_run("".join(pieces[i] for i in run), is_bold) for is_bold, run in runs).strip()


def _run(text: str, is_bold: bool) -> str:
    # Markdown wants no space on the inside of its asterisks.
    words = text.strip()
    if not is_bold or not words:
        return for_markdown(text)
    before, after = text[: len(text) - len(text.lstrip())], text[len(text.rstrip()) :]
    return f"{for_markdown(before)}**{for_markdown(words)}**{for_markdown(after)}"
