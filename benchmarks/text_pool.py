"""The texts of one model pair, each decoded, scored and embedded once, whoever asks first.

A text is named by its model, its settings and its noise (`whatchanged.decode`), so audits that
differ only in how they sample ask for many of the same texts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from whatchanged.config import AuditConfig
from whatchanged.decode import empty_texts, plan_requests, tabulate_texts
from whatchanged.divergence import SCORE_COLUMNS, score_requests, tabulate_scores
from whatchanged.embed import embed_texts, segment_table
from whatchanged.model_config import DecodeConfig, ModelConfig
from whatchanged.models.protocols import Decoder, Embedder, Judge, Proposer, Scorer
from whatchanged.records import (
    Chunk,
    Completion,
    DecodeRequest,
    Prompt,
    Purpose,
    Side,
    Split,
    TextScore,
)

SIDES: tuple[Side, Side] = ("base", "intervention")
CountMap = Mapping[str, int]
_NUMBERS = SCORE_COLUMNS[4:-3]


@dataclass(frozen=True)
class Models:
    """What an audit of one pair works with. `name` is what stands in a text's key for the decoder
    of a side; `decoder`, `scorer` and `why_independent` are called when they are needed."""

    name: Callable[[Side, DecodeConfig], str]
    decoder: Callable[[Side, DecodeConfig], Decoder]
    scorer: Callable[[DecodeConfig], Scorer]
    why_independent: Callable[[DecodeConfig], str]
    embedder: Embedder
    proposer: Proposer
    cheap: Judge
    expensive: Judge


def load_models(config: AuditConfig) -> Models:
    """The models that a config names, as the stages load them."""
    from whatchanged.models import coupling, loading

    sides: dict[Side, ModelConfig] = {"base": config.base, "intervention": config.intervention}
    form, device = config.prompts.format, config.run.device
    return Models(
        name=lambda side, decode: loading.describe_decoder(sides[side], decode, form),
        decoder=lambda side, decode: loading.load_decoder(sides[side], decode, form, device),
        scorer=lambda decode: loading.load_scorer(
            config.base, config.intervention, decode, form, device
        ),
        why_independent=lambda decode: coupling.why_independent(
            config.base, config.intervention, decode, form
        ),
        embedder=loading.load_embedder(config.embed, device),
        proposer=loading.load_proposer(config),
        cheap=loading.load_judge(config.judge.cheap, config),
        expensive=loading.load_judge(config.judge.expensive, config),
    )


class VectorMemory:
    """An `embed.VectorCache` that lives as long as the process."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, bytes], NDArray[np.float32]] = {}

    def get_many(
        self, namespace: str, keys: Sequence[bytes], d_embed: int
    ) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        """Which keys are known `(n,)`, and rows `(n, d_embed)`, zero where not."""
        known, rows = np.zeros(len(keys), np.bool_), np.zeros((len(keys), d_embed), np.float32)
        for place, key in enumerate(keys):
            row = self._rows.get((namespace, key))
            if row is not None:
                known[place], rows[place] = True, row
        return known, rows

    def put_many(self, namespace: str, keys: Sequence[bytes], rows: NDArray[np.float32]) -> None:
        """Remember `rows` under `keys`."""
        # Copies: a row that is a view would keep its whole block alive.
        self._rows.update(
            {(namespace, key): row.copy() for key, row in zip(keys, rows, strict=True)}
        )


@dataclass
class TextPool:
    """The texts of one pair and seed: each is decoded once, scored once, and its segments embedded
    once, whichever audit asks first. `n_decoded` counts what the models really wrote.

    Give pools of one pair the same `vectors`: segments come again under other seeds. What is asked
    for together shares batches, and rounding there decides a token now and then: the same audits in
    the same order give the same texts, another order nearly so.
    """

    models: Models
    prompts: Sequence[Prompt]
    seed: int
    vectors: VectorMemory = field(default_factory=VectorMemory)
    n_decoded: int = 0
    _completions: dict[str, Completion] = field(default_factory=dict, repr=False)
    _scores: dict[str, TextScore] = field(default_factory=dict, repr=False)

    def in_split(self, split: Split) -> list[Prompt]:
        """The prompts of a split, in the order of the bank."""
        return [prompt for prompt in self.prompts if prompt.split == split]

    def is_coupled(self, config: AuditConfig) -> bool:
        """Whether both sides of an audit decode with the same noise."""
        return not self.models.why_independent(config.decode)

    def decode(
        self,
        config: AuditConfig,
        purpose: Purpose,
        prompts: Sequence[Prompt],
        counts: CountMap,
        already: CountMap | None = None,
        round_index: int = 0,
    ) -> pd.DataFrame:
        """The texts table of an allocation, base first; `already` numbers the samples on."""
        settings = decode_settings(config, purpose)
        tables = []
        for side in SIDES:
            requests = plan_requests(
                prompts,
                counts,
                already or {},
                decoder_identity=self.models.name(side, settings),
                seed=self.seed,
                stream="base" if self.is_coupled(config) else side,
                purpose=purpose,
            )
            self._complete(side, settings, requests)
            chunk = Chunk("", side, purpose, round_index, tuple(requests))
            tables.append(tabulate_texts(chunk, [self._completions[r.text_key] for r in requests]))
        filled = [table for table in tables if len(table)]
        return pd.concat(filled, ignore_index=True) if filled else empty_texts()

    def score(self, config: AuditConfig, texts: pd.DataFrame) -> pd.DataFrame:
        """`divergence.SCORE_COLUMNS` of the texts that did not fail."""
        decoded = texts[texts["finish"] != "failed"]
        if decoded.empty:
            # Columns of numbers even so: their means are taken.
            return pd.DataFrame(columns=list(SCORE_COLUMNS)).astype(dict.fromkeys(_NUMBERS, float))
        missing = decoded[~decoded["text_key"].isin(list(self._scores))]
        if len(missing):
            found = self.models.scorer(config.decode).score(score_requests(missing))
            self._scores.update(zip(missing["text_key"], found, strict=True))
        return tabulate_scores(decoded, [self._scores[key] for key in decoded["text_key"]])

    def embed(self, texts: pd.DataFrame) -> tuple[pd.DataFrame, NDArray[np.float32]]:
        """The segments of some texts and their vectors `(n_segments, d_embed)`."""
        segments = segment_table(texts)
        found = embed_texts(segments["segment"].tolist(), self.models.embedder, self.vectors)
        return segments, found.vectors

    def _complete(
        self, side: Side, settings: DecodeConfig, requests: Sequence[DecodeRequest]
    ) -> None:
        missing = [request for request in requests if request.text_key not in self._completions]
        if missing:
            written = self.models.decoder(side, settings).decode(missing)
            self.n_decoded += len(missing)
            self._completions.update(
                (request.text_key, text) for request, text in zip(missing, written, strict=True)
            )


def decode_settings(config: AuditConfig, purpose: Purpose) -> DecodeConfig:
    """How texts are decoded: shorter for the screen. Coupling stands in the noise's key alone."""
    settings = config.decode
    if purpose == "screen":
        shorter = min(config.divergence.max_new_tokens, settings.max_new_tokens)
        settings = settings.model_copy(update={"max_new_tokens": shorter})
    return settings.model_copy(update={"coupling": "auto"})
