"""The web pack of a comparison of SAEs, read back."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from benchmarks.dashboard_saes import invent_comparison, pack_comparison
from tests.unit.test_pack import read_part
from whatchanged.dashboard.sae_parts import MAX_SPECIALISTS, SaePack, encode_table


@pytest.fixture(scope="module")
def pack() -> SaePack:
    # "\U0001f415" is two units of JavaScript.
    texts = ["The old dog", "A \U0001f415 barks", "Cats purr"]
    return pack_comparison(invent_comparison(["topk", "poor"], ["pets", "law"], texts))


def test_a_table_keeps_numbers_words_and_what_is_missing() -> None:
    table = pd.DataFrame(
        {"sae": ["a", "b", "a"], "n": [1, None, 3], "is_used": [True, False, True],
         "category": ["x", None, "y"], "explained_variance": [0.5, 0.5, 0.5]}
    ).convert_dtypes()  # fmt: skip
    values, columns = read_part(encode_table(table))
    assert values == {"n": 3, "n_left_out": 0, "words": {"sae": ["a", "b"], "category": ["x", "y"]}}
    assert columns["sae"].tolist() == [1, 2, 1]
    assert columns["category"].tolist() == [1, 0, 2]
    assert np.array_equal(columns["n"], [1, np.nan, 3], equal_nan=True)
    assert columns["is_used"].tolist() == [1, 0, 1]
    assert "explained_variance" not in columns


def test_a_link_to_anywhere_but_neuronpedia_is_left_out() -> None:
    links = ["https://www.neuronpedia.org/gpt2-small/8-res-jb/5", "javascript:alert(1)",
             "https://www.neuronpedia.org.evil/a/b/5", None]  # fmt: skip
    values, columns = read_part(encode_table(pd.DataFrame({"link": links})))
    assert values["words"]["link"] == links[:1]
    assert columns["link"].tolist() == [1, 0, 0, 0]


def test_highlights_point_at_tokens_of_quoted_texts(pack: SaePack) -> None:
    _, columns = read_part(pack.part("highlights/1"))
    values, texts = read_part(pack.part("quoted/0"))
    assert columns["feature"].tolist() == [0, 0, 0, 1, 1, 1]
    assert columns["text"].tolist() == [0, 1, 2, 0, 1, 2]
    assert columns["fire_start"].tolist() == [0, 2, 4, 6, 8, 10, 12]
    assert columns["fire_position"][:2].tolist() == [1, 2]
    assert columns["fire_value"][:2].tolist() == [1.0, 2.0]
    assert values["text"][1] == "A \U0001f415 barks"
    # The start token, the words with their spaces; the tokens of the third text are unknown.
    assert texts["token_length"].tolist() == [0, 3, 4, 4, 0, 1, 3, 6]
    assert texts["token_start"].tolist() == [0, 4, 8, 8]


def test_the_matrix_knows_what_the_model_uses(pack: SaePack) -> None:
    values, columns = read_part(pack.part("table/categories"))
    assert values["words"]["category"] == ["pets", "law"]
    # Feature 0 of the first category is used, feature 1 of the second is not.
    assert columns["n_used"].tolist() == [1, 0, 1, 0, 1, 0, 1, 0]


def test_the_best_specialists_are_kept_and_the_others_counted() -> None:
    n = MAX_SPECIALISTS // 2 + 1
    run = invent_comparison(["topk"], ["pets"], ["A dog"], n_specialists=n)
    values, columns = read_part(pack_comparison(run).part("specialists/0"))
    assert (values["n"], values["n_left_out"]) == (MAX_SPECIALISTS, 2)
    assert columns["feature"][0] == 0
    assert set(columns["threshold"][:n].tolist()) == {1}


def test_the_same_comparison_gives_the_same_parts_and_no_other_names(pack: SaePack) -> None:
    parts = dict(pack.parts())
    assert sorted(parts) == sorted(pack.names())
    assert parts == dict(pack.parts())
    with pytest.raises(KeyError):
        pack.part("table/nothing")
