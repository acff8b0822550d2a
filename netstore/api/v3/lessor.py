"""What the Lease service needs of the member's count of lease times."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from netstore.errors import Fault


class Lessor(Protocol):
    """Counts the time of leases (`node.lessor.Lessor`)."""

    def keep_alive(self, id_: int, done: Callable[[int | Fault], None], principal: str = "") -> None:
        """Renew a lease for `principal`; `done` gets its TTL in seconds, 0 if there is no such lease."""

    def time_to_live(self, id_: int, done: Callable[[int | Fault], None], principal: str = "") -> None:
        """Find the whole seconds that a lease has left, for `principal`; -1 if there is no such lease."""
