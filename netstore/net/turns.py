"""In which order connections are served that have to wait for their turn.

Who took least of the loop lately comes first (`load.py`): a client that asks for little waits for little,
whatever others ask for. First those of the household that took least, and of these who took least itself.
Among households that are alike in both it is round-robin, and among the alike connections of one household
round-robin again: who opens a thousand connections, or asks for a thousand things on one, waits for itself
and not others for it. Loads change while their connections wait, so levels are looked at again; what its
household took counts for all its connections at once.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Generic, NamedTuple, Protocol, TypeVar

from netstore.net.load import LEVELS, OWN

if TYPE_CHECKING:
    from netstore.net.load import ConnectionLoad


class Waiting(Protocol):
    """The part of `connection.Connection` that is used here. Compared by identity."""

    load: ConnectionLoad


_C = TypeVar("_C", bound=Waiting)


class _Household(Generic[_C]):
    """The connections of one household that wait: a line for each level of their own."""

    __slots__ = ("level", "lines", "name", "stands", "taken")

    def __init__(self, name: str) -> None:
        self.name = name
        self.level = 0
        """What the household took."""
        self.stands = LEVELS
        """Where it waits among the others; `LEVELS` where it does not."""
        self.lines: dict[int, OrderedDict[_C, int]] = {}
        self.taken = 0
        """A bit for each level that has a line."""

    def add(self, connection: _C, level: int, mask: int) -> None:
        """At the end of the line of its level."""
        line = self.lines.get(level)
        if line is None:
            line = self.lines[level] = OrderedDict()
            self.taken |= 1 << level
        line[connection] = mask

    def take(self) -> tuple[_C, int]:
        """The first one of the first line."""
        level = _lowest(self.taken)
        taken = self.lines[level].popitem(last=False)
        self._tidy(level)
        return taken

    def leave(self, connection: _C, level: int) -> int:
        """This one goes; what it waited for."""
        mask = self.lines[level].pop(connection)
        self._tidy(level)
        return mask

    def _tidy(self, level: int) -> None:
        if not self.lines[level]:
            del self.lines[level]
            self.taken &= ~(1 << level)


class _Place(NamedTuple):
    level: int
    """Its own, within its household."""
    household: str
    above: int
    """How far above its load it stands."""


class Turns(Generic[_C]):
    """Connections that wait, each with what it waits for: bits that add up. All but `review` is O(1)."""

    def __init__(self) -> None:
        self._levels: list[OrderedDict[str, _Household[_C]]] = [OrderedDict() for _ in range(LEVELS)]
        """Households that wait, each at the level of its first connection."""
        self._taken = 0
        """A bit for each level at which some household waits."""
        self._households: dict[str, _Household[_C]] = {}
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
        return _lowest(self._taken) if self._taken else LEVELS

    def add(self, connection: _C, mask: int, now: float, above: int = 0) -> int:
        """It waits for a turn, at the end of its household's line of the level of its load at `now`, or so
        many levels above; one that waits already keeps its place. Gives the level.
        """
        place = self._places.get(connection)
        if place is None:
            load = connection.load
            place = _Place(load.level(now) + above, load.household.name, above)
            household = self._households.get(place.household)
            if household is None:
                household = self._households[place.household] = _Household(place.household)
            household.level = load.household.level(now)
            household.add(connection, place.level, mask)
            self._places[connection] = place
            self._reviewed[connection] = None
            self._stand(household)
        else:
            household = self._households[place.household]
            household.lines[place.level][connection] |= mask
        return OWN * household.level + place.level

    def take(self) -> tuple[_C, int]:
        """Whose turn it is, and what it waited for. IndexError when nobody waits."""
        household = next(iter(self._levels[self.first].values()))
        connection, mask = household.take()
        del self._places[connection], self._reviewed[connection]
        self._go(household)  # to the end of its line
        self._stand(household)
        return connection, mask

    def longest(self) -> tuple[_C, int]:
        """The same for who has waited longest, whatever its level: so whoever waits behind others is served
        in the end. StopIteration when nobody waits.
        """
        connection = next(iter(self._places))
        return connection, self._leave(connection)

    def remove(self, connection: _C) -> None:
        """It waits no more, if it did."""
        if connection in self._places:
            self._leave(connection)

    def review(self, now: float, most: int) -> None:
        """Look again at the levels of so many and of their households, those first that were not looked at
        for longest: whose own load has fallen waits at the end of a line further ahead. O(`most`).
        """
        for _ in range(min(most, len(self._reviewed))):
            connection = next(iter(self._reviewed))
            self._reviewed.move_to_end(connection)
            place = self._places[connection]
            household = self._households[place.household]
            level = connection.load.level(now) + place.above
            if level < place.level:
                household.add(connection, level, household.leave(connection, place.level))
                self._places[connection] = place._replace(level=level)
            if connection.load.household.name == household.name:
                household.level = connection.load.household.level(now)
            self._stand(household)

    def _leave(self, connection: _C) -> int:
        place = self._places.pop(connection)
        del self._reviewed[connection]
        household = self._households[place.household]
        mask = household.leave(connection, place.level)
        self._stand(household)
        return mask

    def _stand(self, household: _Household[_C]) -> None:
        """It waits where its first connection does. Where it waits there already it keeps its turn."""
        if not household.taken:
            self._go(household)
            del self._households[household.name]
            return
        level = OWN * household.level + _lowest(household.taken)
        if level != household.stands:
            self._go(household)
            household.stands = level
            self._levels[level][household.name] = household
            self._taken |= 1 << level

    def _go(self, household: _Household[_C]) -> None:
        level, household.stands = household.stands, LEVELS
        if level < LEVELS:
            line = self._levels[level]
            del line[household.name]
            if not line:
                self._taken &= ~(1 << level)


def _lowest(bits: int) -> int:
    """The place of the lowest bit that is set."""
    return (bits & -bits).bit_length() - 1
