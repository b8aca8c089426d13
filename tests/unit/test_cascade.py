import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whatchanged.cascade import (
    choose_pilot,
    choose_wave,
    permanent_order,
    stratify_pairs,
    stratify_texts,
)
from whatchanged.errors import UsageError

BAND = (0.4, 0.6)


def asked(strata, share, seed=0, border=1.0):
    n = len(strata.labels)
    return choose_wave(strata, permanent_order(n, seed), share, border, np.zeros(n, dtype=bool))


def test_the_bounds_of_the_band_belong_to_it():
    strata = stratify_texts([0.39, 0.4, 0.5, 0.6, 0.61], BAND)
    assert strata.is_borderline[strata.labels].tolist() == [False, True, True, True, False]
    assert asked(strata, 0.0).tolist() == [False, True, True, True, False]


def test_a_share_of_the_border_is_asked_about_apart_from_the_others():
    # 0.3 of the 50 on the border, and 0.1 of the 50 others, who are all alike.
    strata = stratify_texts([0.5] * 50 + [0.2] * 50, BAND)
    chosen = asked(strata, 0.1, border=0.3)
    assert (chosen[:50].sum(), chosen[50:].sum()) == (15, 5)


def test_texts_are_asked_about_in_proportion_to_their_uncertainty():
    # Uncertainties: 0.1 (the least) and sqrt(0.2 * 0.8) = 0.4, on average 0.25. A share of 0.1
    # is 0.04 of the sure 50 and 0.16 of the unsure 50.
    strata = stratify_texts([0.0] * 50 + [0.2] * 50, BAND)
    chosen = asked(strata, 0.1)
    assert (chosen[:50].sum(), chosen[50:].sum()) == (2, 8)


def test_a_share_of_one_asks_about_all_but_identical_pairs():
    assert asked(stratify_texts([0.0, 0.3, 1.0], BAND), 1.0).all()
    pairs = stratify_pairs([[0.2, 0.2], [0.2, 0.9]], np.array([True, False]), BAND)
    assert asked(pairs, 1.0).tolist() == [False, True]


def test_identical_pairs_are_never_asked_about_even_on_the_border():
    is_identical = np.array([True, False, False])
    strata = stratify_pairs([[0.5, 0.5], [0.5, 0.1], [0.1, 0.1]], is_identical, BAND)
    assert asked(strata, 0.2).tolist() == [False, True, True]
    assert choose_pilot(np.array([0, 1, 2]), 0.5, is_identical).tolist() == [False, True, False]


def test_swapping_the_texts_of_a_pair_changes_nothing():
    scores = np.random.default_rng(3).random((200, 2))
    none = np.zeros(200, dtype=bool)
    one, other = (stratify_pairs(s, none, BAND) for s in (scores, scores[:, ::-1]))
    assert (one.labels == other.labels).all()
    assert (asked(one, 0.2) == asked(other, 0.2)).all()


@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=60),
    st.lists(st.floats(0, 1), min_size=2, max_size=4),
    st.integers(0, 5),
)
def test_waves_hold_the_pilot_and_one_another(scores, shares, seed):
    strata, order = stratify_texts(scores, BAND), permanent_order(len(scores), seed)
    chosen = pilot = choose_pilot(order, 0.03)
    assert pilot.sum() == -(-3 * len(scores) // 100)
    for share in sorted(shares):
        more = choose_wave(strata, order, share, share, chosen)
        assert (more | ~chosen).all()
        chosen = more


def test_the_pilot_comes_first_in_every_stratum():
    # What the pilot took of a stratum is what a wave takes first: a simple random sample.
    scores = np.random.default_rng(4).random(300)
    strata, order = stratify_texts(scores, BAND), permanent_order(300, 1)
    chosen = choose_wave(strata, order, 0.2, 0.5, choose_pilot(order, 0.1))
    for label in np.unique(strata.labels):
        places = order[strata.labels == label]
        taken = chosen[strata.labels == label]
        assert places[taken].max(initial=-1) < places[~taken].min(initial=300)


def test_every_text_of_a_stratum_is_as_likely():
    strata = stratify_texts([0.2] * 10 + [0.0] * 10, BAND)
    counts = sum(asked(strata, 0.4, seed).astype(int) for seed in range(2000))
    # 0.64 of ten, rounded up, are 7; 0.16 of ten are 2. Four standard errors of 2,000 draws.
    assert counts[:10] / 2000 == pytest.approx(np.full(10, 0.7), abs=0.041)
    assert counts[10:] / 2000 == pytest.approx(np.full(10, 0.2), abs=0.036)


def test_scores_that_are_missing_are_refused():
    with pytest.raises(UsageError, match="leave unanswered texts out"):
        stratify_texts([0.2, np.nan], BAND)
