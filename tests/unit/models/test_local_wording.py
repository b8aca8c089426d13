"""Texts as words, runs of words and overlaps."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whatchanged.models.ngrams import (
    count_ngrams,
    extend_run,
    find_run,
    mark_texts,
    read_stream,
)
from whatchanged.models.overlap import overlap_phrase, overlap_sentences, prepare_needle
from whatchanged.models.signs import find_signs
from whatchanged.models.wording import read_wording, read_words, surface_of, word_weight


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don’t stop: 3.5 well-known kites!", ["don't", "stop", "3.5", "well-known", "kites"]),
        ("rock 'n' roll -- 1,000 times", ["rock", "n", "roll", "1,000", "times"]),
        ("Çay içmek güzel", ["çay", "içmek", "güzel"]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("茶を飲む", ["茶", "を", "飲", "む"]),
        ("cafe\u0301 noir", ["cafe\u0301", "noir"]),
        (" ... 🪁 !", []),
    ],
)
def test_words_are_read_in_any_script(text, words):
    assert list(read_words(text)) == words


@given(st.text(max_size=120))
def test_no_text_breaks_the_reader(text):
    wording = read_wording(text)

    assert sum(len(sentence) for sentence in wording.sentences) == len(wording.words)
    assert all(word and not any(c.isspace() for c in word) for word in wording.words)


def test_the_surface_keeps_case_and_inner_punctuation():
    text = "So. Well, you KNOW I can’t, friend."

    assert surface_of(("well", "you", "know"), text) == "Well, you KNOW"
    assert surface_of(("i", "can't"), text) == "I can’t"
    assert surface_of(("not", "there"), text) == "not there"


def test_signs_are_the_symbols_that_no_feature_names():
    assert find_signs("§ 5 & more! Fine? (yes) 🪁 cafe\u0301") == {"§", "&"}


def test_texts_are_counted_once_per_run_and_runs_stop_at_the_sentence_end():
    stream = read_stream(["a kite. a kite flies", "the kite. A bird", "a kite"])

    levels = count_ngrams(stream, max_words=3, min_texts=2)

    named = {
        tuple(stream.vocabulary[i] for i in stream.ids[start : start + level.length]): count
        for level in levels
        for start, count in zip(
            level.first_starts(), level.count_texts(np.ones(3, bool)), strict=True
        )
    }
    assert named == {("a",): 3, ("kite",): 3, ("a", "kite"): 2}


@given(st.lists(st.text("ab .", max_size=12), min_size=1, max_size=8), st.integers(1, 3))
def test_runs_are_counted_like_a_slow_reader_would(texts, min_texts):
    stream = read_stream(texts)
    levels = count_ngrams(stream, max_words=4, min_texts=min_texts)

    held: dict[tuple[str, ...], set[int]] = {}
    for row, text in enumerate(texts):
        for sentence in read_wording(text).sentences:
            for length in range(1, 5):
                for start in range(len(sentence) - length + 1):
                    held.setdefault(sentence[start : start + length], set()).add(row)
    expected = {run: rows for run, rows in held.items() if len(rows) >= min_texts}
    found = {}
    for level in levels:
        for gram, start in enumerate(level.first_starts()):
            word_ids = stream.ids[start : start + level.length]
            run = tuple(stream.vocabulary[i] for i in word_ids)
            found[run] = set(level.texts[level.bounds[gram] : level.bounds[gram + 1]].tolist())
            marked = mark_texts(stream, find_run(stream, word_ids))
            assert set(np.flatnonzero(marked)) == found[run]
    assert found == expected


def test_a_run_grows_to_the_longest_phrase_that_its_texts_share():
    texts = [
        "Ask at the mossy inn today.",
        "Sleep at the mossy inn.",
        "at the mossy inn we met",
    ] * 4
    stream = read_stream(texts)
    mossy = np.array([stream.vocabulary.index("mossy")])

    grown = extend_run(stream, mossy, min_share=0.9, max_words=12)

    assert [stream.vocabulary[i] for i in grown] == ["at", "the", "mossy", "inn"]


def test_an_overlap_is_the_heaviest_ordered_part_within_a_window():
    needle = prepare_needle("try the harbour bakery")  # weights 10 3 10 10

    def share(text):
        return overlap_phrase(needle, read_words(text)).share

    assert share("you may try the old harbour bakery") == 1.0
    assert share("the bakery of a harbour") == pytest.approx(13 / 33)  # in order: the ... bakery
    assert share("nothing of it at all") == 0.0
    assert share("try one two three four five six harbour bakery") == pytest.approx(20 / 33)


def test_equal_sentences_overlap_fully_and_grammar_hardly_counts():
    soup = read_words("The soup was cold.")  # weights 3 10 3 10

    assert overlap_sentences(soup, soup) == 1.0
    assert overlap_sentences(soup, read_words("The kite was red.")) == pytest.approx(12 / 52)
    assert overlap_sentences(soup, ()) == 0.0


def test_short_words_and_grammar_weigh_less_but_no_and_signs_of_unspaced_scripts_do_not():
    assert [word_weight(w) for w in ("the", "de", "kite", "no", "茶", "42")] == [
        3, 3, 10, 10, 10, 10,
    ]  # fmt: skip
