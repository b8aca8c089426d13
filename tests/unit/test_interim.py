from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from whatchanged.config import LooksConfig, ValidateConfig
from whatchanged.interim import Block, Standing, look_ends, plan_block, replay, sum_counts
from whatchanged.records import Direction, Hypothesis, ValidationPlan

LOOKS = ValidateConfig(n_permutations=2000)
FIXED = LOOKS.model_copy(update={"looks": LooksConfig(at=(1.0,), alpha_spent=(1.0,))})
N_PROMPTS = 4


def claim(name: str, direction: Direction = "more") -> Hypothesis:
    return Hypothesis(name, "s", name, direction, None, None, ("x",), 0.0, 0.5, 5.0)


def plan(name: str, n_per_prompt: int = 30) -> ValidationPlan:
    return ValidationPlan(name, tuple(f"p{i}" for i in range(N_PROMPTS)), n_per_prompt)


def scores_of(name: str, base: np.ndarray, intervention: np.ndarray) -> pd.DataFrame:
    """Which texts meet the criterion, `(n_samples, n_prompts)` per side."""
    sides = {"base": base, "intervention": intervention}
    rows = [
        (name, f"{name}-{side[0]}{sample:03d}{prompt}", f"p{prompt}", sample, side, float(hit))
        for side, hits in sides.items()
        for (sample, prompt), hit in np.ndenumerate(hits)
    ]
    names = ["hypothesis_id", "text_key", "prompt_key", "sample", "side", "score"]
    return pd.DataFrame(rows, columns=names)


def constant(name: str, first: int, hit_base: bool, hit_intervention: bool) -> pd.DataFrame:
    """30 samples of 4 prompts; from sample `first` on the sides meet the criterion as told."""
    base, intervention = np.zeros((2, 30, N_PROMPTS), dtype=bool)
    base[first:], intervention[first:] = hit_base, hit_intervention
    return scores_of(name, base, intervention)


def stand(tables: list[pd.DataFrame], n_looks: int = 3, is_paired: bool = True) -> list[Standing]:
    names = [table["hypothesis_id"].iloc[0] for table in tables]
    return replay(
        [claim(name) for name in names], [plan(name) for name in names], pd.concat(tables), LOOKS,
        0, is_paired=is_paired, n_looks=n_looks,
    )  # fmt: skip


def test_looks_are_at_shares_of_the_samples_rounded_up() -> None:
    assert look_ends(30, LOOKS.looks) == ((8, 0.1), (15, 0.3), (30, 1.0))
    # A quarter and a half of two are both one sample: one look, which may spend what two may.
    assert look_ends(2, LOOKS.looks) == ((1, 0.3), (2, 1.0))
    assert look_ends(1, LOOKS.looks) == ((1, 1.0),)
    assert look_ends(0, LOOKS.looks) == ()


@pytest.mark.parametrize("is_paired", [True, False])
def test_what_is_certain_stops_at_the_first_look(is_paired: bool) -> None:
    strong, nothing = constant("strong", 0, False, True), constant("same", 0, True, True)
    first, second = stand([strong, nothing], is_paired=is_paired)
    assert (first.is_confirmed, second.is_confirmed) == (True, False)
    # 8 of 30 samples of 4 prompts and 2 sides.
    assert [len(s.scored.keys) for s in (first, second)] == [64, 64]
    assert [s.next for s in (first, second)] == [None, None]


def test_an_effect_that_comes_late_is_looked_at_to_the_end() -> None:
    # Two gains at first, so that there is hope; six more from the second half.
    late = np.zeros((30, N_PROMPTS), dtype=bool)
    late[:2, 0] = late[16:22, 0] = True
    table = scores_of("late", np.zeros_like(late), late)
    assert [len(s.scored.keys) for k in (0, 1, 2, 3) for s in stand([table], k)] == [
        0, 64, 120, 240,
    ]  # fmt: skip
    (standing,) = stand([table])
    assert (standing.is_confirmed, standing.next) == (True, None)


def test_a_later_block_never_takes_a_decision_back() -> None:
    # Sample 8 to 29 speak against it, and are never looked at.
    turned = constant("turned", 8, True, False)
    turned.loc[(turned["side"] == "intervention") & (turned["sample"] < 8), "score"] = 1.0
    after_one, after_all = stand([turned], 1), stand([turned], 3)
    assert after_one[0].is_confirmed
    assert (after_one[0].p_value, after_all[0].p_value) == (after_one[0].p_value,) * 2


def test_a_block_holds_the_open_hypotheses_and_the_texts_that_are_not_there() -> None:
    scored = stand([constant("x", 0, True, True)], 0)[0].scored
    own = plan("own")
    standings = [
        Standing(
            scored, replace(own, n_per_prompt=8), replace(own, n_per_prompt=15), 1, 0.95, False
        ),
        Standing(scored, ValidationPlan("done", ("p0",), 20), None, 1.0, 0.95, True),
    ]
    block = plan_block(standings)
    assert block.plans == [replace(own, n_per_prompt=15, first=8)]
    assert block.already == {"p0": 20, "p1": 8, "p2": 8, "p3": 8}
    assert block.counts == {"p1": 7, "p2": 7, "p3": 7}
    assert plan_block(standings[1:]) == Block({}, {"p0": 20}, [])
    assert sum_counts([{"p": 1, "q": 2}, {"q": 3}]) == {"p": 1, "q": 5}


def audits(n_audits: int, is_paired: bool, config: ValidateConfig) -> pd.DataFrame:
    """Audits of 20 hypotheses: the first five differ, two plainly, the others not or by less than
    what is of interest. Of a pair, the texts are equal but where one gains or loses."""
    rows = []
    for seed in range(n_audits):
        rng = np.random.default_rng([seed, is_paired])
        effects = [0.4, 0.2, 0.12, 0.1, 0.08, *[0.01] * 5, *[0.0] * 10]
        tables = []
        for i, effect in enumerate(effects):
            noise = rng.random((2, 30, N_PROMPTS))
            shared = noise[:1].repeat(2, axis=0) if is_paired else noise
            base, other = shared < 0.05
            changed = rng.random(other.shape)
            tables.append(scores_of(f"h{i}", base, other | (changed < effect / 0.95)))
        names = [f"h{i}" for i in range(len(effects))]
        standings = replay(
            [claim(name) for name in names], [plan(name) for name in names], pd.concat(tables),
            config, seed, is_paired=is_paired, n_looks=len(config.looks.at),
        )  # fmt: skip
        for effect, standing in zip(effects, standings, strict=True):
            rows.append((seed, effect, standing.is_confirmed, len(standing.scored.keys)))
    return pd.DataFrame(rows, columns=["audit", "effect", "is_confirmed", "n_texts"])


@pytest.mark.parametrize("is_paired", [True, pytest.param(False, marks=pytest.mark.long)])
def test_looks_keep_false_discoveries_and_nearly_all_power_with_fewer_texts(
    is_paired: bool,
) -> None:
    looked, fixed = (audits(60, is_paired, config) for config in (LOOKS, FIXED))
    confirmed = looked[looked["is_confirmed"]]
    n_found = confirmed.groupby("audit")["effect"].agg(lambda effects: (effects <= 0.01).mean())
    assert n_found.reindex(range(60), fill_value=0).mean() <= LOOKS.alpha
    power = [table[table["effect"] > 0.01]["is_confirmed"].mean() for table in (looked, fixed)]
    assert power[0] >= power[1] - 0.03
    assert looked["n_texts"].mean() < 0.7 * fixed["n_texts"].mean()
