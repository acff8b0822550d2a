"""HTTP/2, server side, as a pure codec: bytes in, streams opened and fed; answers in, bytes out (RFC 9113).

What is read is parsed first, frame by frame, and only then handed over; what the streams answer meanwhile
leaves in one send. So a fault of a handler is never taken for a fault of the client, and a request that was
reset in the same turn is never handed over.

Everything a peer makes us do is counted in units of work, of which a turn has `SLICE`: what was read and is
more waits for the next turn, after those of other connections. Nothing is walked over that the peer can make
long: streams keep what differs from the connection's window, and stand in a line only if they can send.

Invariants that live here: frames of a stream leave in the order they were given; no DATA goes beyond the
windows of the peer, and none of the peer beyond ours is kept; a fault of one stream ends that stream, a fault
of the connection ends it with a GOAWAY that says why; after that nothing more of it is read. Nothing grows
without a bound: see the constants, and `DESIGN.md` beside this file.
"""

from __future__ import annotations

import re
from collections import deque
from contextlib import suppress
from struct import Struct
from typing import TYPE_CHECKING, Any, Final, Protocol

from netstore.errors import MustStop
from netstore.net.hpackcache import BadBlock, HeaderBlocks, LargeList, kept_size

if TYPE_CHECKING:
    from collections.abc import Callable

    from netstore.net.hpackcache import Field
    from netstore.net.http1 import Output

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What a client sends first (RFC 9113, 3.4)."""

# Frame types (RFC 9113, 6).
DATA: Final = 0
HEADERS: Final = 1
PRIORITY: Final = 2
RST_STREAM: Final = 3
SETTINGS: Final = 4
PUSH_PROMISE: Final = 5
PING: Final = 6
GOAWAY: Final = 7
WINDOW_UPDATE: Final = 8
CONTINUATION: Final = 9

# Flags.
END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
WITH_PRIORITY: Final = 0x20

# Error codes (RFC 9113, 7).
NO_ERROR: Final = 0
PROTOCOL_ERROR: Final = 1
INTERNAL_ERROR: Final = 2
FLOW_CONTROL_ERROR: Final = 3
SETTINGS_TIMEOUT: Final = 4
STREAM_CLOSED: Final = 5
FRAME_SIZE_ERROR: Final = 6
REFUSED_STREAM: Final = 7
CANCEL: Final = 8
COMPRESSION_ERROR: Final = 9
ENHANCE_YOUR_CALM: Final = 11

# Settings (RFC 9113, 6.5.2).
SET_TABLE_SIZE: Final = 1
SET_ENABLE_PUSH: Final = 2
SET_MAX_STREAMS: Final = 3
SET_INITIAL_WINDOW: Final = 4
SET_MAX_FRAME: Final = 5
SET_LIST_SIZE: Final = 6

MAX_FRAME: Final = 16_384
"""Bytes of the payload of a frame we accept: the default, which every client keeps to."""

MAX_STREAMS: Final = 16_384
"""Open streams of one connection. Each watch cache and informer of Kubernetes holds hundreds."""

STREAM_WINDOW: Final = 1024 * 1024
"""Bytes a client may send on a stream ahead of us."""

CONNECTION_WINDOW: Final = 4 * 1024 * 1024
"""Bytes a client may send on all streams ahead of us."""

LIST_LIMIT: Final = 64 * 1024
"""Size of a header list as RFC 9113 (6.5.2) counts it, and of a header block as it is sent."""

CONTINUATIONS: Final = 16
"""Frames that one header block may be spread over."""

PACE: Final = 256 * 1024
"""Unsent bytes of a connection beyond which no further DATA is framed: what comes later on another stream
then waits behind at most this much.
"""

HOLD: Final = 1024 * 1024
"""Answered bytes of a connection that its peer's windows hold back, beyond which no new request of it is
handled; messages of streams are, which have a pace of their own. Reading goes on, because only what is read
opens the windows; but then ours are not opened again. One answer may be far larger: it is given in pieces.
"""

HOLD_OVER: Final = 64 * 1024
"""The same once the memory for all connections is spent."""

STALL_SECONDS: Final = 30.0
"""How long answers may be held back by the peer's windows while less than `STALL_RATE` gets through."""

STALL_RATE: Final = 1024
"""Bytes a second that a peer must let through."""

PREFACE_SECONDS: Final = 10.0
"""How long a peer may take for its preface and its first SETTINGS, from when its connection is accepted."""

BLOCK_SECONDS: Final = 10.0
"""How long a header block may take, from its HEADERS to its last CONTINUATION."""

FRAME_SECONDS: Final = 30.0
"""How long a frame may take, from its first byte to its last."""

REQUEST_SECONDS: Final = 60.0
"""How long a request may take to become complete, from its HEADERS; for a stream, its first message and each
one that has begun. 2 MiB in this time are 35 KB a second.
"""

LOOK_SECONDS: Final = 5.0
"""How often requests that took too long are looked for, on a connection that has any."""

STREAM_COST: Final = 512
"""Bytes that an open stream takes by itself, of which 400 were measured (`contrib/doc/adr/0004-http2.md`)."""

UNFINISHED: Final = 2_048
"""Requests of one connection that are begun and not complete, or of which no message has come: 1 MiB. Clients
send a request whole, or in few pieces.
"""

HELD_LIMIT: Final = 32 * 1024 * 1024
"""Bytes of one connection that belong to requests, or messages, of which the rest has not come."""

HELD_OVER: Final = 2 * 1024 * 1024
"""The same once the memory for all connections is spent: one message."""

IDLE_FRAMES: Final = 500
"""Frames that carry nothing (SETTINGS, PRIORITY, empty DATA, unknown types, resets of what is closed) a
client may send in one go; a hundred more for every second that passes.
"""

EARLY_RESETS: Final = 500
"""Streams reset within a second of being opened, or for a fault of the client, that a connection may have in
one go (CVE-2023-44487); a hundred more for every second that passes.
"""

_PER_SECOND: Final = 100
_PAUSES_PER_SECOND: Final = 1 / 60
_HEAD_FIELD_WORK: Final = 2
_REFUSED_WORK: Final = 8
_LOSS_WORK: Final = 10
_SETTINGS_PER_UNIT: Final = 4
_STREAMS_PER_UNIT: Final = 8
_EARLY_SECONDS: Final = 1.0
PING_SECONDS: Final = 5.0
"""Pings of a client on a connection with open streams must be this far apart, as etcd asks."""

IDLE_PING_SECONDS: Final = 2 * 3600.0
"""And this far on a connection without."""

PING_STRIKES: Final = 2
"""Pings sooner than that, between two answers of ours, which are forgiven."""

FORGIVEN: Final = -1
"""Strikes after an answer: who was just told something may well ask whether that is all."""

PROBE_SECONDS: Final = 2 * 3600.0
"""A connection on which nothing was heard for so long is asked whether it is still there."""

PROBE_ANSWER_SECONDS: Final = 20.0
"""And is cut when it does not say so in this time."""

LOW_WATER: Final = 64 * 1024
"""Unsent bytes of a stream at which it has drained."""

