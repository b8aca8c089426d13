"""An invented run as large as the dashboard is meant for: what its benchmark and its tests open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from whatchanged.activations.evidence import CONTRIBUTION_COLUMNS, SELECTIVE_COLUMNS
from whatchanged.activations.groups import group_components
from whatchanged.dashboard.activation_parts import NOT_COLLECTED, Collected
from whatchanged.dashboard.pack import Pack
from whatchanged.keys import content_keys
from whatchanged.store.activations import BatchProcessingStorage
from whatchanged.store.text_batch import TextBatch
from whatchanged.summary import RunContent

SIDES = np.array(["base", "intervention"], dtype=object)
# One word that stands in one text of a thousand: what the search looks for.
RARE = "quokka"
_SYLLABLES = ("ba", "ke", "lo", "mi", "nu", "ra", "se", "to", "vi", "zo", "dar", "fen")
_PROMPTS_PER_CLUSTER = 10
_SENTENCES_PER_CLUSTER = 40


@dataclass(frozen=True)
class InventedRun(RunContent):
    """A run that nobody made, with every table that a pack reads."""

    manifest: dict[str, Any] = field(default_factory=dict)


def invent_run(
    n_texts: int = 200_000,
    n_clusters: int = 400,
    *,
    n_findings: int = 40,
    n_words: int = 120,
    one_fresh_in: int = 3,
    seed: int = 0,
) -> InventedRun:
    """A run of this size. One pair of texts in `one_fresh_in` is fresh; the others are of
    discovery, coupled, and on the map."""
    rng = np.random.default_rng(seed)
    prompts = _invent_prompts(n_clusters)
    is_fresh = np.repeat(np.arange(n_texts // 2) % one_fresh_in == one_fresh_in - 1, 2)
    texts = _invent_texts(rng, prompts, is_fresh, n_clusters, n_words)
    findings = _invent_findings(rng, texts, n_findings)
    return InventedRun(
        config={
            "base": {"model": "lab/invented-7b"},
            "intervention": {"model": "lab/invented-7b-tuned"},
            "validate": {"alpha": 0.05, "min_effect": 0.01},
            "judge": {"cheap": {"provider": "lexical"}, "expensive": {"provider": "embedding"}},
        },
        summary=_invent_summary(findings, n_texts),
        findings=findings,
        null_findings=[
            {**finding, "id": f"n{i}", "status": "rejected", "effect": 0.002 * (i % 7 - 3)}
            for i, finding in enumerate(findings)
        ],
        texts=texts,
        segments=_invent_segments(rng, texts, n_clusters),
        prompts=prompts,
        clusters=_invent_clusters(rng, texts, n_clusters),
        verdicts=_invent_verdicts(rng, texts, findings),
        map=_place(rng, texts, n_clusters),
        divergence=pd.DataFrame(
            {
                "prompt_key": prompts["prompt_key"],
                "parting": rng.random(len(prompts)),
                "kl_base": rng.gamma(1.0, 1.0, len(prompts)),
                "kl_base_se": 0.1,
            }
        ),
        pairs=_pair(texts),
    )


def pack_invented(run: InventedRun, collected: Collected | str = NOT_COLLECTED) -> Pack:
    """The pack of an invented run, whose tokens are its words."""
    return Pack(run, name="invented", created_utc="2026-01-01T00:00:00+00:00",
                load_pieces=lambda: split_words, load_activations=lambda: collected)  # fmt: skip


def invent_activations(run: InventedRun, folder: Path, labels: Sequence[str]) -> Collected:
    """What five or more components did on a run's texts, with a store in `folder`.

    Component i fires on every token whose place is a multiple of i + 2, with the token's place as
    its activation; the second fires with negative values, the third never. The fourth and fifth
    are a cluster. All comparisons are of the first claim, the first text cluster and the run.
    """
    groups = group_components(labels, {"invented-0-0": labels[3:5]})
    lengths = [len(ids) for ids in run.texts["token_ids"]]
    blocks = [_fire(n, len(labels)) for n in lengths]
    storage = BatchProcessingStorage.create(folder, groups, keep="all")
    if blocks:
        batch = TextBatch(
            tuple(run.texts["text_key"]),
            (run.texts["side"] == SIDES[1]).to_numpy(),
            np.cumsum([0, *lengths]),
            np.concatenate([np.arange(n) for n in lengths]),
        )
        storage.add_batch(np.concatenate(blocks), groups.component_numbers(labels), batch)
    return Collected(
        {"sources": ["neurons"], "skipped": {"weight_delta": "the shapes differ"},
         "n_texts": len(blocks), "n_components": len(labels),
         "contributions": [{"finding": "h000", "n_texts": 32, "log_ratio_nats": 10.5, "share": 0.25,
                            "n_directions": 40, "n_significant": 3}]},
        _invent_tables(run, labels),
        storage.finalize(),
    )  # fmt: skip


def _fire(n_tokens: int, n_components: int) -> np.ndarray[Any, Any]:
    """What the components do on a text `(n_tokens, n_components)`."""
    place = np.arange(n_tokens)[:, None]
    fires = place % (np.arange(n_components) + 2) == 0
    sign = np.array([1, -1, 0, *[1] * (n_components - 3)])
    return (np.where(fires, place, 0) * sign).astype(np.float32)


def _invent_tables(run: InventedRun, labels: Sequence[str]) -> dict[str, pd.DataFrame]:
    n = len(labels)
    units = [*labels, "invented-0-0"]
    subjects = [("finding", "h000", "texts"), ("finding", "h000", "sides"), ("run", "", "sides"),
                ("cluster", "invented-6-t1", "texts")]  # fmt: skip
    selective = [
        # Every other one does no better than the random control.
        (*subject, unit, i == n, "maximum", 0.9, *((0.8, 0.95) if i % 2 else (0.6, 0.95)), 0.8,
         0.95, 0.001, 0.01, 0.3, 20, 30, 8)
        for subject in subjects for i, unit in enumerate(units)
    ]  # fmt: skip
    contributions = [
        ("h000", labels[0].removeprefix("weight_delta/"), 0.5, 0.2, 0.8, 0.05, 7.5, 0.001, 0.01),
        ("h000", "model.far.away:3", -0.1, -0.3, 0.1, -0.01, 1.5, 0.4, 0.5),
    ]
    keys = dict(zip(run.texts["text_key"], run.texts["token_ids"], strict=True))
    quoted = [key for finding in run.findings[:1] for key in finding["supporting"] if key in keys]
    fired = [(key, i, _fire(len(keys[key]), n)[:, i]) for key in quoted for i in range(2)]
    return {
        "components": pd.DataFrame(
            {
                "label": [*labels, "random/a:0", "random/a:1"], "source": "neurons",
                "maximum": 100.0, "threshold": 0.5, "rate_base": np.arange(n + 2) / 100,
                "rate_intervention": np.arange(n + 2) / 50,
                "cluster": [None] * 3 + ["invented-0-0"] * 2 + [None] * (n - 3),
            }
        ),
        "selective": pd.DataFrame(selective, columns=list(SELECTIVE_COLUMNS)),
        "contributions": pd.DataFrame(contributions, columns=list(CONTRIBUTION_COLUMNS)),
        "tokens": pd.DataFrame(
            {
                "finding": "h000",
                "text_key": [key for key, _, _ in fired],
                "unit": [labels[i] for _, i, _ in fired],
                "positions": [np.flatnonzero(values).astype(np.int32) for _, _, values in fired],
                "activations": [values[values != 0] for _, _, values in fired],
            }
        ),
    }  # fmt: skip


def split_words(text: str, token_ids: Sequence[int]) -> list[str] | None:
    """The text in one word per token, each with the space before it."""
    words = text.split(" ")
    if len(words) != len(token_ids):
        return None
    return [word if i == 0 else f" {word}" for i, word in enumerate(words)]


def _invent_prompts(n_clusters: int) -> pd.DataFrame:
    n = n_clusters * _PROMPTS_PER_CLUSTER
    wordings = [f"Tell me about subject {i}." for i in range(n)]
    return pd.DataFrame(
        {
            "prompt_key": content_keys("invented prompt", wordings),
            "prompt": wordings,
            "group": [f"group {i % 20}" for i in range(n)],
            "split": ["discovery" if i % 2 else "validation" for i in range(n)],
        }
    )


def _invent_texts(
    rng: np.random.Generator,
    prompts: pd.DataFrame,
    is_fresh: np.ndarray[Any, Any],
    n_clusters: int,
    n_words: int,
) -> pd.DataFrame:
    n = len(is_fresh)
    vocabulary = _invent_words(rng, 4000)
    drawn = np.minimum(rng.zipf(1.3, (n, n_words)) - 1, len(vocabulary) - 1)
    lengths = rng.integers(n_words // 2, n_words + 1, n)
    words = [vocabulary[row[:k]].tolist() for row, k in zip(drawn, lengths, strict=True)]
    for i in range(0, n, 1000):
        words[i][0] = RARE
    cluster = np.repeat(rng.integers(0, n_clusters, n // 2), 2)
    within = np.repeat(rng.integers(0, _PROMPTS_PER_CLUSTER // 2, n // 2), 2)
    prompt = cluster * _PROMPTS_PER_CLUSTER + 2 * within + np.where(is_fresh, 0, 1)
    side = np.arange(n) % 2
    return pd.DataFrame(
        {
            "text_key": content_keys("invented text", (str(i) for i in range(n))),
            "prompt_key": prompts["prompt_key"].to_numpy()[prompt],
            "side": SIDES[side],
            "split": np.where(is_fresh, "validation", "discovery"),
            "round": np.where(is_fresh, 0, np.arange(n) % 7),
            "prompt": prompts["prompt"].to_numpy()[prompt],
            "text": [" ".join(row) for row in words],
            "n_tokens": lengths,
            "finish": "stop",
            "label": np.where(is_fresh, -1, cluster).astype(np.int32),
            "margin": rng.random(n).astype(np.float32),
            "logprob_base": np.where(is_fresh, np.nan, -2.0 * lengths),
            "logprob_intervention": np.where(is_fresh, np.nan, -1.9 * lengths),
            "token_ids": [list(range(k)) for k in lengths],
            "differences": [
                None if fresh else rng.normal(0, 0.5, k).astype(np.float32)
                for fresh, k in zip(is_fresh, lengths, strict=True)
            ],
            "decoded_by": "invented",
        }
    )


def _invent_words(rng: np.random.Generator, n: int) -> np.ndarray[Any, Any]:
    syllables = rng.choice(_SYLLABLES, (4 * n, 3))
    words = sorted({"".join(row[: 1 + i % 3]) for i, row in enumerate(syllables)})
    return np.array(rng.permutation(words), dtype=object)


def _invent_findings(rng: np.random.Generator, texts: pd.DataFrame, n: int) -> list[dict[str, Any]]:
    fresh = texts[texts["split"] == "validation"]
    on = fresh["text_key"][fresh["side"] == "intervention"].to_numpy()
    findings = []
    for i in range(n):
        effect = 0.6 / (1 + i)
        status = "confirmed" if i < n // 2 else "inconclusive"
        findings.append(
            {
                "id": f"h{i:03d}", "scope": None, "cluster": None,
                "statement": f"Replies of the intervention more often say ba ({i}).",
                "criterion": 'The reply contains the word "ba".', "direction": "more",
                "status": status, "effect": effect, "ci_low": effect - 0.02,
                "ci_high": effect + 0.02, "share_base": 0.1, "share_intervention": 0.1 + effect,
                "auc": 0.5 + effect / 2, "p_value": 0.001, "p_adjusted": 0.004, "n_texts": 400,
                "n_unscored": 0, "incomplete": False, "judge_calls": 440, "cost_usd": 0.0,
                "supporting": rng.choice(on, min(12, len(on)), replace=False).tolist(),
                "contradicting": rng.choice(on, min(12, len(on)), replace=False).tolist(),
                "evidence_terms": ["ba"],
            }
        )  # fmt: skip
    return findings


def _invent_summary(findings: list[dict[str, Any]], n_texts: int) -> dict[str, Any]:
    n_confirmed = sum(finding["status"] == "confirmed" for finding in findings)
    side = {"n_decoded": n_texts // 2, "n_cached": 0, "n_failed": 0, "n_tokens": 100 * n_texts}
    return {
        "decode": {"base": side, "intervention": side},
        "judge": {
            tier: {"n_calls": 1000, "n_cached": 0, "n_unscored": 0, "cost_usd": 0.0}
            for tier in ("cheap", "expensive")
        },
        "seconds": {"decode": 120.0, "judge": 60.0},
        "null_control": {"n_hypotheses": len(findings), "n_confirmed": 0},
        "n_confirmed": n_confirmed, "failed_items": 0, "n_truncated": 0, "seed": 0,
        "stop_reason": "text budget reached", "rounds": [], "stages": [], "versions": {},
    }  # fmt: skip


def _invent_segments(
    rng: np.random.Generator, texts: pd.DataFrame, n_clusters: int
) -> pd.DataFrame:
    found = texts[texts["split"] == "discovery"]
    label = rng.integers(0, n_clusters, (len(found), 4))
    number = label * _SENTENCES_PER_CLUSTER + rng.integers(0, _SENTENCES_PER_CLUSTER, label.shape)
    wordings = [f"Sentence {i} of them." for i in range(n_clusters * _SENTENCES_PER_CLUSTER)]
    keys = np.array(content_keys("segment", wordings), dtype=object)
    return pd.DataFrame(
        {
            "text_key": np.repeat(found["text_key"].to_numpy(), 4),
            "position": np.tile(np.arange(4), len(found)),
            "segment_key": keys[number.reshape(-1)],
            "segment": np.array(wordings, dtype=object)[number.reshape(-1)],
            "label": label.reshape(-1).astype(np.int32),
            "margin": rng.random(label.size).astype(np.float32),
        }
    )


def _invent_clusters(
    rng: np.random.Generator, texts: pd.DataFrame, n_clusters: int
) -> pd.DataFrame:
    rows = []
    for level, letter in (("text", "t"), ("segment", "s")):
        for round_index in (5, 6):
            for label in range(n_clusters):
                difference = float(rng.normal(0, 0.01))
                rows.append(
                    (level, round_index, f"invented-{round_index}-{letter}{label}", label, 160, 150,
                     0.01, 0.01 + difference, difference, difference - 0.01, difference + 0.01,
                     0.8, 0.1, label, 0.97, "continued", f"Exemplar of {letter}{label}.")
                )  # fmt: skip
    columns = [
        "level", "round", "cluster", "label", "n_base", "n_intervention", "share_base",
        "share_intervention", "difference", "ci_low", "ci_high", "cohesion", "silhouette",
        "lineage", "lineage_share", "origin", "exemplar",
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def _invent_verdicts(
    rng: np.random.Generator, texts: pd.DataFrame, findings: list[dict[str, Any]]
) -> pd.DataFrame:
    fresh = texts["text_key"][texts["split"] == "validation"].to_numpy()
    parts = []
    for finding in findings:
        quoted = {*finding["supporting"], *finding["contradicting"]}
        keys = sorted({*rng.choice(fresh, min(400, len(fresh)), replace=False), *quoted})
        for tier, n in (("cheap", len(keys)), ("expensive", len(keys) // 10)):
            parts.append(
                pd.DataFrame(
                    {
                        "hypothesis_id": finding["id"], "text_key": keys[:n], "tier": tier,
                        "judge": f"{tier}/1", "score": rng.random(n), "outcome": "answered",
                        "reason": "closest: ba" if tier == "expensive" else "", "cost_usd": 0.0,
                        "is_audit": tier == "expensive",
                    }
                )
            )  # fmt: skip
    columns = ["hypothesis_id", "text_key", "tier", "judge", "score", "outcome", "reason",
               "cost_usd", "is_audit"]  # fmt: skip
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def _place(rng: np.random.Generator, texts: pd.DataFrame, n_clusters: int) -> pd.DataFrame:
    found = texts[texts["split"] == "discovery"]
    centres = rng.normal(0, 10, (n_clusters, 2))
    xy = centres[found["label"].to_numpy()] + rng.normal(0, 0.8, (len(found), 2))
    return pd.DataFrame({"text_key": found["text_key"], "x": xy[:, 0], "y": xy[:, 1]})


def _pair(texts: pd.DataFrame) -> pd.DataFrame:
    found = texts[texts["split"] == "discovery"]
    base, other = found.iloc[::2], found.iloc[1::2]
    return pd.DataFrame(
        {
            "prompt_key": base["prompt_key"].to_numpy(),
            "text_key_base": base["text_key"].to_numpy(),
            "text_key_intervention": other["text_key"].to_numpy(),
            "first_difference": np.arange(len(base)) % 9,
        }
    )
