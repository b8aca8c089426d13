import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from whatchanged.keys import content_key
from whatchanged.models.sampling import TokenPicker, draw_noise_keys, relative_weights

FOUR = torch.tensor([0.1, 0.2, 0.3, 0.4]).log()


def keys(n: int, name: str = "text") -> torch.Tensor:
    """One step of `n` texts, `(n, 2)`."""
    return torch.from_numpy(draw_noise_keys([content_key(name, i) for i in range(n)], 1)[:, 0])


def picker(n_rows: int, n_vocab: int, **options: float) -> TokenPicker:
    return TokenPicker(n_rows, n_vocab, torch.device("cpu"), **options)


def exponential_noise(noise: torch.Tensor, n_vocab: int) -> torch.Tensor:
    return picker(len(noise), n_vocab).exponential_noise(noise)


def pick(logits: torch.Tensor, noise: torch.Tensor, **options: float) -> torch.Tensor:
    tokens, is_sound = picker(len(noise), len(logits), **options).pick(
        logits.expand(len(noise), -1), noise
    )
    assert bool(is_sound.all())
    return tokens


def chi_square(counts: torch.Tensor, shares: torch.Tensor) -> float:
    expected = shares * counts.sum()
    return float(((counts - expected) ** 2 / expected).sum())


def test_noise_keys_of_a_text_depend_on_its_own_key_alone() -> None:
    a, b = content_key("text", "a"), content_key("text", "b")
    both = draw_noise_keys([a, b], 5)
    assert both.shape == (2, 5, 2)
    assert np.array_equal(both, draw_noise_keys([b, a], 5)[::-1])
    assert np.array_equal(both[:, :3], draw_noise_keys([a, b], 3))
    assert len(np.unique(both)) == both.size


def test_zero_texts_have_zero_rows_of_noise() -> None:
    assert draw_noise_keys([], 4).shape == (0, 4, 2)
    assert exponential_noise(torch.zeros(0, 2, dtype=torch.int32), 3).shape == (0, 3)


def test_noise_is_the_same_in_every_batch_and_for_every_vocabulary() -> None:
    noise = exponential_noise(keys(20), 50)
    assert torch.equal(noise[7:9], exponential_noise(keys(20)[7:9], 50))
    assert torch.equal(noise[:, :30], exponential_noise(keys(20), 30))


@pytest.mark.parametrize("transposed", [False, True])
def test_noise_is_exponential_along_texts_and_along_tokens(transposed: bool) -> None:
    noise = exponential_noise(keys(400), 500)
    table = noise.T if transposed else noise
    uniforms = -torch.expm1(-table.double())
    counts = torch.histc(uniforms, bins=100, min=0, max=1)
    # 99 degrees of freedom: the 0.999 quantile of the chi-square distribution is 148.2.
    assert chi_square(counts, torch.full((100,), 0.01)) < 148.2
    # Neighbours, along either axis, are uncorrelated: three and a half standard errors.
    pairs = torch.stack([uniforms[:, :-1].reshape(-1), uniforms[:, 1:].reshape(-1)])
    assert abs(float(torch.corrcoef(pairs)[0, 1])) < 3.5 / math.sqrt(pairs.shape[1])
    # Rows do not favour an end: the mean of each is within five standard errors.
    assert float((uniforms.mean(dim=1) - 0.5).abs().max()) < 5 * math.sqrt(1 / 12 / table.shape[1])


def test_steps_of_a_text_have_unrelated_noise() -> None:
    steps = torch.from_numpy(draw_noise_keys([content_key("text", 0)], 300)[0])
    uniforms = -torch.expm1(-exponential_noise(steps, 300).double())
    correlation = torch.corrcoef(uniforms) - torch.eye(300)
    # 44,850 pairs of steps, each with 300 tokens: the largest of so many is about 4.4 / sqrt(300).
    assert float(correlation.abs().max()) < 5.5 / math.sqrt(300)
    # Its square has the mean 1 / 299.
    assert abs(float((correlation**2).sum()) / (300 * 299) * 299 - 1) < 0.05


def test_tokens_follow_the_distribution() -> None:
    counts = torch.bincount(pick(FOUR, keys(20_000)), minlength=4)
    assert chi_square(counts, FOUR.exp()) < 16.3  # 3 degrees of freedom, p = 0.001


