"""How much of the loop somebody took lately, for serving first who took little.

A load is a sum of seconds of work that is halved every `HALF_LIFE`: who takes a part `p` of the loop for long
has about `p * HALF_LIFE / ln 2`. It is compared by levels, one for each factor of two, because whoever is
within a factor of two of another should be served in the order of arrival.

Each connection has a load, and so have all that count as one (`admission.household`). A new connection begins
with the load of these and a little more: to close one and open another makes nobody light.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from typing import Final

HALF_LIFE: Final = 0.1
"""Seconds. Some rounds long, so that one expensive request makes nobody wait for long."""

LEAST: Final = 0.00025
"""Seconds of load that are level 0: a few requests."""

NEWCOMER: Final = 0.01
"""Seconds of load that a new connection begins with, beside those of its household: fifty that come at once
stand behind who was there before, for a few half-lives.
"""

MOST: Final = 10
"""The highest level of a load: from 0.13 s on, which is 90 % of the loop."""

APART: Final = 2
"""Levels between two of whom one took far more."""

BEHIND: Final = MOST + 1
"""Levels that a connection stands higher that did not get done in its last turn, or whose turns are long:
behind all others of its household. Fifty who share the loop took less each than one who asks now and then.
"""

LONG_TURN: Final = 0.0004
"""Seconds that turns take which are long: whoever waits behind some of them waits for longer than behind many
others, however little each of them took in all. A small request takes 0.1 ms.
"""

_LONGEST_TURN: Final = 0.001
_LAST_TURN: Final = 0.25
"""What the last turn counts for, at this length at most: one in which the processor was another's makes none
long.
"""

LIGHT: Final = 5
"""The highest level of a connection that is light: it takes about a twentieth of the loop at most."""

OWN: Final = MOST + BEHIND + 1
"""Levels of the connections of one household, by what each took itself."""

LEVELS: Final = (MOST + 1) * OWN
"""Levels of a connection: by what its household took, and within that its own."""

_STEP: Final = HALF_LIFE / 10
"""Seconds within which nothing is halved: 7 %. Loads are added to and looked at for each request."""

_BOUNDS: Final = tuple(LEAST * 2**level for level in range(MOST))
"""From which load on each level but 0 is."""

_FORGOTTEN_SECONDS: Final = (MOST + 1) * HALF_LIFE
"""After which every load is level 0."""


class Load:
    """Seconds of work, of which older ones count less. All times are monotonic seconds."""

    __slots__ = ("at", "sum")

    def __init__(self, now: float, seconds: float = 0.0) -> None:
        self.at = now
        """When it was halved last."""
        self.sum = seconds
        """What it was then, and what was added since."""

    def seconds(self, now: float) -> float:
        """The load at this time."""
        if now > self.at:
            self.sum *= 0.5 ** ((now - self.at) / HALF_LIFE)
            self.at = now
        return self.sum

    def add(self, now: float, seconds: float) -> None:
        """So much work was done."""
        if now - self.at > _STEP:
            self.seconds(now)
        self.sum += seconds

    def level(self, now: float) -> int:
        """Between 0 and `MOST`."""
        if now - self.at > _STEP:
            self.seconds(now)
        return bisect_right(_BOUNDS, self.sum)


class Household(Load):
    """The load of all connections that count as one."""

    __slots__ = ("connections", "name")

    def __init__(self, name: str, now: float) -> None:
        super().__init__(now)
        self.name = name
        self.connections = 0


class ConnectionLoad(Load):
    """The load of a connection, which is its household's too."""

    __slots__ = ("_turn", "has_long_turns", "household")

    def __init__(self, household: Household, now: float) -> None:
        super().__init__(now, household.seconds(now) + NEWCOMER)
        self.household = household
        self._turn = 0.0
        """Seconds that the last turns took, on average."""
        self.has_long_turns = False
        """Its turns take long."""

    def add_turn(self, now: float, seconds: float) -> None:
        """A turn of it took so long."""
        self._turn += (min(seconds, _LONGEST_TURN) - self._turn) * _LAST_TURN
        self.has_long_turns = self._turn > LONG_TURN
        self.add(now, seconds)

    def add(self, now: float, seconds: float) -> None:
        """So much work was done for it."""
        if now - self.at > _STEP:
            self.seconds(now)
        self.sum += seconds
        household = self.household
        if now - household.at > _STEP:
            household.seconds(now)
        household.sum += seconds

    def is_light(self, now: float) -> bool:
        """Little was done for this connection lately."""
        return self.level(now) <= LIGHT


class Loads:
    """The loads of all households that have connections, or had until a second ago. Every call is O(1)."""

    def __init__(self) -> None:
        self._households: dict[str, Household] = {}
        self._left: deque[tuple[float, Household]] = deque()

    def __len__(self) -> int:
        return len(self._households)

    def join(self, name: str, now: float) -> ConnectionLoad:
        """The load of a new connection of this household."""
        # A connection that turns out to be another household's leaves two entries. More are taken than come.
        for _ in range(3):
            if not self._left or now - self._left[0][0] < _FORGOTTEN_SECONDS:
                break
            household = self._left.popleft()[1]
            is_idle = not household.connections and not household.level(now)
            if is_idle and self._households.get(household.name) is household:
                del self._households[household.name]
        return ConnectionLoad(self._entered(name, now), now)

    def move(self, load: ConnectionLoad, name: str, now: float) -> None:
        """A connection turned out to be of this household."""
        self.leave(load, now)
        load.household = self._entered(name, now)

    def leave(self, load: ConnectionLoad, now: float) -> None:
        """A connection is closed."""
        household = load.household
        household.connections -= 1
        if not household.connections:
            self._left.append((now, household))

    def _entered(self, name: str, now: float) -> Household:
        household = self._households.get(name)
        if household is None:
            household = self._households[name] = Household(name, now)
        household.connections += 1
        return household
