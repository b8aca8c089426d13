from __future__ import annotations

import json
import threading
import time
from typing import Any

from tasks.tracking import tell_all
from tests.unit.example_run import HOSTILE, make_run
from whatchanged.tracking import TrackedRun, describe_run

CONFIG = {
    "base": {"model": "/home/somebody/models/base", "system_prompt": "a secret system prompt"},
    "intervention": {"model": "org/tuned"},
    "prompts": {"file": "/home/somebody/prompts.jsonl"},
    "decode": {"temperature": 0.7, "vllm": {"tensor_parallel_size": 2}},
    "validate": {"alpha": 0.05, "null_control": True, "looks": {"at": [0.5, 1.0]}},
    "seed": 4,
}
SUMMARY = {
    "decode": {"base": {"n_decoded": 10, "n_cached": 2}},
    "bill": {"cheap": {"model": "judge-small", "n_calls": 7, "spent_usd": None}},
    "coupling": {"why_independent": "", "n_pairs": 3, "share_identical": 0.5},
    "rounds": [{"silhouette": 0.25, "n_texts_per_side": 40, "label_agreement": None}],
    "themes": {"themes": [{"title": "words of a model"}]},
    "n_confirmed": 1,
    "null_control": None,
}
FINDINGS = [{"id": "h1", "statement": "They say more.", "effect": 0.1, "supporting": ["key"]}]


def described(**options: bool) -> TrackedRun:
    with_statements = options.get("with_statements", False)
    return describe_run("run", "key", CONFIG, SUMMARY, FINDINGS, with_statements=with_statements)


def test_a_tracker_sees_counts_and_settings() -> None:
    run = described()
    assert run.settings == {
        "base": "base", "intervention": "org/tuned", "seed": 4, "decode.temperature": 0.7,
        "decode.vllm.tensor_parallel_size": 2, "validate.alpha": 0.05,
        "validate.null_control": True,
    }  # fmt: skip
    assert run.measures == {
        "decode.base.n_decoded": 10.0, "decode.base.n_cached": 2.0, "bill.cheap.n_calls": 7.0,
        "coupling.n_pairs": 3.0, "coupling.share_identical": 0.5, "n_confirmed": 1.0,
    }  # fmt: skip
    assert run.rounds == ({"silhouette": 0.25, "n_texts_per_side": 40.0},)


def test_a_tracker_sees_no_prompt_no_path_and_no_statement_unless_it_is_asked_for() -> None:
    shown = repr(described())
    for hidden in ("secret", "somebody", "words of a model", "They say more", "supporting"):
        assert hidden not in shown
    (stated,) = described(with_statements=True).statements
    assert stated["statement"] == "They say more."
    assert "supporting" not in stated


def test_no_text_of_a_model_is_in_what_a_tracker_sees_of_a_whole_run() -> None:
    example = make_run()
    run = describe_run(
        "run", "key", example.config, example.summary, example.findings, with_statements=False
    )
    shown = json.dumps([run.settings, run.measures, run.rounds], default=str)
    texts = [*example.texts["text"], *example.texts["prompt"], *HOSTILE]
    assert not any(text and text in shown for text in texts)


def test_a_tracker_that_fails_is_a_problem_and_the_others_are_told() -> None:
    def fail(_run: TrackedRun) -> str:
        raise ConnectionError("no answer\nand a long trace")

    def leave(_run: TrackedRun) -> str:
        raise SystemExit(1)

    told = tell_all({"a": fail, "b": leave, "c": lambda run: f"at {run.name}"}, described(), 5.0)
    assert told == {
        "a": {"run": "", "problem": "ConnectionError: no answer"},
        "b": {"run": "", "problem": "SystemExit: 1"},
        "c": {"run": "at run", "problem": ""},
    }


def test_a_tracker_that_hangs_is_given_up_at_the_limit() -> None:
    ended = threading.Event()

    def hang(_run: Any) -> str:
        ended.wait(10)
        return "late"

    started = time.monotonic()
    told = tell_all({"slow": hang}, described(), 0.2)
    assert time.monotonic() - started < 5
    ended.set()
    assert told["slow"]["problem"] == "it took longer than 0.2 s"
