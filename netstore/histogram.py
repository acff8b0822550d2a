"""Counts of measurements by their size, in plain lists: what a histogram of a metrics collector is made of.

An observation costs half a microsecond and makes no object. One thread observes at a time; another one may
read meanwhile, and sees an observation in part at most.
"""

from __future__ import annotations

from bisect import bisect_left


def doubling(first: float, count: int) -> tuple[float, ...]:
    """So many upper bounds, each twice the one before."""
    return tuple(first * 2**step for step in range(count))


class Histogram:
    """How many observations were at most as large as each bound, and their sum."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        """`bounds` ascend; an observation above the last one is counted too."""
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        """Observations above the bound before and up to this one, and those above all."""
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count one observation."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    @property
    def count(self) -> int:
        """All observations."""
        return sum(self.counts)
