"""What the dashboard shows of a finding's or a cluster's insides: which components tell its texts
from others and the sides from each other, beside a control, and what the directions contributed."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from whatchanged.activations.attribution import contrast as contrast_texts
from whatchanged.activations.attribution import find_contributors
from whatchanged.activations.reading import TextContrast
from whatchanged.activations.selectivity import Selectivity, TextSummaries, find_selective

# The source of directions drawn at random.
CONTROL = "random"
# The smallest p-value is 1 in so many: enough for one unit among 2,500, or two among 5,000.
_N_DRAWS = 50_000

SELECTIVE_COLUMNS = (
    "kind", "name", "contrast", "unit", "is_cluster", "statistic", "auc", "ci_low", "ci_high",
    "auc_overall", "auc_selection", "p_value", "p_adjusted", "control_auc", "n_supporting",
    "n_other", "n_prompts",
)  # fmt: skip
CONTRIBUTION_COLUMNS = (
    "finding", "label", "nats", "ci_low", "ci_high", "share", "times_control", "p_value",
    "p_adjusted",
)  # fmt: skip


def is_control(labels: Sequence[str]) -> NDArray[np.bool_]:
    """Which labels, or names of modules, are of directions drawn at random `(n_labels,)`."""
    return np.array([label.startswith(f"{CONTROL}/") for label in labels], dtype=bool)


def select_units(
    summaries: TextSummaries,
    clusters: TextSummaries,
    contrasts: Sequence[TextContrast],
    prompt_keys: Sequence[str],
    *,
    seed: int,
    n_shown: int,
    chosen_on: Collection[str] = (),
) -> list[dict[str, Any]]:
    """Rows (`SELECTIVE_COLUMNS`) of the components and component clusters that best tell the two
    kinds of each contrast apart, best first.

    `summaries` (controls included) and `clusters` are of all texts that were read, and
    `prompt_keys` are theirs. Components and clusters are chosen, tested and corrected together.
    `control_auc` is the same figure of the best direction drawn at random: a component that does
    no better than it shows only that the texts differ. `chosen_on`: the prompts on which these
    components were chosen from more, of which `find_selective` holds none out.
    """
    drawn = is_control(summaries.labels)
    own = TextSummaries(
        summaries.text_keys,
        (*np.array(summaries.labels, dtype=object)[~drawn], *clusters.labels),
        np.concatenate([summaries.values[:, :, ~drawn], clusters.values], axis=2),
    )
    control = _part(summaries, columns=drawn)

    def find(texts: TextSummaries, contrast: TextContrast, n: int) -> list[Selectivity]:
        keys = [prompt_keys[row] for row in contrast.rows]
        return find_selective(
            _part(texts, rows=contrast.rows), keys, contrast.is_supporting, seed=seed, n_shown=n,
            n_draws=_N_DRAWS, chosen_on=chosen_on,
        )  # fmt: skip

    # Findings of one scope share the contrast of their sides.
    known: dict[tuple[bytes, bytes], list[dict[str, Any]]] = {}
    rows = []
    for contrast in contrasts:
        same = contrast.rows.tobytes(), contrast.is_supporting.tobytes()
        if same not in known:
            best = find(control, contrast, 1) if drawn.any() else []
            control_auc = best[0].auc if best else float("nan")
            known[same] = [
                {
                    "unit": unit.label,
                    "is_cluster": unit.label in clusters.labels,
                    **{k: v for k, v in asdict(unit).items() if k != "label"},
                    "control_auc": control_auc,
                }
                for unit in find(own, contrast, n_shown)
            ]
        what = {"kind": contrast.kind, "name": contrast.name, "contrast": contrast.contrast}
        rows += [what | figures for figures in known[same]]
    return rows


def tabulate_selective(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """`SELECTIVE_COLUMNS`."""
    return pd.DataFrame(list(rows), columns=list(SELECTIVE_COLUMNS))


def attribute_finding(
    finding: str,
    labels: Sequence[str],
    values: NDArray[np.float64],
    controls: NDArray[np.float64],
    strengths: NDArray[np.float64],
    log_ratios: NDArray[np.float64],
    prompt_keys: Sequence[str],
    is_supporting: NDArray[np.bool_],
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """What each direction contributed to a finding (`CONTRIBUTION_COLUMNS`), the surest first, and
    the finding's own figures: by how many nats its texts exceed others of their prompt in
    log-ratio, which share of that the directions carried together, and how many are significant.

    The arguments are `attribution.find_contributors`'.
    """
    parts = find_contributors(
        labels, values, controls, strengths, log_ratios, prompt_keys, is_supporting
    )
    whole = contrast_texts(log_ratios[:, None], prompt_keys, is_supporting)
    table = pd.DataFrame([{"finding": finding, **asdict(part)} for part in parts])
    figures = {
        "finding": finding,
        "n_texts": len(is_supporting),
        "n_supporting": int(is_supporting.sum()),
        "n_prompts": whole.n_prompts,
        "log_ratio_nats": float(whole.nats[0]),
        "share": float(np.nansum([part.share for part in parts])),
        "n_directions": len(parts),
        "n_significant": sum(part.p_adjusted <= 0.05 for part in parts),
    }
    return table.reindex(columns=list(CONTRIBUTION_COLUMNS)), figures


def no_contributions(finding: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The table and the figures of a finding on whose texts nothing could be attributed."""
    return pd.DataFrame(columns=list(CONTRIBUTION_COLUMNS)), {"finding": finding, "n_texts": 0}


