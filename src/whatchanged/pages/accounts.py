"""The sections about the work itself: judges, cost and time, and how to run it again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import yaml

from whatchanged.api_config import API_PROVIDERS
from whatchanged.figures import draw_bars
from whatchanged.pages.document import (
    Block,
    Column,
    Details,
    Heading,
    Line,
    Listing,
    Paragraph,
    Picture,
    Table,
    Tiles,
    data,
    line,
)
from whatchanged.pages.headline import false_discovery_rate, texts_per_side, with_status
from whatchanged.pages.numbers import (
    UNKNOWN,
    count,
    duration,
    look_up,
    money,
    number,
    percent,
    plural,
    points,
    rows_of,
    size,
    whole,
)

if TYPE_CHECKING:
    from whatchanged.report import RunTables

_OUTCOMES = ("answered", "refused", "cut_off", "malformed", "failed")


def write_tiles(run: RunTables) -> Tiles:
    """The run in six figures."""
    seconds = run.summary.get("seconds")
    total = sum(known) if (known := _known_seconds(seconds)) else None
    per_side = texts_per_side(run)
    fewest = min(per_side["base"], per_side["intervention"])
    same = per_side["base"] == per_side["intervention"]
    null = look_up(run.summary, "null_control", "n_confirmed")
    return Tiles(
        (
            (count(len(with_status(run.findings, "confirmed"))), "confirmed"),
            (count(len(run.findings)), "hypotheses tested"),
            (count(null) if _has_null(run) else "not run", "in the null control"),
            (f"{'' if same else '≥ '}{count(fewest)}", "texts per side"),
            (duration(total), "computing"),
            (money(_total_cost(run.summary)), "spent on judges"),
        )
    )


def write_judges(run: RunTables) -> list[Block]:
    """Calls, refusals and prices per tier, and how often an audit disagreed with the cheap one."""
    blocks: list[Block] = [Heading("Judges", "judges"), Paragraph(_audit_sentence(run.summary))]
    outcomes: Counter[tuple[str, str]] = Counter(
        (str(row["tier"]), str(row["outcome"])) for row in rows_of(run.verdicts, "tier", "outcome")
    )
    rows = []
    for tier in ("cheap", "expensive"):
        figures = look_up(run.summary, "judge", tier)
        provider = look_up(run.config, "judge", tier, "provider")
        rows.append(
            (
                line(tier),
                (data(str(provider)),) if provider else line(UNKNOWN),
                *(line(count(look_up(figures, n))) for n in ("n_calls", "n_cached", "n_unscored")),
                line(money(look_up(figures, "cost_usd"))),
            )
        )
    blocks.append(Table("Judges by tier", _JUDGE_COLUMNS, tuple(rows)))
    bad = [
        f"{plural(outcomes[tier, outcome], 'text')} {outcome.replace('_', ' ')} ({tier})"
        for tier in ("cheap", "expensive")
        for outcome in _OUTCOMES[1:]
        if outcomes[tier, outcome]
    ]
    if bad:
        text = f"Not scored: {', '.join(bad)}. Such texts count for neither side."
        blocks.append(Paragraph(line(text)))
    return blocks


def write_costs(run: RunTables) -> list[Block]:
    """Where time and memory went, and what came from the cache."""
    blocks: list[Block] = [Heading("Cost and time", "cost")]
    stages = look_up(run.summary, "seconds")
    if bars := _stage_bars(stages):
        alt = "Seconds per stage: " + "; ".join(f"{name} {shown}" for name, _, shown in bars)
        figure = draw_bars("time", bars, alt=alt)
        blocks.append(Picture(figure, line("Wall time per stage, longest first.")))
    else:
        blocks.append(Paragraph(line("Time per stage is unknown."), "quiet"))
    decode = look_up(run.summary, "decode")
    rows = tuple(
        (
            line(_SIDE_NAMES.get(side, side)),
            *(
                line(count(look_up(decode, side, name)))
                for name in ("n_decoded", "n_cached", "n_failed", "n_tokens")
            ),
        )
        for side in ("base", "intervention", "null")
        if side != "null" or _has_null(run)
    )
    columns = (
        Column("Texts of"), Column("Decoded", numeric=True), Column("From cache", numeric=True),
        Column("Failed", numeric=True), Column("Tokens", numeric=True),
    )  # fmt: skip
    blocks.append(Table("Texts decoded", columns, rows))
    summary = run.summary
    if isinstance(bill := summary.get("bill"), Mapping) and bill:
        blocks.append(_bill_table(bill))
    text = (
        f"Segments embedded: {count(look_up(summary, 'embed', 'n_embedded'))}, from the cache: "
        f"{count(look_up(summary, 'embed', 'n_cached'))}. "
        f"Failed items: {count(summary.get('failed_items'))}. "
        f"Texts cut by the encoder's limit: {count(summary.get('n_truncated'))}. "
        f"Peak memory: {size(summary.get('peak_memory_bytes'))}."
    )
    return [*blocks, Paragraph(line(text))]


def _bill_table(bill: Mapping[str, Any]) -> Table:
    """What each model behind an API came to, over all restarts of the run."""
    rows = tuple(
        (
            line(str(name)),
            (data(str(look_up(part, "model"))),),
            *(line(count(look_up(part, name))) for name in _BILLED),
            line(money(look_up(part, "spent_usd"))),
        )
        for name, part in bill.items()
    )
    columns = ("Calls", "Without a reply", "Of unknown cost", "Tokens in", "Tokens out", "Cost")
    return Table(
        "Calls to models behind an API, over all restarts",
        (Column("For"), Column("Model"), *(Column(name, numeric=True) for name in columns)),
        rows,
    )


_BILLED = ("n_calls", "n_failed", "n_unknown", "n_tokens_in", "n_tokens_out")


def write_reproduction(run: RunTables) -> list[Block]:
    """What the statistics mean, and everything needed to run the audit again."""
    seed = run.summary.get("seed", run.config.get("seed"))
    versions = run.summary.get("versions")
    blocks: list[Block] = [
        Heading("What the statistics mean", "statistics"),
        *(Paragraph(line(sentence)) for sentence in _explain_statistics(run)),
        Heading("How to reproduce", "reproduce"),
        Paragraph(
            line(
                "Save the configuration below as audit.yaml and run ", 
                data("whatchanged run audit.yaml"),
                f" (seed {count(seed)}). Texts are drawn at random; on another machine or device "
                "they can differ in single words, and the intervals cover that."
            )
        ),
    ]  # fmt: skip
    if isinstance(versions, Mapping) and versions:
        rows = tuple(
            ((data(str(name)),), (data(str(versions[name])),)) for name in sorted(versions, key=str)
        )
        table = Table("Versions", (Column("Software"), Column("Version")), rows)
        blocks.append(Details("Versions", (table,)))
    else:
        blocks.append(Paragraph(line("Versions are unknown."), "quiet"))
    dumped = yaml.safe_dump(_plain(run.config), sort_keys=False, allow_unicode=True, width=100)
    return [*blocks, Details("Configuration", (Listing(dumped.rstrip("\n"), "yaml"),))]


def is_judged_in_waves(config: Mapping[str, Any]) -> bool:
    """Whether the expensive judge was asked in waves, so that the tests rest on calibrated scores
    and predictions instead of the scores themselves."""
    spend = look_up(config, "judge", "spend")
    providers = [look_up(config, "judge", tier, "provider") for tier in ("cheap", "expensive")]
    is_paid = any(str(provider) in API_PROVIDERS for provider in providers)
    return spend == "waves" or (spend == "auto" and is_paid)


_JUDGE_COLUMNS = (
    Column("Tier"), Column("Provider"), Column("Calls", numeric=True),
    Column("From cache", numeric=True), Column("Unscored", numeric=True),
    Column("Cost", numeric=True),
)  # fmt: skip
_SIDE_NAMES = {"null": "base again (null control)"}


def _explain_statistics(run: RunTables) -> tuple[str, ...]:
    min_effect = points(look_up(run.config, "validate", "min_effect")).lstrip("+")
    alpha = false_discovery_rate(run.config)
    expected = "the chosen share" if alpha == UNKNOWN else alpha
    return (
        "Hypotheses were written from discovery texts alone and tested on fresh texts of prompts "
        "that discovery never saw, so what suggested a claim never counts as evidence for it. "
        "Judges graded one text at a time without knowing its side; the effect is the share of "
        "intervention texts that meet the claim minus the share of base texts. "
        f"{_explain_tests(run)} the shares differ by more than the smallest effect of interest, "
        f"{min_effect}. The larger of their two p-values is adjusted by Benjamini-Hochberg over "
        f"all tested hypotheses: on average, at most {expected} of the changes called confirmed "
        "are false. "
        "A rejected claim leaves no room for an effect of interest; an inconclusive one needs "
        "more texts, and what no hypothesis named was not tested at all.",
    )


def _explain_tests(run: RunTables) -> str:
    pairs = number(look_up(run.summary, "coupling", "n_pairs")) or 0
    unit = "coupled pair" if pairs else "prompt"
    exchange = f"Two tests must both reject: a permutation of the sides within each {unit}"
    if is_judged_in_waves(run.config):
        return (
            "The cheap judge read every text, the expensive one the doubtful and a random share "
            "of the others, wave by wave until a claim was decided; the effect and its 95% "
            "interval are predicted from the expensive judge's verdicts, those texts weighted by "
            f"their chance to be asked about. {exchange}, whose statistic is the mean score, and "
            "a test, corrected for the number of looks, that"
        )
    interval = "Tango's" if pairs else "Newcombe's"
    test = "an exact test" if pairs else "a score test"
    return (
        f"Its 95% interval is {interval}{_explain_looks(run)}. {exchange}, whose statistic is the "
        f"AUC of the scores (0.5 means no tendency), and {test} that"
    )


def _explain_looks(run: RunTables) -> str:
    """What several looks at the fresh texts mean; nothing where there was one, or none is known."""
    looks = look_up(run.config, "validate", "looks", "at")
    if not isinstance(looks, list) or len(looks) < 2:
        return ""
    shares = ", ".join(percent(share) for share in looks[:-1])
    return (
        f", widened so that it holds at every look: a claim was looked at after {shares} and all "
        "of the texts planned for it, and got no more once it was decided or had hardly a chance "
        "left; p-values are corrected for the number of looks"
    )


def _audit_sentence(summary: Mapping[str, Any]) -> Line:
    audit = look_up(summary, "judge", "audit")
    n_audited = whole(look_up(audit, "n_audited"))
    if n_audited is None:
        return line("How often the expensive judge disagrees with the cheap one is unknown.")
    if n_audited == 0:
        return line("No decision of the cheap judge was audited by the expensive one.")
    low, high = look_up(audit, "ci_low"), look_up(audit, "ci_high")
    between = (
        f" (95% interval {percent(low)} to {percent(high)})"
        if number(low) is not None and number(high) is not None
        else ""
    )
    return line(
        f"The expensive judge saw a random {n_audited:,} of the cheap judge's decisions again and "
        f"disagreed with {count(look_up(audit, 'n_disagree'))}: "
        f"{percent(look_up(audit, 'rate'))}{between}."
    )


def _has_null(run: RunTables) -> bool:
    """Whether a null control was run, or may have been: the summary does not say otherwise."""
    return run.summary.get("null_control", UNKNOWN) is not None


def _known_seconds(seconds: Any) -> list[float]:
    values = seconds.values() if isinstance(seconds, Mapping) else ()
    return [value for one in values if (value := number(one)) is not None]


def _stage_bars(stages: Any) -> list[tuple[str, float, str]]:
    if not isinstance(stages, Mapping):
        return []
    known = [
        (str(name).replace("_", " "), value, duration(value))
        for name, one in stages.items()
        if (value := number(one)) is not None
    ]
    # A summary that was read from a file has its stages by name, not in their order.
    return sorted(known, key=lambda bar: (-bar[1], bar[0]))


def _total_cost(summary: Mapping[str, Any]) -> float | None:
    costs = [number(look_up(summary, "judge", tier, "cost_usd")) for tier in ("cheap", "expensive")]
    known = [cost for cost in costs if cost is not None]
    return sum(known) if len(known) == len(costs) else None


def _plain(value: Any) -> Any:
    """Only what YAML's safe writer knows, tuples as lists and the rest as text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)
