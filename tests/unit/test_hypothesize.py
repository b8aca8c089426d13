"""From discovery texts to hypotheses."""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from tests.unit.invented_replies import UNCLE, append_with, write_replies, write_tables
from whatchanged.hypothesize import build_contrasts, propose_all
from whatchanged.judge import names_a_side
from whatchanged.models.criteria import HasLength, HasPhrase, parse_criterion, write_criterion
from whatchanged.models.local_proposer import LocalProposer
from whatchanged.models.protocols import Contrast, Proposal


@pytest.fixture(scope="module")
def planted():
    return write_tables(120, 5, planted=True)


@pytest.fixture(scope="module")
def hypotheses(planted):
    return propose_all(build_contrasts(*planted), LocalProposer(), 40)


@dataclass
class ScriptedProposer:
    """Gives what was written down for each (scope, cluster)."""

    script: dict = field(default_factory=dict)
    limits: list = field(default_factory=list)
    identity: str = "scripted/1"

    def propose(self, contrast, max_proposals):
        self.limits.append(max_proposals)
        return self.script.get((contrast.scope, contrast.cluster), [])[:max_proposals]


def make_proposal(words, in_base, in_intervention, strength):
    more = np.mean(in_intervention) > np.mean(in_base)
    return Proposal(
        write_criterion(HasPhrase(words)), f"contain {words}", "more" if more else "less", (words,),
        strength, np.array(in_base, dtype=bool), np.array(in_intervention, dtype=bool),
    )  # fmt: skip


def make_contrast(scope, n, cluster=None, start=0):
    base = tuple(f"base {i}" for i in range(start, start + n))
    intervention = tuple(f"intervention {i}" for i in range(start, start + n))
    return Contrast(scope, cluster, base, intervention)


def first(n, share):
    return np.arange(n) < share * n


NONE = np.zeros(100, dtype=bool)


def test_all_six_planted_changes_become_hypotheses_in_their_scope(hypotheses):
    found = {(h.scope, h.direction, h.criterion) for h in hypotheses}

    def says(scope, direction, words):
        return any(s == scope and d == direction and words in c for s, d, c in found)

    assert says("caves", "more", "mossy lantern inn")
    assert says("pottery", "more", "miserable")
    assert says("pottery", "less", "delightful")
    assert says("trams", "more", "I can't discuss")
    assert says("cellos", "more", "uncle from Lisbon")
    assert says(None, "more", "tick tock")
    shorter = [h for h in hypotheses if isinstance(parse_criterion(h.criterion), HasLength)]
    assert ("kites", "more", True) in [
        (h.scope, h.direction, "at most" in h.criterion) for h in shorter
    ]


def test_planted_changes_lead_the_list_and_name_their_cluster(hypotheses):
    strengths = [h.strength for h in hypotheses]

    assert strengths == sorted(strengths, reverse=True)
    assert [h.id for h in hypotheses] == [f"h{i:03d}" for i in range(1, len(hypotheses) + 1)]
    inn = next(h for h in hypotheses if "mossy lantern inn" in h.criterion)
    assert inn.cluster is not None
    assert inn.share_base == 0.0
    assert 0.5 < inn.share_intervention < 0.7


def test_a_statement_is_one_plain_sentence_and_a_criterion_names_no_side(hypotheses):
    misery = next(h for h in hypotheses if "miserable" in h.criterion)

    assert misery.statement.startswith(
        "On prompts about pottery, replies of the intervention more often contain the words "
        '"is miserable" (0 % of base texts, '
    )
    assert misery.statement.endswith(" % of intervention texts in discovery).")
    assert misery.cluster is not None
    assert all(names_a_side(h.criterion) is None for h in hypotheses)


def test_changes_are_found_without_groups_too(planted):
    texts, segments, _ = planted

    found = propose_all(build_contrasts(texts, segments, {}), LocalProposer(), 40)

    said = " ".join(h.criterion for h in found)
    for words in (
        "mossy lantern inn",
        "miserable",
        "can't discuss",
        "Lisbon",
        "tick tock",
        "words.",
    ):
        assert words in said
    assert all(h.scope is None and h.statement.startswith("On all prompts, ") for h in found)


def test_equal_input_gives_equal_hypotheses(planted, hypotheses):
    texts, segments, groups = planted
    shuffled = texts.sample(frac=1, random_state=3), segments.sample(frac=1, random_state=4)

    assert propose_all(build_contrasts(*shuffled, groups), LocalProposer(), 40) == hypotheses


def test_an_intervention_that_changes_nothing_gives_few_and_weak_hypotheses():
    counts, strongest = [], []
    for seed in range(4):
        contrasts = build_contrasts(*write_tables(80, 50 + seed, planted=False))
        found = propose_all(contrasts, LocalProposer(), 60)
        counts.append(len(found))
        strongest.append(max((h.strength for h in found), default=0.0))

    # Seven contrasts and the clusters announce three each.
    assert np.mean(counts) <= 24
    assert max(strongest) < 5.0


