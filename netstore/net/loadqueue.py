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

from netstore.net.load import LEVELS, OWN, STEP

if TYPE_CHECKING:
    from netstore.net.load import ConnectionLoad


class Waiting(Protocol):
    """The part of `connection.Connection` that is used here. Compared by identity."""

    load: ConnectionLoad


_C = TypeVar("_C", bound=Waiting)


class _Household(Generic[_C]):
    """The waiting connections of one household, in a queue for each level of their own load."""

    __slots__ = ("computed_at", "level", "name", "occupied", "queued_at", "queues")

    def __init__(self, name: str) -> None:
        self.name = name
        self.level = 0
        """The level of the household's load, when it was computed last."""
        self.computed_at = -1.0
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
        self.first = LEVELS
        """The level of the next connection; `LEVELS` if none waits. For reading only."""
        self._households: dict[str, _Household[_C]] = {}
        self.places: OrderedDict[_C, tuple[int, _Household[_C], int, float]] = OrderedDict()
        """The connections that wait, in order of arrival; for reading only. Of each: its level within its
        household, the household, how many levels above its load it is queued, and since when. Plain tuples,
        because one is made for each turn.
        """
        self._reviewed: OrderedDict[_C, float] = OrderedDict()
        """The same connections, in the order in which their levels were computed, and when that was."""

    def __len__(self) -> int:
        return len(self.places)

    def since(self, connection: _C) -> float | None:
        """When it was queued; None if it does not wait."""
        place = self.places.get(connection)
        return None if place is None else place[3]

    def add(self, connection: _C, mask: int, now: float, above: int = 0) -> int:
        """Queue a connection, at the end of its household's queue for the level of its load at `now`, or
        so many levels above; one that waits already keeps its place. Returns the level.
        """
        place = self.places.get(connection)
        if place is not None:
            level, household, _, _ = place
            household.queues[level][connection] |= mask
            return OWN * household.level + level
        load = connection.load
        owner = load.household
        level = load.level(now) + above
        known = self._households.get(owner.name)
        if known is None:
            known = self._households[owner.name] = _Household(owner.name)
        is_moved = not known.occupied >> level & 1
        if known.computed_at != now:  # once for all of the household that a round brings
            before, known.level, known.computed_at = known.level, owner.level(now), now
            is_moved = is_moved or known.level != before
        if is_moved:
            known.add(connection, level, mask)
            self._requeue(known)
        else:
            known.queues[level][connection] = mask
        self.places[connection] = level, known, above, now
        self._reviewed[connection] = now
        return OWN * known.level + level

    def take(self) -> tuple[_C, int]:
        """Remove the next connection; returns it and the events that it waits for. IndexError if none
        waits.
        """
        households = self._levels[self.first]
        household = next(iter(households.values()))
        bit = household.occupied & -household.occupied
        queue = household.queues[bit.bit_length() - 1]
        first = queue.popitem(last=False)
        connection = first[0]
        del self.places[connection], self._reviewed[connection]
        if not queue:
            household.occupied ^= bit
        if len(households) > 1:
            self._dequeue(household)  # to the end of its level
            self._requeue(household)
        elif not queue:
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
        levels are oldest, and none that is so new that loads have not been decayed since (`load.STEP`). A
        connection whose load has fallen moves to the end of a lower level's queue. O(`most`).
        """
        reviewed = self._reviewed
        for _ in range(min(most, len(reviewed))):
            connection = next(iter(reviewed))
            if now - reviewed[connection] < STEP:
                break
            reviewed[connection] = now
            reviewed.move_to_end(connection)
            queued_at, household, above, since = self.places[connection]
            level = connection.load.level(now) + above
            if level < queued_at:
                household.add(connection, level, household.leave(connection, queued_at))
                self.places[connection] = level, household, above, since
            if connection.load.household.name == household.name:
                household.level, household.computed_at = connection.load.household.level(now), now
            self._requeue(household)

    def _leave(self, connection: _C) -> int:
        level, household, _, _ = self.places.pop(connection)
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
            self.first = min(self.first, level)

    def _dequeue(self, household: _Household[_C]) -> None:
        level, household.queued_at = household.queued_at, LEVELS
        if level < LEVELS:
            queue = self._levels[level]
            del queue[household.name]
            if not queue:
                self._occupied &= ~(1 << level)
                if level == self.first:
                    occupied = self._occupied
                    self.first = (occupied & -occupied).bit_length() - 1 if occupied else LEVELS
