"""Models by config: named cheaply for content keys, loaded once per process.

The `describe_*` names stand in content keys, so they hold what a config says (weights, settings),
never the device, the batch size, or what `auto` becomes on one machine.
"""

from __future__ import annotations

import json
import platform
import threading
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whatchanged.api_config import ApiConfig
from whatchanged.config import (
    AuditConfig,
    BudgetConfig,
    EmbedConfig,
    HypothesizeConfig,
    JudgeTierConfig,
)
from whatchanged.demo import file_at
from whatchanged.errors import MissingDependencyError, UsageError
from whatchanged.model_config import (
    API_KEYS,
    VLLM,
    DecodeConfig,
    Engine,
    ModelConfig,
    VllmConfig,
    subject_api,
)
from whatchanged.models.api_callers import load_caller
from whatchanged.models.protocols import Decoder, Embedder, Judge, Proposer, Scorer
from whatchanged.models.sampling import SAMPLING_VERSION
from whatchanged.models.steering import check_fits, identify_steering, read_steering, steer
from whatchanged.models.weights import resolve_adapter, resolve_model
from whatchanged.recorded import describe_recorded, load_recorded

if TYPE_CHECKING:
    from collections.abc import Hashable

    from whatchanged.models.call_ledger import CallLedger
    from whatchanged.models.rubric import Asking
    from whatchanged.models.scoring import PairScorer
    from whatchanged.models.transformers_decoder import LoadedModel, TransformersDecoder
    from whatchanged.models.vllm_decoder import VllmDecoder, VllmEngine

# Two threads that ask for the same model must not load it twice.
_LOADING = threading.RLock()


def describe_decoder(model: ModelConfig, decode: DecodeConfig, prompt_format: str) -> str:
    """The name of everything that changes a text: weights (their digest covers tokenizer and chat
    template), what is done to them, prompt format and sampling; of a model behind an API, its
    address and what is asked of it; of recorded texts, the texts alone.

    Adapters and steering vectors are named by their content. Raises what finding them raises.
    """
    if model.is_recorded:
        return describe_recorded(model)
    return _describe_decoder(model, decode, prompt_format)


@lru_cache(maxsize=64)
def _describe_decoder(model: ModelConfig, decode: DecodeConfig, prompt_format: str) -> str:
    drawn = decode.model_dump(exclude={"batching", "batch_size", "chunk_texts", "coupling", "vllm"})
    drawn["engine"] = model.engine_for(decode)
    if model.is_remote(decode):
        from whatchanged.models import remote_decoder

        return _named(
            **drawn,
            **model.model_dump(include={"model", "endpoint", "system_prompt", "thinking"}),
            version=remote_decoder.VERSION,
        )
    adapter = None if model.adapter is None else resolve_adapter(model.adapter).identity
    steering = None if model.steering is None else identify_steering(file_at(model.steering))
    return _named(
        weights=resolve_model(model.model, model.revision).identity,
        adapter=adapter,
        steering=steering,
        **model.model_dump(
            exclude={
                "model",
                "texts",
                "side",
                "revision",
                "adapter",
                "steering",
                "engine",
                *API_KEYS,
            }
        ),
        **drawn,
        prompt_format=prompt_format,
        sampling=SAMPLING_VERSION,
    )


@lru_cache(maxsize=64)
def describe_embedder(embed: EmbedConfig) -> str:
    """The name of an embedder for the keys of stages; vectors are cached under its `identity`."""
    return _named(
        weights=resolve_model(embed.model, embed.revision).identity, precision=embed.precision
    )


def describe_judge(tier: JudgeTierConfig, embed: EmbedConfig) -> str:
    """The name of a judge."""
    if tier.is_api:
        from whatchanged.models import rubric

        return _named(rubric=rubric.VERSION, **tier.stated())
    weights = describe_embedder(embed) if tier.provider == "embedding" else None
    return _named(provider=tier.provider, weights=weights, scheme=1)


def load_decoder(
    model: ModelConfig,
    decode: DecodeConfig,
    prompt_format: str,
    device: str,
    *,
    budget: BudgetConfig | None = None,
    ledger: CallLedger | None = None,
) -> Decoder:
    """The decoder of one side, with what is done to its model done; the last two that were asked
    for stay in memory. Calls to a model behind an API go through the ledger, within the budget,
    which local ones need not. Raises what loading a model, an adapter or a steering vector raises,
    and MissingDependencyError for a package or a key that one of them needs."""
    if model.is_recorded:
        from whatchanged.models.recorded_decoder import RecordedDecoder

        return RecordedDecoder(load_recorded(model))
    if model.is_remote(decode):
        return _remote_decoder(model, decode, budget or BudgetConfig(), ledger)
    with _LOADING:
        decoder = _decoder(model, decode, prompt_format, device)
    if model.thinking == "keep":
        return decoder
    from whatchanged.models.thinking import answer_decoder

    return answer_decoder(decoder)


