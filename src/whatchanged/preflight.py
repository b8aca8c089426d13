"""What can be wrong with an audit, found before anything is started or spent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from whatchanged.bank import count_available, read_bank
from whatchanged.cluster import check_n_clusters
from whatchanged.config import AuditConfig
from whatchanged.config_file import LoadedConfig
from whatchanged.models.api_callers import check_apis
from whatchanged.models.loading import check_side
from whatchanged.models.offline import keep_offline
from whatchanged.models.ray_cluster import check_ray
from whatchanged.prompts import split_prompts
from whatchanged.store.runs import RunFolder
from whatchanged.store.shared import SharedFolder
from whatchanged.truth import read_ground_truth


def choose_run_dir(loaded: LoadedConfig[Any], run_dir: str | None) -> Path:
    """The folder of a run: the one asked for, else `runs/<name of the config>`."""
    return Path(run_dir) if run_dir else Path("runs") / loaded.name


def check_audit(config: AuditConfig, run_dir: Path) -> None:
    """Nothing, where the audit can start. An offline one is held to this machine from here on.

    Raises InputError, ConfigError or MissingDependencyError for prompts, models, a number of
    clusters, a ground truth, a run folder, a key, a price or a shared store that cannot be used.
    """
    keep_offline(config.run.offline)
    RunFolder.check(run_dir)
    rows = read_bank(config)
    groups = [row.group or "" for row in rows]
    share = config.prompts.validation_share
    split = split_prompts(rows, groups, validation_share=share, seed=config.seed)
    sample = config.sample_after_screen(sum(prompt.split == "discovery" for prompt in split))
    there = count_available(config, split, is_null=False)
    seed_texts = min(sample.seed_texts, sample.max_texts)
    if sample.strategy == "uniform":
        seed_texts = sample.max_texts
    if there is not None:
        in_discovery = (there[prompt.key] for prompt in split if prompt.split == "discovery")
        seed_texts = min(seed_texts, sum(in_discovery))
    check_n_clusters(config.cluster.n_clusters, 2 * seed_texts)
    read_ground_truth(config.report.ground_truth)
    for name, side in config.sides.items():
        if name not in config.subjects and not side.is_recorded:
            check_side(side, side.engine_for(config.decode))
    check_apis(config)
    if config.run.runner == "ray":
        check_ray(config.run.ray_address)
    if config.run.store is not None:
        SharedFolder(config.run.store).check()
