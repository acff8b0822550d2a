"""gRPC over HTTP/2, server side, as a pure codec: messages in, calls handed over; replies in, frames out.

A service is two tables, from the path of a method to who handles it. A unary handler gets the call and its
one message, and answers whenever it can, once, with `reply` or `finish`. A handler of a stream gets the call
when it opens and gives back a `Receiver` for what comes. All calls are plain functions on the loop: nothing
blocks, nothing is awaited, and no call has a task of its own.
"""

from __future__ import annotations

from functools import lru_cache
from struct import Struct
from typing import TYPE_CHECKING, Final, Protocol

from netstore.codes import (
    DEADLINE_EXCEEDED,
    INTERNAL,
    INVALID_ARGUMENT,
    OK,
    RESOURCE_EXHAUSTED,
    UNAVAILABLE,
    UNIMPLEMENTED,
)
from netstore.errors import MustStop, Reason
from netstore.expiry import Expiries
from netstore.guard import guarded, tell
from netstore.net import exchange, http2
from netstore.net.hpackcache import literal, status_field
from netstore.net.http2 import FORGIVEN, HANDLED, HELD_OVER, Stream
from netstore.net.intake import SMALL

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from netstore.expiry import Expiry
    from netstore.net.http2 import Head, Http2Connection
    from netstore.seams import After, Alarm, Log

LOW_WATER: Final = exchange.LOW_WATER
"""Unsent bytes of a call at which `on_drained` is called."""

MESSAGE_LIMIT: Final = 2 * 1024 * 1024
"""Bytes of a message from a client: what etcd takes with its default of 1.5 MiB for a request."""

TEXT_LIMIT: Final = 4096
"""Bytes of a `grpc-message`, as sent; what is longer is cut."""


class Call(Protocol):
    """One call being answered, as a service sees it.

    Answer a unary call once: `reply`, or `finish` with a status that is not `OK`. Answer a stream with any
    number of `send` and one `finish`. When the call is over (answered, cancelled, its connection gone) all
    do nothing, so that whoever answers late need not ask.

    One large message can be given piece by piece as the socket drains, so that it never exists whole:
    `begin_reply` with its length, then `push` while there is `room` and `on_room` while there is none, then
    `end_reply`. `on_cancelled` says when nobody waits for the rest any more; `finish` with another status
    gives the message up half-way.
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
    def principal(self) -> str:
        """Who asks: the common name of a certificate, or an address; empty where neither is known."""

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

    @property
    def room(self) -> int:
        """Bytes that would leave, or only wait for the network, if they were pushed now: what the peer's
        windows allow. 0 while those are closed, and while enough waits on the connection, on whatever call.
        """

    def takes_whole(self, size: int) -> bool:
        """An answer of so many bytes may be given with `reply`, though all of it may have to wait."""

    def metadata(self, name: bytes) -> bytes | None:
        """The first value of a metadata key, given in lower case; None when there is none. O(fields)."""

    def reply(self, message: bytes) -> None:
        """Answer a unary call: status `OK` and this message, in one write."""

    def begin_reply(self, size: int) -> None:
        """Begin the one message of a unary call, which will be `size` bytes long (at most 2^32-1)."""

    def push(self, data: bytes | memoryview) -> None:
        """Send the next piece of the message that was begun. Never refused: look at `room`. The bytes are
        not copied before they are framed, so they must not change.

        ValueError when the pieces are longer than the message was said to be.
        """

    def end_reply(self) -> None:
        """The message is complete: end the call with `OK`. ValueError when pieces are missing."""

    @property
    def crowded(self) -> bool:
        """The client's windows hold back this call, and much of the connection or, once the memory for all
        is spent, anything of note: what nobody must have now should wait for `on_room`.
        """

    def send(self, message: bytes, shared: bytes = b"") -> None:
        """Send one message of a stream, in two pieces where many calls send the same `shared` bytes, which
        are not copied. It is never refused: look at `backlog` before sending more.
        """

    def finish(self, status: int = OK, text: str = "") -> None:
        """End the call with this status; a text goes along as `grpc-message`."""

    def on_drained(self, call: Callable[[], None]) -> None:
        """Call once when `backlog` has fallen to `LOW_WATER` or less; at once where it already has, so that
        whoever stops at a backlog must stop at a larger one.
        """

    def on_room(self, call: Callable[[], None]) -> None:
        """Call once when there is `room`; at once where there is already. A call waits for this or for
        `on_drained`, not for both.
        """

    def on_cancelled(self, call: Callable[[], None]) -> None:
        """Call once if the call ends before it is answered: the client cancelled it or hung up, its deadline
        passed, or the server stops. For a stream `Receiver.cancelled` says the same.
        """

    def guard(self, call: Callable[[], None]) -> None:
        """Do something for this call alone: what that raises is logged and ends the call, and where even that
        cannot be said its connection.
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
    Opener = Callable[[Http2Connection, int, Head], Stream]