def check_decoder(
    identity: str, model: ModelConfig, decode: DecodeConfig, prompt_format: str
) -> None:
    """Nothing, where this machine has exactly the model of this identity (`describe_decoder`).

    Raises MissingDependencyError where a worker has none of that name, or another one.
    """
    _check_same(identity, model.model, lambda: describe_decoder(model, decode, prompt_format))


def check_embedder(identity: str, embed: EmbedConfig) -> None:
    """The same for an embedder and `describe_embedder`."""
    _check_same(identity, embed.model, lambda: describe_embedder(embed))


def check_side(model: ModelConfig, engine: Engine = "transformers") -> None:
    """Nothing, where what a side names is there and fits its model, as far as files tell, and its
    engine is installed.

    Raises InputError or ConfigError for a model, an adapter or a steering vector that cannot be
    used, and MissingDependencyError for weights or packages that are not here.
    """
    from whatchanged.models import adapters, quantization

    resolved = resolve_model(model.model, model.revision)
    if engine == VLLM:
        from whatchanged.models import vllm_decoder

        vllm_decoder.check_installed()
    if model.adapter is not None:
        resolve_adapter(model.adapter)
        adapters.check_installed()
    if model.quantization is not None:
        quantization.check_installed()
    if model.steering is not None:
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(resolved.path, trust_remote_code=False)
        check_fits(read_steering(file_at(model.steering)), config)


def load_scorer(
    base: ModelConfig,
    intervention: ModelConfig,
    decode: DecodeConfig,
    prompt_format: str,
    device: str,
) -> Scorer:
    """The scorer of a pair, by the engine that decodes it: both models, which stay in memory
    together."""
    if base.engine_for(decode) != VLLM:
        return load_pair(base, intervention, decode, prompt_format, device)
    from whatchanged.models.coupling import has_same_tokens
    from whatchanged.models.vllm_scorer import VllmScorer

    with _LOADING:
        one, other = (_vllm(side, decode, prompt_format, device) for side in (base, intervention))
    return VllmScorer(one, other, has_same_tokens(base, intervention))


def load_pair(
    base: ModelConfig,
    intervention: ModelConfig,
    decode: DecodeConfig,
    prompt_format: str,
    device: str,
) -> PairScorer:
    """Both models in transformers, whichever engine decodes them: what can be read inside. Engines
    of vLLM, which hold the memory of a GPU, end."""
    from whatchanged.models.coupling import has_same_tokens
    from whatchanged.models.device import release_memory
    from whatchanged.models.scoring import PairScorer

    with _LOADING:
        if _engine.cache_info().currsize:
            _engine.cache_clear()
            release_memory()
        one, other = (
            _transformers(side, decode, prompt_format, device) for side in (base, intervention)
        )
    return PairScorer(one, other, has_same_tokens(base, intervention))


def load_embedder(embed: EmbedConfig, device: str) -> Embedder:
    """The embedder, loaded at the first call."""
    with _LOADING:
        return _embedder(embed, device)


def describe_proposer(config: HypothesizeConfig, embed: EmbedConfig) -> str:
    """The name of a proposer."""
    from whatchanged.models import llm_proposer
    from whatchanged.models.local_proposer import LocalProposer

    local = LocalProposer().identity
    if not config.is_api:
        return local
    return _named(
        version=llm_proposer.VERSION,
        local=local,
        embedder=describe_embedder(embed),
        **config.stated(),
    )


def load_judge(
    tier: JudgeTierConfig, config: AuditConfig, ledger: CallLedger | None = None
) -> Judge:
    """The judge of one tier. Calls to an API go through the ledger, which local judges need not."""
    if tier.is_api:
        from whatchanged.models.llm_judge import LlmJudge

        caller = load_caller(tier, config.budget, ledger)
        return LlmJudge(caller, _asking(tier, caller.provider.identity, config.seed))
    if tier.provider == "lexical":
        from whatchanged.models.lexical_judge import LexicalJudge

        return LexicalJudge()
    from whatchanged.models.embedding_judge import EmbeddingJudge

    return EmbeddingJudge(load_embedder(config.embed, config.run.device))


