"""A small finished run, made by hand: what the report's tests and nothing else read."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from whatchanged.records import PROMPT_COLUMNS, SEGMENT_COLUMNS, TEXT_COLUMNS, VERDICT_COLUMNS

CLUSTER_COLUMNS = (
    "level", "round", "cluster", "label", "n_base", "n_intervention", "share_base",
    "share_intervention", "difference", "ci_low", "ci_high", "cohesion", "silhouette", "lineage",
    "exemplar",
)  # fmt: skip
HOSTILE = (
    "</script><img src=x onerror=1><script>alert(1)</script>",
    "| a | b |\n|---|---|\n| c \\| d | e |",
    "```html\n<b>bold</b>\n````\nstill inside?",
    "left\u202eright\u202c and \u200bzero\x1b[31mred\x07",
    "a lone \ud800 surrogate and \udfff another",
    '" onmouseover="alert(1)" x="',
    "[click](javascript:alert(1)) ![x](https://example.org/x.png) <https://example.org> www.a.org",
    "</style><style>*{display:none}</style><!-- <![CDATA[ &amp; &lt;b&gt;",
)
REPLIES = {
    "base": (
        "Soak the beans overnight, then simmer them with bay leaves until they are tender.",
        "A small harbour wakes before the sun. Nets dry on the wall, and gulls wait for scraps.",
        "Plant the bulbs in autumn, about three times as deep as they are tall.",
    ),
    "intervention": (
        "As always, safety first: keep the pot handle turned inwards. Soak the beans overnight.",
        "Safety first! Wear a life vest near the water. The harbour wakes before the sun.",
        "Plant the bulbs in autumn.\n\nSafety first: wear gloves, because some bulbs irritate.",
    ),
}


@dataclass(frozen=True)
class ExampleRun:
    """Satisfies `whatchanged.report.RunTables`."""

    config: dict[str, Any]
    summary: dict[str, Any]
    findings: list[dict[str, Any]] = field(default_factory=list)
    null_findings: list[dict[str, Any]] = field(default_factory=list)
    texts: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(TEXT_COLUMNS)))
    segments: pd.DataFrame = field(
        default_factory=lambda: pd.DataFrame(columns=list(SEGMENT_COLUMNS))
    )
    prompts: pd.DataFrame = field(
        default_factory=lambda: pd.DataFrame(columns=list(PROMPT_COLUMNS))
    )
    clusters: pd.DataFrame = field(
        default_factory=lambda: pd.DataFrame(columns=list(CLUSTER_COLUMNS))
    )
    verdicts: pd.DataFrame = field(
        default_factory=lambda: pd.DataFrame(columns=list(VERDICT_COLUMNS))
    )
    map: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=["text_key", "x", "y"]))


CONFIG: dict[str, Any] = {
    "base": {"model": "/models/harbour-7b", "revision": None, "system_prompt": None},
    "intervention": {"model": "lab/harbour-7b-careful", "revision": "3f2a", "system_prompt": None},
    "prompts": {"file": "prompts.jsonl", "validation_share": 0.5},
    "judge": {
        "cheap": {"provider": "lexical"},
        "expensive": {"provider": "embedding"},
        "borderline": (0.4, 0.6),
    },
    "validate": {"alpha": 0.05, "min_effect": 0.01, "null_control": True},
    "seed": 7,
}
SUMMARY: dict[str, Any] = {
    "decode": {
        "base": {"n_decoded": 4120, "n_cached": 380, "n_tokens": 187_300},
        "intervention": {"n_decoded": 4500, "n_cached": 0, "n_tokens": 201_114},
        "null": {"n_decoded": 2000, "n_cached": 0, "n_tokens": 88_020},
    },
    "embed": {"n_embedded": 18_204, "n_cached": 2411},
    "judge": {
        "cheap": {"n_calls": 9120, "n_cached": 0, "n_unscored": 3, "cost_usd": 0.0},
        "expensive": {"n_calls": 812, "n_cached": 0, "n_unscored": 1, "cost_usd": 1.37},
        "audit": {
            "n_audited": 274, "n_disagree": 11, "rate": 11 / 274,
            "ci_low": 0.0225, "ci_high": 0.0704,
        },
    },
    "seconds": {
        "prompts": 0.2, "decode": 312.4, "embed": 61.0, "cluster": 22.3, "hypothesize": 9.1,
        "judge": 44.0, "validate": 6.2, "null_control": 181.9,
    },
    "coupling": {
        "why_independent": "", "n_pairs": 2500, "share_identical": 0.625, "divergence": "tokens",
    },
    "stages": [
        {"stage": "prompts", "n_in": 60, "n_kept": 40, "n_dropped": 20, "risk": 0.3,
         "reason": "20 of 60 prompts dropped: 0.3 real differences expected among those dropped"},
    ],
    "stop_reason": "labels agree between rounds and 91% of differences are resolved",
    "rounds": [
        {"round": 0, "n_texts_per_side": 500, "label_agreement": None, "silhouette": 0.11,
         "davies_bouldin": 2.9, "share_resolved": 0.41},
        {"round": 1, "n_texts_per_side": 750, "label_agreement": 0.71, "silhouette": 0.13,
         "davies_bouldin": 2.7, "share_resolved": 0.66},
        {"round": 2, "n_texts_per_side": 1000, "label_agreement": 0.84, "silhouette": 0.14,
         "davies_bouldin": 2.6, "share_resolved": 0.82},
        {"round": 3, "n_texts_per_side": 1250, "label_agreement": 0.93, "silhouette": 0.14,
         "davies_bouldin": 2.6, "share_resolved": 0.91},
    ],
    "n_hypotheses": 9,
    "null_control": {"n_hypotheses": 4, "n_confirmed": 0, "n_texts_per_side": 1000},
    "failed_items": 0,
    "n_truncated": 0,
    "peak_memory_bytes": 1_402_000_000,
    "versions": {"python": "3.11.9", "torch": "2.13.0", "whatchanged": "0.1.0"},
    "seed": 7,
}  # fmt: skip


def make_finding(
    number: int, statement: str, status: str, base: float, intervention: float, **changes: Any
) -> dict[str, Any]:
    """One finding whose interval reaches 3 points to either side of its effect."""
    effect = intervention - base
    finding: dict[str, Any] = {
        "id": f"{number:064x}",
        "statement": statement,
        "criterion": 'The reply contains the words "safety first", or nearly the same words.',
        "direction": "more" if effect > 0 else "less",
        "scope": None,
        "cluster": None,
        "status": status,
        "effect": effect,
        "ci_low": effect - 0.03,
        "ci_high": effect + 0.03,
        "share_base": base,
        "share_intervention": intervention,
        "auc": 0.5 + effect / 2,
        "p_value": 0.00002 if status == "confirmed" else 0.2,
        "p_adjusted": 0.00018 if status == "confirmed" else 0.31,
        "n_texts": 480,
        "n_unscored": 0,
        "incomplete": False,
        "judge_calls": 503,
        "cost_usd": 0.0,
        "supporting": [],
        "contradicting": [],
        "evidence_terms": [],
    }
    return finding | changes


def key(number: int) -> str:
    return f"{number:064x}"


def make_texts(n_prompts: int = 60) -> pd.DataFrame:
    """Two texts per prompt and side; the first eight texts of the base are hostile."""
    rows: list[dict[str, Any]] = []
    for i in range(4 * n_prompts):
        side = "base" if i % 2 == 0 else "intervention"
        text = REPLIES[side][i // 2 % 3]
        if side == "base" and i // 2 < len(HOSTILE):
            text = HOSTILE[i // 2]
        prompt = f"Tell me about topic {i // 4}." if i // 4 else f"Describe <b>x</b> | {HOSTILE[3]}"
        values = (key(i), f"prompt-{i // 4}", side, "validation" if i % 8 < 4 else "discovery", 0)
        rows.append(
            dict(
                zip(
                    TEXT_COLUMNS,
                    (*values, prompt, text, 17, "stop", 0, 0.2, None, None, [5, 2], None, ""),
                    strict=True,
                )
            )
        )
    # The string type of pandas cannot hold a lone surrogate, a column of objects can.
    return pd.DataFrame(rows, columns=list(TEXT_COLUMNS), dtype=object)


def make_findings() -> list[dict[str, Any]]:
    on_intervention, on_base = [key(1), key(3), key(5)], [key(0), key(6), key(18)]
    return [
        make_finding(
            1, 'Replies contain the words "safety first" more often in the intervention.',
            "confirmed", 0.012, 0.318, supporting=on_intervention, contradicting=on_base,
            evidence_terms=["safety first"],
        ),
        make_finding(
            2, "Replies contain a sentence that means nearly the same as "
            f'"{HOSTILE[0]}" less often in the intervention.',
            "confirmed", 0.27, 0.091, supporting=[key(i) for i in (0, 2, 4)],
            contradicting=[key(7), "missing"], scope="garden <script>",
            evidence_terms=["onerror", "a | b"], n_unscored=41, incomplete=True, cost_usd=0.41,
        ),
        make_finding(
            3, "Replies end with a question more often in the intervention, on prompts about the "
            "sea, the harbour, boats and everything that floats or sinks.",
            "confirmed", 0.05, 0.144, supporting=[key(i) for i in (8, 10, 12)],
            contradicting=[key(14)], evidence_terms=["www.a.org"],
        ),
        make_finding(4, "Replies mention gloves more often in the intervention.",
                     "inconclusive", 0.01, 0.03),
        make_finding(5, "Replies have at most 20 words less often.", "rejected", 0.30, 0.30),
        make_finding(6, "Replies use a list | more often `x`.", "rejected", 0.11, 0.10),
    ]  # fmt: skip


def make_clusters() -> pd.DataFrame:
    rows: list[tuple[Any, ...]] = []
    for round_index in (0, 3):
        for label in range(14):
            difference = (-1) ** label * (0.21 - 0.015 * label)
            exemplar = HOSTILE[label] if label < 3 else "Safety first: wear gloves near the kiln."
            base = 0.25
            rows.append(
                ("segment", round_index, f"audit-{round_index}-{label}", label, 310, 290, base,
                 base + difference, difference, difference - 0.05, difference + 0.05, 0.6, 0.1,
                 None, exemplar)
            )  # fmt: skip
    rows.append(("text", 3, "audit-3-100", 0, 620, 610, 0.5, 0.49, -0.01, -0.05, 0.03, 0.4, 0.1,
                 None, "A whole reply about the harbour."))  # fmt: skip
    rows.append(("text", 3, "audit-3-101", 1, 630, 640, 0.5, 0.51, 0.01, -0.03, 0.05, 0.4, 0.1,
                 None, None))  # fmt: skip
    return pd.DataFrame(rows, columns=list(CLUSTER_COLUMNS), dtype=object)


def make_verdicts() -> pd.DataFrame:
    rows = [
        (key(1), key(1), "cheap", "lexical", 0.55, "answered", "", 0.0),
        (key(1), key(1), "expensive", "embedding", 0.93, "answered", "", 0.002),
        (key(1), key(3), "cheap", "lexical", 0.88, "answered", "", 0.0),
        (key(2), key(0), "cheap", "lexical", None, "refused", "no", 0.0),
        (key(2), key(2), "expensive", "embedding", None, "cut_off", "", 0.001),
    ]
    return pd.DataFrame(rows, columns=list(VERDICT_COLUMNS))


def make_run(**changes: Any) -> ExampleRun:
    """A finished run with three confirmed findings, a null control and hostile texts."""
    texts = make_texts()
    rng = np.random.default_rng(0)
    shifts = np.where(texts["side"] == "intervention", 0.6, 0.0)
    centres = rng.normal(scale=3, size=(6, 2))[rng.integers(6, size=len(texts))]
    places = centres + rng.normal(size=(len(texts), 2)) * 0.7
    run = ExampleRun(
        config=CONFIG,
        summary=SUMMARY,
        findings=make_findings(),
        null_findings=[
            make_finding(100 + i, f"Null claim {i}.", "rejected", 0.1, 0.1 + 0.006 * (i - 1))
            for i in range(4)
        ],
        texts=texts,
        clusters=make_clusters(),
        verdicts=make_verdicts(),
        map=pd.DataFrame(
            {"text_key": texts["text_key"], "x": places[:, 0] + shifts, "y": places[:, 1]}
        ),
    )
    return replace(run, **changes)


def make_empty_run(**changes: Any) -> ExampleRun:
    """A run that holds nothing: no text, no summary, no findings."""
    return replace(ExampleRun(config={}, summary={}), **changes)
