"""How much of a prompt's texts turns towards, or away from, one and the same token.

After a fine-tune the sides part a little everywhere, but each time over other tokens. A planted
phrase begins with the same token in text after text: its few percent stand out there long before
they do in a total over all tokens. Only the texts' first turn counts: what follows a new phrase's
first word says nothing more of how often the phrase comes (see `TextScore.moved_mass`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from whatchanged.sample import FloatArray

_KEY = ["prompt", "token", "is_gain"]


class Shift(NamedTuple):
    """The largest shift towards or away from one token beyond what most prompts share, in [0, 1],
    less its standard error; and that error. Both are `(n_prompts,)`, nan without scored tokens."""

    estimate: FloatArray
    error: FloatArray


def estimate_shift(scores: pd.DataFrame, keys: Sequence[str]) -> Shift:
    """The shift of each prompt, in the order of `keys`, from rows of `divergence.SCORE_COLUMNS`.

    The mean over a side's texts of the mass that moved to (or from) a token estimates by how much
    more (or less) often per text the intervention turns to it; the sides' means are averaged. Of
    each, the standard error is taken off, so that what a single text of n shows counts nothing,
    however large: its mean is x / n, and so is its error. The two sides' texts may be coupled, so
    their errors are averaged too, as if they were the same texts. What is left counts by how much
    it exceeds that of the median prompt (the lower one of two): what most prompts share is drift,
    or a change that is in every text. The prompt's shift is that of its largest token.

    A side with one text has no error, and counts whole. A prompt without texts whose tokens were
    scored is nan; one where nothing moved is 0. Only moved tokens are held, never a table of
    prompts and vocabulary.
    """
    codes = pd.Series(np.arange(len(keys)), index=list(keys))
    scored = scores[scores["parting"].notna()]
    scored = scored[scored["prompt_key"].isin(codes.index)]
    place = codes[scored["prompt_key"]].to_numpy(dtype=np.int64)
    estimate, error = np.full(len(keys), np.nan), np.full(len(keys), np.nan)
    estimate[place], error[place] = 0.0, 0.0
    is_base = (scored["side"] == "base").to_numpy()
    n_sides = np.zeros(len(keys))
    parts = []
    for own in (is_base, ~is_base):
        n_texts = np.bincount(place[own], minlength=len(keys))
        n_sides += n_texts > 0
        parts.append(_moments(scored[own], place[own], n_texts))
    means = pd.concat(parts).groupby(_KEY, sort=True).sum()
    if means.empty:
        return Shift(estimate, error)
    prompts = means.index.get_level_values("prompt").to_numpy()
    lower = np.maximum(0.0, (means["mean"] - means["se"]) / n_sides[prompts])
    lower = lower - _shared(lower, n_prompts=int((n_sides > 0).sum()))
    best = lower.groupby(level="prompt").idxmax()
    found = best.index.to_numpy()
    estimate[found] = np.clip(lower.loc[best].to_numpy(), 0.0, 1.0)
    error[found] = (means["se"].loc[best]).to_numpy() / n_sides[found]
    return Shift(estimate, error)


def _moments(
    scored: pd.DataFrame, place: NDArray[np.int64], n_texts: NDArray[np.int64]
) -> pd.DataFrame:
    """Mean per text and its standard error of the mass that moved, by prompt, token and sign."""
    tokens = [np.asarray(row, dtype=np.int64) for row in scored["moved_tokens"]]
    masses = [np.asarray(row, dtype=np.float64) for row in scored["moved_mass"]]
    mass = np.concatenate([np.zeros(0), *masses])
    rows = pd.DataFrame(
        {
            "prompt": np.repeat(place, np.array([len(row) for row in tokens], dtype=np.int64)),
            "token": np.concatenate([np.zeros(0, np.int64), *tokens]),
            "is_gain": mass > 0,
            "sum": np.abs(mass),
            "squares": mass**2,
        }
    )
    sums = rows.groupby(_KEY, sort=True)[["sum", "squares"]].sum()
    n = n_texts[sums.index.get_level_values("prompt").to_numpy()]
    mean = sums["sum"] / n
    variance = (sums["squares"] - n * mean**2).clip(lower=0.0) / np.maximum(n - 1, 1)
    se = np.where(n > 1, np.sqrt(variance / n), 0.0)
    return pd.DataFrame({"mean": mean, "se": se})


def _shared(lower: pd.Series[float], n_prompts: int) -> pd.Series[float]:
    """For each entry, the median over all prompts of its token and sign, zero where not held."""
    by_token = lower.groupby(level=["token", "is_gain"])
    held = by_token.transform("size")
    # Zeros stand before what is held, so the median is a rank among the held ones.
    ascending = by_token.rank(method="first")
    middle = (n_prompts + 1) // 2 - (n_prompts - held)
    at_middle = lower.where(ascending == middle)
    median = at_middle.groupby(level=["token", "is_gain"]).transform("max")
    return median.fillna(0.0)