class Services:
    """The methods that are served: full path to who handles it.

    `unary` methods take one message and give one. `stream` methods take any number, or give any number; a
    method with one request and a stream of answers hears one `received`, then `half_closed`.
    """

    __slots__ = ("stream", "unary")

    def __init__(self, unary: Mapping[bytes, Handler], stream: Mapping[bytes, StreamHandler]) -> None:
        self.unary = dict(unary)
        self.stream = dict(stream)


LONGEST_SECONDS: Final = 366 * 24 * 3600.0
"""A longer `grpc-timeout` means this: a hundred million hours are for ever to everybody."""

TIMEOUT_FIELD: Final = b"grpc-timeout"
"""The header field that differs from call to call."""

_TIMEOUTS_KNOWN: Final = 4096
_TIMEOUT_SIZE: Final = 9
_UNITS: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_PREFIX: Final = Struct(">BI")
_TYPE: Final = literal(b"content-type", b"application/grpc")
_OPENING: Final = status_field(200) + _TYPE
_ENDING: Final = literal(b"grpc-status", b"0") + literal(b"grpc-message", b"")
_HEAD_AND_DATA: Final = Struct(f">IBI{len(_OPENING)}sIBIBI")
_TRAILERS: Final = Struct(f">IBI{len(_ENDING)}s")
_OPENING_FRAME: Final = len(_OPENING) << 8 | 1
_ENDING_FRAME: Final = len(_ENDING) << 8 | 1
_END_HEADERS: Final = 0x4
_END_ALL: Final = 0x5
_STOPPED: Final = Reason.STOPPED.text
_EXPIRED: Final = "context deadline exceeded"
_UNREAD: Final = "answers wait to be read on this connection, and memory is short: read them first"
_FAILED: Final = "internal error; the log of the server has it"
_MESSAGES_AT_ONCE: Final = 32
_MESSAGE_COST: Final = 64
"""What a message of a stream that waits is charged, beside its bytes."""
_EXPIRED_AT_ONCE: Final = 64
"""Calls that are ended at once because their time is up: 1 ms. Who is not among them is in the next round."""
_TOLD_PATH: Final = 200
_TOLD_FAULT: Final = 1000


def parse_timeout(text: bytes) -> float | None:
    """Seconds of a `grpc-timeout`: up to eight digits and a unit. None when it is malformed."""
    # What is remembered comes from strangers: what is too long to be right never gets there.
    return _seconds(text) if 2 <= len(text) <= _TIMEOUT_SIZE else None


@lru_cache(_TIMEOUTS_KNOWN)
def _seconds(text: bytes) -> float | None:
    digits, unit = text[:-1], _UNITS.get(text[-1:])
    return min(int(digits) * unit, LONGEST_SECONDS) if unit is not None and digits.isdigit() else None


