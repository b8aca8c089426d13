"""What is to be judged, and what is known of it: the texts of each hypothesis with their scores.

Nothing here decides anything; `waves` does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from whatchanged.cascade import permanent_order
from whatchanged.config import JudgeConfig, ValidateConfig
from whatchanged.interim import permuted_p
from whatchanged.keys import content_key, seed_from_key
from whatchanged.records import Hypothesis, Tier, ValidationPlan
from whatchanged.validate import select_texts

FloatArray: TypeAlias = NDArray[np.float64]
BoolArray: TypeAlias = NDArray[np.bool_]
IntArray: TypeAlias = NDArray[np.int64]
Scores: TypeAlias = Mapping[tuple[str, Tier], Mapping[str, float]]


@dataclass(frozen=True)
class Inquiry:
    """What is to be judged: the hypotheses, each with its plan, and the fresh texts of all.

    `is_paired`: the same `sample` of a prompt was decoded with the same noise on both sides.
    """

    claims: Sequence[Hypothesis]
    plans: Sequence[ValidationPlan]
    texts: pd.DataFrame
    judge: JudgeConfig
    validation: ValidateConfig
    seed: int
    is_paired: bool


@dataclass(frozen=True, slots=True)
class Ask:
    """Texts to ask one judge about; `is_audit` says that they were drawn at random from all."""

    hypothesis_id: str
    tier: Tier
    text_keys: tuple[str, ...]
    is_audit: bool


@dataclass(frozen=True, slots=True)
class Case:
    """The texts of one hypothesis `(n_texts,)` and what is known of them.

    `asked_as` are the keys under which texts are asked about, and scores are NaN where there is no
    answer. `order` and `is_identical` are of units `(n_units,)`: a text, or the coupled pair of
    texts 2i (base) and 2i + 1. `position` counts a prompt's texts of one side from 0.
    """

    claim: Hypothesis
    keys: NDArray[np.object_]
    asked_as: NDArray[np.object_]
    prompts: IntArray
    position: IntArray
    n_per_prompt: int
    is_intervention: BoolArray
    order: IntArray
    is_identical: BoolArray
    cheap: FloatArray
    expensive: FloatArray
    has_cheap: BoolArray
    has_expensive: BoolArray
    is_paired: bool

    def per_text(self, units: BoolArray) -> BoolArray:
        """Which texts belong to these units."""
        return np.repeat(units, 2 if self.is_paired else 1)

    def per_unit(self, texts: BoolArray) -> BoolArray:
        """Which units have all their texts among `texts`."""
        whole: BoolArray = np.asarray(texts.reshape(-1, 2 if self.is_paired else 1).all(axis=1))
        return whole

    def only(self, units: BoolArray) -> Case:
        """The case of some units, in the order that they had."""
        kept, each = self.per_text(units), self.order[units]
        return Case(
            self.claim, self.keys[kept], self.asked_as[kept], self.prompts[kept],
            self.position[kept], self.n_per_prompt, self.is_intervention[kept],
            np.argsort(np.argsort(each)), self.is_identical[units], self.cheap[kept],
            self.expensive[kept], self.has_cheap[kept], self.has_expensive[kept], self.is_paired,
        )  # fmt: skip

    @property
    def strata(self) -> IntArray:
        """Within which sides may change places: prompts, or pairs."""
        return np.arange(len(self.keys)) // 2 if self.is_paired else self.prompts

    def ask(self, tier: Tier, units: BoolArray, *, is_audit: bool = False) -> list[Ask]:
        """What is still to ask about these units, as one Ask or none."""
        known = self.has_cheap if tier == "cheap" else self.has_expensive
        missing = self.asked_as[self.per_text(units) & ~known]
        keys = tuple(dict.fromkeys(str(key) for key in missing))
        return [Ask(self.claim.id, tier, keys, is_audit)] if keys else []


def collect_cases(inquiry: Inquiry, verdicts: pd.DataFrame) -> list[Case]:
    """One case per hypothesis, in their order, with what the `verdicts` say of its texts.

    Of a coupled pair whose counterpart failed to decode, nothing is left.
    """
    known = _index(verdicts)
    plans = {plan.hypothesis_id: plan for plan in inquiry.plans}
    return [_collect(claim, plans[claim.id], inquiry, known) for claim in inquiry.claims]


def order_seed(claim: Hypothesis, seed: int) -> int:
    """The seed of the order in which the texts of one hypothesis are asked about."""
    return seed_from_key(content_key("waves/1", seed, claim.criterion, claim.scope))


def permuted_mean_p(read: Case, scores: FloatArray, inquiry: Inquiry) -> float:
    """The one-sided p-value of the intervention's mean score, under permutation within strata."""
    # Means: among hundreds of surely negative texts, ranks tell apart what is not different.
    return permuted_p(
        scores, read.is_intervention, read.strata, read.claim,
        inquiry.validation.n_permutations, inquiry.seed, "mean",
    )  # fmt: skip


def _collect(claim: Hypothesis, plan: ValidationPlan, inquiry: Inquiry, known: Scores) -> Case:
    rows = select_texts(inquiry.texts, plan)
    if inquiry.is_paired:
        unit = rows.groupby(["prompt_key", "sample"])
        rows = rows.assign(place=unit["text_key"].transform("min"))
        rows = rows[unit["side"].transform("size") == 2].sort_values(["place", "side"])
        place = rows["place"]
        words = rows["text"].to_numpy().reshape(-1, 2)
        is_identical = np.asarray(words[:, 0] == words[:, 1], dtype=np.bool_)
    else:
        rows = rows.sort_values("text_key")
        place = rows["text_key"]
        is_identical = np.zeros(len(rows), dtype=np.bool_)
    keys = rows["text_key"].to_numpy(dtype=object)
    width = 2 if inquiry.is_paired else 1
    asked_as = np.where(np.repeat(is_identical, width), place.to_numpy(dtype=object), keys)
    scores = [known.get((claim.id, tier), {}) for tier in ("cheap", "expensive")]
    return Case(
        claim=claim,
        keys=keys,
        asked_as=asked_as,
        prompts=np.unique(rows["prompt_key"], return_inverse=True)[1].astype(np.int64),
        position=rows["sample"].to_numpy(dtype=np.int64),
        n_per_prompt=plan.n_per_prompt,
        is_intervention=(rows["side"] == "intervention").to_numpy(dtype=np.bool_),
        order=permanent_order(len(is_identical), order_seed(claim, inquiry.seed)),
        is_identical=is_identical,
        cheap=np.array([scores[0].get(key, np.nan) for key in asked_as], dtype=np.float64),
        expensive=np.array([scores[1].get(key, np.nan) for key in asked_as], dtype=np.float64),
        has_cheap=np.array([key in scores[0] for key in asked_as], dtype=np.bool_),
        has_expensive=np.array([key in scores[1] for key in asked_as], dtype=np.bool_),
        is_paired=inquiry.is_paired,
    )


def _index(verdicts: pd.DataFrame) -> Scores:
    """The scores of each hypothesis and tier by text; NaN where a text was asked in vain."""
    return {
        cast(tuple[str, Tier], name): dict(
            zip(rows["text_key"], rows["score"].to_numpy(float), strict=True)
        )
        for name, rows in verdicts.groupby(["hypothesis_id", "tier"])
    }
