"""The sections about what was sampled: the map, the clusters' balance, and the rounds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from whatchanged.figures import Effect, Series, draw_forest, draw_map, draw_rounds, fit_scale
from whatchanged.pages.document import (
    Block,
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
from whatchanged.pages.evidence import cut_excerpt
from whatchanged.pages.numbers import (
    UNKNOWN,
    count,
    decimal,
    interval,
    number,
    percent,
    plural,
    points,
    rows_of,
    whole,
)

if TYPE_CHECKING:
    from whatchanged.report import RunTables

N_CLUSTERS = 12
_EXEMPLAR_CHARACTERS = 160
_LEVELS = {"segment": "Sentences", "text": "Whole replies"}


def write_map(run: RunTables) -> list[Block]:
    """Discovery texts in two dimensions, coloured by side; nothing drawn where there is no map."""
    blocks: list[Block] = [Heading("Map of the texts", "map")]
    sides = {
        str(row["text_key"]): str(row["side"]) for row in rows_of(run.texts, "text_key", "side")
    }
    placed = [
        (x, y, sides[str(row["text_key"])] == "intervention")
        for row in rows_of(run.map, "text_key", "x", "y")
        if (x := number(row["x"])) is not None
        and (y := number(row["y"])) is not None
        and str(row["text_key"]) in sides
    ]
    if not placed:
        return [*blocks, Paragraph(line("This run holds no map of its texts."))]
    points_xy = np.array([(x, y) for x, y, _ in placed])
    on_intervention = np.array([side for _, _, side in placed])
    figure = draw_map("map", points_xy, on_intervention, _seed(run))
    n_drawn = min(len(placed), 3000)
    drawn = (
        f"A random {n_drawn:,} of {len(placed):,} discovery texts"
        if n_drawn < len(placed)
        else f"All {plural(len(placed), 'discovery text')}"
    )
    caption = (
        f"{drawn}, in random order; base in blue, intervention in orange. Near texts mean similar "
        "things; distances between far ones, and the axes, mean little. A region of one colour is "
        "a lead, not a result."
    )
    return [*blocks, Picture(figure, line(caption))]


def write_clusters(run: RunTables) -> list[Block]:
    """The clusters whose balance differs most between the sides, at the end of discovery."""
    blocks: list[Block] = [Heading("Cluster balance", "clusters")]
    rows = _last_round(run)
    n_by_level = Counter(str(row["level"]) for row in rows)
    if max(n_by_level.values(), default=0) < 2:
        text = (
            "No structure found: the discovery texts do not form two clusters, so there is no "
            "balance to compare."
        )
        return [*blocks, Paragraph(line(text))]
    found = " and ".join(
        f"{n:,} of {_LEVELS.get(level, level).lower()}" for level, n in sorted(n_by_level.items())
    )
    text = (
        f"Discovery ended with {plural(len(rows), 'cluster')}: {found}. These shares come from "
        "texts that were sampled where a difference seemed likely, so they are leads for "
        "hypotheses, never tests."
    )
    blocks.append(Paragraph(line(text)))
    ranked = [row for row in rows if number(row["difference"]) is not None]
    ranked.sort(key=lambda row: (-abs(number(row["difference"]) or 0.0), str(row["cluster"])))
    if not ranked:
        return [*blocks, Paragraph(line("No cluster has texts of both sides to compare."))]
    if picture := _cluster_forest(ranked[:N_CLUSTERS]):
        blocks.append(picture)
    table = Table(
        f"The {min(N_CLUSTERS, len(ranked))} largest differences, of {len(rows):,} clusters",
        _CLUSTER_COLUMNS,
        tuple(_cluster_row(row) for row in ranked[:N_CLUSTERS]),
    )
    return [*blocks, Details("As a table", (table,))]


def write_rounds(run: RunTables) -> list[Block]:
    """How sampling went, round by round, and why it stopped."""
    blocks: list[Block] = [Heading("Sampling", "sampling")]
    reason = run.summary.get("stop_reason")
    rounds = run.summary.get("rounds")
    stopped = line("Why sampling stopped is unknown.")
    if isinstance(reason, str) and reason:
        stopped = line(f"Sampling stopped ({reason.rstrip('.')}).")
    blocks.append(Paragraph(stopped))
    blocks += [Paragraph(line(sentence)) for sentence in _how_compared(run)]
    if not isinstance(rounds, list) or not rounds:
        word = "are unknown" if rounds is None else "were none"
        return [*blocks, Paragraph(line(f"Sampling rounds {word}."), "quiet")]
    if rounds[-1].get("structure_found") is False:
        blocks.append(Paragraph(line(_NO_STRUCTURE)))
    if len(rounds) > 1:
        series = tuple(_series(title, name, rounds) for title, name in _PLOTTED)
        alt = f"Figures of {len(rounds)} sampling rounds: " + "; ".join(
            f"{one.title} {', '.join(one.labels)}" for one in series
        )
        caption = (
            "Round by round: texts per side, agreement of cluster labels with the round before, "
            "how well sentences separate into clusters, and the share of cluster differences that "
            "is resolved. These are the clusters that steer sampling, of the texts as decoded; "
            "those shown elsewhere count every prompt the same."
        )
        blocks.append(Picture(draw_rounds("rounds", series, alt), line(caption)))
    columns = [(title, name) for title, name in _ROUND_FIGURES if any(name in r for r in rounds)]
    table = Table(
        "Sampling rounds",
        (Column("Round", numeric=True), *(Column(title, numeric=True) for title, _ in columns)),
        tuple(_round_row(one, [name for _, name in columns]) for one in rounds),
    )
    blocks.append(table if len(rounds) == 1 else Details("As a table", (table,)))
    return blocks


def _how_compared(run: RunTables) -> list[str]:
    """Whether texts are coupled pairs, what divergences come from, and what was left out where."""
    coupling = run.summary.get("coupling")
    if not isinstance(coupling, dict):
        return ["How the sides were decoded is unknown."]
    why, share = coupling.get("why_independent"), number(coupling.get("share_identical"))
    sentences = [f"The two sides were decoded independently: {why}."]
    if not why:
        pairs = plural(whole(coupling.get("n_pairs")) or 0, "pair")
        equal = "an unknown share" if share is None else percent(share)
        sentences = [
            f"Both sides decoded with the same noise, so that their texts agree until the models "
            f"do not: {equal} of {pairs} in discovery are identical."
        ]
    method, why_sampled = str(coupling.get("divergence")), coupling.get("why_sampled")
    sentences.append(_DIVERGENCE.get(method, _DIVERGENCE["none"]))
    if why_sampled and method not in ("tokens", "texts"):
        sentences[-1] = f"{sentences[-1][:-1]}, because {why_sampled}."
    sentences += _how_recorded(run)
    stages = run.summary.get("stages")
    reasons = [s.get("reason") for s in stages] if isinstance(stages, list) else []
    return sentences + [f"{str(r)[:1].upper()}{str(r)[1:]}." for r in reasons if r]


def _how_recorded(run: RunTables) -> list[str]:
    """Which recorded texts were there, and which could not be compared."""
    recorded = run.summary.get("recorded")
    if not isinstance(recorded, dict):
        return []
    per_side = recorded.get("n_texts")
    there = " and ".join(
        f"{plural(whole(n) or 0, 'text')} of the {side}"
        for side, n in (per_side if isinstance(per_side, dict) else {}).items()
    )
    n_prompts = plural(whole(recorded.get("n_prompts")) or 0, "prompt")
    n_alone = recorded.get("n_prompts_alone")
    alone = sum(whole(n) or 0 for n in (n_alone if isinstance(n_alone, dict) else {}).values())
    left_out = f" {plural(alone, 'prompt')} of one side only were left out." if alone else ""
    return [
        f"Recorded before: {there or 'an unknown number of texts'}, on {n_prompts} that the sides "
        f"share.{left_out} Of a prompt, both sides give the same number of texts."
    ]


_DIVERGENCE = {
    "tokens": "Each prompt's divergence was measured by scoring texts under both models.",
    "texts": "The models' tokens differ, so each prompt's divergence was measured by scoring whole "
    "texts under both models, per byte.",
    "none": "No text was scored under both models: prompts were compared by sampled texts alone.",
}
_NO_STRUCTURE = (
    "No structure found: the sentences form one cloud, which the clusters only cut up. What a "
    "cluster holds, and how many there are, means little; findings were tested without them."
)
_ROUND_FIGURES = (
    ("Texts per side", "n_texts_per_side"),
    ("Label agreement", "label_agreement"),
    ("Silhouette", "silhouette"),
    ("Davies-Bouldin", "davies_bouldin"),
    ("Share resolved", "share_resolved"),
)
_PLOTTED = tuple(pair for pair in _ROUND_FIGURES if pair[1] != "davies_bouldin")
_CLUSTER_COLUMNS = (
    Column("Level"), Column("Cluster"), Column("Most central text"), Column("Base", numeric=True),
    Column("Intervention", numeric=True), Column("Difference", numeric=True),
    Column("95% interval", numeric=True),
)  # fmt: skip


def _seed(run: RunTables) -> int:
    seed = whole(run.summary.get("seed"))
    return seed if seed is not None and seed >= 0 else whole(run.config.get("seed")) or 0


def _last_round(run: RunTables) -> list[dict[str, Any]]:
    rows = rows_of(
        run.clusters, "level", "round", "cluster", "label", "n_base", "n_intervention",
        "share_base", "share_intervention", "difference", "ci_low", "ci_high", "exemplar",
    )  # fmt: skip
    last: dict[str, int] = {}
    for row in rows:
        level = str(row["level"])
        last[level] = max(last.get(level, 0), whole(row["round"]) or 0)
    return [
        row
        for row in rows
        if (whole(row["round"]) or 0) == last[str(row["level"])] and whole(row["label"]) != -1
    ]


def _cluster_forest(rows: Sequence[Mapping[str, Any]]) -> Picture | None:
    effects = []
    for row in rows:
        effect, low, high = (number(row[n]) for n in ("difference", "ci_low", "ci_high"))
        if effect is None or low is None or high is None:
            continue
        settled = low > 0 or high < 0
        label = f"{row['cluster']} · {_exemplar(row)}"
        value = f"{points(effect, '')}  ({interval(low, high)})"
        side = "intervention" if effect > 0 else "base"
        effects.append(
            Effect(label, effect, low, high, side if settled else "muted", value)  # type: ignore[arg-type]  # both names are tones
        )
    if not effects:
        return None
    alt = (
        f"Share differences of {plural(len(effects), 'cluster')} with 95% intervals; the table "
        "has the figures."
    )
    caption = (
        "Share of intervention texts minus share of base texts that hold the cluster, with 95% "
        "intervals that are not corrected for the choice of the largest. Each cluster is named by "
        "its most central text; grey intervals hold zero."
    )
    figure = draw_forest("clusters", effects, fit_scale(effects), min_effect=None, alt=alt)
    return Picture(figure, line(caption))


def _exemplar(row: Mapping[str, Any]) -> str:
    text = row["exemplar"]
    if not isinstance(text, str) or not text.strip():
        return "(no exemplar)"
    return cut_excerpt(text, (), _EXEMPLAR_CHARACTERS).text


def _cluster_row(row: Mapping[str, Any]) -> tuple[Line, ...]:
    return (
        line(_LEVELS.get(str(row["level"]), str(row["level"])).lower()),
        (data(str(row["cluster"])),),
        (data(_exemplar(row)),),
        line(f"{percent(row['share_base'])} ({count(row['n_base'])})"),
        line(f"{percent(row['share_intervention'])} ({count(row['n_intervention'])})"),
        line(points(row["difference"], "")),
        line(interval(row["ci_low"], row["ci_high"])),
    )


def _series(title: str, name: str, rounds: Sequence[Mapping[str, Any]]) -> Series:
    values = tuple(number(one.get(name)) for one in rounds)
    labels = tuple(_round_figure(name, one.get(name)) for one in rounds)
    return Series(title, values, labels)


def _round_figure(name: str, value: Any) -> str:
    if number(value) is None:
        return "–" if value is None else UNKNOWN
    if name == "n_texts_per_side":
        return count(value)
    return percent(value) if name == "share_resolved" else decimal(value)


def _round_row(one: Mapping[str, Any], names: Sequence[str]) -> tuple[Line, ...]:
    figures = (_round_figure(name, one[name]) if name in one else UNKNOWN for name in names)
    return (line(count(one.get("round"))), *(line(figure) for figure in figures))
