"""Decoding: fixed chunks of texts, one task each, on the side that the chunk names."""

from __future__ import annotations

import time
from collections.abc import Sequence

import pandas as pd
from prefect import get_run_logger, task

from tasks.caching import CACHED, RETRIED, Count, Manifest, recall, remember, start
from tasks.job import SIDES, Comparison, Job
from tasks.prompts import load_prompts
from tasks.showing import follow
from whatchanged.config import AuditConfig
from whatchanged.decode import (
    empty_texts,
    plan_chunks,
    plan_requests,
    tabulate_texts,
    take_known,
)
from whatchanged.keys import content_key
from whatchanged.model_config import DecodeConfig, ModelConfig
from whatchanged.models.loading import check_decoder, load_decoder
from whatchanged.records import Chunk, Purpose
from whatchanged.store.artifacts import ArtifactStore
from whatchanged.store.faults import point
from whatchanged.store.ledger import Ledger

# Whose account the texts of a stream are on: a null control's second stream is the base again.
PAYER = {"base": "base", "intervention": "intervention", "null": "base"}


def decode(
    job: Job,
    comparison: Comparison,
    prompts: Manifest,
    allocation: Manifest,
    purpose: Purpose,
    round_index: int,
    known: Sequence[Manifest] = (),
) -> list[Manifest]:
    """Decode an allocation on both sides, but for the texts that are in the chunks `known`: one
    manifest per chunk, base first."""
    detail = f"{comparison.name}, {purpose}, round {round_index}"
    with job.progress.stage("decode", detail) as bar:
        settings = job.decode_settings(purpose)
        taken, chunks = _plan(
            job, comparison, prompts, allocation, purpose, round_index, settings, known
        )
        started = [
            start(
                job.store,
                _decode_chunk,
                chunk.key,
                f"decode {comparison.name} {chunk.side} {purpose} {round_index}.{number}",
                on_gpu=job.on_gpu and not _is_elsewhere(job, comparison, chunk),
                is_paid=_is_remote(job, comparison, chunk),
                # Keys, the ledger of paid calls and recorded texts stay with this process.
                workers=None if _is_elsewhere(job, comparison, chunk) else job.workers,
                chunk=chunk,
                model=comparison.models[chunk.side],
                identity=job.identity(comparison.models[chunk.side], settings),
                counted_as=comparison.counted_as[chunk.side],
                settings=settings,
                config=job.config,
                outputs=job.store,
                run=job.ledger.run,
            )
            for number, chunk in enumerate(chunks)
        ]
        stage = f"decode-{comparison.name}-{purpose}"
        done = [job.progress.note("decode", one) for one in follow(started, stage, "texts", bar)]
        return [*taken, *done]


def _is_elsewhere(job: Job, comparison: Comparison, chunk: Chunk) -> bool:
    """Whether no model on this machine decodes a chunk."""
    return comparison.models[chunk.side].is_recorded or _is_remote(job, comparison, chunk)


def _is_remote(job: Job, comparison: Comparison, chunk: Chunk) -> bool:
    return comparison.models[chunk.side].is_remote(job.config.decode)


def load_texts(store: ArtifactStore, decoded: list[Manifest]) -> pd.DataFrame:
    """The texts of some chunks, in plan order."""
    tables = [store.get_table(part.key) for part in decoded]
    return pd.concat(tables, ignore_index=True) if tables else empty_texts()


def _plan(
    job: Job,
    comparison: Comparison,
    prompts: Manifest,
    allocation: Manifest,
    purpose: Purpose,
    round_index: int,
    settings: DecodeConfig,
    known: Sequence[Manifest],
) -> tuple[list[Manifest], list[Chunk]]:
    """The known texts, side by side, and the chunks to decode."""
    plan = job.store.get_json(allocation.key)
    split = "validation" if purpose == "validation" else "discovery"
    bank = [prompt for prompt in load_prompts(job, prompts) if prompt.split == split]
    there = job.available(comparison, bank)
    texts, taken, chunks = load_texts(job.store, list(known)), [], []
    for side in SIDES:
        requests = plan_requests(
            bank,
            plan["counts"],
            plan["already"],
            decoder_identity=job.identity(comparison.models[side], settings),
            seed=job.config.seed,
            stream=comparison.noise[side],
            purpose=purpose,
            available=there,
        )
        found, requests = take_known(requests, texts, side=side, round_index=round_index)
        if len(found):
            key = content_key("known/1", side, purpose, round_index, found["text_key"].tolist())
            job.store.put_table(key, found)
            taken.append(Manifest(key=key, n=len(found), cached=True))
        chunks += plan_chunks(
            requests,
            side=side,
            split=purpose,
            round_index=round_index,
            chunk_texts=job.config.decode.chunk_texts,
        )
    return taken, chunks


@task(name="decode", **CACHED, **RETRIED)
def _decode_chunk(
    key: str,
    chunk: Chunk,
    model: ModelConfig,
    identity: str,
    counted_as: str,
    settings: DecodeConfig,
    config: AuditConfig,
    outputs: ArtifactStore,
    run: str,
) -> Manifest:
    if known := recall(outputs, key):
        return known
    point("decode.before_chunk")
    check_decoder(identity, model, settings, config.prompts.format)
    decoder = load_decoder(
        model, settings, config.prompts.format, config.run.device,
        budget=config.budget, ledger=Ledger(outputs.root, run).charged_to(PAYER[counted_as]),
    )  # fmt: skip
    started = time.perf_counter()
    texts = tabulate_texts(chunk, decoder.decode(chunk.requests))
    seconds = time.perf_counter() - started
    n_failed = int((texts["finish"] == "failed").sum())
    is_unfinished = bool(n_failed) and model.is_remote(settings)
    if is_unfinished:
        # Kept for this run alone: the next one asks again, and pays for no answer twice.
        key = content_key("unfinished/1", key, texts["text"].tolist(), texts["finish"].tolist())
    outputs.put_table(key, texts)
    counts: dict[str, Count] = {
        "counted_as": counted_as,
        "n_screen": len(texts) if chunk.split == "screen" else 0,
        "n_tokens": int(texts["n_tokens"].sum()),
        "n_failed": n_failed,
    }
    logger = get_run_logger()
    logger.info("%d texts in %.1f s", len(texts), seconds)
    if n_failed:
        reasons = texts.loc[texts["finish"] == "failed", "reason"].value_counts()
        logger.warning("%d texts failed, most often: %s", n_failed, reasons.index[0])
    manifest = Manifest(key=key, n=len(texts), seconds=seconds, counts=counts)
    return manifest if is_unfinished else remember(outputs, manifest)
