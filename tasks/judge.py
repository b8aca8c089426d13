"""Judging: every hypothesis on its fresh texts, the cheap judge first."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

import pandas as pd
from prefect import get_run_logger, task

from tasks.caching import CACHED, RETRIED, Manifest, recall, remember, start
from tasks.decode import load_texts
from tasks.hypothesize import load_hypotheses
from tasks.job import Comparison, Job
from tasks.showing import follow
from whatchanged.inquiry import Ask, Inquiry
from whatchanged.keys import content_key
from whatchanged.models.loading import describe_judge, load_judge
from whatchanged.models.prices import load_prices
from whatchanged.models.protocols import Judge
from whatchanged.progress import StageBar
from whatchanged.records import Tier, ValidationPlan
from whatchanged.store.artifacts import ArtifactStore
from whatchanged.summary import Bill
from whatchanged.validate import select_texts
from whatchanged.verdicts import TIERS, ask_texts, count_calls, empty_verdicts, grade_texts
from whatchanged.waves import next_questions

T = TypeVar("T")

HYPOTHESES_PER_TASK = 15


def judge(
    job: Job, comparison: Comparison, hypotheses: Manifest, plan: Manifest, fresh: list[Manifest]
) -> list[Manifest]:
    """Judge the hypotheses on the texts that are planned for them, in the way that the config
    names (`judge.spend`), in batches: one manifest of verdicts per batch."""
    with job.progress.stage("judge", comparison.name) as bar:
        if job.config.judge.way == "cascade":
            return _judge_as_cascade(job, comparison, hypotheses, plan, fresh, bar)
        inquiry = load_inquiry(job, comparison, hypotheses, plan, fresh)
        if job.config.judge.way == "expensive":
            asks = [
                Ask(own.hypothesis_id, "expensive", tuple(texts["text_key"]), is_audit=False)
                for own in inquiry.plans
                for texts in (select_texts(inquiry.texts, own),)
            ]
            return _ask_all(job, comparison, hypotheses, fresh, asks, 0, bar)
        judged: list[Manifest] = []
        step = 0
        while asks := next_questions(inquiry, load_verdicts(job.store, judged)):
            judged += _ask_all(job, comparison, hypotheses, fresh, asks, step, bar)
            step += 1
        return judged


def load_inquiry(
    job: Job, comparison: Comparison, hypotheses: Manifest, plan: Manifest, fresh: list[Manifest]
) -> Inquiry:
    """What is to be judged."""
    return Inquiry(
        load_hypotheses(job, hypotheses),
        load_plans(job.store, plan),
        load_texts(job.store, fresh),
        job.config.judge,
        job.config.validation,
        job.config.seed,
        comparison.is_coupled,
    )


def load_plans(store: ArtifactStore, manifest: Manifest) -> list[ValidationPlan]:
    """The plans that `validate` stored: of all fresh texts, or of a block of them."""
    return [
        ValidationPlan(**{**row, "prompt_keys": tuple(row["prompt_keys"])})
        for row in store.get_json(manifest.key)["plans"]
    ]


def load_verdicts(store: ArtifactStore, judged: list[Manifest]) -> pd.DataFrame:
    """The verdicts of some batches: `verdicts.COLUMNS`."""
    tables = [store.get_table(part.key) for part in judged]
    return pd.concat(tables, ignore_index=True) if tables else empty_verdicts()


def close_bill(job: Job) -> dict[str, Bill]:
    """What each model behind an API came to, over all restarts of this run: those audited under
    their side, judges under their tier, the proposer."""
    prices = load_prices(Path(job.config.budget.prices) if job.config.budget.prices else None)
    bills: dict[str, Bill] = {}
    for block, api in job.config.apis.items():
        name = "proposer" if block == "hypothesize" else block.removeprefix("judge.")
        totals, model = asdict(job.ledger.totals(name)), str(api.model)
        bills[name] = Bill.of(model, totals, has_price=model in prices)
    return bills


def _judge_as_cascade(
    job: Job,
    comparison: Comparison,
    hypotheses: Manifest,
    plan: Manifest,
    fresh: list[Manifest],
    bar: StageBar,
) -> list[Manifest]:
    settings = job.config.judge
    ids = [own.hypothesis_id for own in load_plans(job.store, plan)]
    started = []
    for number, batch in enumerate(_batches(ids)):
        key = content_key(
            "judge/3",
            settings.borderline,
            settings.audit_share,
            *(
                describe_judge(tier, job.config.embed)
                for tier in (settings.cheap, settings.expensive)
            ),
            job.config.seed,
            hypotheses.key,
            plan.key,
            batch,
            [part.key for part in fresh],
        )
        name = f"judge {comparison.name} {number}"
        started.append(
            start(
                job.store, _grade, key, name, is_paid=settings.is_paid,
                batch=batch, hypotheses=hypotheses, plan=plan, fresh=fresh, job=job,
            )
        )  # fmt: skip
    judged = follow(started, f"judge-{comparison.name}", "hypotheses", bar)
    return [job.progress.note("judge", one) for one in judged]


def _ask_all(
    job: Job,
    comparison: Comparison,
    hypotheses: Manifest,
    fresh: list[Manifest],
    asks: Sequence[Ask],
    step: int,
    bar: StageBar,
) -> list[Manifest]:
    """The answers to some questions, in batches of one tier each."""
    claims = {claim.id: claim for claim in load_hypotheses(job, hypotheses)}
    started = []
    for tier in TIERS:
        judge = getattr(job.config.judge, tier)
        for number, batch in enumerate(_batches([ask for ask in asks if ask.tier == tier])):
            key = content_key(
                "ask/2",
                describe_judge(judge, job.config.embed),
                job.config.seed,
                [
                    [ask.hypothesis_id, claims[ask.hypothesis_id].criterion,
                     claims[ask.hypothesis_id].scope, ask.tier, list(ask.text_keys), ask.is_audit]
                    for ask in batch
                ],
            )  # fmt: skip
            name = f"judge {comparison.name} {tier} {step}.{number}"
            started.append(
                start(
                    job.store, _ask, key, name, is_paid=judge.is_api,
                    asks=batch, hypotheses=hypotheses, fresh=fresh, job=job,
                )
            )  # fmt: skip
    judged = follow(started, f"judge-{comparison.name}", "hypotheses", bar)
    return [job.progress.note("judge", one) for one in judged]


def _batches(items: Sequence[T]) -> list[list[T]]:
    return [
        list(items[first : first + HYPOTHESES_PER_TASK])
        for first in range(0, len(items), HYPOTHESES_PER_TASK)
    ]


@task(name="judge", **CACHED, **RETRIED)
def _grade(
    key: str,
    batch: list[str],
    hypotheses: Manifest,
    plan: Manifest,
    fresh: list[Manifest],
    job: Job,
) -> Manifest:
    if known := recall(job.store, key):
        return known
    texts = load_texts(job.store, fresh)
    claims = {claim.id: claim for claim in load_hypotheses(job, hypotheses)}
    plans = [own for own in load_plans(job.store, plan) if own.hypothesis_id in batch]
    cheap, expensive = (_open_judge(job, tier) for tier in TIERS)
    return _keep(
        job,
        key,
        lambda: [
            grade_texts(
                claims[own.hypothesis_id], select_texts(texts, own), cheap, expensive,
                job.config.judge, seed=job.config.seed,
            )
            for own in plans
        ],
    )  # fmt: skip


@task(name="ask judge", **CACHED, **RETRIED)
def _ask(
    key: str, asks: list[Ask], hypotheses: Manifest, fresh: list[Manifest], job: Job
) -> Manifest:
    if known := recall(job.store, key):
        return known
    texts = load_texts(job.store, fresh).set_index("text_key", drop=False)
    claims = {claim.id: claim for claim in load_hypotheses(job, hypotheses)}
    judge = _open_judge(job, asks[0].tier)
    return _keep(
        job,
        key,
        lambda: [
            ask_texts(
                claims[ask.hypothesis_id], texts.loc[list(ask.text_keys)], judge, ask.tier,
                is_audit=ask.is_audit, seed=job.config.seed,
            )
            for ask in asks
        ],
    )  # fmt: skip


def _open_judge(job: Job, tier: Tier) -> Judge:
    return load_judge(getattr(job.config.judge, tier), job.config, job.ledger.charged_to(tier))


def _keep(job: Job, key: str, grade: Callable[[], list[pd.DataFrame]]) -> Manifest:
    """Store what a batch came to. With a failed call among it, it is stored for this run alone: the
    next one asks again, and pays for no answer twice."""
    started = time.perf_counter()
    verdicts = pd.concat(grade(), ignore_index=True)
    seconds = time.perf_counter() - started
    logger = get_run_logger()
    logger.info("%d verdicts in %.1f s", len(verdicts), seconds)
    n_failed = int((verdicts["outcome"] == "failed").sum())
    counts = count_calls(verdicts)
    n = verdicts["hypothesis_id"].nunique()
    if n_failed:
        reasons = verdicts.loc[verdicts["outcome"] == "failed", "reason"].value_counts()
        logger.warning("%d judgements failed, most often: %s", n_failed, reasons.index[0])
        answers = [verdicts["outcome"].tolist(), [repr(score) for score in verdicts["score"]]]
        key = content_key("unfinished/1", key, answers)
    job.store.put_table(key, verdicts)
    manifest = Manifest(key=key, n=n, seconds=seconds, counts=counts)
    return manifest if n_failed else remember(job.store, manifest)
