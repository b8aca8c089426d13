"""An audit without Prefect, over a pool of texts that are decoded once.

`run_audit` calls the functions of the stages in the order of `flows/audit.py`, less the null
control: a grid of audits on one pool costs little more than its largest one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.text_pool import TextPool
from whatchanged.config import AuditConfig
from whatchanged.decode import empty_texts
from whatchanged.discovery import ClusteredTexts, as_previous
from whatchanged.divergence import (
    PAIR_COLUMNS,
    add_divergence,
    estimate_divergence,
    match_pairs,
)
from whatchanged.hypothesize import build_contrasts, propose_all
from whatchanged.interim import plan_block
from whatchanged.prompts import groups_in_both_splits
from whatchanged.records import (
    Finding,
    Hypothesis,
    Prompt,
)
from whatchanged.rounds import Decision, close_round, open_rounds
from whatchanged.sample import RoundQuality, no_evidence
from whatchanged.seen import classify_sides, collect_evidence
from whatchanged.truth import Behaviour, match_behaviours, unmatched_confirmed
from whatchanged.validate import plan_validation, select_texts, stand, validate_hypotheses
from whatchanged.verdicts import empty_verdicts, grade_texts
from whatchanged.views import Embedded, PreviousViews, Views, cluster_views, name_clusters


@dataclass(frozen=True)
class Outcome:
    """What one audit found and took.

    Texts are per side. `found` names the planted behaviours that a confirmed finding is about;
    `unplanted` are the confirmed findings that are about none (statement, criterion, direction,
    scope). `n_tokens` are those of screen and discovery on both sides. `share_identical` is that of
    the coupled discovery pairs, None where decoding was independent. `seconds` per stage hold what
    this audit had to wait for: texts that an earlier audit left in the pool cost it nothing.
    """

    found: tuple[str, ...]
    n_planted: int
    n_hypotheses: int
    n_confirmed: int
    unplanted: tuple[dict[str, Any], ...]
    n_screen: int
    n_discovery: int
    n_validation: int
    n_tokens: int
    is_coupled: bool
    share_identical: float | None
    n_rounds: int
    stop_reason: str
    silhouette: float | None
    seconds: dict[str, float]
    centroids: NDArray[np.float32] = field(repr=False, compare=False)

    @property
    def n_texts(self) -> int:
        """What is compared with a budget: the screen's and the discovery texts of one side."""
        return self.n_screen + self.n_discovery


class Clock(dict[str, float]):
    """Seconds per stage; stages that come again add up."""

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self[name] = self.get(name, 0.0) + time.perf_counter() - started


@dataclass(frozen=True)
class Explored:
    """All discovery texts, their last clustering, their coupled pairs, and what led here."""

    texts: pd.DataFrame
    clustered: Views
    pairs: pd.DataFrame
    n_rounds: int
    stop_reason: str


def run_audit(pool: TextPool, config: AuditConfig, truth: Sequence[Behaviour]) -> Outcome:
    """One audit of the pool's pair, and which of the behaviours of `truth` it found."""
    clock = Clock()
    screened, scores = screen(pool, config, clock)
    explored = explore(pool, config, screened, scores, clock)
    with clock.stage("hypothesize"):
        contrasts = build_contrasts(
            explored.clustered.focus.texts,
            explored.clustered.focus.segments,
            groups_in_both_splits(pool.prompts),
            is_paired=pool.is_coupled(config),
        )
        proposed = propose_all(contrasts, pool.models.proposer, config.hypothesize.max_hypotheses)
        views = explored.clustered
        hypotheses = name_clusters(proposed, views.focus.segments, views.even.segments)
    fresh, findings = test(pool, config, hypotheses, clock)
    rows = [asdict(finding) for finding in findings]
    matches = match_behaviours(rows, fresh, truth)
    others = set(unmatched_confirmed(rows, matches))
    described = ("statement", "criterion", "direction", "scope", "effect")
    pairs = explored.pairs
    return Outcome(
        found=tuple(match.behaviour.id for match in matches if match.finding_ids),
        n_planted=len(truth),
        n_hypotheses=len(hypotheses),
        n_confirmed=sum(row["status"] == "confirmed" for row in rows),
        unplanted=tuple({k: r[k] for k in described} for r in rows if r["id"] in others),
        n_screen=_n_per_side(screened),
        n_discovery=_n_per_side(explored.texts),
        n_validation=_n_per_side(fresh),
        n_tokens=int(screened["n_tokens"].sum() + explored.texts["n_tokens"].sum()),
        is_coupled=pool.is_coupled(config),
        share_identical=float(pairs["is_identical"].mean()) if len(pairs) else None,
        n_rounds=explored.n_rounds,
        stop_reason=explored.stop_reason,
        silhouette=explored.clustered.even.silhouette,
        seconds=dict(clock),
        centroids=explored.clustered.even.centroids["segment"],
    )


