"""How well an SAE reconstructs its model: it stands beside every table of its features.

An SAE that misses most of what the model holds has few specialists too, and must not be read as
one that finds nothing interesting.
"""

from __future__ import annotations

from dataclasses import dataclass

from whatchanged.errors import UsageError
from whatchanged.pages.numbers import decimal, percent

# Where reading features becomes doubtful. Published SAEs of language models explain 0.6 to 0.9 of
# the variance and recover more than 0.9 of the loss; the limits lie clearly below.
_LEAST_EXPLAINED = 0.5
_LEAST_RECOVERED = 0.8
_MOST_DEAD = 0.5


@dataclass(frozen=True, slots=True)
class SaeQuality:
    """Reconstruction over tokens; None or nan for what was not measured.

    `explained_variance` is 1 less the residual's share of the variance, below 0 where the mean
    would reconstruct better. `l0` is the mean number of features that fire on a token.
    `loss_recovered` is (loss with the hook point at zero - loss with the reconstruction) / (loss
    with the hook point at zero - loss), 1 where nothing is lost. `dead_share` is the share of
    features in [0, 1] that fired on none of the tokens: with few tokens it is too large.

    Raises UsageError for an `l0` below 0 or a share of dead features outside [0, 1].
    """

    explained_variance: float | None
    l0: float | None
    loss_recovered: float | None
    dead_share: float | None

    def __post_init__(self) -> None:
        if self.l0 is not None and self.l0 < 0:
            raise UsageError(f"expected an l0 of at least 0, found {self.l0}")
        if self.dead_share is not None and (self.dead_share < 0 or self.dead_share > 1):
            raise UsageError(
                f"expected a share of dead features in [0, 1], found {self.dead_share}"
            )


def describe_quality(quality: SaeQuality) -> str:
    """The record as one line, with a warning for each figure beyond its limit."""
    figures = (
        f"explained variance {decimal(quality.explained_variance)}, "
        f"L0 {decimal(quality.l0, 1)}, loss recovered {decimal(quality.loss_recovered)}, "
        f"dead features {percent(quality.dead_share)}"
    )
    weak = find_weaknesses(quality)
    return f"{figures} (read its features with doubt: {', '.join(weak)})" if weak else figures


def find_weaknesses(quality: SaeQuality) -> tuple[str, ...]:
    """Why features of this SAE may not show what the model does; what is unknown is no weakness."""
    explained, recovered, dead = (
        quality.explained_variance, quality.loss_recovered, quality.dead_share
    )  # fmt: skip
    found = []
    if explained is not None and explained < _LEAST_EXPLAINED:
        found.append(f"explains less than {percent(_LEAST_EXPLAINED, 0)} of the variance")
    if recovered is not None and recovered < _LEAST_RECOVERED:
        found.append(f"recovers less than {percent(_LEAST_RECOVERED, 0)} of the loss")
    if dead is not None and dead > _MOST_DEAD:
        found.append(f"more than {percent(_MOST_DEAD, 0)} of its features are dead")
    return tuple(found)
