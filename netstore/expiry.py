"""What expires, and when: all of it in one sorted list, so that one look at the clock, or a single alarm, is
enough for any number of deadlines of requests, calls, leases or nodes with a TTL.

Most of it is settled or renewed long before its time, and is taken out at once. The list is one of
short lists (`sortedcontainers`), of at most 2,000 entries each, and every change moves the entries of one or
two of them: unlike a heap, whose dead entries have to be cleared away now and then, it has no work to make up
for. What does grow with the number of entries is one move of a pointer for each 500 of them.
"""

from __future__ import annotations

from itertools import islice
from math import inf
from typing import Generic, TypeVar

from sortedcontainers import SortedList  # type: ignore[import-untyped]  # it has no annotations

T = TypeVar("T")


class Expiry(Generic[T]):
    """One thing that expires, until it is settled or has expired."""

    __slots__ = ("place", "what")

    def __init__(self, what: T) -> None:
        self.what: T | None = what
        """None once it is settled: nothing of it is kept alive here."""
        self.place: tuple[float, int, Expiry[T]] | None = None
        """What stands in the list for it. None once nothing does, which ends the cycle of the two."""


class Expiries(Generic[T]):
    """What expires, by time. It keeps what is not settled and nothing else. `add` and `settle` are O(log n),
    1 to 6 us each up to 800,000 of them: each time, not on average.
    """

    __slots__ = ("_added", "_places")

    def __init__(self) -> None:
        self._places: SortedList = SortedList()
        self._added = 0

    def __len__(self) -> int:
        """How many are not settled."""
        return len(self._places)

    def add(self, when: float, what: T) -> Expiry[T]:
        """It expires then. What expires at the same time does so in this order."""
        self._added += 1
        entry = Expiry(what)
        entry.place = place = (when, self._added, entry)
        self._places.add(place)
        return entry

    def settle(self, entry: Expiry[T]) -> None:
        """It will not expire any more. May be said again, and after it has expired."""
        place, entry.place, entry.what = entry.place, None, None
        if place is not None:
            self._places.remove(place)

    @property
    def added(self) -> int:
        """How many there were so far: the number of the last one that was added."""
        return self._added

    def following(self, after: tuple[float, int], most: int) -> list[tuple[float, int, T]]:
        """The next ones by time, up to so many, as (when, number, what), behind one that expires at that time
        and was added as that number, which need not be there any more. O(log n).
        """
        when, number = after
        places = islice(self._places.irange((when, number + 1)), most)
        return [(when, number, entry.what) for when, number, entry in places]

    def first(self) -> float | None:
        """When the next one expires; None where none does. O(1)."""
        when: float | None = self._places[0][0] if self._places else None
        return when

    def is_due(self, now: float, last: float = inf) -> bool:
        """Whether something has expired. What expires right now counts up to the number `last`. O(1)."""
        return bool(self._places) and self._places[0] < (now, last + 1)

    def due(self, now: float, most: int, last: float = inf) -> list[T]:
        """Take out what `is_due`, up to so many, the oldest first. O(log n) for each."""
        found: list[T] = []
        while len(found) < most and self.is_due(now, last):
            entry = self._places[0][2]
            found.append(entry.what)
            self.settle(entry)
        return found