def join_contributions(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The contributions to all findings (`CONTRIBUTION_COLUMNS`)."""
    filled = [part for part in parts if len(part)]
    empty = pd.DataFrame(columns=list(CONTRIBUTION_COLUMNS))
    return pd.concat(filled, ignore_index=True) if filled else empty


def choose_shown(
    selective: pd.DataFrame, findings: Sequence[Mapping[str, Any]], n_units: int
) -> pd.DataFrame:
    """Which components to show on which quoted texts: `finding`, `text_key`, `unit`.

    For each finding, the `n_units` single components that best tell its texts apart.
    """
    rows: list[tuple[str, str, str]] = []
    own = selective[
        (selective["kind"] == "finding")
        & (selective["contrast"] == "texts")
        & ~selective["is_cluster"].astype(bool)
    ]
    for finding in findings:
        units = own.loc[own["name"] == finding["id"], "unit"].tolist()[:n_units]
        quoted = [*(finding.get("supporting") or ()), *(finding.get("contradicting") or ())]
        rows += [(str(finding["id"]), key, unit) for key in quoted for unit in units]
    return pd.DataFrame(rows, columns=["finding", "text_key", "unit"])


def _part(
    texts: TextSummaries,
    rows: NDArray[np.int64] | None = None,
    columns: NDArray[np.bool_] | None = None,
) -> TextSummaries:
    if columns is not None:
        labels = tuple(np.array(texts.labels, dtype=object)[columns])
        texts = replace(texts, labels=labels, values=texts.values[:, :, columns])
    if rows is None:
        return texts
    keys = tuple(texts.text_keys[row] for row in rows)
    return replace(texts, text_keys=keys, values=texts.values[rows])


def describe_collection(summary: Mapping[str, Any]) -> str:
    """The stage's result for people, in Markdown."""
    lines = [
        f"{summary['n_components']:,} components read on {summary['n_texts']:,} texts "
        f"({', '.join(summary['sources']) or 'no source'})."
    ]
    if parts := summary.get("n_by_source"):
        lines += ["Of them: " + ", ".join(f"{n:,} {source}" for source, n in parts.items()) + "."]
    lines += [f"Not read: {source}: {why}." for source, why in summary["skipped"].items()]
    if best := summary.get("selective"):
        lines += ["", "| finding | best at telling its texts | AUC | best random direction |"]
        lines += ["|---|---|---|---|"]
        lines += [
            f"| {row['finding']} | {row['unit']} | {_shown(row['auc'])} | "
            f"{_shown(row['control_auc'])} |"
            for row in best
        ]
        lines += ["", "Selective is not causal: texts that differ in words differ in everything."]
    if own := [part for part in summary["contributions"] if part.get("n_directions")]:
        head = "| finding | nats beyond other texts | carried by directions | significant |"
        lines += ["", head, "|---|---|---|---|"]
        lines += [
            f"| {part['finding']} | {_shown(part['log_ratio_nats'])} | {_shown(part['share'])} | "
            f"{part['n_significant']} of {part['n_directions']} |"
            for part in own
        ]
        lines += ["", "Significant: beyond what equally strong directions drawn at random carry."]
    return "\n".join(lines)


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
