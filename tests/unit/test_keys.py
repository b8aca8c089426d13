import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whatchanged.keys import (
    KEY_LENGTH,
    content_digests,
    content_key,
    content_keys,
    seed_from_key,
)

ANY_TEXT = st.text(st.characters(exclude_categories=()))  # lone surrogates included
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | ANY_TEXT
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(ANY_TEXT, inner), max_leaves=8
)


def plain(value):
    """A twin in which types that Python calls equal (1, 1.0, True) differ."""
    if isinstance(value, dict):
        return ("map", sorted((key, plain(item)) for key, item in value.items()))
    if isinstance(value, list):
        return ("list", [plain(item) for item in value])
    return (type(value).__name__, repr(value))


@given(st.lists(VALUES), st.lists(VALUES))
def test_two_lists_of_values_have_the_same_key_only_if_they_are_the_same(one, other):
    same = plain(one) == plain(other)
    assert (content_key("kind", *one) == content_key("kind", *other)) == same


def test_a_separator_within_a_part_does_not_shift_the_border():
    assert content_key("k", "a|b", "c") != content_key("k", "a", "b|c")
    assert content_key("k", "", "a") != content_key("k", "a", "")
    assert content_key("k", "ab") != content_key("k", "a", "b")
    assert content_key("k", ["a"], ["b"]) != content_key("k", ["a", "b"])


def test_numbers_texts_and_truth_values_that_look_alike_have_different_keys():
    values = (1, 1.0, "1", True, b"1", "1.0", ["1"], None, "None")
    assert len({content_key("k", value) for value in values}) == len(values)


def test_texts_that_only_a_normalization_would_merge_have_different_keys():
    assert content_key("k", "\u00e9") != content_key("k", "e\u0301")


def test_any_string_has_a_key_lone_surrogates_included():
    texts = ("\ud83d", "\ud83d\ude00", "\U0001f600", "\x00", "")
    assert len({content_key("k", text) for text in texts}) == len(texts)


def test_the_order_of_a_mapping_does_not_matter():
    assert content_key("k", {"a": 1, "b": 2}) == content_key("k", {"b": 2, "a": 1})


def test_the_kind_is_part_of_the_key():
    assert content_key("segment/1", "a") != content_key("segment/2", "a")


@given(st.lists(ANY_TEXT))
def test_keys_of_many_texts_are_the_keys_of_each(texts):
    assert content_keys("embedding/1", texts) == [content_key("embedding/1", t) for t in texts]


def test_a_key_has_64_hex_characters_and_seeds_with_its_first_half():
    key = content_key("k", "a")
    assert len(key) == KEY_LENGTH == 64
    assert seed_from_key(key) == int(key, 16) >> 128


@pytest.mark.parametrize("value", [{1, 2}, object(), 1j])
def test_values_without_canonical_bytes_are_refused(value):
    with pytest.raises(TypeError, match="plain values"):
        content_key("k", value)


def test_a_key_is_the_same_in_20_processes():
    ask = "from whatchanged.keys import content_key as k; print(k('k', 'a', {'x': 1, 'b': [2.5]}))"
    zones, locales = ("UTC", "Asia/Tokyo", "America/St_Johns", ""), ("C", "C.UTF-8", "tr_TR.UTF-8")
    children = [
        subprocess.Popen(
            [sys.executable, "-c", ask],
            env=os.environ
            | {
                "PYTHONHASHSEED": str(seed * 7919),
                "LC_ALL": locales[seed % 3],
                "TZ": zones[seed % 4],
                "OMP_NUM_THREADS": str(1 + seed % 5),
            },
            stdout=subprocess.PIPE,
        )
        for seed in range(20)
    ]
    keys = [child.communicate()[0] for child in children]
    assert keys == [(content_key("k", "a", {"x": 1, "b": [2.5]}) + "\n").encode()] * 20


def test_a_million_texts_have_a_million_keys_also_by_half_of_their_bits():
    digests = content_digests("k", (f"text {i}" for i in range(1_000_000)))
    assert len({digest[:16] for digest in digests}) == 1_000_000
