"""What can be wrong with a comparison of SAEs, found before anything is started."""

from __future__ import annotations

from pathlib import Path

from whatchanged.models.offline import keep_offline
from whatchanged.models.sae_loading import check_fit, load_sae
from whatchanged.sae_config import SaeComparisonConfig
from whatchanged.saes.texts import read_corpus
from whatchanged.store.runs import RunFolder
from whatchanged.store.shared import SharedFolder


def check_comparison(config: SaeComparisonConfig, run_dir: Path) -> None:
    """Nothing, where the comparison can start. An offline one is held to this machine from here on.

    Raises InputError, ConfigError or MissingDependencyError for a run folder, texts, an SAE, a
    model or a shared store that cannot be used, and for those that do not fit each other.
    """
    keep_offline(config.run.offline)
    RunFolder.check(run_dir)
    texts = read_corpus(config).texts
    saes = [load_sae(source) for source in config.saes]
    for model in (config.model, config.intervention):
        if model is not None:
            check_fit(model, saes, texts)
    if config.run.store is not None:
        SharedFolder(config.run.store).check()
