"""Contributions of many texts, of a pair's directions and of random ones beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from whatchanged.errors import UsageError
from whatchanged.models.component_model import ComponentModel, RankOneWeights
from whatchanged.models.components import pad_rows
from whatchanged.models.contributions import DIRECTIONS, ContributionCollector
from whatchanged.models.device import batch_bytes
from whatchanged.models.scoring import PairScorer
from whatchanged.models.weight_delta import random_directions

# More rows than this only grow the working set.
_MAX_ROWS = 64


@dataclass(frozen=True)
class TotalContributions:
    """Per text and component, over all tokens: `values (n_texts, n_components)`, in nats, with the
    texts' `log_ratios (n_texts,)`. A label is `module:index`. `controls (n_texts, n_directions)`
    are the control's, in the order of the directions; without columns where there is none."""

    labels: tuple[str, ...]
    values: NDArray[np.float64]
    log_ratios: NDArray[np.float64]
    controls: NDArray[np.float64]

    def of_directions(self) -> tuple[tuple[str, ...], NDArray[np.float64]]:
        """Labels `LAYER:index` and values `(n_texts, n_directions)` of the directions alone."""
        start = f"{DIRECTIONS}/"
        columns = [i for i, label in enumerate(self.labels) if label.startswith(start)]
        return tuple(self.labels[i].removeprefix(start) for i in columns), self.values[:, columns]


def pair_collector(
    pair: PairScorer, directions: ComponentModel, *, n_points: int = 6, seed: int | None = None
) -> ContributionCollector:
    """The collector of a pair that `loading.load_scorer` loaded, for the log-ratios it scores; with
    a `seed`, random directions are its control (`random_parts`).

    Raises UsageError for a pair with two tokenizers, which has no log-ratio per token, and what
    `ContributionCollector` raises.
    """
    if not pair.has_same_tokens:
        raise UsageError(
            "expected two models with one tokenizer, found two: leave contributions out for this "
            "pair"
        )
    return ContributionCollector(
        pair.base.model,
        pair.intervention.model,
        directions,
        control=None if seed is None else random_parts(directions, seed=seed),
        n_points=n_points,
        temperature=pair.base.config.temperature,
    )


def random_parts(source: ComponentModel, *, seed: int) -> ComponentModel:
    """As many rank-one parts in the same layers, just as strong, both vectors drawn at random.

    The control of contributions, which depend on what a direction writes as well as on what it
    reads; `random_directions` draws the latter alone.
    """
    turned = ComponentModel(
        {name: RankOneWeights(part.writes, part.reads) for name, part in source.weights.items()}
    )
    reads, writes = random_directions(source, seed=seed), random_directions(turned, seed=seed + 1)
    return ComponentModel(
        {
            name: RankOneWeights(reads.weights[name].reads, writes.weights[name].reads)
            for name in source.weights
        }
    )


@dataclass(frozen=True)
class ComparedContributions:
    """The totals of a pair's directions and of random ones, `(n_texts, n_directions)` each, with
    the directions' `strengths (n_directions,)` and the texts' `log_ratios (n_texts,)`."""

    labels: tuple[str, ...]
    values: NDArray[np.float64]
    controls: NDArray[np.float64]
    strengths: NDArray[np.float64]
    log_ratios: NDArray[np.float64]


@dataclass(frozen=True)
class ContributionReader:
    """A pair, and the collector of its directions with random ones beside them. Build it with
    `open_contributions`."""

    pair: PairScorer
    collector: ContributionCollector

    def compare(
        self, prompts: Sequence[str], replies: Sequence[Sequence[int]]
    ) -> ComparedContributions:
        """The totals on these texts; `replies` are token ids.

        Raises UsageError for prompts that the two models read in different words.
        """
        base, intervention = (
            decoder.encoder.encode(prompts) for decoder in (self.pair.base, self.pair.intervention)
        )
        if base != intervention:
            raise UsageError(
                "expected two models that read the same prompt, found a system prompt or format of "
                "one side's own: leave contributions out for this pair"
            )
        rows = [[*start.ids, *reply] for start, reply in zip(base, replies, strict=True)]
        starts = [len(start.ids) for start in base]
        found = total_contributions(self.collector, rows, starts)
        labels, values = found.of_directions()
        return ComparedContributions(
            labels, values, found.controls, self.collector.strengths, found.log_ratios
        )


def open_contributions(
    pair: PairScorer, directions: ComponentModel, *, n_points: int, seed: int
) -> ContributionReader:
    """The reader of a pair. Raises what `pair_collector` raises."""
    return ContributionReader(pair, pair_collector(pair, directions, n_points=n_points, seed=seed))


def total_contributions(
    collector: ContributionCollector,
    rows: Sequence[Sequence[int]],
    n_prompt: Sequence[int],
    *,
    max_bytes: int | None = None,
) -> TotalContributions:
    """The totals of many texts in the order given; `rows` are token ids, prompt and reply.

    Texts of like length go together, as many as take `max_bytes` beside the models by the
    collector's estimate (None: what the device allows). Raises what `collect` raises.
    """
    if max_bytes is None:
        max_bytes = batch_bytes(collector.device)
    values = np.zeros((len(rows), len(collector.labels)))
    controls = np.zeros((len(rows), collector.n_controls))
    log_ratios = np.zeros(len(rows))
    left = sorted(range(len(rows)), key=lambda i: (-len(rows[i]), i))
    while left:
        n_fitting = max_bytes // (collector.bytes_per_token * max(1, len(rows[left[0]])))
        n_rows = max(1, min(_MAX_ROWS, n_fitting))
        batch, left = left[:n_rows], left[n_rows:]
        ids, mask = pad_rows([rows[i] for i in batch])
        found = collector.collect(ids, mask, np.array([n_prompt[i] for i in batch]))
        values[batch], log_ratios[batch] = found.totals(), found.log_ratios
        controls[batch] = found.control_totals()
    return TotalContributions(collector.labels, values, log_ratios, controls)
