"""The test of every hypothesis on fresh texts of unseen prompts.

Nothing that was used to find a hypothesis is used to test it: adaptive sampling biases its own
counts. A hypothesis is confirmed when two one-sided tests both reject after Benjamini-Hochberg
(their larger p-value is the p-value: an intersection-union test, Berger 1982):

* a permutation of the sides *within prompt*, or of coupled texts within their pair, whose statistic
  is the AUC of the judge's scores: exact where the intervention changed nothing, because texts of
  one prompt, or of one pair, are then exchangeable;
* a test that the share of texts that meet the criterion differs by more than `min_effect`, the
  smallest effect of interest: the score test (Farrington & Manning 1990), or its exact
  counterpart for pairs.

The fresh texts come in blocks, and a hypothesis that is decided gets no more (`interim`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from whatchanged import interim, paired, stats
from whatchanged.config import AT_ONCE, MAX_GROUP_FACTOR, ValidateConfig
from whatchanged.interim import Scored, Standing
from whatchanged.records import Finding, Hypothesis, Prompt, Status, ValidationPlan
from whatchanged.verdicts import cost_of_answers, final_scores

# The largest difference among many candidates overstates itself: plan for three quarters of it.
PLANNED_SHARE_OF_EFFECT = 0.75
# Benjamini-Hochberg asks more of a finding than alpha; a tenth of it is a fair planning value.
PLANNED_SHARE_OF_ALPHA = 0.1
PLANNED_POWER = 0.9
MAX_UNSCORED_SHARE = 0.05
N_EXAMPLES = 12


def plan_validation(
    hypotheses: Sequence[Hypothesis],
    prompts: Sequence[Prompt],
    config: ValidateConfig,
    available: Mapping[str, int] | None = None,
) -> list[ValidationPlan]:
    """One plan per hypothesis: the validation prompts of its scope, and texts per prompt and side.

    At least `texts_per_hypothesis`, half on each side; more where the behaviour is rare or the
    difference small, up to `max_texts_per_hypothesis` for a claim about all prompts, and for one
    about a group up to `MAX_GROUP_FACTOR` times `texts_per_hypothesis`. Of recorded texts there are
    only so many per prompt and side, `available` by prompt key: where some prompts have too few,
    the others give more, as far as they can.
    """
    validation = [prompt for prompt in prompts if prompt.split == "validation"]
    plans = []
    for hypothesis in hypotheses:
        keys = tuple(p.key for p in validation if hypothesis.scope in (None, p.group))
        n_per_side = _texts_per_side(hypothesis, config)
        n_per_prompt = math.ceil(n_per_side / max(len(keys), 1))
        if available is not None:
            n_per_prompt = _least_per_prompt([available[key] for key in keys], n_per_side)
        plans.append(ValidationPlan(hypothesis.id, keys, n_per_prompt))
    return plans


def _least_per_prompt(available: Sequence[int], n_texts: int) -> int:
    """The least number of texts per prompt that gives `n_texts` in all, or all that there are."""
    left = np.sort(np.array(available, dtype=np.int64))
    # At the level of the i-th smallest prompt, those before it give all that they have.
    before = np.cumsum(left) - left
    reached = before + left * (len(left) - np.arange(len(left)))
    i = int(np.searchsorted(reached, n_texts))
    if i == len(left):
        return int(left.max(initial=0))
    return math.ceil((n_texts - int(before[i])) / (len(left) - i))


def limit_plans(
    plans: Sequence[ValidationPlan], counts: Mapping[str, int], config: ValidateConfig
) -> list[ValidationPlan]:
    """The plans of a null control: in its scope, none gets more texts than `counts` (per prompt and
    side, those of the audit beside it) hold there, but at least `texts_per_hypothesis`.

    Fewer texts cost power, and where nothing changed there is nothing to find. What a control
    shows, how often the same procedure confirms something, is a matter of its level.
    """
    return [
        replace(plan, n_per_prompt=min(plan.n_per_prompt, _most_per_prompt(plan, counts, config)))
        for plan in plans
    ]


def _most_per_prompt(
    plan: ValidationPlan, counts: Mapping[str, int], config: ValidateConfig
) -> int:
    n_prompts = max(len(plan.prompt_keys), 1)
    there = sum(counts.get(key, 0) for key in plan.prompt_keys)
    return math.ceil(max(there, config.texts_per_hypothesis / 2) / n_prompts)


def select_texts(texts: pd.DataFrame, plan: ValidationPlan) -> pd.DataFrame:
    """The rows of the fresh texts that a plan names: the samples from `first` to `n_per_prompt` of
    each prompt of its scope, on both sides. Failed decodes are left out."""
    sample = texts["sample"]
    chosen = texts["prompt_key"].isin(plan.prompt_keys)
    chosen &= (sample >= plan.first) & (sample < plan.n_per_prompt)
    return texts[chosen & (texts["finish"] != "failed")]


def stand(
    hypotheses: Sequence[Hypothesis],
    plans: Sequence[ValidationPlan],
    verdicts: pd.DataFrame,
    texts: pd.DataFrame,
    config: ValidateConfig,
    seed: int,
    *,
    is_paired: bool,
    n_looks: int,
) -> list[Standing]:
    """Where every hypothesis stands after `n_looks` looks at the fresh `texts` decoded so far."""
    columns = ["text_key", "prompt_key", "sample", "side"]
    scores = final_scores(verdicts).merge(texts[columns], on="text_key")
    return interim.replay(
        hypotheses, plans, scores, config, seed, is_paired=is_paired, n_looks=n_looks
    )


def validate_hypotheses(
    hypotheses: Sequence[Hypothesis],
    verdicts: pd.DataFrame,
    texts: pd.DataFrame,
    config: ValidateConfig,
    seed: int,
    *,
    is_paired: bool,
    plans: Sequence[ValidationPlan] | None = None,
) -> list[Finding]:
    """The findings, strongest first: confirmed before inconclusive before rejected, each by effect.

    `verdicts` (`verdicts.COLUMNS`) say how each hypothesis was judged on fresh `texts`, up to the
    last look of `config.looks` that its plan in `plans` got; without plans there was one look at
    all. Unscored texts are left out and counted; above 5 % of them the finding is marked
    incomplete. With `is_paired`, the same `sample` of a prompt was decoded with the same noise on
    both sides, and a text whose counterpart has no score is left out too.
    """
    if plans is None:
        config = config.model_copy(update={"looks": AT_ONCE})
        n_samples = int(texts["sample"].max()) + 1 if len(texts) else 0
        keys = tuple(texts["prompt_key"].unique())
        plans = [ValidationPlan(hypothesis.id, keys, n_samples) for hypothesis in hypotheses]
    standings = stand(
        hypotheses, plans, verdicts, texts, config, seed,
        is_paired=is_paired, n_looks=len(config.looks.at),
    )  # fmt: skip
    verdicts_of = dict(list(verdicts.groupby("hypothesis_id")))
    tests = [_test(*pair, config) for pair in zip(hypotheses, standings, strict=True)]
    adjusted = stats.benjamini_hochberg([test.p_value for test in tests])
    return sort_findings(
        write_finding(
            hypothesis,
            test,
            float(p_adjusted),
            verdicts_of.get(hypothesis.id, verdicts[:0]),
            texts,
            config,
            is_confirmed=standing.is_confirmed,
        )
        for hypothesis, standing, test, p_adjusted in zip(
            hypotheses, standings, tests, adjusted, strict=True
        )
    )


def sort_findings(findings: Iterable[Finding]) -> list[Finding]:
    """Strongest first: confirmed before inconclusive before rejected, each by effect."""
    rank = {"confirmed": 0, "inconclusive": 1, "rejected": 2}
    return sorted(findings, key=lambda f: (rank[f.status], -abs(f.effect), f.id))


@dataclass(frozen=True, slots=True)
class HypothesisTest:
    """What a hypothesis' texts came to. `incomplete`: too many of them have no score."""

    difference: stats.ShareDifference
    auc: float
    p_value: float
    n_texts: int
    n_unscored: int
    incomplete: bool
    supporting: tuple[str, ...]
    contradicting: tuple[str, ...]


