"""Timing that survives a busy machine: the ways take turns, and medians are compared."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping


def time_in_turns(
    ways: Mapping[str, Callable[[], object]],
    n_repeats: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each way by the clock, `n_repeats` times, after one run that is not counted.

    The order is reversed in every other round, so that no way always runs after the same one.
    """
    for way in ways.values():
        way()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(n_repeats):
        names = list(ways) if repeat % 2 == 0 else list(ways)[::-1]
        for name in names:
            start = clock()
            ways[name]()
            seconds[name].append(clock() - start)
    return seconds


def median_rate(n_items: int, seconds: list[float]) -> float:
    """Items per second in the median repeat."""
    return n_items / statistics.median(seconds)


def speed_ratio(faster: list[float], slower: list[float]) -> float:
    """How many times less time the first takes: a ratio of medians."""
    return statistics.median(slower) / statistics.median(faster)
