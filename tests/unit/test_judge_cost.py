"""What the default waves cost and lose against the expensive judge on every text, in simulation.

A tenth of what `python -m benchmarks.judge_cost` simulates, so that a change that costs power,
money or truth shows in every run of the tests.
"""

from __future__ import annotations

import pytest

from benchmarks.judge_audit import Settings
from benchmarks.judge_cost import MIXED, NULL, measure

N_AUDITS, SEED = 100, 7


@pytest.fixture(scope="module")
def mixed() -> dict[str, float]:
    return measure("mixed", MIXED, Settings(), N_AUDITS, SEED)


def test_waves_cost_at_most_a_tenth_of_the_expensive_judge(mixed: dict[str, float]) -> None:
    assert mixed["n_hypotheses"] >= 2000
    assert mixed["cost"] <= 0.1


def test_waves_lose_at_most_three_points_of_power(mixed: dict[str, float]) -> None:
    assert mixed["power"] >= mixed["power_reference"] - 0.03


def test_waves_and_the_expensive_judge_conclude_alike(mixed: dict[str, float]) -> None:
    assert mixed["agreement"] >= 0.95


def test_effect_intervals_cover_at_their_nominal_rate(mixed: dict[str, float]) -> None:
    assert mixed["coverage"] >= 0.95


def test_false_discoveries_stay_below_their_nominal_share(mixed: dict[str, float]) -> None:
    assert mixed["fdr"] <= 0.05
    assert mixed["fdr_reference"] <= 0.05


def test_hardly_anything_is_confirmed_where_nothing_changed() -> None:
    nothing = measure("nothing changed", NULL, Settings(), N_AUDITS, SEED)
    assert nothing["fdr"] <= 0.05
    assert nothing["fdr_reference"] <= 0.05
