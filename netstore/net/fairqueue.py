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
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

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
        """A bit for each level in whose line somebody stands."""

    def add(self, connection: _C, level: int, mask: int) -> None:
        """At the end of the line of its level."""
        line = self.lines.get(level)
        if line is None:
            line = self.lines[level] = OrderedDict()
        self.taken |= 1 << level
        line[connection] = mask

    def take(self) -> tuple[_C, int]:
        """The first one of the first line."""
        bit = self.taken & -self.taken
        line = self.lines[bit.bit_length() - 1]
        first = line.popitem(last=False)
        if not line:
            self.taken ^= bit
        return first

    def leave(self, connection: _C, level: int) -> int:
        """This one goes; what it waited for."""
        line = self.lines[level]
        mask = line.pop(connection)
        if not line:
            self.taken ^= 1 << level
        return mask


class FairQueue(Generic[_C]):
    """Connections that wait, each with what it waits for: bits that add up. All but `review` is O(1)."""

    def __init__(self) -> None:
        self._levels: list[OrderedDict[str, _Household[_C]]] = [OrderedDict() for _ in range(LEVELS)]
        """Households that wait, each at the level of its first connection."""
        self._taken = 0
        """A bit for each level at which some household waits."""
        self._households: dict[str, _Household[_C]] = {}
        self.places: OrderedDict[_C, tuple[int, _Household[_C], int]] = OrderedDict()
        """Who waits, in the order in which they came; to be read only. Of each its level within its
        household, that, and how far above its load it stands. Plain tuples: one is made for each turn.
        """
        self._reviewed: OrderedDict[_C, None] = OrderedDict()
        """The same, in the order in which their levels were looked at."""

    def __len__(self) -> int:
        return len(self.places)

    @property
    def first(self) -> int:
        """The level of who comes next; `LEVELS` when nobody waits."""
        taken = self._taken
        return (taken & -taken).bit_length() - 1 if taken else LEVELS

    def add(self, connection: _C, mask: int, now: float, above: int = 0) -> int:
        """It waits for a turn, at the end of its household's line of the level of its load at `now`, or so
        many levels above; one that waits already keeps its place. Gives the level.
        """
        place = self.places.get(connection)
        if place is not None:
            level, household, _ = place
            household.lines[level][connection] |= mask
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
        if level != known.stands:
            self._stand(known)
        return level

    def take(self) -> tuple[_C, int]:
        """Whose turn it is, and what it waited for. IndexError when nobody waits."""
        level = self.first
        line = self._levels[level]
        household = next(iter(line.values()))
        first = household.take()
        connection = first[0]
        del self.places[connection], self._reviewed[connection]
        if len(line) > 1:
            self._go(household)  # to the end of its line
        self._stand(household)
        return first

    def longest(self) -> tuple[_C, int]:
        """The same for who has waited longest, whatever its level: so whoever waits behind others is served
        in the end. StopIteration when nobody waits.
        """
        connection = next(iter(self.places))
        return connection, self._leave(connection)

    def remove(self, connection: _C) -> None:
        """It waits no more, if it did."""
        if connection in self.places:
            self._leave(connection)

    def review(self, now: float, most: int) -> None:
        """Look again at the levels of so many and of their households, those first that were not looked at
        for longest: whose own load has fallen waits at the end of a line further ahead. O(`most`).
        """
        for _ in range(min(most, len(self._reviewed))):
            connection = next(iter(self._reviewed))
            self._reviewed.move_to_end(connection)
            stands, household, above = self.places[connection]
            level = connection.load.level(now) + above
            if level < stands:
                household.add(connection, level, household.leave(connection, stands))
                self.places[connection] = level, household, above
            if connection.load.household.name == household.name:
                household.level = connection.load.household.level(now)
            self._stand(household)

    def _leave(self, connection: _C) -> int:
        level, household, _ = self.places.pop(connection)
        del self._reviewed[connection]
        mask = household.leave(connection, level)
        self._stand(household)
        return mask

    def _stand(self, household: _Household[_C]) -> None:
        """It waits where its first connection does. Where it waits there already it keeps its turn."""
        taken = household.taken
        if not taken:
            self._go(household)
            del self._households[household.name]
            return
        level = OWN * household.level + (taken & -taken).bit_length() - 1
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
