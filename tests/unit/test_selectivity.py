"""Components that tell two kinds of texts apart."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from whatchanged.activations.selectivity import (
    TextSummaries,
    auc_interval,
    choosing_prompts,
    find_selective,
    join_summaries,
    summarize_texts,
)
from whatchanged.errors import UsageError

THRESHOLDS = np.array([1.5, 1.5], np.float32)


# Summaries ---------------------------------------------------------------------------------------


def test_a_text_is_summarized_by_its_two_extremes_and_the_share_of_firing_tokens() -> None:
    # Two texts, of 3 tokens and 1; the second component fires downwards.
    activations = np.array([[1, 0], [2, -3], [0, -2], [1, 1]], np.float32)
    starts = np.array([0, 3, 4])
    found = summarize_texts(("a", "b"), ("m:0", "m:1"), activations, starts, THRESHOLDS)
    assert found.values[0, :2].tolist() == [[2, 0], [0, 3]]
    assert found.values[0, 2] == pytest.approx([1 / 3, 2 / 3])
    assert found.values[1].tolist() == [[1, 1], [-1, -1], [0, 0]]


def test_the_tokens_of_the_prompt_are_left_out() -> None:
    activations = np.array([[9, 9], [1, 2], [9, 9], [9, 9], [3, 4]], np.float32)
    found = summarize_texts(
        ("a", "b"), ("m:0", "m:1"), activations, np.array([0, 2, 5]), THRESHOLDS, np.array([1, 2])
    )
    assert found.values[:, 0].tolist() == [[1, 2], [3, 4]]


def test_summaries_of_batches_join_in_order() -> None:
    one, two = (
        summarize_texts((key,), ("m:0",), np.array([[x]], np.float32), np.array([0, 1]), np.ones(1))
        for key, x in (("a", 1.0), ("b", 2.0))
    )
    joined = join_summaries([two, one])
    assert joined.text_keys == ("b", "a")
    assert joined.values[:, 0, 0].tolist() == [2, 1]
    with pytest.raises(UsageError, match="found a twice"):
        join_summaries([one, two, one])
    with pytest.raises(UsageError, match="one part at least"):
        join_summaries([])
    with pytest.raises(UsageError, match="same components"):
        join_summaries([one, TextSummaries(("c",), ("n:0",), one.values)])


def test_texts_without_tokens_and_shapes_that_disagree_are_refused() -> None:
    activations, starts = np.zeros((3, 2), np.float32), np.array([0, 2, 3])
    labels = ("m:0", "m:1")
    with pytest.raises(UsageError, match="text b: expected tokens"):
        summarize_texts(("a", "b"), labels, activations, starts, THRESHOLDS, np.array([0, 1]))
    with pytest.raises(UsageError, match="rows for 1 texts, found 2"):
        summarize_texts(("a",), labels, activations, starts, THRESHOLDS)
    with pytest.raises(UsageError, match="3 rows in all, and 2 rows"):
        summarize_texts(("a", "b"), labels, activations[:2], starts, THRESHOLDS)
    with pytest.raises(UsageError, match="1 labels, 2 columns"):
        summarize_texts(("a", "b"), ("m:0",), activations, starts, THRESHOLDS)


# Intervals ---------------------------------------------------------------------------------------


def test_the_interval_of_perfect_separation_has_a_width() -> None:
    # Six prompts of 4 pairs, all won. Two half prompts (2 pairs) add one lost one: squares = 2^2,
    # error = sqrt(8 / 7 * 4) / 28 = 0.0764, t(6) = 2.4469, so 1 - 0.1868.
    low, high = auc_interval(np.full(6, 4.0), np.full(6, 4.0))
    assert low == pytest.approx(0.8132, abs=1e-4)
    assert high == 1.0
    assert auc_interval(np.zeros(6), np.full(6, 4.0)).high == pytest.approx(0.1868, abs=1e-4)


def test_no_prompt_gives_the_whole_range() -> None:
    assert auc_interval(np.zeros(0), np.zeros(0)) == (0.0, 1.0)


def test_more_prompts_narrow_the_interval() -> None:
    widths = [
        np.ptp(auc_interval(np.array([3.0, 5.0] * n), np.full(2 * n, 6.0))) for n in (2, 8, 32)
    ]
    assert widths[0] > 2 * widths[1] > 3 * widths[2]


@pytest.mark.parametrize(("n_prompts", "shift"), [(6, 0.0), (20, 0.0), (20, 1.5)])
def test_the_interval_holds_the_truth_about_as_often_as_it_says(
    n_prompts: int, shift: float
) -> None:
    rng = np.random.default_rng(0)

    def draw(n: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Pairs won by prompt; each prompt has a tendency of its own."""
        won, n_pairs = np.zeros(n), np.zeros(n)
        for i in range(n):
            supporting = shift + 0.5 * rng.normal() + rng.normal(size=rng.integers(1, 6))
            others = rng.normal(size=rng.integers(1, 8))
            won[i] = (supporting[:, None] > others).sum()
            n_pairs[i] = len(supporting) * len(others)
        return won, n_pairs

    won, n_pairs = draw(20_000)
    truth = won.sum() / n_pairs.sum()
    intervals = [auc_interval(*draw(n_prompts)) for _ in range(400)]
    share = np.mean([low <= truth <= high for low, high in intervals])
    # 95% within three standard errors (0.011 each).
    assert share > 0.917


