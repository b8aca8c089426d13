"""What features do: how likely the model finds a text when a feature of an SAE is taken out.

A feature that fires on a category's texts need not matter to the model. Its contribution is
subtracted where the SAE reads, at every token that counts, and the text is scored again; controls
are other features that fire as often. All log-probabilities are in nats.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from whatchanged.errors import UsageError
from whatchanged.models.device import batch_bytes
from whatchanged.models.hook_points import changed_at
from whatchanged.models.sae_features import extract_features
from whatchanged.models.sae_inputs import (
    Places,
    ReadTexts,
    batches_of,
    find_places,
    padded,
    read_texts,
)
from whatchanged.models.saes import Sae

if TYPE_CHECKING:
    import torch

# From what enters an SAE at the tokens that count, `(n, d_in)`, and the row that each stands in,
# `(n,)`: what is added there, `(n, d_in)`.
_Patch = Callable[["torch.Tensor", "torch.Tensor"], "torch.Tensor"]

# Of a logit or a feature: itself and two things made of it, in float32.
_BYTES_PER_VALUE = 4 * 3
# Controls are drawn among this many times as many features of nearly the same firing rate.
_CANDIDATES_PER_CONTROL = 2


@dataclass(frozen=True)
class Ablation:
    """Texts scored with and without each of some features.

    `changes (n_features, n_texts)`: log p(text without the feature) - log p(text), below 0 where
    the feature made the text likelier, exactly 0 where it does not fire. `logprobs (n_texts,)` are
    of the untouched model, over `n_scored (n_texts,)` tokens: all but the first.
    """

    features: tuple[int, ...]
    changes: NDArray[np.float64]
    logprobs: NDArray[np.float64]
    n_scored: NDArray[np.int64]


@dataclass(frozen=True)
class RecoveredLoss:
    """Mean losses per token in nats: of the model as it is, with an SAE's reconstruction in place
    of what it read, and with zeros there."""

    model: float
    reconstructed: float
    zeroed: float

    @property
    def share(self) -> float:
        """How much of the way from zeros back to the model the SAE goes: 1 is all of it, below 0
        is worse than zeros; nan where zeros do no harm."""
        harm = self.zeroed - self.model
        return (self.zeroed - self.reconstructed) / harm if harm > 0 else float("nan")


def ablate_features(
    model: Any,
    tokenizer: Any,
    sae: Sae,
    features: Sequence[int],
    texts: Sequence[str],
    *,
    leave_out_start: bool = False,
) -> Ablation:
    """Every text scored without each feature, one feature at a time.

    Beside two passes over the texts, one row for every pair of a feature and a text where it fires;
    rows of many pairs go together. Raises what `extract_features` raises, and UsageError for a
    feature that the SAE does not have.
    """
    if wrong := [i for i in features if not 0 <= i < sae.settings.d_sae]:
        raise UsageError(
            f"SAE {sae.name!r}: expected features from 0 to {sae.settings.d_sae - 1}, found "
            f"{wrong[0]}: use indices of this SAE"
        )
    wanted = np.array(features, dtype=np.int64)
    found = extract_features(model, tokenizer, [sae], texts, leave_out_start=leave_out_start)
    which, places = (found.features[sae.name].pooled[:, wanted] > 0).T.nonzero()
    scorer = _scorer(model, tokenizer, [sae], texts, leave_out_start)
    logprobs = scorer.score(np.arange(len(texts)))
    ablated = scorer.score(places, sae, _take_out(scorer.saes[sae.name], wanted[which]))
    changes = np.zeros((len(wanted), len(texts)))
    changes[which, places] = ablated - logprobs[places]
    return Ablation(tuple(features), changes, logprobs, scorer.n_scored)


def recovered_losses(
    model: Any,
    tokenizer: Any,
    saes: Sequence[Sae],
    texts: Sequence[str],
    *,
    leave_out_start: bool = False,
) -> dict[str, RecoveredLoss]:
    """The loss that each SAE's reconstruction recovers, by its name: one pass over the texts for
    the model, and two for every SAE. Tokens that do not count for an SAE stay as they are.

    The first token of a text has no loss. Raises what `extract_features` raises, and UsageError
    where all texts have one token.
    """
    scorer = _scorer(model, tokenizer, saes, texts, leave_out_start)
    n_scored = int(scorer.n_scored.sum())
    if n_scored == 0:
        raise UsageError("expected a text of two tokens or more, found none: give longer texts")
    everything = np.arange(len(texts))
    losses = {}
    clean = -float(scorer.score(everything).sum()) / n_scored
    for sae in scorer.saes.values():
        rebuilt, zeroed = (
            -float(scorer.score(everything, sae, patch).sum()) / n_scored
            for patch in (_rebuild(sae), _zero)
        )
        losses[sae.name] = RecoveredLoss(clean, rebuilt, zeroed)
    return losses


def matched_features(
    firing_rates: NDArray[np.float64],
    features: Sequence[int],
    n_controls: int,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Random controls of each feature, `(n_features, n_controls)`: others that fire as often.

    They are drawn without replacement among the living features whose rates `(d_sae,)` are nearest
    by ratio, twice as many as needed; none is one of `features`. Take the rates over the texts on
    which features and controls will be compared: what fires as often elsewhere may be silent there,
    and then its ablation changes nothing. Raises UsageError for a feature that never fires and
    where there are too few others.
    """
    others = np.setdiff1d(np.flatnonzero(firing_rates), features)
    if len(others) < n_controls:
        raise UsageError(
            f"expected {n_controls} other features that fire, found {len(others)}: ask for fewer "
            "controls or take more texts"
        )
    controls = np.empty((len(features), n_controls), dtype=np.int64)
    for row, feature in zip(controls, features, strict=True):
        if firing_rates[feature] == 0:
            raise UsageError(
                f"feature {feature} never fires, so nothing can match it: leave it out"
            )
        distance = np.abs(np.log(firing_rates[others] / firing_rates[feature]))
        nearest = others[np.argsort(distance, kind="stable")][
            : _CANDIDATES_PER_CONTROL * n_controls
        ]
        row[:] = rng.choice(nearest, n_controls, replace=False)
    return controls


