"""What Prefect's page shows of a run: tables and a summary that hold no text of the audit.

A server's database outlives the runs and is read by whoever opens the page, so neither prompts nor
texts nor statements (a model that proposes may quote a text) go there: only names, counts, measures
and the address of the report, which has the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

FINDING_COLUMNS = ("id", "status", "direction", "effect", "ci_low", "ci_high", "p_adjusted", "auc",
                   "n_texts", "judge_calls")  # fmt: skip


def tabulate_work(name: str, n_items: int, seconds: float, *, is_cached: bool) -> dict[str, Any]:
    """A row on one task: what it did, and how fast; the rate of a cached one is of no interest."""
    is_timed = seconds > 0 and not is_cached
    return {
        "task": name,
        "items": n_items,
        "state": "cached" if is_cached else "computed",
        "seconds": None if is_cached else round(seconds, 2),
        "items per second": round(n_items / seconds, 1) if is_timed else None,
    }


def write_overview(
    name: str,
    address: str,
    summary: Mapping[str, Any],
    findings: Sequence[Mapping[str, Any]],
    retries: Sequence[str],
) -> str:
    """The markdown on a finished audit (`summary.summarize_run`), strongest findings first.
    `retries` says of every retry which task, which attempt and why."""
    null = summary["null_control"]
    seconds = summary["seconds"]
    n_texts = {
        side: [n["n_decoded"], n["n_cached"], n["n_failed"]]
        for side, n in summary["decode"].items()
    }
    lines = [
        f"# {name}",
        "",
        f"{summary['n_confirmed']} of {summary['n_hypotheses']} hypotheses confirmed"
        + (f"; null control: {null['n_confirmed']} of {null['n_hypotheses']}." if null else "."),
        "",
        f"[The whole report]({address}), on the machine that ran the flow.",
        "",
        f"Sampling stopped: {summary['stop_reason']}.",
        "",
        "| texts of | decoded | cached | failed |",
        "| --- | --- | --- | --- |",
        *(_row([side, *map(str, counts)]) for side, counts in n_texts.items()),
        "",
        "| stage | seconds |",
        "| --- | --- |",
        *(f"| {stage} | {spent:.1f} |" for stage, spent in seconds.items()),
        "",
        f"Failed items: {summary['failed_items']}. Retries: {len(retries)}.",
        "",
        *(f"- {_one_line(retry)}" for retry in retries),
    ]
    if findings:
        rows = [[_show(finding[column]) for column in FINDING_COLUMNS] for finding in findings]
        heads = [column.replace("_", " ") for column in FINDING_COLUMNS]
        lines += ["", *(_row(cells) for cells in [heads, ["---"] * len(heads), *rows])]
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _show(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _one_line(text: str) -> str:
    return " ".join(text.split())
