"""The components of both models of a pair, read on the replies of texts.

Neurons and the latents of sparse autoencoders are read in either model, so that one text shows
what the intervention did to them. The directions of the weight change are read where they act: in
the intervention. Beside them stand as many directions drawn at random, the control without which no
figure of theirs means anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from whatchanged.activations.evidence import CONTROL
from whatchanged.config import ActivationsConfig, AuditConfig
from whatchanged.errors import UsageError
from whatchanged.models.component_model import ComponentModel
from whatchanged.models.components import (
    Activations,
    ComponentCollector,
    ComponentSource,
    pad_rows,
)
from whatchanged.models.contribution_totals import ContributionReader, open_contributions
from whatchanged.models.device import batch_bytes
from whatchanged.models.loading import load_pair
from whatchanged.models.neurons import NeuronSource
from whatchanged.models.sae_latents import SaeLatents, load_listed
from whatchanged.models.scoring import PairScorer
from whatchanged.models.weight_delta import random_directions, weight_delta
from whatchanged.records import Side

# A batch's activations on the device, on the host, and cut to the replies.
_COPIES = 3
# Of one module, while its activations are made: a gated autoencoder holds this many.
_COPIES_ENCODED = 3
# More rows than this only grow the working set.
_MAX_ROWS = 64


@dataclass(frozen=True, slots=True)
class ReadBatch:
    """Some of the texts asked for: `rows` numbers them; `activations` per module are `(batch,
    longest reply, n_components)` with `mask (batch, longest reply)` true at the reply's tokens."""

    rows: tuple[int, ...]
    activations: Activations
    mask: NDArray[np.bool_]


@dataclass(frozen=True)
class ComponentReader:
    """Reads texts with both models. Build it with `open_reader`.

    `skipped` says of each source that cannot be read in this pair, why.
    """

    pair: PairScorer
    collectors: Mapping[Side, ComponentCollector]
    directions: ComponentModel | None
    skipped: Mapping[str, str]

    @cached_property
    def modules(self) -> dict[str, int]:
        """The number of components of each module: the base's modules first."""
        return {
            name: size
            for collector in self.collectors.values()
            for name, size in collector.modules.items()
        }

    def read(self, prompts: Sequence[str], replies: Sequence[Sequence[int]]) -> Iterator[ReadBatch]:
        """Every text once, longest first: `replies` are token ids, at least one each.

        Raises UsageError for a prompt that a model cannot read.
        """
        rows = {side: self._rows(side, prompts, replies) for side in self.collectors}
        lengths = np.max([[len(row) for row in some] for some in rows.values()], axis=0)
        left = np.argsort(-lengths, kind="stable").tolist()
        while left:
            batch, left = self._cut(left, int(lengths[left[0]]))
            mask = np.arange(max(len(replies[i]) for i in batch)) < np.array(
                [[len(replies[i])] for i in batch]
            )
            found: Activations = {}
            for side, collector in self.collectors.items():
                ids, real = pad_rows([rows[side][i] for i in batch])
                starts = [len(rows[side][i]) - len(replies[i]) for i in batch]
                for name, block in collector.collect(ids, real).items():
                    found[name] = _replies(block, starts, mask)
            yield ReadBatch(tuple(batch), found, mask)

    def _rows(
        self, side: Side, prompts: Sequence[str], replies: Sequence[Sequence[int]]
    ) -> list[list[int]]:
        encoder = (self.pair.base if side == "base" else self.pair.intervention).encoder
        distinct = list(dict.fromkeys(prompts))
        encoded = dict(zip(distinct, encoder.encode(distinct), strict=True))
        if problem := next((e.problem for e in encoded.values() if e.problem), ""):
            raise UsageError(f"expected prompts that the {side} can read, found that {problem}")
        return [[*encoded[p].ids, *reply] for p, reply in zip(prompts, replies, strict=True)]

    def _cut(self, left: list[int], n_tokens: int) -> tuple[list[int], list[int]]:
        sizes = self.modules.values()
        n_bytes = 4 * n_tokens * (_COPIES * sum(sizes) + _COPIES_ENCODED * max(sizes, default=0))
        fitting = batch_bytes(self.pair.intervention.model.device) // max(1, n_bytes)
        n_rows = max(1, min(_MAX_ROWS, fitting))
        return left[:n_rows], left[n_rows:]


