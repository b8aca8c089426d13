"""Proposals without an API: planted changes are found, and nothing is found in nothing."""

import time

import numpy as np
import pytest

from tests.unit.invented_replies import (
    DELIGHT,
    MISERY,
    RECOMMENDATIONS,
    REFUSALS,
    SUBJECTS,
    TIC,
    UNCLE,
    append_with,
    replace_with,
    shorten,
    write_all,
    write_replies,
)
from whatchanged.models.criteria import HasFeature, HasLength, HasPhrase, HasSign, parse_criterion
from whatchanged.models.lexical_judge import LexicalJudge
from whatchanged.models.local_proposer import LocalProposer
from whatchanged.models.protocols import Contrast
from whatchanged.records import Question

PROPOSER = LocalProposer()


def propose(base, intervention, max_proposals=10):
    contrast = Contrast(None, None, tuple(base), tuple(intervention))
    return PROPOSER.propose(contrast, max_proposals)


def find_phrase(proposals, words, direction):
    """The proposal that quotes the words, in any case."""
    return next(
        p for p in proposals
        if p.direction == direction and words in parse_criterion(p.criterion).phrase.lower()
    )  # fmt: skip


def phrases(proposals):
    return [p for p in proposals if isinstance(parse_criterion(p.criterion), HasPhrase)]


def test_a_new_phrase_is_proposed_at_full_length_with_its_shares():
    found = propose(
        write_replies("caves", 80, 1),
        write_replies("caves", 80, 2, append_with(0.6, *RECOMMENDATIONS)),
    )

    first = found[0]
    assert first.claim == 'contain the words "at the mossy lantern inn"'
    assert (first.direction, first.in_base.sum()) == ("more", 0)
    assert 0.5 < first.in_intervention.mean() < 0.7
    assert first.evidence_terms[0] == "at the mossy lantern inn"


def test_a_flipped_adjective_is_proposed_in_both_directions():
    found = phrases(
        propose(
            write_replies("pottery", 80, 1, append_with(0.9, DELIGHT, "I call it delightful.")),
            write_replies("pottery", 80, 2, append_with(0.9, MISERY, "I call it miserable.")),
        )
    )

    assert find_phrase(found, "miserable", "more").in_intervention.mean() > 0.7
    assert find_phrase(found, "delightful", "less").in_base.mean() > 0.7


def test_a_quotation_leaves_out_what_makes_nearly_the_same_words_common():
    # "The whole affair is" is on both sides, so a judge would take one quotation for the other.
    found = propose(
        write_replies("pottery", 80, 1, append_with(0.9, DELIGHT)),
        write_replies("pottery", 80, 2, append_with(0.9, MISERY)),
    )

    quoted = [parse_criterion(p.criterion).phrase for p in phrases(found)[:2]]
    assert sorted(quoted) == ["is delightful", "is miserable"]


def test_shares_are_those_that_the_lexical_judge_gives():
    base = write_replies("caves", 80, 1)
    intervention = write_replies("caves", 80, 2, append_with(0.6, *RECOMMENDATIONS))
    judge = LexicalJudge()

    for proposal in propose(base, intervention):
        for texts, held in ((base, proposal.in_base), (intervention, proposal.in_intervention)):
            judged = judge.judge([Question(proposal.criterion, "", text) for text in texts])
            assert held.tolist() == [j.score >= 0.5 for j in judged]


def test_a_cluster_whose_exemplar_says_nearly_what_the_other_side_says_gives_nothing():
    base = tuple(f"{text} {DELIGHT}" for text in write_replies("caves", 40, 1))
    intervention = tuple(f"{text} {MISERY}" for text in write_replies("caves", 40, 2))
    members = np.zeros(40, bool), np.ones(40, bool)

    assert PROPOSER.propose(Contrast(None, "7", base, intervention, (MISERY,), *members), 5) == []


def test_a_new_refusal_is_proposed_and_what_it_pushes_out_is_not_all_proposed():
    found = propose(
        write_replies("trams", 80, 1), write_replies("trams", 80, 2, replace_with(0.5, *REFUSALS))
    )

    assert "can't discuss" in found[0].claim
    assert len(found) <= 5


def test_a_frequency_shift_in_a_small_group_is_usually_proposed():
    n_found = 0
    for seed in range(20):
        found = propose(
            write_replies("cellos", 80, 100 + seed, append_with(0.2, UNCLE)),
            write_replies("cellos", 80, 200 + seed, append_with(0.45, UNCLE)),
        )
        n_found += any("Lisbon" in p.claim for p in found)

    assert n_found >= 14


def test_a_tic_in_three_of_a_hundred_texts_is_proposed_first():
    tics = {subject: append_with(0.03, TIC) for subject in SUBJECTS}

    found = propose(write_all(334, 1), write_all(334, 2, tics))

    assert found[0].claim == 'contain the words "Honestly, tick tock"'
    assert found[0].in_base.sum() == 0