def encode_text(text: str) -> bytes:
    """A `grpc-message`: printable ASCII as it is, everything else as `%XX` of its UTF-8."""
    if text.isascii() and text.isprintable() and "%" not in text:
        return text.encode()[:TEXT_LIMIT]
    coded = b""
    for byte in text.encode("utf-8", "replace"):
        piece = b"%c" % byte if 0x20 <= byte < 0x7F and byte != 0x25 else b"%%%02X" % byte
        if len(coded) + len(piece) > TEXT_LIMIT:
            break
        coded += piece
    return coded


def _status(status: int, text: str) -> bytes:
    return literal(b"grpc-status", b"%d" % status) + literal(b"grpc-message", encode_text(text))


class Refusal:
    """The one answer to every call with a certain head: a status and a text, and an HTTP status for who
    speaks no gRPC.
    """

    __slots__ = ("block",)

    def __init__(self, status: int, text: str, http: int = 200, more: bytes = b"") -> None:
        self.block = status_field(http) + _TYPE + _status(status, text) + more


class _Unary:
    """Calls with this head are unary."""

    __slots__ = ("handler",)

    def __init__(self, handler: Handler) -> None:
        self.handler = handler


class _Streaming:
    """Calls with this head are streams."""

    __slots__ = ("handler",)

    def __init__(self, handler: StreamHandler) -> None:
        self.handler = handler


class _Plain:
    """Requests with this head are not gRPC."""

    __slots__ = ("open",)

    def __init__(self, opener: Opener) -> None:
        self.open = opener


Route = Refusal | _Unary | _Streaming | _Plain
"""What is made of every request with a certain head."""


