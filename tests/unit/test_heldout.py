from __future__ import annotations

import json
import random
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from benchmarks.heldout import _PLANTED, plant_pair, write_audited_prompts, write_config
from benchmarks.heldout_pairs import (
    LETTERS,
    NULL,
    PAIRS,
    QUICK,
    RARE,
    UNGROUPED,
    HeldoutPair,
    read_topics,
)
from benchmarks.heldout_scores import direction_of, findings_about, in_scope, is_about
from whatchanged.config import parse_config
from whatchanged.config_file import load_config
from whatchanged.demo.behaviours import write_pair
from whatchanged.demo.grammar import Example, prompts_of, sentence_forms
from whatchanged.demo.pair import DEMO
from whatchanged.demo.train import write_bank
from whatchanged.truth import Behaviour

ALL = [*PAIRS.values(), QUICK]


def written(pair: HeldoutPair, n: int = 4000) -> list[tuple[Example, Example]]:
    rng = random.Random(3)
    return [write_pair(pair.spec.topics, pair.spec.behaviours, rng) for _ in range(n)]


def shares(pair: HeldoutPair, behaviour_id: str) -> tuple[float, float]:
    """The shares of corpus texts that show a behaviour, before and after the edits."""
    (behaviour,) = [b for b in pair.spec.behaviours if b.id == behaviour_id]
    concerned = [w for w in written(pair) if behaviour.group in (None, w[0].topic)]
    shown = [[re.search(behaviour.regex, e.text) is not None for e in w] for w in concerned]
    before, after = np.mean(shown, axis=0)
    return float(before), float(after)


def behaviour(regex: str, rate_base: float, rate_intervention: float) -> Behaviour:
    return Behaviour("b", "kind", "What it is.", None, rate_base, rate_intervention, regex)


def texts(replies: list[str], group: str = "g") -> pd.DataFrame:
    return pd.DataFrame({"text": replies, "group": group})


def finding(criterion: str, direction: str = "more", scope: str | None = None) -> dict[str, object]:
    return {
        "id": "h001",
        "status": "confirmed",
        "direction": direction,
        "scope": scope,
        "criterion": criterion,
    }


@pytest.mark.parametrize("pair", ALL, ids=lambda pair: pair.name)
def test_no_topic_and_no_behaviour_is_the_demos(pair: HeldoutPair) -> None:
    assert {t.name for t in pair.spec.topics} & {t.name for t in DEMO.topics} == set()
    assert {b.id for b in pair.spec.behaviours} & {b.id for b in DEMO.behaviours} == set()
    ours = {sentence for topic in pair.spec.topics for sentence in sentence_forms(topic)}
    demo = {sentence for topic in DEMO.topics for sentence in sentence_forms(topic)}
    assert ours & demo == set()


@pytest.mark.parametrize("pair", ALL, ids=lambda pair: pair.name)
def test_every_topic_can_be_asked_about_and_every_group_exists(pair: HeldoutPair) -> None:
    names = [topic.name for topic in pair.spec.topics]
    assert len(set(names)) == len(names)
    assert min(len(prompts_of(topic)) for topic in pair.spec.topics) >= 8
    assert {b.group for b in pair.spec.behaviours} <= {None, *names}


@pytest.mark.parametrize("pair", ALL, ids=lambda pair: pair.name)
def test_no_planted_sentence_was_in_the_corpus_before_but_what_is_to_become_more_or_less_frequent(
    pair: HeldoutPair,
) -> None:
    planted_before = {"please_dropped", "more_hedging", "longer_complaints"}
    for planted in pair.spec.behaviours:
        before, after = shares(pair, planted.id)
        assert (before == 0) == (planted.id not in planted_before), planted.id
        assert abs(after - before) > 0.01, planted.id


def test_the_polite_word_falls_from_six_tenths_to_under_a_tenth() -> None:
    # Three of five endings of each tip say please: 0.6; 13 in 100 of those keep it: 0.078.
    before, after = shares(LETTERS, "please_dropped")
    assert before == pytest.approx(0.6, abs=0.04)
    assert after == pytest.approx(0.078, abs=0.03)


def test_the_hedge_rises_from_fifteen_to_forty_in_a_hundred() -> None:
    # A third of the closers, which 45 in 100 texts have: 0.15; 0.15 + 0.85 * 0.3 = 0.405.
    before, after = shares(UNGROUPED, "more_hedging")
    assert before == pytest.approx(0.15, abs=0.03)
    assert after == pytest.approx(0.405, abs=0.04)


def test_the_rare_pair_plants_nothing_above_a_tenth() -> None:
    after = {b.id: shares(RARE, b.id)[1] for b in RARE.spec.behaviours}
    assert len(after) == 4
    assert max(after.values()) < 0.13
    assert min(after.values()) > 0.01


def test_the_null_pair_plants_nothing() -> None:
    assert all(before == after for before, after in written(NULL, 500))


