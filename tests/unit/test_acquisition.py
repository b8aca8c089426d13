from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whatchanged.acquisition import ACQUISITIONS, classifier_scores
from whatchanged.config import AcquisitionName, SampleConfig
from whatchanged.differences import cluster_uncertainty
from whatchanged.errors import UsageError
from whatchanged.sample import Evidence, allocate, prompt_scores, seed_allocation
from whatchanged.screen import screen_prompts

NAMES = get_args(AcquisitionName)


def evidence(hits_base, hits_intervention, n, boundary=None, **measured):
    hits_base, n = np.array(hits_base), np.array(n)
    boundary = np.full(hits_base.shape[1], 0.5) if boundary is None else np.array(boundary)
    return Evidence(
        hits_base, np.array(hits_intervention), n, n, boundary,
        **{name: np.array(values) for name, values in measured.items()},
    )  # fmt: skip


def score(name, shown, *, groups=None, min_effect=0.01, seed=0):
    groups = np.zeros(len(shown.n_base), dtype=int) if groups is None else groups
    return ACQUISITIONS[name](shown, groups=groups, min_effect=min_effect, seed=seed)


def test_every_name_of_the_config_has_its_acquisition():
    assert list(ACQUISITIONS) == list(NAMES)
    assert SampleConfig().acquisition == "combined"
    assert all((f.__doc__ or "").count(" ") > 20 for f in ACQUISITIONS.values())


def test_boundary_follows_the_margin_of_a_prompts_clusters():
    # Each prompt's 8 texts are in its own cluster; two texts' worth of the average 1/2 draw the
    # shares to 9/10 and 1/10. Margins 0.2 and 0.6: 0.9 * 0.2 + 0.1 * 0.6, and the other way round.
    shown = evidence([[4, 0], [0, 4]], [[4, 0], [0, 4]], [4, 4], [0.2, 0.6])
    assert score("boundary", shown) == pytest.approx([0.24, 0.56])


def test_posterior_width_prefers_shares_near_one_half_and_few_texts():
    # Prompt 0: a cluster in half of its texts; prompt 1: one in a twentieth, on both sides.
    shown = evidence([[50, 0], [0, 5]], [[50, 0], [0, 5]], [100, 100])
    half, rare = score("posterior_width", shown)
    assert half > rare
    # One prompt, 1 of 2 texts on each side: both posteriors are Beta(1.5, 1.5), variance 1/16; the
    # width is 2 * 1.96 * sqrt(1/8).
    one = evidence([[1]], [[1]], [2])
    assert score("posterior_width", one) == pytest.approx([2 * 1.959964 * math.sqrt(1 / 8)])
    assert score("posterior_width", evidence([[9]], [[9]], [18]))[0] < 0.7


def test_thompson_follows_what_differs_and_what_may_differ():
    # Prompt 0's cluster goes from 20 % to 60 %, prompt 1's stays at 20 % in as many texts; prompt
    # 2's was 1 of 2 on both sides.
    shown = evidence(
        [[20, 0, 0], [0, 20, 0], [0, 0, 1]], [[60, 0, 0], [0, 20, 0], [0, 0, 1]], [100, 100, 2]
    )
    groups = np.arange(3)
    draws = np.array([score("thompson", shown, groups=groups, seed=seed) for seed in range(200)])
    differs, level, unknown = draws.mean(axis=0)
    assert differs > 5 * level
    assert unknown > 2 * level
    # The unknown one is sometimes of no interest at all; the clear one never is.
    assert draws[:, 2].min() < 0.1 * draws[:, 0].min()
    assert draws[0].tolist() == score("thompson", shown, groups=groups, seed=0).tolist()


