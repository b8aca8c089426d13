"""How much two SAEs of one hook point have in common: equal directions, equal texts.

Both searches go block by block, so that two SAEs of 24,576 features never have all their
604 million pairs in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from whatchanged.errors import UsageError
from whatchanged.saes.features import ZERO, SaeFeatures, Threshold, firing

# The cosine from which two features count as the same, as in Paulo and Belrose (2025).
SAME_DIRECTION = 0.7
_PAIRS_AT_ONCE = 12_000_000


@dataclass(frozen=True, eq=False)
class BestMatches:
    """For each feature of one SAE its likest in the other: `partner`, `similarity`, `is_mutual`.

    All are `(d_sae,)`. The partner is -1, and the similarity 0, where nothing is alike: the
    largest similarity is at most 0, as it is for a silent feature or a direction of length 0.
    It is mutual where the partner's own likest is this feature.
    """

    partner: NDArray[np.int64]
    similarity: NDArray[np.float64]
    is_mutual: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Overlap:
    """What an SAE shares with another; shares are of its own features, so order matters.

    `mean_cosine` is the mean of the best-match decoder cosines (Sharkey, Braun and Millidge 2022),
    `share_same_direction` the share of at least `SAME_DIRECTION`. `mean_jaccard` is the mean of the
    best-match Jaccard indices over the features that fire; nan where none does. The mutual ones
    are each other's best match.
    """

    sae: str
    other_sae: str
    hook_point: str
    n_features: int
    n_other_features: int
    mean_cosine: float
    share_same_direction: float
    share_mutual_direction: float
    mean_jaccard: float
    share_mutual_firing: float


def measure_overlap(
    sae: SaeFeatures,
    other: SaeFeatures,
    decoder: NDArray[np.float32],
    other_decoder: NDArray[np.float32],
    threshold: Threshold = ZERO,
    other_threshold: Threshold = ZERO,
) -> Overlap:
    """The overlap of two SAEs; decoders are `(d_sae, d_model)`.

    Raises UsageError for SAEs of different hook points or texts, and for decoders whose shapes
    do not fit.
    """
    if sae.card.hook_point != other.card.hook_point:
        raise UsageError(
            f"expected two SAEs of one hook point, found {sae.card.hook_point} and "
            f"{other.card.hook_point}: their directions cannot be compared"
        )
    for one, shape in ((sae, decoder.shape), (other, other_decoder.shape)):
        if shape[0] != one.d_sae:
            raise UsageError(
                f"SAE {one.card.name}: expected a decoder row for each of {one.d_sae} features, "
                f"found the shape {shape}"
            )
    directions = match_decoders(decoder, other_decoder)
    firings = match_firing(sae, other, threshold, other_threshold)
    does_fire = np.asarray(firing(sae, threshold).sum(axis=0)) > 0
    jaccards = firings.similarity[does_fire]
    return Overlap(
        sae=sae.card.name,
        other_sae=other.card.name,
        hook_point=sae.card.hook_point,
        n_features=sae.d_sae,
        n_other_features=other.d_sae,
        mean_cosine=float(directions.similarity.mean()),
        share_same_direction=float((directions.similarity >= SAME_DIRECTION).mean()),
        share_mutual_direction=float(directions.is_mutual.mean()),
        mean_jaccard=float(jaccards.mean()) if len(jaccards) else float("nan"),
        share_mutual_firing=float(firings.is_mutual.mean()),
    )


def match_decoders(
    decoder: NDArray[np.float32], other: NDArray[np.float32], *, rows_at_once: int | None = None
) -> BestMatches:
    """The best match by cosine of decoder directions `(d_sae, d_model)` and `(d_other, d_model)`.

    Raises UsageError for directions of different lengths.
    """
    if decoder.shape[1] != other.shape[1]:
        raise UsageError(
            f"expected directions in one space, found {decoder.shape[1]} and {other.shape[1]} "
            "dimensions"
        )
    rows, columns = _unit_rows(decoder), _unit_rows(other).T

    def blocks() -> Iterator[NDArray[np.float32]]:
        for some in _row_blocks(len(rows), columns.shape[1], rows_at_once):
            yield rows[some] @ columns

    return _match(blocks(), columns.shape[1])


def match_firing(
    sae: SaeFeatures,
    other: SaeFeatures,
    threshold: Threshold = ZERO,
    other_threshold: Threshold = ZERO,
    *,
    rows_at_once: int | None = None,
) -> BestMatches:
    """The best match by co-firing: texts on which both fire, of those on which either does.

    This is the Jaccard index over rows; two features that fire once, on the same text, have 1.
    Raises UsageError for features of different texts.
    """
    if sae.n_texts != other.n_texts:
        raise UsageError(
            f"expected features of the same texts, found {sae.n_texts} and {other.n_texts} texts"
        )
    rows = firing(sae, threshold).T.tocsr()
    columns = firing(other, other_threshold)
    n_rows, n_columns = np.diff(rows.indptr), np.asarray(columns.sum(axis=0), dtype=np.float32)

    def blocks() -> Iterator[NDArray[np.float32]]:
        for some in _row_blocks(rows.shape[0], columns.shape[1], rows_at_once):
            both = (rows[some] @ columns).toarray()
            either = n_rows[some, None].astype(np.float32) + n_columns - both
            yield both / np.maximum(either, 1)

    return _match(blocks(), columns.shape[1])


def _match(blocks: Iterator[NDArray[np.float32]], n_columns: int) -> BestMatches:
    """The best column of each row and its value, from blocks of rows `(n_rows, n_columns)`."""
    partners, similarities = [np.zeros(0, np.int64)], [np.zeros(0, np.float32)]
    best_row = np.full(n_columns, -1)
    best_value = np.zeros(n_columns, dtype=np.float32)
    n_rows = 0
    for block in blocks:
        partner = block.argmax(axis=1)
        partners.append(partner)
        similarities.append(block[np.arange(len(block)), partner])
        row = block.argmax(axis=0)
        value = block[row, np.arange(n_columns)]
        best_row = np.where(value > best_value, n_rows + row, best_row)
        best_value = np.maximum(value, best_value)
        n_rows += len(block)
    similarity = np.concatenate(similarities).astype(np.float64)
    partner = np.where(similarity > 0, np.concatenate(partners), -1)
    is_mutual = (partner >= 0) & (best_row[partner] == np.arange(n_rows))
    return BestMatches(partner, np.maximum(similarity, 0), is_mutual)


def _row_blocks(n_rows: int, n_columns: int, rows_at_once: int | None) -> Iterator[slice]:
    step = rows_at_once or max(1, _PAIRS_AT_ONCE // max(1, n_columns))
    return (slice(start, start + step) for start in range(0, n_rows, step))


def _unit_rows(directions: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(directions, axis=1, keepdims=True)
    return (directions / np.where(lengths > 0, lengths, 1)).astype(np.float32)
