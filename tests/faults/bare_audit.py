"""An audit without Prefect and without weights, through every store and a paid judge on loopback.

`main(HOME, ENDPOINT)` goes on from whatever an earlier start left in HOME (`cache` and `run`), and
with a third word writes files of up to so many bytes.
Texts and vectors are those of the fakes; what is done with them is what the stages do.
"""

from __future__ import annotations

import resource
import signal
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import openai  # noqa: F401
import pandas as pd
import pyarrow.compute
import pyarrow.parquet  # noqa: F401
import safetensors.numpy  # noqa: F401
import sklearn.cluster  # noqa: F401

from whatchanged.config import AuditConfig, parse_config
from whatchanged.decode import plan_chunks, plan_requests, tabulate_texts
from whatchanged.discovery import map_texts
from whatchanged.divergence import PAIR_COLUMNS, SCORE_COLUMNS, estimate_divergence
from whatchanged.embed import embed_texts, segment_table
from whatchanged.errors import StorageError
from whatchanged.hypothesize import propose_all
from whatchanged.keys import content_key
from whatchanged.models.fakes import FakeDecoder, FakeEmbedder
from whatchanged.models.loading import load_judge
from whatchanged.models.local_proposer import LocalProposer
from whatchanged.prompts import PromptRow, split_prompts
from whatchanged.records import Hypothesis, Prompt, Side, Split
from whatchanged.report import build_report
from whatchanged.scopes import build_contrasts
from whatchanged.store.artifacts import ArtifactStore
from whatchanged.store.embeddings import EmbeddingCache
from whatchanged.store.ledger import Ledger
from whatchanged.store.runs import RunFolder
from whatchanged.summary import assemble_run
from whatchanged.validate import plan_validation, validate_hypotheses
from whatchanged.verdicts import grade_texts
from whatchanged.views import Embedded, cluster_views

SIDES: tuple[Side, Side] = ("base", "intervention")
MAX_IN_FLIGHT = 4
ROWS = [PromptRow(f"What do I do on day {i}?", f"week {i % 2}") for i in range(16)]


@dataclass(frozen=True)
class Clustered:
    """What `summary.assemble_run` reads of a clustering."""

    texts: pd.DataFrame
    segments: pd.DataFrame
    clusters: pd.DataFrame
    map: pd.DataFrame


def config_of(endpoint: str) -> AuditConfig:
    judge = {
        "provider": "openai_compatible", "model": "judge", "endpoint": f"{endpoint}/v1",
        "key_variable": "WHATCHANGED_TEST_KEY", "max_concurrency": MAX_IN_FLIGHT,
    }  # fmt: skip
    return parse_config(
        {
            "base": {"model": "fake:base"},
            "intervention": {"model": "fake:intervention"},
            "cluster": {"n_clusters": 6},
            "judge": {"cheap": judge, "expensive": {"provider": "lexical"}},
            "validate": {"texts_per_hypothesis": 64, "max_texts_per_hypothesis": 64,
                         "n_permutations": 200, "looks": {"at": [1.0], "alpha_spent": [1.0]}},
        },
        "the bare audit",
    )  # fmt: skip


def main(home: str, endpoint: str, n_bytes: str = "") -> int:
    """0, or 1 where the disk refuses; then what is said is printed."""
    if n_bytes:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(n_bytes), int(n_bytes)))
    try:
        audit(home, endpoint)
    except StorageError as error:
        print(error)
        return 1
    return 0


def audit(home: str, endpoint: str) -> None:
    config, root = config_of(endpoint), Path(home) / "cache"
    store, vectors, ledger = ArtifactStore(root), EmbeddingCache(root), Ledger(root, "run")
    run = RunFolder.create(Path(home) / "run")
    run.write_config("seed: 0\n")
    prompts = split_prompts(
        ROWS, [row.group or "" for row in ROWS], validation_share=0.5, seed=config.seed
    )
    found = explore(store, vectors, prompts, config)
    hypotheses = propose(store, found, prompts)
    fresh = decode(store, prompts, "validation", 4)
    verdicts = judge(store, ledger, config, hypotheses, fresh, prompts)
    findings = validate_hypotheses(
        hypotheses, verdicts, fresh, config.validation, config.seed, is_paired=False
    )
    write(run, config, found, fresh, verdicts, [asdict(one) for one in findings], prompts)


