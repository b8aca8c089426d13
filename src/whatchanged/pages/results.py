"""The sections about findings: overview, evidence, null control, and planted changes if known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from whatchanged.figures import (
    Effect,
    Figure,
    Panel,
    Scale,
    Tone,
    draw_forest,
    draw_shares,
    draw_strips,
    fit_scale,
)
from whatchanged.pages.document import (
    Block,
    Card,
    Column,
    Details,
    Heading,
    Line,
    Paragraph,
    Picture,
    Table,
    data,
    line,
)
from whatchanged.pages.evidence import Shelf, collect_evidence, quote_evidence
from whatchanged.pages.headline import explain_nothing, with_status
from whatchanged.pages.numbers import (
    count,
    decimal,
    interval,
    look_up,
    money,
    number,
    p_value,
    percent,
    plural,
    points,
    whole,
)
from whatchanged.records import Status
from whatchanged.truth import Behaviour, match_behaviours, unmatched_confirmed

if TYPE_CHECKING:
    from whatchanged.report import RunTables

MAX_CARDS = 40
MAX_FOREST_ROWS = 40
MAX_STRIP_ROWS = 60
MAX_OPEN_ROWS = 15
_SHARE_TOPS = (0.1, 0.25, 0.5, 1.0)


def write_findings(run: RunTables) -> list[Block]:
    """The findings, strongest first: forest, a card with evidence each, then the unconfirmed."""
    blocks: list[Block] = [Heading("What changed", "findings")]
    confirmed = with_status(run.findings, "confirmed")
    if confirmed:
        blocks += _confirmed(run, confirmed)
    elif explanation := explain_nothing(run):
        blocks.append(Paragraph(explanation))
    else:
        blocks.append(Paragraph(line("Texts of both sides are needed before anything is tested.")))
    others = [f for f in run.findings if f.get("status") != "confirmed"]
    if others:
        rows = tuple(_compact_row(finding) for finding in others)
        table = Table("Tested and not confirmed, strongest first", _COMPACT_COLUMNS, rows)
        blocks.append(
            Details(f"{plural(len(others), 'hypothesis', 'hypotheses')} not confirmed",
                    (Paragraph(line(_EXPLAIN_STATUS), "quiet"), table),
                    is_open=len(others) <= MAX_OPEN_ROWS)
        )  # fmt: skip
    return blocks


def write_null_control(run: RunTables) -> list[Block]:
    """The null control beside the result, on the scale of the result."""
    blocks: list[Block] = [Heading("Null control", "null-control")]
    null = run.summary.get("null_control")
    if "null_control" not in run.summary:
        return [*blocks, Paragraph(line("Whether a null control was run is unknown."))]
    if null is None:
        text = (
            "No null control was run (validate.null_control is off). It would audit the base "
            "against itself and show how often this pipeline confirms changes that are not there."
        )
        return [*blocks, Paragraph(line(text))]
    confirmed, tested = count(null.get("n_confirmed")), count(null.get("n_hypotheses"))
    n_texts = whole(null.get("n_texts_per_side"))
    amount = "" if n_texts is None else f" ({n_texts:,} discovery texts per side)"
    text = (
        "The same pipeline, from sampling to test, ran on the base against the base under another "
        f"random stream{amount}. There is nothing to find, so every "
        f"confirmed change would be a false alarm: it tested {tested} and confirmed {confirmed}."
    )
    blocks.append(Paragraph(line(text)))
    nulls = _effects(run.null_findings or [], muted=True)
    if nulls:
        blocks.append(_beside(run, nulls))
    else:
        none = "It proposed no hypothesis at all." if whole(null.get("n_hypotheses")) == 0 else (
            "Its single tests are not part of this run's tables."
        )  # fmt: skip
        blocks.append(Paragraph(line(none), "quiet"))
    return blocks


def write_truth(run: RunTables, behaviours: Sequence[Behaviour] | None) -> list[Block]:
    """For a pair whose changes are known: what was planted, what was found, what was missed."""
    if behaviours is None:
        return []
    matches = match_behaviours(run.findings, run.texts, behaviours)
    numbers = _card_numbers(run)
    rows = tuple(
        (
            (data(match.behaviour.description),),
            line("all") if match.behaviour.group is None else (data(match.behaviour.group),),
            line(percent(match.behaviour.rate_base)),
            line(percent(match.behaviour.rate_intervention)),
            line(_found_by(match.finding_ids, numbers)),
        )
        for match in matches
    )
    n_found = sum(bool(match.finding_ids) for match in matches)
    confirmed = with_status(run.findings, "confirmed")
    extra = unmatched_confirmed(run.findings, matches)
    summary = (
        f"This pair's changes are known. {n_found} of {plural(len(matches), 'planted change')} "
        f"{'was' if n_found == 1 else 'were'} found. "
        + (
            f"{len(confirmed) - len(extra)} of {plural(len(confirmed), 'confirmed finding')} "
            f"{'describes' if len(confirmed) - len(extra) == 1 else 'describe'} one of them"
            + (f"; the others: {_found_by(extra, numbers)}." if extra else ".")
            if confirmed
            else "No finding was confirmed."
        )
        + " The audit itself did not see this list."
    )
    blocks: list[Block] = [Heading("Planted changes", "planted"), Paragraph(line(summary))]
    if rows:
        columns = (
            Column("Planted change"), Column("Prompts"), Column("Base", numeric=True),
            Column("Intervention", numeric=True), Column("Found by finding"),
        )  # fmt: skip
        caption = "Planted changes, with the rate counted in each model's texts"
        blocks.append(Table(caption, columns, rows))
        blocks.append(
            Paragraph(line("A confirmed finding counts when at least half of its supporting texts "
                           "match the planted change's own detector."), "quiet")
        )  # fmt: skip
    return blocks


def _confirmed(run: RunTables, confirmed: Sequence[Mapping[str, Any]]) -> list[Block]:
    scale = _common_scale(run)
    shown = [
        replace(effect, label=f"{i}. {effect.label}")
        for i, effect in enumerate(_effects(confirmed[:MAX_FOREST_ROWS], muted=False), start=1)
    ]
    min_effect = number(look_up(run.config, "validate", "min_effect"))
    blocks: list[Block] = []
    if shown:
        alt = (
            f"Share differences of {plural(len(shown), 'confirmed finding')} with 95% intervals; "
            "the same figures stand with each finding below."
        )
        smallest = points(min_effect).lstrip("+")
        band = f" The shaded band is the smallest effect of interest, ±{smallest}."
        caption = (
            "Share of intervention texts minus share of base texts that meet each claim, in "
            f"percentage points, with 95% intervals.{band if min_effect else ''}"
        )
        forest = draw_forest("findings", shown, scale, min_effect=min_effect, alt=alt)
        blocks.append(Picture(forest, line(caption)))
    if len(confirmed) > 1:
        blocks += _themes(run)
    shelf = collect_evidence(run, confirmed[:MAX_CARDS])
    blocks.append(Paragraph(line(_EXPLAIN_EVIDENCE), "quiet"))
    top = _share_top(confirmed)
    for i, finding in enumerate(confirmed[:MAX_CARDS], start=1):
        blocks.append(_card(i, finding, shelf, top))
    if rest := confirmed[MAX_CARDS:]:
        rows = tuple(_compact_row(finding) for finding in rest)
        blocks.append(Table(f"{len(rest)} more confirmed findings", _COMPACT_COLUMNS, rows))
    return blocks


def _themes(run: RunTables) -> list[Block]:
    """What several findings have in common, as a model put it, or why nobody could say."""
    themes = look_up(run.summary, "themes", "themes") or ()
    if missing := look_up(run.summary, "themes", "missing"):
        return [
            Paragraph(line("No themes over several findings: ", data(str(missing)), "."), "quiet")
        ]
    if not themes:
        return []
    numbers = _card_numbers(run)
    rows = tuple(
        (
            (data(theme["title"]),),
            (data(theme["sentence"]),),
            line(_found_by(theme["findings"], numbers)),
        )
        for theme in themes
    )
    columns = (Column("Theme"), Column("What its findings share"), Column("Findings"))
    explained = "Themes are a model's summary of the confirmed findings; no test was made of them."
    return [
        Table("Recurring themes", columns, rows),
        Paragraph(line(explained), "quiet"),
    ]


def _card(i: int, finding: Mapping[str, Any], shelf: Shelf, top: float) -> Card:
    base, intervention = (
        number(finding.get("share_base")),
        number(finding.get("share_intervention")),
    )
    alt = f"base {percent(base)}, intervention {percent(intervention)}"
    scope = finding.get("scope")
    unscored = whole(finding.get("n_unscored"))
    status = "confirmed, incomplete" if finding.get("incomplete") else "confirmed"
    facts: list[tuple[str, Line]] = [
        ("status", line(status)),
        ("AUC", line(decimal(finding.get("auc")))),
        ("adjusted p", line(p_value(finding.get("p_adjusted")))),
        ("fresh texts", line(count(finding.get("n_texts")))),
    ]
    if unscored != 0:
        facts.append(("without a score", line(count(unscored))))
    facts.append(("judge calls", line(count(finding.get("judge_calls")))))
    if number(finding.get("cost_usd")) != 0:
        facts.append(("cost", line(money(finding.get("cost_usd")))))
    facts.append(("prompts", line("all") if scope is None else line("group ", data(str(scope)))))
    facts.append(("judged as", (data(str(finding.get("criterion") or "unknown")),)))
    return Card(
        number=i,
        anchor=f"finding-{i}",
        status="confirmed",
        title=str(finding.get("statement") or "unknown"),
        effect=points(finding.get("effect")),
        interval=f"95% interval {interval(finding.get('ci_low'), finding.get('ci_high'))}",
        shares=draw_shares(base, intervention, top, alt),
        facts=tuple(facts),
        evidence=quote_evidence(finding, shelf),
    )


_COMPACT_COLUMNS = (
    Column("Claim"), Column("Status"), Column("Effect", numeric=True),
    Column("95% interval", numeric=True), Column("AUC", numeric=True),
    Column("Adj. p", numeric=True), Column("Texts", numeric=True),
)  # fmt: skip


def _compact_row(finding: Mapping[str, Any]) -> tuple[Line, ...]:
    status = cast(Status, finding.get("status") or "unknown")
    shown = f"{status}, incomplete" if finding.get("incomplete") else status
    return (
        (data(str(finding.get("statement") or "unknown")),),
        line(shown),
        line(points(finding.get("effect"), "")),
        line(interval(finding.get("ci_low"), finding.get("ci_high"))),
        line(decimal(finding.get("auc"))),
        line(p_value(finding.get("p_adjusted"))),
        line(count(finding.get("n_texts"))),
    )


def _beside(run: RunTables, nulls: Sequence[Effect]) -> Picture:
    effects = _effects(run.findings, muted=False)
    n_confirmed = len(with_status(run.findings, "confirmed"))
    null_confirmed = len(with_status(run.null_findings or [], "confirmed"))
    panels = (
        Panel("Base against intervention", _tally(len(effects), n_confirmed), _largest(effects)),
        Panel("Base against base", _tally(len(nulls), null_confirmed), _largest(nulls)),
    )
    alt = (
        f"Effects of {plural(len(effects), 'hypothesis', 'hypotheses')} of the audit and "
        f"{len(nulls)} of the null control on one scale; {n_confirmed} and {null_confirmed} "
        "were confirmed."
    )
    caption = (
        "Every tested hypothesis with its 95% interval, on one scale. Colour marks what was "
        "confirmed in the audit; everything else is grey."
    )
    if max(len(effects), len(nulls)) > MAX_STRIP_ROWS:
        caption += f" The {MAX_STRIP_ROWS} largest effects of each are drawn."
    min_effect = number(look_up(run.config, "validate", "min_effect"))
    figure: Figure = draw_strips(
        "null_control", panels, _common_scale(run), min_effect=min_effect, alt=alt
    )
    return Picture(figure, line(caption))


def _tally(n_tested: int, n_confirmed: int) -> str:
    return f"{n_tested:,} tested, {n_confirmed:,} confirmed"


def _largest(effects: Sequence[Effect]) -> tuple[Effect, ...]:
    return tuple(sorted(effects, key=lambda e: -abs(e.effect))[:MAX_STRIP_ROWS])


def _effects(findings: Sequence[Mapping[str, Any]], *, muted: bool) -> list[Effect]:
    effects = []
    for finding in findings:
        effect, low, high = (number(finding.get(n)) for n in ("effect", "ci_low", "ci_high"))
        if effect is None or low is None or high is None:
            continue
        tone: Tone = "intervention" if effect > 0 else "base"
        if muted or finding.get("status") != "confirmed":
            tone = "muted"
        value = f"{points(effect, '')}  ({interval(low, high)})"
        effects.append(Effect(str(finding.get("statement") or ""), effect, low, high, tone, value))
    return effects


def _common_scale(run: RunTables) -> Scale:
    both = _effects(run.findings, muted=False) + _effects(run.null_findings or [], muted=True)
    return fit_scale(both)


def _share_top(findings: Sequence[Mapping[str, Any]]) -> float:
    shares = [
        share
        for finding in findings
        for name in ("share_base", "share_intervention")
        if (share := number(finding.get(name))) is not None
    ]
    largest = max(shares, default=1.0)
    return next((top for top in _SHARE_TOPS if largest <= top), 1.0)


def _card_numbers(run: RunTables) -> dict[str, int]:
    confirmed = with_status(run.findings, "confirmed")
    return {str(finding.get("id")): i for i, finding in enumerate(confirmed, start=1)}


def _found_by(finding_ids: Sequence[str], numbers: Mapping[str, int]) -> str:
    if not finding_ids:
        return "missed"
    return ", ".join(f"no. {numbers[finding_id]}" for finding_id in finding_ids)


_EXPLAIN_STATUS = (
    "Rejected: the interval leaves no room for an effect of interest in the claimed direction. "
    "Inconclusive: the texts cannot tell."
)
_EXPLAIN_EVIDENCE = (
    "Supporting texts meet the claim on the side that is said to show more of it. Contradicting "
    "texts meet it on the other side; where there are none, they are texts of the first side that "
    "do not meet it. All are fresh texts of prompts that discovery never saw; words that the "
    "claim was built from are marked."
)