def load_proposer(config: AuditConfig, ledger: CallLedger | None = None) -> Proposer:
    """The proposer of hypotheses. Calls to an API go through the ledger."""
    from whatchanged.models.local_proposer import LocalProposer

    own = config.hypothesize
    if not own.is_api:
        return LocalProposer()
    from whatchanged.models import llm_proposer

    caller = load_caller(own, config.budget, ledger)
    return llm_proposer.LlmProposer(
        call=caller,
        asking=_asking(own, caller.provider.identity, config.seed),
        local=LocalProposer(),
        embedder=load_embedder(config.embed, config.run.device),
        names=tuple(
            Path(side.texts or side.model).name for side in (config.base, config.intervention)
        ),
    )


def _remote_decoder(
    model: ModelConfig, decode: DecodeConfig, budget: BudgetConfig, ledger: CallLedger | None
) -> Decoder:
    from whatchanged.models.remote_decoder import RemoteDecoder, is_sample
    from whatchanged.models.thinking import MARKERS, ThinkMarkers

    caller = load_caller(subject_api(model, decode), budget, ledger, is_sample, model.max_usd)
    return RemoteDecoder(
        caller,
        caller.provider.identity,
        model.model,
        model.system_prompt or "",
        decode,
        ThinkMarkers(*MARKERS[0]) if model.thinking == "strip" else None,
    )


def _asking(api: ApiConfig, identity: str, seed: int) -> Asking:
    from whatchanged.models.rubric import Asking

    assert api.model is not None, "the config requires a model for an API"
    return Asking(identity, api.model, api.max_tokens, api.temperature, seed)


def _decoder(
    model: ModelConfig, decode: DecodeConfig, prompt_format: Any, device: str
) -> TransformersDecoder | VllmDecoder:
    load = _vllm if model.engine_for(decode) == VLLM else _transformers
    return load(model, decode, prompt_format, device)


def _vllm(model: ModelConfig, decode: DecodeConfig, prompt_format: Any, device: str) -> VllmDecoder:
    from whatchanged.models.vllm_decoder import open_decoder

    engine = _engine(model.model, model.revision, model.dtype, decode.vllm)
    return open_decoder(engine, model.system_prompt, decode, device, prompt_format)


@lru_cache(maxsize=2)
def _engine(name: str, revision: str | None, dtype: str, own: VllmConfig) -> VllmEngine:
    """Whatever is decoded with it, and behind whichever system prompt: starting one takes long, and
    a GPU has room for few."""
    from whatchanged.models.vllm_decoder import start_engine

    return start_engine(name, revision, dtype, own)


def _transformers(
    model: ModelConfig, decode: DecodeConfig, prompt_format: Any, device: str
) -> TransformersDecoder:
    from whatchanged.models.transformers_decoder import open_decoder

    loaded, decoders = _model(model, device)
    key = (decode, prompt_format)
    if key not in decoders:
        decoders[key] = open_decoder(loaded, model.system_prompt, decode, prompt_format)
    return decoders[key]


@lru_cache(maxsize=2)
def _model(
    model: ModelConfig, device: str
) -> tuple[LoadedModel, dict[Hashable, TransformersDecoder]]:
    """A model with what is done to it done, and the decoders that share it: the screen and the
    texts have one each."""
    from whatchanged.models.transformers_decoder import load_model

    loaded = load_model(model, device)
    if model.adapter is not None:
        from whatchanged.models.adapters import merge_adapter

        loaded.network = merge_adapter(loaded.network, resolve_adapter(model.adapter))
    if model.quantization is not None:
        from whatchanged.models.quantization import quantize

        loaded.network = quantize(loaded.network, model.quantization)
    if model.steering is not None:
        loaded.network = steer(loaded.network, read_steering(file_at(model.steering)))
    return loaded, {}


@lru_cache(maxsize=1)
def _embedder(embed: EmbedConfig, device: str) -> Embedder:
    from whatchanged.models import sentence_transformers_embedder

    return sentence_transformers_embedder.load_embedder(embed, device)


def _check_same(identity: str, name: str, describe: Callable[[], str]) -> None:
    here = f"worker {platform.node()}"
    try:
        found = describe()
    except (UsageError, MissingDependencyError) as error:
        raise MissingDependencyError(
            f"{here}: {error}; put the model where every worker finds it"
        ) from None
    if found != identity:
        raise MissingDependencyError(
            f"{here}: expected the same {name!r} as where the run was started, found other "
            "weights, another tokenizer or another version of this package: copy them there"
        )


def _named(**fields: Any) -> str:
    return json.dumps(fields, sort_keys=True)