class GrpcServer:
    """What all gRPC connections of a listener share. Implements `http2.Application`.

    `after` makes a call once so many seconds have passed; one alarm at a time serves all deadlines. `soon`
    makes one in the next round (`Reactor.call_soon`), for when many calls expire at once; else they wait
    for the next tick. `plain` opens the stream of a request that is not gRPC and not to a method served here;
    without it such a request is refused.
    """

    __slots__ = (
        "_after",
        "_alarm",
        "_armed",
        "_soon",
        "_timed",
        "clock",
        "log",
        "message_limit",
        "plain",
        "services",
    )

    def __init__(
        self,
        services: Services,
        clock: Callable[[], float],
        after: After,
        log: Log,
        *,
        message_limit: int = MESSAGE_LIMIT,
        plain: Opener | None = None,
        soon: Callable[[Callable[[], object]], None] | None = None,
    ) -> None:
        self.services = services
        self.clock = clock
        self.log = log
        self.message_limit = message_limit
        self.plain = plain
        self._after = after
        self._soon = soon
        self._timed: Expiries[GrpcCall] = Expiries()
        self._alarm: Alarm | None = None
        self._armed: float | None = None

    def route(self, head: Head) -> Route:
        """See `http2.Application`: the class of the stream and what handles it."""
        path, kind = head.path, head.field(b"content-type") or b""
        unary, stream = self.services.unary.get(path), self.services.stream.get(path)
        if not kind.startswith(b"application/grpc") or kind[16:17] not in (b"", b"+", b";"):
            if self.plain is None or unary is not None or stream is not None:
                name = kind.decode("utf-8", "replace")
                return Refusal(INVALID_ARGUMENT, f'invalid gRPC request content-type "{name}"', 415)
            return _Plain(self.plain)
        if head.method != b"POST":
            name = head.method.decode()
            return Refusal(
                INTERNAL, f'Received a HEADERS frame with :method "{name}" which should be POST', 405
            )
        encoding = head.field(b"grpc-encoding") or b"identity"
        if encoding != b"identity":
            name = encoding.decode("utf-8", "replace")
            return Refusal(
                UNIMPLEMENTED,
                f'grpc: Decompressor is not installed for grpc-encoding "{name}"',
                more=literal(b"grpc-accept-encoding", b"identity"),
            )
        if unary is not None:
            return _Unary(unary)
        if stream is not None:
            return _Streaming(stream)
        return Refusal(UNIMPLEMENTED, self._unknown(path.decode("utf-8", "replace")))

    def open(self, connection: Http2Connection, number: int, head: Head, timeout: bytes | None) -> Stream:
        """See `http2.Application`."""
        route: Route = head.route
        if timeout is None and type(route) is _Unary:  # the way of most
            return UnaryCall(self, connection, number, head, route.handler)
        if isinstance(route, Refusal):
            return RefusedCall(connection, number, head, route)
        if isinstance(route, _Plain):
            return route.open(connection, number, head)
        # Judged before there is a call, which would stand in line to be handled.
        seconds = None
        if timeout is not None:
            seconds = parse_timeout(timeout)
            if seconds is None:
                value = timeout.decode("utf-8", "replace")
                refusal = Refusal(INTERNAL, f'malformed grpc-timeout: "{value}"', 400)
                return RefusedCall(connection, number, head, refusal)
        call: GrpcCall
        if isinstance(route, _Unary):
            call = UnaryCall(self, connection, number, head, route.handler)
        else:
            call = StreamCall(self, connection, number, head, route.handler)
        if seconds is not None:
            call.deadline = self.clock() + seconds  # the connection's time is not that of the alarm
            call.expiry = self._timed.add(call.deadline, call)
            if self._armed is None or call.deadline < self._armed:
                self._arm(call.deadline)
        return call

    def settle(self, call: GrpcCall) -> None:
        """A call with a deadline is over."""
        if call.expiry is not None:
            self._timed.settle(call.expiry)

    def failed(self, what: Stream | Head, fault: Exception) -> None:
        """See `http2.Application`. What a service raised is said here too."""
        head = what.head if isinstance(what, GrpcCall) else what
        path = head.path.decode("utf-8", "replace") if isinstance(head, http2.Head) else ""
        self.log.warning("call_failed", method=path[:_TOLD_PATH], error=repr(fault)[:_TOLD_FAULT])

    def _unknown(self, path: str) -> str:
        service, slash, method = path.removeprefix("/").rpartition("/")
        if not slash:
            return f'malformed method name: "{path}"'
        begin = f"/{service}/".encode()
        known = any(
            p.startswith(begin) for table in (self.services.unary, self.services.stream) for p in table
        )
        return f"unknown method {method} for service {service}" if known else f"unknown service {service}"

    def _arm(self, when: float) -> None:
        """Have one alarm, at the earliest deadline."""
        if self._alarm is not None:
            self._alarm.cancel()
        self._armed = when
        self._alarm = self._after(max(0.0, when - self.clock()), self._expire)

    def _expire(self) -> None:
        """End calls whose time is up: so many, and soon the others."""
        now = self.clock()
        if self._armed is None or now < self._armed:
            return
        self._alarm = self._armed = None
        try:
            for call in self._timed.due(now, _EXPIRED_AT_ONCE):
                call.connection.attempt(call, call.expire)
        finally:
            first = self._timed.first()
            if first is not None and first <= now and self._soon is not None:
                self._armed = first
                self._soon(self._expire)
            elif first is not None:
                self._arm(first)


