"""An audit without Prefect, over texts that are decoded once and remembered.

`run_audit` calls the functions of the stages in the order of `flows/audit.py`, less the null
control. Audits that differ only in how they sample ask for many of the same texts (a text is named
by its model, its settings and its noise), so a grid of them costs little more than its largest one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from whatchanged.config import AuditConfig, DecodeConfig, ModelConfig
from whatchanged.decode import empty_texts, plan_requests, tabulate_texts
from whatchanged.discovery import (
    ClusteredTexts,
    PreviousRound,
    classify_sides,
    cluster_texts,
    collect_evidence,
    labels_by_key,
)
from whatchanged.divergence import (
    PAIR_COLUMNS,
    SCORE_COLUMNS,
    add_divergence,
    estimate_divergence,
    match_pairs,
    score_requests,
    tabulate_scores,
)
from whatchanged.embed import embed_texts, segment_table
from whatchanged.hypothesize import build_contrasts, propose_all
from whatchanged.models.protocols import Decoder, Embedder, Judge, Proposer, Scorer
from whatchanged.prompts import groups_in_both_splits
from whatchanged.records import (
    Chunk,
    Completion,
    DecodeRequest,
    Finding,
    Hypothesis,
    Prompt,
    Purpose,
    Side,
    TextScore,
)
from whatchanged.rounds import Decision, close_round, open_rounds
from whatchanged.sample import RoundQuality, no_evidence
from whatchanged.truth import Behaviour, match_behaviours, unmatched_confirmed
from whatchanged.validate import (
    plan_validation,
    pool_counts,
    select_texts,
    validate_hypotheses,
)
from whatchanged.verdicts import empty_verdicts, grade_texts

SIDES: tuple[Side, Side] = ("base", "intervention")
CountMap = Mapping[str, int]
_NUMBERS = SCORE_COLUMNS[4:-1]


@dataclass(frozen=True)
class Models:
    """What an audit of one pair works with. `name` is what stands in a text's key for the decoder
    of a side; `decoder`, `scorer` and `why_independent` are called when they are needed."""

    name: Callable[[Side, DecodeConfig], str]
    decoder: Callable[[Side, DecodeConfig], Decoder]
    scorer: Callable[[DecodeConfig], Scorer]
    why_independent: Callable[[DecodeConfig], str]
    embedder: Embedder
    proposer: Proposer
    cheap: Judge
    expensive: Judge


def load_models(config: AuditConfig) -> Models:
    """The models that a config names, as the stages load them."""
    from whatchanged.models import coupling, loading

    sides: dict[Side, ModelConfig] = {"base": config.base, "intervention": config.intervention}
    form, device = config.prompts.format, config.run.device
    return Models(
        name=lambda side, decode: loading.describe_decoder(sides[side], decode, form),
        decoder=lambda side, decode: loading.load_decoder(sides[side], decode, form, device),
        scorer=lambda decode: loading.load_scorer(
            config.base, config.intervention, decode, form, device
        ),
        why_independent=lambda decode: coupling.why_independent(
            config.base, config.intervention, decode, form
        ),
        embedder=loading.load_embedder(config.embed, device),
        proposer=loading.load_proposer(config.hypothesize),
        cheap=loading.load_judge(config.judge.cheap, config),
        expensive=loading.load_judge(config.judge.expensive, config),
    )


class VectorMemory:
    """An `embed.VectorCache` that lives as long as the process."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, bytes], NDArray[np.float32]] = {}

    def get_many(
        self, namespace: str, keys: Sequence[bytes], d_embed: int
    ) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        """Which keys are known `(n,)`, and rows `(n, d_embed)`, zero where not."""
        known, rows = np.zeros(len(keys), np.bool_), np.zeros((len(keys), d_embed), np.float32)
        for place, key in enumerate(keys):
            row = self._rows.get((namespace, key))
            if row is not None:
                known[place], rows[place] = True, row
        return known, rows

    def put_many(self, namespace: str, keys: Sequence[bytes], rows: NDArray[np.float32]) -> None:
        """Remember `rows` under `keys`."""
        # Copies: a row that is a view would keep its whole block alive.
        self._rows.update(
            {(namespace, key): row.copy() for key, row in zip(keys, rows, strict=True)}
        )


