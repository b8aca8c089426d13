import math

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from whatchanged.keys import content_key
from whatchanged.models.sampling import draw_uniforms, pick_tokens

FOUR = torch.tensor([[0.1, 0.2, 0.3, 0.4]]).log()
LARGEST = math.nextafter(1.0, 0.0)


def pick(logits: torch.Tensor, *uniforms: float, **options: float) -> list[int]:
    rows = logits.expand(len(uniforms), -1)
    tokens, is_sound = pick_tokens(rows, torch.tensor(uniforms, dtype=torch.float64), **options)
    assert bool(is_sound.all())
    return tokens.tolist()


def test_a_row_of_uniforms_depends_on_its_key_alone() -> None:
    a, b = content_key("text", "a"), content_key("text", "b")
    both = draw_uniforms([a, b], 5)
    assert np.array_equal(both, draw_uniforms([b, a], 5)[::-1])
    assert np.array_equal(both[:, :3], draw_uniforms([a, b], 3))
    assert not np.array_equal(both[0], both[1])
    assert both.min() >= 0
    assert both.max() < 1


def test_zero_texts_have_zero_rows_of_uniforms() -> None:
    assert draw_uniforms([], 4).shape == (0, 4)


def test_uniforms_of_many_keys_are_uniform() -> None:
    drawn = draw_uniforms([content_key("text", i) for i in range(2000)], 2)
    counts = np.histogram(drawn[:, 0], bins=10, range=(0, 1))[0]
    assert ((counts - 200) ** 2 / 200).sum() < 27.9  # chi-square, 9 degrees of freedom, p = 0.001
    assert abs(np.corrcoef(drawn.T)[0, 1]) < 0.08  # three and a half standard errors


def test_a_token_is_the_inverse_of_the_cumulative_distribution() -> None:
    # Cumulative: 0.1, 0.3, 0.6, 1.
    assert pick(FOUR, 0.05, 0.15, 0.29, 0.31, 0.59, 0.61, LARGEST) == [0, 1, 1, 2, 2, 3, 3]


def test_a_temperature_sharpens_the_distribution() -> None:
    # Squared and normalized: 1/30, 4/30, 9/30, 16/30; cumulative 0.033, 0.167, 0.467, 1.
    assert pick(FOUR, 0.05, 0.2, 0.45, 0.5, temperature=0.5) == [1, 2, 2, 3]


def test_a_tiny_temperature_takes_the_most_likely_token() -> None:
    assert pick(FOUR, 0.0, 0.5, LARGEST, temperature=1e-6) == [3, 3, 3]


def test_a_nucleus_keeps_the_smallest_set_that_reaches_top_p() -> None:
    # 0.4 + 0.3 reach 0.65; tokens 2 and 3 are left with 3/7 and 4/7, in token order.
    assert pick(FOUR, 0.0, 0.42, 0.44, LARGEST, top_p=0.65) == [2, 2, 3, 3]


def test_a_tiny_nucleus_keeps_the_most_likely_token() -> None:
    assert pick(FOUR, 0.0, LARGEST, top_p=1e-12) == [3, 3]


def test_a_row_without_a_distribution_is_marked() -> None:
    bad = torch.tensor([[0.0, math.nan], [-math.inf, -math.inf], [math.inf, 0.0], [0.0, 0.0]])
    halves = torch.full((4,), 0.5, dtype=torch.float64)
    assert pick_tokens(bad, halves)[1].tolist() == [False, False, False, True]
    assert pick_tokens(bad, halves, top_p=0.5)[1].tolist() == [False, False, False, True]


@settings(max_examples=60, deadline=None)
@given(
    n_vocab=st.integers(1, 300),
    seed=st.integers(0, 2**32),
    uniform=st.one_of(st.just(0.0), st.just(LARGEST), st.floats(0, 1, exclude_max=True)),
    share=st.floats(0, 1),
)
def test_a_token_of_probability_zero_is_never_picked(
    n_vocab: int, seed: int, uniform: float, share: float
) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=8, size=n_vocab)
    is_possible = rng.random(n_vocab) >= share
    is_possible[rng.integers(n_vocab)] = True
    logits[~is_possible] = -math.inf
    [token] = pick(torch.tensor(logits[None], dtype=torch.float32), uniform)
    assert is_possible[token]


@settings(max_examples=40, deadline=None)
@given(n_vocab=st.integers(2, 3000), seed=st.integers(0, 2**32))
def test_two_levels_agree_with_one_cumulative_sum(n_vocab: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(50, n_vocab, generator=generator) * 3
    uniforms = torch.rand(50, generator=generator, dtype=torch.float64)
    cumulative = logits.double().softmax(-1).cumsum(-1)
    tokens, _ = pick_tokens(logits, uniforms)
    below = torch.where(tokens > 0, cumulative[range(50), tokens - 1], 0.0)
    above = cumulative[range(50), tokens]
    # Rounding in float32 may move a boundary by a few units in the seventh digit.
    assert bool((below <= uniforms + 2e-6).all())
    assert bool((uniforms <= above + 2e-6).all())
