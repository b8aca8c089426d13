"""Models by config: named cheaply for content keys, loaded once per process.

The `describe_*` names stand in content keys, so they hold what a config says (weights, settings),
never the device, the batch size, or what `auto` becomes on one machine.
"""

from __future__ import annotations

import json
import threading
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from whatchanged.config import (
    AuditConfig,
    DecodeConfig,
    EmbedConfig,
    HypothesizeConfig,
    JudgeTierConfig,
    ModelConfig,
)
from whatchanged.models.protocols import Decoder, Embedder, Judge, Proposer, Scorer
from whatchanged.models.sampling import SAMPLING_VERSION
from whatchanged.models.weights import resolve_model

if TYPE_CHECKING:
    from whatchanged.models.transformers_decoder import TransformersDecoder

# Two threads that ask for the same model must not load it twice.
_LOADING = threading.RLock()


@lru_cache(maxsize=64)
def describe_decoder(model: ModelConfig, decode: DecodeConfig, prompt_format: str) -> str:
    """The name of everything that changes a text: weights (their digest covers tokenizer and chat
    template), what is done to them, prompt format and sampling."""
    return _named(
        weights=resolve_model(model.model, model.revision).identity,
        **model.model_dump(exclude={"model", "revision"}),
        **decode.model_dump(exclude={"batch_size", "chunk_texts", "coupling"}),
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
    weights = describe_embedder(embed) if tier.provider == "embedding" else None
    return _named(provider=tier.provider, weights=weights, scheme=1)


def load_decoder(
    model: ModelConfig, decode: DecodeConfig, prompt_format: str, device: str
) -> Decoder:
    """The decoder of one side; the last two that were asked for stay in memory."""
    with _LOADING:
        return _decoder(model, decode, prompt_format, device)


def load_scorer(
    base: ModelConfig,
    intervention: ModelConfig,
    decode: DecodeConfig,
    prompt_format: str,
    device: str,
) -> Scorer:
    """The scorer of a pair: both decoders, which stay in memory together."""
    from whatchanged.models.coupling import has_same_tokens
    from whatchanged.models.scoring import PairScorer

    with _LOADING:
        sides = [_decoder(side, decode, prompt_format, device) for side in (base, intervention)]
    return PairScorer(sides[0], sides[1], has_same_tokens(base, intervention))


def load_embedder(embed: EmbedConfig, device: str) -> Embedder:
    """The embedder, loaded at the first call."""
    with _LOADING:
        return _embedder(embed, device)


def load_judge(tier: JudgeTierConfig, config: AuditConfig) -> Judge:
    """The judge of one tier."""
    if tier.provider == "lexical":
        from whatchanged.models.lexical_judge import LexicalJudge

        return LexicalJudge()
    from whatchanged.models.embedding_judge import EmbeddingJudge

    return EmbeddingJudge(load_embedder(config.embed, config.run.device))


def load_proposer(config: HypothesizeConfig) -> Proposer:
    """The proposer of hypotheses."""
    from whatchanged.models.local_proposer import LocalProposer

    return LocalProposer()


@lru_cache(maxsize=2)
def _decoder(
    model: ModelConfig, decode: DecodeConfig, prompt_format: Any, device: str
) -> TransformersDecoder:
    from whatchanged.models import transformers_decoder

    return transformers_decoder.load_decoder(model, decode, device, prompt_format)


@lru_cache(maxsize=1)
def _embedder(embed: EmbedConfig, device: str) -> Embedder:
    from whatchanged.models import sentence_transformers_embedder

    return sentence_transformers_embedder.load_embedder(embed, device)


def _named(**fields: Any) -> str:
    return json.dumps(fields, sort_keys=True)
