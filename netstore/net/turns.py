"""In which order connections are served that have to wait for their turn.

Who took least of the loop lately comes first (`load.py`): a client that asks for little waits for little,
whatever others ask for. Among those of one level it is round-robin by principal, and among the connections of
one principal round-robin again: who opens a thousand connections, or asks for a thousand things on one, waits
for itself and not others for it.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, Generic, Protocol, TypeVar

from netstore.net.load import LEVELS


class Waiting(Protocol):
    """The part of `connection.Connection` that is used here. Compared by identity."""

    @property
    def household(self) -> str:
        """Whom it counts with (`admission.household`)."""


_C = TypeVar("_C", bound=Waiting)
_Lines = OrderedDict[str, OrderedDict[_C, int]]

_NONE: Final = LEVELS
"""The first level when nobody waits."""


class Turns(Generic[_C]):
    """Connections that wait, each with what it waits for: bits that add up. Every call is O(`LEVELS`)."""

    def __init__(self) -> None:
        self._levels: list[_Lines[_C]] = [OrderedDict() for _ in range(LEVELS)]
        self._places: OrderedDict[_C, tuple[int, str]] = OrderedDict()
        """Level and principal of each, in the order in which they came."""

    def __len__(self) -> int:
        return len(self._places)

    def waits(self, connection: _C) -> bool:
        """Whether it waits for a turn."""
        return connection in self._places

    @property
    def first(self) -> int:
        """The level of who comes next; `LEVELS` when nobody waits."""
        return next((level for level, lines in enumerate(self._levels) if lines), _NONE)

    def add(self, connection: _C, mask: int, level: int) -> None:
        """It waits for a turn, at the end of its principal's line of this level; one that waits already keeps
        its place.
        """
        place = self._places.get(connection)
        if place is None:
            place = self._places[connection] = level, connection.household
        lines = self._levels[place[0]]
        line = lines.get(place[1])
        if line is None:
            line = lines[place[1]] = OrderedDict()
        line[connection] = line.get(connection, 0) | mask

    def take(self) -> tuple[_C, int]:
        """Whose turn it is, and what it waited for. StopIteration when nobody waits."""
        return self._take(next(level for level, lines in enumerate(self._levels) if lines))

    def longest(self) -> tuple[_C, int]:
        """The same for who has waited longest, whatever its level: so whoever waits behind others is served
        in the end. StopIteration when nobody waits.
        """
        connection = next(iter(self._places))
        level, name = self._places[connection]
        mask = self._levels[level][name][connection]
        self.remove(connection)
        return connection, mask

    def remove(self, connection: _C) -> None:
        """It waits no more, if it did."""
        place = self._places.pop(connection, None)
        if place is not None:
            level, name = place
            line = self._levels[level][name]
            del line[connection]
            if not line:
                del self._levels[level][name]

    def _take(self, level: int) -> tuple[_C, int]:
        lines = self._levels[level]
        name, line = lines.popitem(last=False)
        connection, mask = line.popitem(last=False)
        del self._places[connection]
        if line:
            lines[name] = line
        return connection, mask
