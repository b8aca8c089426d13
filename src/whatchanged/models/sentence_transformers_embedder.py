"""Embed texts with any sentence-transformers model, fast on a CPU too.

Its own batching instead of `SentenceTransformer.encode`: a batch holds texts of about one length in
tokens, and always has the same shape for that length, filled up with padding and with repeated
texts. Matrix products of one shape round alike, so a vector depends on its text alone, and not on
which others are embedded beside it or were in a cache (to the last bit on the CPUs where it was
tried; design/0004-caching.md). The model's own modules do the rest, whatever they are.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from whatchanged.config import EmbedConfig
from whatchanged.errors import InputError, WhatchangedError, first_line
from whatchanged.models.device import (
    choose_device,
    has_native_bfloat16,
    is_out_of_memory,
    release_memory,
)
from whatchanged.models.weights import ResolvedModel, resolve_model, without_progress_bars

if TYPE_CHECKING:
    import torch

Precision = Literal["float32", "bfloat16"]

# Part of the identity: raise it with any change that alters a vector.
_SCHEME_VERSION = 2
# A GPU wants to be filled. On a CPU more is no faster, and each width's last batch is filled up.
_TOKENS_PER_BATCH = {"cpu": 256, "cuda": 16_384}
# Where the tokenizer cannot be asked: characters per token of common languages.
_CHARACTERS_PER_TOKEN = 4


@dataclass
class SentenceTransformersEmbedder:
    """A sentence encoder as an `Embedder`. Build it with `load_embedder`.

    One call of `embed` runs at a time; further threads wait. `n_truncated` counts the texts, over
    all calls, that were longer than the model reads (`max_seq_length` tokens): their vectors stand
    for their beginnings. `n_out_of_memory` counts batches that did not fit: each halves the batch
    size for good.
    """

    model: Any
    identity: str
    d_embed: int
    precision: Precision
    batch_size: int | None = None
    n_truncated: int = 0
    n_out_of_memory: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _max_rows: int | None = None

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit-length rows `(n_texts, d_embed)` in the order asked; zero texts give zero rows.

        Half surrogate pairs are read as question marks. A row that is not finite, or has no
        length, is computed once more, alone and in float32.

        Raises WhatchangedError naming the text where that does not help, or where one text alone
        does not fit into memory.
        """
        with self._lock:
            return self._embed([_as_unicode(text) for text in texts])

    def _embed(self, texts: list[str]) -> NDArray[np.float32]:
        embeddings = np.empty((len(texts), self.d_embed), dtype=np.float32)
        if not texts:
            return embeddings
        widths = self._widths(texts)
        # Widest first: a batch that does not fit shows itself at the start.
        order = np.argsort(-widths, kind="stable")
        start = 0
        while start < len(order):
            width = int(widths[order[start]])
            n_rows = self._n_rows(width)
            batch = order[start : start + n_rows]
            batch = batch[widths[batch] == width]
            rows = self._try_batch([texts[place] for place in batch], width, n_rows)
            if rows is None and n_rows == 1:
                raise WhatchangedError(
                    f"out of memory while embedding one text alone, {_shown(texts[batch[0]])}: "
                    f"use a smaller embed.model or another run.device"
                )
            if rows is None:
                continue
            embeddings[batch] = rows
            start += len(batch)
        for place in _unusable(embeddings):
            embeddings[place] = self._embed_alone(texts[place], int(widths[place]))
        return embeddings

    def _n_rows(self, width: int) -> int:
        n_rows = self.batch_size
        if n_rows is None:
            per_batch = _TOKENS_PER_BATCH.get(self.model.device.type, _TOKENS_PER_BATCH["cpu"])
            n_rows = max(1, per_batch // width)
        return n_rows if self._max_rows is None else min(n_rows, self._max_rows)

    def _try_batch(self, texts: list[str], width: int, n_rows: int) -> NDArray[np.float32] | None:
        """The rows of one batch of at most `n_rows` texts, filled up to them, or None where it did
        not fit into memory."""
        filled = texts + [texts[-1]] * (n_rows - len(texts))
        try:
            return self._forward(filled, width, self.precision)[: len(texts)]
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        self.n_out_of_memory += 1
        self._max_rows = max(1, n_rows // 2)
        release_memory()
        return None

    def _embed_alone(self, text: str, width: int) -> NDArray[np.float32]:
        row = self._forward([text], width, "float32")
        if len(_unusable(row)):
            raise WhatchangedError(
                f"expected a finite vector, found NaN, infinity or zero for {_shown(text)}, alone "
                f"and in float32 too: remove the text, or use another embed.model"
            )
        return np.asarray(row[0], dtype=np.float32)

    def _forward(self, texts: list[str], width: int, precision: Precision) -> NDArray[np.float32]:
        """Rows `(n_texts, d_embed)` of unit length, or whatever the model gave that has none."""
        import torch

        with torch.inference_mode(), _autocast(self.model.device, precision):
            features = self.model.preprocess(
                texts, prompt=_default_prompt(self.model), **_padded_to(self.model, width)
            )
            on_device = {
                name: value.to(self.model.device) if isinstance(value, torch.Tensor) else value
                for name, value in features.items()
            }
            rows = self.model(on_device)["sentence_embedding"][:, : self.model.truncate_dim]
        rows = torch.nn.functional.normalize(rows.float(), dim=1)
        return np.asarray(rows.cpu().numpy(), dtype=np.float32)

    def _widths(self, texts: list[str]) -> NDArray[np.int64]:
        """To how many tokens each text is padded; counts the texts that are read in part."""
        limit = self.model.max_seq_length
        lengths = np.fromiter(_token_lengths(self.model, texts), dtype=np.int64, count=len(texts))
        if limit is None:
            return _widen(lengths)
        self.n_truncated += int((lengths > limit).sum())
        return np.minimum(_widen(lengths), np.int64(limit))


def _widen(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Lengths in tokens `(n_texts,)`, rounded up to one of few widths, at most a quarter apart."""
    _, exponents = np.frexp(np.maximum(lengths, 1) - 1)
    steps = 2 ** np.maximum(exponents - 3, 2)
    return np.asarray(np.maximum(-(-lengths // steps), 1) * steps, dtype=np.int64)


def _padded_to(model: Any, width: int) -> dict[str, Any]:
    """What makes a model's tokenizer pad to one width; nothing for one that knows no padding."""
    if not _has_transformers_tokenizer(model):
        return {}
    return {"processing_kwargs": {"text": {"padding": "max_length", "max_length": width}}}


def _has_transformers_tokenizer(model: Any) -> bool:
    from transformers import PreTrainedTokenizerBase

    return isinstance(model.tokenizer, PreTrainedTokenizerBase)


def _token_lengths(model: Any, texts: list[str]) -> Iterator[int]:
    if not _has_transformers_tokenizer(model):
        return (1 + len(text) // _CHARACTERS_PER_TOKEN for text in texts)
    prompt = _default_prompt(model) or ""
    encoded = model.tokenizer(
        [prompt + text for text in texts],
        truncation=False,
        padding=False,
        return_attention_mask=False,
        verbose=False,
    )
    return (len(ids) for ids in encoded["input_ids"])


def _default_prompt(model: Any) -> str | None:
    """The instruction that the model's own configuration puts before every text, if any."""
    prompt: str | None = model.prompts.get(model.default_prompt_name)
    return prompt


def _autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    import torch

    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def _unusable(rows: NDArray[np.float32]) -> NDArray[np.intp]:
    """Places of the rows that are not of unit length: not finite, or all zero."""
    lengths = np.linalg.norm(rows, axis=1)
    return np.flatnonzero(~(np.abs(lengths - 1) < 1e-3))


def _as_unicode(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")


def _shown(text: str) -> str:
    return f"{text[:80]!r}{'...' if len(text) > 80 else ''} ({len(text)} characters)"


def load_embedder(embed: EmbedConfig, device: str) -> SentenceTransformersEmbedder:
    """The embedder that a config describes, its weights in memory as float32.

    `precision: auto` is bfloat16 arithmetic where the device has it in hardware, else float32; it
    is part of the identity, for vectors differ in the fourth digit. Raises what `resolve_model`
    and `choose_device` raise, and InputError for a folder that is not a sentence encoder.
    """
    resolved = resolve_model(embed.model, embed.revision)
    target = choose_device(device)
    precision: Precision
    if embed.precision == "auto":
        precision = "bfloat16" if has_native_bfloat16(target) else "float32"
    else:
        precision = embed.precision
    model = _load(resolved, embed.model, str(target))
    d_embed = model.get_embedding_dimension()
    if d_embed is None:
        d_embed = model.encode(["a"], show_progress_bar=False).shape[1]
    batch_size = embed.batch_size if isinstance(embed.batch_size, int) else None
    return SentenceTransformersEmbedder(
        model, _identity(model, resolved, precision), d_embed, precision, batch_size
    )


def _load(resolved: ResolvedModel, name: str, device: str) -> Any:
    from sentence_transformers import SentenceTransformer

    try:
        with without_progress_bars():
            model = SentenceTransformer(
                str(resolved.path),
                device=device,
                trust_remote_code=False,
                model_kwargs={"use_safetensors": True},
            )
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        said = first_line(error)
        raise InputError(
            f"expected a sentence encoder in {name!r}, and sentence-transformers could not load "
            f"it ({type(error).__name__}: {said}): check its files"
        ) from error
    return model.float().eval()


def _identity(model: Any, resolved: ResolvedModel, precision: Precision) -> str:
    modules = [
        {"type": type(module).__name__, "config": _config_of(module)} for module in model.children()
    ]
    return json.dumps(
        {
            "engine": "sentence-transformers",
            "weights": resolved.identity,
            "modules": modules,
            "max_seq_length": model.max_seq_length,
            "prompt": _default_prompt(model),
            "truncate_dim": model.truncate_dim,
            "normalize": True,
            "precision": precision,
            "scheme": _SCHEME_VERSION,
        },
        sort_keys=True,
        default=str,
    )


def _config_of(module: Any) -> dict[str, Any]:
    """A pooling layer's settings; other modules are settled by the weights' digest."""
    is_pooling = type(module).__name__ == "Pooling" and hasattr(module, "get_config_dict")
    return dict(module.get_config_dict()) if is_pooling else {}
