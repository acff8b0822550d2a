"""What all HTTP/2 connections of a listener share."""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Protocol

from netstore.errors import MustStop
from netstore.net.hpackcache import kept_size
from netstore.net.http2.bounds import DEPARTED_AT_ONCE, MAX_STREAMS, ROUND, SHORT_SLICE, SLICE
from netstore.net.http2.closing import free_departed
from netstore.net.http2.frames import INTERNAL_ERROR, StreamFault
from netstore.net.http2.head import Head

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from netstore.net.hpackcache import Field
    from netstore.net.http2.connection import Http2Connection
    from netstore.net.http2.stream import Stream

HEADS_KNOWN: Final = 4_096
HEADS_KNOWN_SIZE: Final = 4 * 1024 * 1024
HEAD_KNOWN_SIZE: Final = 4_096


class Application(Protocol):
    """Who makes streams of requests."""

    def route(self, head: Head) -> Any:
        """What to make of requests with this head; kept in `head.route` as long as the head is known."""

    def open(self, connection: Http2Connection, number: int, head: Head, timeout: bytes | None) -> Stream:
        """A request began: the stream that takes it. `timeout` is the field that varies."""

    def failed(self, what: Stream | Head, fault: Exception) -> None:
        """A stream, or the opening of one, raised. It is over already and whoever waits for it was told; this
        is to say so in the log.
        """


class Http2Server:
    """What all HTTP/2 connections of a listener share: the application, the heads it knows, a clock in
    seconds, and bounds. `varying` names the header field that differs from request to request. `soon` makes a
    call in the next round (`Reactor.call_soon`); without it, all streams of a connection that is gone are
    told at once.
    """

    __slots__ = (
        "_departing",
        "_heads",
        "_heads_size",
        "_leaving",
        "_round_at",
        "_soon",
        "application",
        "clock",
        "max_streams",
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
        self._heads: dict[tuple[Field, ...], Head] = {}
        self._heads_size = 0
        self._soon = soon
        self._departing: deque[Stream] = deque()
        self._leaving = False
        self._round_at = clock()
        self.spent = 0
        """Units of work that this round has taken."""

    def turn(self, now: float) -> int:
        """A turn begins: how many units of work it has. What it took is to be added to `spent`.

        Rounds are told apart by the clock, which the reactor reads once in each.
        """
        if now != self._round_at:
            self._round_at = now
            self.spent = 0
        return SLICE if self.spent < ROUND else SHORT_SLICE

    def depart(self, streams: Iterable[Stream]) -> None:
        """The connection of these is gone, and they are open no more: let go of each, so many in a round, for
        16,000 watches may go at once.
        """
        self._departing.extend(streams)
        if not self._leaving:
            self._leaving = True
            self._let_go()

    def _let_go(self) -> None:
        departing, soon = self._departing, self._soon
        left = DEPARTED_AT_ONCE
        while departing and (left > 0 or soon is None):
            left -= 1
            stream = departing.popleft()
            free_departed(stream.connection, stream)
        if departing and soon is not None:
            soon(self._let_go)
        else:
            self._leaving = False

    def head(self, fields: tuple[Field, ...]) -> Head:
        """The head these fields make. StreamFault when they are malformed, which is not remembered, or when
        the application cannot route them.

        The key is everything a head and its route are made of, so what is remembered cannot mean something
        else. Bounded by count and by bytes, with what a field costs beside its own.
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
        """See `Application.failed`. Raises nothing: a fault that cannot be logged must not keep the streams
        that follow from being told.
        """
        with suppress(Exception):
            self.application.failed(what, fault)
