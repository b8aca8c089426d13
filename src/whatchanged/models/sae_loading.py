"""SAEs and the models that they read, by config: loaded, checked against each other, and read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from whatchanged.demo.saes import demo_sae_path
from whatchanged.errors import InputError, UsageError, first_line
from whatchanged.model_config import DecodeConfig, ModelConfig
from whatchanged.models.loading import check_side, describe_decoder, load_decoder
from whatchanged.models.sae_effects import recovered_losses
from whatchanged.models.sae_features import Extraction, Pooling, extract_features
from whatchanged.models.sae_folders import load_sae_folder, load_sae_release
from whatchanged.models.sae_inputs import find_places, read_texts
from whatchanged.models.saes import Sae
from whatchanged.models.weights import resolve_model
from whatchanged.sae_source import SaeSource

if TYPE_CHECKING:
    from whatchanged.models.transformers_decoder import TransformersDecoder

# Nothing is decoded, so that no setting of it enters the name of a model.
_NO_DECODING = DecodeConfig(max_new_tokens=1)
# Three passes per SAE: the loss needs no more texts than tell it to two digits.
_MAX_LOSS_TEXTS = 64


@dataclass(frozen=True)
class ReadSaes:
    """The features of texts, and the share of the loss that each SAE recovers on up to 64 of them,
    spread evenly; None where no text has two tokens."""

    extraction: Extraction
    recovered: Mapping[str, float | None]


def load_sae(source: SaeSource) -> Sae:
    """The SAE that a config names. Raises what `sae_folders` raises, and InputError for a demo SAE
    that does not exist."""
    if source.folder is None:
        assert source.release is not None and source.id is not None, "the config requires them"
        return load_sae_release(
            source.release, source.id, name=source.name, overrides=source.overrides
        )
    is_demo = source.folder.startswith("demo:")
    folder = demo_sae_path(source.folder[5:]) if is_demo else Path(source.folder).expanduser()
    return load_sae_folder(folder, name=source.name, overrides=source.overrides)


def describe_model(model: ModelConfig) -> str:
    """The name of everything that changes what passes through a model."""
    return describe_decoder(model, _NO_DECODING, "plain")


def load_network(model: ModelConfig, device: str) -> tuple[Any, Any]:
    """A model with what is done to it done, and its tokenizer; it stays in memory. Raises what
    `loading.load_decoder` raises."""
    decoder = cast("TransformersDecoder", load_decoder(model, _NO_DECODING, "plain", device))
    return decoder.model, decoder.tokenizer


def check_fit(model: ModelConfig, saes: Sequence[Sae], texts: Sequence[str]) -> None:
    """Nothing, where the SAEs fit the model and can read the texts. Its weights are not loaded.

    Raises what `check_side`, `find_places` and `read_texts` raise, and InputError for a model that
    transformers cannot build.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    check_side(model)
    folder = resolve_model(model.model, model.revision).path
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        with torch.device("meta"):
            skeleton = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError) as error:
        said = first_line(error)
        raise InputError(
            f"expected a causal language model of transformers at {model.model}, found one that "
            f"cannot be built ({type(error).__name__}: {said}): check the folder or the id"
        ) from None
    find_places(skeleton, saes)
    read_texts(tokenizer, saes, texts)


def read_saes(
    model: ModelConfig,
    device: str,
    saes: Sequence[Sae],
    texts: Sequence[str],
    *,
    pooling: Pooling,
    batch_size: int | None,
) -> ReadSaes:
    """What all SAEs find in the texts, token by token and pooled, from one pass over them.

    Raises what `load_network` and `extract_features` raise.
    """
    network, tokenizer = load_network(model, device)
    extraction = extract_features(
        network, tokenizer, saes, texts, pooling=pooling, keep_tokens=True, batch_size=batch_size
    )
    some = texts[:: -(-len(texts) // _MAX_LOSS_TEXTS)]
    try:
        losses = recovered_losses(network, tokenizer, saes, some)
    except UsageError:
        # What else could be wrong with these texts was refused before.
        return ReadSaes(extraction, {sae.name: None for sae in saes})
    return ReadSaes(extraction, {name: loss.share for name, loss in losses.items()})
