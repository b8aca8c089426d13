"""Which directions carried a finding's log-ratio, and whether directions drawn at random would too.

Contributions (`models.contributions`) are nats, so they have a size, and size is what tells an
intervention's own directions from others: how well a contribution *ranks* texts does not, since a
direction drawn at random also ranks texts that differ in their words.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from whatchanged.errors import UsageError
from whatchanged.stats import benjamini_hochberg


@dataclass(frozen=True)
class Contrast:
    """Nats by which a supporting text exceeds the mean of the other texts of its prompt, on average
    over the supporting texts, with its interval; `(n_components,)` each.

    Only prompts that have texts of both kinds count: there are `n_prompts`.
    """

    nats: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    n_prompts: int


@dataclass(frozen=True, slots=True)
class Contributor:
    """What one direction contributed to supporting texts beyond others, in nats per text.

    `share` is that of the log-ratio's own contrast (nan where that is 0). `times_control` is the
    size in units of its layer's random directions, equally strong, root mean square. The p-value
    asks whether a direction drawn at random would get as far.
    """

    label: str
    nats: float
    ci_low: float
    ci_high: float
    share: float
    times_control: float
    p_value: float
    p_adjusted: float


def find_contributors(
    labels: Sequence[str],
    values: NDArray[np.float64],
    controls: NDArray[np.float64],
    strengths: NDArray[np.float64],
    log_ratios: NDArray[np.float64],
    prompt_keys: Sequence[str],
    is_supporting: NDArray[np.bool_],
) -> list[Contributor]:
    """Every direction's contribution to a finding, the surest first.

    `values (n_texts, n_directions)` are nats, `labels` are `layer:index`. Column i of `controls`,
    of the same shape, is a random direction in the layer of direction i and as strong
    (`strengths`, sigma). `log_ratios`, `prompt_keys` and `is_supporting` are `(n_texts,)`.

    Per layer, contrasts are divided by strength and by the root mean square of the controls' (of
    the other controls, for a control itself, which makes its tail the heavier one). The p-value is
    the rank of a direction's magnitude among all controls, so that it is at least
    1 / (1 + n_directions), with Benjamini and Hochberg's correction over all directions: a few
    directions alone cannot be significant, many together can. Directions come from the weights and
    not from texts, so nothing is held out.

    Fewer than two prompts with both kinds, and layers with one direction only, give a p-value of 1.
    Raises UsageError for shapes that disagree.
    """
    n_texts, n_directions = len(is_supporting), len(labels)
    shapes = values.shape, controls.shape, strengths.shape, log_ratios.shape, (len(prompt_keys),)
    expected = (n_texts, n_directions), (n_texts, n_directions), (n_directions,), (n_texts,)
    if shapes != (*expected, (n_texts,)):
        raise UsageError(
            f"expected values and controls {expected[0]}, a strength per direction and a log-ratio "
            f"and a prompt per text, found {shapes}"
        )
    of_directions = contrast(values, prompt_keys, is_supporting)
    of_controls = contrast(controls, prompt_keys, is_supporting)
    of_ratio = contrast(log_ratios[:, None], prompt_keys, is_supporting).nats[0]
    layers = np.array([label.rpartition(":")[0] for label in labels])
    own, random = _times_control(
        of_directions.nats / strengths, of_controls.nats / strengths, layers
    )
    n_above = (np.abs(random)[None, :] >= np.abs(own)[:, None]).sum(axis=1)
    is_known = np.isfinite(own) & (of_directions.n_prompts >= 2)
    p_values = np.where(is_known, (1 + n_above) / (1 + n_directions), 1.0)
    found = [
        Contributor(
            label,
            float(of_directions.nats[i]),
            float(of_directions.low[i]),
            float(of_directions.high[i]),
            float(of_directions.nats[i] / of_ratio) if of_ratio else math.nan,
            float(own[i]),
            float(p_values[i]),
            1.0,
        )
        for i, label in enumerate(labels)
    ]
    adjusted = benjamini_hochberg(p_values)
    found = [replace(one, p_adjusted=float(p)) for one, p in zip(found, adjusted, strict=True)]
    return sorted(found, key=lambda one: (one.p_value, -abs(one.times_control), one.label))


def contrast(
    values: NDArray[np.float64],
    prompt_keys: Sequence[str],
    is_supporting: NDArray[np.bool_],
    confidence: float = 0.95,
) -> Contrast:
    """The contrast of every column of `values (n_texts, n_components)`.

    Prompts are independent, texts of one prompt are not: the interval is that of a ratio estimator
    over prompts (Cochran 1977, section 6.3) with Student's t. Below two prompts it is unbounded;
    without any, the contrast is nan.
    """
    from scipy.stats import t

    supporting = np.asarray(is_supporting, dtype=bool)
    _, prompts = np.unique(np.asarray(prompt_keys, dtype=object), return_inverse=True)
    sums, counts = [], []
    for prompt in range(int(prompts.max(initial=-1)) + 1):
        members = prompts == prompt
        ours, others = values[members & supporting], values[members & ~supporting]
        if len(ours) and len(others):
            sums.append((ours - others.mean(axis=0)).sum(axis=0))
            counts.append(len(ours))
    n = len(counts)
    weights, totals = np.array(counts, float), np.array(sums).reshape(n, values.shape[1])
    nats = totals.sum(axis=0) / weights.sum() if n else np.full(values.shape[1], np.nan)
    if n < 2:
        unbounded = np.full(values.shape[1], np.inf)
        return Contrast(nats, -unbounded, unbounded, n)
    squares = ((totals - weights[:, None] * nats) ** 2).sum(axis=0)
    error = np.sqrt(n / (n - 1) * squares) / weights.sum()
    reach = t.isf((1 - confidence) / 2, n - 1) * error
    return Contrast(nats, nats - reach, nats + reach, n)


def _times_control(
    own: NDArray[np.float64], random: NDArray[np.float64], layers: NDArray[np.str_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Contrasts per strength in units of their layer's controls, of directions and of controls;
    nan for a layer whose controls are fewer than two or all 0."""
    scaled = np.full(len(own), np.nan), np.full(len(own), np.nan)
    for layer in np.unique(layers):
        members = np.flatnonzero(layers == layer)
        squares = random[members] ** 2
        if len(members) < 2 or not (squares.sum() > squares).all():
            continue
        scaled[0][members] = own[members] / np.sqrt(squares.mean())
        others = (squares.sum() - squares) / (len(members) - 1)
        scaled[1][members] = random[members] / np.sqrt(others)
    return scaled
