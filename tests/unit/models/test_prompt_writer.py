"""Prompt banks that a model writes: the loopback server, the real client, the real ledger. The
count of calls is always the server's."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.loopback.misbehaviour import Misbehaviour
from tests.loopback.server import Loopback
from whatchanged.cli import main
from whatchanged.errors import TransientError
from whatchanged.models.chat import CallResult, ChatReply, ChatRequest
from whatchanged.models.prompt_writer import MAX_PER_CALL, is_kept, read_written, write_prompts
from whatchanged.models.rubric import Asking, ask_again
from whatchanged.prompt_bank import PromptRow, read_prompt_file

KEY_VARIABLE = "WHATCHANGED_TEST_KEY"
CANARY = "canary-7c1de0a94b2f4d6e"
PRICES = "models:\n  writer-large: {input: 1.25, output: 10.00}\n"
ASKING = Asking("p", "m", temperature=1.0)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a cache of its own, and prices."""
    pytest.importorskip("openai", reason="the extra `openai` is not installed")
    monkeypatch.setenv("WHATCHANGED_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv(KEY_VARIABLE, CANARY)
    (tmp_path / "prices.yaml").write_text(PRICES)
    return tmp_path


def config_in(
    home: Path, server: Loopback, areas: str = "[cooking, law]", n: int = 30, budget: str = "5"
) -> Path:
    path = home / "bank.yaml"
    path.write_text(
        f"areas: {areas}\nprompts_per_area: {n}\n"
        f'writer: {{provider: openai_compatible, model: writer-large, endpoint: "{server.url}/v1", '
        f"key_variable: {KEY_VARIABLE}}}\nbudget: {{max_usd: {budget}, prices: prices.yaml}}\n"
    )
    return path


def test_every_area_gets_its_prompts_and_a_second_command_pays_nothing(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Loopback(key=CANARY) as server:
        config = config_in(home, server)
        assert main(["prompts", str(config), "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        n_calls = server.counts()["n_calls"]
        first = (home / "bank.jsonl").read_bytes()
        bank = read_prompt_file(str(home / "bank.jsonl"))
        assert Counter(row.group for row in bank.rows) == {"cooking": 30, "law": 30}
        assert bank.n_duplicates == 0
        # The server's first reply repeats a prompt, so 19 of 20 and then 11 are new.
        assert n_calls == 4
        assert told["n_duplicates"] == 2
        assert told["n_calls"] == 4 and told["spent_usd"] > 0

        assert main(["prompts", str(config)]) == 0
        other = home / "other.jsonl"
        assert main(["prompts", str(config), "--out", str(other)]) == 0
        assert (home / "bank.jsonl").read_bytes() == other.read_bytes() == first
        assert server.counts()["n_calls"] == n_calls
    stored = b"".join(path.read_bytes() for path in home.rglob("*") if path.is_file())
    assert CANARY.encode() not in stored


def test_a_larger_bank_pays_for_what_is_new_alone(home: Path) -> None:
    with Loopback(key=CANARY) as server:
        config = config_in(home, server, n=60)
        assert main(["prompts", str(config)]) == 0
        n_calls = server.counts()["n_calls"]
        out = ["--out", str(home / "third.jsonl")]
        wider = ["--set", "areas=[cooking, law, chess]"]
        assert main(["prompts", str(config), *out, *wider]) == 0
        assert server.counts()["n_calls"] == n_calls + n_calls // 2


def test_a_file_that_is_another_is_neither_overwritten_nor_paid_for(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "bank.jsonl").write_text('{"prompt": "mine"}\n')
    with Loopback(key=CANARY) as server:
        config = config_in(home, server)
        assert main(["prompts", str(config)]) == 2
        assert server.counts()["n_calls"] == 0
        assert "found another: name another with --out" in capsys.readouterr().err
        # Also where all is known already.
        assert main(["prompts", str(config), "--out", str(home / "o.jsonl")]) == 0
        assert main(["prompts", str(config)]) == 2
    assert (home / "bank.jsonl").read_text() == '{"prompt": "mine"}\n'


def test_a_failure_writes_no_file_and_the_next_command_goes_on(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Loopback(key=CANARY, misbehaviour=Misbehaviour(schedule=("ok", "safety"))) as server:
        config = config_in(home, server)
        assert main(["prompts", str(config)]) == 1
        assert "found none (refused" in capsys.readouterr().err
        assert not (home / "bank.jsonl").exists()
        assert server.counts()["n_calls"] == 2
        assert main(["prompts", str(config)]) == 0
        # The refused one again, and the second call of both areas.
        assert server.counts()["n_calls"] == 5


def test_the_budget_is_a_cap(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Loopback(key=CANARY) as server:
        config = config_in(home, server, budget="0.0001")
        assert main(["prompts", str(config)]) == 4
        assert server.counts()["n_calls"] == 0
        assert "budget.max_usd" in capsys.readouterr().err
        assert main(["prompts", str(config), "--set", "budget.max_usd=5"]) == 0


def test_an_area_about_which_a_model_has_no_more_is_short_and_said(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Loopback(key=CANARY) as server:
        assert main(["prompts", str(config_in(home, server, "[few things, law]", 10))]) == 0
        counts = server.counts()
    said = capsys.readouterr().err
    assert "expected 10 prompts about 'few things', found 2" in said
    assert "law" not in said
    # One call that brings two, and two that bring nothing new; law takes two.
    assert counts["n_calls"] == counts["n_distinct"] == 5
    groups = Counter(row.group for row in read_prompt_file(str(home / "bank.jsonl")).rows)
    assert groups == {"few things": 2, "law": 10}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("areas=[]", "areas: "),
        ("areas=[a, a]", "expected each of `areas` once, found 'a' twice"),
        ("areas=[a, ' ']", "expected a name for every one of `areas`"),
        ("writer.provider=lexical", "lexical is local and takes no `model`"),
        ("prompts_per_aera=3", "did you mean 'prompts_per_area'?"),
    ],
)
def test_a_config_that_cannot_be_is_one_sentence(
    home: Path, capsys: pytest.CaptureFixture[str], change: str, said: str
) -> None:
    with Loopback() as server:
        config = config_in(home, server)
        assert main(["prompts", str(config), "--set", change]) == 2
        assert server.counts()["n_calls"] == 0
    err = capsys.readouterr().err
    assert said in err
    assert len(err.strip().splitlines()) == 1


def test_a_missing_key_is_said_before_anything_is_asked(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(KEY_VARIABLE)
    with Loopback(key=CANARY) as server:
        assert main(["prompts", str(config_in(home, server))]) == 5
        assert server.counts()["n_calls"] == 0


def answering(
    *texts: str,
) -> tuple[Callable[[Sequence[ChatRequest]], list[CallResult]], list[ChatRequest]]:
    """A caller that gives these answers in turn, and what it was asked."""
    asked: list[ChatRequest] = []

    def call(requests: Sequence[ChatRequest]) -> list[CallResult]:
        start = len(asked)
        asked.extend(requests)
        return [
            CallResult(ChatReply(text, "stop", "", 1, 1), "", 0.0, False)
            for text in texts[start : start + len(requests)]
        ]

    return call, asked


def test_a_prompt_of_two_areas_stays_with_the_first() -> None:
    call, _ = answering('{"prompts": ["x", "y"]}', '{"prompts": ["y ", "z"]}', '{"prompts": ["w"]}')
    written = write_prompts(["a", "b"], 2, "", call, ASKING)
    assert written.rows == (
        PromptRow("x", "a"), PromptRow("y", "a"), PromptRow("z", "b"), PromptRow("w", "b"),
    )  # fmt: skip
    assert written.n_duplicates == 1


def test_a_call_says_what_was_written_and_how_many_are_missing() -> None:
    call, asked = answering('{"prompts": ["x"]}', '{"prompts": ["y"]}')
    write_prompts(["tea"], 2, "Be {brief}.", call, ASKING)
    assert "\n2\n" in asked[0].user and "nothing yet" in asked[0].user
    assert "\n1\n" in asked[1].user and "\nx\n" in asked[1].user
    assert asked[0].system.endswith("Be {brief}.")
    assert asked[0].temperature == 1.0
    call, asked = answering(*(json.dumps({"prompts": [str(i)]}) for i in range(30)))
    write_prompts(["tea"], 30, "", call, ASKING)
    assert f"\n{MAX_PER_CALL}\n" in asked[0].user


def test_an_answer_off_the_schema_is_asked_for_once_more() -> None:
    call, asked = answering("Sure! Tea?", '{"prompts": ["Tea?"]}')
    assert write_prompts(["tea"], 1, "", call, ASKING).rows == (PromptRow("Tea?", "tea"),)
    assert asked[1] == ask_again(asked[0])
    call, asked = answering("Sure!", "Of course!")
    with pytest.raises(TransientError, match=r"prompts about 'tea' from m, found none \(malformed"):
        write_prompts(["tea"], 1, "", call, ASKING)
    assert len(asked) == 2
    # The first leads to the second; the second would be read again by every later run.
    reply = ChatReply("Sure!", "stop", "", 1, 1)
    assert is_kept(asked[0], reply)
    assert not is_kept(asked[1], reply)


@pytest.mark.parametrize(
    "text",
    [
        '{"prompts": []}', '{"prompts": "x"}', '{"prompts": ["x", 1]}', '{"prompts": [" "]}',
        '{"prompts": ["x\\ud83d"]}', '{"prompts": ["' + "x" * 2001 + '"]}', '["x"]',
        '{"prompts": ["x"], "more": 1}',
    ],
)  # fmt: skip
def test_nothing_is_taken_from_an_answer_off_the_schema(text: str) -> None:
    prompts, problem = read_written(CallResult(ChatReply(text, "stop", "", 1, 1), "", 0.0, False))
    assert prompts == []
    assert problem.startswith("malformed")
