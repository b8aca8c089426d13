"""Sparse features of texts: all SAEs of one model from one forward pass per batch.

Texts are read longest first, padding never reaches an SAE, and features are sparse from the moment
they exist. Which tokens count is each SAE's own setting: those like the ones it was trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from whatchanged.errors import UsageError
from whatchanged.models.components import ComponentCollector
from whatchanged.models.sae_inputs import batches_of, find_places, padded, read_texts
from whatchanged.models.saes import Sae

if TYPE_CHECKING:
    import torch
    from scipy.sparse import csr_array

Pooling = Literal["last", "max", "mean"]


@dataclass(frozen=True)
class Reconstruction:
    """How well an SAE rebuilds what it read, over the tokens that count.

    `explained_variance` is 1 - sum |x - x'|^2 / sum |x - mean x|^2: 1 is perfect, 0 no better than
    the mean, below 0 worse; nan where all activations are equal. `l0` is the mean number of
    features per token, `firing_rates (d_sae,)` the share of tokens that each fires on, `dead_share`
    the share of features that never fired.
    """

    explained_variance: float
    l0: float
    dead_share: float
    firing_rates: NDArray[np.float64]
    n_tokens: int


@dataclass(frozen=True)
class ExtractedFeatures:
    """What one SAE found: `pooled (n_texts, d_sae)` and, if they were kept, `tokens (n_tokens,
    d_sae)`, both CSR, float32, in the order asked. Tokens that do not count have empty rows."""

    pooled: csr_array
    tokens: csr_array | None
    reconstruction: Reconstruction


@dataclass(frozen=True)
class Extraction:
    """The features of texts by the SAE's name, and the tokens that they were read from.

    The tokens of text i are `text_starts[i]` to `text_starts[i + 1]` of `token_ids (n_tokens,)`,
    the start token first where the SAEs want one.
    """

    features: dict[str, ExtractedFeatures]
    token_ids: NDArray[np.int64]
    text_starts: NDArray[np.int64]
    n_forward_passes: int


def extract_features(
    model: Any,
    tokenizer: Any,
    saes: Sequence[Sae],
    texts: Sequence[str],
    *,
    pooling: Pooling = "max",
    keep_tokens: bool = False,
    leave_out_start: bool = False,
    batch_size: int | None = None,
) -> Extraction:
    """The features of every text for every SAE, with one forward pass per batch.

    The model is a causal language model of transformers in evaluation mode. `leave_out_start` lets
    the start token count for no SAE, also where it did in training. At most `batch_size` texts go
    together. Padding stands on the tokenizer's side.

    Raises InputError for what `find_places` and `read_texts` refuse, UsageError for a pooling or a
    batch size that do not exist and for what `ComponentCollector` refuses.
    """
    import torch

    _check_options(pooling, batch_size)
    saes = [sae.to(model.device) for sae in saes]
    places = find_places(model, saes)
    read = read_texts(tokenizer, saes, texts, leave_out_start=leave_out_start)
    collector = ComponentCollector(model, [places])
    gathered = {sae.name: _Gathered(sae, pooling, keep_tokens) for sae in saes}
    batches = list(batches_of(read.rows, model.device.type, batch_size))
    for batch in batches:
        ids, mask = padded([read.rows[i] for i in batch], tokenizer.padding_side)
        with torch.inference_mode():
            passing = {
                name: torch.from_numpy(found[mask]).to(model.device)
                for name, found in collector.collect(ids, mask).items()
            }
            for sae in saes:
                counts = [read.counts[sae.name][i] for i in batch]
                gathered[sae.name].add(places.entering(sae, passing[places.label(sae)]), counts)
    order = np.array([i for batch in batches for i in batch])
    lengths = np.array([len(row) for row in read.rows], dtype=np.int64)
    return Extraction(
        {name: part.features(order, lengths) for name, part in gathered.items()},
        np.array([i for row in read.rows for i in row], dtype=np.int64),
        _starts(lengths),
        len(batches),
    )


def pool_tokens(
    tokens: csr_array, counts: Sequence[NDArray[np.bool_]], pooling: Pooling
) -> csr_array:
    """Features of texts `(n_texts, d_sae)` from those of their tokens `(n_tokens, d_sae)`.

    `counts` says of each text which of its tokens count, at least one; the rows of the others must
    be empty. `last` is the last token that counts, `mean` the mean over those that count.
    """
    from scipy.sparse import csr_array

    starts = _starts(np.array([len(part) for part in counts]))
    if pooling == "last":
        place = np.where(np.concatenate(counts), np.arange(starts[-1]), -1)
        return tokens[np.maximum.reduceat(place, starts[:-1])]
    shape = (len(counts), tokens.shape[1])
    text_of_token = np.repeat(np.arange(len(counts)), np.diff(starts))
    if pooling == "mean":
        n_counted = np.array([part.sum() for part in counts])
        weights = (1 / n_counted)[text_of_token].astype(np.float32)
        averaging = csr_array((weights, np.arange(len(weights)), starts), (shape[0], len(weights)))
        return averaging @ tokens
    text_of_value = np.repeat(text_of_token, np.diff(tokens.indptr))
    cell = text_of_value * np.int64(shape[1]) + tokens.indices
    order = np.argsort(cell, kind="stable")
    cells, first = np.unique(cell[order], return_index=True)
    if not len(cells):
        return csr_array(shape, dtype=np.float32)
    largest = np.maximum.reduceat(tokens.data[order], first)
    return csr_array((largest, np.divmod(cells, shape[1])), shape)


class _Gathered:
    """What one SAE found so far, batch by batch: its memory is that of the features that fired."""

    def __init__(self, sae: Sae, pooling: Pooling, keep_tokens: bool) -> None:
        d_in, d_sae = sae.settings.d_in, sae.settings.d_sae
        self._sae, self._pooling, self._keep_tokens = sae, pooling, keep_tokens
        self._pooled: list[csr_array] = []
        self._tokens: list[csr_array] = []
        self._n_fired = np.zeros(d_sae, dtype=np.int64)
        self._n_tokens = 0
        # Sums in float64: a few directions of a residual stream are a thousand times the others.
        self._sum, self._sum_of_squares, self._error = np.zeros(d_in), 0.0, 0.0

    def add(self, entering: torch.Tensor, counts: Sequence[NDArray[np.bool_]]) -> None:
        """Takes a batch: what enters the SAE `(n_tokens, d_in)`, text after text, and which of
        each text's tokens count."""
        import torch

        is_counted = np.concatenate(counts)
        counted = entering[torch.from_numpy(is_counted).to(entering.device)]
        found = self._sae.encode_sparse(counted)
        self._measure(counted, found)
        tokens = _with_empty_rows(found, is_counted)
        self._pooled.append(pool_tokens(tokens, counts, self._pooling))
        if self._keep_tokens:
            self._tokens.append(tokens)

    def _measure(self, counted: torch.Tensor, features: csr_array) -> None:
        import torch

        rebuilt = self._sae.decode_sparse(features, counted)
        exact = torch.float64
        self._sum += counted.sum(dim=0, dtype=exact).cpu().numpy()
        self._sum_of_squares += float(counted.square().sum(dtype=exact))
        self._error += float((counted - rebuilt).square().sum(dtype=exact))
        self._n_fired += np.bincount(features.indices, minlength=features.shape[1])
        self._n_tokens += len(counted)

    def features(self, order: NDArray[np.int64], lengths: NDArray[np.int64]) -> ExtractedFeatures:
        """All of it; row i of what was gathered is text `order[i]`."""
        from scipy.sparse import vstack

        pooled = vstack(self._pooled, format="csr")[np.argsort(order)]
        tokens = None
        if self._keep_tokens:
            tokens = vstack(self._tokens, format="csr")[_token_rows(order, lengths)]
        variance = self._sum_of_squares - float(self._sum @ self._sum) / self._n_tokens
        is_constant = variance <= 1e-12 * self._sum_of_squares
        rates = self._n_fired / self._n_tokens
        return ExtractedFeatures(
            pooled,
            tokens,
            Reconstruction(
                explained_variance=float("nan") if is_constant else 1 - self._error / variance,
                l0=float(rates.sum()),
                dead_share=float((self._n_fired == 0).mean()),
                firing_rates=rates,
                n_tokens=self._n_tokens,
            ),
        )


def _check_options(pooling: str, batch_size: int | None) -> None:
    if pooling not in get_args(Pooling):
        raise UsageError(f"expected pooling {', '.join(get_args(Pooling))}, found {pooling!r}")
    if batch_size is not None and batch_size < 1:
        raise UsageError(f"expected batches of at least 1 text, found {batch_size}")


def _starts(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def _token_rows(order: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Which gathered row is which token, for texts in the order asked."""
    starts = np.empty(len(order), dtype=np.int64)
    starts[order] = _starts(lengths[order])[:-1]
    return np.concatenate([np.arange(s, s + n) for s, n in zip(starts, lengths, strict=True)])


def _with_empty_rows(features: csr_array, is_filled: NDArray[np.bool_]) -> csr_array:
    """The rows of `features`, in their order, where `is_filled (n_rows,)`, and empty ones between
    them."""
    from scipy.sparse import csr_array

    starts = features.indptr[_starts(is_filled.astype(np.int64))]
    return csr_array(
        (features.data, features.indices, starts), shape=(len(is_filled), features.shape[1])
    )
