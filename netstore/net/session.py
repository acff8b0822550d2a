"""The interfaces between a connection and the codec that runs on it: what the connection calls (`Session`),
and what the codec may use of the connection (`Output`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from netstore.net.bodyadmission import Owner

if TYPE_CHECKING:
    from collections.abc import Callable

    from netstore.net.bodyadmission import BodyAdmission


class Session(Protocol):
    """A codec on one connection, as the connection and the reactor drive it. Implemented by `Http1Connection`
    and `Http2Connection`.
    """

    @property
    def at_limit(self) -> bool:
        """At a limit: nothing more should be read for now."""

    @property
    def reading(self) -> bool:
        """What comes from the peer is still of use; false after a refusal or the last request."""

    @property
    def incomplete(self) -> bool:
        """A message is incomplete: its rest has not arrived."""

    @property
    def timed_out(self) -> bool:
        """The peer exceeded a time limit for completing a message; updated by `sweep`."""

    @property
    def answers_need_reading(self) -> bool:
        """Answers cannot be sent unless the connection is read (flow control), even while it is held back."""

    @property
    def idle(self) -> bool:
        """No request, stream or watch is open."""

    @property
    def has_pending(self) -> bool:
        """There may be work for `resume` once what was written is sent."""

    def receive(self, data: bytes) -> bool:
        """Take the bytes of one read. True if the connection should not be read for now: the codec is
        `at_limit`, or not `reading`. (So the usual read asks for neither of them.)
        """

    def resume(self) -> None:
        """Continue with what was read and not handled yet, as far as the limits allow now."""

    def eof(self) -> None:
        """The peer closed its sending side."""

    def gone(self) -> None:
        """The connection is closed."""

    def refuse(self, status: int, text: bytes) -> None:
        """Send an error response if the protocol has one, then close."""

    def sweep(self, now: float) -> None:
        """Called once a second with the time: check time limits."""

    def drain(self) -> None:
        """Graceful stop: accept nothing new, and close when what is outstanding is answered."""


class Output(Owner, Protocol):
    """What a codec uses of its connection. Implemented by `connection.Connection`."""

    def write(self, data: bytes | memoryview, *more: bytes | memoryview) -> None:
        """Queue pieces of bytes to be sent, in this order."""

    @property
    def unsent(self) -> int:
        """Bytes that are queued and that the kernel has not accepted yet."""

    @property
    def held_back(self) -> bool:
        """No new request is to be handled: the connection holds too large a part of the shared memory."""

    @property
    def paused(self) -> bool:
        """The connection is not being read."""

    @property
    def admission(self) -> BodyAdmission:
        """Where memory for a request body is reserved."""

    def request_turn(self) -> None:
        """Give the connection another turn: the codec can continue, or the connection may be read again. May
        be called at any time.
        """

    def finish(self, drop: int | None = None) -> None:
        """Send what is queued, then close. Up to `drop` bytes that still arrive are read and dropped before
        the connection is cut; by default `connection.DRAIN_LIMIT`.
        """

    @property
    def short_turn(self) -> bool:
        """The turn is to be a short one: connections that use little of the loop wait."""

    def add_load(self, seconds: float) -> None:
        """Add to the connection's load: work that was done for it outside its turns."""

    def call_next_turn(self, call: Callable[[], None]) -> None:
        """Call this in the connection's next turn, instead of `Session.resume`."""


class Closed:
    """The `Session` of a connection that is closed. It breaks the reference cycle of connection and codec, so
    that both are freed at once and not by a garbage collection, which would block the loop.
    """

    at_limit = reading = incomplete = timed_out = answers_need_reading = has_pending = False
    idle = True

    def receive(self, data: bytes) -> bool:  # noqa: ARG002 - the interface of `Session`
        """Does nothing."""
        return True

    def resume(self) -> None:
        """Does nothing."""

    def eof(self) -> None:
        """Does nothing."""

    def gone(self) -> None:
        """Does nothing."""

    def refuse(self, status: int, text: bytes) -> None:
        """Does nothing."""

    def sweep(self, now: float) -> None:
        """Does nothing."""

    def drain(self) -> None:
        """Does nothing."""
