"""What the five figures show, as tables: each is drawn from its own, and written beside it as CSV.

Why these five: design/0012.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from whatchanged.exports.atlas import place_texts
from whatchanged.exports.facts import last_round, write_claim
from whatchanged.figures import MAX_MAP_POINTS
from whatchanged.judge import hits_from_scores
from whatchanged.pages.headline import false_discovery_rate, name_models
from whatchanged.pages.numbers import look_up, number, plural, points, whole
from whatchanged.stats import wilson_interval

if TYPE_CHECKING:
    from whatchanged.store.runs import Run

MAX_CLAIMS = 12
MAX_GROUPS = 20
N_BINS = 10


@dataclass(frozen=True, slots=True)
class FigureData:
    """One figure before it is drawn. `rows` are all its data; where it has a column `is_drawn`,
    only those rows are in the picture. `note` is what the drawing writes beside its marks, `band`
    the smallest share difference of interest, 0 for none."""

    name: str
    caption: str
    rows: pd.DataFrame
    note: str = ""
    band: float = 0.0


@dataclass(frozen=True, slots=True)
class Undrawn:
    """A figure that this run has no data for, and why."""

    name: str
    reason: str


def collect_figures(run: Run) -> list[FigureData | Undrawn]:
    """The five figures of a run, in the order of a paper. Raises InputError for a damaged table."""
    collectors: tuple[tuple[str, Callable[[Run], FigureData | str]], ...] = (
        ("findings", collect_findings),
        ("clusters", collect_clusters),
        ("divergence", collect_divergence),
        ("map", collect_map),
        ("judges", collect_judges),
    )
    found = []
    for name, collect in collectors:
        data = collect(run)
        found.append(Undrawn(name, data) if isinstance(data, str) else data)
    return found


def collect_findings(run: Run) -> FigureData | str:
    """Every tested claim of the audit and of the null control, with its effect and interval.

    Of the audit, the confirmed ones are drawn, or all where none is, at most the 12 strongest.
    """
    rows = [_claim_row("audit", finding) for finding in run.findings]
    rows += [_claim_row("null control", finding) for finding in run.null_findings]
    table = pd.DataFrame(rows, columns=_CLAIM_COLUMNS)
    table = table[table[["effect", "ci_low", "ci_high"]].notna().all(axis=1)]
    of_audit = table["of"] == "audit"
    if not of_audit.any():
        return "the run tested no claim"
    is_confirmed = of_audit & (table["status"] == "confirmed")
    chosen = is_confirmed if is_confirmed.any() else of_audit
    is_drawn = (chosen & (chosen.cumsum() <= MAX_CLAIMS)) | ~of_audit
    null = look_up(run.summary, "null_control")
    control = (
        "No null control was run."
        if null is None
        else f"Grey, below: the {plural(int((~of_audit).sum()), 'claim')} of the null control, "
        f"base against base, of which {whole(null.get('n_confirmed')) or 0} were confirmed."
    )
    base, intervention = name_models(run.config)
    n_drawn = int((is_drawn & of_audit).sum())
    status = "confirmed" if is_confirmed.any() else "tested (none was confirmed)"
    caption = (
        f"Changes of {intervention} against {base}: share of fresh texts that meet each claim, "
        "intervention minus base, in percentage points, with 95% intervals. "
        f"{_of_all(n_drawn, int(chosen.sum()))} {status}, of {int(of_audit.sum())} tested at a "
        f"false discovery rate of {false_discovery_rate(run.config)}. {control}"
    )
    band = number(look_up(run.config, "validate", "min_effect")) or 0.0
    if band:
        caption += f" Shaded: the smallest effect of interest, ±{points(band).lstrip('+')}."
    n_null = int((~of_audit).sum())
    note = "" if null is None else f"Null control (base against base): {n_null:,} tested"
    return FigureData("findings", caption, table.assign(is_drawn=is_drawn), note, band)


def collect_clusters(run: Run) -> FigureData | str:
    """The balance of every cluster of sentences (of replies, where there are none) at the end."""
    own = last_round(run.clusters, "segment")
    unit = "sentences"
    if own.empty:
        own, unit = last_round(run.clusters, "text"), "replies"
    names = ["cluster", "n_base", "n_intervention", "share_base", "share_intervention",
             "difference", "ci_low", "ci_high", "exemplar"]  # fmt: skip
    rows = own[names].astype(dict.fromkeys(names[1:8], float)).dropna(subset=["difference"])
    rows = rows.sort_values(["difference", "cluster"], ignore_index=True)
    if len(rows) < 2:
        return "the discovery texts do not form two clusters"
    n_apart = int(((rows["ci_low"] > 0) | (rows["ci_high"] < 0)).sum())
    caption = (
        f"Balance of {len(rows)} clusters of {unit} at the end of discovery: share of intervention "
        "texts minus share of base texts in each, in percentage points, with 95% intervals that "
        f"are not corrected for their number; {n_apart} exclude zero (coloured). The most uneven "
        "are named by the member nearest to their centre. Leads, not tests: sampling followed "
        "them."
    )
    return FigureData("clusters", caption, rows, unit)


def collect_divergence(run: Run) -> FigureData | str:
    """How far the models are apart on each prompt, and on the mean prompt of each group."""
    if "divergence.parquet" not in run.manifest["files"]:
        return "the run did not measure divergence"
    known = run.divergence[run.divergence["parting"].notna()]
    groups = run.prompts.drop_duplicates("prompt_key").set_index("prompt_key")["group"]
    rows = known.assign(group=known["prompt_key"].map(groups).fillna("unknown"))
    if rows.empty:
        return "no text was scored token by token under both models"
    by_group = rows.groupby("group")["parting"]
    rows = rows.assign(
        group_mean=by_group.transform("mean"),
        # A group of one prompt has a mean, and no spread to make an interval of.
        group_se=by_group.transform("sem", ddof=1),
        n_prompts=by_group.transform("size"),
    )
    rows = rows.sort_values(["group_mean", "group", "parting"], ascending=[False, True, False])
    order = list(dict.fromkeys(rows["group"]))
    caption = (
        "How far the models are apart, by prompt group: about how probable it is that the two, "
        "coupled as tightly as they can be token by token, part somewhere along a reply. "
        "Diamonds are the means of groups with 95% intervals over prompts (none for a single "
        "prompt), dots below the prompts. "
        f"{_of_all(min(len(order), MAX_GROUPS), len(order))} groups, widest apart first."
    )
    names = ["group", "prompt_key", "parting", "parting_se", "group_mean", "group_se", "n_prompts"]
    is_drawn = rows["group"].isin(order[:MAX_GROUPS])
    data = rows[names].assign(is_drawn=is_drawn).reset_index(drop=True)
    return FigureData("divergence", caption, data)


def collect_map(run: Run) -> FigureData | str:
    """The discovery texts on their two first principal components; at most 3,000 are drawn."""
    texts = place_texts(run)
    if texts.empty:
        return "the run holds no map of its texts"
    rng = np.random.default_rng(whole(run.config.get("seed")) or 0)
    chosen = np.zeros(len(texts), dtype=np.bool_)
    chosen[rng.permutation(len(texts))[:MAX_MAP_POINTS]] = True
    rows = texts[["text_key", "side", "label", "x", "y"]].assign(is_drawn=chosen)
    caption = (
        f"{_of_all(int(chosen.sum()), len(rows))} discovery texts on the first two principal "
        "components of their embeddings, base left and intervention right in colour, the other "
        "side behind in grey. Near texts tend to mean similar things; a region of one colour is "
        "a lead, not a result."
    )
    return FigureData("map", caption, rows)


def collect_judges(run: Run) -> FigureData | str:
    """By the cheap judge's score: how often the expensive one says that the criterion is met."""
    scores = run.verdicts.pivot_table(
        index=["hypothesis_id", "text_key"], columns="tier", values="score", aggfunc="last"
    ).reindex(columns=["cheap", "expensive"])
    both = scores.dropna()
    if both.empty:
        return "no text has a score of both judges"
    cheap = both["cheap"].to_numpy(float)
    hits = hits_from_scores(both["expensive"].to_numpy(float))
    bins = np.minimum((cheap * N_BINS).astype(int), N_BINS - 1)
    rows = pd.DataFrame([_bin_row(i, cheap[bins == i], hits[bins == i]) for i in range(N_BINS)])
    n_same = int((hits_from_scores(cheap) == hits).sum())
    caption = (
        f"The cheap judge against the expensive one on the {len(both):,} questions that both "
        "answered; which ones the expensive judge got depended on the cheap score and on chance, "
        f"never on the side. They agreed on {100 * n_same / len(both):.1f}%. Share that the "
        "expensive judge says meets the criterion, by the cheap score, with Wilson's 95% "
        "intervals; numbers are questions."
    )
    return FigureData("judges", caption, rows)


_CLAIM_COLUMNS = ["of", "claim", "status", "effect", "ci_low", "ci_high"]


def _claim_row(of: str, finding: Any) -> tuple[Any, ...]:
    figures = (number(finding.get(name)) for name in _CLAIM_COLUMNS[3:])
    return (of, write_claim(finding), str(finding.get("status") or "unknown"), *figures)


def _bin_row(i: int, cheap: Any, hits: Any) -> dict[str, Any]:
    n, n_met = len(hits), int(hits.sum())
    low, high = wilson_interval(n_met, n)
    return {
        "score_low": i / N_BINS, "score_high": (i + 1) / N_BINS, "n": n, "n_met": n_met,
        "mean_score": float(cheap.mean()) if n else np.nan,
        "share_met": n_met / n if n else np.nan, "ci_low": low, "ci_high": high,
    }  # fmt: skip


def _of_all(n_drawn: int, n_all: int) -> str:
    return f"All {n_all:,}" if n_drawn == n_all else f"{n_drawn:,} of {n_all:,}"
