"""Features of one SAE over texts, and which of the texts and categories belong together.

A text that occurs several times keeps its rows: shares count rows. It is still one observation, so
every test counts it once, and its first row stands for it.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from whatchanged.errors import UsageError
from whatchanged.saes.quality import SaeQuality

if TYPE_CHECKING:
    from scipy.sparse import csr_array

_T = TypeVar("_T", bound=Hashable)


@dataclass(frozen=True, slots=True)
class SaeCard:
    """What is known of an SAE beside its features: it travels with every result.

    `layer` is None where the hook point names none; `metadata` is the SAE's own config.
    """

    name: str
    hook_point: str
    layer: int | None
    quality: SaeQuality
    metadata: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class SaeFeatures:
    """Pooled activations of one SAE: `values (n_texts, d_sae)` float32, sparse rows, at least 0.

    Raises UsageError for values that are negative or not finite.
    """

    card: SaeCard
    values: csr_array

    def __post_init__(self) -> None:
        data = self.values.data
        n_bad = int(np.count_nonzero(~((data >= 0) & np.isfinite(data))))
        if n_bad:
            raise UsageError(
                f"SAE {self.card.name}: expected finite activations of at least 0, found {n_bad} "
                "others: encode in float32, and pass activations rather than pre-activations"
            )

    @property
    def n_texts(self) -> int:
        return int(self.values.shape[0])

    @property
    def d_sae(self) -> int:
        return int(self.values.shape[1])


@dataclass(frozen=True, slots=True)
class Threshold:
    """A feature fires on a text where its activation exceeds `value`."""

    name: str
    value: float


ZERO = Threshold("zero", 0.0)


@dataclass(frozen=True)
class TextGroups:
    """Which category and which distinct text each row is: `category_of`, `text_of (n_texts,)`.

    `categories` are in the order in which they first occur.
    """

    categories: tuple[str, ...]
    category_of: NDArray[np.int64]
    text_of: NDArray[np.int64]

    @property
    def n_texts(self) -> int:
        return len(self.text_of)

    @property
    def n_distinct(self) -> int:
        return len(self.first_rows)

    @cached_property
    def first_rows(self) -> NDArray[np.int64]:
        """The first row of each distinct text `(n_distinct,)`."""
        return np.unique(self.text_of, return_index=True)[1].astype(np.int64)

    @cached_property
    def row_counts(self) -> NDArray[np.int64]:
        """The rows of each distinct text in each category `(n_distinct, n_categories)`."""
        counts = np.zeros((self.n_distinct, len(self.categories)), dtype=np.int64)
        np.add.at(counts, (self.text_of, self.category_of), 1)
        return counts


def group_texts(texts: Sequence[str], categories: Sequence[str]) -> TextGroups:
    """The groups of categorized texts, one category per text; no texts give no groups.

    A text may occur under several categories. Raises UsageError for lengths that differ.
    """
    if len(texts) != len(categories):
        raise UsageError(
            f"expected one category per text, found {len(texts)} texts and {len(categories)} "
            "categories"
        )
    names, category_of = _number(categories)
    return TextGroups(names, category_of, _number(texts)[1])


def quantile_thresholds(
    sae: SaeFeatures, quantiles: Sequence[float] = (0.5, 0.9)
) -> tuple[Threshold, ...]:
    """Quantiles of the SAE's own positive activations, named `q50` and so on.

    SAEs differ in scale and in how often they fire weakly, so firing above zero is not equally
    remarkable in each; above its own median it is more nearly so. An SAE that is silent gives 0.

    Raises UsageError for a quantile outside [0, 1].
    """
    if not all(0 <= q <= 1 for q in quantiles):
        raise UsageError(f"expected quantiles in [0, 1], found {list(quantiles)}")
    positive = sae.values.data[sae.values.data > 0]
    return tuple(
        Threshold(f"q{100 * q:g}", float(np.quantile(positive, q)) if len(positive) else 0.0)
        for q in quantiles
    )


def firing(sae: SaeFeatures, threshold: Threshold) -> csr_array:
    """1 where a feature fires, `(n_texts, d_sae)` float32, sparse rows."""
    from scipy.sparse import csr_array

    fires = csr_array(sae.values, dtype=np.float32, copy=True)
    fires.data = (fires.data > threshold.value).astype(np.float32)
    fires.eliminate_zeros()
    return fires


def check_texts(sae: SaeFeatures, groups: TextGroups) -> None:
    """Raises UsageError where the SAE's rows are not those of the groups."""
    if sae.n_texts != groups.n_texts:
        raise UsageError(
            f"SAE {sae.card.name}: expected features of {groups.n_texts} texts, found "
            f"{sae.n_texts}: extract them from the same texts"
        )


def _number(values: Sequence[_T]) -> tuple[tuple[_T, ...], NDArray[np.int64]]:
    """The distinct values in the order of their first occurrence, and which one each is."""
    numbers: dict[_T, int] = {}
    each = [numbers.setdefault(value, len(numbers)) for value in values]
    return tuple(numbers), np.array(each, dtype=np.int64)
