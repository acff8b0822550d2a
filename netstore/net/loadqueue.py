"""The order in which connections are served that have to wait for their turn: fair queueing by recent use
of the loop.

A connection whose household and which itself used the loop least lately comes first (`load`), so a client
that asks for little waits for little, whatever others ask for. Households are ordered by their load, and
the connections of one household by their own. Between households of the same level it is round-robin, and
between connections of the same level of one household too: a client that opens a thousand connections, or
sends a thousand requests on one, delays itself and not others. Loads change while connections wait, so
levels are computed again; the load of a household counts for all its connections at once.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from netstore.net.load import LEVELS, OWN

if TYPE_CHECKING:
    from netstore.net.load import ConnectionLoad


class Waiting(Protocol):
    """The part of `connection.Connection` that is used here. Compared by identity."""

    load: ConnectionLoad


_C = TypeVar("_C", bound=Waiting)


class _Household(Generic[_C]):
    """The waiting connections of one household, in a queue for each level of their own load."""

    __slots__ = ("level", "name", "occupied", "queued_at", "queues")

    def __init__(self, name: str) -> None:
        self.name = name
        self.level = 0
        """The level of the household's load."""
        self.queued_at = LEVELS
        """The level at which it is queued among the others; `LEVELS` if it is not."""
        self.queues: dict[int, OrderedDict[_C, int]] = {}
        self.occupied = 0
        """A bit for each level whose queue is not empty."""

    def add(self, connection: _C, level: int, mask: int) -> None:
        """Append to the queue of its level."""
        queue = self.queues.get(level)
        if queue is None:
            queue = self.queues[level] = OrderedDict()
        self.occupied |= 1 << level
        queue[connection] = mask

    def take(self) -> tuple[_C, int]:
        """Remove the first one of the lowest level."""
        bit = self.occupied & -self.occupied
        queue = self.queues[bit.bit_length() - 1]
        first = queue.popitem(last=False)
        if not queue:
            self.occupied ^= bit
        return first

    def leave(self, connection: _C, level: int) -> int:
        """Remove this one; returns the events it waits for."""
        queue = self.queues[level]
        mask = queue.pop(connection)
        if not queue:
            self.occupied ^= 1 << level
        return mask


class LoadQueue(Generic[_C]):
    """Connections that wait, each with the epoll events that it waits for. All methods but `review` are
    O(1).
    """

    def __init__(self) -> None:
        self._levels: list[OrderedDict[str, _Household[_C]]] = [OrderedDict() for _ in range(LEVELS)]
        """Households that wait, each at the level of its first connection."""
        self._occupied = 0
        """A bit for each level at which a household waits."""
        self._households: dict[str, _Household[_C]] = {}
        self.places: OrderedDict[_C, tuple[int, _Household[_C], int]] = OrderedDict()
        """The connections that wait, in order of arrival; for reading only. Of each: its level within its
        household, the household, and how many levels above its load it is queued. Plain tuples, because
        one is made for each turn.
        """
        self._reviewed: OrderedDict[_C, None] = OrderedDict()
        """The same connections, in the order in which their levels were computed."""

    def __len__(self) -> int:
        return len(self.places)

    @property
    def first(self) -> int:
        """The level of the next connection; `LEVELS` if none waits."""
        occupied = self._occupied
        return (occupied & -occupied).bit_length() - 1 if occupied else LEVELS

    def add(self, connection: _C, mask: int, now: float, above: int = 0) -> int:
        """Queue a connection, at the end of its household's queue for the level of its load at `now`, or
        so many levels above; one that waits already keeps its place. Returns the level.
        """
        place = self.places.get(connection)
        if place is not None:
            level, household, _ = place
            household.queues[level][connection] |= mask
            return OWN * household.level + level
        load = connection.load
        owner = load.household
        level = load.level(now) + above
        known = self._households.get(owner.name)
        if known is None:
            known = self._households[owner.name] = _Household(owner.name)
        known.level = owner.level(now)
        known.add(connection, level, mask)
        self.places[connection] = level, known, above
        self._reviewed[connection] = None
        level += OWN * known.level
        if level != known.queued_at:
            self._requeue(known)
        return level

    def take(self) -> tuple[_C, int]:
        """Remove the next connection; returns it and the events that it waits for. IndexError if none
        waits.
        """
        level = self.first
        queue = self._levels[level]
        household = next(iter(queue.values()))
        first = household.take()
        connection = first[0]
        del self.places[connection], self._reviewed[connection]
        if len(queue) > 1:
            self._dequeue(household)  # to the end of its level
        self._requeue(household)
        return first

    def longest(self) -> tuple[_C, int]:
        """The same for the connection that has waited longest, whatever its level, so that each is served
        in the end. StopIteration if none waits.
        """
        connection = next(iter(self.places))
        return connection, self._leave(connection)

    def remove(self, connection: _C) -> None:
        """Remove a connection, if it waits."""
        if connection in self.places:
            self._leave(connection)

    def review(self, now: float, most: int) -> None:
        """Compute the levels of so many connections and of their households again, those first whose
        levels are oldest. A connection whose load has fallen moves to the end of a lower level's queue.
        O(`most`).
        """
        for _ in range(min(most, len(self._reviewed))):
            connection = next(iter(self._reviewed))
            self._reviewed.move_to_end(connection)
            queued_at, household, above = self.places[connection]
            level = connection.load.level(now) + above
            if level < queued_at:
                household.add(connection, level, household.leave(connection, queued_at))
                self.places[connection] = level, household, above
            if connection.load.household.name == household.name:
                household.level = connection.load.household.level(now)
            self._requeue(household)

    def _leave(self, connection: _C) -> int:
        level, household, _ = self.places.pop(connection)
        del self._reviewed[connection]
        mask = household.leave(connection, level)
        self._requeue(household)
        return mask

    def _requeue(self, household: _Household[_C]) -> None:
        """Queue a household at the level of its first connection. If it is there already it keeps its
        place.
        """
        occupied = household.occupied
        if not occupied:
            self._dequeue(household)
            del self._households[household.name]
            return
        level = OWN * household.level + (occupied & -occupied).bit_length() - 1
        if level != household.queued_at:
            self._dequeue(household)
            household.queued_at = level
            self._levels[level][household.name] = household
            self._occupied |= 1 << level

    def _dequeue(self, household: _Household[_C]) -> None:
        level, household.queued_at = household.queued_at, LEVELS
        if level < LEVELS:
            queue = self._levels[level]
            del queue[household.name]
            if not queue:
                self._occupied &= ~(1 << level)
