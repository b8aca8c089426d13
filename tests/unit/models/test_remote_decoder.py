from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.loopback.calls import call_plainly, misbehaving
from tests.loopback.server import Loopback
from whatchanged.config import parse_config
from whatchanged.config_file import load_config
from whatchanged.decode import plan_requests, tabulate_texts
from whatchanged.errors import ConfigError, MissingDependencyError, UsageError
from whatchanged.keys import content_key
from whatchanged.model_config import DecodeConfig, ModelConfig
from whatchanged.models.api_callers import check_apis
from whatchanged.models.chat import CallResult, ChatReply, ChatRequest
from whatchanged.models.coupling import why_independent
from whatchanged.models.loading import describe_decoder, load_decoder
from whatchanged.models.openai_compatible import OpenAICompatible
from whatchanged.models.remote_decoder import RemoteDecoder, is_sample, read_sample, sample_seed
from whatchanged.models.thinking import ThinkMarkers
from whatchanged.records import Chunk, Completion, DecodeRequest, Prompt

SETTINGS = DecodeConfig(max_new_tokens=16, temperature=0.7, top_p=0.9)
REMOTE = ModelConfig(model="tuned", engine="openai_compatible", endpoint="http://127.0.0.1:9/v1")


def asked(n: int, prompt: str = "Tell me about tea.") -> list[DecodeRequest]:
    return [DecodeRequest(f"t{i}", "p", prompt, i, content_key("noise", i)) for i in range(n)]


class Kept:
    """A caller that answers everything alike and keeps what it was asked."""

    def __init__(self, reply: ChatReply | None, reason: str = "") -> None:
        self.requests: list[ChatRequest] = []
        self.result = CallResult(reply, reason, None, is_cached=False)

    def __call__(self, requests: list[ChatRequest]) -> list[CallResult]:
        self.requests += requests
        return [self.result for _ in requests]


def decoder_of(call: object, **settings: object) -> RemoteDecoder:
    fields = {"system": "", "config": SETTINGS, **settings}
    return RemoteDecoder(call, "openai:http://x/v1", "tuned", **fields)  # type: ignore[arg-type]


SAID = ChatReply("Tea is hot.", "stop", "", 12, 4, "tuned-2026 fp_1")


def test_a_request_asks_for_a_sample_as_decoding_is_set_and_for_no_form() -> None:
    call = Kept(SAID)
    decoder_of(call, system="Be brief.").decode(asked(1))
    (request,) = call.requests
    assert (request.system, request.user, request.schema) == ("Be brief.", "Tell me about tea.", "")
    assert (request.max_tokens, request.temperature, request.top_p) == (16, 0.7, 0.9)
    assert request.seed == sample_seed(content_key("noise", 0))


def test_samples_of_a_prompt_have_seeds_and_ledger_keys_of_their_own() -> None:
    call = Kept(SAID)
    decoder_of(call).decode(asked(500))
    seeds = {request.seed for request in call.requests}
    assert len(seeds) == len({request.key for request in call.requests}) == 500
    assert all(seed is not None and 0 <= seed < 2**31 for seed in seeds)
    # The same text asked for again is the same request.
    decoder_of(call).decode(asked(1))
    assert call.requests[-1].key == call.requests[0].key


def test_the_keys_of_other_calls_are_those_that_ledgers_already_hold() -> None:
    request = ChatRequest("openai:http://127.0.0.1:1/v1", "small", "s", "u", "{}", 8, 0.0)
    assert request.key == "a69e935e573dc691f619f8a2e134be8dc5289a52b773b44582c548aa5f0c4eca"


def test_a_text_carries_what_the_server_says_of_its_model() -> None:
    (text,) = decoder_of(Kept(SAID)).decode(asked(1))
    assert text == Completion("Tea is hot.", 4, "stop", decoded_by="tuned-2026 fp_1")
    chunk = Chunk("key", "base", "discovery", 0, tuple(asked(1)))
    assert tabulate_texts(chunk, [text])["decoded_by"].tolist() == ["tuned-2026 fp_1"]


@pytest.mark.parametrize(
    ("reply", "finish", "n_tokens", "reason"),
    [
        (replace(SAID, finish="cut_off", reason="length"), "length", 4, ""),
        (replace(SAID, text="", n_tokens_out=1), "stop", 1, ""),
        (replace(SAID, text="", n_tokens_out=0), "stop", 0, ""),
        (ChatReply("", "refused", "content_filter", 9, 0), "failed", 0, "content_filter"),
        (replace(SAID, n_tokens_out=None), "stop", 3, ""),
    ],
)
def test_every_way_that_a_reply_ends_is_a_text_or_a_failure_with_its_reason(
    reply: ChatReply, finish: str, n_tokens: int, reason: str
) -> None:
    text = read_sample(reply)
    assert (text.finish, text.n_tokens, text.reason) == (finish, n_tokens, reason)
    assert is_sample(ChatRequest("", "", "", "", "", 1, 1.0), reply) == (finish != "failed")