class GrpcCall(Stream):
    """What unary calls and streams have in common. Implements `Call`."""

    __slots__ = (
        "_begun",
        "_buffer",
        "_cancelled",
        "_drained",
        "_failure",
        "_need",
        "_owed",
        "deadline",
        "expiry",
        "head",
        "server",
    )

    alone = False
    """One message comes and no other."""

    def __init__(self, server: GrpcServer, connection: Http2Connection, number: int, head: Head) -> None:
        super().__init__(connection, number, head)
        self.server = server
        self.head = head
        self.deadline: float | None = None
        self.expiry: Expiry[GrpcCall] | None = None
        """Its place among the deadlines of all calls."""
        self._begun = False
        self._owed = 0
        self._buffer: bytearray | None = None
        self._need = 0
        self._failure: tuple[int, str] | None = None
        self._cancelled: Callable[[], None] | None = None
        self._drained: Callable[[], None] | None = None

    @property
    def path(self) -> bytes:
        """See `Call.path`."""
        return self.head.path

    @property
    def peer(self) -> str:
        """See `Call.peer`."""
        return self.connection.peer

    @property
    def principal(self) -> str:
        """See `Call.principal`."""
        return self.connection.output.principal

    @property
    def common_name(self) -> str | None:
        """See `Call.common_name`."""
        return self.connection.common_name

    def metadata(self, name: bytes) -> bytes | None:
        """See `Call.metadata`."""
        return self.head.field(name)

    def reply(self, message: bytes) -> None:
        """See `Call.reply`."""
        if not self.open:
            return
        size = len(message) + 5
        connection = self.connection
        if (
            size > connection.frame_limit
            or size > connection.initial_window + self.credit
            or size > connection.window
            or self.queued
            or self._begun
            or not connection.plain
        ):
            if connection.takes_answers:
                self.send(message)
                self.finish()
            else:
                self.finish(RESOURCE_EXHAUSTED, _UNREAD)
            return
        connection.window -= size
        connection.moved += size
        number = self.number
        connection.output.write(
            _HEAD_AND_DATA.pack(
                _OPENING_FRAME, _END_HEADERS, number, _OPENING, size << 8, 0, number, 0, size - 5
            )
            + message
            + _TRAILERS.pack(_ENDING_FRAME, _END_ALL, number, _ENDING)
        )
        connection.strikes = FORGIVEN
        self._cancelled = None
        if self.deadline is not None:
            self.server.settle(self)
        connection.close(self)

    def begin_reply(self, size: int) -> None:
        """See `Call.begin_reply`."""
        if not self.open:
            return
        if self._begun:
            raise ValueError("this call has been answered in part already")
        if not 0 <= size < 1 << 32:
            raise ValueError(f"a message of {size} bytes has no length in gRPC: at most 2^32-1")
        self._begun = True
        self._owed = size
        self.put_head(_OPENING)
        self.put_data(_PREFIX.pack(0, size), b"")

    def push(self, data: bytes | memoryview) -> None:
        """See `Call.push`."""
        if not self.open:
            return
        size = len(data)
        if size > self._owed:
            raise ValueError(f"{size} bytes more of a message that lacks {self._owed}")
        self._owed -= size
        self.put_data(b"", data)

    def end_reply(self) -> None:
        """See `Call.end_reply`."""
        if not self.open:
            return
        if self._owed:
            raise ValueError(f"a message ends that lacks {self._owed} bytes")
        self.finish()

    @property
    def crowded(self) -> bool:
        """See `Call.crowded`."""
        connection = self.connection
        return connection.queued > LOW_WATER and self.window <= self.queued and connection.is_crowded

    def send(self, message: bytes, shared: bytes = b"") -> None:
        """See `Call.send`."""
        if not self.open:
            return
        if not self._begun:
            self._begun = True
            self.put_head(_OPENING)
        if shared:
            self.put_data(_PREFIX.pack(0, len(message) + len(shared)) + message, shared)
        else:
            self.put_data(_PREFIX.pack(0, len(message)), message)

    def finish(self, status: int = OK, text: str = "") -> None:
        """See `Call.finish`."""
        if not self.open:
            return
        self._cancelled = self._drained = None
        self._unhold()
        if self.deadline is not None:
            self.server.settle(self)
        block = _ENDING if status == OK and not text else _status(status, text)
        self.put_last(block if self._begun else _OPENING + block)

    def on_drained(self, call: Callable[[], None]) -> None:
        """See `Call.on_drained`."""
        if not self.open:
            return
        if self.backlog <= LOW_WATER:
            self.guard(call)
            return
        self._drained = call
        self.connection.thirst(self)

    def takes_whole(self, size: int) -> bool:
        """See `Call.takes_whole`."""
        return self.connection.takes_whole(size)

    def on_room(self, call: Callable[[], None]) -> None:
        """See `Call.on_room`."""
        if not self.open:
            return
        if self.room > 0:
            self.guard(call)
            return
        self._drained = call
        self.connection.want_room(self)

    def on_cancelled(self, call: Callable[[], None]) -> None:
        """See `Call.on_cancelled`."""
        if self.open:
            self._cancelled = call

    def end(self, status: int, text: str) -> None:
        """End a call that its service has not finished, and tell the service, whatever happens."""
        if not self.open:
            return
        cancelled = self._cancelled
        try:
            self.finish(status, text)
        finally:
            if cancelled is not None:
                self.guard(cancelled)

    def expire(self) -> None:
        """Its time is up."""
        self.end(DEADLINE_EXCEEDED, _EXPIRED)

    def drained(self) -> None:
        """See `http2.Stream.drained`."""
        call, self._drained = self._drained, None
        if call is not None:
            self.guard(call)

    def lost(self) -> None:
        """See `http2.Stream.lost`."""
        self._drained = None
        self._unhold()
        if self.deadline is not None:
            self.server.settle(self)
        self.connection.ready.append(self)

    def guard(self, call: Callable[[], None]) -> None:
        """See `Call.guard`: the edge of a call."""
        guarded(self._failed, call)

    def _failed(self, fault: Exception) -> None:
        """The service raised: whoever waits for the end of this call is told that it came, on both sides."""
        try:
            self.end(INTERNAL, _FAILED)
        except MustStop:
            raise
        except Exception:  # noqa: BLE001 - nobody is to wait for an end that cannot be said
            output = self.connection.output
            output.soon(output.cut)  # not under whoever works for the connection now
        finally:
            self.server.failed(self, fault)

    def _messages(self, data: bytes, start: int, stop: int) -> list[bytes]:
        """The messages that `data[start:stop]` completes; what is left is kept. Sets `_failure` where nothing
        more can be understood.
        """
        messages: list[bytes] = []
        if self._failure is not None:
            return messages  # what still comes is no message
        buffer = self._buffer
        if buffer is not None:
            buffer += memoryview(data)[start:stop]
            self.weigh(len(buffer))
            if len(buffer) < self._need:
                self._check_held()
                return messages
            data, start, stop = bytes(buffer), 0, len(buffer)
            self._buffer = None
            if not self.alone:
                self.complete()
                self.weigh(0)
        need = 5
        while stop - start >= 5:
            compressed, size = _PREFIX.unpack_from(data, start)
            if compressed:
                self._failure = (
                    INTERNAL,
                    (
                        "grpc: compressed flag set with identity or empty encoding"
                        if compressed == 1
                        else f"grpc: received unexpected payload format {compressed}"
                    ),
                )
                return messages
            limit = self.server.message_limit
            if size > limit:
                self._failure = (
                    RESOURCE_EXHAUSTED,
                    f"grpc: received message larger than max ({size} vs. {limit})",
                )
                return messages
            need = size + 5
            if stop - start < need:
                break
            messages.append(data[start + 5 : start + need])
            self.connection.spent += 1
            start += need
            need = 5
            if self.alone and start < stop:
                self._failure = INTERNAL, "more than one message in a unary call"
                return messages
        if start < stop:
            self._buffer = bytearray(data[start:stop])
            self._need = need
            if need > SMALL and not self.want(need, stop - start):
                self._buffer = None
                self._failure = RESOURCE_EXHAUSTED, Reason.TOO_MANY.text
                return messages
            self.weigh(stop - start)
            self._check_held()
        return messages

    def given_up(self, status: int, reason: bytes) -> None:  # noqa: ARG002 - a call has its own status
        """See `intake.Asker`."""
        self._unhold()
        self.unclaim()
        self._failure = RESOURCE_EXHAUSTED, reason.decode()
        self.connection.ready.append(self)
        self.connection.output.again()

    def _check_held(self) -> None:
        if self.connection.holds_too_much:
            held = self.connection.held
            self._unhold()
            self.unclaim()
            self._failure = RESOURCE_EXHAUSTED, f"{held} bytes of unfinished messages on one connection"

    def _unhold(self) -> None:
        """What has come and was not handed over is dropped."""
        self._buffer = None
        if self._weighed:
            self.weigh(0)


