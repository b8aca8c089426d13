from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import get_args

import numpy as np
import pytest

from whatchanged.config import AcquisitionName, SampleConfig
from whatchanged.errors import UsageError
from whatchanged.records import Prompt
from whatchanged.rounds import Decision, close_round, open_rounds
from whatchanged.sample import Evidence, RoundQuality, no_evidence

BANK = [Prompt(f"p{i}", f"prompt {i}", f"g{i % 3}", "discovery") for i in range(12)]
CONFIG = SampleConfig(seed_texts=48, round_texts=24, max_rounds=3, max_texts=90)


def evidence(n_per_prompt: int) -> Evidence:
    n = np.full(12, n_per_prompt, dtype=np.int64)
    hits = np.zeros((12, 2), dtype=np.int64)
    hits[:6, 0], hits[6:, 1] = n_per_prompt // 2, n_per_prompt // 2
    return Evidence(hits, hits.copy(), n, n.copy(), np.array([0.5, 0.5]))


def opened(config: SampleConfig, screened: Evidence | None = None) -> Decision:
    return open_rounds(BANK, screened or no_evidence(12), config, min_effect=0.01, seed=0)


def close(
    n_per_prompt: int,
    history: list[RoundQuality],
    config: SampleConfig,
    shown: Evidence | None = None,
) -> Decision:
    return close_round(
        BANK,
        shown or evidence(n_per_prompt),
        history,
        config,
        silhouette=0.1,
        agreement=None,
        structure_found=True,
        min_effect=0.01,
        seed=0,
    )


def test_the_seed_round_spreads_its_texts_evenly() -> None:
    decision = opened(CONFIG)
    assert set(decision.counts.values()) == {4}
    assert (decision.already, decision.quality, decision.stop_reason) == ({}, None, "")


def test_uniform_sampling_decodes_everything_in_one_round() -> None:
    uniform = CONFIG.model_copy(update={"strategy": "uniform"})
    assert sum(opened(uniform).counts.values()) == 90
    decision = close(7, [], uniform)
    assert decision.counts == {}
    assert "one round" in decision.stop_reason


def test_a_round_says_what_is_there_and_what_comes_next() -> None:
    decision = close(4, [], CONFIG)
    assert sum(decision.counts.values()) == 24
    assert decision.already == {p.key: 4 for p in BANK}
    assert decision.quality is not None
    assert (decision.quality.round, decision.quality.n_texts_per_side) == (0, 48)
    assert decision.stop_reason == ""


def test_no_round_exceeds_the_budget_of_texts() -> None:
    assert sum(close(7, [], CONFIG).counts.values()) == 90 - 84
    config = CONFIG.model_copy(update={"max_texts": 84})
    stopped = close(7, [], config)
    assert stopped.counts == {}
    assert stopped.stop_reason


def test_the_number_of_rounds_is_limited() -> None:
    history = [RoundQuality(i, 24, None, None, 0.0, True) for i in range(3)]
    assert close(4, history, CONFIG).stop_reason


def test_the_same_round_decides_the_same() -> None:
    assert close(4, [], CONFIG) == close(4, [], CONFIG)


def measured(n_per_prompt: int, differing: list[int], divergence: list[float]) -> Evidence:
    """The first prompts with these differing pairs and divergences, all others with none."""
    others = 12 - len(differing)
    return replace(
        evidence(n_per_prompt),
        divergence=np.array(divergence + [0.0] * others),
        divergence_se=np.full(12, 1e-4),
        n_pairs=np.full(12, n_per_prompt),
        n_differing=np.array(differing + [0] * others),
        classifier=np.array(divergence + [0.0] * others),
    )


@pytest.mark.parametrize("name", get_args(AcquisitionName))
def test_every_acquisition_allocates_a_whole_round(name: AcquisitionName) -> None:
    config = CONFIG.model_copy(update={"acquisition": name})
    decision = close(4, [], config, measured(4, [4, 4], [1.0, 1.0]))
    assert sum(decision.counts.values()) == 24


def test_the_acquisition_comes_from_the_config() -> None:
    config = CONFIG.model_copy(update={"acquisition": "divergence", "exploration_share": 0.0})
    decision = close(4, [], config, measured(4, [4, 4], [4.0, 4.0]))
    # Both differ in every text, as far as anyone knows; the other ten are dropped.
    assert decision.counts == {"p0": 12, "p1": 12}
    with pytest.raises(UsageError, match="divergence screen or coupled decoding"):
        close(4, [], config)


def test_the_seed_round_goes_where_the_screen_found_a_change() -> None:
    screened = replace(
        no_evidence(12), divergence=np.array([9.0, 4.0] + [0.0] * 10), divergence_se=np.zeros(12)
    )
    # 12 of 48 texts explore, one on each prompt; both changes are certain, and get 18 each.
    config = CONFIG.model_copy(update={"exploration_share": 0.25})
    decision = opened(config, screened)
    assert decision.counts == {"p0": 19, "p1": 19} | {f"p{i}": 1 for i in range(2, 12)}
    assert [stage.n_dropped for stage in decision.stages] == [10]
    uniform = config.model_copy(update={"strategy": "uniform"})
    assert set(opened(uniform, screened).counts.values()) == {7, 8}


def test_a_dropped_prompt_still_gets_its_part_of_the_exploration() -> None:
    config = CONFIG.model_copy(update={"acquisition": "divergence", "exploration_share": 0.5})
    decision = close(4, [], config, measured(4, [4, 4], [4.0, 4.0]))
    # Twelve texts explore, one on each prompt; twelve go to the two prompts that were kept.
    assert decision.counts == {"p0": 7, "p1": 7} | {f"p{i}": 1 for i in range(2, 12)}
    prompts, clusters = decision.stages
    assert (prompts.stage, prompts.n_in, prompts.n_dropped) == ("prompts", 12, 10)
    assert (clusters.stage, clusters.n_in) == ("clusters", 2)


def test_a_decision_says_what_was_dropped_when_sampling_stops_too() -> None:
    stopped = close(8, [], CONFIG, measured(8, [8], [4.0]))
    assert stopped.stop_reason
    assert stopped.stages[0].n_dropped == 11
    assert json.loads(json.dumps(asdict(stopped)))["stages"][0]["stage"] == "prompts"
    uniform = CONFIG.model_copy(update={"strategy": "uniform"})
    assert len(close(7, [], uniform).stages) == 2
    assert opened(CONFIG).stages == ()
