"""Specialists taken out of the model, beside features that fire as often on the same texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from whatchanged.model_config import ModelConfig
from whatchanged.models.sae_effects import Ablation, ablate_features, matched_features
from whatchanged.models.sae_loading import load_network
from whatchanged.models.saes import Sae
from whatchanged.saes.ablations import Trial, TrialEffects
from whatchanged.saes.category_tests import FloatArray
from whatchanged.saes.stored import ReadFeatures

_Ablate = Callable[[Sequence[int], Sequence[str]], Ablation]


def run_trials(
    model: ModelConfig,
    device: str,
    sae: Sae,
    read: ReadFeatures,
    texts: Sequence[str],
    trials: Sequence[Trial],
    *,
    n_controls: int,
    seed: int,
) -> tuple[TrialEffects, ...]:
    """The effects of every trial's specialists, their controls drawn anew for each category.

    A specialist that fires on none of a trial's texts is left out of its effects; there are fewer
    controls where fewer other features fire. No trial needs no model.

    Raises what `load_network` and `ablate_features` raise.
    """
    if not trials:
        return ()
    rng = np.random.default_rng(seed)
    network, tokenizer = load_network(model, device)
    ablate = partial(ablate_features, network, tokenizer, sae)
    elsewhere = _try_elsewhere(ablate, texts, trials)
    return tuple(
        _run(ablate, read, texts, trial, others, n_controls, rng)
        for trial, others in zip(trials, elsewhere, strict=True)
    )


def _try_elsewhere(
    ablate: _Ablate, texts: Sequence[str], trials: Sequence[Trial]
) -> list[FloatArray]:
    """What each trial's features do on texts of other categories, `(n_features, n_elsewhere)`.

    Trials share most of these texts, so all features are taken out of all of them at once.
    """
    features = sorted({feature for trial in trials for feature in trial.features})
    rows = sorted({row for trial in trials for row in trial.elsewhere})
    if not rows:
        return [np.zeros((len(trial.features), 0)) for trial in trials]
    changes = ablate(features, [texts[row] for row in rows]).changes
    return [
        changes[np.ix_(np.searchsorted(features, trial.features),
                       np.searchsorted(rows, trial.elsewhere))]
        for trial in trials
    ]  # fmt: skip


def _run(
    ablate: _Ablate,
    read: ReadFeatures,
    texts: Sequence[str],
    trial: Trial,
    elsewhere: FloatArray,
    n_controls: int,
    rng: np.random.Generator,
) -> TrialEffects:
    rates = read.firing_rates(trial.rows)
    is_tried = [bool(rates[feature] > 0) for feature in trial.features]
    features = [feature for feature in trial.features if rates[feature] > 0]
    # What belongs to the category as well would be no control.
    rates[list(trial.specialists - set(features))] = 0
    n_others = int(np.count_nonzero(rates)) - len(features)
    controls = matched_features(rates, features, min(n_controls, n_others), rng)
    # Specialists may share a control, which is then taken out once.
    ablated = sorted({*features, *controls.ravel().tolist()})
    changes = ablate(ablated, [texts[row] for row in trial.rows]).changes
    return TrialEffects(
        tuple(features),
        changes[np.searchsorted(ablated, features)],
        changes[np.searchsorted(ablated, controls)],
        elsewhere[is_tried],
    )
