"""Is it flat? Samples of the processes that live through a soak, and what their medians say. `drift` is pure.

The median of the second quarter is compared with that of the last; the first is warm-up. What leaks ``n`` bytes at each
of ``r`` asks a second grows by ``n * r * T / 2`` between the middles of these quarters, over ``T`` seconds. A median
forgives outliers in up to half of its samples, but no steady growth, so a leak stays unseen only below
``n = tolerance / (r * T / 2)``: with 2 MiB and 80 asks a second, 874 bytes an ask in a minute and 87 in ten. The
tolerance is three times what ten minutes without a leak have shown. Descriptors, tasks and calls have tolerances of
what is open while a process is on its way back.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import psutil

TOLERANCES = {
    "uss": 2 * 2**20, "descriptors": 6, "threads": 6, "tasks": 25, "asks": 25, "streams": 15, "letters": 25,
    "peers": 6, "sessions": 6, "outlets": 6, "cells": 0,
}  # fmt: skip
"""By how much the median of the last quarter may lie above that of the second."""

FEWEST = 8


def drift(values: Sequence[float]) -> float:
    """Return how far the median of the last quarter lies above that of the second.

    >>> drift([9, 9, 1, 1, 5, 5, 1, 3])
    1.0
    """
    quarter = len(values) // 4
    if len(values) < FEWEST:
        raise ValueError(f"{len(values)} samples; at least {FEWEST} are needed")
    return statistics.median(values[-quarter:]) - statistics.median(values[quarter : 2 * quarter])


class Samples:
    """What was measured of one process, series by series."""

    def __init__(self, name: str, pid: int) -> None:
        self.name = name
        self._process = psutil.Process(pid)
        self.series: dict[str, list[float]] = {}

    def take(self, counts: dict[str, int]) -> None:
        """Look at the process from outside, and add what it says of itself."""
        with self._process.oneshot():
            outside = {
                "uss": self._process.memory_full_info().uss,
                "descriptors": self._process.num_fds(),
                "threads": self._process.num_threads(),
            }
        for name, value in (outside | counts).items():
            self.series.setdefault(name, []).append(value)

    def drifts(self) -> dict[str, float]:
        """Return the drift of every series that has a tolerance."""
        return {name: drift(values) for name, values in self.series.items() if name in TOLERANCES}

    def growing(self) -> list[str]:
        """Return a line for each series that is not flat."""
        return [
            f"{self.name}: {series} grew by {by:,.0f} ({TOLERANCES[series]:,} is noise): {self._thinned(series)}"
            for series, by in self.drifts().items()
            if by > TOLERANCES[series]
        ]

    def _thinned(self, series: str) -> list[float]:
        values = self.series[series]
        return values[:: max(1, len(values) // 20)]
