import math

import numpy as np
import pytest

from tests.unit.saes.synthetic import features_of
from whatchanged.errors import UsageError
from whatchanged.saes.features import Threshold
from whatchanged.saes.overlap import match_decoders, match_firing, measure_overlap

EYE = np.eye(3, dtype=np.float32)


def test_directions_are_matched_whatever_their_length():
    other = np.array([[0, 5, 0], [3, 4, 0], [0, 0, -1]], dtype=np.float32)
    found = match_decoders(2 * EYE, other)
    # Cosines: (0, 0.6, 0), (1, 0.8, 0), (0, 0, -1).
    assert found.partner.tolist() == [1, 0, -1]
    assert found.similarity == pytest.approx([0.6, 1.0, 0.0])
    # The likest of (3, 4, 0) is the second direction, whose own likest is another.
    assert found.is_mutual.tolist() == [False, True, False]


def test_a_direction_of_length_zero_has_no_partner():
    zero = np.array([[0, 0, 0], [1, 0, 0]], dtype=np.float32)
    found = match_decoders(zero, EYE)
    assert found.partner.tolist() == [-1, 0]
    assert found.similarity.tolist() == [0.0, 1.0]
    assert match_decoders(EYE, zero).partner.tolist() == [1, -1, -1]


@pytest.mark.parametrize("rows_at_once", [1, 7, 1000])
def test_blocks_of_any_size_give_the_matches_of_all_pairs(rows_at_once):
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=(n, 16)).astype(np.float32) for n in (50, 30))
    units = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b)]
    cosines = units[0] @ units[1].T
    found = match_decoders(a, b, rows_at_once=rows_at_once)
    assert found.partner.tolist() == cosines.argmax(axis=1).tolist()
    assert found.similarity == pytest.approx(cosines.max(axis=1), abs=1e-6)
    mutual = cosines.argmax(axis=0)[found.partner] == np.arange(50)
    assert found.is_mutual.tolist() == mutual.tolist()


@pytest.mark.parametrize("rows_at_once", [1, 4, 1000])
def test_co_firing_is_the_jaccard_index_of_the_texts(rows_at_once):
    rng = np.random.default_rng(1)
    a, b = (np.where(rng.random((20, n)) < 0.3, 1.0, 0) for n in (9, 12))
    both = a.T @ b
    either = a.sum(axis=0)[:, None] + b.sum(axis=0) - both
    jaccard = np.divide(both, either, out=np.zeros_like(both), where=either > 0)
    found = match_firing(features_of(a), features_of(b), rows_at_once=rows_at_once)
    assert found.similarity == pytest.approx(jaccard.max(axis=1))
    has_partner = found.partner >= 0
    rows = np.flatnonzero(has_partner)
    assert jaccard[rows, found.partner[rows]] == pytest.approx(jaccard.max(axis=1)[rows])


def test_each_sae_fires_above_its_own_threshold():
    a, b = features_of([[1.0], [3.0]]), features_of([[10.0], [30.0]], "sae-b")
    assert match_firing(a, b).similarity.tolist() == [1.0]
    apart = match_firing(a, b, Threshold("two", 2.0), Threshold("zero", 0.0))
    assert apart.similarity.tolist() == [0.5]


def test_an_sae_is_itself():
    rng = np.random.default_rng(2)
    sae = features_of(rng.random((12, 3)) * (rng.random((12, 3)) < 0.5))
    found = measure_overlap(sae, sae, EYE, EYE)
    assert (found.mean_cosine, found.share_same_direction) == (1.0, 1.0)
    assert (found.share_mutual_direction, found.mean_jaccard) == (1.0, 1.0)


def test_a_silent_sae_shares_directions_and_no_texts():
    silent = features_of(np.zeros((4, 3)), "silent")
    found = measure_overlap(silent, features_of(np.ones((4, 3))), EYE, EYE)
    assert found.mean_cosine == 1.0
    assert math.isnan(found.mean_jaccard)
    assert found.share_mutual_firing == 0.0


def test_saes_that_cannot_be_compared_are_refused():
    sae = features_of(np.ones((2, 3)))
    elsewhere = features_of(np.ones((2, 3)), hook_point="blocks.2.hook_resid_post")
    with pytest.raises(UsageError, match=r"one hook point, found blocks\.1.* and blocks\.2"):
        measure_overlap(sae, elsewhere, EYE, EYE)
    with pytest.raises(UsageError, match=r"a decoder row for each of 3 features.*\(2, 3\)"):
        measure_overlap(sae, sae, EYE, EYE[:2])
    with pytest.raises(UsageError, match="found 3 and 2 dimensions"):
        match_decoders(EYE, EYE[:, :2])
    with pytest.raises(UsageError, match="found 2 and 5 texts"):
        match_firing(sae, features_of(np.ones((5, 3))))
