from __future__ import annotations

from whatchanged.decode import (
    Stream,
    empty_texts,
    plan_chunks,
    plan_requests,
    tabulate_texts,
    take_known,
)
from whatchanged.records import Completion, DecodeRequest, Prompt, Purpose

PROMPTS = [Prompt(f"k{i}", f"prompt {i}", "g", "discovery") for i in range(3)]


def plan(
    counts: dict[str, int],
    already: dict[str, int] | None = None,
    identity: str = "m",
    stream: Stream = "base",
    seed: int = 0,
    purpose: Purpose = "discovery",
) -> list[DecodeRequest]:
    return plan_requests(
        PROMPTS,
        counts,
        already or {},
        decoder_identity=identity,
        seed=seed,
        stream=stream,
        purpose=purpose,
    )


def test_samples_are_numbered_on_from_those_decoded_before() -> None:
    requests = plan({"k0": 2, "k2": 1}, {"k0": 3})
    assert [(r.prompt_key, r.index) for r in requests] == [("k0", 3), ("k0", 4), ("k2", 0)]


def test_a_text_key_names_what_the_text_is_a_sample_of() -> None:
    (one,) = plan({"k0": 1})
    others = [
        plan({"k0": 1}, {"k0": 1}),
        plan({"k1": 1}),
        plan({"k0": 1}, identity="n"),
        plan({"k0": 1}, stream="null"),
        plan({"k0": 1}, seed=1),
    ]
    assert one.text_key == plan({"k0": 5})[0].text_key
    assert len({one.text_key, *(r[0].text_key for r in others)}) == 6


def test_models_that_decode_from_one_stream_share_their_noise() -> None:
    (one,), (other,) = plan({"k0": 1}), plan({"k0": 1}, identity="n")
    assert one.noise_key == other.noise_key
    assert one.text_key != other.text_key
    assert one.noise_key != plan({"k0": 1}, stream="null")[0].noise_key


def test_the_screen_has_noise_of_its_own() -> None:
    (shown,) = plan({"k0": 1}, purpose="screen")
    assert shown.noise_key != plan({"k0": 1})[0].noise_key
    assert plan({"k0": 1}, purpose="validation") == plan({"k0": 1})


def chunks(n: int, size: int) -> list[list[int]]:
    parts = plan_chunks(
        plan({"k0": n}), side="base", split="discovery", round_index=0, chunk_texts=size
    )
    return [[request.index for request in part.requests] for part in parts]


def test_chunks_are_consecutive_and_nearly_equal() -> None:
    assert chunks(5, 2) == [[0, 1], [2, 3], [4]]
    assert chunks(10, 9) == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    assert chunks(3, 500) == [[0, 1, 2]]
    assert chunks(0, 500) == []


def test_a_chunk_key_changes_with_its_texts_and_its_place() -> None:
    keys = {
        plan_chunks(
            plan({"k0": n}), side=side, split=split, round_index=r, chunk_texts=9
        )[0].key
        for n, side, split, r in (
            (1, "base", "discovery", 0),
            (2, "base", "discovery", 0),
            (1, "intervention", "discovery", 0),
            (1, "base", "validation", 0),
            (1, "base", "discovery", 1),
        )
    }  # fmt: skip
    assert len(keys) == 5


def test_the_table_follows_the_requests() -> None:
    (chunk,) = plan_chunks(
        plan({"k0": 1, "k1": 1}), side="base", split="discovery", round_index=2, chunk_texts=9
    )
    table = tabulate_texts(
        chunk, [Completion("one", 3, "stop"), Completion("", 0, "failed", "too long")]
    )
    assert list(table["prompt"]) == ["prompt 0", "prompt 1"]
    assert list(table["text"]) == ["one", ""]
    assert list(table["reason"]) == ["", "too long"]
    assert set(table["round"]) == {2}


def test_an_empty_table_can_be_joined_like_any_other() -> None:
    (chunk,) = plan_chunks(
        plan({"k0": 1}), side="base", split="discovery", round_index=0, chunk_texts=9
    )
    table = tabulate_texts(chunk, [Completion("one", 3, "stop")])
    assert list(empty_texts().columns) == list(table.columns)
    assert len(empty_texts().merge(table, on="text_key")) == 0


def test_texts_that_are_known_are_taken_and_the_others_left_to_decode() -> None:
    wanted = plan({"k0": 3}, purpose="validation")
    (chunk,) = plan_chunks(
        [wanted[2], wanted[0]],
        side="intervention",
        split="validation",
        round_index=0,
        chunk_texts=9,
    )
    known = tabulate_texts(chunk, [Completion("two", 1, "stop"), Completion("none", 1, "stop")])
    taken, left = take_known(wanted, known, side="base", round_index=1)
    assert taken["text"].tolist() == ["none", "two"]
    assert taken[["side", "round"]].to_numpy().tolist() == [["base", 1]] * 2
    assert left == [wanted[1]]
    none, all_left = take_known(wanted, empty_texts(), side="base", round_index=1)
    assert (len(none), all_left) == (0, wanted)
