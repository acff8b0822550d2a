"""What a service sees of gRPC: the tables of its methods, a call to answer, and the receiver of a stream.

A service is two tables from the path of a method to its handler. A unary handler gets the call and its one
message, and answers later or at once, exactly once, with `reply` or `finish`. A stream handler gets the call
when it opens and returns a `Receiver` for the client's messages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from netstore.codes import OK

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class Call(Protocol):
    """One call being answered, as a service sees it.

    Answer a unary call once: `reply`, or `finish` with a status that is not `OK`. Answer a stream with any
    number of `send` and one `finish`. Once the call is over (answered, cancelled, its connection closed)
    these methods do nothing, so a late answer needs no check.

    One large message can be sent in pieces as the socket drains, so that it is never in memory as a whole:
    `begin_reply` with its length, then `push` while there is `window_left` and `on_room` while there is none,
    then `end_reply`. `on_cancelled` reports that the client no longer waits; `finish` with another status
    abandons the message.
    """

    @property
    def path(self) -> bytes:
        """The full method name, for example `/etcdserverpb.KV/Range`."""

    @property
    def deadline(self) -> float | None:
        """The deadline in seconds of the monotonic clock; None without one. The server ends the call then."""

    @property
    def peer(self) -> str:
        """The address of the client, as `127.0.0.1:40312`."""

    @property
    def principal(self) -> str:
        """The client's identity: the common name of its certificate, or its address; empty if neither is
        known.
        """

    @property
    def common_name(self) -> str | None:
        """The common name in the client's certificate, if it presented one."""

    @property
    def open(self) -> bool:
        """The call is not over: answers are still sent."""

    @property
    def backlog(self) -> int:
        """Bytes sent on this call that the kernel has not taken, plus the connection's unsent bytes. A
        watcher whose backlog grows reads too slowly.
        """

    @property
    def window_left(self) -> int:
        """Bytes that can be pushed now without exceeding the peer's windows. 0 while those are closed, and
        while the connection has enough unsent data of any call.
        """

    def may_send_whole(self, size: int) -> bool:
        """An answer of this size may be given with `reply`, although all of it may be queued."""

    def metadata(self, name: bytes) -> bytes | None:
        """The first value of a metadata key (lower case); None if absent. O(fields)."""

    def reply(self, message: bytes) -> None:
        """Answer a unary call, or end a stream, with this message and status `OK`, in one write if nothing
        was sent before.
        """

    def begin_reply(self, size: int) -> None:
        """Begin the response message of a unary call, which will be `size` bytes long (at most 2^32-1)."""

    def push(self, *pieces: bytes | memoryview) -> None:
        """Send the next pieces of the message that was begun. Never refused: check `window_left`. The bytes
        are not copied before they are framed, so they must not change.

        ValueError when the pieces exceed the length given to `begin_reply`.
        """

    def end_reply(self) -> None:
        """The message is complete: end the call with `OK`. ValueError when pieces are missing."""

    @property
    def congested(self) -> bool:
        """The client's windows block this call, and the connection has much queued data (little is enough
        once the memory budget is spent): data that can be sent later should wait for `on_room`.
        """

    def send(self, message: bytes, shared: bytes = b"") -> None:
        """Send one message of a stream: `message`, then `shared`, bytes that many calls send and that are not
        copied. Never refused: check `backlog` before sending more.
        """

    def finish(self, status: int = OK, text: str = "") -> None:
        """End the call with this status, and the text as `grpc-message`."""

    def on_drained(self, call: Callable[[], None]) -> None:
        """Call once when `backlog` is at most `exchange.LOW_WATER`; immediately if it already is, so a sender
        must stop only at a larger backlog.
        """

    def on_room(self, call: Callable[[], None]) -> None:
        """Call once when there is `window_left`; immediately if there already is. A call waits for this or
        for `on_drained`, not for both.
        """

    def on_cancelled(self, call: Callable[[], None]) -> None:
        """Call once if the call ends before it is answered: the client cancelled it or disconnected, its
        deadline passed, or the server stops. Streams get `Receiver.cancelled` for the same reasons.
        """

    def guard(self, call: Callable[[], None]) -> None:
        """Run a callback for this call: an exception is logged and ends this call with INTERNAL; if even that
        fails, the connection is cut.
        """


class Receiver(Protocol):
    """Receives the messages of a client on a streaming call."""

    def received(self, message: bytes) -> None:
        """One message."""

    def half_closed(self) -> None:
        """The client sends no more messages (END_STREAM); it still waits for the response."""

    def cancelled(self) -> None:
        """The call ended before it was finished; no further callback follows. Not called after `finish`."""


if TYPE_CHECKING:
    Handler = Callable[[Call, bytes], None]
    StreamHandler = Callable[[Call], Receiver]


class Services:
    """The methods that are served: full path to handler.

    `unary` methods have one request and one response message. `stream` methods have a stream in at least one
    direction; one with a single request and a response stream gets one `received`, then `half_closed`.
    """

    __slots__ = ("stream", "unary")

    def __init__(self, unary: Mapping[bytes, Handler], stream: Mapping[bytes, StreamHandler]) -> None:
        self.unary = dict(unary)
        self.stream = dict(stream)