@lru_cache(maxsize=1)
def load_reader(config: AuditConfig) -> ComponentReader:
    """The reader of a config's pair; the last one stays in memory."""
    pair = load_pair(
        config.base, config.intervention, config.decode, config.prompts.format, config.run.device
    )
    return open_reader(pair, config.activations, seed=config.seed)


@lru_cache(maxsize=1)
def load_contributions(config: AuditConfig) -> ContributionReader:
    """The contributions of the weight change of a config's pair; the last one stays in memory.

    Raises UsageError where the pair has none.
    """
    reader = load_reader(config)
    if reader.directions is None:
        reason = reader.skipped.get("weight_delta", "weight_delta is not among the sources")
        raise UsageError(f"expected directions of the weight change, found none: {reason}")
    n_points = config.activations.contributions.n_points
    return open_contributions(reader.pair, reader.directions, n_points=n_points, seed=config.seed)


def open_reader(pair: PairScorer, config: ActivationsConfig, *, seed: int) -> ComponentReader:
    """The reader of a pair that `loading.load_scorer` loaded, for the sources of the config.

    A source that this pair does not have is `skipped`; all are where the two models do not share
    their tokens, because no text then has one row of tokens.
    """
    skipped: dict[str, str] = {}
    if not pair.has_same_tokens:
        reason = "the two models have different tokens, and components are read token by token"
        return ComponentReader(pair, {}, None, dict.fromkeys(config.sources, reason))
    sources: dict[Side, list[ComponentSource]] = {"base": [], "intervention": []}
    directions: ComponentModel | None = None
    if "weight_delta" in config.sources:
        try:
            directions = weight_delta(
                pair.base.model, pair.intervention.model,
                n_directions=config.n_directions, seed=seed,
            )  # fmt: skip
        except UsageError as error:
            skipped["weight_delta"] = str(error)
        if directions is not None and not directions.weights:
            directions, skipped["weight_delta"] = None, "no linear layer's weights differ"
    if directions is not None:
        control = random_directions(directions, seed=seed, name=CONTROL)
        sources["intervention"] += [directions, control]
    if "neurons" in config.sources:
        neurons = {side: NeuronSource(f"neurons@{side}") for side in sources}
        try:
            for side, model in _models(pair).items():
                neurons[side].probes(model)
        except UsageError as error:
            skipped["neurons"] = str(error)
        else:
            for side, source in neurons.items():
                sources[side].append(source)
    if "saes" in config.sources:
        listed = load_listed(config.saes).fitting(list(_models(pair).values()))
        skipped |= listed.skipped
        special = tuple(pair.base.tokenizer.all_special_ids)
        for side, own in sources.items():
            if listed.saes:
                own.append(SaeLatents(listed.saes, special, f"saes@{side}"))
    collectors = {
        side: ComponentCollector(model, sources[side])
        for side, model in _models(pair).items()
        if sources[side]
    }
    return ComponentReader(pair, collectors, directions, skipped)


def _models(pair: PairScorer) -> dict[Side, object]:
    return {"base": pair.base.model, "intervention": pair.intervention.model}


def _replies(
    block: NDArray[np.float32], starts: Sequence[int], mask: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """The replies' rows of `block (batch, seq, n)`, moved to the left; 0 behind them."""
    cut = np.zeros((*mask.shape, block.shape[2]), dtype=np.float32)
    for row, (start, n) in enumerate(zip(starts, mask.sum(axis=1).tolist(), strict=True)):
        cut[row, :n] = block[row, start : start + n]
    return cut
