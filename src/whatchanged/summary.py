"""The content of a run folder, put together from what the stages left."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import pandas as pd

from whatchanged.records import PROMPT_COLUMNS, SEGMENT_COLUMNS, TEXT_COLUMNS, Prompt
from whatchanged.verdicts import TIERS, audit_verdicts

COUNTED_AS = ("base", "intervention", "null")
VERSIONED = (
    "whatchanged", "torch", "transformers", "sentence-transformers", "scikit-learn", "hdbscan",
    "numpy", "scipy", "statsmodels", "prefect",
)  # fmt: skip


class Done(Protocol):
    """What a task returned: items, whether this run found them in the cache, and counts."""

    @property
    def n(self) -> int: ...
    @property
    def cached(self) -> bool: ...
    @property
    def counts(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Bill:
    """What the calls to one model behind an API came to: a judge, the proposer, or one of the two
    that are audited. Every try is a call; `n_replies` of them got a reply, `n_unusable` one that is
    no answer (a refusal, a cut), and `n_failed` none. Of `n_unknown` nobody knows the cost;
    `spent_usd` is that of the others, None where the price is unknown. Tokens are those that
    replies state, None where none does."""

    model: str
    n_calls: int
    n_replies: int
    n_unusable: int
    n_failed: int
    n_unknown: int
    n_tokens_in: int | None
    n_tokens_out: int | None
    spent_usd: float | None

    @classmethod
    def of(cls, model: str, totals: Mapping[str, Any], *, has_price: bool) -> Bill:
        """The bill of a ledger's totals (`LedgerTotals`)."""
        return cls(
            model=model,
            n_calls=totals["n_calls"],
            n_replies=totals["n_answered"] + totals["n_unusable"],
            n_unusable=totals["n_unusable"],
            n_failed=totals["n_failed"],
            n_unknown=totals["n_unknown"] + totals["n_open"],
            n_tokens_in=totals["n_tokens_in"],
            n_tokens_out=totals["n_tokens_out"],
            spent_usd=totals["spent_usd"] if has_price else None,
        )


class Discovery(Protocol):
    """The clustered discovery texts."""

    @property
    def texts(self) -> pd.DataFrame: ...
    @property
    def segments(self) -> pd.DataFrame: ...
    @property
    def clusters(self) -> pd.DataFrame: ...
    @property
    def map(self) -> pd.DataFrame: ...


@dataclass(frozen=True)
class RunContent:
    """Everything that a run folder holds but its report: what `load` gives back."""

    config: dict[str, Any]
    summary: dict[str, Any]
    findings: list[dict[str, Any]]
    null_findings: list[dict[str, Any]]
    texts: pd.DataFrame
    segments: pd.DataFrame
    prompts: pd.DataFrame
    clusters: pd.DataFrame
    verdicts: pd.DataFrame
    map: pd.DataFrame
    divergence: pd.DataFrame
    pairs: pd.DataFrame

    def tables(self) -> dict[str, pd.DataFrame]:
        """The tables under the names of their files."""
        names = (
            "texts", "segments", "prompts", "clusters", "verdicts", "map", "divergence", "pairs",
        )  # fmt: skip
        return {name: getattr(self, name) for name in names}


def assemble_run(
    *,
    name: str,
    config: dict[str, Any],
    summary: dict[str, Any],
    prompts: Sequence[Prompt],
    discovery: Discovery,
    fresh: pd.DataFrame,
    scores: pd.DataFrame,
    divergence: pd.DataFrame,
    pairs: pd.DataFrame,
    verdicts: pd.DataFrame,
    findings: Sequence[Mapping[str, Any]],
    null_findings: Sequence[Mapping[str, Any]],
) -> RunContent:
    """The content of the run called `name`: cluster ids become run, iteration, label.

    `scores`, `divergence` and `pairs` have the columns of `whatchanged.divergence`.
    """
    numbered = discovery.clusters
    clusters = numbered.assign(cluster=[f"{name}-{cluster}" for cluster in numbered["cluster"]])
    ids = _segment_ids(clusters)
    return RunContent(
        config=config,
        summary=summary,
        findings=[_with_cluster(finding, ids) for finding in findings],
        null_findings=[_with_cluster(finding, {}) for finding in null_findings],
        texts=join_texts(discovery.texts, fresh, scores),
        segments=discovery.segments[list(SEGMENT_COLUMNS)],
        prompts=tabulate_prompts(prompts),
        clusters=clusters,
        verdicts=verdicts,
        map=discovery.map,
        divergence=divergence,
        pairs=pairs,
    )


