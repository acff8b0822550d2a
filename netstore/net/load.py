"""How much time of the loop each connection and household used lately, so that those that used little are
served first.

A load is a sum of seconds of work that decays by half every `HALF_LIFE`: a steady use of a part `p` of the
loop gives about `p * HALF_LIFE / ln 2`. Loads are compared by levels, one for each factor of two, because
those within a factor of two of each other should be served in order of arrival.

Each connection has a load, and so has each household: all connections that count as one client
(`admission.household`). A new connection begins with the load of its household and a little more, so that
closing a connection and opening another makes nobody light.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from typing import Final

HALF_LIFE: Final = 0.1
"""Seconds: a few rounds, so that one expensive request delays the next ones of its client only briefly."""

LEAST: Final = 0.001
"""Seconds of load up to which the level is 0: 0.7 % of the loop. Which of those who used less used more than
another is chance: it depends on when each asked last.
"""

NEWCOMER: Final = 0.01
"""Seconds of load that a new connection begins with, beside those of its household: fifty that are opened
at once come after those that were there before, for a few half-lives.
"""

MOST: Final = 8
"""The highest level of a load: from 0.13 s on, which is 90 % of the loop."""

HEAVY_LEVELS: Final = 2
"""Difference in levels from which on one used far more than the other."""

LAST_IN_HOUSEHOLD: Final = MOST + 1
"""Levels added for a connection that was not done at the end of its last turn, or whose turns are long: it
comes after all others of its household. (Fifty that share the loop used less each than one that asks now
and then.)
"""

LONG_TURN: Final = 0.0004
"""Seconds from which on a turn is long: waiting behind a few long turns takes longer than behind many
short ones, however little each connection used in all. A small request takes 0.1 ms.
"""

_LONGEST_TURN: Final = 0.001
_LAST_TURN: Final = 0.25
"""Weight of the last turn in the average; it counts `_LONGEST_TURN` at most, so that a single turn during
which the processor was used by others makes no connection one of long turns.
"""

LIGHT: Final = 3
"""The highest level of a light connection: it uses about a twentieth of the loop at most."""

OWN: Final = MOST + LAST_IN_HOUSEHOLD + 1
"""Levels of the connections within one household, by their own load."""

LEVELS: Final = (MOST + 1) * OWN
"""Levels of a connection among all: by the load of its household, and within that by its own."""

STEP: Final = HALF_LIFE / 10
"""Seconds within which a load is not decayed: 7 %. Loads are added to and compared for each request."""

_BOUNDS: Final = tuple(LEAST * 2**level for level in range(MOST))
"""Lower bound of each level but 0."""

_FORGOTTEN_SECONDS: Final = (MOST + 1) * HALF_LIFE
"""Seconds after which every load is at level 0."""


class Load:
    """An exponentially decaying sum of seconds of work. All times are monotonic seconds."""

    __slots__ = ("at", "stale_at", "sum")

    def __init__(self, now: float, seconds: float = 0.0) -> None:
        self.at = now
        """When it was decayed last."""
        self.stale_at = now + STEP
        """When it is to be decayed again, before anything is added to it or compared with it."""
        self.sum = seconds
        """The sum then, and what was added since."""

    def seconds(self, now: float) -> float:
        """The load at this time."""
        if now > self.at:
            self.sum *= 0.5 ** ((now - self.at) / HALF_LIFE)
            self.at = now
            self.stale_at = now + STEP
        return self.sum

    def add(self, now: float, seconds: float) -> None:
        """So much work was done."""
        if now > self.stale_at:
            self.seconds(now)
        self.sum += seconds

    def level(self, now: float) -> int:
        """Between 0 and `MOST`."""
        if now > self.stale_at:
            self.seconds(now)
        return bisect_right(_BOUNDS, self.sum)


class Household(Load):
    """The load of all connections of a household."""

    __slots__ = ("connections", "name")

    def __init__(self, name: str, now: float) -> None:
        super().__init__(now)
        self.name = name
        self.connections = 0


class ConnectionLoad(Load):
    """The load of a connection; what is added to it is added to its household's too."""

    __slots__ = ("_turn", "household")

    def __init__(self, household: Household, now: float) -> None:
        super().__init__(now, household.seconds(now) + NEWCOMER)
        self.household = household
        self._turn = 0.0
        """Average seconds of the last turns."""

    @property
    def has_long_turns(self) -> bool:
        """Its turns are long (`LONG_TURN`)."""
        return self._turn > LONG_TURN

    def add_turn(self, now: float, seconds: float) -> None:
        """Add a turn of so many seconds. Has `add` inline, because there is one for each request."""
        turn = self._turn
        counted = seconds if seconds < _LONGEST_TURN else _LONGEST_TURN  # noqa: FURB136 - a call costs more
        self._turn = turn + (counted - turn) * _LAST_TURN
        if now > self.stale_at:
            self.seconds(now)
        self.sum += seconds
        household = self.household
        if now > household.stale_at:
            household.seconds(now)
        household.sum += seconds

    def add(self, now: float, seconds: float) -> None:
        """Add work."""
        if now > self.stale_at:
            self.seconds(now)
        self.sum += seconds
        household = self.household
        if now > household.stale_at:
            household.seconds(now)
        household.sum += seconds

    def is_light(self, now: float) -> bool:
        """This connection used little of the loop lately."""
        return self.level(now) <= LIGHT


class Loads:
    """The loads of all households that have connections, or had some until a second ago. Every method is
    O(1).
    """

    def __init__(self) -> None:
        self._households: dict[str, Household] = {}
        self._left: deque[tuple[float, Household]] = deque()

    def __len__(self) -> int:
        return len(self._households)

    def join(self, name: str, now: float) -> ConnectionLoad:
        """The load of a new connection of this household."""
        # A connection that moves to another household leaves two entries: remove more than are added.
        for _ in range(3):
            if not self._left or now - self._left[0][0] < _FORGOTTEN_SECONDS:
                break
            household = self._left.popleft()[1]
            is_idle = not household.connections and not household.level(now)
            if is_idle and self._households.get(household.name) is household:
                del self._households[household.name]
        return ConnectionLoad(self._entered(name, now), now)

    def move(self, load: ConnectionLoad, name: str, now: float) -> None:
        """A connection belongs to another household than was thought."""
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
