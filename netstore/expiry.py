"""A queue of deadlines: one sorted list for any number of them (requests, calls, leases, nodes with a TTL),
so that one look at the clock, or one timer, serves all.

Most entries are settled or renewed long before their time, and are removed at once. The list is a sorted list
of short lists (`sortedcontainers`), of at most 2,000 entries each, and a change moves entries within one or
two of them. A heap would keep dead entries that have to be swept in one long piece; here each call costs
about the same. What grows with the number of entries is one pointer move for each 500 of them.
"""

from __future__ import annotations

from itertools import islice
from math import inf
from typing import Generic, TypeVar

from sortedcontainers import SortedList  # type: ignore[import-untyped]  # it has no annotations

T = TypeVar("T")


class Expiry(Generic[T]):
    """Something with a deadline, until it is settled or has expired."""

    __slots__ = ("place", "what")

    def __init__(self, what: T) -> None:
        self.what: T | None = what
        """None once it is settled, so that nothing is kept alive here."""
        self.place: tuple[float, int, Expiry[T]] | None = None
        """Its entry in the list; None once it is removed, which breaks the reference cycle of the two."""


class Expiries(Generic[T]):
    """Deadlines in order of time. Holds only what is not settled. `add` and `settle` are O(log n), 1 to 6 us
    each up to 800,000 entries, in the worst case.
    """

    __slots__ = ("_added", "_places")

    def __init__(self) -> None:
        self._places: SortedList = SortedList()
        self._added = 0

    def __len__(self) -> int:
        """How many are not settled."""
        return len(self._places)

    def add(self, when: float, what: T) -> Expiry[T]:
        """Add something that expires at `when`. What has equal times expires in the order it was added."""
        self._added += 1
        entry = Expiry(what)
        entry.place = place = (when, self._added, entry)
        self._places.add(place)
        return entry

    def settle(self, entry: Expiry[T]) -> None:
        """Remove it: it will not expire. May be called again, and after it has expired."""
        place, entry.place, entry.what = entry.place, None, None
        if place is not None:
            self._places.remove(place)

    @property
    def added(self) -> int:
        """How many were added so far, which is the number of the last one."""
        return self._added

    def following(self, after: tuple[float, int], most: int) -> list[tuple[float, int, T]]:
        """Up to `most` entries in order of time, as (when, number, what), that come after the place (when,
        number), at which there need not be an entry any more. O(log n).
        """
        when, number = after
        places = islice(self._places.irange((when, number + 1)), most)
        return [(when, number, entry.what) for when, number, entry in places]

    def first(self) -> float | None:
        """When the next one expires; None when there is none. O(1)."""
        when: float | None = self._places[0][0] if self._places else None
        return when

    def is_due(self, now: float, last: float = inf) -> bool:
        """Whether something is due. Of entries with the time `now`, those numbered up to `last` are. O(1)."""
        return bool(self._places) and self._places[0] < (now, last + 1)

    def due(self, now: float, most: int, last: float = inf) -> list[T]:
        """Remove and return what `is_due`, up to `most`, in order of time. O(log n) for each."""
        found: list[T] = []
        while len(found) < most and self.is_due(now, last):
            entry = self._places[0][2]
            found.append(entry.what)
            self.settle(entry)
        return found
