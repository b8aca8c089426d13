"""Which texts of a run are read again, and what is compared on them."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import pytest

from whatchanged.activations.reading import (
    READ_COLUMNS,
    TextContrast,
    choose_clusters,
    choose_texts,
    find_contrasts,
    pick_balanced,
)
from whatchanged.records import NOISE


def row(key: str, prompt: str, side: str, split: str, label: int = NOISE, **more: Any) -> Any:
    return {
        "text_key": key, "prompt_key": prompt, "prompt": f"What is {prompt}?", "side": side,
        "split": split, "label": label, "finish": "stop", "token_ids": [5, 6], **more,
    }  # fmt: skip


def seen(n: int, labels: tuple[int, ...] = (0, 1, 2)) -> list[Any]:
    """`n` discovery texts for each label and side, each of a prompt with both sides."""
    return [
        row(f"{side}{label}.{i}", f"d{i}", side, "discovery", label)
        for i, label, side in product(range(n), labels, ("base", "intervention"))
    ]


def fresh(n: int, name: str = "f") -> list[Any]:
    """`n` validation texts per side."""
    return [
        row(f"{name}.{side}.{i}", f"v{i}", side, "validation")
        for i, side in product(range(n), ("base", "intervention"))
    ]


def verdicts(finding: str, scores: dict[str, float], tier: str = "cheap") -> pd.DataFrame:
    return pd.DataFrame(
        {
            "hypothesis_id": finding, "text_key": list(scores), "tier": tier,
            "score": list(scores.values()),
        }
    )  # fmt: skip


NO_VERDICTS = verdicts("h1", {})


def finding(name: str, status: str = "confirmed", **quoted: list[str]) -> dict[str, Any]:
    return {"id": name, "status": status, "supporting": [], "contradicting": [], **quoted}


def chosen(
    texts: list[Any],
    findings: Any = (),
    judged: pd.DataFrame = NO_VERDICTS,
    compared: tuple[int, ...] = (),
    max_texts: int = 10,
    seed: int = 0,
) -> list[str]:
    found = choose_texts(
        pd.DataFrame(texts), findings, judged, compared, max_texts=max_texts, seed=seed
    )
    assert tuple(found.columns) == READ_COLUMNS
    assert list(found.index) == list(range(len(found)))
    return list(found["text_key"])


# Which texts are read ----------------------------------------------------------------------------


def test_all_texts_that_may_be_read_are_read_where_there_is_room_in_the_order_of_the_run() -> None:
    texts = [*seen(1), *fresh(1)]
    judged = verdicts("h1", {"f.base.0": 1.0, "f.intervention.0": 0.0})
    assert chosen(texts, [finding("h1")], judged) == [text["text_key"] for text in texts]


def test_a_fresh_text_is_read_only_where_a_confirmed_finding_was_judged_on_it() -> None:
    judged = pd.concat(
        [
            verdicts("h1", {"f.base.0": 1.0, "f.base.1": float("nan")}),
            verdicts("h2", {"f.base.2": 1.0}),
        ]
    )
    findings = [finding("h1"), finding("h2", "rejected")]
    assert chosen(fresh(4), findings, judged) == ["f.base.0"]
    assert chosen(fresh(4), [finding("h2", "inconclusive")], judged) == []


def test_texts_without_tokens_and_failed_ones_are_left_out() -> None:
    texts = [
        row("whole", "a", "base", "discovery", 0),
        row("empty", "a", "base", "discovery", 0, token_ids=[]),
        row("failed", "a", "base", "discovery", 0, finish="failed"),
        row("noise", "a", "base", "discovery", NOISE),
    ]
    assert chosen(texts) == ["whole"]


def test_a_prompt_that_one_side_never_answered_is_left_out_for_both() -> None:
    texts = [
        row("a", "too long", "base", "discovery", 0),
        row("b", "too long", "intervention", "discovery", 0, finish="failed"),
        row("c", "fine", "base", "discovery", 0),
        row("d", "fine", "intervention", "discovery", 0, finish="failed"),
        row("e", "fine", "intervention", "discovery", 0),
    ]
    assert chosen(texts) == ["c", "e"]


def test_half_go_to_fresh_texts_and_half_to_discovery() -> None:
    texts = [*seen(20), *fresh(20)]
    judged = verdicts("h1", {f"f.{side}.{i}": 1.0 for side in ("base", "intervention")
                             for i in range(20)})  # fmt: skip
    found = chosen(texts, [finding("h1")], judged, max_texts=11)
    # 5 of 11 are fresh, the odd one is a discovery text.
    assert sum(key.startswith("f.") for key in found) == 5
    assert len(found) == 11


@pytest.mark.parametrize(("n_seen", "n_fresh"), [(1, 20), (20, 1)])
def test_room_that_one_kind_leaves_goes_to_the_other(n_seen: int, n_fresh: int) -> None:
    texts = [*seen(n_seen, labels=(0,)), *fresh(n_fresh)]
    judged = verdicts("h1", {text["text_key"]: 1.0 for text in fresh(n_fresh)})
    found = chosen(texts, [finding("h1")], judged, max_texts=12)
    assert len(found) == 12
    assert sum(key.startswith("f.") for key in found) == (10 if n_seen == 1 else 2)


def test_quoted_texts_come_first_then_as_many_that_show_a_finding_as_others() -> None:
    scores = {f"f.base.{i}": float(i < 4) for i in range(30)}
    quoted = finding("h1", supporting=["f.base.0"], contradicting=["f.base.29"])
    for seed in range(5):
        found = chosen(fresh(30), [quoted], verdicts("h1", scores), max_texts=16, seed=seed)
        assert {"f.base.0", "f.base.29"} <= set(found)
        # After the two quoted ones, the other 3 that show it, and 11 that do not, fill up.
        assert {f"f.base.{i}" for i in range(4)} <= set(found)
        assert len(found) == 16


def test_findings_share_the_room_in_equal_parts() -> None:
    texts = [*fresh(30, "f"), *fresh(30, "g")]
    judged = pd.concat(
        [
            verdicts(name, {f"{letter}.base.{i}": float(i % 2) for i in range(30)})
            for name, letter in (("h1", "f"), ("h2", "g"))
        ]
    )
    found = chosen(texts, [finding("h1"), finding("h2")], judged, max_texts=8)
    assert sorted(key[0] for key in found) == ["f"] * 4 + ["g"] * 4
    # 2 that show it and 2 that do not, of each.
    shown = [int(key.rpartition(".")[2]) % 2 for key in found]
    assert sum(shown) == 4


def test_a_compared_cluster_gets_as_many_texts_as_all_others_and_both_sides_as_many() -> None:
    found = chosen(seen(20), compared=(1,), max_texts=24)
    table = pd.Series(found).str.extract(r"^(?P<side>[a-z]+)(?P<label>\d)").value_counts()
    # 12 of cluster 1, and 6 of each of the two others.
    assert table.to_dict() == {
        ("base", "1"): 6, ("intervention", "1"): 6, ("base", "0"): 3, ("base", "2"): 3,
        ("intervention", "0"): 3, ("intervention", "2"): 3,
    }  # fmt: skip


def test_the_same_seed_reads_the_same_texts_and_another_one_others() -> None:
    assert chosen(seen(20), seed=3) == chosen(seen(20), seed=3)
    assert chosen(seen(20), seed=3) != chosen(seen(20), seed=4)


def test_a_text_that_both_sides_wrote_under_one_key_is_read_once() -> None:
    twice = [row("k", "a", side, "discovery", 0) for side in ("base", "intervention")]
    assert chosen(twice) == ["k"]


# What is compared --------------------------------------------------------------------------------

READING = pd.DataFrame(
    [
        row("d0", "p", "base", "discovery", 0),
        row("d1", "p", "intervention", "discovery", 0),
        row("d2", "p", "base", "discovery", 1),
        row("v0", "q", "base", "validation"),
        row("v1", "q", "intervention", "validation"),
        row("v2", "q", "intervention", "validation"),
    ]
)
JUDGED = verdicts("h1", {"v0": 0.2, "v1": 0.9, "v2": 0.1, "unread": 0.9})


def contrasts_of(*findings: Any, judged: pd.DataFrame = JUDGED, **clusters: int) -> dict[Any, Any]:
    names = {label: name for name, label in clusters.items()}
    found = find_contrasts(READING, findings, judged, names)
    return {(c.kind, c.name, c.contrast): (c.rows.tolist(), c.is_supporting.tolist())
            for c in found}  # fmt: skip


def test_a_finding_is_compared_on_its_judged_texts_by_score_and_by_side() -> None:
    found = contrasts_of(finding("h1"))
    assert found["finding", "h1", "texts"] == ([3, 4, 5], [False, True, False])
    assert found["finding", "h1", "sides"] == ([3, 4, 5], [False, True, True])


def test_the_dearer_judge_decides_which_texts_show_a_finding() -> None:
    judged = pd.concat([JUDGED, verdicts("h1", {"v1": 0.0, "v2": 1.0}, "expensive")])
    found = contrasts_of(finding("h1"), judged=judged)
    assert found["finding", "h1", "texts"] == ([3, 4, 5], [False, False, True])


def test_a_cluster_is_compared_with_all_other_discovery_texts_and_its_sides_within() -> None:
    found = contrasts_of(c0=0)
    assert found["cluster", "c0", "texts"] == ([0, 1, 2], [True, True, False])
    assert found["cluster", "c0", "sides"] == ([0, 1], [False, True])


def test_the_sides_are_compared_on_the_whole_run() -> None:
    assert contrasts_of() == {
        ("run", "", "sides"): (list(range(6)), [False, True, False, False, True, True])
    }


def test_what_has_one_kind_of_texts_only_is_not_compared() -> None:
    # Cluster 1 has one text of the base; nothing shows h2; h3 is not confirmed.
    judged = pd.concat([verdicts("h2", {"v0": 0.0, "v1": 0.0}), verdicts("h3", {"v0": 0, "v1": 1})])
    found = contrasts_of(finding("h2"), finding("h3", "rejected"), judged=judged, c1=1)
    assert list(found) == [
        ("finding", "h2", "sides"), ("cluster", "c1", "texts"), ("run", "", "sides"),
    ]  # fmt: skip


def test_contrasts_are_stated_by_all_that_they_compare() -> None:
    rows, kinds = np.array([1, 2]), np.array([True, False])
    plain = TextContrast("finding", "h1", "texts", rows, kinds)
    others = [
        TextContrast("finding", "h2", "texts", rows, kinds),
        TextContrast("cluster", "h1", "texts", rows, kinds),
        TextContrast("finding", "h1", "sides", rows, kinds),
        TextContrast("finding", "h1", "texts", rows + 1, kinds),
        TextContrast("finding", "h1", "texts", rows, ~kinds),
    ]
    assert plain.stated() == TextContrast("finding", "h1", "texts", rows.copy(), kinds).stated()
    assert all(other.stated() != plain.stated() for other in others)


def test_the_text_clusters_that_differ_most_in_the_last_round_are_named() -> None:
    clusters = pd.DataFrame(
        [
            ("text", 0, "r-0-t0", 0, 0.9, 20),
            ("text", 1, "r-1-t0", 0, 0.1, 20),
            ("text", 1, "r-1-t1", 1, -0.3, 10),
            ("text", 1, "r-1-t2", 2, 0.2, 20),
            ("text", 1, "r-1-t3", 3, 0.9, 9),
            ("segment", 1, "r-1-s0", 0, 0.8, 20),
        ],
        columns=["level", "round", "cluster", "label", "difference", "n_base"],
    )
    clusters["n_intervention"] = 10
    assert choose_clusters(clusters, 2) == {1: "r-1-t1", 2: "r-1-t2"}
    # Nineteen texts are too few.
    assert choose_clusters(clusters, 9) == {0: "r-1-t0", 1: "r-1-t1", 2: "r-1-t2"}


# What contributions are measured on --------------------------------------------------------------


def test_both_kinds_are_picked_in_turn_from_prompts_that_have_both() -> None:
    # Prompt "one" has supporting texts only, "two" 2 and 4 others, "three" 1 and 1.
    prompts = ["one"] * 3 + ["two"] * 6 + ["three"] * 2
    shows = np.array([1, 1, 1, 1, 1, 0, 0, 0, 0, 1, 0], bool)
    whole = TextContrast("finding", "h1", "texts", np.arange(11), shows)
    rows, kinds = pick_balanced(whole, prompts, 6, seed=1)
    assert kinds.sum() == 3
    assert rows.min() >= 3
    assert (np.diff(rows) > 0).all()
    assert kinds.tolist() == shows[rows].tolist()


def test_what_one_kind_lacks_the_other_fills() -> None:
    shows = np.array([1, 0, 0, 0, 0], bool)
    whole = TextContrast("finding", "h1", "texts", np.array([4, 3, 2, 1, 0]), shows)
    rows, kinds = pick_balanced(whole, ["p"] * 5, 4, seed=0)
    assert len(rows) == 4
    assert rows[kinds].tolist() == [4]


def test_without_a_prompt_that_has_both_nothing_is_picked() -> None:
    whole = TextContrast("finding", "h1", "texts", np.array([0, 1]), np.array([True, False]))
    rows, kinds = pick_balanced(whole, ["p", "q"], 4, seed=0)
    assert (len(rows), len(kinds), rows.dtype, kinds.dtype) == (0, 0, np.int64, np.bool_)
