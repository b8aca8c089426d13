"""Audits of a model against itself: whatever they confirm is a false alarm."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from benchmarks.sampling_audit import run_audit
from benchmarks.text_pool import Models, TextPool, VectorMemory, load_models
from whatchanged.config import parse_config
from whatchanged.decode import plan_requests
from whatchanged.keys import content_key, seed_from_key
from whatchanged.model_config import DecodeConfig
from whatchanged.prompts import read_prompts, split_prompts
from whatchanged.records import Completion, DecodeRequest, Prompt, Side

N_EACH = 80
CONFIG = parse_config(
    {
        "base": {"model": "demo:base"},
        "intervention": {"model": "demo:base"},
        "decode": {"max_new_tokens": 40, "coupling": "off"},
        "cluster": {"n_clusters": 20, "n_segment_clusters": 60},
        "sample": {"strategy": "uniform", "max_texts": 360},
        "hypothesize": {"max_hypotheses": 20},
        "validate": {"texts_per_hypothesis": 120, "max_texts_per_hypothesis": 240,
                     "n_permutations": 2000},
    },
    "the placebo",
)  # fmt: skip


@dataclass
class DrawnPool(TextPool):
    """Texts of one model, written once, whose sides are drawn by lot: `written` has those of each
    prompt. So the sides do not differ, whatever the model is like."""

    written: dict[str, list[Completion]] = field(default_factory=dict)

    def _complete(
        self, side: Side, settings: DecodeConfig, requests: Sequence[DecodeRequest]
    ) -> None:
        for request in requests:
            texts = self.written[request.prompt_key]
            lot = np.random.default_rng(
                seed_from_key(content_key("lot", self.seed, request.prompt_key))
            ).permutation(len(texts))
            place = 2 * request.index + (side == "intervention")
            self._completions[request.text_key] = texts[lot[place]]


@pytest.fixture(scope="module")
def models() -> Models:
    return load_models(CONFIG)


@pytest.fixture(scope="module")
def prompts() -> list[Prompt]:
    """The prompts of three topics of the demo."""
    rows = read_prompts("demo:prompts.jsonl")
    topics = sorted({row.group or "" for row in rows})[:3]
    rows = [row for row in rows if row.group in topics]
    groups = [row.group or "" for row in rows]
    return list(split_prompts(rows, groups, validation_share=0.5, seed=0))


@pytest.fixture(scope="module")
def written(models: Models, prompts: list[Prompt]) -> dict[str, list[Completion]]:
    """What the base model writes on each prompt, `N_EACH` times."""
    requests = plan_requests(
        prompts, {prompt.key: N_EACH for prompt in prompts}, {},
        decoder_identity="base", seed=0, stream="base", purpose="discovery",
    )  # fmt: skip
    texts = models.decoder("base", CONFIG.decode).decode(requests)
    found: dict[str, list[Completion]] = {}
    for request, text in zip(requests, texts, strict=True):
        found.setdefault(request.prompt_key, []).append(text)
    return found


@pytest.mark.parametrize(
    "n_audits", [8, pytest.param(100, marks=[pytest.mark.long, pytest.mark.timeout(1800)])]
)
def test_few_audits_of_a_model_against_itself_confirm_anything(
    models: Models,
    prompts: list[Prompt],
    written: dict[str, list[Completion]],
    n_audits: int,
    record_property: Callable[[str, object], None],
) -> None:
    vectors = VectorMemory()
    outcomes = [
        run_audit(
            DrawnPool(models, prompts, seed, vectors, written=written),
            CONFIG.model_copy(update={"seed": seed}), [],
        )
        for seed in range(n_audits)
    ]  # fmt: skip
    n_alarms = sum(outcome.n_confirmed > 0 for outcome in outcomes)
    n_tested = sum(outcome.n_hypotheses for outcome in outcomes)
    print(f"{n_alarms} of {n_audits} audits, {n_tested} hypotheses", outcomes[0])
    record_property("placebo_audits", n_audits)
    record_property("placebo_alarms", n_alarms)
    assert n_tested > 3 * n_audits
    # At the level of 5 %, more than this happens less than once in 200 times.
    assert n_alarms <= 0.05 * n_audits + 2.6 * np.sqrt(0.05 * 0.95 * n_audits)
