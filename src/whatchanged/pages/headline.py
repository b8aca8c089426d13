"""The first lines of a report: what was compared, what was confirmed, what went wrong."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from whatchanged.pages.document import Line, data, line, strong
from whatchanged.pages.numbers import count, look_up, number, plural, points, rate, whole

if TYPE_CHECKING:
    from whatchanged.report import RunTables


@dataclass(frozen=True, slots=True)
class Headline:
    """`verdict` is a few words, `lead` one or two sentences, `warnings` what limits them."""

    verdict: str
    lead: Line
    null: Line
    warnings: tuple[Line, ...]


def write_headline(run: RunTables) -> Headline:
    """The run in its first lines; every state has its own words.

    The states: changes confirmed, none confirmed, no hypothesis, a side without texts.
    """
    base, intervention = name_models(run.config)
    compared = (data(intervention), *line(" was compared with "), data(base))
    if base == intervention and (keys := differing_keys(run.config)):
        compared += line(f" (the same model, with another {' and '.join(keys)})")
    return Headline(
        verdict=_verdict(run),
        lead=(*compared, *_outcome(run)),
        null=_null_sentence(run),
        warnings=tuple(_warnings(run)),
    )


def name_models(config: Mapping[str, Any]) -> tuple[str, str]:
    """Short names of base and intervention: a hub id as it is, a folder by its last part, recorded
    texts by their file and side."""
    names = []
    for side in ("base", "intervention"):
        if texts := look_up(config, side, "texts"):
            file = str(texts).replace("\\", "/").split("/")[-1]
            names.append(f"{file} ({look_up(config, side, 'side')})")
            continue
        model = str(look_up(config, side, "model") or "unknown model")
        is_folder = model.startswith(("/", ".", "~")) or "\\" in model
        names.append(model.replace("\\", "/").rstrip("/").split("/")[-1] if is_folder else model)
    return names[0], names[1]


def differing_keys(config: Mapping[str, Any]) -> list[str]:
    """The keys by which the two sides' configs differ, in order."""
    base, intervention = config.get("base"), config.get("intervention")
    if not isinstance(base, Mapping) or not isinstance(intervention, Mapping):
        return []
    return sorted(
        str(key) for key in {*base, *intervention} if base.get(key) != intervention.get(key)
    )


def with_status(findings: Sequence[Mapping[str, Any]], status: str) -> list[Mapping[str, Any]]:
    """The findings of one status, in the order given."""
    return [finding for finding in findings if finding.get("status") == status]


def false_discovery_rate(config: Mapping[str, Any]) -> str:
    """`validate.alpha` of the config as a share: `5%`."""
    return rate(look_up(config, "validate", "alpha"))


def texts_per_side(run: RunTables) -> Counter[str]:
    """How many texts the run holds per side, failed ones left out."""
    texts = run.texts
    if "side" not in texts:
        return Counter()
    sides = texts["side"] if "finish" not in texts else texts["side"][texts["finish"] != "failed"]
    return Counter(str(side) for side in sides)


def reached_precision(findings: Sequence[Mapping[str, Any]]) -> float | None:
    """Half the median interval's width, in [0, 1]: about the smallest effect the tests resolved."""
    halves = [
        (high - low) / 2
        for f in findings
        if number(f.get("effect")) is not None
        and (low := number(f.get("ci_low"))) is not None
        and (high := number(f.get("ci_high"))) is not None
    ]
    return statistics.median(halves) if halves else None


def empty_sides(run: RunTables) -> list[str]:
    """The sides without a single text."""
    counts = texts_per_side(run)
    return [side for side in ("base", "intervention") if not counts[side]]


def _verdict(run: RunTables) -> str:
    n_confirmed = len(with_status(run.findings, "confirmed"))
    if n_confirmed:
        return plural(n_confirmed, "confirmed change")
    if empty_sides(run):
        return "Nothing to compare"
    return "No confirmed change" if run.findings else "No hypothesis to test"