SLICE: Final = 2_500
"""Units of work that a connection may cause in one turn; the rest of what was read waits for the next. A unit
is about a microsecond of one core of 2020.
"""

WORK_RATE: Final = 500_000
"""Units a second that a connection may cause for long. A busy client needs 12 for each request, 16 where they
have a time limit that varies, so this is more of them than a core answers.
"""

WORK_BURST: Final = 500_000
"""Units that a connection may cause ahead of that rate."""

SHORT_SLICE: Final = 250
"""What a turn has once all connections have caused `ROUND` in a round: a few requests, or a frame that takes
more. So a round stays short however many ask for much, and who asks for little notices nothing.
"""

ROUND: Final = 5_000
"""Units of work of one round, at 5 ms, from which turns are short."""

DEPARTED_AT_ONCE: Final = 256
"""Streams of connections that are gone which are told so in one round; a watch takes 10 us to forget."""

_CHARGED_AT_ONCE: Final = SLICE // 4

PAUSES: Final = 10
"""How often a connection may be found beyond its rate, and not read until it is within it again, before it is
closed; one more for every minute that passes.
"""

HANDLED: Final = 10
"""Units for handing over one request or message; what its handler does is judged elsewhere."""

_MAX_WINDOW: Final = 2**31 - 1
_SMALLEST_FRAME_LIMIT: Final = 16_384
_LARGEST_FRAME_LIMIT: Final = 2**24 - 1
_FRAME_WANTED: Final = 64 * 1024
_DEFAULT_WINDOW: Final = 65_535
_DEFAULT_TABLE: Final = 4_096
_ENDED_KNOWN: Final = 1_024
_GAPS_KNOWN: Final = 64
_HEADS_KNOWN: Final = 4_096
_HEADS_KNOWN_SIZE: Final = 4 * 1024 * 1024
_HEAD_KNOWN_SIZE: Final = 4_096
_DEBUG_LIMIT: Final = 256
_DRAIN_PING: Final = b"draining"
_ALIVE_PING: Final = b"alive..."

