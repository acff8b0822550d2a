"""The gRPC server: routes requests to methods, refuses unknown ones, and enforces the deadlines of calls."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Final

from netstore.codes import INTERNAL, INVALID_ARGUMENT, UNIMPLEMENTED
from netstore.expiry import Expiries
from netstore.net import http2
from netstore.net.grpc.call import GrpcCall
from netstore.net.grpc.counted import Counted, Still
from netstore.net.grpc.headers import CONTENT_TYPE, parse_timeout, status_block
from netstore.net.grpc.messages import MESSAGE_LIMIT
from netstore.net.grpc.streaming import StreamCall
from netstore.net.grpc.unary import UnaryCall
from netstore.net.http2 import Stream
from netstore.net.http2.hpackcache import literal, status_field

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from netstore.net.grpc.counted import Rounds
    from netstore.net.grpc.protocols import Handler, Services, StreamHandler
    from netstore.net.http2 import Head, Http2Connection
    from netstore.seams import After, Alarm, Log

    Opener = Callable[[Http2Connection, int, Head], Stream]

_VERSIONS_KNOWN: Final = 16
"""Versions of clients whose calls are counted apart; those of further ones are counted together."""

_VERSION: Final = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9}){1,2}")
"""What is counted as a version, such as 3.5: a client can write anything."""

_OTHER_VERSION: Final = "other"
_NO_VERSION: Final = "unknown"

_EXPIRED_AT_ONCE: Final = 64
"""Calls whose deadline has passed that are ended in one round: 1 ms. The others follow in the next rounds."""
_LOGGED_PATH: Final = 200
_LOGGED_ERROR: Final = 1000


class Refusal:
    """The route of requests that are refused: trailers with a status and a text, and an HTTP status for
    clients that do not speak gRPC.
    """

    __slots__ = ("block",)

    def __init__(self, status: int, text: str, http: int = 200, more: bytes = b"") -> None:
        self.block = status_field(http) + CONTENT_TYPE + status_block(status, text) + more


class _Unary(Counted):
    """The route of a unary method."""

    __slots__ = ("handler",)

    def __init__(self, handler: Handler, server: GrpcServer) -> None:
        super().__init__(server)
        self.handler = handler


class _Streaming(Counted):
    """The route of a streaming method."""

    __slots__ = ("handler",)

    def __init__(self, handler: StreamHandler, server: GrpcServer) -> None:
        super().__init__(server)
        self.handler = handler


class _Plain:
    """The route of requests that are not gRPC."""

    __slots__ = ("open",)

    def __init__(self, opener: Opener) -> None:
        self.open = opener


Route = Refusal | _Unary | _Streaming | _Plain
"""How requests with a given head are handled; kept in `Head.route`."""


class GrpcServer:
    """State shared by all gRPC connections of a listener. Implements `http2.Application`.

    `after` schedules a callback after a delay; one alarm at a time serves all deadlines. `soon` schedules one
    in the next round (`Reactor.call_soon`), used when many calls expire at once; without it they wait for the
    next tick. `plain` opens the stream of a request that is not gRPC and not to a method served here; without
    it such a request is refused. `rounds` has the time of the loop's round, by which calls are measured: the
    same clock as that of the connections.

    The calls of each method are counted, apart for each version that clients say they are of (`counted`).
    """

    __slots__ = (
        "_after",
        "_alarm",
        "_armed",
        "_routes",
        "_services",
        "_soon",
        "_timed",
        "_versions",
        "clock",
        "log",
        "message_limit",
        "plain",
        "rounds",
        "slow",
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
        rounds: Rounds | None = None,
    ) -> None:
        self._services = services
        self._routes: dict[tuple[bytes, str], _Unary | _Streaming] = {}
        self._versions: set[str] = set()
        self.rounds: Rounds = rounds or Still()
        self.slow: Callable[[GrpcCall, float, int], object] | None = None
        """Called with a unary call that took longer than `counted.SLOW_SECONDS`, its seconds and
        its status.
        """
        self.clock = clock
        self.log = log
        self.message_limit = message_limit
        self.plain = plain
        self._after = after
        self._soon = soon
        self._timed: Expiries[GrpcCall] = Expiries()
        self._alarm: Alarm | None = None
        self._armed: float | None = None

    @property
    def services(self) -> Services:
        """The methods. Replacing them forgets what was counted."""
        return self._services

    @services.setter
    def services(self, services: Services) -> None:
        self._services = services
        self._routes.clear()
        self._versions.clear()

    def counted(self) -> Iterator[tuple[bytes, str, bool, Counted]]:
        """What was counted: path, version of the clients, whether the method is unary, counts. One for each
        method that was called and each version. O(those).
        """
        for (path, version), route in self._routes.items():
            yield path, version, type(route) is _Unary, route

    def route(self, head: Head) -> Route:
        """See `http2.Application`: the kind of call and its handler."""
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
            return self._served(head, partial(_Unary, unary, self))
        if stream is not None:
            return self._served(head, partial(_Streaming, stream, self))
        return Refusal(UNIMPLEMENTED, self._unknown(path.decode("utf-8", "replace")))

    def _served(self, head: Head, make: Callable[[], _Unary | _Streaming]) -> Route:
        """The route of a method, which calls of the same version share."""
        version = (head.field(b"client-api-version") or b"").decode("ascii", "replace") or _NO_VERSION
        if version not in self._versions:
            is_one = version == _NO_VERSION or _VERSION.fullmatch(version)
            if is_one and len(self._versions) < _VERSIONS_KNOWN:
                self._versions.add(version)
            else:
                version = _OTHER_VERSION
        place = head.path, version
        route = self._routes.get(place)
        if route is None:
            route = self._routes[place] = make()
        return route

    def open(self, connection: Http2Connection, number: int, head: Head, timeout: bytes | None) -> Stream:
        """See `http2.Application`."""
        route: Route = head.route
        if timeout is None:  # the common case
            if type(route) is _Unary:
                return UnaryCall(
                    connection,
                    number,
                    head.content_length,
                    connection.now,
                    server=self,
                    head=head,
                    handler=route.handler,
                )
            if type(route) is _Streaming:
                route.started += 1
                return StreamCall(
                    connection,
                    number,
                    head.content_length,
                    connection.now,
                    server=self,
                    head=head,
                    handler=route.handler,
                )
        if isinstance(route, Refusal):
            return refused(connection, number, head, route)
        if isinstance(route, _Plain):
            return route.open(connection, number, head)
        # Checked before the call is made, because a streaming call is queued for handling at once.
        seconds = None
        if timeout is not None:
            seconds = parse_timeout(timeout)
            if seconds is None:
                value = timeout.decode("utf-8", "replace")
                refusal = Refusal(INTERNAL, f'malformed grpc-timeout: "{value}"', 400)
                return refused(connection, number, head, refusal)
        call: GrpcCall
        now = connection.now
        if isinstance(route, _Unary):
            call = UnaryCall(
                connection,
                number,
                head.content_length,
                now,
                server=self,
                head=head,
                handler=route.handler,
            )
        else:
            route.started += 1
            call = StreamCall(
                connection,
                number,
                head.content_length,
                now,
                server=self,
                head=head,
                handler=route.handler,
            )
        if seconds is not None:
            call.deadline = self.clock() + seconds  # the alarm runs by this clock, not by `connection.now`
            call.expiry = self._timed.add(call.deadline, call)
            if self._armed is None or call.deadline < self._armed:
                self._arm(call.deadline)
        return call

    def settle(self, call: GrpcCall) -> None:
        """A call with a deadline is over."""
        if call.expiry is not None:
            self._timed.settle(call.expiry)

    def failed(self, what: Stream | Head, fault: Exception) -> None:
        """See `http2.Application`. Exceptions of services are logged here too."""
        head = what.head if isinstance(what, GrpcCall) else what
        path = head.path.decode("utf-8", "replace") if isinstance(head, http2.Head) else ""
        self.log.warning("call_failed", method=path[:_LOGGED_PATH], error=repr(fault)[:_LOGGED_ERROR])

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
        """Set the one alarm, to the earliest deadline."""
        if self._alarm is not None:
            self._alarm.cancel()
        self._armed = when
        self._alarm = self._after(max(0.0, when - self.clock()), self._expire)

    def _expire(self) -> None:
        """End calls whose deadline has passed: `_EXPIRED_AT_ONCE` at most, the others in the next rounds."""
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


def refused(connection: Http2Connection, number: int, head: Head, refusal: Refusal) -> RefusedCall:
    """A call that is refused without reaching a service."""
    return RefusedCall(connection, number, head.content_length, connection.now, refusal=refusal)


class RefusedCall(Stream, kw_only=True, eq=False):
    """See `refused`."""

    refusal: Refusal

    def __post_init__(self) -> None:
        self.connection.ready.append(self)

    def take(self, data: bytes, start: int, stop: int, ended: int) -> None:
        """See `http2.Stream.take`: the body is ignored."""

    def hand_over(self) -> None:
        """See `http2.Stream.hand_over`."""
        if self.open:
            self.put_last(self.refusal.block)

    def lost(self) -> None:
        """See `http2.Stream.lost`."""