def test_divergence_is_optimistic_and_counts_as_a_total_variation():
    # (0.03 + 0.01) nats allow sqrt(0.04) / 2; the unknown prompt counts as the highest one does.
    shown = evidence(
        np.zeros((4, 0), int), np.zeros((4, 0), int), [0] * 4,
        divergence=[0.03, 0.8, math.nan, -0.2], divergence_se=[0.01, 0.2, math.nan, 0.1],
    )  # fmt: skip
    assert score("divergence", shown) == pytest.approx([0.1, 0.5, 0.5, 0.0])


def test_divergence_falls_back_to_the_share_of_differing_pairs():
    # 0 of 3 pairs: Beta(0.5, 3.5) has mean 1/8 and variance (1/8)(7/8)/5; none of none: 1/2 and
    # 1/8.
    shown = evidence(
        np.zeros((2, 0), int), np.zeros((2, 0), int), [3, 0], n_pairs=[3, 0], n_differing=[0, 0]
    )
    expected = [1 / 8 + math.sqrt(7 / 320), 0.5 + math.sqrt(1 / 8)]
    assert score("divergence", shown) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("name", "advice"),
    [("divergence", "divergence screen or coupled"), ("classifier", "embeddings")],
)
def test_what_was_not_measured_cannot_be_acquired_by(name, advice):
    with pytest.raises(UsageError, match=advice):
        score(name, evidence([[1]], [[1]], [2]))


def test_classifier_shares_its_scores_within_a_group():
    # Own scores 0.4 and 0 in group 0 (mean 0.2), 0.1 and unknown, counted as 0.4, in group 1.
    shown = evidence(
        np.zeros((4, 0), int), np.zeros((4, 0), int), [0] * 4,
        classifier=[0.4, 0.0, 0.1, math.nan],
    )  # fmt: skip
    found = score("classifier", shown, groups=np.array([0, 0, 1, 1]))
    assert found == pytest.approx([0.3, 0.1, 0.175, 0.325])


def test_undersampled_prefers_clusters_that_few_texts_have_shown():
    # 3 texts against 99: 1/2 and 1/10, over all prompts as within the only group.
    shown = evidence([[1], [0]], [[2], [0]], [3, 0])
    assert score("undersampled", shown).sum() == pytest.approx(1 / 2)
    shown = evidence([[50], [0]], [[49], [0]], [50, 0])
    assert score("undersampled", shown).sum() == pytest.approx(1 / 10)


def test_combined_multiplies_what_is_undecided_by_the_squared_chance_of_a_change():
    # 100 prompts alike in their texts; the sides part in every second text of prompt 0 and in a
    # fifth of the others', but for prompt 1, where they hardly ever do: it counts as 0.05.
    parting = np.array([0.5, 0.01] + [0.19, 0.21] * 49)
    shown = evidence(
        [[4]] * 100, [[4]] * 100, [8] * 100, parting=parting, parting_se=np.full(100, 0.01)
    )
    undecided = prompt_scores(shown, cluster_uncertainty(shown, min_effect=0.03))
    chance = screen_prompts(shown, min_effect=0.03).probability
    found = score("combined", shown, min_effect=0.03) / undecided
    assert found[:2] == pytest.approx([1, 0.0025])
    assert found == pytest.approx(np.maximum(0.05, chance) ** 2)
    assert found[2:].max() < 0.1
    # Without a screen and without pairs, everything may differ.
    plain = replace(shown, parting=None, parting_se=None)
    assert score("combined", plain, min_effect=0.03) == pytest.approx(undecided)


def test_combined_weighs_a_weak_change_like_a_strong_one():
    parting = np.array([0.95, 0.45] + [0.2] * 18)
    shown = evidence(
        [[4]] * 20, [[4]] * 20, [8] * 20, parting=parting, parting_se=np.full(20, 0.02),
        divergence=4 * parting**2, divergence_se=np.full(20, 0.02),
    )  # fmt: skip
    strong, weak, *_ = score("combined", shown)
    assert weak == pytest.approx(strong, rel=1e-4)
    strong, weak, *_ = score("divergence", shown)
    assert weak < 0.5 * strong