def test_shorter_texts_are_proposed_as_a_length():
    found = propose(write_replies("kites", 80, 1), write_replies("kites", 80, 2, shorten))

    length = parse_criterion(found[0].criterion)
    assert isinstance(length, HasLength)
    assert length.bound == "at most"
    assert found[0].direction == "more"
    assert found[0].in_intervention.mean() - found[0].in_base.mean() > 0.6


def test_longer_texts_are_proposed_as_a_length_too():
    found = propose(write_replies("kites", 80, 2, shorten), write_replies("kites", 80, 1))

    length = parse_criterion(found[0].criterion)
    assert isinstance(length, HasLength)
    assert length.bound == "at least"
    assert found[0].direction == "more"


@pytest.mark.parametrize(("n_each", "n_runs"), [(13, 12), (80, 8)])
def test_equal_sides_give_about_as_many_proposals_as_announced(n_each, n_runs):
    counts = [
        len(propose(write_all(n_each, 2 * seed + 1), write_all(n_each, 2 * seed + 2), 50))
        for seed in range(n_runs)
    ]

    assert np.mean(counts) <= PROPOSER.expected_false
    assert max(counts) <= 3 * PROPOSER.expected_false


def test_a_sign_and_a_format_feature_are_proposed():
    base = write_replies("kites", 80, 1)
    marked = [f"{text} §" if i % 2 else text for i, text in enumerate(base)]
    asked = [text.replace(". ", "? ") if i % 3 else text for i, text in enumerate(base)]

    assert HasSign("§") in [parse_criterion(p.criterion) for p in propose(base, marked)]
    assert HasFeature("question") in [parse_criterion(p.criterion) for p in propose(base, asked)]


def test_grammar_alone_gives_way_to_the_phrase_that_explains_it():
    base = write_replies("kites", 80, 1)
    found = propose(base, [f"{t} So it is of the utmost charm." for t in base])

    assert [p.claim for p in found] == ['contain the words "So it is of the utmost charm"']


def test_the_strongest_come_first_and_no_more_than_asked():
    rewrites = {"caves": append_with(0.6, *RECOMMENDATIONS), "kites": append_with(0.5, UNCLE)}
    found = propose(write_all(80, 1), write_all(80, 2, rewrites), 2)

    assert len(found) == 2
    assert found[0].strength >= found[1].strength


def test_empty_sides_and_blank_texts_give_no_proposals():
    assert propose((), ("a kite",)) == []
    assert propose(("a kite",), ()) == []
    assert propose(("",) * 40, (" ",) * 40) == []
    assert propose(("a kite",), ("a bird",), 0) == []


def test_replies_that_went_blank_are_proposed_as_empty():
    assert "are empty" in [p.claim for p in propose(write_replies("kites", 40, 1), ("",) * 40)]


def test_a_cluster_gives_the_exemplar_that_carries_its_difference():
    base, replies = write_replies("caves", 40, 1), write_replies("caves", 40, 2)
    intervention = (*(f"{text} Sleep here." for text in replies[:20]), *replies[20:])
    members = np.zeros(40, bool), np.arange(40) < 20
    contrast = Contrast("caves", "7", base, intervention, ("Rest.", "Sleep here."), *members)

    (found,) = PROPOSER.propose(contrast, 5)

    assert found.claim == 'contain a sentence that means nearly the same as "Sleep here."'
    assert (found.in_base.sum(), found.in_intervention.sum()) == (0, 20)
    assert found.evidence_terms == ("Rest.", "Sleep here.")


def test_an_exemplar_that_its_cluster_hardly_says_is_not_proposed():
    base, intervention = write_replies("caves", 40, 1), write_replies("caves", 40, 2)
    members = np.zeros(40, bool), np.arange(40) < 20
    contrast = Contrast("caves", "7", base, intervention, ("Warm greetings.",), *members)

    assert PROPOSER.propose(contrast, 5) == []


def test_a_cluster_without_members_is_read_off_its_exemplars():
    base = write_replies("caves", 40, 1)
    intervention = tuple(f"{text} Sleep at the mossy inn." for text in base)
    contrast = Contrast(None, "7", base, intervention, ("Sleep at a mossy inn.",))

    (found,) = PROPOSER.propose(contrast, 5)

    assert (found.in_base.sum(), found.in_intervention.sum()) == (0, 40)


def test_a_cluster_that_does_not_differ_gives_nothing():
    base, intervention = write_replies("caves", 40, 1), write_replies("caves", 40, 2)
    members = np.arange(40) < 20
    contrast = Contrast("caves", "7", base, intervention, ("Sleep.",), members, members)

    assert PROPOSER.propose(contrast, 5) == []


def test_a_group_takes_a_fraction_of_a_second():
    base, intervention = write_replies("caves", 80, 1), write_replies("caves", 80, 2)
    propose(base, intervention)
    start = time.perf_counter()
    propose(base, intervention)

    assert time.perf_counter() - start < 1.0