def _texts_per_side(hypothesis: Hypothesis, config: ValidateConfig) -> int:
    low, high = sorted((hypothesis.share_base, hypothesis.share_intervention))
    middle, half = (low + high) / 2, (high - low) / 2 * PLANNED_SHARE_OF_EFFECT
    planned = {
        "min_effect": config.min_effect,
        "alpha": config.alpha * PLANNED_SHARE_OF_ALPHA,
        "power": PLANNED_POWER,
    }
    low, high = middle - half, middle + half
    discordant = hypothesis.share_discordant
    needed = (
        stats.texts_needed(low, high, **planned)
        if discordant is None
        else paired.pairs_needed(low, high, discordant, **planned)
    )
    wanted = max(config.texts_per_hypothesis, 2 * needed)
    most = config.max_texts_per_hypothesis
    if hypothesis.scope is not None:
        most = min(most, MAX_GROUP_FACTOR * config.texts_per_hypothesis)
    return math.ceil(min(wanted, most) / 2)


def lacks_scores(n_unscored: int, n_asked: int) -> bool:
    """Whether more than 5 % of the texts asked about have no score, or there are none."""
    return n_asked == 0 or n_unscored > MAX_UNSCORED_SHARE * n_asked


def _test(hypothesis: Hypothesis, standing: Standing, config: ValidateConfig) -> HypothesisTest:
    scored = standing.scored
    difference, _ = interim.compare(
        scored, config.min_effect, hypothesis.direction, standing.confidence
    )
    in_base, in_intervention = ~scored.is_intervention, scored.is_intervention
    return HypothesisTest(
        difference=difference,
        auc=stats.auc(scored.scores[in_base], scored.scores[in_intervention]),
        p_value=standing.p_value,
        n_texts=len(scored.keys),
        n_unscored=scored.n_unscored,
        incomplete=lacks_scores(scored.n_unscored, len(scored.keys) + scored.n_unscored),
        supporting=examples(hypothesis, scored, supporting=True),
        contradicting=examples(hypothesis, scored, supporting=False),
    )


