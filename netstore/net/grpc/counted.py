"""What is counted of the calls of a method, for metrics (`api.metrics`).

A unary call costs two or three additions and one or two comparisons. Its duration is taken by the clock of
the loop's rounds: 0 if it is answered in the round in which it came, without waiting for the disk. Calls that
are not longer than the first bound are not observed one by one; they are what is left of `answered` and
`failed`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from netstore.codes import OK
from netstore.histogram import Histogram

if TYPE_CHECKING:
    from netstore.net.grpc.call import GrpcCall
    from netstore.net.grpc.server import GrpcServer

HANDLING_BOUNDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of durations in seconds: those that most collectors of gRPC metrics have."""

SHORTEST_BOUND: Final = HANDLING_BOUNDS[0]

SLOW_SECONDS: Final = 0.1
"""A unary call that takes longer is told to `GrpcServer.slow`."""


class Rounds(Protocol):
    """The loop's rounds (`net.reactor.Reactor`)."""

    @property
    def now(self) -> float:
        """Monotonic seconds at the beginning of the round, or after it last waited for the disk."""


class Still:
    """`Rounds` of a server that measures nothing: no call is slow."""

    now = 0.0


class Counted:
    """The calls of one method, since the server started."""

    __slots__ = ("_server", "answered", "failed", "handling", "received", "sent", "short", "started")

    def __init__(self, server: GrpcServer) -> None:
        self._server = server
        self.started = 0
        """Streams that were opened. A unary call is counted when it ends."""
        self.answered = 0
        """Calls that ended with `OK`."""
        self.failed: dict[int, int] = {}
        """Status -> calls that ended with it."""
        self.received = 0
        """Messages of clients in streams. A unary call has one."""
        self.sent = 0
        """Messages of the server, without those of unary calls that are answered in one piece."""
        self.handling = Histogram(HANDLING_BOUNDS)
        """Seconds of the unary calls that were longer than the first bound."""
        self.short = 0.0
        """Seconds of the others together."""

    @property
    def begun(self) -> int:
        """Calls that were begun, as far as they are known."""
        return self.started or self.answered + sum(self.failed.values())

    def took(self, call: GrpcCall, seconds: float, status: int = OK) -> None:
        """A unary call ended that was longer than the first bound."""
        self.handling.observe(seconds)
        if seconds > SLOW_SECONDS:
            slow = self._server.slow
            if slow is not None:
                slow(call, seconds, status)

    def ended(self, call: GrpcCall, status: int) -> None:
        """A call ended, in another way than by `reply` in one piece."""
        if status:
            self.failed[status] = self.failed.get(status, 0) + 1
        else:
            self.answered += 1
        seconds = self._server.rounds.now - call.opened_at
        if not call.is_unary:
            return
        if seconds > SHORTEST_BOUND:
            self.took(call, seconds, status)
        else:
            self.short += seconds