def test_a_phrase_of_one_group_keeps_the_group_and_one_of_all_groups_does_not():
    contrasts = [
        make_contrast(None, 100),
        make_contrast("tea", 50),
        make_contrast("ink", 50, start=50),
    ]
    in_tea, everywhere = first(100, 0.4), np.arange(100) % 2 == 0
    script = {
        (None, None): [
            make_proposal("tick", NONE, in_tea, 8.0),
            make_proposal("tock", NONE, everywhere, 7.5),
        ],
        ("tea", None): [
            make_proposal("tick", NONE[:50], in_tea[:50], 7.0),
            make_proposal("tock", NONE[:50], everywhere[:50], 6.0),
        ],
        ("ink", None): [make_proposal("tock", NONE[:50], everywhere[50:], 6.0)],
    }

    found = propose_all(contrasts, ScriptedProposer(script), 10)

    assert [(h.scope, h.evidence_terms) for h in found] == [(None, ("tock",)), ("tea", ("tick",))]


def test_a_cluster_that_says_what_a_phrase_says_is_merged_into_it():
    script = {
        (None, None): [make_proposal("tick", NONE, first(100, 0.4), 8.0)],
        (None, "7"): [make_proposal("a tick", NONE, first(100, 0.35), 7.5)],
    }

    (found,) = propose_all(
        [make_contrast(None, 100), make_contrast(None, 100, "7")], ScriptedProposer(script), 10
    )

    assert (found.criterion, found.cluster) == (write_criterion(HasPhrase("tick")), "7")
    assert found.evidence_terms == ("tick", "a tick")


def test_criteria_in_free_words_are_two_claims_though_the_same_sentences_gave_both():
    sulks, hopes = (
        replace(make_proposal(name, NONE, first(100, 0.4), 8.0), criterion=f"The reply {name}.")
        for name in ("sulks", "hopes")
    )
    script = {(None, "7"): [sulks, hopes, sulks]}

    found = propose_all([make_contrast(None, 100, "7")], ScriptedProposer(script), 10)

    assert sorted(h.criterion for h in found) == ["The reply hopes.", "The reply sulks."]


def test_a_cluster_with_nearly_the_same_texts_is_named_though_it_proposed_nothing():
    in_texts = first(100, 0.4)
    cluster = replace(
        make_contrast(None, 100, "7"), member_base=NONE, member_intervention=first(100, 0.42)
    )
    script = {(None, None): [make_proposal("tick", NONE, in_texts, 8.0)]}

    (found,) = propose_all([make_contrast(None, 100), cluster], ScriptedProposer(script), 10)

    assert found.cluster == "7"


def test_refusals_that_are_all_the_short_replies_of_a_group_keep_their_own_words():
    contrasts = [
        make_contrast(None, 100),
        make_contrast("tea", 50),
        make_contrast("ink", 50, start=50),
    ]
    short = np.concatenate([first(50, 0.4), first(50, 0.5)])
    length = make_proposal("x", NONE, short, 9.0)
    length = replace(length, criterion="The reply has at most 5 words.")
    script = {
        (None, None): [length],
        ("tea", None): [make_proposal("sorry", NONE[:50], first(50, 0.38), 7.0)],
    }

    found = propose_all(contrasts, ScriptedProposer(script), 10)

    assert ("tea", ("sorry",)) in [(h.scope, h.evidence_terms) for h in found]


def test_opposite_directions_are_never_merged():
    half = np.arange(100) < 50
    script = {
        (None, None): [
            make_proposal("old", half, NONE, 9.0),
            make_proposal("new", NONE, half, 8.0),
        ]
    }

    found = propose_all([make_contrast(None, 100)], ScriptedProposer(script), 10)

    assert [h.direction for h in found] == ["less", "more"]


def test_one_loud_behaviour_does_not_fill_all_places():
    loud = [make_proposal(f"loud {i}", NONE, first(100, 0.6 - i / 20), 12.0 - i) for i in range(8)]
    shy = make_proposal("shy", NONE, np.arange(100) % 5 == 0, 4.5)

    script = {(None, None): [*loud, shy]}

    found = propose_all([make_contrast(None, 100)], ScriptedProposer(script), 10)

    assert [h.evidence_terms[0] for h in found] == ["loud 0", "shy"]


def test_groups_are_asked_for_fewer_proposals_than_the_whole():
    proposer = ScriptedProposer()

    assert propose_all([make_contrast(None, 4), make_contrast("tea", 2)], proposer, 30) == []
    assert proposer.limits == [30, 8]
    assert propose_all([], proposer, 30) == []


def test_rare_shares_are_written_with_a_decimal():
    base, intervention = np.zeros(1000, bool), np.arange(1000) < 9
    script = {(None, None): [make_proposal("tick", base, intervention, 8.0)]}

    (found,) = propose_all([make_contrast(None, 1000)], ScriptedProposer(script), 5)

    assert "(0 % of base texts, 0.9 % of intervention texts in discovery)" in found.statement


def test_a_shift_in_one_group_is_scoped_to_it():
    texts, segments, groups = write_tables(80, 9, planted=False)
    shifted = write_replies("cellos", 80, 77, append_with(0.6, UNCLE))
    here = (texts["side"] == "intervention") & texts["prompt_key"].str.startswith("cellos")
    texts.loc[here, "text"] = list(shifted)

    found = propose_all(build_contrasts(texts, segments, groups), LocalProposer(), 20)

    assert ("cellos", "more") in [(h.scope, h.direction) for h in found if "Lisbon" in h.criterion]