def screen(
    pool: TextPool, config: AuditConfig, clock: Clock | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The screen's texts and their scores; both empty where the config goes without."""
    clock = Clock() if clock is None else clock
    bank = pool.in_split("discovery")
    each = config.n_screen_texts(len(bank))
    with clock.stage("decode"):
        texts = pool.decode(config, "screen", bank, {p.key: each for p in bank if each})
    with clock.stage("divergence"):
        return texts, pool.score(config, texts)


def explore(
    pool: TextPool,
    config: AuditConfig,
    short: pd.DataFrame,
    screened: pd.DataFrame,
    clock: Clock,
) -> Explored:
    """Rounds of decoding and clustering until they stop; `short` are the screen's texts, `screened`
    their scores."""
    bank, is_coupled = pool.in_split("discovery"), pool.is_coupled(config)
    sample = config.sample_after_screen(len(bank))
    # Uniform sampling decides nothing by a score.
    is_scored = sample.strategy == "active" and config.divergence.method == "auto"
    no_pairs = pd.DataFrame(columns=list(PAIR_COLUMNS))
    texts, pairs, scores = empty_texts(), no_pairs, screened
    segments, vectors = pool.embed(texts)
    with clock.stage("embed"):
        screen_texts = Embedded(short, *pool.embed(short)) if len(short) else None
    clustered: Views | None = None
    history: list[RoundQuality] = []
    min_effect = config.validation.min_effect
    estimates = estimate_divergence(scores, pairs, bank)
    decision = open_rounds(
        bank, add_divergence(no_evidence(len(bank)), estimates), sample,
        min_effect=min_effect, seed=config.seed,
    )  # fmt: skip
    n_rounds = 0
    while decision.counts:
        with clock.stage("decode"):
            new = pool.decode(
                config, "discovery", bank, decision.counts, decision.already, n_rounds
            )
        with clock.stage("divergence"):
            scores = _join(scores, pool.score(config, new)) if is_scored else scores
            pairs = _join(pairs, match_pairs(new)) if is_coupled else pairs
            estimates = estimate_divergence(scores, pairs, bank)
        with clock.stage("embed"):
            new_segments, new_vectors = pool.embed(new)
        texts, segments = _join(texts, new), _join(segments, new_segments)
        vectors = np.concatenate([vectors, new_vectors])
        with clock.stage("cluster"):
            clustered = cluster_views(
                Embedded(texts, segments, vectors), config.cluster, screened=screen_texts,
                previous=_previous(clustered), round_index=n_rounds, seed=config.seed,
            )  # fmt: skip
        with clock.stage("sample"):
            decision = _decide(config, bank, clustered.focus, segments, vectors, estimates, history)
        if decision.quality:
            history.append(decision.quality)
        n_rounds += 1
    assert clustered is not None, "the seed round always decodes"
    return Explored(texts, clustered, pairs, n_rounds, decision.stop_reason)


def _decide(
    config: AuditConfig,
    bank: Sequence[Prompt],
    clustered: ClusteredTexts,
    segments: pd.DataFrame,
    vectors: NDArray[np.float32],
    estimates: pd.DataFrame,
    history: Sequence[RoundQuality],
) -> Decision:
    evidence = collect_evidence(clustered.texts, clustered.segments, bank)
    sample = config.sample_after_screen(len(bank))
    if sample.acquisition == "classifier" and sample.strategy == "active":
        scores = classify_sides(clustered.texts, segments, vectors, bank, seed=config.seed)
        evidence = replace(evidence, classifier=scores)
    return close_round(
        bank,
        add_divergence(evidence, estimates),
        history,
        sample,
        silhouette=clustered.silhouette,
        agreement=clustered.label_agreement,
        structure_found=clustered.structure_found,
        min_effect=config.validation.min_effect,
        seed=config.seed,
    )


def test(
    pool: TextPool, config: AuditConfig, hypotheses: Sequence[Hypothesis], clock: Clock
) -> tuple[pd.DataFrame, list[Finding]]:
    """The fresh texts, and the findings on them."""
    plans = plan_validation(hypotheses, pool.prompts, config.validation)
    bank, is_paired = pool.in_split("validation"), pool.is_coupled(config)
    fresh, verdicts = empty_texts(), empty_verdicts()
    for n_looks in range(len(config.validation.looks.at)):
        with clock.stage("validate"):
            block = plan_block(
                stand(
                    hypotheses, plans, verdicts, fresh, config.validation, config.seed,
                    is_paired=is_paired, n_looks=n_looks,
                )
            )  # fmt: skip
        with clock.stage("decode"):
            new = pool.decode(config, "validation", bank, block.counts, block.already, n_looks)
        fresh = _join(fresh, new)
        claims = {hypothesis.id: hypothesis for hypothesis in hypotheses}
        with clock.stage("judge"):
            graded = [
                grade_texts(
                    claims[plan.hypothesis_id], select_texts(fresh, plan),
                    pool.models.cheap, pool.models.expensive, config.judge, seed=config.seed,
                )
                for plan in block.plans
            ]  # fmt: skip
        for part in graded:
            verdicts = _join(verdicts, part)
    with clock.stage("validate"):
        findings = validate_hypotheses(
            hypotheses, verdicts, fresh, config.validation, config.seed,
            is_paired=is_paired, plans=plans,
        )  # fmt: skip
    return fresh, findings


def _previous(clustered: Views | None) -> PreviousViews | None:
    if clustered is None:
        return None
    even, focus = (
        as_previous(view.texts, view.segments, view.clusters, view.centroids)
        for view in (clustered.even, clustered.focus)
    )
    return PreviousViews(even, focus)


def _n_per_side(texts: pd.DataFrame) -> int:
    return int((texts["side"] == "base").sum())


def _join(table: pd.DataFrame, more: pd.DataFrame) -> pd.DataFrame:
    """Both tables, one below the other; an empty one adds nothing, not even its column types."""
    filled = [part for part in (table, more) if len(part)]
    return pd.concat(filled, ignore_index=True) if filled else table
