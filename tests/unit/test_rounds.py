from __future__ import annotations

import numpy as np

from whatchanged.config import SampleConfig
from whatchanged.records import Prompt
from whatchanged.rounds import Decision, close_round, open_rounds
from whatchanged.sample import Evidence, RoundQuality

BANK = [Prompt(f"p{i}", f"prompt {i}", f"g{i % 3}", "discovery") for i in range(12)]
CONFIG = SampleConfig(seed_texts=48, round_texts=24, max_rounds=3, max_texts=90)


def evidence(n_per_prompt: int) -> Evidence:
    n = np.full(12, n_per_prompt, dtype=np.int64)
    hits = np.zeros((12, 2), dtype=np.int64)
    hits[:6, 0], hits[6:, 1] = n_per_prompt // 2, n_per_prompt // 2
    return Evidence(hits, hits.copy(), n, n.copy(), np.array([0.5, 0.5]))


def close(n_per_prompt: int, history: list[RoundQuality], config: SampleConfig) -> Decision:
    return close_round(
        BANK,
        evidence(n_per_prompt),
        history,
        config,
        silhouette=0.1,
        agreement=None,
        min_effect=0.01,
        seed=0,
    )


def test_the_seed_round_spreads_its_texts_evenly() -> None:
    decision = open_rounds(BANK, CONFIG, seed=0)
    assert set(decision.counts.values()) == {4}
    assert (decision.already, decision.quality, decision.stop_reason) == ({}, None, "")


def test_uniform_sampling_decodes_everything_in_one_round() -> None:
    uniform = CONFIG.model_copy(update={"strategy": "uniform"})
    assert sum(open_rounds(BANK, uniform, seed=0).counts.values()) == 90
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
    history = [RoundQuality(i, 24, None, None, 0.0) for i in range(3)]
    assert close(4, history, CONFIG).stop_reason


def test_the_same_round_decides_the_same() -> None:
    assert close(4, [], CONFIG) == close(4, [], CONFIG)