# Selectivity -------------------------------------------------------------------------------------


def invented(
    n_prompts: int = 16, n_each: int = 6, n_components: int = 60, seed: int = 0
) -> tuple[TextSummaries, list[str], NDArray[np.bool_]]:
    """Noise of every component in every text, with an offset that a prompt's texts share. Half of
    each prompt's texts are supporting."""
    rng = np.random.default_rng(seed)
    n_texts = n_prompts * n_each
    values = rng.standard_normal((n_texts, 3, n_components))
    prompts = np.repeat(np.arange(n_prompts), n_each)
    values += 3 * rng.standard_normal((n_prompts, 3, n_components))[prompts]
    labels = tuple(f"m:{i}" for i in range(n_components))
    keys = tuple(f"t{i}" for i in range(n_texts))
    texts = TextSummaries(keys, labels, values.astype(np.float32))
    return texts, [f"p{i}" for i in prompts], np.arange(n_texts) % 2 == 0


def test_a_planted_component_is_found_by_its_statistic_and_measured_on_other_prompts() -> None:
    texts, prompts, is_supporting = invented()
    texts.values[is_supporting, 1, 7] += 50
    texts.values[is_supporting, 2, 9] -= 50
    first, second, *others = find_selective(texts, prompts, is_supporting, seed=1, n_shown=5)
    found = {one.label: one for one in (first, second)}
    assert found.keys() == {"m:7", "m:9"}
    assert (found["m:7"].statistic, found["m:7"].auc) == ("reverse_maximum", 1.0)
    assert (found["m:9"].statistic, found["m:9"].auc) == ("firing_rate", 0.0)
    assert max(first.p_adjusted, second.p_adjusted) < 0.01
    # 8 of 16 prompts are held out, with 3 texts of either kind each.
    assert (first.n_prompts, first.n_supporting, first.n_other) == (8, 24, 24)
    assert len(others) == 3
    assert min(one.p_adjusted for one in others) > 0.05


def test_the_topics_of_prompts_do_not_enter_the_auc_within_prompts() -> None:
    texts, prompts, _ = invented(n_prompts=80, n_components=3)
    # Prompts of the first topic have 5 supporting texts of 6, those of the other one; component 0
    # tells the topics apart, and nothing else.
    places = np.arange(480)
    is_first = places < 240
    is_supporting = np.where(is_first, places % 6 != 0, places % 6 == 0)
    texts.values[:] = np.random.default_rng(3).standard_normal(texts.values.shape)
    texts.values[is_first, :, 0] += 50
    found = {o.label: o for o in find_selective(texts, prompts, is_supporting, seed=0)}["m:0"]
    assert found.auc_overall > 0.75
    assert found.ci_low < 0.5 < found.ci_high
    assert found.p_adjusted > 0.05


def test_the_winner_of_many_is_flattered_only_where_it_was_chosen() -> None:
    best = []
    for seed in range(12):
        texts, prompts, is_supporting = invented(n_prompts=8, n_components=200, seed=seed)
        (winner,) = find_selective(
            texts, prompts, is_supporting, seed=seed, n_shown=1, n_draws=2000
        )
        best.append((abs(winner.auc_selection - 0.5), (winner.auc - 0.5)))
        best[-1] = (best[-1][0], best[-1][1] * np.sign(winner.auc_selection - 0.5))
    flattered, honest = np.mean(best, axis=0)
    assert flattered > 0.25
    assert abs(honest) < 0.1


def test_noise_is_hardly_ever_significant_after_correction() -> None:
    n_found = 0
    for seed in range(40):
        texts, prompts, is_supporting = invented(n_prompts=8, n_components=40, seed=100 + seed)
        found = find_selective(texts, prompts, is_supporting, seed=seed, n_draws=5000)
        n_found += any(one.p_adjusted <= 0.05 for one in found)
    # At most 5% of 40 audits is 2; 6 or more have a probability below 2%.
    assert n_found <= 5


def test_the_correction_counts_every_component_and_not_only_the_chosen() -> None:
    texts, prompts, is_supporting = invented(n_components=500)
    texts.values[is_supporting, 0, 3] += 50
    (one,) = find_selective(texts, prompts, is_supporting, seed=0, n_shown=1, n_draws=1999)
    # No draw of the null is as extreme: 2 / (1 + 1999), times 500 components.
    assert one.p_value == 0.001
    assert one.p_adjusted == pytest.approx(0.5)


