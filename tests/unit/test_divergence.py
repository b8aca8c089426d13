"""Divergence per prompt, and coupled pairs."""

import math

import numpy as np
import pandas as pd
import pytest

from whatchanged.divergence import (
    PAIR_COLUMNS,
    SCORE_COLUMNS,
    add_divergence,
    estimate_divergence,
    first_difference,
    match_pairs,
    score_requests,
    tabulate_scores,
)
from whatchanged.records import Prompt, TextScore
from whatchanged.sample import Evidence

PROMPTS = [Prompt(key, key, "g", "discovery") for key in ("p", "q", "r")]


def texts(*rows: tuple[str, int, str, list[int]]) -> pd.DataFrame:
    """Prompt, sample, side and tokens of each text."""
    table = pd.DataFrame(rows, columns=["prompt_key", "sample", "side", "token_ids"])
    return table.assign(
        text_key=[f"{p}{i}{side[0]}" for p, i, side, _ in rows],
        prompt=table["prompt_key"],
        text=["é" * len(ids) for *_, ids in rows],
        finish="stop",
        split="discovery",
    )


def score(base: float, intervention: float, kl: float = 0.0, parting: float = 0.0) -> TextScore:
    moved = np.array([7], np.int32), np.array([parting], np.float32)
    return TextScore(base, intervention, kl, 2 * kl, parting, np.array([1.0], np.float32), *moved)


@pytest.mark.parametrize(
    ("base", "intervention", "expected"),
    [
        ([5, 6, 2], [5, 6, 2], (-1, -1, -1)),
        ([5, 6, 2], [5, 7, 2], (1, 6, 7)),
        ([5, 6], [5, 6, 2], (2, -1, 2)),
        ([5, 6, 2], [], (0, 5, -1)),
        ([], [], (-1, -1, -1)),
    ],
)
def test_the_first_difference_has_a_place_and_two_tokens(
    base: list[int], intervention: list[int], expected: tuple[int, int, int]
) -> None:
    assert first_difference(base, intervention) == expected


def test_pairs_are_the_same_sample_of_the_same_prompt() -> None:
    table = texts(
        ("q", 0, "base", [1]),
        ("p", 1, "base", [5, 6]),
        ("p", 0, "base", [5, 2]),
        ("p", 0, "intervention", [5, 2]),
        ("p", 1, "intervention", [5, 9]),
        ("p", 2, "intervention", [5]),
        ("q", 0, "intervention", [1]),
    )
    table.loc[table["text_key"] == "q0i", "finish"] = "failed"
    pairs = match_pairs(table)
    assert pairs["text_key_base"].tolist() == ["p0b", "p1b"]
    assert pairs["text_key_intervention"].tolist() == ["p0i", "p1i"]
    assert pairs["is_identical"].tolist() == [True, False]
    assert pairs[["first_difference", "token_base", "token_intervention"]].values.tolist() == [
        [-1, -1, -1],
        [1, 6, 9],
    ]
    assert len(match_pairs(table[:0])) == 0


def test_a_prompt_s_divergence_is_the_mean_over_its_texts_with_its_error() -> None:
    table = texts(
        ("p", 0, "base", [1]), ("p", 1, "base", [1]), ("p", 0, "intervention", [1]),
        ("q", 0, "base", [1]), ("q", 0, "intervention", [1]),
    )  # fmt: skip
    scores = tabulate_scores(
        table,
        [score(0, 0, 1.0, 0.1), score(0, 0, 3.0, 0.3), score(0, 0, 4.0, 0.2), *[score(0, 0)] * 2],
    )
    found = estimate_divergence(scores, match_pairs(table), PROMPTS).set_index("prompt_key")
    assert found["n_base"].tolist() == [2, 1, 0]
    # 1 and 3 nats: mean 2, variance 2, so an error of 1; q borrows that variance.
    assert found["kl_base"].tolist()[:2] == [2.0, 0.0]
    assert found["kl_base_se"].tolist()[:2] == pytest.approx([1.0, math.sqrt(2)])
    # The reverse is read from the intervention's texts alone.
    assert found["kl_intervention"].tolist()[:2] == [8.0, 0.0]
    assert found["parting"].tolist()[:2] == pytest.approx([0.2, 0.0])
    assert found["parting_se"].tolist()[0] == pytest.approx(0.1 / math.sqrt(3))
    assert found.loc["r"].drop(["n_base", "n_intervention", "n_pairs", "n_differing"]).isna().all()
    assert found["n_pairs"].tolist() == [1, 1, 0]
    assert found["n_differing"].tolist() == [0, 0, 0]


