"""Virtual time: a heap of calls. Nothing here, or anywhere in the simulator, looks at a real clock."""

from __future__ import annotations

from heapq import heappop, heappush
from typing import TYPE_CHECKING, Final

from netstore.types import Nanos

if TYPE_CHECKING:
    from collections.abc import Callable

EPOCH: Final = 1_700_000_000_000_000_000
"""Wall time, in nanoseconds, at which every run begins."""

MOST_CALLS: Final = 500_000
"""Calls after which a run is given up; the longest that ends needs a third of them."""

_SECOND: Final = 1_000_000_000


class Endless(AssertionError):  # noqa: N818 - named for what happened
    """Something calls for itself for ever, such as a storm of messages."""


class Timeline:
    """Calls in the order of their instants; those of one instant in the order they were made."""

    def __init__(self) -> None:
        self.now = 0.0
        """Seconds since the run began: true time, which no member can see."""
        self._heap: list[tuple[float, int, Callable[[], object]]] = []
        self._serial = 0

    def after(self, delay: float, call: Callable[[], object]) -> None:
        """Make a call once that many seconds have passed."""
        self._serial += 1
        if self._serial > MOST_CALLS:
            raise Endless(f"{MOST_CALLS} calls and no end")
        heappush(self._heap, (self.now + delay, self._serial, call))

    def run(self, until: float) -> None:
        """Make every call up to that instant, and stand there."""
        heap = self._heap
        while heap and heap[0][0] <= until:
            when, _, call = heappop(heap)
            self.now = when
            call()
        self.now = until


class MachineClock:
    """The clocks of one machine: one that runs fast or slow, and one that is also set by people.

    Implements `seams.Clock`. `skew_low` and `skew_high` are the extremes of wall time against true time so
    far, in seconds.
    """

    def __init__(self, timeline: Timeline, offset: float, rate: float) -> None:
        self._timeline = timeline
        self.rate = rate
        self._offset = offset
        self.skew_low = self.skew_high = 0.0
        self._note()

    def monotonic(self) -> float:
        return 1000.0 + self._timeline.now * self.rate

    def wall(self) -> Nanos:
        return Nanos(EPOCH + int((self._timeline.now * self.rate + self._offset) * _SECOND))

    def jump(self, seconds: float) -> None:
        """Somebody sets the wall clock."""
        self._note()
        self._offset += seconds
        self._note()

    def forget(self) -> None:
        """The machine has no battery: each time it is switched on it believes that it is `EPOCH`."""
        self._note()
        self._offset = -self._timeline.now * self.rate
        self._note()

    def skew(self) -> tuple[float, float]:
        """Lowest and highest error of the wall clock up to now."""
        self._note()
        return self.skew_low, self.skew_high

    def _note(self) -> None:
        error = self._timeline.now * (self.rate - 1.0) + self._offset
        self.skew_low = min(self.skew_low, error)
        self.skew_high = max(self.skew_high, error)
