"""A comparison of SAEs as its tasks see it: its config, its SAEs and texts, and keys."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tasks.caching import Manifest
from tasks.job import Progress
from whatchanged.config_file import LoadedConfig
from whatchanged.keys import Keyable, content_key
from whatchanged.model_config import ModelConfig
from whatchanged.models.device import may_use_gpu
from whatchanged.models.sae_loading import describe_model, load_sae
from whatchanged.models.saes import Sae
from whatchanged.preflight import choose_run_dir
from whatchanged.records import Side
from whatchanged.sae_config import SaeComparisonConfig, load_comparison
from whatchanged.sae_preflight import check_comparison
from whatchanged.saes.comparison import RECORDS, SaeAnalysis, from_rows
from whatchanged.saes.quality import SaeQuality
from whatchanged.saes.stored import ReadFeatures, make_card, unpack_features
from whatchanged.saes.texts import Corpus, read_corpus
from whatchanged.store.artifacts import ArtifactStore, cache_root
from whatchanged.store.runs import RunFolder


@dataclass(frozen=True)
class Comparison:
    """What every stage needs to know."""

    loaded: LoadedConfig[SaeComparisonConfig]
    folder: RunFolder
    root: Path
    progress: Progress

    @property
    def config(self) -> SaeComparisonConfig:
        return self.loaded.config

    @property
    def store(self) -> ArtifactStore:
        return ArtifactStore(self.root, self.config.run.store)

    @property
    def on_gpu(self) -> bool:
        """Whether models may run on a GPU, which others may be using."""
        return may_use_gpu(self.config.run.device)

    @cached_property
    def models(self) -> dict[Side, ModelConfig]:
        """The model whose features are compared, and the intervention where there is one."""
        models: dict[Side, ModelConfig] = {"base": self.config.model}
        if self.config.intervention is not None:
            models["intervention"] = self.config.intervention
        return models

    @cached_property
    def saes(self) -> dict[str, Sae]:
        """The SAEs by name, in the order of the config."""
        return {sae.name: sae for sae in map(load_sae, self.config.saes)}

    @cached_property
    def corpus(self) -> Corpus:
        return read_corpus(self.config)

    def features_key(self, side: Side, sae: Sae) -> str:
        """The key of what an SAE finds in the texts; its name and the other SAEs are no part."""
        texts = content_key("sae texts/1", self.corpus.texts)
        return content_key(
            "sae features/1", describe_model(self.models[side]), sae.identity, texts,
            self.config.pooling,
        )  # fmt: skip

    def stage_key(self, stage: str, sae: Sae, *inputs: Keyable) -> str:
        """The key of what a later stage says of an SAE under its name."""
        config, corpus = self.config, self.corpus
        return content_key(
            f"sae {stage}/1", self.features_key("base", sae), sae.name, sae.settings.hook_name,
            corpus.categories, {name: list(texts) for name, texts in corpus.concepts.items()},
            config.alpha, config.seed, *inputs,
        )  # fmt: skip


def open_comparison(config: str, overrides: list[str], run_dir: str | None) -> Comparison:
    """The comparison of a config file, with its run folder (`runs/<name>` unless given) opened.

    Raises what `load_comparison` and `check_comparison` raise, before anything is computed.
    """
    loaded = load_comparison(Path(config), overrides)
    path = choose_run_dir(loaded, run_dir)
    check_comparison(loaded.config, path)
    folder = RunFolder.create(path)
    folder.write_config(loaded.to_yaml())
    return Comparison(loaded, folder, cache_root(), Progress(folder))


def load_features(comparison: Comparison, name: str, extracted: Manifest) -> ReadFeatures:
    """What an SAE found in the texts, with how well it reconstructs the model that it read."""
    settings = comparison.saes[name].settings
    figures = {
        figure: extracted.measured(figure)
        for figure in ("explained_variance", "l0", "loss_recovered", "dead_share")
    }
    card = make_card(name, settings, SaeQuality(**figures))
    return unpack_features(comparison.store.get_arrays(extracted.key), card, settings.d_sae)


def load_analysis(comparison: Comparison, analyzed: Manifest) -> SaeAnalysis:
    """The records of one SAE."""
    stored = comparison.store.get_json(analyzed.key)
    return SaeAnalysis(**{name: from_rows(kind, stored[name]) for name, kind in RECORDS.items()})