def _outcome(run: RunTables) -> Line:
    n_confirmed, n_tested = len(with_status(run.findings, "confirmed")), len(run.findings)
    level = f"at a false discovery rate of {false_discovery_rate(run.config)}"
    if n_confirmed:
        tested = plural(n_tested, "tested hypothesis", "tested hypotheses")
        return (
            *line(": "), strong(f"{n_confirmed} of {tested}"),
            *line(f" {'was' if n_confirmed == 1 else 'were'} confirmed on fresh texts {level}."),
        )  # fmt: skip
    if n_tested:
        none = "the one tested hypothesis was not confirmed" if n_tested == 1 else (
            f"none of the {n_tested:,} tested hypotheses was confirmed"
        )  # fmt: skip
        return line(f": {none} on fresh texts {level}.")
    if missing := empty_sides(run):
        sides = "either side" if len(missing) == 2 else f"the {missing[0]} side"
        return line(f", but the run holds no text of {sides}, so nothing could be compared.")
    return line(
        ": discovery found no difference that was worth a hypothesis, so nothing was tested."
    )


def _null_sentence(run: RunTables) -> Line:
    if "null_control" not in run.summary:
        return line("Whether a null control was run is unknown.")
    null = run.summary["null_control"]
    if null is None:
        why = look_up(run.summary, "recorded", "why_no_control")
        return line(
            f"No null control was run{f' ({why})' if why else ''}, so this run does not show how "
            "often its pipeline confirms changes that are not there."
        )
    confirmed, tested = count(null.get("n_confirmed")), count(null.get("n_hypotheses"))
    other = "under another random stream"
    if look_up(run.config, "base", "texts"):
        other = "on disjoint halves of its recorded texts"
    return line(
        f"The null control, base against base {other} through the same pipeline, "
        f"confirmed {confirmed} of {tested}."
    )


def _warnings(run: RunTables) -> list[Line]:
    summary = run.summary
    lines: list[str] = []
    if run.config.get("base") and not differing_keys(run.config):
        lines.append("Both sides are configured alike: every confirmed change is a false alarm.")
    failed = whole(summary.get("failed_items"))
    if failed is None:
        lines.append("It is unknown whether items failed: the run's summary does not say.")
    elif failed:
        lines.append(
            f"{plural(failed, 'item')} failed (texts that could not be decoded or embedded, "
            "answers that could not be had). They are left out of every figure below."
        )
    if incomplete := sum(bool(f.get("incomplete")) for f in run.findings):
        lines.append(
            f"{plural(incomplete, 'finding is', 'findings are')} incomplete: no text could be "
            "scored, or more than 5% of the texts have no score."
        )
    null_confirmed = whole(look_up(summary, "null_control", "n_confirmed"))
    if null_confirmed:
        lines.append(
            f"The null control confirmed {plural(null_confirmed, 'change')} where there is none: "
            "read the findings below with that in mind."
        )
    truncated = whole(summary.get("n_truncated"))
    if truncated:
        lines.append(
            f"{plural(truncated, 'text is', 'texts are')} longer than the sentence encoder reads "
            "and took part in clustering by their first part."
        )
    if run.findings and (missing := empty_sides(run)):
        lines.append(f"The run's tables hold no text of {' or '.join(missing)}.")
    return [line(text) for text in lines]


def explain_nothing(run: RunTables) -> Line | None:
    """What a result without a confirmed change means; None where something was confirmed."""
    if with_status(run.findings, "confirmed") or empty_sides(run):
        return None
    if not run.findings:
        return line(
            "This is a result, and a limited one: on these prompts, with this many discovery "
            "texts, no cluster and no prompt group differed enough between the sides to say how. "
            "It does not show that the models are equal. More or other prompts, or more texts per "
            "prompt (sample.max_texts), look further."
        )
    half = reached_precision(run.findings)
    resolved = (
        f" The intervals reach about ±{points(half).lstrip('+')}, so a larger difference in one "
        "of the tested claims would most likely have shown."
        if half is not None
        else ""
    )
    return line(
        "This is a result, not a failure: whatever the intervention changed, none of the tested "
        f"claims describes it on unseen prompts.{resolved} Changes that no hypothesis named, or "
        "that these prompts do not call up, were not tested."
    )
