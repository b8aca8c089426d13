"""An invented comparison of SAEs: what the tests of its screens open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pandas as pd

from whatchanged.dashboard.sae_parts import SaePack
from whatchanged.keys import content_keys
from whatchanged.saes.ablations import AblatedSpecialist
from whatchanged.saes.changes import FeatureChange
from whatchanged.saes.comparison import RECORDS
from whatchanged.saes.concepts import ConceptFeature
from whatchanged.saes.features import SaeCard
from whatchanged.saes.highlights import Highlight, tabulate_highlights
from whatchanged.saes.overlap import Overlap
from whatchanged.saes.quality import SaeQuality
from whatchanged.saes.report import CAPTIONS
from whatchanged.saes.specialists import CategorySummary, Specialist
from whatchanged.saes.strength import RankedFeature
from whatchanged.saes.tables import make_table, to_frame

THRESHOLDS = ("zero", "q0.9")
_KINDS = {**RECORDS, "ablations": AblatedSpecialist, "overlap": Overlap, "changes": FeatureChange}


@dataclass(frozen=True)
class InventedComparison:
    """A comparison that nobody made, with every table that a pack reads."""

    config: dict[str, Any]
    summary: dict[str, Any]
    tables: dict[str, pd.DataFrame]
    manifest: dict[str, Any] = field(default_factory=dict)

    def read_table(self, name: str) -> pd.DataFrame:
        """A table by its name in a run folder."""
        return self.tables[name]


def invent_comparison(
    saes: Sequence[str],
    categories: Sequence[str],
    texts: Sequence[str],
    *,
    n_specialists: int = 3,
    model: str = "lab/invented",
) -> InventedComparison:
    """Every SAE has, for category c, the specialists c, c + 100, ...: each fires on the second and
    third token of the texts, whose tokens are their words, with 1 and 2 as its activations."""
    cards = [_card(name, i) for i, name in enumerate(saes)]
    keys = content_keys("invented/1", list(texts)) if texts else []
    own = {
        "rankings": [
            RankedFeature(card.name, kind, 1, 0, 0.5, 1.5, 2.0, 0.25, categories[0], 0.9, 0.001)
            for card in cards if categories
            for kind in ("strongest", "most frequent", "most selective")
        ],
        "specialists": [
            Specialist(card.name, category, c + 100 * n, threshold, 0.9 - 0.1 * n, 0.5, 1.0, 0.95,
                       0.05 + 0.1 * n, 0.0005, 0.001, 10, 30, 9)
            for card in cards for threshold in THRESHOLDS for c, category in enumerate(categories)
            for n in range(n_specialists)
        ],
        "controls": [],
        "categories": [
            CategorySummary(card.name, card.hook_point, card.layer, threshold, category, 10, 9,
                            n_specialists, c, 0.9)
            for card in cards for threshold in THRESHOLDS for c, category in enumerate(categories)
        ],
        "layers": [],
        "concepts": [
            ConceptFeature(card.name, category, 0, 0.97, 0.002, True, 2.0, 0.1, 0.9, 0.05, 5, 40)
            for card in cards for category in categories[:1]
        ],
        "ablations": [
            AblatedSpecialist(card.name, category, c, c % 2 == 0, -2.5, -3.0, -2.0, -0.5, -1.0,
                              -0.1, 0.001, 0.01, 10, 5, 10)
            for card in cards for c, category in enumerate(categories)
        ],
        "overlap": [
            Overlap(a.name, b.name, a.hook_point, 512, 512, 0.5, 0.25, 0.125, 0.3, 0.1)
            for a in cards for b in cards if a is not b
        ],
        "changes": [
            FeatureChange(card.name, 0, "weakened", 2.0, 1.0, 0.5, 0.25, -0.25, -0.3, -0.2, 0.001,
                          40)
            for card in cards
        ],
    }  # fmt: skip
    tables = {
        f"saes/{name}": to_frame(make_table(name, CAPTIONS[name], _KINDS[name], rows, cards))
        for name, rows in own.items()
    }
    tables["saes/highlights"] = tabulate_highlights(
        [
            Highlight(card.name, c, rank, key, categories[c], 2.0, (1, 2), (1.0, 2.0))
            for card in cards for c in range(len(categories))
            for rank, key in enumerate(keys[:3], start=1)
        ]
    )  # fmt: skip
    tables["saes/texts"] = pd.DataFrame(
        {
            "text_key": keys,
            "category": [categories[i % len(categories)] for i in range(len(keys))],
            "concept": None,
            "text": list(texts),
            "tokens": [None if i == 2 else _pieces(text) for i, text in enumerate(texts)],
        }
    )
    return InventedComparison(
        config={"model": {"model": model}, "intervention": None},
        summary={"saes": _summaries(cards, len(categories), n_specialists),
                 "n_texts": 10 * len(categories), "n_distinct": 9 * len(categories),
                 "n_categories": len(categories), "seconds": {"extract base": 2.0}, "seed": 0,
                 "stop_reason": "all SAEs were compared", "versions": {}},
        tables=tables,
        manifest={"files": {f"{name}.parquet": {"n_bytes": 1} for name in tables}, "stages": {}},
    )  # fmt: skip


def pack_comparison(run: InventedComparison) -> SaePack:
    """The pack of an invented comparison."""
    return SaePack(run, name="invented", created_utc="2026-01-01T00:00:00+00:00")


def _summaries(
    cards: Sequence[SaeCard], n_categories: int, n_specialists: int
) -> list[dict[str, Any]]:
    return [
        {"sae": card.name, "hook_point": card.hook_point, **asdict(card.quality),
         "n_specialists": n_specialists * n_categories, "n_shuffles": 20,
         "n_shuffles_with_any": 1, "n_ablated": n_categories,
         "n_used": (n_categories + 1) // 2, "changes": {"created": 1, "killed": 0}}
        for card in cards
    ]  # fmt: skip


def _card(name: str, i: int) -> SaeCard:
    quality = SaeQuality(0.9 - 0.7 * (i % 2), 32.0, 0.95, 0.02)
    return SaeCard(name, f"blocks.{i}.hook_resid_post", i, quality,
                   {"neuronpedia_id": f"lab/{i}-res"})  # fmt: skip


def _pieces(text: str) -> list[str]:
    """The words with the space before each; a start token without words comes first."""
    words = text.split(" ")
    return ["", words[0], *(f" {word}" for word in words[1:])]