def test_rare_tokens_of_a_large_vocabulary_keep_their_probability() -> None:
    logits = torch.full((2000,), math.log(0.1 / 1999))
    logits[7] = math.log(0.9)
    tokens = pick(logits, keys(20_000))
    n_rare = int((tokens != 7).sum())
    assert abs(n_rare - 2000) < 4 * math.sqrt(20_000 * 0.1 * 0.9)
    # 2,000 draws over 1,999 tokens hit about 1,999 (1 - 1/e) = 1,264 distinct ones.
    assert 1190 < len(tokens[tokens != 7].unique()) < 1340


def test_a_temperature_sharpens_the_distribution() -> None:
    # Squared and normalized: 1/30, 4/30, 9/30, 16/30.
    counts = torch.bincount(pick(FOUR, keys(20_000), temperature=0.5), minlength=4)
    assert chi_square(counts, torch.tensor([1, 4, 9, 16]) / 30) < 16.3


def test_a_tiny_temperature_takes_the_most_likely_token() -> None:
    assert pick(FOUR, keys(50), temperature=1e-6).tolist() == [3] * 50


def test_a_nucleus_keeps_the_smallest_set_that_reaches_top_p() -> None:
    # 0.4 + 0.3 reach 0.65; tokens 2 and 3 are left with 3/7 and 4/7.
    counts = torch.bincount(pick(FOUR, keys(20_000), top_p=0.65), minlength=4)
    assert counts[:2].tolist() == [0, 0]
    assert chi_square(counts[2:], torch.tensor([3, 4]) / 7) < 10.8  # 1 degree of freedom


def test_a_tiny_nucleus_keeps_the_most_likely_token() -> None:
    assert pick(FOUR, keys(50), top_p=1e-12).tolist() == [3] * 50


def test_a_row_without_a_distribution_is_marked() -> None:
    bad = torch.tensor([[0.0, math.nan], [-math.inf, -math.inf], [math.inf, 0.0], [0.0, 0.0]])
    for top_p in (1.0, 0.5):
        is_sound = picker(4, 2, top_p=top_p).pick(bad, keys(4))[1]
        assert is_sound.tolist() == [False, False, False, True]


def test_a_picker_serves_batches_that_shrink() -> None:
    noise, shared = keys(30), picker(30, 4)
    full = shared.pick(FOUR.expand(30, -1), noise)[0]
    assert torch.equal(shared.pick(FOUR.expand(9, -1), noise[:9])[0], full[:9])


def test_one_noise_key_gives_one_token_until_the_distributions_differ() -> None:
    noise = keys(20_000)
    assert torch.equal(pick(FOUR, noise), pick(FOUR + 3.0, noise))


def test_different_tokens_are_as_rare_as_the_coupling_promises() -> None:
    """With P = (0.1 .. 0.4) and Q moving 0.1 from the last token to the first, TV is 0.1."""
    noise = keys(40_000)
    moved = torch.tensor([0.2, 0.2, 0.3, 0.3]).log()
    one, other = pick(FOUR, noise), pick(moved, noise)
    assert chi_square(torch.bincount(other, minlength=4), moved.exp()) < 16.3
    share_differing = float((one != other).float().mean())
    margin = 4 * math.sqrt(0.18 * 0.82 / 40_000)
    # At least TV, which no coupling beats; at most 2 TV / (1 + TV) = 0.18.
    assert 0.1 - margin < share_differing < 0.2 / 1.1 + margin


@settings(max_examples=60, deadline=None)
@given(n_vocab=st.integers(1, 300), seed=st.integers(0, 2**32), share=st.floats(0, 1))
def test_a_token_of_probability_zero_is_never_picked(n_vocab: int, seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=8, size=n_vocab)
    is_possible = rng.random(n_vocab) >= share
    is_possible[rng.integers(n_vocab)] = True
    logits[~is_possible] = -math.inf
    for token in pick(torch.tensor(logits, dtype=torch.float32), keys(5, str(seed))):
        assert is_possible[int(token)]


def test_weights_are_probabilities_up_to_a_factor() -> None:
    weights = relative_weights(FOUR[None].clone(), 1.0)
    assert torch.allclose(weights, torch.tensor([[0.25, 0.5, 0.75, 1.0]]))