def kept(store: ArtifactStore, key: str, work: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    """The table under this key, which is worked out where the store has none."""
    if not store.has(key):
        store.put_table(key, work())
    return store.get_table(key)


def decode(
    store: ArtifactStore, prompts: Sequence[Prompt], split: Split, n_each: int
) -> pd.DataFrame:
    bank = [prompt for prompt in prompts if prompt.split == split]
    tables = []
    for side in SIDES:
        requests = plan_requests(
            bank, {prompt.key: n_each for prompt in bank}, {},
            decoder_identity=f"fake {side}", seed=0, stream=side, purpose=split,
        )  # fmt: skip
        decoder = FakeDecoder(side)
        for chunk in plan_chunks(requests, side=side, split=split, round_index=0, chunk_texts=16):
            write = lambda c=chunk, d=decoder: tabulate_texts(c, d.decode(c.requests))  # noqa: E731
            tables.append(kept(store, chunk.key, write))
    return pd.concat(tables, ignore_index=True)


def explore(
    store: ArtifactStore, vectors: EmbeddingCache, prompts: Sequence[Prompt], config: AuditConfig
) -> Clustered:
    texts = decode(store, prompts, "discovery", 12)
    segments = segment_table(texts)
    rows = embed_texts(segments["segment"].tolist(), FakeEmbedder(), vectors, block=4).vectors
    own = Embedded(texts, segments, rows)
    parts = [field.name for field in fields(Clustered)]
    keys = {part: content_key("clustered", part) for part in parts}
    if not all(store.has(key) for key in keys.values()):
        view = cluster_views(
            own, config.cluster, screened=None, previous=None, round_index=0, seed=config.seed
        ).even
        tables = [view.texts, view.segments, view.clusters, map_texts(*own)]
        for part, table in zip(parts, tables, strict=True):
            store.put_table(keys[part], table)
    return Clustered(*(store.get_table(keys[part]) for part in parts))


def propose(store: ArtifactStore, found: Clustered, prompts: Sequence[Prompt]) -> list[Hypothesis]:
    key = content_key("hypotheses")
    if not store.has(key):
        groups = {prompt.key: prompt.group for prompt in prompts}
        contrasts = build_contrasts(found.texts, found.segments, groups)
        proposed = propose_all(contrasts, LocalProposer(), 3)
        store.put_json(key, [asdict(one) for one in proposed])
    return [
        Hypothesis(**{name: tuple(v) if isinstance(v, list) else v for name, v in row.items()})
        for row in store.get_json(key)
    ]


def judge(
    store: ArtifactStore,
    ledger: Ledger,
    config: AuditConfig,
    hypotheses: Sequence[Hypothesis],
    fresh: pd.DataFrame,
    prompts: Sequence[Prompt],
) -> pd.DataFrame:
    cheap = load_judge(config.judge.cheap, config, ledger.charged_to("cheap"))
    expensive = load_judge(config.judge.expensive, config)
    tables = []
    for hypothesis, plan in zip(
        hypotheses, plan_validation(hypotheses, prompts, config.validation), strict=True
    ):
        texts = fresh[fresh["prompt_key"].isin(plan.prompt_keys)]
        ask = lambda h=hypothesis, t=texts: grade_texts(  # noqa: E731
            h, t, cheap, expensive, config.judge, seed=config.seed
        )
        tables.append(kept(store, content_key("verdicts", hypothesis.id), ask))
    verdicts = pd.concat(tables, ignore_index=True)
    failed = verdicts[verdicts["outcome"] != "answered"]
    assert failed.empty, failed["reason"].unique()
    return verdicts


def write(
    run: RunFolder,
    config: AuditConfig,
    found: Clustered,
    fresh: pd.DataFrame,
    verdicts: pd.DataFrame,
    findings: list[dict[str, Any]],
    prompts: Sequence[Prompt],
) -> None:
    numbers = [name for name in SCORE_COLUMNS if name not in ("text_key", "prompt_key")]
    scores = pd.DataFrame(columns=list(SCORE_COLUMNS)).astype(dict.fromkeys(numbers, float))
    pairs = pd.DataFrame(columns=list(PAIR_COLUMNS))
    content = assemble_run(
        name="run",
        config=config.model_dump(mode="json", by_alias=True),
        summary={"stop_reason": "one round", "seed": config.seed},
        prompts=prompts,
        discovery=found,
        fresh=fresh,
        scores=scores,
        divergence=estimate_divergence(scores, pairs, prompts),
        pairs=pairs,
        verdicts=verdicts,
        findings=findings,
        null_findings=[],
    )
    for name, table in content.tables().items():
        run.write_table(name, table)
    run.write_json("findings", content.findings)
    run.write_json("null_findings", content.null_findings)
    run.write_json("summary", content.summary)
    report = build_report(content, None)
    run.write_bytes("report.md", report.markdown.encode())
    run.write_bytes("report.html", report.html.encode())
    for name, figure in report.figures.items():
        run.write_bytes(f"figures/{name}", figure)
    run.finish({}, {"whatchanged": "test"}, now=datetime.fromtimestamp(0, UTC))
