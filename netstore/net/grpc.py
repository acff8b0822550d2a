"""gRPC over HTTP/2, server side, as a pure codec: messages in, calls handed over; replies in, frames out.

A service is two tables, from the path of a method to who handles it. A unary handler gets the call and its
one message, and answers whenever it can, once, with `reply` or `finish`. A handler of a stream gets the call
when it opens and gives back a `Receiver` for what comes. All calls are plain functions on the loop: nothing
blocks, nothing is awaited, and no call has a task of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

OK: Final = 0
CANCELLED: Final = 1
UNKNOWN: Final = 2
INVALID_ARGUMENT: Final = 3
DEADLINE_EXCEEDED: Final = 4
NOT_FOUND: Final = 5
ALREADY_EXISTS: Final = 6
PERMISSION_DENIED: Final = 7
RESOURCE_EXHAUSTED: Final = 8
FAILED_PRECONDITION: Final = 9
ABORTED: Final = 10
OUT_OF_RANGE: Final = 11
UNIMPLEMENTED: Final = 12
INTERNAL: Final = 13
UNAVAILABLE: Final = 14
DATA_LOSS: Final = 15
UNAUTHENTICATED: Final = 16

LOW_WATER: Final = 64 * 1024
"""Unsent bytes of a call below which `on_drained` is called."""


class Call(Protocol):
    """One call being answered, as a service sees it.

    Answer a unary call once: `reply`, or `finish` with a status that is not `OK`. Answer a stream with any
    number of `send` and one `finish`. When the call is over (answered, cancelled, its connection gone) all
    three do nothing, so that whoever answers late need not ask.
    """

    @property
    def path(self) -> bytes:
        """The method asked for, as `/etcdserverpb.KV/Range`."""

    @property
    def deadline(self) -> float | None:
        """When the client gives up, in seconds of the monotonic clock; None where it waits for ever. The call
        is cancelled by itself then.
        """

    @property
    def peer(self) -> str:
        """The address of the client, as `127.0.0.1:40312`."""

    @property
    def common_name(self) -> str | None:
        """The common name in the client's certificate, where one was asked for and shown."""

    @property
    def open(self) -> bool:
        """The call is not over: what is sent has a reader."""

    @property
    def backlog(self) -> int:
        """Bytes sent on this call that the kernel has not taken, with those of the connection before them. A
        watcher whose backlog grows reads too slowly.
        """

    def metadata(self, name: bytes) -> bytes | None:
        """The first value of a metadata key, given in lower case; None when there is none. O(fields)."""

    def reply(self, message: bytes) -> None:
        """Answer a unary call: status `OK` and this message, in one write."""

    def send(self, message: bytes) -> None:
        """Send one message of a stream. It is never refused: look at `backlog` before sending more."""

    def finish(self, status: int = OK, text: str = "") -> None:
        """End the call with this status; a text goes along as `grpc-message`."""

    def on_drained(self, call: Callable[[], None]) -> None:
        """Call once when `backlog` has fallen to `LOW_WATER` or less; at once where it already has."""

    def on_cancelled(self, call: Callable[[], None]) -> None:
        """Call once if the call ends before it is answered: the client cancelled it or hung up, its deadline
        passed, or the server stops. For a stream `Receiver.cancelled` says the same.
        """


class Receiver(Protocol):
    """Who takes what a client sends on a stream."""

    def received(self, message: bytes) -> None:
        """One message."""

    def half_closed(self) -> None:
        """The client sends no more messages; it still waits for the end of the answer."""

    def cancelled(self) -> None:
        """The call ended before it was finished; nothing more comes. Not called after `finish`."""


if TYPE_CHECKING:
    Handler = Callable[[Call, bytes], None]
    StreamHandler = Callable[[Call], Receiver]


class Services:
    """The methods that are served: full path to who handles it.

    `unary` methods take one message and give one. `stream` methods take any number, or give any number; a
    method with one request and a stream of answers hears one `received`, then `half_closed`.
    """

    __slots__ = ("stream", "unary")

    def __init__(self, unary: Mapping[bytes, Handler], stream: Mapping[bytes, StreamHandler]) -> None:
        self.unary = dict(unary)
        self.stream = dict(stream)
