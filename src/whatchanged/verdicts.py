"""Verdicts as a table: one row per judged text and tier, made blind and read back as scores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from whatchanged.config import JudgeConfig
from whatchanged.errors import UsageError
from whatchanged.judge import (
    AuditError,
    audit_error,
    blind_order,
    choose_escalations,
    merge_tiers,
    names_a_side,
    read_scores,
    restore_order,
)
from whatchanged.keys import content_key, seed_from_key
from whatchanged.models.protocols import Judge
from whatchanged.records import VERDICT_COLUMNS, Hypothesis, Judgement, Question, Tier

COLUMNS = (*VERDICT_COLUMNS, "is_audit")
TIERS: tuple[Tier, Tier] = ("cheap", "expensive")


def grade_texts(
    hypothesis: Hypothesis,
    texts: pd.DataFrame,
    cheap: Judge,
    expensive: Judge,
    config: JudgeConfig,
    *,
    seed: int,
) -> pd.DataFrame:
    """The verdicts (`COLUMNS`) on every row of `texts` (`text_key`, `prompt`, `text`).

    The cheap judge sees all, in a random order that tells nothing of the side; the expensive one
    the borderline and a random audit. Raises UsageError for a criterion that names a side.
    """
    _check_blind(hypothesis)
    own_seed = _grade_seed(hypothesis, seed)
    first = _ask(cheap, hypothesis, texts, own_seed)
    up = choose_escalations(
        read_scores(first),
        [judgement.outcome for judgement in first],
        borderline=config.borderline,
        audit_share=config.audit_share,
        seed=own_seed,
    )
    escalated = up.borderline | up.audit
    second = _ask(expensive, hypothesis, texts[escalated], own_seed)
    keys = texts["text_key"].to_numpy()
    none_audited = np.zeros(len(texts), dtype=np.bool_)
    return pd.concat(
        [
            _tabulate(hypothesis.id, "cheap", cheap, keys, first, none_audited),
            _tabulate(
                hypothesis.id, "expensive", expensive, keys[escalated], second, up.audit[escalated]
            ),
        ],
        ignore_index=True,
    )


def ask_texts(
    hypothesis: Hypothesis,
    texts: pd.DataFrame,
    judge: Judge,
    tier: Tier,
    *,
    is_audit: bool,
    seed: int,
) -> pd.DataFrame:
    """The verdicts (`COLUMNS`) of one judge on every row of `texts`, asked as by `grade_texts`.

    `is_audit` marks texts that were drawn at random. Raises UsageError for a criterion that names a
    side.
    """
    _check_blind(hypothesis)
    judgements = _ask(judge, hypothesis, texts, _grade_seed(hypothesis, seed))
    keys = texts["text_key"].to_numpy()
    return _tabulate(hypothesis.id, tier, judge, keys, judgements, np.full(len(texts), is_audit))


def final_scores(verdicts: pd.DataFrame) -> pd.DataFrame:
    """`hypothesis_id`, `text_key`, `score`: the expensive judge's where it answered, else the
    cheap one's, NaN where neither did."""
    by_tier = verdicts.pivot(index=["hypothesis_id", "text_key"], columns="tier", values="score")
    by_tier = by_tier.reindex(columns=list(TIERS))
    scores = merge_tiers(by_tier["cheap"].to_numpy(float), by_tier["expensive"].to_numpy(float))
    return by_tier.index.to_frame(index=False).assign(score=scores)


def audit_verdicts(verdicts: pd.DataFrame) -> AuditError:
    """How often the expensive judge contradicted the cheap one on the audited texts."""
    audited = verdicts[verdicts["is_audit"].astype(bool)]
    cheap = verdicts[verdicts["tier"] == "cheap"]
    both = audited.merge(cheap, on=["hypothesis_id", "text_key"], suffixes=("", "_cheap"))
    return audit_error(
        both["score_cheap"].to_numpy(float),
        both["score"].to_numpy(float),
        np.ones(len(both), dtype=np.bool_),
    )


def count_calls(verdicts: pd.DataFrame) -> dict[str, int | float | str | None]:
    """Verdicts and unscored texts per tier."""
    counts: dict[str, int | float | str | None] = {}
    for tier in TIERS:
        rows = verdicts[verdicts["tier"] == tier]
        counts[f"{tier}_calls"] = len(rows)
        counts[f"{tier}_unscored"] = int(rows["score"].isna().sum())
    return counts


def cost_of_answers(verdicts: pd.DataFrame, texts: pd.DataFrame) -> float | None:
    """What the replies behind the verdicts on one hypothesis cost when they were paid for, in this
    run or an earlier one, in US dollars; None where that is unknown of one of them.

    `texts` has `text_key`, `prompt_key` and `text`. Texts of one prompt that read alike share a
    reply, which counts once per tier; hypotheses that share one count it each. Tries without a
    reply are in the run's bill alone.
    """
    if verdicts["cost_usd"].isna().any():
        return None
    if not verdicts["cost_usd"].any():
        return 0.0
    words = texts[["text_key", "prompt_key", "text"]].drop_duplicates("text_key")
    # A text may hold half of a surrogate pair, which only plain Python strings can.
    words = words.astype({"text": object})
    rows = verdicts[["text_key", "tier", "cost_usd"]].merge(words, on="text_key")
    # Of texts that were asked about together, only the first carries the cost.
    each = rows.groupby(["tier", "prompt_key", "text"])["cost_usd"].max()
    return float(each.sum())


def empty_verdicts() -> pd.DataFrame:
    """The verdicts table without a row."""
    return _tabulate("", "cheap", None, np.zeros(0, dtype=object), [], np.zeros(0, dtype=bool))


def _check_blind(hypothesis: Hypothesis) -> None:
    if word := names_a_side(hypothesis.criterion):
        raise UsageError(
            f"expected a criterion that names no side, found {word!r} in "
            f"{hypothesis.criterion!r}: judges must be blind"
        )


def _grade_seed(hypothesis: Hypothesis, seed: int) -> int:
    return seed_from_key(content_key("grade/1", seed, hypothesis.criterion, hypothesis.scope or ""))


def _ask(judge: Judge, hypothesis: Hypothesis, texts: pd.DataFrame, seed: int) -> list[Judgement]:
    order = blind_order(texts["text_key"].tolist(), seed)
    shown = texts.iloc[order]
    questions = [
        Question(hypothesis.criterion, prompt, text)
        for prompt, text in zip(shown["prompt"], shown["text"], strict=True)
    ]
    return restore_order(order, judge.judge(questions)) if questions else []


def _tabulate(
    hypothesis_id: str,
    tier: Tier,
    judge: Judge | None,
    text_keys: NDArray[np.object_],
    judgements: Sequence[Judgement],
    is_audit: NDArray[np.bool_],
) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "hypothesis_id": pd.Series([hypothesis_id] * len(text_keys), dtype=str),
            "text_key": pd.Series(text_keys, dtype=str),
            "tier": pd.Series([tier] * len(text_keys), dtype=str),
            "judge": pd.Series([judge.identity if judge else ""] * len(text_keys), dtype=str),
            "score": read_scores(judgements),
            "outcome": pd.Series([j.outcome for j in judgements], dtype=str),
            "reason": pd.Series([j.reason for j in judgements], dtype=str),
            "cost_usd": np.array([j.cost_usd for j in judgements], dtype=np.float64),
            "is_audit": is_audit,
        }
    )[list(COLUMNS)]