def test_tokens_that_were_estimated_are_called_so() -> None:
    # "Tea is hot." has 11 bytes.
    assert read_sample(replace(SAID, n_tokens_out=None)).decoded_by.endswith("tokens estimated")


def test_tokens_without_a_text_are_a_failure_that_says_what_to_do() -> None:
    text = read_sample(ChatReply("", "cut_off", "length", 9, 16))
    assert (text.finish, text.n_tokens) == ("failed", 16)
    assert text.reason.endswith("raise decode.max_new_tokens")


def test_a_call_without_a_reply_is_a_failed_text_with_the_reason() -> None:
    (text,) = decoder_of(Kept(None, "no reply in time (tried 5 times)")).decode(asked(1))
    assert (text.finish, text.reason) == ("failed", "no reply in time (tried 5 times)")


def test_a_prompt_that_is_no_unicode_is_never_sent() -> None:
    call = Kept(SAID)
    good, bad = asked(1)[0], asked(1, "half \ud800")[0]
    texts = decoder_of(call).decode([bad, good])
    assert [text.finish for text in texts] == ["failed", "stop"]
    assert len(call.requests) == 1


def test_thinking_is_cut_out_and_where_it_does_not_end_the_text_has_failed() -> None:
    markers = ThinkMarkers("<think>", "</think>")
    for said, text, finish in (
        ("<think>Hm.</think> Tea.", "Tea.", "stop"),
        ("<think>Hm, tea", "", "failed"),
        ("Tea.", "Tea.", "stop"),
    ):
        (found,) = decoder_of(Kept(replace(SAID, text=said)), markers=markers).decode(asked(1))
        assert (found.text, found.finish) == (text, finish)


# Over HTTP, with texts of the embedded model ---------------------------------------------------


def remote(server: Loopback, **settings: object) -> RemoteDecoder:
    provider = OpenAICompatible(None, endpoint=f"{server.url}/v1")
    config = DecodeConfig(max_new_tokens=80, **settings)  # type: ignore[arg-type]
    return RemoteDecoder(call_plainly(provider), provider.identity, "tuned", "", config)


def test_the_embedded_model_behind_an_api_writes_its_own_texts_one_per_seed() -> None:
    subjects = {"tuned": "demo:intervention"}
    prompts = ["I want to try mint tea. Where do I start?", "How do I sail?"]
    wanted = [DecodeRequest("", "", p, i, content_key("n", p, i)) for p in prompts for i in (0, 1)]
    with Loopback(subjects=subjects) as server:
        first, again = remote(server).decode(wanted), remote(server).decode(wanted)
    assert [text.text for text in first] == [text.text for text in again]
    assert len({text.text for text in first}) == 4
    assert {text.finish for text in first} == {"stop"}
    assert all(0 < text.n_tokens <= 80 for text in first)
    local = load_decoder(ModelConfig(model="demo:intervention"), DecodeConfig(max_new_tokens=80),
                         "auto", "cpu")  # fmt: skip
    # The server draws with its own noise, made of the seed.
    own = [
        replace(one, noise_key=content_key("loopback-noise/2", str(sample_seed(one.noise_key))))
        for one in wanted
    ]
    assert [text.text for text in local.decode(own)] == [text.text for text in first]


def test_a_text_that_is_cut_at_the_length_asked_for_is_kept_as_such() -> None:
    with Loopback(subjects={"tuned": "demo:base"}) as server:
        provider = OpenAICompatible(None, endpoint=f"{server.url}/v1")
        short = DecodeConfig(max_new_tokens=5)
        decoder = RemoteDecoder(call_plainly(provider), provider.identity, "tuned", "", short)
        (text,) = decoder.decode(asked(1))
    assert (text.finish, text.n_tokens) == ("length", 5)


def test_a_server_without_seeds_is_asked_without_them_and_the_texts_say_so() -> None:
    refusals = ("refuse_seed",) * 2
    with misbehaving(*refusals, subjects={"tuned": "demo:base"}) as server:
        decoder = remote(server)
        (refused,) = decoder.decode(asked(1))
        texts = decoder.decode(asked(2))
    assert refused.finish == "failed"
    assert "refused a field for tuned" in refused.reason
    assert {text.decoded_by for text in texts} == {"tuned loopback, without seed"}


@pytest.mark.parametrize(("temperature", "is_sent_without"), [(1.0, True), (0.5, False)])
def test_a_temperature_is_left_out_only_where_it_is_the_models_own(
    temperature: float, is_sent_without: bool
) -> None:
    with misbehaving("refuse_temperature", "ok", subjects={"tuned": "demo:base"}) as server:
        decoder = remote(server, temperature=temperature)
        decoder.decode(asked(1))
        (text,) = decoder.decode(asked(1))
    assert text.decoded_by.endswith("without temperature") == is_sent_without


# By config -------------------------------------------------------------------------------------


def config_with(**blocks: object) -> object:
    raw = {"base": {"model": "demo:base"}, "intervention": REMOTE.model_dump(), **blocks}
    return parse_config(raw, "test")