@dataclass(frozen=True)
class _Scorer:
    """Log-probabilities of texts, with what passes an SAE's place changed if asked."""

    model: Any
    saes: dict[str, Sae]
    places: Places
    read: ReadTexts

    @property
    def n_scored(self) -> NDArray[np.int64]:
        return np.array([len(row) - 1 for row in self.read.rows], dtype=np.int64)

    def score(
        self, texts: NDArray[np.int64], sae: Sae | None = None, patch: _Patch | None = None
    ) -> NDArray[np.float64]:
        """The log-probability of each of these texts `(n_rows,)`, which may repeat."""
        import torch

        rows = [self.read.rows[i] for i in texts]
        found = np.zeros(len(rows))
        for batch in batches_of(rows, self.model.device.type, self._n_fitting(rows)):
            ids, mask = padded([rows[i] for i in batch], "right")
            with torch.inference_mode():
                if sae is None or patch is None:
                    found[batch] = _logprobs(self.model, ids, mask)
                    continue
                counts = np.zeros_like(mask)
                for place, row in enumerate(batch):
                    part = self.read.counts[sae.name][texts[row]]
                    counts[place, : len(part)] = part
                change = self._change(sae, patch, counts, np.array(batch))
                with changed_at(self.model, self.places.points[sae.name], change):
                    found[batch] = _logprobs(self.model, ids, mask)
        return found

    def _change(
        self, sae: Sae, patch: _Patch, counts: NDArray[np.bool_], rows: NDArray[np.int64]
    ) -> Callable[[torch.Tensor], torch.Tensor]:
        import torch

        def change(passing: torch.Tensor) -> torch.Tensor:
            counted = torch.from_numpy(counts).to(passing.device)
            row_of_token = torch.from_numpy(rows[np.nonzero(counts)[0]]).to(passing.device)
            here = passing[counted]
            added = patch(self.places.entering(sae, here), row_of_token)
            changed = passing.clone()
            changed[counted] = (here.float() + added).to(passing.dtype)
            return changed

        return change

    def _n_fitting(self, rows: Sequence[tuple[int, ...]]) -> int:
        """How many rows as long as the longest have room for their logits and features."""
        n_logits = self.model.get_input_embeddings().weight.shape[0]
        n_values = n_logits + max(sae.settings.d_sae for sae in self.saes.values())
        longest = max((len(row) for row in rows), default=1)
        n_bytes = longest * int(n_values) * _BYTES_PER_VALUE
        return max(1, batch_bytes(self.model.device) // n_bytes)


def _scorer(
    model: Any, tokenizer: Any, saes: Sequence[Sae], texts: Sequence[str], leave_out_start: bool
) -> _Scorer:
    places = find_places(model, saes)
    read = read_texts(tokenizer, saes, texts, leave_out_start=leave_out_start)
    return _Scorer(model, {sae.name: sae.to(model.device) for sae in saes}, places, read)


def _logprobs(model: Any, ids: NDArray[np.int64], mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The log-probability of each row's tokens after the first, `(n_rows,)`; padded on the right,
    where no real token sees it."""
    import torch

    tokens = torch.from_numpy(ids).to(model.device)
    is_real = torch.from_numpy(mask).to(model.device)
    logits = model(input_ids=tokens, attention_mask=is_real.long(), use_cache=False).logits
    before = logits[:, :-1].float()
    drawn = before.gather(2, tokens[:, 1:, None])[..., 0] - before.logsumexp(dim=-1)
    total = (drawn.double() * is_real[:, 1:]).sum(dim=1)
    return np.asarray(total.cpu().numpy(), dtype=np.float64)


def _take_out(sae: Sae, features: NDArray[np.int64]) -> _Patch:
    """Subtracts the contribution of `features[row]` in each row."""
    import torch

    wanted = torch.from_numpy(features)

    def patch(entering: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        feature = wanted.to(rows.device)[rows]
        values = sae.encode(entering).gather(1, feature[:, None])[:, 0]
        return -sae.contribution(values, feature, entering)

    return patch


def _rebuild(sae: Sae) -> _Patch:
    def patch(entering: torch.Tensor, _rows: torch.Tensor) -> torch.Tensor:
        return sae.decode(sae.encode(entering), entering) - entering

    return patch


def _zero(entering: torch.Tensor, _rows: torch.Tensor) -> torch.Tensor:
    return -entering
