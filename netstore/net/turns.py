"""In which order connections are served that have to wait for their turn.

Round-robin by principal, and among the connections of one principal round-robin again: who opens a thousand
connections, or asks for a thousand things on one, waits for itself and not others for it.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, Protocol, TypeVar


class Waiting(Protocol):
    """The part of `connection.Connection` that is used here. Compared by identity."""

    principal: str


_C = TypeVar("_C", bound=Waiting)


class Turns(Generic[_C]):
    """Connections that wait, each with what it waits for: bits that add up. Every call is O(1)."""

    def __init__(self) -> None:
        self._lines: OrderedDict[str, OrderedDict[_C, int]] = OrderedDict()
        self._principals: dict[_C, str] = {}

    def __len__(self) -> int:
        return len(self._principals)

    def add(self, connection: _C, mask: int) -> None:
        """It waits for a turn, at the end of its principal's line; one that waits already keeps its place."""
        principal = self._principals.get(connection)
        if principal is None:
            principal = self._principals[connection] = connection.principal
        line = self._lines.get(principal)
        if line is None:
            line = self._lines[principal] = OrderedDict()
        line[connection] = line.get(connection, 0) | mask

    def take(self) -> tuple[_C, int]:
        """Whose turn it is, and what it waited for. KeyError when nobody waits."""
        principal, line = self._lines.popitem(last=False)
        connection, mask = line.popitem(last=False)
        del self._principals[connection]
        if line:
            self._lines[principal] = line
        return connection, mask

    def remove(self, connection: _C) -> None:
        """It waits no more, if it did."""
        principal = self._principals.pop(connection, None)
        if principal is not None:
            line = self._lines[principal]
            del line[connection]
            if not line:
                del self._lines[principal]
