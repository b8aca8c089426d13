import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whatchanged.store import codec

ANY_TEXT = st.text(st.characters(exclude_categories=()) | st.sampled_from("\ufdd0\ud83d\ude00d8"))
HOSTILE = ["", "\x00", "\ud83d", "\ud83d\ude00", "\U0001f600", "\ufdd0", "\ufdd0d83d", "e\u0301"]


@given(ANY_TEXT)
def test_any_text_survives_the_escape_and_is_valid_unicode_in_between(text):
    escaped = codec.escape_text(text)
    escaped.encode("utf-8")
    assert codec.unescape_text(escaped) == text


def test_ordinary_text_is_stored_as_it_is():
    text = "back\\slash, \x1b, \ud7ff\ue000, na\u00efve \U0001f600"
    assert codec.escape_text(text) is not None
    assert codec.escape_text(text) == text
    assert codec.escape_text("a\ud83d") == "a\ufdd0d83d"


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
        | ANY_TEXT,
        lambda inner: st.lists(inner) | st.dictionaries(ANY_TEXT, inner),
        max_leaves=10,
    )
)  # fmt: skip
def test_json_values_survive_exactly(value):
    assert codec.json_value(codec.json_bytes(value)) == value


def test_json_is_canonical():
    assert codec.json_bytes({"b": (1, np.int64(2)), "a": np.float32(0.5)}) == b'{"a":0.5,"b":[1,2]}'


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [np.float32("nan")]])
def test_json_refuses_numbers_that_are_none(value):
    with pytest.raises(ValueError, match="NaN"):
        codec.json_bytes(value)


def test_json_refuses_objects():
    with pytest.raises(TypeError, match="set"):
        codec.json_bytes({"a": {1}})


def test_json_for_people_is_plain_json():
    data = codec.json_bytes({"b": 1, "a": "\u00e9"}, indent=1)
    assert data == '{\n "a": "\u00e9",\n "b": 1\n}\n'.encode()
    assert json.loads(data) == {"a": "\u00e9", "b": 1}


def test_hostile_texts_in_a_table_survive_exactly():
    table = pd.DataFrame({"text": pd.Series(HOSTILE, dtype=object), "n": range(len(HOSTILE))})
    read = codec.table_value(codec.table_bytes(table))
    assert list(read["text"]) == HOSTILE
    assert list(read["n"]) == list(range(len(HOSTILE)))


@pytest.mark.parametrize("dtype", ["str", "category", object])
def test_the_escape_mark_itself_survives_in_every_kind_of_column(dtype):
    table = pd.DataFrame({"text": pd.Series(["\ufdd0d83d", "plain"], dtype=dtype)})
    assert list(codec.table_value(codec.table_bytes(table))["text"]) == ["\ufdd0d83d", "plain"]


def test_lists_of_texts_in_a_table_survive():
    table = pd.DataFrame({"keys": [["a", "\ud83d"], []]})
    assert [list(item) for item in codec.table_value(codec.table_bytes(table))["keys"]] == [
        ["a", "\ud83d"], [],
    ]  # fmt: skip


def test_types_gaps_and_empty_tables_survive():
    table = pd.DataFrame(
        {
            "f": np.array([0.5, np.nan], np.float32),
            "i": np.array([1, 2], np.int32),
            "b": [True, False],
            "t": ["a", None],
        },
        index=[7, 8],
    )
    read = codec.table_value(codec.table_bytes(table))
    pd.testing.assert_frame_equal(read, table.reset_index(drop=True))
    assert list(codec.table_value(codec.table_bytes(table.iloc[:0])).columns) == list("fibt")


def test_arrays_survive_with_shape_and_type():
    arrays = {
        "matrix": np.arange(6, dtype=np.float32).reshape(2, 3).T,
        "scalar": np.array(3, np.int64),
        "empty": np.zeros((0, 4), np.float16),
        "mask": np.array([True, False]),
    }
    read = codec.arrays_value(codec.arrays_bytes(arrays))
    assert sorted(read) == sorted(arrays)
    for name, array in arrays.items():
        assert read[name].dtype == array.dtype and read[name].shape == array.shape
        np.testing.assert_array_equal(read[name], array)
        assert read[name].flags.writeable


def test_arrays_of_objects_are_refused():
    with pytest.raises(ValueError, match="'names' has type"):
        codec.arrays_bytes({"names": np.array(["a"])})
