"""What a comparison of SAEs leaves behind: its tables, its figures and its report.

Names and texts are untrusted, and escaped where they are written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, get_args

import numpy as np

from whatchanged.escape import for_markdown, for_terminal
from whatchanged.pages.numbers import decimal, plural
from whatchanged.saes.ablations import AblatedSpecialist
from whatchanged.saes.changes import FeatureChange, FeatureChanges
from whatchanged.saes.comparison import RECORDS, SaeAnalysis, ShuffleControl
from whatchanged.saes.features import ZERO, SaeCard
from whatchanged.saes.highlights import Highlight, best_specialists, show_highlight
from whatchanged.saes.overlap import Overlap
from whatchanged.saes.plots import ImageFormat, draw_bars, draw_heat_map
from whatchanged.saes.tables import ResultTable, make_table, quality_table, to_markdown
from whatchanged.saes.texts import Corpus
from whatchanged.summary import Done, json_row

# Fewer distinct texts than this can hardly stand out among others.
FEW_TEXTS = 5
SPECIALISTS_RESPOND = (
    "A specialist responds to its category; only an ablation says whether the model uses it."
)
_MAX_ROWS = 40
_MAX_BARS = 30


@dataclass(frozen=True)
class Compared:
    """All results of a comparison; `changes` are by SAE, none without an intervention.

    `pieces` are the texts of the corpus in one piece per token, None where they cannot be told.
    """

    model: str
    intervention: str | None
    corpus: Corpus
    cards: tuple[SaeCard, ...]
    analyses: tuple[SaeAnalysis, ...]
    ablated: tuple[AblatedSpecialist, ...]
    changes: Mapping[str, FeatureChanges]
    overlaps: tuple[Overlap, ...]
    highlights: tuple[Highlight, ...]
    pieces: Sequence[Sequence[str] | None]

    @property
    def controls(self) -> tuple[ShuffleControl, ...]:
        """The shuffled categories of all SAEs."""
        return tuple(row for one in self.analyses for row in one.controls)


CAPTIONS = {
    "rankings": "The strongest, most frequent and most selective features",
    "specialists": "Specialists: features that fire on texts of one category",
    "controls": "Null control: specialists where categories are shuffled among the texts",
    "categories": "Specialists of each category",
    "layers": "Specialists by layer",
    "concepts": "Features that are more active on texts of a concept",
    "ablations": "Specialists taken out: change of a text's log-probability, in nats",
    "overlap": "SAEs of one hook point",
    "changes": "Features that the intervention changed most",
}


def make_tables(compared: Compared) -> dict[str, ResultTable]:
    """Every table by its name, `saes` first."""
    tables = {"saes": quality_table(compared.cards)}
    for name, kind in RECORDS.items():
        rows = [row for one in compared.analyses for row in getattr(one, name)]
        tables[name] = make_table(name, CAPTIONS[name], kind, rows, compared.cards)
    others: dict[str, tuple[type, Sequence[Any]]] = {
        "ablations": (AblatedSpecialist, compared.ablated),
        "overlap": (Overlap, compared.overlaps),
    }
    if compared.changes:
        rows = [row for changes in compared.changes.values() for row in changes.largest]
        others["changes"] = (FeatureChange, rows)
    for name, (kind, records) in others.items():
        tables[name] = make_table(name, CAPTIONS[name], kind, records, compared.cards)
    return tables


def draw_figures(compared: Compared) -> dict[str, bytes]:
    """The figures by file name, each as SVG, PDF and PNG. Raises MissingDependencyError without
    matplotlib."""
    return {
        f"{name}.{image}": data
        for image in get_args(ImageFormat)
        for name, data in _draw(compared, image).items()
    }


def write_report(
    compared: Compared,
    tables: Mapping[str, ResultTable],
    notes: Sequence[str],
    *,
    quotes_texts: bool = True,
) -> str:
    """The report as Markdown: what was compared, every table with the reconstruction of its SAEs,
    and, unless it quotes no texts, the explored features on them. `notes` are sentences on what is
    missing."""
    parts = ["# Comparison of sparse autoencoders", _lead(compared)]
    parts += [f"- {for_markdown(note)}" for note in (*_warnings(compared), *notes)]
    parts += ["## Reconstruction", _part(tables["saes"])]
    parts += ["## Specialists", _control_words(compared), _part(tables["controls"]),
              _part(_best_of_each(tables["specialists"]))]  # fmt: skip
    parts += ["## Does the model use them?", _ablation_words(compared), _part(tables["ablations"])]
    parts += ["## Layers", _part(_at_zero(tables["layers"]))]
    parts += ["## Features", _part(tables["rankings"])]
    if compared.corpus.concepts:
        parts += ["## Concepts", _part(tables["concepts"])]
    if "changes" in tables:
        parts += ["## What the intervention changed", _change_words(compared),
                  _part(tables["changes"])]  # fmt: skip
    if compared.overlaps:
        parts += ["## Overlap", _part(tables["overlap"])]
    if quotes_texts:
        parts += ["## Features on texts", *_shown_highlights(compared)]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def summarize_comparison(
    compared: Compared,
    extracted: Sequence[Sequence[Done]],
    *,
    seed: int,
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """The content of `summary.json`, but for notes and seconds; `extracted` are what was done for
    each side, an SAE at a time, and `facts` are of the machine.

    `n_forward_passes` are those of this run: none where all features were stored.
    """
    groups = compared.corpus.groups
    return {
        "n_texts": len(compared.corpus.rows),
        "n_distinct": groups.n_distinct,
        "n_categories": len(groups.categories),
        "extract": {
            "n_extracted": sum(not part.cached for side in extracted for part in side),
            "n_cached": sum(part.cached for side in extracted for part in side),
            "n_forward_passes": sum(
                max((int(part.counts["n_forward_passes"]) for part in side if not part.cached),
                    default=0)
                for side in extracted
            ),
        },
        "saes": [
            _summarize_sae(card, compared) for card in compared.cards
        ],
        "seed": seed,
        "stop_reason": "all SAEs were compared",
        **facts,
    }  # fmt: skip


def _summarize_sae(card: SaeCard, compared: Compared) -> dict[str, Any]:
    changes = compared.changes.get(card.name)
    control = next(row for row in compared.controls
                   if (row.sae, row.threshold) == (card.name, ZERO.name))  # fmt: skip
    tried = [row for row in compared.ablated if row.sae == card.name]
    return {
        "sae": card.name,
        "hook_point": card.hook_point,
        **json_row(asdict(card.quality)),
        "n_specialists": control.n_specialists,
        "n_shuffles": control.n_shuffles,
        "n_shuffles_with_any": control.n_shuffles_with_any,
        "n_ablated": len(tried),
        "n_used": sum(row.is_used for row in tried),
        "changes": None if changes is None else dict(changes.n_by_kind),
    }


def describe_comparison(summary: Mapping[str, Any]) -> str:
    """The summary in a line per SAE, safe to print."""
    lines = [
        f"{summary['n_texts']:,} texts in {summary['n_categories']:,} categories, "
        f"{plural(summary['extract']['n_forward_passes'], 'forward pass', 'forward passes')}"
    ]
    for one in summary["saes"]:
        lines.append(
            f"  {one['sae']} ({one['hook_point']}): {plural(one['n_specialists'], 'specialist')}, "
            f"with shuffled categories any in {one['n_shuffles_with_any']} of {one['n_shuffles']}; "
            f"the model uses {one['n_used']} of {one['n_ablated']} tried; "
            f"explained variance {decimal(one['explained_variance'])}, "
            f"loss recovered {decimal(one['loss_recovered'])}"
        )
    lines.append(f"Report: {summary['run']}/report.md")
    return "\n".join(for_terminal(line) for line in lines)


def _lead(compared: Compared) -> str:
    corpus, groups = compared.corpus, compared.corpus.groups
    beside = f" and of {compared.intervention}" if compared.intervention else ""
    return for_markdown(
        f"{plural(len(compared.cards), 'SAE')} of {compared.model}{beside} over "
        f"{plural(len(corpus.rows), 'text')} ({groups.n_distinct:,} distinct) in "
        f"{plural(len(groups.categories), 'category', 'categories')}. {SPECIALISTS_RESPOND}"
    )


def _warnings(compared: Compared) -> list[str]:
    groups = compared.corpus.groups
    n_distinct = np.count_nonzero(groups.row_counts, axis=0).tolist()
    few = [name for name, n in zip(groups.categories, n_distinct, strict=True) if n < FEW_TEXTS]
    found = []
    if len(groups.categories) < 2:
        found.append("All texts are of one category, so no feature can be its specialist.")
    elif few:
        found.append(warn_of_few(few))
    return found


def warn_of_few(categories: Sequence[str]) -> str:
    """What to think of categories with fewer than `FEW_TEXTS` distinct texts."""
    return (
        f"Too few distinct texts to find specialists of {', '.join(categories)}: "
        f"none found there says little (fewer than {FEW_TEXTS} texts)."
    )


def _control_words(compared: Compared) -> str:
    own = [row for row in compared.controls if row.threshold == ZERO.name]
    said = (
        f"{row.sae}: {plural(row.n_specialists, 'specialist')}, and with shuffled categories any "
        f"in {row.n_shuffles_with_any} of {row.n_shuffles} shuffles"
        for row in own
    )
    return for_markdown("; ".join(said) + ".")


def _ablation_words(compared: Compared) -> str:
    if not compared.ablated:
        return "No specialist was taken out."
    said = []
    for card in compared.cards:
        own = [row for row in compared.ablated if row.sae == card.name]
        n_categories = len({row.category for row in own if row.is_used})
        said.append(
            f"{card.name}: the model uses {sum(row.is_used for row in own)} of "
            f"{plural(len(own), 'specialist')} tried, of "
            f"{plural(n_categories, 'category', 'categories')}"
        )
    return for_markdown("; ".join(said) + ".")


def _change_words(compared: Compared) -> str:
    said = []
    for name, changes in compared.changes.items():
        kinds = ", ".join(f"{n:,} {kind}" for kind, n in changes.n_by_kind.items())
        said.append(f"{name}: of {plural(changes.n_features, 'feature')}, {kinds}")
    return for_markdown("; ".join(said) + ".")


def _part(table: ResultTable) -> str:
    """The table, cut where it is long; the whole of it is a file."""
    n_rows = len(table.rows)
    if n_rows <= _MAX_ROWS:
        return to_markdown(table)
    shown = to_markdown(replace(table, rows=table.rows[:_MAX_ROWS]))
    return f"{shown}\n{n_rows - _MAX_ROWS:,} more rows are in saes/{table.name}.csv.\n"


def _at_zero(table: ResultTable) -> ResultTable:
    """The rows at the absolute threshold."""
    place = table.columns.index("threshold")
    return replace(table, rows=tuple(row for row in table.rows if row[place] == ZERO.name))


def _best_of_each(table: ResultTable) -> ResultTable:
    """At the absolute threshold, the first row of each SAE and category."""
    sae, category = table.columns.index("sae"), table.columns.index("category")
    first: dict[tuple[str, str], tuple[object, ...]] = {}
    for row in _at_zero(table).rows:
        first.setdefault((row[sae], row[category]), row)
    caption = f"{table.caption}, the best of each category (all are in saes/{table.name}.csv)"
    return replace(table, caption=caption, rows=tuple(first.values()))


def _shown_highlights(compared: Compared) -> list[str]:
    """The best specialist of each category, on the text of it where it fires most."""
    texts = {
        key: (text, pieces)
        for key, text, pieces in zip(
            compared.corpus.keys, compared.corpus.texts, compared.pieces, strict=True
        )
    }
    lines = []
    for card, analysis in zip(compared.cards, compared.analyses, strict=True):
        own = [one for one in compared.highlights if one.sae == card.name]
        for category, feature in best_specialists(analysis).items():
            fits = (one for one in own if (one.feature, one.category) == (feature, category))
            # None where all its texts occur under another category before.
            if one := next(fits, None):
                head = for_markdown(f"{card.name}, feature {feature}, {category}")
                lines.append(f"- {head}: {show_highlight(one, *texts[one.text_key])}")
    if not lines:
        return ["No category has a specialist."]
    note = "Each category's best specialist on the text of it where it fires most, there in bold."
    return [note, "\n".join(lines)]


def _draw(compared: Compared, image: ImageFormat) -> dict[str, bytes]:
    names = [card.name for card in compared.cards]
    categories = compared.corpus.groups.categories
    own = [[row for row in one.categories if row.threshold == ZERO.name]
           for one in compared.analyses]  # fmt: skip
    figures = {
        "scores": draw_heat_map(
            np.array([[row.best_score for row in rows] for rows in own]), names, categories,
            title="Best feature of each category", scale="share inside less share outside",
            image=image,
        ),
        "specialists": draw_heat_map(
            np.array([[float(row.n_specialists) for row in rows] for rows in own]), names,
            categories, title="Specialists of each category", scale="specialists", image=image,
        ),
        "reconstruction": draw_bars(
            names,
            [np.nan if card.quality.explained_variance is None
             else card.quality.explained_variance for card in compared.cards],
            title="Reconstruction", scale="explained variance", image=image,
        ),
    }  # fmt: skip
    for number, name in enumerate(names, start=1):
        rows = sorted((row for row in compared.ablated if row.sae == name), key=lambda r: r.change)
        if shown := rows[:_MAX_BARS]:
            figures[f"ablations-{number}"] = draw_bars(
                [f"{row.category}: {row.feature}" for row in shown],
                [row.change for row in shown],
                title=f"Specialists of {name} taken out",
                scale="change of log-probability, nats per text",
                intervals=[(row.ci_low, row.ci_high) for row in shown],
                image=image,
            )
    return figures