def test_no_prompt_on_which_components_were_chosen_is_held_out() -> None:
    texts, prompts, is_supporting = invented(n_prompts=16, n_components=1)
    # The component tells the kinds apart on the spent prompts alone.
    spent = {f"p{i}" for i in range(5)}
    is_spent = np.array([prompt in spent for prompt in prompts])
    texts.values[:] = np.random.default_rng(4).standard_normal(texts.values.shape)
    texts.values[is_spent & is_supporting] += 50
    for seed in range(10):
        (one,) = find_selective(texts, prompts, is_supporting, seed=seed, chosen_on=spent)
        # 8 of the other 11 prompts are held out, as without any spent, with 6 texts each.
        assert (one.n_prompts, one.n_supporting, one.n_other) == (8, 24, 24)
        assert one.auc_selection > 0.6
        assert one.auc < 0.8


def test_where_more_than_half_of_the_prompts_are_spent_the_others_are_held_out() -> None:
    texts, prompts, is_supporting = invented(n_prompts=16, n_components=2)
    spent = {f"p{i}" for i in range(13)}
    one, _ = find_selective(texts, prompts, is_supporting, seed=0, chosen_on=spent)
    assert (one.n_prompts, one.n_supporting, one.n_other) == (3, 9, 9)
    everything = find_selective(texts, prompts, is_supporting, seed=0, chosen_on=set(prompts))
    assert {(one.p_value, one.n_prompts) for one in everything} == {(1.0, 0)}


def test_prompts_with_one_kind_are_divided_apart_from_those_with_both() -> None:
    texts, prompts, is_supporting = invented(n_prompts=12, n_components=1)
    # Prompts 0 to 3 have both kinds, the others supporting texts only; 2 + 4 prompts are held out.
    is_supporting = is_supporting | (np.arange(72) >= 24)
    (one,) = find_selective(texts, prompts, is_supporting, seed=0, chosen_on={"p0", "p7", "p8"})
    assert (one.n_prompts, one.n_supporting, one.n_other) == (2, 2 * 3 + 4 * 6, 2 * 3)


def test_half_of_the_prompts_choose_whatever_the_order_and_as_the_seed_says() -> None:
    prompts = [f"p{i}" for i in range(9)]
    chosen = choosing_prompts([*prompts, *prompts[::2]], [0] * 14, 0)
    assert len(chosen) == 4
    assert chosen == choosing_prompts(prompts[::-1], [0] * 9, 0) < set(prompts)
    assert len({choosing_prompts(prompts, [0] * 9, seed) for seed in range(20)}) > 10
    assert choosing_prompts(["p"], [0], 0) == choosing_prompts([], [], 0) == frozenset()


def test_half_of_the_prompts_of_each_cluster_choose() -> None:
    # Prompts 0 to 5 have two texts in cluster 3 and one elsewhere, 6 to 9 lie in cluster 7.
    prompts = [f"p{i}" for i in range(6) for _ in range(3)] + [f"p{i}" for i in range(6, 10)]
    labels = [3, 7, 3] * 6 + [7] * 4
    for seed in range(20):
        chosen = {int(key[1:]) for key in choosing_prompts(prompts, labels, seed)}
        assert (len([i for i in chosen if i < 6]), len(chosen)) == (3, 5)


def test_equal_seeds_give_equal_answers() -> None:
    texts, prompts, is_supporting = invented()
    runs = [find_selective(texts, prompts, is_supporting, seed=5, n_draws=999) for _ in range(2)]
    assert runs[0] == runs[1]
    assert len({one.label for one in runs[0]}) == len(runs[0]) == 20


def test_a_silent_component_separates_nothing() -> None:
    texts, prompts, is_supporting = invented(n_components=2)
    texts.values[:] = 0
    for one in find_selective(texts, prompts, is_supporting, seed=0):
        assert (one.auc, one.auc_overall, one.p_adjusted) == (0.5, 0.5, 1.0)


def test_no_component_gives_none() -> None:
    texts, prompts, is_supporting = invented(n_components=0)
    assert find_selective(texts, prompts, is_supporting, seed=0) == []


@pytest.mark.parametrize("prompts", [["p"] * 4, ["p", "q", "r", "s"]])
def test_where_nothing_can_be_held_out_nothing_is_claimed(prompts: list[str]) -> None:
    values = np.arange(24, dtype=np.float32).reshape(4, 3, 2)
    texts = TextSummaries(("a", "b", "c", "d"), ("m:0", "m:1"), values)
    found = find_selective(texts, prompts, np.array([True, False, True, False]), seed=0)
    assert len(found) == 2
    for one in found:
        assert math.isnan(one.auc)
        assert (one.ci_low, one.ci_high, one.p_value, one.n_prompts) == (0.0, 1.0, 1.0, 0)


def test_texts_of_one_kind_and_lengths_that_disagree_are_refused() -> None:
    texts, prompts, is_supporting = invented()
    with pytest.raises(UsageError, match="found 0 of 96 supporting"):
        find_selective(texts, prompts, np.zeros(96, bool), seed=0)
    with pytest.raises(UsageError, match="found 96 of 96 supporting"):
        find_selective(texts, prompts, np.ones(96, bool), seed=0)
    with pytest.raises(UsageError, match="96 texts, 95 prompts"):
        find_selective(texts, prompts[:-1], is_supporting, seed=0)
