"""A collection as its tasks see it: a finished run, its config, and what earlier tasks left."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tasks.caching import Manifest
from whatchanged.activations import passes
from whatchanged.activations.clusters import firing_thresholds
from whatchanged.activations.processing import ComponentTable, ProcessedActivations
from whatchanged.activations.reading import (
    TextContrast,
    choose_clusters,
    choose_texts,
    find_contrasts,
)
from whatchanged.activations.selectivity import TextSummaries, choosing_prompts
from whatchanged.config import AuditConfig
from whatchanged.config_file import override_config
from whatchanged.errors import UsageError
from whatchanged.keys import Keyable, content_key
from whatchanged.models.device import may_use_gpu
from whatchanged.models.loading import describe_decoder
from whatchanged.models.offline import keep_offline
from whatchanged.models.sae_latents import load_listed
from whatchanged.store.artifacts import ArtifactStore, cache_root
from whatchanged.store.runs import Run, load_run

STAGE = "activations"
# The text clusters that are compared: those whose shares differ most.
N_CLUSTERS = 5


class Read(Protocol):
    """What names the outputs of earlier stages: a collection, or one chunk of it."""

    @property
    def config(self) -> AuditConfig: ...
    @property
    def store(self) -> ArtifactStore: ...
    @property
    def survey_key(self) -> str: ...


@dataclass(frozen=True)
class TextChunk:
    """A chunk of the texts, and all that a worker needs to read it: the run folder is not."""

    texts: pd.DataFrame
    choosing_prompts: frozenset[str]
    config: AuditConfig
    root: Path
    survey_key: str

    @property
    def store(self) -> ArtifactStore:
        return ArtifactStore(self.root, self.config.run.store)


@dataclass(frozen=True)
class Collection:
    """A finished run whose texts are read again, its config, and the cache folder."""

    run: Run
    config: AuditConfig
    root: Path

    @property
    def name(self) -> str:
        """The run's, which the ids of component clusters begin with."""
        return self.run.path.resolve().name

    @property
    def store(self) -> ArtifactStore:
        return ArtifactStore(self.root, self.config.run.store)

    @property
    def on_gpu(self) -> bool:
        """Whether models may run on a GPU, which others may be using."""
        return may_use_gpu(self.config.run.device)

    @cached_property
    def texts(self) -> pd.DataFrame:
        """The texts that are read (`reading.READ_COLUMNS`)."""
        run, own = self.run, self.config.activations
        return choose_texts(
            run.texts, run.findings, run.verdicts, list(self.clusters),
            max_texts=own.max_texts, seed=self.config.seed,
        )  # fmt: skip

    @cached_property
    def clusters(self) -> dict[int, str]:
        """The text clusters that are compared: label and id."""
        return choose_clusters(self.run.clusters, N_CLUSTERS)

    @cached_property
    def chunks(self) -> list[TextChunk]:
        """They in pieces of fixed size."""
        size = self.config.activations.chunk_texts
        return [
            TextChunk(
                self.texts[at : at + size], self.choosing_prompts, self.config, self.root,
                self.survey_key,
            )
            for at in range(0, len(self.texts), size)
        ]  # fmt: skip

    @cached_property
    def choosing_prompts(self) -> frozenset[str]:
        """The discovery prompts on whose texts components are chosen, and which test nothing."""
        seen = self.texts[self.texts["split"] == "discovery"]
        return choosing_prompts(list(seen["prompt_key"]), list(seen["label"]), self.config.seed)

    @cached_property
    def contrasts(self) -> list[TextContrast]:
        """What is compared on them."""
        return find_contrasts(self.texts, self.run.findings, self.run.verdicts, self.clusters)

    @property
    def stated_contrasts(self) -> list[Keyable]:
        """What is compared, for a key."""
        return [contrast.stated() for contrast in self.contrasts]

    @cached_property
    def key(self) -> str:
        """The key of everything that decides what the models show on the texts."""
        config, own = self.config, self.config.activations
        saes = load_listed(own.saes).described() if "saes" in own.sources else []
        return content_key(
            "activations/2",
            [
                describe_decoder(side, config.decode, config.prompts.format)
                for side in (config.base, config.intervention)
            ],
            own.model_dump(mode="json", exclude={"keep", "contributions", "saes"}),
            saes,
            config.seed,
            [
                list(self.texts[column])
                for column in ("text_key", "prompt_key", "side", "split", "label")
            ],
        )

    def stage_key(self, stage: str, *inputs: Keyable) -> str:
        """The key of one stage's output."""
        return content_key(f"{stage} activations/2", self.key, *inputs)

    @property
    def survey_key(self) -> str:
        return self.stage_key("survey")


def open_collection(run: str, overrides: list[str]) -> Collection:
    """The collection of a finished run; overrides are of `activations` and `run`.

    Raises InputError for a folder without a finished run, UsageError and ConfigError for overrides.
    """
    if odd := next((o for o in overrides if o.split(".")[0] not in (STAGE, "run")), None):
        raise UsageError(
            f"expected overrides of activations or run, found {odd!r}: the texts of a finished run "
            "stand, so run the audit again for others"
        )
    loaded = load_run(Path(run))
    config = override_config(loaded.config, overrides, f"{run}/config.yaml")
    keep_offline(config.run.offline)
    return Collection(loaded, config, cache_root())


def load_modules(read: Read) -> dict[str, int]:
    """The number of components of each module, in the order of reading."""
    return dict(read.store.get_json(read.survey_key)["modules"])


def load_skipped(read: Read) -> dict[str, str]:
    """The sources that this pair does not have, and why."""
    return dict(read.store.get_json(read.survey_key)["skipped"])


def load_table(read: Read, chosen: Manifest) -> tuple[ComponentTable, NDArray[np.float32]]:
    """The components that are kept, and where each living one counts as firing."""
    modules = load_modules(read)
    maxima = read.store.get_arrays(chosen.key)["maxima"]
    table = ComponentTable(tuple(modules), tuple(modules.values()), maxima)
    return table, firing_thresholds(table, read.config.activations.firing_share)


def load_summaries(
    collection: Collection, table: ComponentTable, read: list[Manifest]
) -> TextSummaries:
    """What each living component did in each text."""
    arrays = (collection.store.get_arrays(part.key) for part in read)
    keys = [list(chunk.texts["text_key"]) for chunk in collection.chunks]
    return passes.join_chunks(arrays, keys, table)


def load_firings(
    collection: Collection, own: ComponentTable, read: list[Manifest]
) -> Iterator[tuple[pd.DataFrame, ProcessedActivations]]:
    """The texts of each chunk and what fires on them, one chunk in memory at a time."""
    for chunk, part in zip(collection.chunks, read, strict=True):
        yield chunk.texts, passes.dense_firings(collection.store.get_arrays(part.key), own)


def load_blocks(
    collection: Collection, own: ComponentTable, read: list[Manifest]
) -> Iterator[ProcessedActivations]:
    """What fires on each chunk of texts."""
    return (block for _, block in load_firings(collection, own, read))
