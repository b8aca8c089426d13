"""Why nothing that was sampled adaptively is used for a p-value or for an unweighted share.

A simulated bank of prompts is audited many times where no prompt's replies have changed. What is
simulated are counts; who is sampled next, what is tested on what, and how, is the library's.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from whatchanged import stats
from whatchanged.config import ValidateConfig
from whatchanged.contrasts import log_odds_z
from whatchanged.differences import cluster_uncertainty
from whatchanged.records import Finding, Hypothesis, Prompt
from whatchanged.sample import Evidence, allocate, prompt_scores, seed_allocation
from whatchanged.validate import ValidationPlan, plan_validation, validate_hypotheses
from whatchanged.weighting import reweighted_difference, reweighted_share

Counts = NDArray[np.int64]
Rates = NDArray[np.float64]

N_PROMPTS, N_GROUPS, N_CLUSTERS = 60, 6, 240
GROUPS = np.arange(N_PROMPTS) // 10
# Replies in the first two groups vary, in the other four they are nearly always the same: active
# sampling goes where clusters are undecided, so the lively groups get three times the texts.
LIVELY = GROUPS < 2
SEED_TEXTS, ROUND_TEXTS, N_ROUNDS = 240, 120, 6
N_AUDITS, N_PICKED = 240, 20
CONFIG = ValidateConfig(n_permutations=1000)
# 120 pairs, where the score test would be most liberal; the exact test of 1,200 takes 30 ms.
PAIRED_CONFIG = CONFIG.model_copy(update={"max_texts_per_hypothesis": 240})
SCOPES = np.vstack([np.ones(N_PROMPTS), np.arange(N_GROUPS)[:, None] == GROUPS]).astype(np.int64)
BANK = [Prompt(f"p{i}", "", str(GROUPS[i]), "validation") for i in range(N_PROMPTS)]


@dataclass(frozen=True)
class Seen:
    """Hits `(2, n_prompts, k)` of texts `(2, n_prompts)`, base first, after each round."""

    hits: Counts
    n_texts: Counts


def draw_rates(rng: np.random.Generator) -> Rates:
    """How often a text of each prompt holds each cluster, `(n_prompts, k)`."""
    rates = np.full((N_PROMPTS, N_CLUSTERS), 0.002)
    level = rng.choice([0.1, 0.2, 0.3], N_CLUSTERS)
    rates[LIVELY] = np.minimum(0.95, level * rng.gamma(2.0, 0.5, (int(LIVELY.sum()), N_CLUSTERS)))
    rates[~LIVELY, GROUPS[~LIVELY]] = 0.97
    return rates


def discover(
    base: Rates, intervention: Rates, rng: np.random.Generator, seed: int, *, even_base: bool
) -> list[Seen]:
    """What is seen after every round. With `even_base` only the intervention is sampled actively,
    the base's texts were there before, evenly spread."""
    rates, rounds = np.stack([base, intervention]), []
    hits = np.zeros(rates.shape, dtype=np.int64)
    n_texts = np.zeros((2, N_PROMPTS), dtype=np.int64)
    allocation = seed_allocation(N_PROMPTS, SEED_TEXTS, seed)
    before = seed_allocation(N_PROMPTS, SEED_TEXTS + N_ROUNDS * ROUND_TEXTS, seed)
    for number in range(N_ROUNDS + 1):
        first = before if number == 0 else np.zeros_like(before)
        new = np.stack([first if even_base else allocation, allocation])
        hits = hits + rng.binomial(new[:, :, None], rates)
        n_texts = n_texts + new
        rounds.append(Seen(hits, n_texts))
        shown = Evidence(*hits, *n_texts, np.full(N_CLUSTERS, 0.5))
        uncertainty = cluster_uncertainty(shown, min_effect=0.01, groups=GROUPS)
        allocation = allocate(
            prompt_scores(shown, uncertainty, groups=GROUPS),
            ROUND_TEXTS,
            exploration_share=0.3,
            seed=1000 * seed + number,
            n_sampled=n_texts[1],
        )
    return rounds


