"""The two local judges: words, and meaning by embeddings."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whatchanged.keys import content_key, seed_from_key
from whatchanged.models.criteria import (
    HasFeature,
    HasLength,
    HasPhrase,
    HasSentence,
    HasSign,
    write_criterion,
)
from whatchanged.models.embedding_judge import EmbeddingJudge
from whatchanged.models.lexical_judge import LexicalJudge
from whatchanged.models.wording import read_words
from whatchanged.records import Judgement, Question

SYNONYMS = {"awful": "dreadful", "tasted": "was", "stew": "soup"}
ALL_KINDS = [
    HasPhrase("mossy lantern inn"),
    HasSentence("The soup was dreadful."),
    HasLength("at most", 4),
    HasFeature("question"),
    HasSign("§"),
]


@dataclass
class WordEmbedder:
    """A text is the sum of its words, each a random direction; synonyms share theirs."""

    identity: str = "words/1"
    d_embed: int = 256
    asked: list[str] = field(default_factory=list)

    def embed(self, texts):
        self.asked += texts
        rows = np.stack([self._sum(text) for text in texts])
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        return np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)

    def _sum(self, text):
        words = [SYNONYMS.get(word, word) for word in read_words(text)]
        seeds = [seed_from_key(content_key("word", word)) for word in words]
        drawn = [np.random.default_rng(seed).normal(size=self.d_embed) for seed in seeds]
        return np.sum(drawn, axis=0, dtype=np.float32) if drawn else np.zeros(256, np.float32)


def score(judge, criterion, text):
    (judgement,) = judge.judge([Question(write_criterion(criterion), "A prompt", text)])
    assert judgement.outcome == "answered"
    return judgement.score


def lexical(criterion, text):
    return score(LexicalJudge(), criterion, text)


def embedding(criterion, text):
    return score(EmbeddingJudge(WordEmbedder()), criterion, text)


def test_an_exact_phrase_scores_one_whatever_its_case_and_punctuation():
    text = "Then, ask at the Mossy Lantern-Inn? No: the MOSSY, lantern inn."

    assert lexical(HasPhrase("the mossy lantern inn"), text) == 1.0
    assert embedding(HasPhrase("the mossy lantern inn"), text) == 1.0


def test_a_word_in_between_is_nearly_the_same_words():
    assert lexical(HasPhrase("mossy lantern inn"), "the mossy old lantern inn") == 0.95


def test_half_of_a_phrase_is_borderline_and_nothing_of_it_is_zero():
    assert 0.4 <= lexical(HasPhrase("tick tock"), "I hear a tick here") <= 0.6
    assert 0.4 <= lexical(HasPhrase("mossy lantern inn hotel"), "the mossy lantern is lit") <= 0.6
    assert lexical(HasPhrase("tick tock"), "I hear nothing here") == 0.0
    assert lexical(HasPhrase("ask at the inn"), "it is at the end of the line") == 0.0


def test_a_phrase_without_words_is_searched_as_it_is():
    assert lexical(HasPhrase(":-)"), "fine :-)") == 1.0
    assert lexical(HasPhrase(":-)"), "fine") == 0.0
    assert embedding(HasPhrase(":-)"), "fine") == 0.0


def test_equal_sentences_score_one_and_unrelated_ones_near_zero():
    sentence = HasSentence("The soup was dreadful.")

    assert lexical(sentence, "We sat down. The soup was dreadful! We left.") == 1.0
    assert lexical(sentence, "The kite flies over the hill.") < 0.1
    assert embedding(sentence, "We sat down. The soup was dreadful! We left.") > 0.99
    assert embedding(sentence, "The kite flies over the hill.") < 0.1


def test_a_sentence_with_a_word_exchanged_is_borderline_for_the_cheap_judge():
    sentence = HasSentence("The soup was dreadful.")

    assert 0.4 <= lexical(sentence, "The stew was dreadful.") <= 0.6


def test_the_dearer_judge_sees_a_meaning_that_the_cheap_one_does_not():
    sentence, text = HasSentence("The soup was dreadful."), "The stew tasted awful."

    assert lexical(sentence, text) < 0.4
    assert embedding(sentence, text) > 0.9


def test_the_dearer_judge_asks_for_words_as_well_as_meaning_where_words_are_meant():
    # "kite" is close to "kite decides", and still not nearly the same words.
    assert embedding(HasPhrase("kite decides"), "The kite is red.") < 0.5
    assert embedding(HasPhrase("kite decides"), "Nothing of it.") == 0.0
    assert embedding(HasPhrase("the soup was dreadful"), "my soup was quite dreadful") > 0.5


@pytest.mark.parametrize("judge", [LexicalJudge(), EmbeddingJudge(WordEmbedder())])
def test_length_and_format_are_counted(judge):
    assert score(judge, HasLength("at most", 3), "one two three") == 1.0
    assert score(judge, HasLength("at most", 2), "one two three") == 0.0
    assert score(judge, HasFeature("question"), "Really?") == 1.0
    assert score(judge, HasSign("§"), "see 5") == 0.0


@pytest.mark.parametrize("judge", [LexicalJudge(), EmbeddingJudge(WordEmbedder())])
def test_an_empty_text_is_judged_by_the_criterion(judge):
    scores = [score(judge, criterion, "") for criterion in ALL_KINDS]

    assert scores == [0.0, 0.0, 1.0, 0.0, 0.0]
    assert score(judge, HasFeature("blank"), "") == 1.0


def test_the_cheap_judge_is_never_sure_of_free_words():
    texts = ["The reply scolds the reader.", "A kite.", ""]
    questions = [Question("The reply scolds the reader.", "A prompt", text) for text in texts]

    scores = [j.score for j in LexicalJudge().judge(questions)]

    assert all(0.4 <= s <= 0.6 for s in scores)
    assert scores[0] > scores[1]


@pytest.mark.parametrize("judge", [LexicalJudge(), EmbeddingJudge(WordEmbedder())])
def test_free_words_that_quote_are_judged_by_the_quotation(judge):
    criterion = 'The reply greets with "good morrow" somewhere.'
    yes, no = judge.judge([Question(criterion, "", t) for t in ("Good morrow, sir.", "Hello.")])

    assert (yes.score, no.score) == (1.0, 0.0)


def test_each_distinct_part_is_embedded_once_per_call():
    embedder = WordEmbedder()
    criterion = write_criterion(HasSentence("It is cold."))
    texts = ["We rest. We eat.", "We eat. We rest.", "We rest. We eat."]

    judgements = EmbeddingJudge(embedder).judge([Question(criterion, "", t) for t in texts])

    assert sorted(embedder.asked) == ["It is cold.", "We eat.", "We rest."]
    assert judgements[0].score == pytest.approx(judgements[1].score)


def test_the_dearer_judge_names_the_closest_part():
    criterion = write_criterion(HasSentence("The soup was dreadful."))
    (judgement,) = EmbeddingJudge(WordEmbedder()).judge(
        [Question(criterion, "", "We sat. The soup was awful. We left.")]
    )

    assert judgement.reason == "closest: The soup was awful."


def test_identities_name_the_embedder_and_the_calibration():
    assert LexicalJudge().identity == "lexical/1"
    plain, strict = EmbeddingJudge(WordEmbedder()), EmbeddingJudge(WordEmbedder(), midpoint=0.8)
    assert plain.identity != strict.identity
    assert "words/1" in plain.identity


def test_no_questions_give_no_judgements():
    assert LexicalJudge().judge([]) == []
    assert EmbeddingJudge(WordEmbedder()).judge([]) == []


@given(st.sampled_from(ALL_KINDS).map(write_criterion) | st.text(max_size=60), st.text(max_size=80))
def test_any_criterion_on_any_text_gets_a_score_between_zero_and_one(criterion, text):
    for judge in (LexicalJudge(), EmbeddingJudge(WordEmbedder())):
        (judgement,) = judge.judge([Question(criterion, "", text)])
        assert isinstance(judgement, Judgement)
        assert 0.0 <= judgement.score <= 1.0


def test_judgements_keep_the_order_asked_and_do_not_depend_on_company():
    criteria = [write_criterion(c) for c in ALL_KINDS]
    texts = ["The soup was cold.", "mossy lantern inn?", "", "§ yes"]
    questions = [Question(c, "", t) for t in texts for c in criteria]
    for judge in (LexicalJudge(), EmbeddingJudge(WordEmbedder())):
        together = [j.score for j in judge.judge(questions)]
        alone = [judge.judge([q])[0].score for q in questions]
        assert together == pytest.approx(alone, abs=1e-6)