def test_combined_gives_nothing_to_a_prompt_that_cannot_differ():
    # One group looks for 0.05. 100 identical pairs leave 1 - 0.05^(1/100) = 0.0295 (3/100 at most),
    # 40 leave 0.0722: not enough to rule 0.05 out.
    shown = evidence([[20], [8]], [[20], [8]], [100, 40], n_pairs=[100, 40], n_differing=[0, 0])
    cannot, may = score("combined", shown, min_effect=0.05)
    assert cannot == 0
    assert may > 0


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(NAMES), st.integers(0, 15), st.integers(0, 4), st.integers(0, 2**32),
    st.floats(0, 0.9), st.booleans(),
)  # fmt: skip
def test_scores_are_finite_and_never_negative(name, n_prompts, k, seed, min_effect, identical):
    rng = np.random.default_rng(seed)
    n = rng.integers(0, 4, n_prompts)
    unknown = [math.nan, -0.5, 0.0, 2.0, 1e9]
    shown = evidence(
        rng.integers(0, n[:, None] + 1, (n_prompts, k)),
        rng.integers(0, n[:, None] + 1, (n_prompts, k)),
        n, rng.choice([math.nan, 0.0, 0.5, 1.0], k),
        divergence=rng.choice(unknown, n_prompts), divergence_se=rng.choice(unknown, n_prompts),
        parting=rng.choice([math.nan, 0.0, 0.5, 1.0], n_prompts),
        parting_se=rng.choice([math.nan, 0.0, 0.1], n_prompts), n_pairs=n,
        n_differing=0 * n if identical else rng.integers(0, n + 1),
        classifier=rng.choice([math.nan, 0.0, 0.3], n_prompts),
    )  # fmt: skip
    found = score(name, shown, groups=np.arange(n_prompts) // 2, min_effect=min_effect, seed=seed)
    assert found.shape == (n_prompts,)
    assert (np.isfinite(found) & (found >= 0)).all()


def two_sided_texts(seed, n_prompts=40, n_texts=8, shift=3.0, n_changed=10):
    """Embeddings of `n_texts` per prompt and side around the prompt's topic; on the first prompts,
    three quarters of the intervention's texts move along one direction."""
    rng = np.random.default_rng(seed)
    rows = np.repeat(np.arange(n_prompts), 2 * n_texts)
    sides = np.tile(np.repeat([False, True], n_texts), n_prompts)
    vectors = 3 * rng.normal(size=(n_prompts, 16))[rows] + 0.5 * rng.normal(size=(len(rows), 16))
    moved = sides & (rows < n_changed) & (rng.random(len(rows)) < 0.75)
    vectors[moved, 0] += shift
    return vectors.astype(np.float32), sides, rows


def test_the_classifier_ranks_prompts_that_changed_above_the_others():
    vectors, sides, rows = two_sided_texts(0)
    found = classifier_scores(vectors, sides, rows, 40, seed=0)
    pairs = found[:10, None] - found[None, 10:]
    assert np.mean(pairs > 0) > 0.9
    assert found.tolist() == classifier_scores(vectors, sides, rows, 40, seed=0).tolist()
    assert ((found >= 0) & (found <= 1)).all()


def test_sides_that_are_alike_have_no_gap_beyond_its_error():
    gaps = []
    for seed in range(5):
        vectors, sides, rows = two_sided_texts(seed, shift=0.0)
        gaps.append(classifier_scores(vectors, sides, rows, 40, seed=seed))
    changed = classifier_scores(*two_sided_texts(0, n_changed=40), 40, seed=0)
    # A gap is positive half of the time, so its error is nearly all of what is left on average.
    assert np.mean(gaps) < 0.6 * np.mean(changed)


def test_what_only_one_prompt_shows_is_judged_by_a_model_that_never_saw_it():
    # The sides of prompt 0 differ along a direction that no other prompt knows.
    vectors, sides, rows = two_sided_texts(1, shift=0.0)
    vectors[:, 15] = 0.0
    vectors[(rows == 0) & sides, 15] = 5.0
    assert classifier_scores(vectors, sides, rows, 40, seed=0)[0] < 0.5


def test_a_prompt_without_both_sides_has_no_classifier_score():
    vectors, sides, rows = two_sided_texts(2, n_prompts=4, n_changed=0)
    found = classifier_scores(vectors[rows < 3], sides[rows < 3], rows[rows < 3], 5, seed=0)
    assert np.isnan(found).tolist() == [False, False, False, True, True]
    only_base = ~sides | (rows > 0)
    found = classifier_scores(vectors[only_base], sides[only_base], rows[only_base], 4, seed=0)
    assert np.isnan(found).tolist() == [True, False, False, False]
    nothing = np.zeros((0, 16), np.float32), np.zeros(0, bool), np.zeros(0, int)
    assert np.isnan(classifier_scores(*nothing, 3, seed=0)).all()
    one = rows == 0
    assert np.isnan(classifier_scores(vectors[one], sides[one], rows[one], 1, seed=0)).all()
    same = classifier_scores(np.ones_like(vectors), sides, rows, 4, seed=0)
    assert same == pytest.approx(np.zeros(4))


GROUPS = np.arange(144) // 6
LOCAL, SHIFTED = GROUPS == 0, GROUPS == 5  # where the two changes of one group live
N_CLUSTERS = 200


@dataclass(frozen=True)
class World:
    """`rates (2, n_prompts, k)` of every cluster and side, and each prompt's divergence."""

    rates: np.ndarray
    divergence: np.ndarray


def build_world(seed, *, rare=0.03):
    """144 prompts in 24 groups, 200 clusters: a group's topic is in all its texts, its five
    wordings and 53 global clusters come by chance. Planted: group 0 gets a new cluster in 30 % of
    its texts, group 5 one more often, and all prompts a `rare` one."""
    rng = np.random.default_rng(seed)
    rates = np.zeros((2, 144, N_CLUSTERS))
    rates[:, np.arange(144), GROUPS] = 1.0
    for group in range(24):
        rates[:, group == GROUPS, 24 + 5 * group : 29 + 5 * group] = rng.uniform(0.05, 0.5, 5)
    rates[:, :, 144:197] = rng.uniform(0.002, 0.06, 53)
    rates[1, LOCAL, 197] = 0.3
    rates[1, :, 198] = rare
    rates[0, SHIFTED, 199], rates[1, SHIFTED, 199] = 0.25, 0.5
    variation = 1 - np.prod(1 - np.abs(rates[1] - rates[0]), axis=1)
    # The smallest divergence that a total variation can have, and a little drift everywhere.
    return World(rates, 4 * variation * np.arctanh(variation) + 0.01)


def explore(name, seed, *, world=None, coupled=True, screened=True, n_rounds=6):
    """Texts per prompt and the last evidence, after a seed round of 500 texts and rounds of 250.

    `name` None allocates evenly. Coupled texts share their noise, cluster by cluster.
    """
    world = build_world(seed) if world is None else world
    rng = np.random.default_rng(seed)
    error = 0.01 + world.divergence / 4
    estimate = rng.normal(world.divergence, error)
    counts = np.zeros((2, 144, N_CLUSTERS), dtype=int)
    n, differing = np.zeros(144, dtype=int), np.zeros(144, dtype=int)
    margins = rng.uniform(0.3, 0.9, N_CLUSTERS)
    allocation = seed_allocation(144, 500, seed)
    for round_index in range(n_rounds + 1):
        for prompt in np.flatnonzero(allocation):
            noise = rng.random((allocation[prompt], N_CLUSTERS))
            other = noise if coupled else rng.random(noise.shape)
            texts = noise < world.rates[0, prompt], other < world.rates[1, prompt]
            counts[:, prompt] += [part.sum(axis=0) for part in texts]
            differing[prompt] += np.any(texts[0] != texts[1], axis=1).sum()
        n = n + allocation
        shown = Evidence(counts[0], counts[1], n, n, margins)
        if coupled:
            shown = replace(shown, n_pairs=n, n_differing=differing)
        if screened:
            shown = replace(shown, divergence=estimate, divergence_se=error)
        shown = replace(shown, classifier=np.clip(rng.normal(world.divergence, 0.1), 0, 1))
        seed_of_round = 100 * seed + round_index
        scores = (
            np.zeros(144) if name is None else score(name, shown, groups=GROUPS, seed=seed_of_round)
        )
        if round_index < n_rounds:
            allocation = allocate(
                scores, 250, exploration_share=0.3, seed=seed_of_round, n_sampled=n
            )
    return n, shown


@pytest.mark.parametrize("name", [None, *NAMES])
def test_every_acquisition_reaches_every_prompt_within_its_budget(name):
    n, _ = explore(name, 0)
    assert n.sum() == 2000
    # The seed round gave each prompt three or four texts; exploration alone adds about three.
    assert n.min() > 4


@pytest.mark.parametrize(
    ("name", "ratio"),
    [("divergence", 2.0), ("combined", 2.5), ("classifier", 1.8), ("thompson", 1.3)],
)
def test_acquisitions_by_difference_concentrate_on_the_prompts_that_differ(name, ratio):
    n, _ = explore(name, 1)
    uniform, _ = explore(None, 1)
    changed = LOCAL | SHIFTED
    assert n[changed].mean() > ratio * uniform[changed].mean()


def test_combined_concentrates_with_pairs_alone_and_with_a_screen_alone():
    changed = LOCAL | SHIFTED
    uniform, _ = explore(None, 2)
    by_pairs, _ = explore("combined", 2, screened=False)
    by_screen, _ = explore("combined", 2, coupled=False)
    assert by_pairs[changed].mean() > 1.7 * uniform[changed].mean()
    assert by_screen[changed].mean() > 1.7 * uniform[changed].mean()


def test_combined_leaves_what_is_decided_and_divergence_does_not():
    # The new cluster of group 0 alone, after 14 texts per prompt and after a hundred times as many
    # that show the same; what the screen says of its prompts stays as it is.
    _, shown = explore(None, 3, coupled=False)
    few, many = (
        replace(
            shown,
            hits_base=n * shown.hits_base[:, [197]],
            hits_intervention=n * shown.hits_intervention[:, [197]],
            n_base=n * shown.n_base,
            n_intervention=n * shown.n_intervention,
            boundary=shown.boundary[[197]],
        )
        for n in (1, 100)
    )
    for name, kept in (("combined", 0.02), ("divergence", 1.0)):
        before, after = (score(name, part, groups=GROUPS)[LOCAL].sum() for part in (few, many))
        assert after <= kept * before
        assert (after == before) == (name == "divergence")


def test_boundary_undersampled_and_width_follow_their_clusters_not_the_change():
    _, shown = explore(None, 4)
    fuzzy = np.where(np.arange(N_CLUSTERS) == 7, 1.0, 0.01)  # the topic of group 7
    by_boundary = score("boundary", replace(shown, boundary=fuzzy), groups=GROUPS)
    assert by_boundary[GROUPS == 7].min() > 3 * by_boundary[GROUPS != 7].max()
    for name in ("undersampled", "posterior_width"):
        scores = score(name, shown, groups=GROUPS)
        assert scores[LOCAL | SHIFTED].mean() < 1.3 * scores.mean()


def test_a_rare_change_everywhere_is_in_the_texts_of_every_acquisition():
    for name in NAMES:
        n, shown = explore(name, 5)
        # 3 % of 2000 texts; four standard deviations below are 29.
        assert shown.hits_intervention[:, 198].sum() > 29
        assert n.min() > 4
