"""Which discovery texts are compared with which."""

import pandas as pd
import pytest

from tests.unit.invented_replies import SUBJECTS, write_tables
from whatchanged.scopes import build_contrasts


@pytest.fixture(scope="module")
def planted():
    return write_tables(120, 5, planted=True)


def test_contrasts_are_everything_then_groups_then_clusters(planted):
    contrasts = build_contrasts(*planted)

    plain = [c.scope for c in contrasts if c.cluster is None]
    assert plain == [None, *sorted(SUBJECTS)]
    assert len(contrasts[0].base) == len(contrasts[0].intervention) == 720
    assert {len(c.base) for c in contrasts[1:7]} == {120}
    assert all(c.cluster for c in contrasts[7:])


def test_a_cluster_comes_with_the_scope_where_it_stands_out_and_its_members(planted):
    contrasts = build_contrasts(*planted)

    inn = next(c for c in contrasts if any("lantern inn" in e for e in c.exemplars))
    assert inn.scope == "caves"
    assert inn.member_base.sum() == 0
    assert inn.member_intervention.tolist() == ["lantern inn" in t for t in inn.intervention]
    # The rarer wording of the two says less about the difference.
    said = [sum(e in text for text in inn.intervention) for e in inn.exemplars]
    assert said == sorted(said, reverse=True)


def test_exemplars_are_segments_of_the_side_that_has_more(planted):
    contrasts = build_contrasts(*planted)
    lost = next(c for c in contrasts if "The whole affair is delightful." in c.exemplars)

    assert lost.member_base.mean() > 0.8
    assert lost.member_intervention.sum() == 0
    assert all(any(e in text for text in lost.base) for e in lost.exemplars)


def test_equal_exemplars_are_ordered_by_their_margin():
    texts = pd.DataFrame(
        [
            (f"{side}{i}", f"p{i}", side, "x")
            for side in ("base", "intervention")
            for i in range(30)
        ],
        columns=["text_key", "prompt_key", "side", "text"],
    ).assign(finish="stop", round=0)
    segments = pd.DataFrame(
        [(f"intervention{i}", 0, f"s{i}", f"saying {i}", 3, 1 - i / 100) for i in range(25)],
        columns=["text_key", "position", "segment_key", "segment", "label", "margin"],
    )

    cluster = build_contrasts(texts, segments, {})[-1]

    assert cluster.cluster == "3"
    assert cluster.exemplars[:2] == ("saying 24", "saying 23")


def test_the_sides_are_balanced_per_prompt_and_failed_texts_left_out():
    rows = [
        ("b1", "p", "base", "stop"), ("b2", "p", "base", "stop"), ("b3", "p", "base", "failed"),
        ("i1", "p", "intervention", "length"), ("i2", "q", "intervention", "stop"),
        ("b4", "r", "base", "stop"), ("i4", "r", "intervention", "stop"),
    ]  # fmt: skip
    texts = pd.DataFrame(rows, columns=["text_key", "prompt_key", "side", "finish"])
    texts = texts.assign(text="says " + texts["text_key"], round=0)
    segments = pd.DataFrame(columns=["text_key", "position", "segment_key", "segment", "label"])

    (contrast,) = build_contrasts(texts, segments.assign(margin=0.0), {})

    assert contrast.base == ("says b1", "says b4")
    assert contrast.intervention == ("says i1", "says i4")


def test_small_groups_and_a_group_that_is_everything_are_no_contrasts():
    texts, segments, groups = write_tables(19, 1, planted=False)
    everything = dict.fromkeys(groups, "one")

    assert [c.scope for c in build_contrasts(texts, segments, groups) if not c.cluster] == [None]
    assert [c.scope for c in build_contrasts(texts, segments, everything) if not c.cluster] == [
        None
    ]


def test_no_texts_on_a_side_give_no_contrasts():
    texts, segments, groups = write_tables(20, 1, planted=False)

    assert build_contrasts(texts[texts["side"] == "base"], segments, groups) == []