class UnaryCall(GrpcCall):
    """One message, one answer. Handed over when the client has sent everything.

    Its end may come long after its message, or never: until then the message counts as one that has not come
    whole, in what the connection holds and for its claim, which has to come at a pace while others wait.
    """

    __slots__ = ("_handler", "_message")

    alone = True

    def __init__(
        self, server: GrpcServer, connection: Http2Connection, number: int, head: Head, handler: Handler
    ) -> None:
        super().__init__(server, connection, number, head)
        self._handler: Handler | None = handler
        self._message: bytes | None = None

    def take(self, data: bytes, start: int, stop: int, ended: int) -> None:
        """See `http2.Stream.take`."""
        if ended and self._buffer is None and self._message is None and stop - start >= 5:
            compressed, size = _PREFIX.unpack_from(data, start)
            if (
                size == stop - start - 5
                and not compressed
                and size <= self.server.message_limit
                and self._failure is None
            ):
                self._message = data[start + 5 : stop]
                self.connection.ready.append(self)
                return
        if self._failure is not None:
            return  # it is in line to be told so
        message = self._message
        if message is None:
            for message in self._messages(data, start, stop):
                self._message = message
        elif start < stop:
            self._failure = INTERNAL, "more than one message in a unary call"
        if self._failure is None:
            if ended and (message is None or self._buffer is not None):
                self._failure = INTERNAL, "a unary call ended without a whole message"
            elif ended:
                if self.claim is not None:
                    self.complete()
                self.connection.held -= self._weighed
                self._weighed = 0
            elif message is not None and self.claim is None:
                # No call for it: many clients say in a frame of its own that a small request ends.
                held = len(message) + 5
                self.connection.held += held - self._weighed
                self._weighed = held
                if self.connection.held > HELD_OVER:
                    self._check_held()
        if self._failure is not None:
            self._unhold()
            self.unclaim()
            self.connection.ready.append(self)
        elif ended:
            self.connection.ready.append(self)

    def _unhold(self) -> None:
        self._message = None
        super()._unhold()

    @property
    def size(self) -> int:
        """See `http2.Stream.size`."""
        return 0 if self._message is None else len(self._message)

    def hand_over(self) -> None:
        """See `http2.Stream.hand_over`."""
        if not self.open:
            cancelled, self._cancelled = self._cancelled, None
            if cancelled is not None:
                self.guard(cancelled)
            return
        handler, self._handler = self._handler, None
        if self._failure is not None:
            self.finish(*self._failure)
        elif handler is not None:
            message, self._message = self._message or b"", None
            try:
                handler(self, message)
            except MustStop:
                raise
            except Exception as fault:  # noqa: BLE001 - told
                tell(self._failed, fault)