@dataclass
class TextPool:
    """The texts of one pair and seed: each is decoded once, scored once, and its segments embedded
    once, whichever audit asks first. `n_decoded` counts what the models really wrote.

    Give pools of one pair the same `vectors`: segments come again under other seeds.
    """

    models: Models
    prompts: Sequence[Prompt]
    seed: int
    vectors: VectorMemory = field(default_factory=VectorMemory)
    n_decoded: int = 0
    _completions: dict[str, Completion] = field(default_factory=dict, repr=False)
    _scores: dict[str, TextScore] = field(default_factory=dict, repr=False)

    def in_split(self, split: Literal["discovery", "validation"]) -> list[Prompt]:
        """The prompts of a split, in the order of the bank."""
        return [prompt for prompt in self.prompts if prompt.split == split]

    def is_coupled(self, config: AuditConfig) -> bool:
        """Whether both sides of an audit decode with the same noise."""
        return not self.models.why_independent(config.decode)

    def decode(
        self,
        config: AuditConfig,
        purpose: Purpose,
        prompts: Sequence[Prompt],
        counts: CountMap,
        already: CountMap | None = None,
        round_index: int = 0,
    ) -> pd.DataFrame:
        """The texts table of an allocation, base first; `already` numbers the samples on."""
        settings = decode_settings(config, purpose)
        tables = []
        for side in SIDES:
            requests = plan_requests(
                prompts,
                counts,
                already or {},
                decoder_identity=self.models.name(side, settings),
                seed=self.seed,
                stream="base" if self.is_coupled(config) else side,
                purpose=purpose,
            )
            self._complete(side, settings, requests)
            chunk = Chunk("", side, purpose, round_index, tuple(requests))
            tables.append(tabulate_texts(chunk, [self._completions[r.text_key] for r in requests]))
        filled = [table for table in tables if len(table)]
        return pd.concat(filled, ignore_index=True) if filled else empty_texts()

    def score(self, config: AuditConfig, texts: pd.DataFrame) -> pd.DataFrame:
        """`divergence.SCORE_COLUMNS` of the texts that did not fail."""
        decoded = texts[texts["finish"] != "failed"]
        if decoded.empty:
            # Columns of numbers even so: their means are taken.
            return pd.DataFrame(columns=list(SCORE_COLUMNS)).astype(dict.fromkeys(_NUMBERS, float))
        missing = decoded[~decoded["text_key"].isin(list(self._scores))]
        if len(missing):
            found = self.models.scorer(config.decode).score(score_requests(missing))
            self._scores.update(zip(missing["text_key"], found, strict=True))
        return tabulate_scores(decoded, [self._scores[key] for key in decoded["text_key"]])

    def embed(self, texts: pd.DataFrame) -> tuple[pd.DataFrame, NDArray[np.float32]]:
        """The segments of some texts and their vectors `(n_segments, d_embed)`."""
        segments = segment_table(texts)
        found = embed_texts(segments["segment"].tolist(), self.models.embedder, self.vectors)
        return segments, found.vectors

    def _complete(
        self, side: Side, settings: DecodeConfig, requests: Sequence[DecodeRequest]
    ) -> None:
        missing = [request for request in requests if request.text_key not in self._completions]
        if missing:
            written = self.models.decoder(side, settings).decode(missing)
            self.n_decoded += len(missing)
            self._completions.update(
                (request.text_key, text) for request, text in zip(missing, written, strict=True)
            )


def decode_settings(config: AuditConfig, purpose: Purpose) -> DecodeConfig:
    """How texts are decoded: shorter for the screen. Coupling stands in the noise's key alone."""
    settings = config.decode
    if purpose == "screen":
        shorter = min(config.divergence.max_new_tokens, settings.max_new_tokens)
        settings = settings.model_copy(update={"max_new_tokens": shorter})
    return settings.model_copy(update={"coupling": "auto"})


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
    clustered: ClusteredTexts
    pairs: pd.DataFrame
    n_rounds: int
    stop_reason: str


def run_audit(pool: TextPool, config: AuditConfig, truth: Sequence[Behaviour]) -> Outcome:
    """One audit of the pool's pair, and which of the behaviours of `truth` it found."""
    clock = Clock()
    screened, scores = screen(pool, config, clock)
    explored = explore(pool, config, scores, clock)
    with clock.stage("hypothesize"):
        contrasts = build_contrasts(
            explored.clustered.texts,
            explored.clustered.segments,
            groups_in_both_splits(pool.prompts),
            is_paired=pool.is_coupled(config),
        )
        hypotheses = propose_all(contrasts, pool.models.proposer, config.hypothesize.max_hypotheses)
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
        silhouette=explored.clustered.silhouette,
        seconds=dict(clock),
        centroids=explored.clustered.centroids["segment"],
    )


