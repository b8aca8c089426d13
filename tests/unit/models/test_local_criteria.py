"""The language of criteria: written by functions, read back by one parser."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whatchanged.models.criteria import (
    Generic,
    HasFeature,
    HasLength,
    HasPhrase,
    HasSentence,
    HasSign,
    can_explain,
    count_criterion,
    is_readable,
    may_mirror,
    parse_criterion,
    quotations,
    write_claim,
    write_criterion,
)
from whatchanged.models.signs import FEATURES

CONTENT = st.text(min_size=1, max_size=60) | st.sampled_from(
    ['he said "no" twice', '", or nearly the same words.', '".', '"', "«oui»\nnon"]
)
CRITERIA = st.one_of(
    st.builds(HasPhrase, CONTENT),
    st.builds(HasSentence, CONTENT),
    st.builds(HasLength, st.sampled_from(["at most", "at least"]), st.integers(0, 10**9 - 1)),
    st.builds(HasFeature, st.sampled_from(sorted(FEATURES))),
    st.builds(HasSign, st.characters()),
)


@given(CRITERIA)
def test_what_is_written_is_read_back(criterion):
    assert parse_criterion(write_criterion(criterion)) == criterion


@given(st.text(max_size=80))
def test_any_other_sentence_is_generic_and_stays_itself(text):
    assert parse_criterion(text) == Generic(text)
    assert write_criterion(Generic(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "The reply has at most 01 words.",
        "The reply has at most 1 words.",
        "The reply has at most 5 words, or so.",
        'The reply contains the words "", or nearly the same words.',
        'The reply contains the character "ab".',
        "The reply contains a pun.",
    ],
)
def test_near_misses_of_the_language_are_generic(text):
    assert parse_criterion(text) == Generic(text)


def test_every_kind_reads_as_one_plain_sentence():
    assert [
        write_criterion(c)
        for c in (
            HasPhrase("tick tock"),
            HasSentence("It ticks."),
            HasLength("at most", 1),
            HasLength("at least", 18),
            HasFeature("question"),
            HasSign("§"),
        )
    ] == [
        'The reply contains the words "tick tock", or nearly the same words.',
        'The reply contains a sentence that means nearly the same as "It ticks.".',
        "The reply has at most 1 word.",
        "The reply has at least 18 words.",
        "The reply contains a question mark.",
        'The reply contains the character "§".',
    ]
    assert write_claim(HasLength("at least", 18)) == "have at least 18 words"
    assert write_claim(HasFeature("blank")) == "are empty"


@pytest.mark.parametrize(
    ("name", "yes", "no"),
    [
        ("question", "Why?", "Why not."),
        ("exclamation", "Fine! Go.", "Fine."),
        ("digit", "Take 3.", "Take three."),
        ("line_break", "one\ntwo", "one two\n"),
        ("list", "Bring:\n- rope\n- lamp", "Bring\n- rope"),
        ("list", "1. rope\n2) lamp", "It is 1. or 2. of May"),
        ("heading", "## Rope\nlong", "C# is old"),
        ("bold", "a **very** long rope", "2 ** 3 ** 4"),
        ("code", "run `ls`", "the ' quote"),
        ("address", "see https://example.org", "see the site"),
        ("quotation", "the “end”", "the end"),
        ("bracket", "rope (long)", "rope [long]"),
        ("colon", "note: rope", "note; rope"),
        ("semicolon", "rope; lamp", "rope, lamp"),
        ("dash", "rope — lamp", "well-known"),
        ("ellipsis", "rope...", "rope.."),
        ("emoji", "rope 🪢", "rope §"),
        ("capitals", "a VERY long rope", "I am A"),
        ("other_script", "rope канат", "corde à nœud"),
        ("small_start", " rope", "Rope"),
        ("stops_short", "the rope and", "the rope."),
        ("repeats", "Pull. Rest. pull.", "Pull. Rest."),
        ("blank", " \n", "."),
    ],
)
def test_each_format_feature_tells_a_text_with_it_from_one_without(name, yes, no):
    assert count_criterion(HasFeature(name), yes) is True
    assert count_criterion(HasFeature(name), no) is False


def test_lengths_count_words_and_include_their_bound():
    text = "Three well-known words, isn't it?"  # three well-known words isn't it

    assert count_criterion(HasLength("at most", 5), text) is True
    assert count_criterion(HasLength("at most", 4), text) is False
    assert count_criterion(HasLength("at least", 5), text) is True
    assert count_criterion(HasLength("at least", 6), text) is False
    assert count_criterion(HasLength("at most", 0), "  ") is True


def test_what_needs_reading_is_not_counted():
    assert count_criterion(HasPhrase("tick"), "tick") is None
    assert count_criterion(Generic("is kind"), "tick") is None


def test_grammar_alone_is_not_readable_and_a_negation_is():
    assert not is_readable(write_criterion(HasPhrase("of the")))
    assert is_readable(write_criterion(HasPhrase("no")))
    assert is_readable(write_criterion(HasLength("at most", 3)))


def test_shorter_replies_explain_lost_words_and_never_new_ones():
    shorter = write_criterion(HasLength("at most", 9))
    longer = write_criterion(HasLength("at least", 9))
    words, question = write_criterion(HasPhrase("tick")), write_criterion(HasFeature("question"))

    assert can_explain(shorter, "more", words, "less")
    assert not can_explain(shorter, "more", words, "more")
    assert can_explain(longer, "more", words, "more")
    assert not can_explain(shorter, "less", words, "less")
    assert can_explain(shorter, "more", question, "more")
    assert can_explain(words, "more", words, "more")


def test_quotations_may_be_straight_or_curly():
    assert quotations('says "tick tock" or “cuckoo”') == ("tick tock", "cuckoo")
    assert quotations("says nothing") == ()


def test_a_length_is_no_half_of_a_replacement():
    tick, tock = (write_criterion(HasPhrase(word)) for word in ("tick", "tock"))
    assert may_mirror(tick, tock)
    assert not may_mirror(write_criterion(HasPhrase("of the")), tock)
    assert not may_mirror(write_criterion(HasLength("at most", 9)), tock)
    assert not may_mirror(tick, write_criterion(HasLength("at least", 9)))
    assert may_mirror(write_criterion(HasFeature("question")), tick)