def test_a_remote_side_is_named_by_its_address_and_what_is_asked_of_it() -> None:
    def named(model: ModelConfig = REMOTE, settings: DecodeConfig = SETTINGS) -> str:
        return describe_decoder(model, settings, "auto")

    others = [
        named(REMOTE.model_copy(update={"endpoint": "http://127.0.0.1:8/v1"})),
        named(REMOTE.model_copy(update={"model": "other"})),
        named(REMOTE.model_copy(update={"system_prompt": "Be brief."})),
        named(settings=SETTINGS.model_copy(update={"temperature": 1.0})),
    ]
    assert len({named(), *others}) == 5
    how = {"key_variable": "KEY", "max_concurrency": 2, "max_usd": 3.0}
    assert named(REMOTE.model_copy(update=how)) == named()
    # The engine of a side goes before that of the config.
    everywhere = SETTINGS.model_copy(update={"engine": "openai_compatible"})
    assert named(REMOTE.model_copy(update={"engine": None}), everywhere) == named()


def test_the_names_of_local_models_hold_nothing_of_apis() -> None:
    named = describe_decoder(ModelConfig(model="demo:base"), SETTINGS, "auto")
    assert not any(word in named for word in ("endpoint", "max_usd", "key_variable"))


def test_a_remote_side_is_decoded_independently_and_the_reason_names_it() -> None:
    base = ModelConfig(model="demo:base")
    assert why_independent(base, REMOTE, SETTINGS, "auto") == (
        "the intervention is behind an API, which draws its own random numbers"
    )
    assert why_independent(REMOTE, REMOTE, SETTINGS, "auto").startswith(
        "the base and the intervention are behind an API"
    )


def test_a_remote_side_is_compared_by_sampled_texts_and_read_by_nobody() -> None:
    config = config_with()
    assert config.n_screen_texts(10) == 0  # type: ignore[attr-defined]
    assert "gives no probabilities" in config.why_sampled  # type: ignore[attr-defined]
    assert "nothing of it can be read" in config.why_unread  # type: ignore[attr-defined]
    local = config_with(intervention={"model": "demo:intervention"})
    assert (local.why_sampled, local.why_unread) == ("", "")  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("blocks", "said"),
    [
        (
            {"intervention": {**REMOTE.model_dump(), "adapter": "a"}},
            "`intervention.adapter` needs a model",
        ),
        ({"intervention": {**REMOTE.model_dump(), "dtype": "float16"}}, "whose weights are here"),
        ({"base": {"model": "b", "endpoint": "http://x"}}, "`base.endpoint` is for a model behind"),
        ({"prompts": {"format": "plain"}}, "`prompts.format: plain` cannot be kept"),
    ],
)
def test_what_an_engine_cannot_do_is_refused_in_one_sentence(
    blocks: dict[str, object], said: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        config_with(**blocks)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "found {" not in str(caught.value)


def test_the_name_of_a_remote_model_is_no_path_even_where_a_folder_has_it(tmp_path: Path) -> None:
    (tmp_path / "tuned").mkdir()
    config = tmp_path / "audit.yaml"
    config.write_text(
        "base: {model: tuned}\nintervention: {model: tuned, engine: openai_compatible}\n"
    )
    loaded = load_config(config).config
    assert loaded.base.model == str(tmp_path / "tuned")
    assert loaded.intervention.model == "tuned"
    everywhere = load_config(config, ["decode.engine=openai_compatible"]).config
    assert everywhere.base.model == "tuned"


def test_a_key_that_is_not_in_the_environment_is_missed_before_anything_is_spent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("SUBJECT_KEY", raising=False)
    side = {**REMOTE.model_dump(), "key_variable": "SUBJECT_KEY"}
    with pytest.raises(MissingDependencyError, match="environment variable SUBJECT_KEY") as caught:
        check_apis(config_with(intervention=side))  # type: ignore[arg-type]
    assert caught.value.exit_code == 5


@pytest.mark.parametrize(
    ("side", "budget", "key"),
    [({}, {"max_usd": 1.0}, "budget.max_usd"), ({"max_usd": 1.0}, {}, "intervention.max_usd")],
)
def test_a_cap_needs_a_price(side: dict[str, float], budget: dict[str, float], key: str) -> None:
    config = config_with(intervention={**REMOTE.model_dump(), **side}, budget=budget)
    with pytest.raises(ConfigError, match=f"'tuned', because {key} is set, found none"):
        check_apis(config)  # type: ignore[arg-type]


def test_a_remote_decoder_without_a_ledger_is_refused() -> None:
    with pytest.raises(UsageError, match="expected a ledger for the calls"):
        load_decoder(REMOTE, SETTINGS, "auto", "cpu")


def test_a_text_of_a_remote_side_has_a_key_of_its_own() -> None:
    prompts = [Prompt("p", "a", "", "discovery")]
    keys = {
        request.text_key
        for model in (REMOTE, ModelConfig(model="demo:base"))
        for request in plan_requests(
            prompts, {"p": 2}, {}, decoder_identity=describe_decoder(model, SETTINGS, "auto"),
            seed=0, stream="base", purpose="discovery",
        )
    }  # fmt: skip
    assert len(keys) == 4
