import pytest
from hypothesis import given
from hypothesis import strategies as st

from whatchanged.models.chat import CallResult, ChatReply
from whatchanged.models.replies import read_answer, read_preference, read_score

VALID = '{"score": 90}'


def said(text: str, finish: str = "stop", reason: str = "") -> CallResult:
    return CallResult(ChatReply(text, finish, reason, 10, 4), "", 0.0, is_cached=False)


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ('{"score": 0}', 0.0),
        ('{"score": 100}', 1.0),
        ('{"score":37}', 0.37),
        (' \n{ "score" : 50 }\t\n', 0.5),
        ('{"score": -0}', 0.0),
        ('{"\\u0073core": 25}', 0.25),
    ],
)
def test_an_object_with_a_whole_score_is_an_answer(text, score):
    reading = read_score(said(text))
    assert (reading.outcome, reading.score, reading.reason) == ("answered", score, "")


MALFORMED = {
    "empty": "",
    "white space": " \n\t ",
    "byte order mark": f"\ufeff{VALID}",
    "prose before": f"My answer: {VALID}",
    "prose after": f"{VALID} because it does.",
    "markdown fence": f"```json\n{VALID}\n```",
    "two objects": f"{VALID}{VALID}",
    "two lines": f"{VALID}\n{VALID}",
    "duplicate key": '{"score": 90, "score": 10}',
    "duplicate key by escape": '{"score": 90, "\\u0073core": 90}',
    "NaN": '{"score": NaN}',
    "Infinity": '{"score": Infinity}',
    "-Infinity": '{"score": -Infinity}',
    "overflow": '{"score": 1e999}',
    "bool": '{"score": true}',
    "null": '{"score": null}',
    "string": '{"score": "90"}',
    "whole float": '{"score": 90.0}',
    "exponent": '{"score": 9e1}',
    "above": '{"score": 101}',
    "below": '{"score": -1}',
    "huge": '{"score": ' + "9" * 5000 + "}",
    "large": '{"score": ' + "9" * 200 + "}",
    "extra key": '{"score": 90, "why": "it does"}',
    "missing key": "{}",
    "other key": '{"Score": 90}',
    "nested": '{"answer": {"score": 90}}',
    "nested score": '{"score": {"score": 90}}',
    "score in a list": '{"score": [90]}',
    "list": f"[{VALID}]",
    "bare number": "90",
    "bare string": '"90"',
    "null alone": "null",
    "single quotes": "{'score': 90}",
    "comment": '{"score": 90} // sure',
    "trailing comma": '{"score": 90,}',
    "leading zero": '{"score": 090}',
    "plus": '{"score": +90}',
    "hexadecimal": '{"score": 0x5a}',
    "other digits": '{"score": \uff19\uff10}',
    "deep": "[" * 100_000,
    "lone surrogate": '{"score": 90}\ud800',
    "lone surrogate key": '{"score": 90, "\ud800": 1}',
    "zero width": '{"score": 9\u200b0}',
    "NUL": '{"score": 90}\x00',
    "control character": '{"sc\nore": 90}',
    "refusal in words": "I cannot grade this text.",
    "a line of a stream": f"data: {VALID}",
}


@pytest.mark.parametrize("text", MALFORMED.values(), ids=MALFORMED)
def test_what_is_not_exactly_the_answer_is_malformed(text):
    reading = read_score(said(text))
    assert (reading.outcome, reading.score) == ("malformed", None)
    assert reading.reason
    # Reasons are stored in tables and shown on a terminal.
    assert reading.reason.encode("utf-8").decode("utf-8").isprintable()
    assert len(reading.reason) < 300


@pytest.mark.parametrize("n_chars", range(len(VALID)))
def test_no_prefix_of_an_answer_is_an_answer(n_chars):
    assert read_score(said(VALID[:n_chars])).outcome == "malformed"


@pytest.mark.parametrize("finish", ["refused", "cut_off"])
def test_a_valid_text_counts_for_nothing_after_another_finish(finish):
    reading = read_score(said(VALID, finish, "SAFETY"))
    assert (reading.outcome, reading.score, reading.reason) == (finish, None, "SAFETY")


def test_a_cut_without_a_reason_gets_one():
    assert read_score(said("", "cut_off")).reason == "the answer was longer than allowed"


def test_no_reply_is_a_failure_with_the_callers_reason():
    reading = read_score(CallResult(None, "no reply after 5 tries", None, is_cached=False))
    assert (reading.outcome, reading.score, reading.reason) == (
        "failed",
        None,
        "no reply after 5 tries",
    )


def test_an_empty_text_says_what_the_provider_said():
    assert read_score(said("", reason="it calls a tool")).reason == (
        "the answer is empty: it calls a tool"
    )


@given(st.text() | st.from_regex(r'\{"score": ?-?[0-9.eE"+]{0,6}\}', fullmatch=True))
def test_any_text_is_answered_within_0_and_1_or_has_no_score(text):
    reading = read_score(said(text))
    if reading.outcome == "answered":
        assert 0 <= reading.score <= 1
        assert round(reading.score * 100) == int(text.split(":")[1].strip(" }\n"))
    else:
        assert reading.score is None


@pytest.mark.parametrize("choice", ["A", "B", "neither"])
def test_a_preference_is_one_of_three_words(choice):
    assert read_preference(said(f'{{"preferred": "{choice}"}}')).preferred == choice


@pytest.mark.parametrize("value", ['"a"', '"A "', '"both"', "1", "true", "null", '["A"]', "{}"])
def test_another_preference_is_malformed(value):
    reading = read_preference(said(f'{{"preferred": {value}}}'))
    assert (reading.outcome, reading.preferred) == ("malformed", None)


def test_an_answer_to_one_question_is_none_to_another():
    assert read_preference(said(VALID)).outcome == "malformed"
    assert read_score(said('{"preferred": "A"}')).outcome == "malformed"


def test_an_answer_of_any_shape_is_read_by_its_keys():
    text = '{"hypotheses": [{"criterion": "It is short."}], "n": 1}'
    reading = read_answer(said(text), ("hypotheses", "n"))
    assert reading.values == {"hypotheses": [{"criterion": "It is short."}], "n": 1}
    # Keys are counted within nested objects too.
    assert read_answer(said('{"a": {"b": 1, "b": 2}}'), ("a",)).outcome == "malformed"