class StreamCall(GrpcCall):
    """Messages both ways until one side has enough. Handed over as it opens, and as messages come."""

    __slots__ = ("_ended", "_handler", "_inbox", "_inbox_size", "_listed", "_lost", "_receiver")

    patient = False

    def __init__(
        self, server: GrpcServer, connection: Http2Connection, number: int, head: Head, handler: StreamHandler
    ) -> None:
        super().__init__(server, connection, number, head)
        self._handler: StreamHandler | None = handler
        self._receiver: Receiver | None = None
        self._inbox: list[bytes] = []
        self._inbox_size = 0
        """Bytes of them, kept while they are more than a few."""
        self._ended = False
        self._listed = True
        self._lost = False
        connection.ready.append(self)

    @property
    def awaited(self) -> bool:  # type: ignore[override]  # a constant for what is no stream of messages
        """See `http2.Stream.awaited`: a client may open a stream long before its first message."""
        return self._buffer is not None

    def complete(self) -> None:
        """See `http2.Stream.complete`. A stream may last for ever, and the next message has its own claim."""
        self.unclaim()

    def take(self, data: bytes, start: int, stop: int, ended: int) -> None:
        """See `http2.Stream.take`."""
        messages = self._messages(data, start, stop)
        if messages:
            self._inbox += messages
            self._inbox_size += sum(map(len, messages)) + _MESSAGE_COST * len(messages)
            if self._inbox_size > SMALL:
                self.keep(self._inbox_size)
        if ended:
            self._ended = True
        elif self._buffer is not None:
            if messages or self.since is None:
                self.connection.began(self)
        elif messages and self.since is not None:
            self.connection.completed(self)
        if not self._listed:
            self._listed = True
            self.connection.ready.append(self)

    def hand_over(self) -> None:
        """See `http2.Stream.hand_over`."""
        self._listed = False
        if self.open:
            self.guard(self._serve)
        else:
            self._tell_end()

    def end(self, status: int, text: str) -> None:
        """See `GrpcCall.end`."""
        if not self.open:
            return
        receiver = self._receiver
        try:
            super().end(status, text)
        finally:
            if receiver is not None:
                self.guard(receiver.cancelled)

    def drain(self) -> None:
        """See `http2.Stream.drain`: the client is told to go on elsewhere."""
        self.end(UNAVAILABLE, _STOPPED)

    def finish(self, status: int = OK, text: str = "") -> None:
        """See `Call.finish`."""
        if self.open:
            self._receiver = None
            super().finish(status, text)

    def free(self) -> None:
        """See `http2.Stream.free`."""
        self._inbox.clear()
        self._inbox_size = 0
        super().free()

    def lost(self) -> None:
        """See `http2.Stream.lost`."""
        self._lost = True
        super().lost()

    def _tell_end(self) -> None:
        """The call was lost: each who waits for its end is told, whatever the other makes of it."""
        receiver, self._receiver = self._receiver, None
        cancelled, self._cancelled = self._cancelled, None
        if receiver is not None:
            self.guard(receiver.cancelled)
        if cancelled is not None:
            self.guard(cancelled)

    def _serve(self) -> None:
        handler, self._handler = self._handler, None
        if handler is not None:
            receiver = handler(self)
            if self._lost:
                # Its connection ended while the handler ran: this receiver has not heard of it.
                self.guard(receiver.cancelled)
            elif not self.ended:
                self._receiver = receiver  # which hears of it soon where the connection ended
        inbox, self._inbox = self._inbox[:_MESSAGES_AT_ONCE], self._inbox[_MESSAGES_AT_ONCE:]
        self.connection.spent += HANDLED * len(inbox)
        if self._inbox:
            self._inbox_size -= sum(map(len, inbox)) + _MESSAGE_COST * len(inbox)
        else:
            self._inbox_size = 0
        if self.kept:
            self.keep(self._inbox_size)
        for message in inbox:
            if self.open and self._receiver is not None:
                self._receiver.received(message)
        if self._inbox and self.open:
            self._listed = True
            self.connection.ready.append(self)
            return
        if self._failure is not None:
            self.end(*self._failure)
        elif self._ended and self.open and self._receiver is not None:
            self._ended = False
            self._receiver.half_closed()


class RefusedCall(Stream):
    """A call that is answered before anybody sees it."""

    __slots__ = ("_refusal",)

    def __init__(self, connection: Http2Connection, number: int, head: Head, refusal: Refusal) -> None:
        super().__init__(connection, number, head)
        self._refusal = refusal
        connection.ready.append(self)

    def take(self, data: bytes, start: int, stop: int, ended: int) -> None:
        """See `http2.Stream.take`: whatever it is."""

    def hand_over(self) -> None:
        """See `http2.Stream.hand_over`."""
        if self.open:
            self.put_last(self._refusal.block)

    def lost(self) -> None:
        """See `http2.Stream.lost`."""
