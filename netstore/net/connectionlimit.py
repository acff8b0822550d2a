"""The limit of open connections, and which one is closed when one more is to be accepted.

Connections are few compared with what the machine can hold, so every one is accepted below the limit. At
the limit the one is closed that is worth least to its client, of the client that costs the others most:

1. the connection that has been open longest without sending anything;
2. else, if one principal has more than its share: the new connection if it is one of its own, or else its
   least recently used idle one. Idle means that nothing is open on it; a connection that carries watches, or
   waits for an answer, is closed only if no idle one was found.

If neither applies, no connection is closed, and new ones wait in the kernel's queue. A single principal
with any number of connections is never refused below the limit.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import islice
from typing import Final, Generic, Protocol, TypeVar

from netstore.admission import household

SHARE: Final = 0.5
"""Part of all connections that one principal may keep when there is no room for others."""

_EXAMINED: Final = 64
"""Connections of one principal that are examined to find an idle one; the next search begins with others."""


class Connected(Protocol):
    """The part of `connection.Connection` that is used here. Compared by identity."""

    principal: str

    last_read: float
    """When something was last received."""

    @property
    def idle(self) -> bool:
        """No request, watch or answer is open on it."""


_C = TypeVar("_C", bound=Connected)


def _last_read(connection: Connected) -> float:
    return connection.last_read


class ConnectionLimit(Generic[_C]):
    """The open connections. Every method is O(1)."""

    def __init__(self, most: int) -> None:
        self.most = most
        """The limit."""
        # Ordered sets. First is the one that has been open longest without sending anything; of a principal's
        # connections, the one examined longest ago, or never.
        self._of: dict[str, OrderedDict[_C, None]] = {}
        self._silent: OrderedDict[_C, None] = OrderedDict()
        self._count = 0
        self._largest: str | None = None
        """The principal that exceeded its share last; there cannot be two at once."""

    def __len__(self) -> int:
        return self._count

    @property
    def share(self) -> int:
        """How many connections one principal may keep when there is no room for others."""
        return int(SHARE * self.most)

    @property
    def full(self) -> bool:
        """The limit is reached."""
        return self._count >= self.most

    @property
    def can_evict(self) -> bool:
        """For one more, a connection would be closed or the new one refused."""
        return bool(self._silent) or self._is_large(self._largest)

    @property
    def oldest_silent(self) -> _C | None:
        """The connection that has been open longest without sending anything."""
        return next(iter(self._silent), None)

    def add(self, connection: _C) -> None:
        """A connection was accepted; it has sent nothing yet."""
        self._count += 1
        self._silent[connection] = None
        self._insert(connection)

    def heard(self, connection: _C) -> None:
        """It has sent something."""
        self._silent.pop(connection, None)

    def renamed(self, connection: _C, principal: str) -> None:
        """It belongs to another principal than its address said."""
        self._delete(connection)
        connection.principal = principal
        self._insert(connection)

    def remove(self, connection: _C) -> None:
        """It is closed."""
        self._count -= 1
        self._silent.pop(connection, None)
        self._delete(connection)

    def victim(self, coming: str) -> _C | None:
        """The connection to close so that one more of the principal `coming` can stay; None if there is
        none, and the new one is to be refused.
        """
        if self._silent:
            return self.oldest_silent
        if self._largest is None or household(coming) == self._largest or not self._is_large(self._largest):
            return None
        connections = self._of[self._largest]
        examined = list(islice(connections, _EXAMINED))
        for each in examined:
            connections.move_to_end(each)
        idle = [each for each in examined if each.idle]
        return min(idle or examined, key=_last_read)

    def _is_large(self, principal: str | None) -> bool:
        return principal is not None and len(self._of.get(principal, ())) > self.share

    def _insert(self, connection: _C) -> None:
        principal = household(connection.principal)
        self._of.setdefault(principal, OrderedDict())[connection] = None
        if self._is_large(principal):
            self._largest = principal

    def _delete(self, connection: _C) -> None:
        principal = household(connection.principal)
        connections = self._of[principal]
        del connections[connection]
        if not connections:
            del self._of[principal]