def pick_hypotheses(seen: Seen) -> list[Hypothesis]:
    """Claims about the clusters that differ most, over all prompts or in one group."""
    hits, n_texts = SCOPES @ seen.hits, seen.n_texts @ SCOPES.T
    z = log_odds_z(hits[0], n_texts[0][:, None], hits[1], n_texts[1][:, None])
    picked = []
    for index in np.argsort(-np.abs(z), axis=None)[:N_PICKED]:
        scope, cluster = divmod(int(index), N_CLUSTERS)
        shares = hits[:, scope, cluster] / n_texts[:, scope]
        name, group = f"{scope}/{cluster}", str(scope - 1) if scope else None
        direction = "more" if z[scope, cluster] > 0 else "less"
        picked.append(
            Hypothesis(name, "", str(cluster), direction, group, None, (), *shares.tolist(), 1.0)
        )
    return picked


def share_p_values(
    seen: Seen, hypotheses: list[Hypothesis], min_effect: float = CONFIG.min_effect
) -> NDArray[np.float64]:
    """The test of each hypothesis' shares, without weights, on what was seen."""
    hits, n_texts = SCOPES @ seen.hits, seen.n_texts @ SCOPES.T
    p_values = []
    for hypothesis in hypotheses:
        scope, cluster = (int(part) for part in hypothesis.id.split("/"))
        (hits_base, hits_intervention), (n_base, n) = hits[:, scope, cluster], n_texts[:, scope]
        p_values.append(
            stats.min_effect_p_value(
                int(hits_base), int(n_base), int(hits_intervention), int(n),
                min_effect=min_effect, direction=hypothesis.direction,
            )
        )  # fmt: skip
    return np.array(p_values)


def confirms(p_values: NDArray[np.float64]) -> bool:
    return bool((stats.benjamini_hochberg(p_values) <= CONFIG.alpha).any())


