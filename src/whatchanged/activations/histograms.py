"""Histograms of magnitudes without edges to choose: eight bins per factor of two.

A bin is the upper bits of a float32: its exponent and three bits of its fraction, from 2^-12 up to
2^12; what is smaller or larger has one bin each. Histograms of shards merge by addition, and a
quantile that is read off is at most 6.1 % from the true one, where it lies within the range.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

_FRACTION_BITS = 3
_LOWEST_EXPONENT, _HIGHEST_EXPONENT = -12, 12
_FIRST = (127 + _LOWEST_EXPONENT) << _FRACTION_BITS
_N_INNER = (_HIGHEST_EXPONENT - _LOWEST_EXPONENT) << _FRACTION_BITS
N_BINS = _N_INNER + 2


def bins_of(values: NDArray[np.float32]) -> NDArray[np.int32]:
    """The bin of each positive value, in `[0, N_BINS)`."""
    bins: NDArray[np.int32] = values.view(np.int32) >> (23 - _FRACTION_BITS)
    bins -= _FIRST - 1
    return np.clip(bins, 0, N_BINS - 1, out=bins)


def bin_edges() -> NDArray[np.float64]:
    """`(N_BINS + 1,)`: bin i holds values from `[i]` up to `[i + 1]`; from 0 to infinity."""
    steps = np.arange(_N_INNER + 1)
    per_octave = 1 << _FRACTION_BITS
    inner = 2.0 ** (_LOWEST_EXPONENT + steps // per_octave) * (1 + steps % per_octave / per_octave)
    return np.concatenate([[0.0], inner, [math.inf]])


def quantile(counts: NDArray[np.integer[Any]], q: float) -> float:
    """The geometric centre of the bin that holds the q-quantile, nan of an empty histogram.

    Within the outermost bins it is their inner edge.
    """
    total = int(counts.sum())
    if total == 0:
        return math.nan
    found = int(np.searchsorted(np.cumsum(counts), max(1, math.ceil(q * total))))
    low, high = bin_edges()[found : found + 2]
    if low == 0.0 or math.isinf(high):
        return float(high if low == 0.0 else low)
    return math.sqrt(low * high)
