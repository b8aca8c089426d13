"""What was extracted, stored and read back, and features on single texts."""

import numpy as np
import pytest
from scipy.sparse import csr_array

from tests.unit.saes.synthetic import QUALITY, features_of
from whatchanged.models.sae_features import ExtractedFeatures, Extraction, Reconstruction
from whatchanged.models.saes import SaeSettings
from whatchanged.saes.highlights import (
    Highlight,
    highlight_features,
    show_highlight,
    tabulate_highlights,
    tabulate_texts,
)
from whatchanged.saes.stored import ReadFeatures, make_card, pack_features, unpack_features
from whatchanged.saes.texts import CategorizedText, Corpus

# Texts of 2, 3, 1 and 2 tokens; the last repeats the first.
CORPUS = Corpus(
    (
        CategorizedText("x y", "a"),
        CategorizedText("p q r", "b"),
        CategorizedText("s", "b"),
        CategorizedText("x y", "b"),
    ),
    {},
)
STARTS = np.array([0, 2, 5, 6, 8])
TOKENS = np.array(
    [[0, 1], [0, 0], [5, 0], [0, 0], [3, 0], [4, 0], [0, 1], [0, 0]], dtype=np.float32
)
POOLED = np.array([[0, 1], [5, 0], [4, 0], [0, 1]], dtype=np.float32)
READ = ReadFeatures(features_of(POOLED), csr_array(TOKENS), np.arange(8), STARTS)


def test_stored_features_are_those_extracted_without_explicit_zeros():
    tokens = csr_array(TOKENS)
    tokens.data[0] = 0
    found = ExtractedFeatures(
        csr_array(POOLED), tokens, Reconstruction(0.5, 1.0, 0.0, np.zeros(2), 8)
    )
    extraction = Extraction({"sae-a": found}, np.arange(8), STARTS, 1)
    read = unpack_features(pack_features(found, extraction), READ.sae.card, 2)
    assert read.sae.values.toarray().tolist() == POOLED.tolist()
    assert read.tokens.nnz == 4
    assert read.ids_of(1) == [2, 3, 4]


def test_rates_are_shares_of_the_tokens_of_some_texts():
    assert READ.firing_rates([1, 2]).tolist() == [3 / 4, 0]
    assert READ.firing_rates([0]).tolist() == [0, 1 / 2]


@pytest.mark.parametrize(
    ("hook_name", "layer"),
    [("blocks.7.hook_resid_post", 7), ("model.layers.12", 12), ("lm_head", None)],
)
def test_the_layer_is_the_first_number_of_the_hook_point(hook_name, layer):
    settings = SaeSettings("standard", 4, 8, hook_name, "none", True, 64, neuronpedia_id="m/s")
    card = make_card("one", settings, QUALITY)
    assert (card.layer, card.hook_point) == (layer, hook_name)
    assert card.metadata == {"neuronpedia_id": "m/s"}


def test_a_feature_is_shown_where_it_fires_most_with_its_tokens():
    first, second = highlight_features(READ, CORPUS, {0: set()})
    assert (first.rank, first.text_key, first.peak) == (1, CORPUS.keys[1], 5)
    assert (first.positions, first.activations) == ((0, 2), (5.0, 3.0))
    assert (second.rank, second.text_key, second.positions) == (2, CORPUS.keys[2], (0,))


def test_equal_texts_are_shown_once():
    (only,) = highlight_features(READ, CORPUS, {1: set()})
    assert (only.text_key, only.category, only.positions) == (CORPUS.keys[0], "a", (0,))


def test_a_category_that_is_asked_for_is_shown_beyond_the_first_texts():
    values = np.array([[3], [0], [0], [0], [0], [2], [0], [0]], dtype=np.float32)
    pooled = np.array([[3], [0], [2], [0]], dtype=np.float32)
    read = ReadFeatures(features_of(pooled), csr_array(values), np.arange(8), STARTS)
    found = highlight_features(read, CORPUS, {0: {"b"}}, n_texts=1)
    assert [(one.rank, one.category) for one in found] == [(1, "a"), (2, "b")]
    assert len(highlight_features(read, CORPUS, {0: set()}, n_texts=1)) == 1


def test_tables_hold_what_positions_mean():
    texts = tabulate_texts(CORPUS, [["x", " y"], ["p", " q", " r"], ["s"], None])
    rows = tabulate_highlights(highlight_features(READ, CORPUS, {0: set()}))
    tokens = dict(zip(texts["text_key"], texts["tokens"], strict=True))
    assert [tokens[rows.text_key[0]][i] for i in rows.positions[0]] == ["p", " r"]
    assert texts["category"].tolist() == ["a", "b", "b", "b"]


def test_firing_tokens_are_bold_and_nothing_of_the_text_is_markup():
    one = Highlight("sae-a", 0, 1, "key", "a", 1.0, (1, 2, 4), (1.0, 1.0, 1.0))
    pieces = ["a*b", " c", "d ", "<e>", "\n"]
    shown = show_highlight(one, "".join(pieces), pieces)
    assert shown == r"a\*b **cd** &lt;e&gt;"
    assert show_highlight(one, "a*b", None) == r"a\*b"