@cache
def null_audits(*, even_base: bool) -> list[tuple[Rates, list[Seen]]]:
    """Audits where both sides reply alike to every prompt."""
    audits = []
    for seed in range(N_AUDITS // 2 if even_base else N_AUDITS):
        rng = np.random.default_rng(seed)
        rates = draw_rates(rng)
        audits.append((rates, discover(rates, rates, rng, seed, even_base=even_base)))
    return audits


# The naive use ----------------------------------------------------------------------------------


def test_active_sampling_concentrates() -> None:
    n_texts = np.array([rounds[-1].n_texts[1] for _, rounds in null_audits(even_base=False)])
    assert n_texts[:, LIVELY].mean() > 2.5 * n_texts[:, ~LIVELY].mean()


def test_testing_the_texts_that_were_looked_at_confirms_what_is_not_there() -> None:
    found = [
        confirms(share_p_values(rounds[-1], pick_hypotheses(rounds[-1])))
        for _, rounds in null_audits(even_base=False)
    ]
    # Every confirmation is false, so the share of audits with one is the false discovery rate. It
    # is held at 0.05 where hypotheses do not depend on the texts; here it is about 0.65.
    assert np.mean(found) > 0.5


def test_where_only_one_side_is_sampled_actively_the_prompt_mix_is_confirmed() -> None:
    found = [
        confirms(share_p_values(rounds[-1], pick_hypotheses(rounds[-1])))
        for _, rounds in null_audits(even_base=True)
    ]
    assert np.mean(found) > 0.99


def test_testing_after_every_round_confirms_even_what_was_fixed_before() -> None:
    # Repeated significance tests (Armitage, McPherson and Rowe 1969), of claims made beforehand:
    # seven looks at each of five clusters, over all prompts.
    claims = [Hypothesis(f"0/{c}", "", "", "more", None, None, (), 0, 0, 0) for c in range(10, 15)]
    small = np.array(
        [
            [share_p_values(seen, claims, min_effect=0.0) <= 0.05 for seen in rounds]
            for _, rounds in null_audits(even_base=False)
        ]
    )
    # Looked at once, at the end, the claims are tested as they should be (about 0.03).
    assert small[:, -1].mean() <= 0.05
    assert small.any(axis=1).mean() > max(0.075, 2 * small[:, -1].mean())


# The project's way -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fresh:
    """Fresh texts of one hypothesis: which meet it, `(2, n_prompts, n_per_prompt)`, base first."""

    plan: ValidationPlan
    meets: NDArray[np.bool_]

    def margin_p_value(self, hypothesis: Hypothesis) -> float:
        base, intervention = self.meets
        return stats.min_effect_p_value(
            int(base.sum()), base.size, int(intervention.sum()), intervention.size,
            min_effect=CONFIG.min_effect, direction=hypothesis.direction,
        )  # fmt: skip


def decode_fresh(
    hypotheses: list[Hypothesis],
    base: Rates,
    intervention: Rates,
    rng: np.random.Generator,
    *,
    config: ValidateConfig = CONFIG,
    share_identical: float = 0.0,
) -> list[Fresh]:
    """Equally many texts for each validation prompt of a hypothesis' scope. In `share_identical`
    of the pairs both texts are the same where the rates are."""
    fresh = []
    for plan in plan_validation(hypotheses, BANK, config):
        rows = [int(key[1:]) for key in plan.prompt_keys]
        cluster = int(plan.hypothesis_id.split("/")[1])
        rates = np.stack([base[rows, cluster], intervention[rows, cluster]])
        draws = rng.random((2, len(rows), plan.n_per_prompt))
        identical = rng.random(draws.shape[1:]) < share_identical
        draws[1] = np.where(identical, draws[0], draws[1])
        fresh.append(Fresh(plan, draws < rates[:, :, None]))
    return fresh


def validate(
    hypotheses: list[Hypothesis], fresh: list[Fresh], *, is_paired: bool = False
) -> list[Finding]:
    """The findings of the library's validation, each hypothesis on its own fresh texts."""
    tables = []
    for hypothesis, decoded in zip(hypotheses, fresh, strict=True):
        side, prompt, sample = (index.ravel() for index in np.indices(decoded.meets.shape))
        tables.append(
            pd.DataFrame(
                {
                    "hypothesis_id": hypothesis.id,
                    "text_key": [f"{hypothesis.id}-{i}" for i in range(side.size)],
                    "prompt_key": np.array(decoded.plan.prompt_keys)[prompt],
                    "sample": sample,
                    "side": np.array(["base", "intervention"])[side],
                    "score": decoded.meets.ravel().astype(float),
                }
            )
        )
    texts = pd.concat(tables, ignore_index=True)
    verdicts = texts[["hypothesis_id", "text_key", "score"]].assign(
        tier="cheap", judge="", outcome="answered", reason="", cost_usd=0.0, is_audit=False
    )
    return validate_hypotheses(hypotheses, verdicts, texts, CONFIG, 0, is_paired=is_paired)


def any_confirmed(findings: list[Finding]) -> bool:
    return any(finding.status == "confirmed" for finding in findings)


@pytest.mark.parametrize("even_base", [False, True])
def test_fresh_texts_of_other_prompts_confirm_nothing_in_95_percent_of_null_audits(
    even_base: bool,
) -> None:
    found = []
    for seed, (_, rounds) in enumerate(null_audits(even_base=even_base)):
        rng = np.random.default_rng([1, seed])
        hypotheses = pick_hypotheses(rounds[-1])
        rates = draw_rates(rng)
        fresh = decode_fresh(hypotheses, rates, rates, rng)
        # A finding's p-value is the larger of two, of which this is one: where it alone confirms
        # nothing, nothing is confirmed, and the slow half need not run.
        margin = [f.margin_p_value(h) for h, f in zip(hypotheses, fresh, strict=True)]
        found.append(confirms(np.array(margin)) and any_confirmed(validate(hypotheses, fresh)))
    assert np.mean(found) <= 0.05


@pytest.mark.long
def test_fresh_coupled_texts_confirm_nothing_in_95_percent_of_null_audits() -> None:
    found = []
    for seed, (_, rounds) in enumerate(null_audits(even_base=False)[:200]):
        rng = np.random.default_rng([4, seed])
        hypotheses = pick_hypotheses(rounds[-1])
        rates = draw_rates(rng)
        fresh = decode_fresh(
            hypotheses, rates, rates, rng, config=PAIRED_CONFIG, share_identical=0.8
        )
        found.append(any_confirmed(validate(hypotheses, fresh, is_paired=True)))
    assert np.mean(found) <= 0.05


def test_a_findings_p_value_is_at_least_that_of_its_shares() -> None:
    rng = np.random.default_rng(2)
    (_, rounds), rates = null_audits(even_base=False)[0], draw_rates(rng)
    hypotheses = pick_hypotheses(rounds[-1])
    fresh = decode_fresh(hypotheses, rates, rates, rng)
    margin = {h.id: f.margin_p_value(h) for h, f in zip(hypotheses, fresh, strict=True)}
    for finding in validate(hypotheses, fresh):
        assert finding.p_value >= margin[finding.id]


def test_fresh_texts_of_other_prompts_confirm_what_has_changed() -> None:
    found = []
    for seed in range(6):
        rng = np.random.default_rng([3, seed])
        rates, others = draw_rates(rng), draw_rates(rng)
        changed, others_changed = rates.copy(), others.copy()
        # One rare cluster of all prompts, from 0.002 to 0.15.
        rates[:, 50] = others[:, 50] = 0.002
        changed[:, 50] = others_changed[:, 50] = 0.15
        rounds = discover(rates, changed, rng, seed, even_base=False)
        hypotheses = pick_hypotheses(rounds[-1])
        fresh = decode_fresh(hypotheses, others, others_changed, rng)
        confirmed = {f.criterion for f in validate(hypotheses, fresh) if f.status == "confirmed"}
        assert confirmed <= {"50"}
        found.append("50" in confirmed)
    assert np.mean(found) >= 0.9


# Shares ------------------------------------------------------------------------------------------


def test_a_plain_share_of_adaptive_texts_is_biased_and_the_reweighted_one_is_not() -> None:
    truths, plain, reweighted = [], [], []
    for rates, rounds in null_audits(even_base=False):
        hits, n_texts = rounds[-1].hits[1], rounds[-1].n_texts[1]
        # The clusters of the lively groups: the first six are the quiet groups' replies.
        truths.append(rates.mean(axis=0)[N_GROUPS:].mean())
        plain.append((hits.sum(axis=0) / n_texts.sum())[N_GROUPS:].mean())
        share = reweighted_share(hits, n_texts, groups=GROUPS).share
        reweighted.append(share[N_GROUPS:].mean())
    truth = np.array(truths)
    # About 0.127 instead of 0.068.
    assert np.mean(plain - truth) > 0.8 * truth.mean()
    # Adaptive means err a little to the low side (Nie and others 2018): by a thousandth of the
    # share at most, which is within four standard errors of none.
    errors = np.array(reweighted) - truth
    assert abs(errors.mean()) < 0.001 * truth.mean() + 4 * errors.std() / np.sqrt(len(errors))


@pytest.mark.parametrize("even_base", [False, True])
def test_intervals_of_reweighted_differences_hold_zero_where_nothing_changed(
    even_base: bool,
) -> None:
    held = []
    for _, rounds in null_audits(even_base=even_base):
        (hits_base, hits), (n_base, n) = rounds[-1].hits, rounds[-1].n_texts
        found = reweighted_difference(hits_base, n_base, hits, n, groups=GROUPS)
        held.append(((found.ci_low <= 0) & (found.ci_high >= 0)).mean())
    assert np.mean(held) >= 0.95