def examples(hypothesis: Hypothesis, scored: Scored, *, supporting: bool) -> tuple[str, ...]:
    """Texts that meet the criterion on the side that is said to show more of it (supporting), or on
    the other side (contradicting; where there are none, texts of the first side that lack it)."""
    on_more_side = scored.is_intervention == (hypothesis.direction == "more")
    order = np.argsort(-scored.scores, kind="stable")
    wanted = scored.meets & (on_more_side if supporting else ~on_more_side)
    chosen = [i for i in order if wanted[i]]
    if not supporting and not chosen:
        chosen = [i for i in order[::-1] if on_more_side[i] and not scored.meets[i]]
    return tuple(str(scored.keys[i]) for i in chosen[:N_EXAMPLES])


def write_finding(
    hypothesis: Hypothesis,
    test: HypothesisTest,
    p_adjusted: float,
    verdicts: pd.DataFrame,
    texts: pd.DataFrame,
    config: ValidateConfig,
    *,
    is_confirmed: bool,
) -> Finding:
    """The finding of a test, whose verdicts on some of the `texts` are given."""
    difference = test.difference
    return Finding(
        id=hypothesis.id,
        statement=hypothesis.statement,
        criterion=hypothesis.criterion,
        direction=hypothesis.direction,
        scope=hypothesis.scope,
        cluster=hypothesis.cluster,
        status=_status(hypothesis, difference, config, is_confirmed=is_confirmed),
        effect=difference.effect,
        ci_low=difference.ci_low,
        ci_high=difference.ci_high,
        share_base=difference.share_base,
        share_intervention=difference.share_intervention,
        auc=test.auc,
        p_value=test.p_value,
        p_adjusted=p_adjusted,
        n_texts=test.n_texts,
        n_unscored=test.n_unscored,
        incomplete=test.incomplete,
        judge_calls=len(verdicts),
        cost_usd=cost_of_answers(verdicts, texts),
        supporting=test.supporting,
        contradicting=test.contradicting,
        evidence_terms=hypothesis.evidence_terms,
    )


def _status(
    hypothesis: Hypothesis,
    difference: stats.ShareDifference,
    config: ValidateConfig,
    *,
    is_confirmed: bool,
) -> Status:
    """Rejected: the interval leaves no room for an effect of interest in the claimed direction."""
    if is_confirmed:
        return "confirmed"
    more = hypothesis.direction == "more"
    largest = difference.ci_high if more else -difference.ci_low
    return "rejected" if largest <= config.min_effect else "inconclusive"