def screen(
    pool: TextPool, config: AuditConfig, clock: Clock | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The screen's texts and their scores; both empty where the config goes without."""
    clock = Clock() if clock is None else clock
    uses_screen = config.sample.strategy == "active" and config.divergence.method == "auto"
    each = config.divergence.texts_per_prompt if uses_screen else 0
    bank = pool.in_split("discovery")
    with clock.stage("decode"):
        texts = pool.decode(config, "screen", bank, {p.key: each for p in bank if each})
    with clock.stage("divergence"):
        return texts, pool.score(config, texts)


def explore(pool: TextPool, config: AuditConfig, screened: pd.DataFrame, clock: Clock) -> Explored:
    """Rounds of decoding and clustering until they stop."""
    bank, is_coupled = pool.in_split("discovery"), pool.is_coupled(config)
    # Uniform sampling decides nothing by a score.
    is_scored = config.sample.strategy == "active" and config.divergence.method == "auto"
    no_pairs = pd.DataFrame(columns=list(PAIR_COLUMNS))
    texts, pairs, scores = empty_texts(), no_pairs, screened
    segments, vectors = pool.embed(texts)
    clustered: ClusteredTexts | None = None
    history: list[RoundQuality] = []
    min_effect = config.validation.min_effect
    estimates = estimate_divergence(scores, pairs, bank)
    decision = open_rounds(
        bank, add_divergence(no_evidence(len(bank)), estimates), config.sample,
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
            clustered = cluster_texts(
                texts, segments, vectors, config.cluster, previous=_previous(clustered),
                round_index=n_rounds, seed=config.seed,
            )  # fmt: skip
        with clock.stage("sample"):
            decision = _decide(config, bank, clustered, segments, vectors, estimates, history)
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
    if config.sample.acquisition == "classifier" and config.sample.strategy == "active":
        scores = classify_sides(clustered.texts, segments, vectors, bank, seed=config.seed)
        evidence = replace(evidence, classifier=scores)
    return close_round(
        bank,
        add_divergence(evidence, estimates),
        history,
        config.sample,
        silhouette=clustered.silhouette,
        agreement=clustered.label_agreement,
        min_effect=config.validation.min_effect,
        seed=config.seed,
    )


def test(
    pool: TextPool, config: AuditConfig, hypotheses: Sequence[Hypothesis], clock: Clock
) -> tuple[pd.DataFrame, list[Finding]]:
    """The fresh texts, and the findings on them."""
    plans = plan_validation(hypotheses, pool.prompts, config.validation)
    with clock.stage("decode"):
        fresh = pool.decode(config, "validation", pool.in_split("validation"), pool_counts(plans))
    with clock.stage("judge"):
        verdicts = [
            grade_texts(
                hypothesis, select_texts(fresh, plan), pool.models.cheap, pool.models.expensive,
                config.judge, seed=config.seed,
            )
            for hypothesis, plan in zip(hypotheses, plans, strict=True)
        ]  # fmt: skip
    with clock.stage("validate"):
        findings = validate_hypotheses(
            hypotheses,
            pd.concat(verdicts, ignore_index=True) if verdicts else empty_verdicts(),
            fresh,
            config.validation,
            config.seed,
            is_paired=pool.is_coupled(config),
        )
    return fresh, findings


def _previous(clustered: ClusteredTexts | None) -> PreviousRound | None:
    if clustered is None:
        return None
    labels = labels_by_key(clustered.texts, clustered.segments)
    return PreviousRound(labels, clustered.centroids, clustered.clusters)


def _n_per_side(texts: pd.DataFrame) -> int:
    return int((texts["side"] == "base").sum())


def _join(table: pd.DataFrame, more: pd.DataFrame) -> pd.DataFrame:
    """Both tables, one below the other; an empty one adds nothing, not even its column types."""
    filled = [part for part in (table, more) if len(part)]
    return pd.concat(filled, ignore_index=True) if filled else table
