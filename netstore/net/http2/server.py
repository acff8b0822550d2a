"""State shared by all HTTP/2 connections of a listener."""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Protocol

from netstore.errors import MustStop
from netstore.net.http2.bounds import (
    ENDED_AT_ONCE,
    MAX_STREAMS,
    MAX_STREAMS_OVER,
    MAX_UNFINISHED,
)
from netstore.net.http2.closing import free_orphan
from netstore.net.http2.frames import INTERNAL_ERROR, StreamFault
from netstore.net.http2.head import Head
from netstore.net.http2.hpackcache import kept_size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from netstore.net.http2.connection import Http2Connection
    from netstore.net.http2.hpackcache import Field
    from netstore.net.http2.stream import Stream

HEADS_KNOWN: Final = 4_096
HEADS_KNOWN_SIZE: Final = 4 * 1024 * 1024
HEAD_KNOWN_SIZE: Final = 4_096


class Application(Protocol):
    """What makes streams of requests: gRPC, or a test."""

    def route(self, head: Head) -> Any:
        """How to handle requests with this head; cached in `Head.route` with the head."""

    def open(self, connection: Http2Connection, number: int, head: Head, timeout: bytes | None) -> Stream:
        """The stream for a new request. `timeout` is the value of the varying field."""

    def failed(self, what: Stream | Head, fault: Exception) -> None:
        """A stream, or the opening of one, raised. It has ended already; this is to log the exception."""


class Http2Server:
    """State shared by all HTTP/2 connections of a listener: the application, cached heads, a clock in
    seconds, and limits. `varying` names the header field that differs from request to request. `soon`
    schedules a callback in the next round (`Reactor.call_soon`); without it, all streams of a closed
    connection are freed at once.
    """

    __slots__ = (
        "_freeing",
        "_heads",
        "_heads_size",
        "_soon",
        "_to_free",
        "application",
        "clock",
        "crowd",
        "max_streams",
        "received",
        "round_at",
        "spent",
        "varying",
    )

    def __init__(
        self,
        application: Application,
        clock: Callable[[], float],
        *,
        varying: bytes = b"",
        max_streams: int = MAX_STREAMS,
        soon: Callable[[Callable[[], object]], None] | None = None,
    ) -> None:
        self.application = application
        self.clock = clock
        self.varying = varying
        self.max_streams = max_streams
        self.crowd = min(max_streams, MAX_STREAMS_OVER, MAX_UNFINISHED)
        """Open streams of a connection up to which no limit on them is reached."""
        self.received = 0
        """Bytes that were read on all connections so far."""
        self._heads: dict[tuple[Field, ...], Head] = {}
        self._heads_size = 0
        self._soon = soon
        self._to_free: deque[Stream] = deque()
        self._freeing = False
        self.round_at = clock()
        """See `begin_round`."""
        self.spent = 0
        """Units of work in this round. Each connection adds what its turn used."""

    def begin_round(self, now: float) -> None:
        """A round has begun: a connection finds another time of the clock than `round_at`, as the reactor
        reads it once in each.
        """
        self.round_at = now
        self.spent = 0

    def free_streams(self, streams: Iterable[Stream]) -> None:
        """Free the streams of a closed connection, `ENDED_AT_ONCE` in a round: there may be 16,000
        watches.
        """
        self._to_free.extend(streams)
        if not self._freeing:
            self._freeing = True
            self._free_some()

    def _free_some(self) -> None:
        to_free, soon = self._to_free, self._soon
        left = ENDED_AT_ONCE
        while to_free and (left > 0 or soon is None):
            left -= 1
            stream = to_free.popleft()
            free_orphan(stream.connection, stream)
        if to_free and soon is not None:
            soon(self._free_some)
        else:
            self._freeing = False

    def head(self, fields: tuple[Field, ...]) -> Head:
        """The head of these fields, from the cache if known. StreamFault when they are malformed (not cached)
        or when the application cannot route them.

        The key has everything that a head and its route depend on. Bounded by count and by bytes, including
        the overhead of each field.
        """
        head = self._heads.get(fields)
        if head is None:
            head = Head(fields)
            try:
                head.route = self.application.route(head)
            except MustStop:
                raise
            except Exception as fault:
                self.failed(head, fault)
                raise StreamFault(INTERNAL_ERROR, "the request could not be routed") from fault
            size = kept_size(fields)
            if size <= HEAD_KNOWN_SIZE:
                if len(self._heads) >= HEADS_KNOWN or self._heads_size + size > HEADS_KNOWN_SIZE:
                    self._heads.clear()
                    self._heads_size = 0
                self._heads[fields] = head
                self._heads_size += size
        return head

    def failed(self, what: Stream | Head, fault: Exception) -> None:
        """See `Application.failed`. Raises nothing: if logging fails, the streams that follow must still be
        told.
        """
        with suppress(Exception):
            self.application.failed(what, fault)
