"""One audit as the stages see it: its config, where its things live, and who is compared."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Literal

from prefect import get_run_logger
from prefect.runtime import flow_run

from tasks.caching import Manifest
from tasks.workers import Workers
from whatchanged.bank import count_available
from whatchanged.config import AuditConfig
from whatchanged.config_file import LoadedConfig, load_config
from whatchanged.decode import Stream
from whatchanged.keys import content_key
from whatchanged.model_config import DecodeConfig, ModelConfig
from whatchanged.models.coupling import why_independent
from whatchanged.models.device import may_use_gpu
from whatchanged.models.loading import describe_decoder
from whatchanged.preflight import check_audit, choose_run_dir
from whatchanged.progress import StageBar
from whatchanged.records import Prompt, Purpose, Side
from whatchanged.store.artifacts import ArtifactStore, cache_root
from whatchanged.store.embeddings import EmbeddingCache
from whatchanged.store.ledger import Ledger
from whatchanged.store.mounts import read_mounts, warn_of_network
from whatchanged.store.runs import RunFolder

SIDES: tuple[Side, Side] = ("base", "intervention")


@dataclass(frozen=True)
class Comparison:
    """Who stands on each side, whose noise each side decodes with, and under which name its texts
    are counted: the pair, or base against base. `why_independent` says why the sides do not share
    their noise; it is empty where they do, and their texts are coupled pairs."""

    name: Literal["pair", "null"]
    models: Mapping[Side, ModelConfig]
    noise: Mapping[Side, Stream]
    counted_as: Mapping[Side, str]
    why_independent: str

    @property
    def is_coupled(self) -> bool:
        """Whether text i of a prompt was decoded with the same noise on both sides."""
        return not self.why_independent


@dataclass
class Progress:
    """What this execution has done: seconds per stage, written to the run folder as they pass, and
    the manifests of each stage, each once, as this execution first met them."""

    folder: RunFolder
    started_utc: str = field(default_factory=lambda: datetime.now(UTC).isoformat())
    seconds: dict[str, float] = field(default_factory=dict)
    manifests: dict[str, dict[str, Manifest]] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str, detail: str = "") -> Iterator[StageBar]:
        """Time a stage, and show it; stages that come again add up."""
        self._write(name, detail)
        start = time.perf_counter()
        try:
            with StageBar(f"{name} · {detail}" if detail else name) as bar:
                yield bar
        finally:
            spent = time.perf_counter() - start
            self.seconds[name] = self.seconds.get(name, 0.0) + spent
            self._write(name, detail)

    def note(self, stage: str, manifest: Manifest) -> Manifest:
        """Remember what a stage did; returns the manifest."""
        return self.manifests.setdefault(stage, {}).setdefault(manifest.key, manifest)

    def _write(self, stage: str, detail: str) -> None:
        self.folder.write_json(
            "progress.json",
            {
                "stage": stage,
                "detail": detail,
                "started_utc": self.started_utc,
                "updated_utc": datetime.now(UTC).isoformat(),
                "pid": os.getpid(),
                "seconds": self.seconds,
            },
        )


@dataclass(frozen=True)
class Job:
    """What every stage needs to know."""

    loaded: LoadedConfig[AuditConfig]
    folder: RunFolder
    root: Path
    progress: Progress
    workers: Workers

    @property
    def config(self) -> AuditConfig:
        return self.loaded.config

    @property
    def store(self) -> ArtifactStore:
        return ArtifactStore(self.root, self.config.run.store)

    @property
    def vectors(self) -> EmbeddingCache:
        return EmbeddingCache(self.root)

    @cached_property
    def ledger(self) -> Ledger:
        """The paid calls of this run folder, over all its restarts."""
        return Ledger(self.root, content_key("run/1", str(self.folder.path.resolve())))

    @property
    def on_gpu(self) -> bool:
        """Whether models may run on a GPU, which others may be using."""
        return may_use_gpu(self.config.run.device)

    def decode_settings(self, purpose: Purpose) -> DecodeConfig:
        """How texts are decoded: shorter for the screen."""
        settings = self.config.decode
        if purpose != "screen":
            return settings
        shorter = min(self.config.divergence.max_new_tokens, settings.max_new_tokens)
        return settings.model_copy(update={"max_new_tokens": shorter})

    def identity(self, model: ModelConfig, settings: DecodeConfig) -> str:
        """The name of everything that changes a text of this model."""
        return describe_decoder(model, settings, self.config.prompts.format)

    def available(self, comparison: Comparison, prompts: Sequence[Prompt]) -> dict[str, int] | None:
        """How many texts of each prompt (by key) there are for each side of a comparison; None
        where models decode as many as are asked for."""
        return count_available(self.config, prompts, is_null=comparison.name == "null")

    @property
    def pair(self) -> Comparison:
        """The audit itself: coupled where the two models share their tokens."""
        config = self.config
        why_not = why_independent(
            config.base, config.intervention, config.decode, config.prompts.format
        )
        return Comparison(
            "pair",
            {"base": config.base, "intervention": config.intervention},
            {"base": "base", "intervention": "intervention" if why_not else "base"},
            {"base": "base", "intervention": "intervention"},
            why_not,
        )

    @property
    def null(self) -> Comparison:
        """Its null control: the base model against itself, under other noise."""
        return Comparison(
            "null",
            {"base": self.config.base, "intervention": self.config.base},
            {"base": "base", "intervention": "null"},
            {"base": "base", "intervention": "null"},
            "a model coupled with itself would write every text twice",
        )


def open_job(config: str, overrides: list[str], run_dir: str | None) -> Job:
    """The job of a config file, with its run folder (`runs/<name>` unless given) opened.

    Raises ConfigError and InputError before anything is spent. Warns of a cache whose locks do not
    reach other machines.
    """
    loaded = load_config(Path(config), overrides)
    path = choose_run_dir(loaded, run_dir)
    check_audit(loaded.config, path)
    if warning := warn_of_network(cache_root(), read_mounts()):
        get_run_logger().warning(warning)
    if loaded.config.recorded and "prompts.file" in loaded.origins:
        get_run_logger().warning(
            "prompts.file is not read: the prompts are those of the recorded texts"
        )
    folder = RunFolder.create(path)
    folder.write_config(loaded.to_yaml())
    workers = Workers(loaded.config.run, loaded.config.decode.vllm.tensor_parallel_size)
    return Job(loaded, folder, cache_root(), Progress(folder), workers)


def name_run() -> str:
    """The flow run's name: the run folder's, else the config's."""
    parameters = flow_run.parameters
    return Path(parameters.get("run_dir") or parameters["config"]).stem
