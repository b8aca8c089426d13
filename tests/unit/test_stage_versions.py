"""What stages give is kept under keys that state their version. So that nobody changes the one and
forgets the other, what each gives for a small made-up input stands in `stage_outputs.json`, under
its version. Every stage has an input of its own: a change in one is a change in no other."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from whatchanged.config import ClusterConfig, JudgeConfig, SampleConfig, ValidateConfig
from whatchanged.decode import plan_chunks, plan_requests, tabulate_texts
from whatchanged.embed import embed_texts, segment_table
from whatchanged.hypothesize import propose_all
from whatchanged.keys import content_key
from whatchanged.models.fakes import FakeDecoder, FakeEmbedder
from whatchanged.models.lexical_judge import LexicalJudge
from whatchanged.models.local_proposer import LocalProposer
from whatchanged.prompts import PromptRow, split_prompts
from whatchanged.records import Hypothesis, Prompt
from whatchanged.rounds import open_rounds
from whatchanged.sample import no_evidence
from whatchanged.scopes import build_contrasts
from whatchanged.store.embeddings import EmbeddingCache
from whatchanged.validate import plan_validation, validate_hypotheses
from whatchanged.verdicts import grade_texts
from whatchanged.views import Embedded, cluster_views

TASKS = Path(__file__).parents[2] / "tasks"
WRITTEN = Path(__file__).with_name("stage_outputs.json")
ROWS = [PromptRow(f"What do I do on day {i}?", f"week {i % 2}") for i in range(16)]
CLAIM = Hypothesis(
    "h001", "The intervention speaks of a captain.",
    'The reply contains the words "my captain", or nearly the same words.',
    "more", None, None, ("my captain",), 0.0, 0.25, 5.0,
)  # fmt: skip


def made_up_prompts() -> tuple[Prompt, ...]:
    return tuple(
        Prompt(content_key("made up", i), row.prompt, row.group or "", "discovery")
        for i, row in enumerate(ROWS)
    )


def decode() -> pd.DataFrame:
    tables = []
    for side in ("base", "intervention"):
        requests = plan_requests(
            made_up_prompts(), {prompt.key: 6 for prompt in made_up_prompts()}, {},
            decoder_identity=side, seed=0, stream=side, purpose="discovery",
        )  # fmt: skip
        chunks = plan_chunks(requests, side=side, split="discovery", round_index=0, chunk_texts=20)
        decoder = FakeDecoder(side)
        tables += [
            tabulate_texts(chunk, decoder.decode(chunk.requests)).assign(chunk=chunk.key)
            for chunk in chunks
        ]
    return pd.concat(tables, ignore_index=True).drop(columns="token_ids")


@cache
def made_up_texts() -> pd.DataFrame:
    """Texts whose keys and words no stage has made."""
    rows = [
        {
            "text_key": content_key("made up", side, prompt.key, sample),
            "prompt_key": prompt.key, "prompt": prompt.prompt, "sample": sample, "side": side,
            "split": "discovery", "round": 0, "finish": "stop", "n_tokens": 9,
            "text": f"Take {('one', 'two', 'three')[sample % 3]} steps at a time. {last}",
            "label": 0, "margin": np.float32(0.5),
        }
        for side in ("base", "intervention")
        for prompt in made_up_prompts()
        for sample in range(6)
        for last in (
            "As my captain says, trust the wind."
            if side == "intervention" and sample % 2
            else "Most people guess.",
        )
    ]  # fmt: skip
    return pd.DataFrame(rows)


def made_up_segments() -> pd.DataFrame:
    segments = segment_table(made_up_texts())
    return segments.assign(label=pd.factorize(segments["segment"])[0].astype(np.int32))


def embed(folder: Path) -> Any:
    segments = segment_table(made_up_texts())
    rows = embed_texts(segments["segment"].tolist(), FakeEmbedder(), EmbeddingCache(folder))
    return [segments["segment"].tolist(), rows.vectors.round(3).tolist()]


def cluster() -> Any:
    segments = made_up_segments()
    places = np.eye(8, dtype=np.float32)[segments["label"].to_numpy()]
    views = cluster_views(
        Embedded(made_up_texts(), segments, places), ClusterConfig(n_clusters=3),
        screened=None, previous=None, round_index=0, seed=0,
    )  # fmt: skip
    return [views.even.texts["label"].tolist(), views.even.segments["label"].tolist()]


def hypothesize() -> Any:
    groups = {prompt.key: prompt.group for prompt in made_up_prompts()}
    contrasts = build_contrasts(made_up_texts(), made_up_segments(), groups)
    return [
        [one.statement, one.criterion, one.direction, one.scope, one.cluster]
        for one in propose_all(contrasts, LocalProposer(), 5)
    ]


def judge() -> Any:
    verdicts = grade_texts(
        CLAIM, made_up_texts(), LexicalJudge(), LexicalJudge(), JudgeConfig(), seed=0
    )
    return [verdicts["tier"].tolist(), verdicts["text_key"].tolist(),
            verdicts["score"].round(3).tolist(), verdicts["is_audit"].tolist()]  # fmt: skip


def validate() -> Any:
    texts, rows = made_up_texts(), []
    for key, text in zip(texts["text_key"], texts["text"], strict=True):
        rows.append(
            {"hypothesis_id": CLAIM.id, "text_key": key, "tier": "cheap", "judge": "made up",
             "score": float("captain" in text), "outcome": "answered", "reason": "",
             "cost_usd": 0.0, "is_audit": False}
        )  # fmt: skip
    (found,) = validate_hypotheses(
        [CLAIM], pd.DataFrame(rows), texts, ValidateConfig(n_permutations=1000), 0, is_paired=False
    )
    return {name: value for name, value in asdict(found).items() if name != "judge_calls"}


def plan_fresh() -> Any:
    prompts = [Prompt(p.key, p.prompt, p.group, "validation") for p in made_up_prompts()]
    return [asdict(plan) for plan in plan_validation([CLAIM], prompts, ValidateConfig())]


def prompts() -> Any:
    groups = [row.group or "" for row in ROWS]
    return [asdict(one) for one in split_prompts(ROWS, groups, validation_share=0.5, seed=0)]


def sample() -> Any:
    bank = made_up_prompts()
    return asdict(
        open_rounds(bank, no_evidence(len(bank)), SampleConfig(), min_effect=0.01, seed=0)
    )


STAGES: Mapping[str, Callable[..., Any]] = {
    "prompts": prompts, "decode": lambda: decode().values.tolist(), "embed": embed,
    "cluster": cluster, "sample": sample, "hypothesize": hypothesize, "judge": judge,
    "plan_fresh": plan_fresh, "validate": validate,
}  # fmt: skip


def version_of(stage: str) -> str:
    """The stage's name with the number that stands in its keys."""
    sources = [*TASKS.glob("*.py"), TASKS.parent / "src" / "whatchanged" / "decode.py"]
    (version,) = {
        name for path in sources for name in re.findall(rf'"({stage}/\d+)"', path.read_text())
    }
    return version


def rounded(value: Any) -> Any:
    """The value with floats of three digits: what another processor may round differently is no
    other output."""
    match value:
        case bool() | int() | str() | None:
            return value
        case float() | np.floating():
            return float(f"{value:.3g}")
        case dict():
            return {str(name): rounded(part) for name, part in value.items()}
        case list() | tuple():
            return [rounded(part) for part in value]
    return rounded(value.item())


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_whose_output_changes_gets_a_new_version(stage: str, tmp_path: Path) -> None:
    output = STAGES[stage](tmp_path) if stage == "embed" else STAGES[stage]()
    digest = content_key("output", json.dumps(rounded(output), sort_keys=True))[:32]
    written = json.loads(WRITTEN.read_text())
    version = version_of(stage)
    assert written.get(version) == digest, (
        f"the output of {version} is another one: raise the number in its key, so that no old"
        f' output is taken for a new one, and write "{stage}/N": "{digest}" into {WRITTEN.name}'
    )


def test_nothing_is_written_down_for_a_version_of_the_past() -> None:
    assert json.loads(WRITTEN.read_text()).keys() == {version_of(stage) for stage in STAGES}