_FRAME: Final = Struct(">IBI")
_NUMBER: Final = Struct(">I")
_SETTING: Final = Struct(">HI")
_NAME: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_BAD_VALUE: Final = re.compile(rb"[\0\r\n]|^[ \t]|[ \t]$")
_BAD_TARGET: Final = re.compile(rb"[\0-\x20\x7f]")
_CONNECTION_FIELDS: Final = frozenset(
    (b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade")
)
_PSEUDO: Final = (b":method", b":scheme", b":authority", b":path")

# How far a graceful end has come.
_SERVING: Final = 0
_WARNED: Final = 1
_CLOSING: Final = 2

# What became of a stream that is no more.
_RESET_BY_US: Final = 1
_RESET_BY_PEER: Final = 2


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """The bytes of one frame."""
    return _FRAME.pack(len(payload) << 8 | kind, flags, stream) + payload


class ConnectionFault(Exception):  # noqa: N818 - named for its scope in RFC 9113, 5.4.1
    """The connection must end, with this error code. The text goes along as debug data."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class StreamFault(Exception):  # noqa: N818 - named for its scope in RFC 9113, 5.4.2
    """The stream must be reset, with this error code; what `Head` raises."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class Head:
    """A request's header list, checked once and shared by all requests with the same; never changed.

    `fields` are those without a colon. `route` is whatever the application made of it. `cost` are the units
    of work that it was to make, until they are charged.
    """

    __slots__ = ("authority", "content_length", "cost", "fields", "method", "path", "route", "scheme")

    def __init__(self, fields: tuple[Field, ...]) -> None:
        """StreamFault when the list is malformed (RFC 9113, 8.1.1)."""
        pseudo: dict[bytes, bytes] = {}
        count = 0
        for name, value in fields:
            if not name.startswith(b":"):
                break
            if name not in _PSEUDO or name in pseudo:
                raise StreamFault(PROTOCOL_ERROR, f"pseudo-header field {name!r} is unknown or comes twice")
            if _BAD_TARGET.search(value):
                # A target is one word (RFC 9112, 3.2): what is put into a line of text later ends nothing.
                raise StreamFault(PROTOCOL_ERROR, f"{name.decode()} has a space or a control character")
            pseudo[name] = value
            count += 1
        self.fields = fields[count:]
        self.cost = _HEAD_FIELD_WORK * len(fields)
        self.content_length: int | None = None
        _check(self.fields)
        for name, value in self.fields:
            if name == b"content-length":
                length = int(value) if value.isdigit() and len(value) < 20 else -1
                if length < 0 or self.content_length not in (None, length):
                    raise StreamFault(PROTOCOL_ERROR, "content-length is not one number")
                self.content_length = length
        method, path = pseudo.get(b":method"), pseudo.get(b":path")
        scheme = pseudo.get(b":scheme")
        if not method or not path or not scheme or not _NAME.fullmatch(method.lower()):
            raise StreamFault(PROTOCOL_ERROR, ":method, :scheme and :path must each be there")
        self.method = method
        self.path = path
        self.scheme = scheme
        self.authority = pseudo.get(b":authority")
        self.route: Any = None

    def field(self, name: bytes) -> bytes | None:
        """The first value of a field, named in lower case. O(fields)."""
        for key, value in self.fields:
            if key == name:
                return value
        return None


def _check(fields: tuple[Field, ...]) -> None:
    """StreamFault for fields that HTTP/2 does not allow (RFC 9113, 8.2)."""
    for name, value in fields:
        if not _NAME.fullmatch(name):
            raise StreamFault(PROTOCOL_ERROR, f"a header field is named {name!r}")
        if name in _CONNECTION_FIELDS or (name == b"te" and value.lower() != b"trailers"):
            raise StreamFault(PROTOCOL_ERROR, f"header field {name.decode()} belongs to HTTP/1")
        if _BAD_VALUE.search(value):
            raise StreamFault(PROTOCOL_ERROR, f"the value of header field {name.decode()} is not text")


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

    def depart(self, streams: list[Stream]) -> None:
        """The connection of these is gone, and they are open no more: tell each that it is lost, so many in a
        round, for 16,000 watches may go at once.
        """
        self._departing.extend(streams)
        if not self._leaving:
            self._leaving = True
            self._tell_departed()

    def _tell_departed(self) -> None:
        departing, soon = self._departing, self._soon
        left = DEPARTED_AT_ONCE
        while departing and (left > 0 or soon is None):
            left -= 1
            stream = departing.popleft()
            connection = stream.connection
            connection.attempt(stream, stream.lost)
            connection.hand_over_ready()
        if departing and soon is not None:
            soon(self._tell_departed)
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
            if size <= _HEAD_KNOWN_SIZE:
                if len(self._heads) >= _HEADS_KNOWN or self._heads_size + size > _HEADS_KNOWN_SIZE:
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


class Stream:
    """One request and its answer, as frames. The application's streams derive from it.

    What comes is given to `take` and `lost`, inside the parser: they only keep it, and put the stream into
    `connection.ready`, for `hand_over` to handle once the read is parsed. Answers are given with `put_head`,
    `put_data` and `put_last`.

    What any of them raises ends this stream with INTERNAL_ERROR and no other: if it was still open, `lost` is
    called, so that whoever waits for it hears of it.
    """

    __slots__ = (
        "_last",
        "_queue",
        "allowed",
        "connection",
        "credit",
        "expected",
        "half_closed",
        "number",
        "open",
        "opened_at",
        "queued",
        "since",
        "thirsty",
        "turning",
    )

    patient = True
    """It may wait while the peer's windows hold back much of what was answered."""

    def __init__(self, connection: Http2Connection, number: int, head: Head) -> None:
        self.connection = connection
        self.number = number
        self.expected = head.content_length
        """Bytes of the body that content-length promises and that have not come yet."""
        self.allowed = STREAM_WINDOW
        """Bytes the client may still send."""
        self.credit = 0
        """Bytes we may send beyond the connection's initial window: granted, less those sent. So a change of
        the initial window changes no stream (RFC 9113, 6.9.2).
        """
        self.opened_at = connection.now
        self.since: float | None = connection.now
        """When what is not complete now was begun: the request, or a message of a stream."""
        self.half_closed = False
        """The client has sent everything."""
        self.open = True
        """The answer can still be given."""
        self.turning = False
        """It stands in the connection's line of streams that have something to send, and room for it."""
        self.thirsty = False
        """It wants to know when it has drained."""
        self.queued = 0
        """Bytes of DATA that wait for their turn or a window."""
        self._queue: deque[bytes | memoryview] | None = None
        self._last: bytes | None = None

    @property
    def window(self) -> int:
        """Bytes we may still send; below zero after the client took some back."""
        return self.connection.initial_window + self.credit

    @property
    def backlog(self) -> int:
        """Bytes given to this stream that the kernel has not taken, with those of the connection before
        them.
        """
        return self.queued + self.connection.output.unsent()

    def take(self, data: bytes, start: int, stop: int, ended: int) -> None:
        """A piece of the body, `data[start:stop]`; `ended` with the last."""
        raise NotImplementedError

    def hand_over(self) -> None:
        """The read is parsed: handle what was taken. Called once for each entry in `ready`."""
        raise NotImplementedError

    def lost(self) -> None:
        """The client reset the stream, or the connection is over. The stream is not open any more."""
        raise NotImplementedError

    def drain(self) -> None:
        """The server stops: end what has no end of its own."""

    def drained(self) -> None:
        """The backlog has fallen to `LOW_WATER`; for who asked for it with `connection.thirst`."""

    def put_head(self, block: bytes) -> None:
        """Send a header block; the body follows."""
        self.connection.put_block(self.number, block, 0)

    def put_data(self, prefix: bytes, data: bytes | memoryview) -> None:
        """Send a piece of the body: `prefix` and `data`, which are apart so that many streams can share the
        data. Never refused: the backlog grows instead.
        """
        size = len(prefix) + len(data)
        connection = self.connection
        if (
            not self.queued
            and size <= connection.initial_window + self.credit
            and size <= connection.window
            and size <= connection.frame_limit
            and connection.output.unsent() < PACE
        ):
            self.credit -= size
            connection.window -= size
            connection.moved += size
            connection.strikes = FORGIVEN
            connection.output.write(_FRAME.pack(size << 8, 0, self.number) + prefix + data)
        elif size:
            if self._queue is None:
                self._queue = deque()
            if prefix:
                self._queue.append(prefix)
            if data:
                self._queue.append(data)
            self.queued += size
            connection.enqueue(self, size)

    def put_last(self, block: bytes = b"") -> None:
        """End the answer, with trailers unless the block is empty, once everything before it is sent."""
        self.open = False
        self._last = block
        if not self.queued:
            self.sent()

    def sent(self) -> None:
        """The queue is empty: end the stream if it was to end."""
        block = self._last
        if block is None:
            return
        connection = self.connection
        if block:
            connection.put_block(self.number, block, END_STREAM)
        else:
            connection.output.write(_FRAME.pack(DATA, END_STREAM, self.number))
        connection.strikes = FORGIVEN
        connection.close(self)

    def fill(self, room: int) -> list[bytes | memoryview]:
        """Take up to `room` bytes out of the queue."""
        queue = self._queue
        pieces: list[bytes | memoryview] = []
        while queue and room:
            piece = queue.popleft()
            if len(piece) > room:
                view = memoryview(piece)
                queue.appendleft(view[room:])
                piece = view[:room]
            room -= len(piece)
            self.queued -= len(piece)
            pieces.append(piece)
        return pieces

    def drop(self) -> int:
        """Forget what was queued; how many bytes that were."""
        dropped, self.queued = self.queued, 0
        self._queue = None
        return dropped


class Allowance:
    """So many in one go, and `rate` more for every second that passes."""

    __slots__ = ("_at", "_left", "_most", "_rate")

    def __init__(self, most: int, now: float, rate: float = _PER_SECOND) -> None:
        self._most = most
        self._left = float(most)
        self._at = now
        self._rate = rate

    def spend(self, now: float, count: int = 1) -> bool:
        """Whether that many were left. They are taken in any case: what was done was done."""
        self._left = min(self._most, self._left + (now - self._at) * self._rate) - count
        self._at = now
        return self._left >= 0


class Http2Connection:
    """One HTTP/2 connection: feed it with `receive`. Implements the reactor's `Session`.

    `peer` and `common_name` say who is at the other end, for the application.
    """

    __slots__ = (
        "_asked",
        "_block",
        "_block_ends",
        "_block_since",
        "_block_stream",
        "_blocked",
        "_blocks",
        "_charged",
        "_continuations",
        "_created",
        "_drain",
        "_early",
        "_ended",
        "_ended_floor",
        "_gaps",
        "_held_back",
        "_idle",
        "_last",
        "_last_ping",
        "_looked",
        "_more",
        "_owed",
        "_partial",
        "_paused",
        "_pauses",
        "_probed",
        "_rest",
        "_rest_since",
        "_shrink",
        "_slice",
        "_stalled_since",
        "_started",
        "_taken",
        "_turn",
        "_watered",
        "_widest",
        "_work",
        "common_name",
        "frame_limit",
        "held",
        "initial_window",
        "late",
        "moved",
        "now",
        "output",
        "peer",
        "queued",
        "reading",
        "ready",
        "server",
        "spent",
        "streams",
        "strikes",
        "unfinished",
        "window",
    )

    def __init__(
        self, server: Http2Server, output: Output, peer: str = "", common_name: str | None = None
    ) -> None:
        """Sends our settings at once: a client may wait for them."""
        self.server = server
        self.output = output
        self.peer = peer
        self.common_name = common_name
        self.reading = True
        self.now = server.clock()
        """When something was read last."""
        self.streams: dict[int, Stream] = {}
        self.ready: deque[Stream] = deque()
        """Streams that have something to be handled, in the order it came."""
        self.held = 0
        """Bytes of messages that have not come whole, counted by the application."""
        self.unfinished = 0
        """Open streams that are not complete: those with `since`."""
        self._held_back: deque[Stream] = deque()
        self._charged = 0
        self.moved = 0
        """Bytes of DATA that were sent since `_stalled_since`."""
        self._created = self.now
        self._looked = self._rest_since = self._block_since = self._stalled_since = self.now
        self._partial = False
        self._owed = 0
        self.queued = 0
        """Bytes of DATA of all streams that wait for their turn or a window."""
        self.window = _DEFAULT_WINDOW
        """Bytes of DATA we may still send."""
        self.initial_window = _DEFAULT_WINDOW
        """The window of a new stream."""
        self.frame_limit = _SMALLEST_FRAME_LIMIT
        """The largest payload we send in one frame."""
        self.late = False
        """See `connection.Session`."""
        self.strikes = 0
        """Pings since our last answer that came too soon."""
        self.spent = 0
        """Units of work caused in this turn; streams count what they do in `take` and `hand_over`."""
        self._slice = SLICE
        self._work = Allowance(WORK_BURST, self.now, WORK_RATE)
        self._pauses = Allowance(PAUSES, self.now, _PAUSES_PER_SECOND)
        self._paused = False
        self._more = False
        self._asked = False
        self._widest = 0
        self._watered: deque[Stream] = deque()
        self._blocked: dict[Stream, None] = {}
        self._turn: deque[Stream] = deque()
        self._blocks: HeaderBlocks[Head] = HeaderBlocks(server.head, server.varying, LIST_LIMIT)
        self._rest = b""
        self._started = False
        self._block: bytearray | None = None
        self._block_stream = self._block_ends = self._continuations = 0
        self._last = -1
        self._gaps: list[range] = []
        self._ended: dict[int, int] = {}
        self._ended_floor = 0
        self._taken = 0
        self._shrink = False
        self._idle = Allowance(IDLE_FRAMES, self.now)
        self._early = Allowance(EARLY_RESETS, self.now)
        self._last_ping: float | None = None
        self._probed: float | None = None
        self._drain = _SERVING
        settings = (
            (SET_MAX_STREAMS, server.max_streams),
            (SET_INITIAL_WINDOW, STREAM_WINDOW),
            (SET_LIST_SIZE, LIST_LIMIT),
        )
        output.write(
            frame(SETTINGS, 0, 0, b"".join(_SETTING.pack(*setting) for setting in settings))
            + frame(WINDOW_UPDATE, 0, 0, _NUMBER.pack(CONNECTION_WINDOW - _DEFAULT_WINDOW))
        )

    # --- the reactor's Session

    @property
    def busy(self) -> bool:
        """What was read is more work than one turn may have, or this connection more than its rate. Never for
        answers that wait: what opens the windows must be read.
        """
        return self._more or self._paused

    @property
    def answers_need_reading(self) -> bool:
        """Always: windows are opened by what is read."""
        return True

    @property
    def waiting(self) -> bool:
        """Part of the preface, a frame or a header block is here, and the rest is not."""
        return not self.busy and (bool(self._rest) or self._block is not None or not self._started)

    @property
    def hungry(self) -> bool:
        """`resume` may have something to do."""
        return bool(self._turn or self.ready or self._held_back or self._watered)

    def receive(self, data: bytes) -> None:
        """Take the bytes of one read: parse them, then hand over what they complete. What is more than a
        turn's work is kept for the next turn.
        """
        if not self.reading:
            return
        self._rest = self._rest + data if self._rest else data
        self._work_on()

    def _work_on(self) -> None:
        """One turn. Before it, what the last one cost is charged: who is beyond the rate is not read until
        `sweep` finds it within, and is closed when that is so time after time.
        """
        if not self.reading:
            return
        self._asked = False
        self.now = self.server.clock()
        self._owed += self.spent
        self.spent = 0
        if self._owed > _CHARGED_AT_ONCE:
            owed, self._owed = self._owed, 0
            if not self._work.spend(self.now, owed) and not self._paused:
                self._paused = True
                if not self._pauses.spend(self.now):
                    self._fail(ENHANCE_YOUR_CALM, "more work than a connection may cause, time after time")
                    return
        if self._paused:
            return
        server = self.server
        self._slice = server.turn(self.now)
        data, self._rest = self._rest, b""
        try:
            position = 0 if self._started else self._begin(data)
            if self._started:
                position = self._parse(data, position)
            if position == len(data) or not self.reading:
                self._partial = False
            else:
                self._rest = data[position:]
                if position or not self._partial:
                    self._partial = True
                    self._rest_since = self.now
        except ConnectionFault as fault:
            self._fail(fault.code, str(fault))
        else:
            self.resume()
        server.spent += self.spent

    def _ask(self) -> None:
        """Ask for a turn, in which those of others come first."""
        if not self._asked and not self._paused:
            self._asked = True
            self.output.soon(self._work_on)

    def resume(self) -> None:
        """Send what windows and pace allow, then handle what was read, as far as the bounds allow it. Only
        when all of it is handled may the client send more DATA.
        """
        if self._turn:
            self._pump()
        ready, back = self.ready, self._held_back
        hold = HOLD_OVER if self.queued > HOLD_OVER and self.output.account.over else HOLD
        if self.output.held_back:
            hold = -1  # no new call, however little is queued
        while ready or (back and self.queued <= hold):
            if self.spent >= self._slice:
                self._ask()
                break
            if back and self.queued <= hold:
                stream = back.popleft()
            else:
                stream = ready.popleft()
                if self.queued > hold and stream.patient and stream.open:
                    back.append(stream)
                    continue
            self.spent += HANDLED
            try:
                stream.hand_over()
            except MustStop:
                raise
            except Exception as fault:  # noqa: BLE001 - told, and the stream ends
                self._broken(stream, fault)
        if self._taken >= CONNECTION_WINDOW // 2 and not ready and not back and self.reading:
            self.output.write(frame(WINDOW_UPDATE, 0, 0, _NUMBER.pack(self._taken)))
            self._taken = 0
        if self._more:
            self._ask()
        if self._watered:
            self._tell_drained()
        if self.streams or self._rest or self._block is not None or self._charged:
            self._charge()

    def _charge(self) -> None:
        """See that the account says what is held here: answers that wait for windows, messages that are not
        whole, streams, and what was read and is not parsed.
        """
        block = self._block
        held = self.queued + self.held + STREAM_COST * len(self.streams) + len(self._rest)
        if block is not None:
            held += len(block)
        if held != self._charged:
            self.output.account.charge(held - self._charged)
            self._charged = held

    @property
    def holds_too_much(self) -> bool:
        """Requests and messages that are not whole have come to their bound, which is lower once the memory
        for all is spent.
        """
        held = self.held
        return held > HELD_LIMIT or (held > HELD_OVER and self.output.account.over)

    def began(self, stream: Stream) -> None:
        """A stream has part of a message."""
        if stream.since is None:
            self.unfinished += 1
        stream.since = self.now

    def completed(self, stream: Stream) -> None:
        """What a stream had in part is complete, or will not be."""
        if stream.since is not None:
            stream.since = None
            self.unfinished -= 1

    def thirst(self, stream: Stream) -> None:
        """A stream wants to know, once, when it has drained."""
        if not stream.thirsty:
            stream.thirsty = True
            if stream.queued <= LOW_WATER // 2:
                self._watered.append(stream)

    def _tell_drained(self) -> None:
        """Tell the streams whose queue is short that they have drained, if the network takes what is sent.
        Those whose window is closed do not stand here, so that nothing walks over them.
        """
        watered = self._watered
        for _ in range(len(watered)):
            if self.output.unsent() > LOW_WATER // 2:
                break
            if self.spent >= self._slice:
                self._ask()
                break
            stream = watered.popleft()
            if stream.queued > LOW_WATER // 2:
                continue  # more was given to it meanwhile; it comes here again as that drains
            stream.thirsty = False
            if stream.open:
                self.spent += HANDLED
                self.attempt(stream, stream.drained)

    def eof(self) -> None:
        """The peer sends nothing more, and so can open no window: the connection is over."""
        self.gone()
        self.output.cut()

    def gone(self) -> None:
        """The connection is closed: tell every stream that was open, now or, if there are many, soon."""
        self.reading = False
        self._rest = b""
        lost = [stream for stream in self.streams.values() if stream.open]
        for stream in self.streams.values():
            stream.open = False
            stream.since = None
            if stream.queued:
                stream.drop()
        self.queued = self.unfinished = 0
        self._blocked.clear()
        self.streams.clear()
        self._turn.clear()
        self._watered.clear()
        self._held_back.clear()
        # The connection may stay for a while, until its peer has read why it ends: it keeps nothing then.
        self._block = None
        self._blocks.forget()
        self._ended.clear()
        self._gaps.clear()
        self._more = self._paused = False
        self.server.depart(lost)
        self.hand_over_ready()
        self._charge()

    def hand_over_ready(self) -> None:
        """Hand over what stands in line of a connection that is gone: nothing of it is handled, and who waits
        for its end is told.
        """
        ready = self.ready
        while ready:
            stream = ready.popleft()
            self.attempt(stream, stream.hand_over)

    def refuse(self, status: int, text: bytes) -> None:
        """The rest of a frame did not come in time."""
        self._fail(ENHANCE_YOUR_CALM, f"{status}: {text.decode()}")

    def sweep(self, now: float) -> None:
        """Once a second: ask a silent peer whether it is there, and cut it when it is not; go on with one
        that caused more work than its rate allows, once it is within it.
        """
        if self._paused and self._work.spend(now, 0):
            self._paused = False
            self._ask()
        self.late = self._is_late(now)
        if self.unfinished and now - self._looked >= LOOK_SECONDS:
            self._looked = now
            self._give_up_late(now)
        self._check_progress(now)
        if self._probed is None:
            if now - self.now > PROBE_SECONDS:
                self._probed = now
                self.output.write(frame(PING, 0, 0, _ALIVE_PING))
        elif self.now > self._probed:
            self._probed = None
        elif now - self._probed > PROBE_ANSWER_SECONDS:
            self.output.cut()

    def _is_late(self, now: float) -> bool:
        """The peer took longer than it may for its preface, a header block or a frame."""
        if self.busy:
            return False  # the rest may be here
        if not self._started:
            return now - self._created > PREFACE_SECONDS
        if self._block is not None and now - self._block_since > BLOCK_SECONDS:
            return True
        return bool(self._rest) and now - self._rest_since > FRAME_SECONDS

    def _give_up_late(self, now: float) -> None:
        """Reset requests that did not become complete in time, so many at once. O(open streams), charged."""
        self.spent += len(self.streams) // _STREAMS_PER_UNIT
        limit = now - REQUEST_SECONDS
        late = [s for s in self.streams.values() if s.since is not None and s.since < limit]
        for stream in late[:DEPARTED_AT_ONCE]:
            self._give_up(stream, CANCEL)
        if len(late) > DEPARTED_AT_ONCE:
            self._looked = now - LOOK_SECONDS
        self.resume()

    def _check_progress(self, now: float) -> None:
        """Close a connection whose peer asks for answers and lets next to nothing of them through. What the
        network does not take is the reactor's to judge.
        """
        if self.queued <= LOW_WATER or self.output.unsent() >= PACE:
            enough = True
        elif now - self._stalled_since <= STALL_SECONDS:
            return
        else:
            enough = self.moved >= STALL_SECONDS * STALL_RATE
        self._stalled_since = now
        self.moved = 0
        if not enough:
            self._fail(ENHANCE_YOUR_CALM, "too little of what was asked for is let through by the windows")

    def drain(self) -> None:
        """The server stops: no new streams; close once those that are open have ended.

        The peer is told twice, with a round trip between, so that no request on its way is lost (RFC 9113,
        6.8).
        """
        if self._drain == _SERVING and self.reading:
            self._drain = _WARNED
            self.output.write(
                frame(GOAWAY, 0, 0, _NUMBER.pack(_MAX_WINDOW) + _NUMBER.pack(NO_ERROR))
                + frame(PING, 0, 0, _DRAIN_PING)
            )
            for stream in list(self.streams.values()):
                if stream.open:
                    self.attempt(stream, stream.drain)

    # --- what streams use to answer

    def put_block(self, number: int, block: bytes, flags: int) -> None:
        """Send a header block of a stream, over several frames if it must be."""
        if self._shrink:
            block = b"\x20" + block
            self._shrink = False
        if len(block) <= _SMALLEST_FRAME_LIMIT:
            self.output.write(frame(HEADERS, flags | END_HEADERS, number, block))
            return
        pieces = [block[i : i + _SMALLEST_FRAME_LIMIT] for i in range(0, len(block), _SMALLEST_FRAME_LIMIT)]
        parts = [frame(HEADERS, flags, number, pieces[0])]
        parts += [frame(CONTINUATION, 0, number, piece) for piece in pieces[1:-1]]
        parts.append(frame(CONTINUATION, END_HEADERS, number, pieces[-1]))
        self.output.write(b"".join(parts))

    @property
    def plain(self) -> bool:
        """A constant header block may be sent as it is, and a small answer at once."""
        return not self._shrink and self.output.unsent() < PACE

    def enqueue(self, stream: Stream, size: int) -> None:
        """A stream has so many more bytes queued."""
        self.queued += size
        if stream.turning:
            return
        if stream.window > 0:
            stream.turning = True
            self._turn.append(stream)
            self._pump()
        else:
            self._blocked[stream] = None
        self._charge()

    def close(self, stream: Stream) -> None:
        """A stream's answer is sent whole. One whose request was not is reset without blame (RFC 9113,
        8.1).
        """
        stream.open = False
        if stream.since is not None:
            self.completed(stream)
        if self.streams.pop(stream.number, None) is not None and not stream.half_closed:
            self.output.write(frame(RST_STREAM, 0, stream.number, _NUMBER.pack(NO_ERROR)))
            self._remember(stream.number, _RESET_BY_US)
        if self._drain == _CLOSING and not self.streams:
            self._finish()

    def reset(self, stream: Stream, code: int) -> None:
        """Give a stream up, whatever was still to be sent."""
        stream.open = False
        if self.streams.pop(stream.number, None) is None:
            return
        self._drop(stream)
        self.output.write(frame(RST_STREAM, 0, stream.number, _NUMBER.pack(code)))
        self._remember(stream.number, _RESET_BY_US)
        if self._drain == _CLOSING and not self.streams:
            self._finish()

    def _drop(self, stream: Stream) -> None:
        """Forget what a stream had queued, and what it was to complete."""
        self.completed(stream)
        self._blocked.pop(stream, None)
        self.queued -= stream.drop()

    # --- inside: sending

    def _pump(self) -> None:
        """Frame what is queued, one frame of each stream in turn."""
        turn, output = self._turn, self.output
        while turn and self.window > 0 and output.unsent() < PACE:
            if self.spent >= self._slice:
                self._ask()
                break
            self.spent += 1
            stream = turn.popleft()
            room = min(self.initial_window + stream.credit, self.window, self.frame_limit)
            if room <= 0 or not stream.queued:
                stream.turning = False
                if stream.queued:
                    self._blocked[stream] = None
                continue
            size = stream.queued
            pieces = stream.fill(room)
            size -= stream.queued
            stream.credit -= size
            self.window -= size
            self.queued -= size
            self.moved += size
            self.strikes = FORGIVEN
            output.write(_FRAME.pack(size << 8, 0, stream.number))
            for piece in pieces:
                output.write(piece)
            if stream.thirsty and stream.queued <= LOW_WATER // 2 < stream.queued + size:
                self._watered.append(stream)
            if stream.queued:
                turn.append(stream)
            else:
                stream.turning = False
                stream.sent()

    def _fail(self, code: int, text: str) -> None:
        """End the connection for a fault of the peer."""
        if not self.reading:
            return
        debug = text.encode()[:_DEBUG_LIMIT]
        last = _NUMBER.pack(max(self._last, 0))
        self.output.write(frame(GOAWAY, 0, 0, last + _NUMBER.pack(code) + debug))
        self._finish()

    def _finish(self) -> None:
        self.output.finish()
        self.gone()

    # --- inside: reading

    def _begin(self, data: bytes) -> int:
        """The preface, and that SETTINGS come first (RFC 9113, 3.4); where the frames begin."""
        if not data.startswith(PREFACE[: len(data)]):
            raise ConnectionFault(PROTOCOL_ERROR, "the connection preface is not that of HTTP/2")
        end = len(PREFACE)
        if len(data) < end + _FRAME.size:
            return 0
        head, flags, _ = _FRAME.unpack_from(data, end)
        if head & 0xFF != SETTINGS or flags & ACK:
            raise ConnectionFault(PROTOCOL_ERROR, "the first frame is not SETTINGS")
        self._started = True
        return end

    def _parse(self, data: bytes, position: int) -> int:
        """Take every whole frame, or as many as a turn allows; where the rest begins."""
        size = len(data)
        streams = self.streams
        unpack = _FRAME.unpack_from
        start = position + 9
        self._more = False
        while start <= size and self.reading:
            if self.spent >= self._slice:
                self._more = True
                break
            self.spent += 1
            head, flags, number = unpack(data, position)
            length = head >> 8
            stop = start + length
            if length > MAX_FRAME:
                raise ConnectionFault(FRAME_SIZE_ERROR, f"a frame of {length} bytes; at most {MAX_FRAME}")
            if stop > size:
                break
            kind = head & 0xFF
            if self._block is not None and (kind != CONTINUATION or number != self._block_stream):
                raise ConnectionFault(PROTOCOL_ERROR, "a header block is interrupted")
            if kind == DATA:
                self._taken += length
                stream = streams.get(number)
                if flags > END_STREAM or not length or stream is None or stream.half_closed:
                    self._odd_data(data, start, stop, flags, number)
                else:
                    stream.allowed -= length
                    self._data(stream, data, start, stop, flags)
            elif kind == HEADERS and flags & ~END_STREAM == END_HEADERS and self._last < number < 2**31:
                self._open(number, data[start:stop], flags & END_STREAM)
            elif kind == WINDOW_UPDATE and length == 4:
                self._window_update(number, data, start)
            else:
                self._other(kind, flags, number & _MAX_WINDOW, data[start:stop])
            position = stop
            start = position + 9
        return position

    def _data(self, stream: Stream, data: bytes, start: int, stop: int, ended: int) -> None:
        """DATA of an open stream, which was already counted against its window."""
        if self._taken > CONNECTION_WINDOW:
            raise ConnectionFault(FLOW_CONTROL_ERROR, "more DATA than the connection's window")
        if stream.allowed < 0:
            self._blame(stream.number, FLOW_CONTROL_ERROR)
            return
        if stream.expected is not None:
            stream.expected -= stop - start
            if stream.expected < 0 or (ended and stream.expected):
                self._blame(stream.number, PROTOCOL_ERROR)
                return
        if ended:
            stream.half_closed = True
            if stream.since is not None:
                stream.since = None
                self.unfinished -= 1
        if stream.open:
            try:
                stream.take(data, start, stop, ended)
            except MustStop:
                raise
            except Exception as fault:  # noqa: BLE001 - told, and the stream ends
                self._broken(stream, fault)
        if not ended and stream.allowed < STREAM_WINDOW // 2 and stream.open:
            more = STREAM_WINDOW - stream.allowed
            stream.allowed = STREAM_WINDOW
            self.output.write(frame(WINDOW_UPDATE, 0, stream.number, _NUMBER.pack(more)))

    def _odd_data(self, data: bytes, start: int, stop: int, flags: int, number: int) -> None:
        """DATA that is padded, empty, or of no stream that can take it."""
        if self._taken > CONNECTION_WINDOW:
            raise ConnectionFault(FLOW_CONTROL_ERROR, "more DATA than the connection's window")
        number &= _MAX_WINDOW
        counted = stop - start
        if flags & PADDED:
            start, stop = _unpadded(data, start, stop)
        ended = flags & END_STREAM
        stream = self.streams.get(number)
        if start == stop and not ended:
            self._carries_nothing()
        if stream is None:
            self._absent(number, "DATA")
        elif stream.half_closed:
            self._blame(number, STREAM_CLOSED)
        else:
            stream.allowed -= counted
            self._data(stream, data, start, stop, ended)

    def _open(self, number: int, block: bytes, ended: int) -> None:
        """A whole header block that opens a stream."""
        if not number & 1:
            raise ConnectionFault(PROTOCOL_ERROR, f"stream {number} is not the client's to open")
        if number != self._last + 2 and len(self._gaps) < _GAPS_KNOWN:
            self._gaps.append(range(self._last + 2, number, 2))
        self._last = number
        blocks = self._blocks
        try:
            head, timeout = blocks.read(block)
        except LargeList as fault:
            raise ConnectionFault(ENHANCE_YOUR_CALM, str(fault)) from None
        except BadBlock as fault:
            raise ConnectionFault(COMPRESSION_ERROR, str(fault)) from None
        except StreamFault as fault:
            self.spent += blocks.cost * _REFUSED_WORK
            blocks.cost = 0
            self._blame(number, fault.code)
            return
        if blocks.cost:
            self.spent += blocks.cost + head.cost
            blocks.cost = head.cost = 0
        if (
            len(self.streams) >= self.server.max_streams
            or self._drain == _CLOSING
            or (not ended and self.unfinished >= UNFINISHED)
        ):
            self._blame(number, REFUSED_STREAM)
        elif ended and head.content_length:
            self._blame(number, PROTOCOL_ERROR)
        else:
            try:
                stream = self.server.application.open(self, number, head, timeout)
            except MustStop:
                raise
            except Exception as fault:  # noqa: BLE001 - told, and there is no stream
                self.output.write(frame(RST_STREAM, 0, number, _NUMBER.pack(INTERNAL_ERROR)))
                self._remember(number, _RESET_BY_US)
                self.server.failed(head, fault)
                return
            self.streams[number] = stream
            self.unfinished += 1
            if self._drain == _WARNED:
                self.attempt(stream, stream.drain)
            if ended and stream.open:
                self._take_end(stream)

    def _take_end(self, stream: Stream) -> None:
        """A request ends without DATA."""
        stream.half_closed = True
        self.completed(stream)
        if stream.open:
            try:
                stream.take(b"", 0, 0, END_STREAM)
            except MustStop:
                raise
            except Exception as fault:  # noqa: BLE001 - told, and the stream ends
                self._broken(stream, fault)

    def _trailers(self, number: int, block: bytes, ended: int) -> None:
        """A whole header block of a stream that was opened before: trailers, or a mistake."""
        try:
            fields = self._blocks.decode(block)
        except LargeList as fault:
            raise ConnectionFault(ENHANCE_YOUR_CALM, str(fault)) from None
        except BadBlock as fault:
            raise ConnectionFault(COMPRESSION_ERROR, str(fault)) from None
        self.spent += self._blocks.cost
        self._blocks.cost = 0
        stream = self.streams.get(number)
        if stream is None:
            self._absent(number, "HEADERS")
        elif stream.half_closed:
            self._blame(number, STREAM_CLOSED)
        elif not ended or stream.expected or not trailers_allowed(fields):
            self._blame(number, PROTOCOL_ERROR)
        else:
            self._take_end(stream)

    def _window_update(self, number: int, data: bytes, start: int) -> None:
        more = _NUMBER.unpack_from(data, start)[0] & _MAX_WINDOW
        number &= _MAX_WINDOW
        if number == 0:
            if not more:
                raise ConnectionFault(PROTOCOL_ERROR, "a WINDOW_UPDATE of nothing")
            self.window += more
            if self.window > _MAX_WINDOW:
                raise ConnectionFault(FLOW_CONTROL_ERROR, "the connection's window is larger than 2^31-1")
            return
        stream = self.streams.get(number)
        if stream is None:
            self._not_idle(number, "WINDOW_UPDATE")
        elif not more:
            self._blame(number, PROTOCOL_ERROR)
        else:
            stream.credit += more
            self._widest = max(self._widest, stream.credit)
            window = self.initial_window + stream.credit
            if window > _MAX_WINDOW:
                self._blame(number, FLOW_CONTROL_ERROR)
            elif window > 0 and stream in self._blocked:
                self._unblock(stream)

    def _unblock(self, stream: Stream) -> None:
        """A stream whose window was closed may send again."""
        del self._blocked[stream]
        stream.turning = True
        self._turn.append(stream)

    def _other(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        """Frames that are rare, or out of the ordinary."""
        if kind == HEADERS:
            self._headers(flags, number, payload)
        elif kind == CONTINUATION:
            self._continuation(flags, payload)
        elif kind == RST_STREAM:
            self._rst_stream(number, payload)
        elif kind == SETTINGS:
            self._settings(flags, number, payload)
        elif kind == PING:
            self._ping(flags, number, payload)
        elif kind == GOAWAY:
            if number:
                raise ConnectionFault(PROTOCOL_ERROR, "GOAWAY on a stream")
            if len(payload) < 8:
                raise ConnectionFault(FRAME_SIZE_ERROR, "a GOAWAY of less than 8 bytes")
            self._carries_nothing()
        elif kind == PRIORITY:
            if not number:
                raise ConnectionFault(PROTOCOL_ERROR, "PRIORITY on no stream")
            if len(payload) != 5:
                self._blame(number, FRAME_SIZE_ERROR)
            self._carries_nothing()
        elif kind == WINDOW_UPDATE:
            raise ConnectionFault(FRAME_SIZE_ERROR, "a WINDOW_UPDATE that is not 4 bytes")
        elif kind == PUSH_PROMISE:
            raise ConnectionFault(PROTOCOL_ERROR, "a client cannot push")
        else:
            self._carries_nothing()

    def _headers(self, flags: int, number: int, payload: bytes) -> None:
        if not number:
            raise ConnectionFault(PROTOCOL_ERROR, "HEADERS on no stream")
        start, stop = 0, len(payload)
        if flags & PADDED:
            start, stop = _unpadded(payload, start, stop)
        if flags & WITH_PRIORITY:
            start += 5
            if start > stop:
                raise ConnectionFault(FRAME_SIZE_ERROR, "HEADERS too short for their priority")
        block = payload[start:stop]
        if flags & END_HEADERS:
            self._block_done(number, block, flags & END_STREAM)
        else:
            self._block = bytearray(block)
            self._block_stream = number
            self._block_ends = flags & END_STREAM
            self._block_since = self.now
            self._continuations = 0

    def _continuation(self, flags: int, payload: bytes) -> None:
        block = self._block
        if block is None:
            raise ConnectionFault(PROTOCOL_ERROR, "a CONTINUATION of nothing")
        block += payload
        self._continuations += 1
        if self._continuations > CONTINUATIONS or len(block) > LIST_LIMIT:
            raise ConnectionFault(
                ENHANCE_YOUR_CALM,
                f"a header block of more than {LIST_LIMIT} bytes, or {CONTINUATIONS} CONTINUATIONs",
            )
        if flags & END_HEADERS:
            self._block = None
            self._block_done(self._block_stream, bytes(block), self._block_ends)

    def _block_done(self, number: int, block: bytes, ended: int) -> None:
        if number > self._last:
            self._open(number, block, ended)
        else:
            self._trailers(number, block, ended)

    def _rst_stream(self, number: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ConnectionFault(FRAME_SIZE_ERROR, "a RST_STREAM that is not 4 bytes")
        stream = self.streams.pop(number, None)
        if stream is None:
            self._not_idle(number, "RST_STREAM")
            self._carries_nothing()
            return
        self._remember(number, _RESET_BY_PEER)
        if self.now - stream.opened_at < _EARLY_SECONDS:
            self._spend_early()
        self._lose(stream)
        if self._drain == _CLOSING and not self.streams:
            self._finish()

    def _settings(self, flags: int, number: int, payload: bytes) -> None:
        if number:
            raise ConnectionFault(PROTOCOL_ERROR, "SETTINGS on a stream")
        if len(payload) % 6 or (flags & ACK and payload):
            raise ConnectionFault(FRAME_SIZE_ERROR, f"SETTINGS of {len(payload)} bytes")
        self._carries_nothing()
        if flags & ACK:
            return
        self.spent += len(payload) // 6 // _SETTINGS_PER_UNIT
        window = self.initial_window
        for name, value in _SETTING.iter_unpack(payload):
            if name == SET_INITIAL_WINDOW:
                if value > _MAX_WINDOW:
                    raise ConnectionFault(FLOW_CONTROL_ERROR, "an initial window larger than 2^31-1")
                window = value
            else:
                self._set(name, value)
        if window != self.initial_window:
            self._set_window(window)
        self.output.write(frame(SETTINGS, ACK, 0))

    def _set_window(self, window: int) -> None:
        """A new initial window, once for each frame: of several in one only the last is ever used.

        Streams keep what differs from it, so only those that it lets send are touched. No window may become
        too large (RFC 9113, 6.9.2): `_widest` is a bound for what streams have beyond the initial window,
        and they are looked at only when that bound could be it.
        """
        if window + self._widest > _MAX_WINDOW:
            self.spent += len(self.streams) // _STREAMS_PER_UNIT
            self._widest = max((stream.credit for stream in self.streams.values()), default=0)
            if window + self._widest > _MAX_WINDOW:
                raise ConnectionFault(FLOW_CONTROL_ERROR, "a stream's window is larger than 2^31-1")
        wider = window > self.initial_window
        self.initial_window = window
        if wider and self._blocked:
            self.spent += len(self._blocked) // _STREAMS_PER_UNIT
            for stream in [each for each in self._blocked if window + each.credit > 0]:
                self._unblock(stream)

    def _set(self, name: int, value: int) -> None:
        if name == SET_MAX_FRAME:
            if not _SMALLEST_FRAME_LIMIT <= value <= _LARGEST_FRAME_LIMIT:
                raise ConnectionFault(PROTOCOL_ERROR, f"a frame limit of {value}")
            self.frame_limit = min(value, _FRAME_WANTED)
        elif name == SET_TABLE_SIZE:
            # We put nothing into the peer's table, but a smaller one must be acknowledged in the next block
            # (RFC 7541, 4.2).
            self._shrink = self._shrink or value < _DEFAULT_TABLE
        elif name == SET_ENABLE_PUSH and value > 1:
            raise ConnectionFault(PROTOCOL_ERROR, "ENABLE_PUSH is 0 or 1")

    def _ping(self, flags: int, number: int, payload: bytes) -> None:
        if number:
            raise ConnectionFault(PROTOCOL_ERROR, "PING on a stream")
        if len(payload) != 8:
            raise ConnectionFault(FRAME_SIZE_ERROR, "a PING that is not 8 bytes")
        if flags & ACK:
            self._carries_nothing()
            if payload == _DRAIN_PING and self._drain == _WARNED:
                self._drain = _CLOSING
                last = _NUMBER.pack(max(self._last, 0))
                self.output.write(frame(GOAWAY, 0, 0, last + _NUMBER.pack(NO_ERROR)))
                if not self.streams:
                    self._finish()
            return
        self.output.write(frame(PING, ACK, 0, payload))
        last_ping, self._last_ping = self._last_ping, self.now
        apart = PING_SECONDS if self.streams else IDLE_PING_SECONDS
        if last_ping is not None and self.now - last_ping < apart:
            self.strikes += 1
            if self.strikes > PING_STRIKES:
                raise ConnectionFault(ENHANCE_YOUR_CALM, "too_many_pings")

    # --- inside: streams that are no more

    def _absent(self, number: int, what: str) -> None:
        """Something came for a stream that is not there."""
        self._not_idle(number, what)
        fate = self._ended.get(number)
        if fate == _RESET_BY_US:
            return  # it was on its way when we reset the stream
        if fate == _RESET_BY_PEER or number <= self._ended_floor:
            self._spend_early()
            self.output.write(frame(RST_STREAM, 0, number, _NUMBER.pack(STREAM_CLOSED)))
        elif any(number in gap for gap in self._gaps):
            raise ConnectionFault(PROTOCOL_ERROR, f"{what} on stream {number}, which was passed over")
        else:
            raise ConnectionFault(STREAM_CLOSED, f"{what} on stream {number}, which has ended")

    def _not_idle(self, number: int, what: str) -> None:
        if not number & 1 or number > self._last:
            raise ConnectionFault(PROTOCOL_ERROR, f"{what} on stream {number}, which is not open")

    def _blame(self, number: int, code: int) -> None:
        """Reset a stream for a fault of the client."""
        self._spend_early()
        stream = self.streams.pop(number, None)
        self.output.write(frame(RST_STREAM, 0, number, _NUMBER.pack(code)))
        self._remember(number, _RESET_BY_US)
        if stream is not None:
            self._lose(stream)
        if self._drain == _CLOSING and not self.streams:
            self._finish()

    def _lose(self, stream: Stream) -> None:
        self.spent += _LOSS_WORK
        self._drop(stream)
        if stream.open:
            stream.open = False
            self.attempt(stream, stream.lost)

    def attempt(self, stream: Stream, call: Callable[[], None]) -> None:
        """The edge of a stream: what it raises ends this stream, and whoever is called after it is called."""
        try:
            call()
        except MustStop:
            raise
        except Exception as fault:  # noqa: BLE001 - told, and the stream ends
            self._broken(stream, fault)

    def _broken(self, stream: Stream, fault: Exception) -> None:
        """A stream raised: it ends."""
        self._give_up(stream, INTERNAL_ERROR)
        self.server.failed(stream, fault)

    def _give_up(self, stream: Stream, code: int) -> None:
        """Reset a stream. Whoever waits for it is told first, in case nothing more goes well."""
        if stream.open:
            stream.open = False
            self.attempt(stream, stream.lost)
        self.reset(stream, code)

    def _remember(self, number: int, fate: int) -> None:
        ended = self._ended
        ended[number] = fate
        if len(ended) > _ENDED_KNOWN:
            oldest = next(iter(ended))
            del ended[oldest]
            self._ended_floor = max(self._ended_floor, oldest)

    def _carries_nothing(self) -> None:
        if not self._idle.spend(self.now):
            raise ConnectionFault(ENHANCE_YOUR_CALM, "too many frames that carry nothing")

    def _spend_early(self) -> None:
        if not self._early.spend(self.now):
            raise ConnectionFault(ENHANCE_YOUR_CALM, "too many streams reset early")


def trailers_allowed(fields: list[Field]) -> bool:
    """Whether these fields may stand after a body (RFC 9113, 8.1)."""
    try:
        _check(tuple(fields))
    except StreamFault:
        return False
    return True


def _unpadded(data: bytes, start: int, stop: int) -> tuple[int, int]:
    """What a padded payload holds (RFC 9113, 6.1)."""
    if start == stop:
        raise ConnectionFault(FRAME_SIZE_ERROR, "a padded frame without its length")
    padding = data[start]
    start += 1
    if start + padding > stop:
        raise ConnectionFault(PROTOCOL_ERROR, "more padding than payload")
    return start, stop - padding
