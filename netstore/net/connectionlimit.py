"""Who is connected, and who goes when there is no room for one more.

Connections are few compared with what the machine can hold, so nobody is turned away while there is room. At
the limit whoever costs the others most and itself least goes first:

1. the connection that has been open longest without a word;
2. else, where one principal has more than its share, one of its connections: the one that comes, if it is
   one of its own, or the idle one of which nothing was heard for longest. Idle is what has nothing open: a
   connection that carries watches, or waits for an answer, goes only where no idle one was found.

Where neither applies, all are wanted, and the next wait in the kernel's queue. A single principal with any
number of connections is never refused before the limit is reached.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import islice
from typing import Final, Generic, Protocol, TypeVar

from netstore.admission import household

SHARE: Final = 0.5
"""Part of all connections that one principal may keep when there is no room for others."""

_LOOKED_AT: Final = 64
"""Connections of one principal that are looked at to find an idle one; the next look begins with others."""


class Connected(Protocol):
    """The part of `connection.Connection` that is used here. Compared by identity."""

    principal: str

    last_read: float
    """When something came of it last."""

    @property
    def idle(self) -> bool:
        """Nothing of it is open: no request, no watch, no answer that is being sent."""


_C = TypeVar("_C", bound=Connected)


def _last_read(connection: Connected) -> float:
    return connection.last_read


class ConnectionLimit(Generic[_C]):
    """The open connections. Every call is O(1)."""

    def __init__(self, most: int) -> None:
        self.most = most
        """How many there may be."""
        # Ordered sets. What has been open longest without a word comes first; of a principal's connections,
        # what was looked at longest ago, or never.
        self._of: dict[str, OrderedDict[_C, None]] = {}
        self._silent: OrderedDict[_C, None] = OrderedDict()
        self._count = 0
        self._largest: str | None = None
        """The principal that went beyond its share last; there cannot be two at once."""

    def __len__(self) -> int:
        return self._count

    @property
    def share(self) -> int:
        """How many of them one principal may keep when there is no room for others."""
        return int(SHARE * self.most)

    @property
    def full(self) -> bool:
        """There is no room for one more."""
        return self._count >= self.most

    @property
    def can_evict(self) -> bool:
        """Somebody would go for one more, or the one that comes would be refused."""
        return bool(self._silent) or self._is_large(self._largest)

    @property
    def oldest_silent(self) -> _C | None:
        """What has been open longest without a word."""
        return next(iter(self._silent), None)

    def add(self, connection: _C) -> None:
        """A connection was accepted; it has said nothing yet."""
        self._count += 1
        self._silent[connection] = None
        self._put_in(connection)

    def heard(self, connection: _C) -> None:
        """It said something."""
        self._silent.pop(connection, None)

    def renamed(self, connection: _C, principal: str) -> None:
        """It turned out to be somebody else's than its address said."""
        self._take_out(connection)
        connection.principal = principal
        self._put_in(connection)

    def remove(self, connection: _C) -> None:
        """It is closed."""
        self._count -= 1
        self._silent.pop(connection, None)
        self._take_out(connection)

    def victim(self, coming: str) -> _C | None:
        """Who is to go so that one more of the principal `coming` can stay; None where nobody is, and the one
        that comes cannot stay.
        """
        if self._silent:
            return self.oldest_silent
        if self._largest is None or household(coming) == self._largest or not self._is_large(self._largest):
            return None
        connections = self._of[self._largest]
        looked_at = list(islice(connections, _LOOKED_AT))
        for each in looked_at:
            connections.move_to_end(each)
        idle = [each for each in looked_at if each.idle]
        return min(idle or looked_at, key=_last_read)

    def _is_large(self, principal: str | None) -> bool:
        return principal is not None and len(self._of.get(principal, ())) > self.share

    def _put_in(self, connection: _C) -> None:
        principal = household(connection.principal)
        self._of.setdefault(principal, OrderedDict())[connection] = None
        if self._is_large(principal):
            self._largest = principal

    def _take_out(self, connection: _C) -> None:
        principal = household(connection.principal)
        connections = self._of[principal]
        del connections[connection]
        if not connections:
            del self._of[principal]
