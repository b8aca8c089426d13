"""What a person reads first after an audit: the report as a web page, as Markdown, and in figures.

Everything here is a function of the run's tables. Model output, prompts and config values are
untrusted: blocks carry them raw (`pages.document`), and the two writers escape.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pandas as pd

from whatchanged.escape import for_terminal
from whatchanged.figures import Figure
from whatchanged.pages.accounts import (
    write_costs,
    write_judges,
    write_reproduction,
    write_tiles,
)
from whatchanged.pages.document import Block, Callout, Document, Line, Paragraph, Picture
from whatchanged.pages.headline import name_models, with_status, write_headline
from whatchanged.pages.markdown import write_markdown
from whatchanged.pages.material import write_clusters, write_map, write_rounds
from whatchanged.pages.numbers import interval, percent, points
from whatchanged.pages.results import write_findings, write_null_control, write_truth
from whatchanged.pages.webpage import write_figure_file, write_webpage
from whatchanged.truth import Behaviour

MAX_SUMMARY_LINES = 25
_SUMMARY_WIDTH = 100


class RunTables(Protocol):
    """A finished run as the report reads it (`whatchanged.load` gives one).

    `config` is the resolved config, `summary` the run's `summary.json`. `findings` and
    `null_findings` hold the fields of `records.Finding`, strongest first; `null_findings` is empty
    where no null control was run. `map` places discovery texts: columns text_key, x, y.
    """

    @property
    def config(self) -> dict[str, Any]: ...
    @property
    def summary(self) -> dict[str, Any]: ...
    @property
    def findings(self) -> list[dict[str, Any]]: ...
    @property
    def null_findings(self) -> list[dict[str, Any]]: ...
    @property
    def texts(self) -> pd.DataFrame: ...
    @property
    def segments(self) -> pd.DataFrame: ...
    @property
    def prompts(self) -> pd.DataFrame: ...
    @property
    def clusters(self) -> pd.DataFrame: ...
    @property
    def verdicts(self) -> pd.DataFrame: ...
    @property
    def map(self) -> pd.DataFrame: ...


@dataclass(frozen=True, slots=True)
class Report:
    """`report.md`, `report.html` and the files of `figures/` by name; all encodable as UTF-8."""

    markdown: str
    html: str
    figures: dict[str, bytes]


def build_report(run: RunTables, behaviours: Sequence[Behaviour] | None) -> Report:
    """The report of a run; `behaviours` are the planted changes, where they are known.

    The same run gives the same bytes. Empty tables, no hypothesis, a side without texts and
    missing summary keys each have their own words; what is missing is called unknown.
    """
    document = write_document(run, behaviours)
    pictures = [block.figure for block in document.blocks if isinstance(block, Picture)]
    return Report(
        markdown=write_markdown(document),
        html=write_webpage(document),
        figures={f"{figure.name}.svg": write_figure_file(figure) for figure in _named(pictures)},
    )


def write_document(run: RunTables, behaviours: Sequence[Behaviour] | None) -> Document:
    """The report's blocks, in order, before they become a page or Markdown."""
    headline = write_headline(run)
    base, intervention = name_models(run.config)
    blocks: list[Block] = [Paragraph(headline.lead, "lead"), Paragraph(headline.null)]
    if headline.warnings:
        blocks.append(Callout("warning", headline.warnings))
    blocks.append(write_tiles(run))
    blocks += write_findings(run)
    blocks += write_null_control(run)
    blocks += write_map(run)
    blocks += write_clusters(run)
    blocks += write_rounds(run)
    blocks += write_judges(run)
    blocks += write_costs(run)
    blocks += write_truth(run, behaviours)
    blocks += write_reproduction(run)
    title = f"{headline.verdict}: {intervention} compared with {base}"
    return Document(title, headline.verdict, tuple(blocks))


def summarize(run: RunTables) -> str:
    """The run in at most 25 lines of plain text, safe to print: control characters are shown.

    The report's folder is `summary["run"]`, or the run's `path`, where it has one.
    """
    headline = write_headline(run)
    confirmed = with_status(run.findings, "confirmed")
    head = [headline.verdict, _plain(headline.lead)]
    tail = [_plain(headline.null), *(f"Attention: {_plain(w)}" for w in headline.warnings)]
    where = run.summary.get("run") or getattr(run, "path", None)
    report = "report.html in the run's folder" if where is None else f"{where}/report.html"
    tail.append(for_terminal(f"Report: {report}"))
    room = MAX_SUMMARY_LINES - len(head) - len(tail)
    shown = confirmed if len(confirmed) <= room else confirmed[: room - 1]
    lines = [_summary_line(i, finding) for i, finding in enumerate(shown, start=1)]
    if len(shown) < len(confirmed):
        lines.append(f"  and {len(confirmed) - len(shown)} more")
    return "\n".join([*head, *lines, *tail])


def _summary_line(i: int, finding: Mapping[str, Any]) -> str:
    between = interval(finding.get("ci_low"), finding.get("ci_high"))
    effect = (
        f"{points(finding.get('effect'))} ({between}), "
        f"{percent(finding.get('share_base'))} to {percent(finding.get('share_intervention'))}"
    )
    statement = for_terminal(str(finding.get("statement") or "unknown"))
    if len(statement) > _SUMMARY_WIDTH:
        statement = statement[: _SUMMARY_WIDTH - 1].rstrip() + "…"
    return f"  {i}. {statement}  {effect}"


def _plain(spans: Line) -> str:
    return for_terminal("".join(span.text for span in spans))


def _named(figures: Sequence[Figure]) -> list[Figure]:
    return [figure for figure in figures if figure.name]
