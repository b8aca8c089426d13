"""The texts of a comparison."""

import json

import pytest

from whatchanged.errors import InputError
from whatchanged.sae_config import SaeComparisonConfig
from whatchanged.saes.texts import CategorizedText, Corpus, read_categorized, read_corpus


def corpus_of(rows, concepts=None):
    return Corpus(tuple(CategorizedText(*row) for row in rows), concepts or {})


def config_of(path, **options):
    return SaeComparisonConfig(
        model={"model": "demo:base"}, saes=[{"folder": "a"}], texts={"file": str(path)}, **options
    )


def write_rows(path, *rows):
    path.write_text("\n".join(json.dumps({"text": t, "category": c}) for t, c in rows))
    return path


def test_duplicates_keep_their_rows_and_have_one_key():
    corpus = corpus_of([("x", "a"), ("y", "b"), ("x", "b")])
    assert corpus.texts == ["x", "y", "x"]
    assert corpus.keys[0] == corpus.keys[2] != corpus.keys[1]
    assert corpus.groups.categories == ("a", "b")
    assert corpus.groups.text_of.tolist() == [0, 1, 0]


def test_texts_of_concepts_stand_behind_and_are_in_no_category():
    corpus = corpus_of([("x", "a"), ("y", "b")], {"one": ("p",), "two": ("q", "y")})
    assert corpus.texts == ["x", "y", "p", "q", "y"]
    assert corpus.groups.n_texts == 2
    places, groups = corpus.contrast("one")
    assert places.tolist() == [2, 0, 1]
    assert [groups.categories[i] for i in groups.category_of] == ["one", "not one", "not one"]


def test_a_categorized_text_that_a_concept_names_is_no_background():
    corpus = corpus_of([("x", "a"), ("y", "b")], {"one": ("p",), "two": ("q", "y")})
    places, groups = corpus.contrast("two")
    assert places.tolist() == [3, 4, 0]
    assert [groups.categories[i] for i in groups.category_of] == ["two", "two", "not two"]


def test_rows_are_read_in_order_and_each_category_is_cut(tmp_path):
    path = write_rows(tmp_path / "t.jsonl", ("x", "a"), ("y", "b"), ("z", "a"), ("x", "a"))
    assert [row.text for row in read_corpus(config_of(path)).rows] == ["x", "y", "z", "x"]
    cut = config_of(path).model_copy(
        update={"texts": config_of(path).texts.model_copy(update={"n_per_category": 1})}
    )
    assert [row.text for row in read_corpus(cut).rows] == ["x", "y"]


def test_a_concept_without_a_background_is_refused(tmp_path):
    path = write_rows(tmp_path / "t.jsonl", ("x", "a"))
    with pytest.raises(InputError, match="beside those of the concept 'c'"):
        read_corpus(config_of(path, concepts={"c": ["x"]}))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 1: expected .* found invalid JSON"),
        ("[1]", "line 1: expected"),
        ('{"text": "x"}', "line 1: expected"),
        ('{"text": 1, "category": "a"}', "line 1: expected"),
        ('{"text": " ", "category": "a"}', "expected a text, found an empty one"),
        ('{"text": "x", "category": ""}', "expected a category, found an empty one"),
        ('{"text": "x\\ud83d", "category": "a"}', "lone surrogate"),
        ("", "found an empty file"),
    ],
)
def test_a_bad_row_is_named_with_its_line(tmp_path, line, message):
    (tmp_path / "t.jsonl").write_text(line)
    with pytest.raises(InputError, match=message):
        read_categorized(tmp_path / "t.jsonl")


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"expected a file of categorized texts at .*absent"):
        read_categorized(tmp_path / "absent.jsonl")
