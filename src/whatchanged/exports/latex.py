"""The export `latex`: tables for papers, with booktabs, in plain ASCII for any engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from whatchanged.exports.facts import (
    computing_seconds,
    describe_cost,
    describe_coverage,
    write_claim,
)
from whatchanged.latex import NEEDED, for_latex
from whatchanged.pages.headline import false_discovery_rate, name_models, with_status
from whatchanged.pages.numbers import count, duration, interval, look_up, p_value, percent, points

if TYPE_CHECKING:
    from whatchanged.report import RunTables

MAX_ROWS = 25
_PREVIEW = (
    "\\documentclass{article}\n\\usepackage{booktabs}\n\\begin{document}\n"
    "\\input{findings}\n\\input{coverage}\n\\input{cost}\n\\end{document}\n"
)


def write_latex(run: RunTables) -> dict[str, bytes]:
    """The files of the export `latex`: three tables, and a document that shows them."""
    files = {
        "findings.tex": write_findings_table(run),
        "coverage.tex": write_coverage_table(run),
        "cost.tex": write_cost_table(run),
        "preview.tex": _PREVIEW,
    }
    return {name: text.encode("ascii") for name, text in files.items()}


def write_findings_table(run: RunTables) -> str:
    """The strongest findings, at most 25, confirmed ones first; the caption counts all."""
    shown = [*with_status(run.findings, "confirmed"), *_unconfirmed(run)][:MAX_ROWS]
    rows = [
        (
            str(i),
            write_claim(finding),
            percent(finding.get("share_base")),
            percent(finding.get("share_intervention")),
            points(finding.get("effect"), ""),
            interval(finding.get("ci_low"), finding.get("ci_high")),
            p_value(finding.get("p_adjusted")),
            _status(finding),
        )
        for i, finding in enumerate(shown, start=1)
    ]
    head = ("", "Claim", "Base", "Intervention", "Effect", "95% interval", "Adj. p", "Status")
    base, intervention = name_models(run.config)
    n_confirmed = len(with_status(run.findings, "confirmed"))
    null = look_up(run.summary, "null_control")
    control = (
        "No null control was run."
        if null is None
        else f"The null control (base against base) confirmed {count(null.get('n_confirmed'))} "
        f"of {count(null.get('n_hypotheses'))}."
    )
    left_out = len(run.findings) - len(shown)
    caption = (
        f"{intervention} compared with {base}: {n_confirmed:,} of {len(run.findings):,} tested "
        "claims confirmed on fresh texts at a false discovery rate of "
        f"{false_discovery_rate(run.config)} (Benjamini-Hochberg over all). Effects are "
        f"differences of shares in percentage points, intervention minus base. {control}"
        + (f" The {left_out:,} weakest are not listed." if left_out else "")
    )
    columns = r"rp{0.3\linewidth}rrrlrl"
    return _table("findings", caption, columns, head, rows, is_wide=True)


def write_coverage_table(run: RunTables) -> str:
    """Prompts, texts, tokens and clusters per side."""
    caption = (
        "What was compared. Claims were found on discovery prompts and tested on fresh texts of "
        "validation prompts. Of clusters, those with at least one text of the side are counted."
    )
    head = ("", "Base", "Intervention")
    return _table("coverage", caption, "lrr", head, describe_coverage(run))


def write_cost_table(run: RunTables) -> str:
    """Who was asked: calls, texts without a score, US dollars; computing time in the caption."""
    seconds = duration(computing_seconds(run.summary))
    caption = f"What judging took. All stages together computed for {seconds}."
    head = ("Asked", "Model", "Calls", "From cache", "Unscored", "Cost")
    return _table("cost", caption, "llrrrr", head, describe_cost(run))


def _table(
    name: str,
    caption: str,
    columns: str,
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    is_wide: bool = False,
) -> str:
    """A table float; `is_wide` spans both columns of a page that has two."""
    float_name = "table*" if is_wide else "table"
    lines = [_row(row) for row in rows] or [rf"\multicolumn{{{len(head)}}}{{c}}{{none}} \\"]
    return NEEDED + "\n".join(
        (
            rf"\begin{{{float_name}}}[t]",
            r"\centering\footnotesize",
            rf"\caption{{{for_latex(caption)}}}",
            rf"\label{{tab:whatchanged-{name}}}",
            rf"\begin{{tabular}}{{@{{}}{columns}@{{}}}}",
            r"\toprule",
            _row(head),
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            rf"\end{{{float_name}}}",
            "",
        )
    )


def _row(cells: Sequence[str]) -> str:
    return " & ".join(map(for_latex, cells)) + r" \\"


def _status(finding: Mapping[str, Any]) -> str:
    status = str(finding.get("status") or "unknown")
    return f"{status}, incomplete" if finding.get("incomplete") else status


def _unconfirmed(run: RunTables) -> list[Any]:
    return [finding for finding in run.findings if finding.get("status") != "confirmed"]
