"""The parts about judging: each hypothesis with the texts that tested it, and the judges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from whatchanged.dashboard.columns import encode_part
from whatchanged.dashboard.rows import EVIDENCE_FIELDS, Rows
from whatchanged.dashboard.text_parts import SIDES, Judgements, pack_scores
from whatchanged.judge import hits_from_scores
from whatchanged.pages.accounts import is_judged_in_waves
from whatchanged.stats import auc, wilson_interval
from whatchanged.verdicts import cost_of_answers

OUTCOMES = ("answered", "refused", "cut_off", "malformed", "failed")
N_BINS = 10
MAX_DISAGREEMENTS = 500
# What the page calls the scores of the last judge that answered: those of the test, unless the
# expensive judge was asked in waves; then the test used calibrated scores, which a run does not
# keep.
FINAL, LATEST = "final", "latest"

Scores: TypeAlias = NDArray[np.float64]


class Verdicts:
    """The verdicts of a run by hypothesis: one row per text, one score column per tier.

    `tiers` are in the order in which a later one overrules an earlier one; `merged` is the name of
    the scores that this gives.
    """

    def __init__(self, verdicts: pd.DataFrame, findings: Sequence[Mapping[str, Any]],
                 rows: Rows, config: Mapping[str, Any]) -> None:  # fmt: skip
        self.merged = LATEST if is_judged_in_waves(config) else FINAL
        known = verdicts.assign(row=verdicts["text_key"].map(rows.by_key))
        known = known[known["row"].notna()].astype({"row": np.int64})
        known = known.drop_duplicates(["hypothesis_id", "row", "tier"], keep="last")
        present = list(dict.fromkeys(known["tier"]))
        order = ["cheap", "expensive"]
        self.tiers = [t for t in order if t in present] + [t for t in present if t not in order]
        self.table = known.reset_index(drop=True)
        self._texts = rows.texts
        self.sides = (rows.texts["side"] == SIDES[1]).to_numpy().astype(np.uint8)
        numbers = {str(finding["id"]): i for i, finding in enumerate(findings)}
        self._finding = known["hypothesis_id"].map(numbers)
        self._groups: dict[str, pd.DataFrame] = {
            str(name): group for name, group in self.table.groupby("hypothesis_id", sort=False)
        }

    def of(self, finding_id: str) -> pd.DataFrame:
        """The verdicts on one hypothesis; no rows where there are none."""
        return self._groups.get(finding_id, self.table.iloc[:0])

    def scores(self, verdicts: pd.DataFrame) -> pd.DataFrame:
        """One row per judged text: a score per tier (NaN where it did not answer) and `merged`."""
        scores = verdicts.pivot(index="row", columns="tier", values="score").astype(float)
        scores = scores.reindex(columns=self.tiers)
        last = scores.ffill(axis=1).iloc[:, -1] if self.tiers else pd.Series(dtype=float)
        return scores.assign(**{self.merged: last})

    def cost_usd(self, verdicts: pd.DataFrame) -> float | None:
        """What some of the verdicts cost, as findings count it; None where a price is unknown."""
        costs = [
            cost_of_answers(own, self._texts.iloc[own["row"].unique()])
            for _, own in verdicts.groupby("hypothesis_id")
        ]
        known = [cost for cost in costs if cost is not None]
        return sum(known, 0.0) if len(known) == len(costs) else None

    def judgements(self) -> Judgements:
        """The merged score of every (text, hypothesis) pair."""
        table = self.table.assign(finding=self._finding.to_numpy())
        table = table[table["finding"].notna()]
        scores = table.pivot(index=["row", "finding"], columns="tier", values="score")
        scores = scores.reindex(columns=self.tiers).astype(float)
        final = scores.ffill(axis=1)
        last = final.iloc[:, -1].to_numpy() if self.tiers else np.zeros(0)
        index = scores.index.to_frame(index=False)
        return Judgements(
            index["row"].to_numpy(dtype=np.int64), index["finding"].to_numpy(dtype=np.int64), last
        )


def encode_hypothesis(finding: Mapping[str, Any], verdicts: Verdicts, rows: Rows) -> bytes:
    """One hypothesis: its validation table, agreement, evidence rows, and every judged text."""
    own = verdicts.of(str(finding["id"]))
    scores = verdicts.scores(own)
    judged = scores.index.to_numpy(dtype=np.int64)
    side = verdicts.sides[judged] if len(judged) else np.zeros(0, dtype=np.uint8)
    judged_by = [(verdicts.merged, own)]
    judged_by += [(tier, own[own["tier"] == tier]) for tier in verdicts.tiers]
    table = [
        {
            **_tier_row(name, scores[name].to_numpy(float), side, by),
            "outcomes": None if name == verdicts.merged else _outcomes(by),
            "cost_usd": verdicts.cost_usd(by),
        }
        for name, by in judged_by
    ]
    reasons = _reasons(own, judged)
    shown = sorted(set(reasons))
    number = {reason: i for i, reason in enumerate(shown)}
    columns: dict[str, NDArray[Any]] = {
        "row": judged.astype(np.uint32),
        "side": side,
        "reason": np.array([number[r] for r in reasons], dtype=np.uint16),
    }
    for i, name in enumerate([verdicts.merged, *verdicts.tiers]):
        columns[f"score_{i}"] = pack_scores(scores[name].to_numpy(float))
    values = {
        "id": str(finding["id"]),
        "tiers": [verdicts.merged, *verdicts.tiers],
        "table": table,
        "agreement": _agreements(scores, verdicts.tiers),
        "reasons": shown,
        **{name: rows.find(map(str, finding.get(name) or ())) for name in EVIDENCE_FIELDS},
    }
    return encode_part(values, columns)


def encode_judges(
    verdicts: Verdicts, config: Mapping[str, Any], summary: Mapping[str, Any]
) -> bytes:
    """The judges over all hypotheses: outcomes, cost, agreement, calibration, disagreements."""
    table = verdicts.table
    scores = table.pivot(index=["hypothesis_id", "row"], columns="tier", values="score")
    scores = scores.reindex(columns=verdicts.tiers).astype(float)
    pairs = [(a, b) for i, a in enumerate(verdicts.tiers) for b in verdicts.tiers[i + 1 :]]
    values = {
        "tiers": [
            {**_judge_row(tier, own), "cost_usd": verdicts.cost_usd(own)}
            for tier in verdicts.tiers
            for own in (table[table["tier"] == tier],)
        ],
        "calls": summary.get("judge"),
        "config": config.get("judge"),
        "agreement": _agreements(scores, verdicts.tiers),
        "calibration": [
            {"of": a, "against": b, "bins": _calibration(*_both(scores, a, b))} for a, b in pairs
        ],
        "disagreements": [row for a, b in pairs for row in _disagreements(scores, a, b)],
        "max_disagreements": MAX_DISAGREEMENTS,
    }
    return encode_part(values, {})


def count_cells(scores: Scores, side: NDArray[np.uint8]) -> dict[str, int]:
    """The confusion matrix of a judge: scored texts by side, and by whether they meet the claim."""
    known = ~np.isnan(scores)
    hits = hits_from_scores(scores[known])
    on = side[known].astype(bool)
    return {
        "base_met": int((hits & ~on).sum()),
        "base_unmet": int((~hits & ~on).sum()),
        "intervention_met": int((hits & on).sum()),
        "intervention_unmet": int((~hits & on).sum()),
    }


def kappa(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float | None:
    """Cohen's kappa (1960) of two yes-or-no ratings; None where it is undefined: no text, or both
    always say the same word."""
    if not len(one):
        return None
    observed = float((one == other).mean())
    p, q = float(one.mean()), float(other.mean())
    expected = p * q + (1 - p) * (1 - q)
    return None if expected == 1.0 else (observed - expected) / (1 - expected)


def _tier_row(
    name: str, scores: Scores, side: NDArray[np.uint8], own: pd.DataFrame
) -> dict[str, Any]:
    cells = count_cells(scores, side)
    n_scored = sum(cells.values())
    # Telling the sides apart by the claim: right is "met" on one side and "unmet" on the other.
    n_as_claimed = cells["intervention_met"] + cells["base_unmet"]
    interval = wilson_interval(n_as_claimed, n_scored)
    known = ~np.isnan(scores)
    area = auc(scores[known & (side == 0)], scores[known & (side == 1)])
    return {
        "tier": name,
        "n_judged": int(own["row"].nunique()),
        "n_scored": n_scored,
        "cells": cells,
        "accuracy": n_as_claimed / n_scored if n_scored else None,
        "low": interval.low if n_scored else None,
        "high": interval.high if n_scored else None,
        "auc": None if np.isnan(area) else area,
    }


def _judge_row(tier: str, own: pd.DataFrame) -> dict[str, Any]:
    return {
        "tier": tier,
        "judges": [str(name) for name in own["judge"].drop_duplicates()],
        "n": len(own),
        "outcomes": _outcomes(own),
        "n_audit": int(own["is_audit"].astype(bool).sum()) if "is_audit" in own else None,
    }


def _outcomes(own: pd.DataFrame) -> dict[str, int]:
    counts = own["outcome"].value_counts()
    return {name: int(counts.get(name, 0)) for name in OUTCOMES}


def _agreements(scores: pd.DataFrame, tiers: Sequence[str]) -> list[dict[str, Any]]:
    """How often each pair of tiers says the same of a text that both scored."""
    found = []
    for i, a in enumerate(tiers):
        for b in tiers[i + 1 :]:
            one, other = map(hits_from_scores, _both(scores, a, b))
            n_same = int((one == other).sum())
            found.append(
                {
                    "of": a,
                    "against": b,
                    "n": len(one),
                    "n_same": n_same,
                    "kappa": kappa(one, other),
                    "cells": [
                        [int((~one & ~other).sum()), int((~one & other).sum())],
                        [int((one & ~other).sum()), int((one & other).sum())],
                    ],
                }
            )
    return found


def _both(scores: pd.DataFrame, a: str, b: str) -> tuple[Scores, Scores]:
    """The scores of two tiers on the texts that both scored."""
    both = scores[[a, b]].dropna()
    return both[a].to_numpy(float), both[b].to_numpy(float)


def _calibration(first: Scores, second: Scores) -> list[dict[str, Any]]:
    """By the first tier's score: how often the second one says yes of the same texts."""
    hits = hits_from_scores(second)
    places = np.minimum((first * N_BINS).astype(int), N_BINS - 1)
    bins = []
    for i in range(N_BINS):
        inside = places == i
        n, n_hits = int(inside.sum()), int(hits[inside].sum())
        low, high = wilson_interval(n_hits, n)
        bins.append({"low": i / N_BINS, "high": (i + 1) / N_BINS, "n": n, "n_hits": n_hits,
                     "ci_low": low, "ci_high": high})  # fmt: skip
    return bins


def _disagreements(scores: pd.DataFrame, a: str, b: str) -> list[dict[str, Any]]:
    both = scores[[a, b]].dropna()
    one, other = map(hits_from_scores, _both(scores, a, b))
    worst = both[one != other]
    worst = worst.loc[(worst[a] - worst[b]).abs().sort_values(ascending=False, kind="stable").index]
    return [
        {"finding": str(finding), "row": int(row), "of": a, "against": b,
         "score_of": float(pair[a]), "score_against": float(pair[b])}
        for (finding, row), pair in worst.head(MAX_DISAGREEMENTS).iterrows()
    ]  # fmt: skip


def _reasons(own: pd.DataFrame, judged: NDArray[np.int64]) -> list[str]:
    """What the last tier that gave a reason said of each judged text."""
    given = own[own["reason"].astype(str) != ""].drop_duplicates("row", keep="last")
    by_row = dict(zip(given["row"], given["reason"].astype(str), strict=True))
    return [by_row.get(int(row), "") for row in judged]