def summarize_run(
    *,
    decoded: Sequence[Done],
    embedded: Sequence[Done],
    judged: Sequence[Done],
    n_texts_judged: int,
    bills: Mapping[str, Bill],
    themes: Mapping[str, Any],
    verdicts: pd.DataFrame,
    decisions: Sequence[Mapping[str, Any]],
    coupling: Mapping[str, Any],
    findings: Sequence[Mapping[str, Any]],
    null_findings: Sequence[Mapping[str, Any]] | None,
    seconds: Mapping[str, float],
    seed: int,
    facts: Mapping[str, Any],
    recorded: Mapping[str, Any] | None = None,
    prompts: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The content of `summary.json`. `n_texts_judged` counts the questions that one judge would be
    asked about every text; `null_findings` is None where no null control ran, `recorded`
    (`bank.describe_recording`) where models wrote every text. `prompts` says how many there are, in
    which format the bank came, and how many duplicates it had."""
    texts = count_decoded(decoded)
    calls = count_judged(judged, bills)
    failed = sum(total["n_failed"] for total in texts.values())
    unscored = sum(calls[tier]["n_unscored"] or 0 for tier in TIERS)
    return {
        "decode": texts,
        "embed": count_embedded(embedded),
        "judge": {
            **calls,
            "audit": json_row(asdict(audit_verdicts(verdicts))),
            "n_texts": n_texts_judged,
        },
        "bill": {name: asdict(bill) for name, bill in bills.items()},
        "seconds": dict(seconds),
        "stop_reason": decisions[-1]["stop_reason"],
        "rounds": [d["quality"] for d in decisions if d["quality"]],
        "stages": list(decisions[-1]["stages"]),
        "coupling": dict(coupling),
        "n_hypotheses": len(findings),
        "n_confirmed": _n_confirmed(findings),
        "themes": dict(themes),
        "null_control": None
        if null_findings is None
        else {
            "n_hypotheses": len(null_findings),
            "n_confirmed": _n_confirmed(null_findings),
            "n_texts_per_side": texts["null"]["n_decoded"] + texts["null"]["n_cached"],
        },
        "n_truncated": sum(part.counts["n_truncated"] for part in embedded),
        "failed_items": int(failed + unscored),
        "prompts": dict(prompts or {}),
        "recorded": None if recorded is None else dict(recorded),
        "seed": seed,
        **facts,
    }


def machine_facts() -> dict[str, Any]:
    """Versions of what shapes a result, and the peak memory of this process in bytes."""
    versions = {name: version for name in VERSIONED if (version := _version(name))}
    versions["python"] = platform.python_version()
    return {"versions": versions, "peak_memory_bytes": _peak_memory_bytes()}


def tabulate_prompts(prompts: Sequence[Prompt]) -> pd.DataFrame:
    """`PROMPT_COLUMNS`, one row per prompt."""
    rows = [(prompt.key, prompt.prompt, prompt.group, prompt.split) for prompt in prompts]
    return pd.DataFrame(rows, columns=list(PROMPT_COLUMNS))


def join_texts(discovery: pd.DataFrame, fresh: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
    """`TEXT_COLUMNS` of discovery and fresh texts. Fresh texts belong to no cluster (label -1), and
    texts that were not scored under both models have NaN log-probabilities and no differences."""
    labelled = fresh.assign(label=np.int32(-1), margin=np.float32(np.nan))
    both = pd.concat([discovery, labelled], ignore_index=True)
    columns = ["text_key", "logprob_base", "logprob_intervention", "differences"]
    known = scores[columns].drop_duplicates("text_key")
    return both.merge(known, on="text_key", how="left")[list(TEXT_COLUMNS)]


def describe_coupling(
    pairs: pd.DataFrame, why_independent: str, method: str, why_sampled: str
) -> dict[str, Any]:
    """How the sides were decoded and compared: `share_identical` of the coupled pairs, or why there
    are none; `method` says what per-prompt divergences come from, `why_sampled` why no text was
    scored."""
    share = float(pairs["is_identical"].mean()) if len(pairs) else None
    return {
        "why_independent": why_independent,
        "n_pairs": len(pairs),
        "share_identical": share,
        "divergence": method,
        "why_sampled": why_sampled,
    }


def count_decoded(chunks: Sequence[Done]) -> dict[str, dict[str, int]]:
    """Texts decoded now and found in the cache, and of both the tokens, the failures and the short
    texts of the screen: for each side and the null control."""
    totals = {
        name: {"n_decoded": 0, "n_cached": 0, "n_tokens": 0, "n_failed": 0, "n_screen": 0}
        for name in COUNTED_AS
    }
    for chunk in chunks:
        total = totals[chunk.counts["counted_as"]]
        total["n_cached" if chunk.cached else "n_decoded"] += chunk.n
        total["n_tokens"] += chunk.counts["n_tokens"]
        total["n_failed"] += chunk.counts["n_failed"]
        total["n_screen"] += chunk.counts["n_screen"]
    return totals


def count_embedded(rounds: Sequence[Done]) -> dict[str, int]:
    """Distinct segments embedded now, and segments found in the cache, over the rounds."""
    return {
        "n_embedded": sum(r.counts["n_embedded"] for r in rounds if not r.cached),
        "n_cached": sum(r.counts["n_cached"] for r in rounds)
        + sum(r.counts["n_embedded"] for r in rounds if r.cached),
    }


def count_judged(
    batches: Sequence[Done], bills: Mapping[str, Bill]
) -> dict[str, dict[str, float | None]]:
    """Verdicts per tier: made now, found in the cache, unscored, and US dollars.

    With a bill, the dollars are what the run has paid over all its restarts, None where the price
    is unknown. Without one, the judge is local and free.
    """
    counts: dict[str, dict[str, float | None]] = {t: _count_tier(batches, t) for t in TIERS}
    for tier in TIERS:
        counts[tier]["cost_usd"] = bills[tier].spent_usd if tier in bills else 0.0
    return counts


def tabulate_judging(
    judge: Mapping[str, Any], bills: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The account of what was paid for, from a summary's `judge` and `bill`: one row per tier and
    for the proposer, and one that compares: what would the expensive judge have cost on every text,
    at its mean price of this run?"""
    rows = [_account_row(name, judge.get(name, {}), bill) for name, bill in bills.items()]
    spent = [judge[tier]["cost_usd"] for tier in TIERS]
    dear = bills.get("expensive")
    if dear is None or not dear["n_replies"] or None in spent:
        return rows
    everything = judge["n_texts"] * dear["spent_usd"] / dear["n_replies"]
    saved = 1 - sum(spent) / everything if everything else None
    compared = {
        "for": "expensive on every text",
        "model": dear["model"],
        "calls": judge["n_texts"],
        "dollars": _rounded(everything),
        "saved": _rounded(saved),
    }
    return [*rows, compared]


def _account_row(name: str, verdicts: Mapping[str, Any], bill: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "for": name,
        "model": bill["model"],
        "verdicts": verdicts.get("n_calls"),
        "verdicts from cache": verdicts.get("n_cached"),
        "unscored texts": verdicts.get("n_unscored"),
        "calls": bill["n_calls"],
        "calls without a reply": bill["n_failed"],
        "replies without an answer": bill["n_unusable"],
        "calls of unknown cost": bill["n_unknown"],
        "tokens in": bill["n_tokens_in"],
        "tokens out": bill["n_tokens_out"],
        "dollars": _rounded(bill["spent_usd"]),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _count_tier(batches: Sequence[Done], tier: str) -> dict[str, float | None]:
    calls = f"{tier}_calls"
    return {
        "n_calls": sum(batch.counts[calls] for batch in batches if not batch.cached),
        "n_cached": sum(batch.counts[calls] for batch in batches if batch.cached),
        "n_unscored": sum(batch.counts[f"{tier}_unscored"] for batch in batches),
    }


def _segment_ids(clusters: pd.DataFrame) -> dict[str, str]:
    """The id of each sentence cluster of the last round, by its label."""
    last = clusters[
        (clusters["level"] == "segment") & (clusters["round"] == clusters["round"].max())
    ]
    return dict(zip(last["label"].astype(str), last["cluster"], strict=True))


def _with_cluster(finding: Mapping[str, Any], ids: Mapping[str, str]) -> dict[str, Any]:
    """The finding with its cluster's id; None where it has none, or one that the run does not keep
    (those of the null control)."""
    return {**finding, "cluster": ids.get(str(finding["cluster"]))}


def json_row(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values with null for what is undefined: JSON has no NaN."""
    return {
        name: None if isinstance(value, float) and not np.isfinite(value) else value
        for name, value in values.items()
    }


def _n_confirmed(findings: Sequence[Mapping[str, Any]]) -> int:
    return sum(finding["status"] == "confirmed" for finding in findings)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _peak_memory_bytes() -> int | None:
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
