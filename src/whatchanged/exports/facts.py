"""What several exports say of a run: its claims, what it covered, and what it cost."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from whatchanged.pages.numbers import UNKNOWN, count, look_up, money, number

if TYPE_CHECKING:
    from whatchanged.report import RunTables

_DISCOVERY_SHARES = re.compile(r"\s*\([^()]*\bin discovery\)(?=\.?$)")


class Covered(NamedTuple):
    """One quantity of both sides, as people read it."""

    what: str
    base: str
    intervention: str


class Spent(NamedTuple):
    """What one model that was asked did and cost, as people read it."""

    who: str
    model: str
    calls: str
    cached: str
    unscored: str
    cost: str


def write_claim(finding: Mapping[str, Any]) -> str:
    """The finding's statement without the shares that it had in discovery: beside the shares of its
    test they would be read as results."""
    return _DISCOVERY_SHARES.sub("", str(finding.get("statement") or UNKNOWN))


def last_round(clusters: pd.DataFrame, level: str) -> pd.DataFrame:
    """The clusters of one level ("text" or "segment") at the end of discovery."""
    own = clusters[clusters["level"] == level]
    last: pd.DataFrame = own[own["round"] == own["round"].max()]
    return last


def describe_coverage(run: RunTables) -> list[Covered]:
    """What was decoded and compared: prompts, texts and tokens by split, and the clusters."""
    rows = []
    for split, title in (("discovery", "Discovery"), ("validation", "Validation (fresh)")):
        own = run.texts[run.texts["split"] == split]
        sides = [own[own["side"] == side] for side in ("base", "intervention")]
        for what, values in (
            ("prompts", [side["prompt_key"].nunique() for side in sides]),
            ("texts", [len(side) for side in sides]),
            ("tokens", [side["n_tokens"].sum() for side in sides]),
        ):
            rows.append(Covered(f"{title} {what}", *map(count, values)))
    for level, title in (("text", "Clusters of replies"), ("segment", "Clusters of sentences")):
        own = last_round(run.clusters, level)
        held = [int((own[name] > 0).sum()) for name in ("n_base", "n_intervention")]
        rows.append(Covered(f"{title} (of {len(own):,})", *map(count, held)))
    return rows


def describe_cost(run: RunTables) -> list[Spent]:
    """What the judges did, tier by tier; other paid models, such as a proposer; and their sum,
    unknown where one price is."""
    rows, costs = [], []
    for tier in ("cheap", "expensive"):
        provider = look_up(run.config, "judge", tier, "provider")
        model = look_up(run.config, "judge", tier, "model")
        done = look_up(run.summary, "judge", tier)
        costs.append(number(look_up(done, "cost_usd")))
        rows.append(
            Spent(
                who=f"{tier} judge",
                model=" ".join(str(part) for part in (provider, model) if part) or UNKNOWN,
                calls=count(look_up(done, "n_calls")),
                cached=count(look_up(done, "n_cached")),
                unscored=count(look_up(done, "n_unscored")),
                cost=money(costs[-1]),
            )
        )
    bills = run.summary.get("bill") or {}
    for name in sorted(bills.keys() - {"cheap", "expensive"}):
        bill = bills[name]
        costs.append(number(bill.get("spent_usd")))
        calls = count(bill.get("n_calls"))
        rows.append(Spent(str(name), str(bill.get("model")), calls, "", "", money(costs[-1])))
    total = None if None in costs else sum(cost or 0.0 for cost in costs)
    return [*rows, Spent("together", "", "", "", "", money(total))]


def computing_seconds(summary: Mapping[str, Any]) -> float | None:
    """The seconds of all stages together; None where they are unknown."""
    stages = summary.get("seconds")
    known = [number(value) for value in stages.values()] if isinstance(stages, Mapping) else []
    return sum(value or 0.0 for value in known) if known else None
