import numpy as np
import pytest

from whatchanged.errors import TransientError
from whatchanged.keys import content_key
from whatchanged.models.fakes import FAKE_TEXTS, FakeDecoder, FakeEmbedder, FakeJudge, Faults
from whatchanged.models.protocols import Decoder, Embedder, Judge
from whatchanged.records import DecodeRequest, Question

REQUESTS = [
    DecodeRequest(content_key("text", i), "p", "A prompt", i, content_key("noise", i))
    for i in range(200)
]


def test_the_fakes_fit_the_protocols() -> None:
    decoder: Decoder = FakeDecoder("base")
    embedder: Embedder = FakeEmbedder()
    judge: Judge = FakeJudge()
    assert decoder.decode([]) == []
    assert embedder.identity != judge.identity


def test_a_fake_text_depends_on_its_key_side_and_seed() -> None:
    texts = [c.text for c in FakeDecoder("base").decode(REQUESTS)]
    assert texts[::-1] == [c.text for c in FakeDecoder("base").decode(REQUESTS[::-1])]
    assert set(texts) == set(FAKE_TEXTS["base"])
    assert texts != [c.text for c in FakeDecoder("base", seed=1).decode(REQUESTS)]
    changed = {c.text for c in FakeDecoder("intervention").decode(REQUESTS)} - set(texts)
    assert changed == {"Nobody knows for certain. As my captain says, trust the wind."}


def test_the_asked_share_of_fake_texts_fails_every_time() -> None:
    decoder = FakeDecoder("base", faults=Faults(failed_share=0.25))
    failed = [c.finish == "failed" for c in decoder.decode(REQUESTS)]
    assert 30 <= sum(failed) <= 70
    assert failed == [c.finish == "failed" for c in decoder.decode(REQUESTS)]


def test_the_asked_calls_raise() -> None:
    decoder = FakeDecoder("base", faults=Faults(raising_calls=frozenset({2})))
    decoder.decode(REQUESTS[:1])
    with pytest.raises(TransientError, match="fake call 2"):
        decoder.decode(REQUESTS[:1])
    assert len(decoder.decode(REQUESTS[:1])) == 1
    assert decoder.counter.n_calls == 3


def test_fake_vectors_are_of_unit_length_and_alike_for_shared_words() -> None:
    embedder = FakeEmbedder(d_embed=64)
    a, b, c = embedder.embed(["The cat sat down.", "the cat sat", "no such thing"])
    assert np.allclose([a @ a, b @ b, c @ c], 1, atol=1e-5)
    assert a @ b > a @ c
    assert np.array_equal(embedder.embed(["no such thing"])[0], c)
    assert embedder.embed([]).shape == (0, 64)
    assert np.isfinite(embedder.embed([""])).all()


def test_a_poisoned_fake_embedder_gives_nan() -> None:
    assert np.isnan(FakeEmbedder(faults=Faults(failed_share=1.0)).embed(["a"])).all()


def test_a_fake_judge_finds_the_criterion_in_the_text() -> None:
    judge = FakeJudge(cost_usd=0.5)
    yes, no = judge.judge(
        [Question("Captain", "p", "as my captain says"), Question("captain", "p", "nobody")]
    )
    assert (yes.score, no.score) == (1.0, 0.0)
    assert yes.cost_usd == 0.5


def test_a_failed_fake_judgement_has_no_score() -> None:
    [judgement] = FakeJudge(faults=Faults(failed_share=1.0)).judge([Question("a", "b", "c")])
    assert (judgement.score, judgement.outcome) == (None, "failed")
