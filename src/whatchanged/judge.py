"""The judge cascade: a cheap judge sees every text, a dearer one the borderline and an audit.

Which texts go up is decided by blinded scores and a random draw, never by side. A text without an
answer has no score (NaN), and none is invented for it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from whatchanged.errors import UsageError
from whatchanged.records import Judgement, Outcome
from whatchanged.stats import wilson_interval

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

HIT_THRESHOLD = 0.5
_SIDE_WORDS = re.compile(
    r"\b(base|baseline|intervention|intervened|original|modified|finetuned|fine-tuned|edited|"
    r"quantized|unlearned|distilled|steered) (model|side|checkpoint|version|repl(?:y|ies)|texts?)\b"
    r"|\b(finetune|fine-tune|intervention)\b",
    re.IGNORECASE,
)
_QUOTED = re.compile(r'"[^"]*"|“[^”]*”')


class Escalation(NamedTuple):
    """Which texts go to the dearer judge, and why; no text is in both masks `(n_texts,)`."""

    borderline: BoolArray
    audit: BoolArray


@dataclass(frozen=True, slots=True)
class AuditError:
    """How often the dearer judge contradicts the cheap one where that one was sure.

    `rate` in [0, 1] is NaN where nothing was audited; then the interval (95 %) is [0, 1].
    """

    n_audited: int
    n_disagree: int
    rate: float
    ci_low: float
    ci_high: float


def read_scores(judgements: Sequence[Judgement]) -> FloatArray:
    """The scores `(n_texts,)` in [0, 1]; NaN where the outcome is not "answered"."""
    return np.array(
        [
            j.score if j.outcome == "answered" and j.score is not None else np.nan
            for j in judgements
        ],
        dtype=np.float64,
    )


def choose_escalations(
    scores: ArrayLike,
    outcomes: Sequence[Outcome],
    *,
    borderline: tuple[float, float],
    audit_share: float,
    seed: int,
) -> Escalation:
    """Which texts the dearer judge sees: all within the borderline band, bounds included, and a
    random `audit_share` in [0, 1] of the other answered ones, rounded up.

    Texts that the cheap judge did not answer go nowhere: they are counted as unscored. Raises
    UsageError where scores and outcomes differ in number or contradict each other.
    """
    values = np.asarray(scores, dtype=np.float64)
    if len(values) != len(outcomes):
        raise UsageError(
            f"expected one outcome per score, found {len(values)} scores and {len(outcomes)} "
            "outcomes: pass both from the same judgements"
        )
    answered = np.array([outcome == "answered" for outcome in outcomes], dtype=np.bool_)
    _check_scores(values, answered)
    low, high = borderline
    in_band = answered & (values >= low) & (values <= high)
    decided = np.flatnonzero(answered & ~in_band)
    n_audit = int(np.ceil(audit_share * len(decided) - 1e-9))
    drawn = np.random.default_rng(seed).permutation(decided)[:n_audit]
    audit = np.zeros(len(values), dtype=np.bool_)
    audit[drawn] = True
    return Escalation(in_band, audit)


def merge_tiers(cheap_scores: ArrayLike, expensive_scores: ArrayLike) -> FloatArray:
    """The final scores `(n_texts,)`: the dearer judge's where it answered, else the cheap one's.

    NaN marks "not asked or not answered" in both arguments, and stays NaN where neither answered.
    """
    cheap = np.asarray(cheap_scores, dtype=np.float64)
    expensive = np.asarray(expensive_scores, dtype=np.float64)
    return np.where(np.isnan(expensive), cheap, expensive)


def audit_error(
    cheap_scores: ArrayLike,
    expensive_scores: ArrayLike,
    audit: BoolArray,
    threshold: float = HIT_THRESHOLD,
) -> AuditError:
    """The cheap judge's error among the audited texts that both judges scored, with Wilson's
    95 % interval. Two scores disagree when they lie on different sides of the threshold."""
    cheap = np.asarray(cheap_scores, dtype=np.float64)
    expensive = np.asarray(expensive_scores, dtype=np.float64)
    both = audit & ~np.isnan(cheap) & ~np.isnan(expensive)
    n_audited = int(both.sum())
    disagree = hits_from_scores(cheap[both], threshold) != hits_from_scores(
        expensive[both], threshold
    )
    n_disagree = int(disagree.sum())
    low, high = wilson_interval(n_disagree, n_audited)
    rate = n_disagree / n_audited if n_audited else float("nan")
    return AuditError(n_audited, n_disagree, rate, low, high)


def blind_order(text_keys: Sequence[str], seed: int) -> NDArray[np.intp]:
    """A random order of presentation: the i-th text to show is `text_keys[order[i]]`.

    It depends on the set of keys and the seed, not on the order in which the keys arrive, so that
    no judge can learn the side from the place.
    """
    by_key = np.argsort(np.array(text_keys, dtype=np.str_), kind="stable")
    return np.asarray(by_key[np.random.default_rng(seed).permutation(len(by_key))], dtype=np.intp)


def restore_order(order: NDArray[np.intp], answers: Sequence[Judgement]) -> list[Judgement]:
    """The answers to texts shown in `order`, put back to the order in which the texts came."""
    place = np.argsort(order)
    return [answers[i] for i in place]


def names_a_side(criterion: str, names: Sequence[str] = ()) -> str | None:
    """The first word of a criterion that gives a side or one of the model `names` away, or None.

    What a criterion quotes is not looked at: a text that says "base camp" gives nothing away.
    """
    unquoted = _QUOTED.sub('""', criterion)
    if match := _SIDE_WORDS.search(unquoted):
        return match.group()
    return next((name for name in names if name and name.casefold() in unquoted.casefold()), None)


def hits_from_scores(scores: ArrayLike, threshold: float = HIT_THRESHOLD) -> BoolArray:
    """Which texts meet the criterion: score at least `threshold`, `(n_texts,)`.

    Raises UsageError for a text without a score: it is neither a hit nor a miss.
    """
    values = np.asarray(scores, dtype=np.float64)
    n_unscored = int(np.isnan(values).sum())
    if n_unscored:
        raise UsageError(
            f"expected a score per text, found {n_unscored} of {len(values)} unscored: leave "
            "unscored texts out and report their number"
        )
    return values >= threshold


def _check_scores(values: FloatArray, answered: BoolArray) -> None:
    within = (values >= 0) & (values <= 1)
    wrong = np.flatnonzero(answered & ~within)
    if len(wrong):
        raise UsageError(
            f"expected a score in [0, 1] for every answered text, found {values[wrong[0]]} at "
            f"place {wrong[0]}: a judge without a score must give another outcome"
        )