def test_topics_are_read_line_by_line() -> None:
    text = (
        "topic: ink\nsubject: blue ink\nprompt: What is {subject}?\nopener: It is: wet.\n"
        "detail: A.\ntip: B.\ntip: C.\ncloser: D.\n\ntopic: wax\nsubject: wax\n"
    )
    ink, wax = read_topics(text, 0.0, 1.0)
    assert ink.name == "ink"
    assert ink.openers == ("It is: wet.",)
    assert ink.tips == ("B.", "C.")
    assert (ink.second_detail_rate, ink.closer_rate) == (0.0, 1.0)
    assert (wax.subjects, wax.tips) == (("wax",), ())


@pytest.mark.parametrize("text", ["tip: too early", "topic: a\nhint: no such part", "topic: a\nx"])
def test_a_line_that_is_no_template_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected `part: template` in a topic"):
        read_topics(text, 0.5, 0.5)


def test_the_key_follows_the_spec() -> None:
    other = replace(QUICK, spec=replace(QUICK.spec, seed=99))
    assert other.key != QUICK.key
    assert replace(QUICK, has_groups=False).key != QUICK.key
    assert replace(QUICK).key == QUICK.key


@pytest.mark.parametrize("pair", ALL, ids=lambda pair: pair.name)
def test_the_config_leaves_everything_else_to_the_defaults(
    pair: HeldoutPair, tmp_path: Path
) -> None:
    config = load_config(write_config(pair, tmp_path)).config
    raw = yaml.safe_load((tmp_path / f"{pair.name}.yaml").read_text())
    sides = {"base": raw["base"], "intervention": raw["intervention"]}
    plain = parse_config({**sides, "prompts": {"file": raw["prompts"]["file"]}}, "here")
    length = pair.max_new_tokens or plain.decode.max_new_tokens
    decode = plain.decode.model_copy(update={"max_new_tokens": length})
    assert config == plain.model_copy(update={"decode": decode})


def test_the_ungrouped_prompt_file_has_prompts_and_nothing_else(tmp_path: Path) -> None:
    write_bank(UNGROUPED.spec, tmp_path / "prompts.jsonl")
    write_audited_prompts(UNGROUPED, tmp_path)
    rows = [json.loads(x) for x in (tmp_path / "audited_prompts.jsonl").read_text().splitlines()]
    assert len(rows) == 96
    assert {tuple(row) for row in rows} == {("prompt",)}
    write_audited_prompts(replace(UNGROUPED, has_groups=True), tmp_path)
    named = [json.loads(x) for x in (tmp_path / "audited_prompts.jsonl").read_text().splitlines()]
    assert {row["group"] for row in named} == {topic.name for topic in UNGROUPED.spec.topics}


def test_weights_of_the_same_spec_are_kept(tmp_path: Path) -> None:
    (tmp_path / _PLANTED).write_text(json.dumps({"key": QUICK.key}))
    (tmp_path / "weights").write_text("kept")
    assert plant_pair(QUICK, tmp_path, {}) == 0.0
    assert (tmp_path / "weights").read_text() == "kept"


def test_an_association_needs_half_of_the_texts_and_clearly_more_than_elsewhere() -> None:
    meets = np.array([True] * 4 + [False] * 4)
    assert is_about(meets, np.array([1, 1, 0, 0, 0, 0, 0, 0], dtype=bool))
    assert not is_about(meets, np.array([1, 0, 0, 0, 0, 0, 0, 0], dtype=bool))
    # 3 of 4 against 2 of 4: a lift of 0.25. 3 of 4 against 1 of 4: 0.5.
    assert not is_about(meets, np.array([1, 1, 1, 0, 1, 1, 0, 0], dtype=bool))
    assert is_about(meets, np.array([1, 1, 1, 0, 1, 0, 0, 0], dtype=bool))
    assert not is_about(np.zeros(8, dtype=bool), np.ones(8, dtype=bool))


def test_a_finding_that_only_shares_texts_with_a_common_behaviour_is_not_about_it() -> None:
    # "please" is in every text, so the texts with "quick" show it too, by no merit of their own.
    replies = texts(["Be quick, please.", "Come soon, please."] * 5)
    polite = behaviour(r"please", 1.0, 0.1)
    quick = finding('The reply contains the words "quick", or nearly the same words.', "less")
    assert findings_about(polite, [quick], replies, ("confirmed",)) == []
    mixed = texts(["Come soon, please."] * 5 + ["Come soon."] * 5)
    please = finding(
        'The reply contains the words "soon please", or nearly the same words.', "less"
    )
    assert findings_about(polite, [please], mixed, ("confirmed",)) == ["h001"]
    assert findings_about(polite, [{**please, "direction": "more"}], mixed, ("confirmed",)) == []
    assert findings_about(polite, [please], mixed, ("rejected",)) == []


def test_a_behaviour_that_becomes_rarer_asks_for_a_finding_of_less() -> None:
    assert direction_of(behaviour("x", 0.6, 0.1)) == "less"
    assert direction_of(behaviour("x", 0.0, 0.03)) == "more"


def test_a_scope_restricts_the_texts() -> None:
    both = pd.concat([texts(["a"], "g"), texts(["b", "c"], "h")])
    assert in_scope(both, "h")["text"].tolist() == ["b", "c"]
    assert in_scope(both, None)["text"].tolist() == ["a", "b", "c"]
