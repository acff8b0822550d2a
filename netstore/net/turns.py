"""In which order connections are served that have to wait for their turn.

Who took least of the loop lately comes first (`load.py`): a client that asks for little waits for little,
whatever others ask for. Among those of one level it is round-robin by household, and among the connections of
one household round-robin again: who opens a thousand connections, or asks for a thousand things on one, waits
for itself and not others for it. Loads fall while their connections wait, so levels are looked at again.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Generic, NamedTuple, Protocol, TypeVar

from netstore.net.load import LEVELS

if TYPE_CHECKING:
    from netstore.net.load import ConnectionLoad


class Waiting(Protocol):
    """The part of `connection.Connection` that is used here. Compared by identity."""

    load: ConnectionLoad


_C = TypeVar("_C", bound=Waiting)
_Lines = OrderedDict[str, OrderedDict[_C, int]]


class _Place(NamedTuple):
    level: int
    household: str
    above: int
    """How far above its load it stands."""


class Turns(Generic[_C]):
    """Connections that wait, each with what it waits for: bits that add up. All but `review` is O(1)."""

    def __init__(self) -> None:
        self._levels: list[_Lines[_C]] = [OrderedDict() for _ in range(LEVELS)]
        self._taken = 0
        """A bit for each level at which somebody waits."""
        self._places: OrderedDict[_C, _Place] = OrderedDict()
        """Where each stands, in the order in which they came."""
        self._reviewed: OrderedDict[_C, None] = OrderedDict()
        """The same, in the order in which their levels were looked at."""

    def __len__(self) -> int:
        return len(self._places)

    def waits(self, connection: _C) -> bool:
        """Whether it waits for a turn."""
        return connection in self._places

    @property
    def first(self) -> int:
        """The level of who comes next; `LEVELS` when nobody waits."""
        taken = self._taken
        return (taken & -taken).bit_length() - 1 if taken else LEVELS

    def add(self, connection: _C, mask: int, now: float, above: int = 0) -> int:
        """It waits for a turn, at the end of its household's line of the level of its load at `now`, or so
        many levels above; one that waits already keeps its place. Gives the level.
        """
        place = self._places.get(connection)
        if place is None:
            load = connection.load
            place = _Place(load.level(now) + above, load.household.name, above)
            self._stand(connection, place, mask)
            self._reviewed[connection] = None
        else:
            self._levels[place.level][place.household][connection] |= mask
        return place.level

    def take(self) -> tuple[_C, int]:
        """Whose turn it is, and what it waited for. IndexError when nobody waits."""
        level = self.first
        lines = self._levels[level]
        name, line = lines.popitem(last=False)
        connection, mask = line.popitem(last=False)
        del self._places[connection], self._reviewed[connection]
        if line:
            lines[name] = line
        elif not lines:
            self._taken &= ~(1 << level)
        return connection, mask

    def longest(self) -> tuple[_C, int]:
        """The same for who has waited longest, whatever its level: so whoever waits behind others is served
        in the end. StopIteration when nobody waits.
        """
        connection = next(iter(self._places))
        mask = self._leave(connection, self._places.pop(connection))
        del self._reviewed[connection]
        return connection, mask

    def remove(self, connection: _C) -> None:
        """It waits no more, if it did."""
        place = self._places.pop(connection, None)
        if place is not None:
            self._leave(connection, place)
            del self._reviewed[connection]

    def review(self, now: float, most: int) -> None:
        """Look again at the levels of so many, those first that were not looked at for longest: whose load
        has fallen waits at the end of a line further ahead. O(`most`).
        """
        for _ in range(min(most, len(self._reviewed))):
            connection = next(iter(self._reviewed))
            self._reviewed.move_to_end(connection)
            place = self._places[connection]
            level = connection.load.level(now) + place.above
            if level < place.level:
                mask = self._leave(connection, place)
                self._stand(connection, _Place(level, connection.load.household.name, place.above), mask)

    def _stand(self, connection: _C, place: _Place, mask: int) -> None:
        self._places[connection] = place
        self._taken |= 1 << place.level
        lines = self._levels[place.level]
        line = lines.get(place.household)
        if line is None:
            line = lines[place.household] = OrderedDict()
        line[connection] = mask

    def _leave(self, connection: _C, place: _Place) -> int:
        """Its line is without it; gives what it waits for."""
        lines = self._levels[place.level]
        line = lines[place.household]
        mask = line.pop(connection)
        if not line:
            del lines[place.household]
            if not lines:
                self._taken &= ~(1 << place.level)
        return mask
