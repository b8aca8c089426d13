"""A section for the intervention's model card: what changed, how sure that is, and its limits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from whatchanged.exports.facts import write_claim
from whatchanged.pages.document import Block, Callout, Column, Document, Paragraph, Table, line
from whatchanged.pages.headline import (
    explain_nothing,
    false_discovery_rate,
    name_models,
    with_status,
    write_headline,
)
from whatchanged.pages.markdown import write_markdown
from whatchanged.pages.numbers import count, interval, look_up, p_value, percent, points

if TYPE_CHECKING:
    from whatchanged.report import RunTables

MAX_ROWS = 15
_COLUMNS = (
    Column("Claim"), Column("Base", numeric=True), Column("This model", numeric=True),
    Column("Difference", numeric=True), Column("95% interval", numeric=True),
    Column("Adjusted p", numeric=True),
)  # fmt: skip


def write_model_card(run: RunTables) -> str:
    """A Markdown section with a heading of the second level; no part of it makes markup.

    At most the 15 strongest confirmed findings are listed, and the rest counted.
    """
    headline = write_headline(run)
    base, _ = name_models(run.config)
    confirmed = with_status(run.findings, "confirmed")
    blocks: list[Block] = [Paragraph(headline.lead)]
    if confirmed:
        rows = tuple(
            (
                line(write_claim(finding)),
                line(percent(finding.get("share_base"))),
                line(percent(finding.get("share_intervention"))),
                line(points(finding.get("effect"))),
                line(interval(finding.get("ci_low"), finding.get("ci_high"))),
                line(p_value(finding.get("p_adjusted"))),
            )
            for finding in confirmed[:MAX_ROWS]
        )
        caption = f"The {len(rows)} strongest of {len(confirmed)} confirmed changes"
        blocks.append(Table(caption, _COLUMNS, rows))
    elif explanation := explain_nothing(run):
        blocks.append(Paragraph(explanation))
    blocks.append(Paragraph(line(_error_statement(run))))
    blocks.append(Paragraph(headline.null))
    blocks.append(Paragraph(line(_limits(run))))
    if headline.warnings:
        blocks.append(Callout("warning", headline.warnings))
    blocks.append(Paragraph(line(_origin(run))))
    title = f"Changes in behaviour against {base}"
    # A document has a heading of the first level; in a card, that is the name of the model.
    return "#" + write_markdown(Document(title, title, tuple(blocks)))


def _error_statement(run: RunTables) -> str:
    return (
        "Each claim was written from one set of prompts and tested on fresh texts of others, by "
        "judges that did not know which model wrote a text. P-values are adjusted by "
        f"Benjamini-Hochberg over all {len(run.findings):,} tested claims: on average, at most "
        f"{false_discovery_rate(run.config)} of the changes called confirmed are false. A change "
        "counts only where the shares differ by more than "
        f"{points(look_up(run.config, 'validate', 'min_effect')).lstrip('+')}."
    )


def _limits(run: RunTables) -> str:
    n_prompts = count(len(run.prompts)) if len(run.prompts) else "an unknown number of"
    tokens = count(look_up(run.config, "decode", "max_new_tokens"))
    temperature = look_up(run.config, "decode", "temperature")
    return (
        f"Limits: this holds for {n_prompts} prompts, replies of at most {tokens} tokens, and a "
        f"temperature of {'unknown' if temperature is None else temperature}. What these prompts "
        "do not call up, and what no claim put into words, was not tested; no confirmed change is "
        "not the same as no change."
    )


def _origin(run: RunTables) -> str:
    version = look_up(run.summary, "versions", "whatchanged") or "unknown"
    seed = count(run.summary.get("seed", run.config.get("seed")))
    return f"Measured with whatchanged, version {version}, seed {seed}."
