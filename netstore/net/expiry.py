"""When calls expire: all of them in one heap, so that a server needs a single alarm.

Most calls are answered long before their time. What is left of them in the heap is taken out once it is more
than what is alive, so that the heap is bounded by the calls that are open, whatever their times were.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import Final, Generic, TypeVar

T = TypeVar("T")

_DEAD_ALLOWED: Final = 256
"""Settled entries that may stay before they are counted against those alive: a rebuild must pay."""


class Expiry(Generic[T]):
    """One thing that expires, until it is settled."""

    __slots__ = ("what",)

    def __init__(self, what: T) -> None:
        self.what: T | None = what
        """None once it is settled: nothing of it is kept alive here."""


class Expiries(Generic[T]):
    """What expires, by time. `add` and `settle` are O(log n), amortised."""

    __slots__ = ("_added", "_dead", "_heap")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Expiry[T]]] = []
        self._added = 0
        self._dead = 0

    def __len__(self) -> int:
        """How many are not settled."""
        return len(self._heap) - self._dead

    @property
    def kept(self) -> int:
        """How many places are taken: at most twice those that are not settled, and a few hundred."""
        return len(self._heap)

    def add(self, when: float, what: T) -> Expiry[T]:
        """It expires then. What expires at the same time does so in this order."""
        self._added += 1
        entry = Expiry(what)
        heappush(self._heap, (when, self._added, entry))
        return entry

    def settle(self, entry: Expiry[T]) -> None:
        """It will not expire any more. May be said again."""
        if entry.what is None:
            return
        entry.what = None
        self._dead += 1
        if self._dead > _DEAD_ALLOWED + len(self._heap) // 2:
            self._heap = [each for each in self._heap if each[2].what is not None]
            heapify(self._heap)
            self._dead = 0

    def first(self) -> float | None:
        """When the next one expires; None where none does."""
        heap = self._heap
        while heap and heap[0][2].what is None:
            heappop(heap)
            self._dead -= 1
        return heap[0][0] if heap else None

    def due(self, now: float, most: int) -> list[T]:
        """Take out what has expired, up to so many, the oldest first."""
        found: list[T] = []
        while len(found) < most:
            first = self.first()
            if first is None or first > now:
                break
            entry = heappop(self._heap)[2]
            if entry.what is not None:
                found.append(entry.what)
                entry.what = None
        return found