def test_short_texts_of_the_screen_count_only_until_there_are_others() -> None:
    table = texts(
        ("p", 0, "base", [1]), ("p", 0, "intervention", [1]), ("q", 0, "base", [1]),
        ("q", 0, "intervention", [1]), ("p", 1, "base", [1]), ("p", 1, "intervention", [1]),
    ).assign(split=["screen"] * 4 + ["discovery"] * 2)  # fmt: skip
    values = [score(0, 0, kl, kl / 10) for kl in (1.0, 1.0, 2.0, 2.0, 5.0, 5.0)]
    found = estimate_divergence(tabulate_scores(table, values), match_pairs(table[:0]), PROMPTS)
    assert found["kl_base"].tolist()[:2] == [5.0, 2.0]
    assert found["n_base"].tolist() == [1, 1, 0]


def test_models_with_other_tokens_are_compared_by_whole_texts() -> None:
    nan = float("nan")
    table = texts(("p", 0, "base", [1, 1]), ("p", 0, "intervention", [1]))
    none = np.zeros(0, np.float32), np.zeros(0, np.int32), np.zeros(0, np.float32)
    totals = [
        TextScore(-2.0, -10.0, nan, nan, nan, *none),
        TextScore(-9.0, -6.0, nan, nan, nan, *none),
    ]
    found = estimate_divergence(tabulate_scores(table, totals), match_pairs(table[:0]), PROMPTS)
    assert (found["kl_base"][0], found["kl_intervention"][0]) == (8.0, 3.0)
    assert found[["parting", "shift", "shift_se"]].isna().all().all()
    counts = np.zeros((3, 0), dtype=np.int64)
    bare = Evidence(counts, counts, np.zeros(3, int), np.zeros(3, int), np.zeros(0))
    assert add_divergence(bare, found).shift is None


def test_before_anything_is_scored_everything_is_unknown() -> None:
    scores, pairs = (pd.DataFrame(columns=list(c)) for c in (SCORE_COLUMNS, PAIR_COLUMNS))
    found = estimate_divergence(scores, pairs, PROMPTS)
    assert found[["kl_base", "kl_intervention", "parting", "parting_se"]].isna().all().all()
    assert found[["n_base", "n_intervention", "n_pairs", "n_differing"]].eq(0).all().all()
    counts = np.zeros((3, 0), dtype=np.int64)
    bare = Evidence(counts, counts, np.zeros(3, int), np.zeros(3, int), np.zeros(0))
    assert add_divergence(bare, found) == bare


def test_evidence_takes_what_was_measured_and_none_else() -> None:
    counts = np.zeros((3, 0), dtype=np.int64)
    bare = Evidence(counts, counts, np.zeros(3, int), np.zeros(3, int), np.zeros(0))
    table = texts(("p", 0, "base", [1]), ("p", 0, "intervention", [2]))
    pairs = match_pairs(table)

    sampled = add_divergence(
        bare, estimate_divergence(tabulate_scores(table[:0], []), pairs, PROMPTS)
    )
    assert sampled.divergence is None
    assert sampled.n_differing.tolist() == [1, 0, 0]

    scored = tabulate_scores(table, [score(0, 0, 1.0, 0.5), score(0, 0, 2.0, 0.7)])
    full = add_divergence(bare, estimate_divergence(scored, pairs[:0], PROMPTS))
    assert full.n_pairs is None
    assert full.divergence[0] == 1.0 + 4.0
    assert full.parting[0] == pytest.approx(0.6)
    # One text per side has no error, and no other prompt was scored: nothing is in excess.
    assert (full.shift[0], full.shift_se[0]) == (0.0, 0.0)
    assert np.isnan(full.shift[1:]).all()


def test_a_score_request_is_the_text_as_it_was_drawn() -> None:
    [request] = score_requests(texts(("p", 0, "base", [7, 2])))
    assert (request.prompt, request.text, request.token_ids) == ("p", "éé", (7, 2))
