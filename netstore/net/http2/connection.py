"""One HTTP/2 connection: its state, the turns in which it works, and the parsing loop. Longer than 500 lines
because all state is here, described once; the functions that work on it are in the other modules of this
package, by topic.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Final

from netstore.errors import MustStop
from netstore.net.http2.bounds import (
    CONNECTION_WINDOW,
    EARLY_RESETS_BURST,
    EMPTY_FRAMES_BURST,
    HANDLING_WORK,
    LIST_LIMIT,
    MAX_PAUSES,
    PROBE_ANSWER_SECONDS,
    PROBE_SECONDS,
    QUEUED_LIMIT,
    QUEUED_LIMIT_OVER,
    REFILL_RATE,
    REQUEST_CHECK_SECONDS,
    ROUND_WORK,
    SHORT_TURN_WORK,
    STREAM_WINDOW,
    TURN_WORK,
    UNSENT_LIMIT,
    WORK_BURST,
    WORK_RATE,
)
from netstore.net.http2.charging import begin_message, charge
from netstore.net.http2.closing import SERVING, broken, hand_over_ready
from netstore.net.http2.control import other_frame, start_drain, window_update
from netstore.net.http2.flow import pump, tell_drained, tell_room
from netstore.net.http2.frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    FRAME_HEAD,
    FRAME_SIZE_ERROR,
    GOAWAY,
    HEADERS,
    LEAST_FRAME_LIMIT,
    MAX_FRAME,
    MAX_WINDOW,
    NUMBER,
    PING,
    PREFACE,
    PROTOCOL_ERROR,
    SET_INITIAL_WINDOW,
    SET_LIST_SIZE,
    SET_MAX_STREAMS,
    SETTING,
    SETTINGS,
    WINDOW_UPDATE,
    ConnectionFault,
    frame,
    read_head,
)
from netstore.net.http2.hpackcache import HeaderBlocks
from netstore.net.http2.opening import open_stream
from netstore.net.http2.progress import check_progress, give_up_late, is_late
from netstore.net.http2.receiving import other_data, receive_data
from netstore.net.tokenbucket import TokenBucket

if TYPE_CHECKING:
    from collections.abc import Callable

    from netstore.net.http2.head import Head
    from netstore.net.http2.server import Http2Server
    from netstore.net.http2.stream import Stream
    from netstore.net.session import Output

_PAUSES_PER_SECOND: Final = 1 / 60
_CHARGED_AT_ONCE: Final = TURN_WORK // 4
_DEFAULT_WINDOW: Final = 65_535
_DEBUG_LIMIT: Final = 256
_GRANTED_FROM: Final = CONNECTION_WINDOW // 2
_ALIVE_PING: Final = b"alive..."


class Http2Connection:
    """One HTTP/2 connection, fed with `receive`. Implements `session.Session`.

    `peer` (address) and `common_name` (of a certificate) identify the client to the application. Attributes
    without an underscore are also used by the other modules of this package.
    """

    __slots__ = (
        "_asked",
        "_held_back",
        "_more",
        "_partial",
        "_paused",
        "_pauses",
        "_probed",
        "_uncharged",
        "_work",
        "answers",
        "block_ends",
        "block_since",
        "block_stream",
        "blocked",
        "blocks",
        "charged",
        "closed_floor",
        "closed_streams",
        "common_name",
        "continuations",
        "created",
        "drain_state",
        "drained",
        "early_resets",
        "empty_frames",
        "frame_limit",
        "granted",
        "held",
        "initial_window",
        "kept",
        "last_ping",
        "last_stream",
        "max_credit",
        "now",
        "output",
        "partial_block",
        "peer",
        "progress_since",
        "queued",
        "reading",
        "ready",
        "requests_checked",
        "resetting_stalled",
        "room_waiters",
        "senders",
        "sent_before",
        "server",
        "skipped",
        "spent",
        "started",
        "streams",
        "strikes",
        "table_update_due",
        "timed_out",
        "turn_limit",
        "unfinished",
        "ungranted",
        "unparsed",
        "unparsed_since",
        "window",
        "window_waiters",
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
        """Time of the last turn, in which something was read or read data was still processed."""
        self.streams: dict[int, Stream] = {}
        self.ready: deque[Stream] = deque()
        """Streams with something to be handled, in order of arrival."""
        self.held = 0
        """Bytes of incomplete messages, counted by the streams (`Stream.weigh`)."""
        self.unfinished = 0
        """Open streams with an incomplete request or message: those with `since`."""
        self._held_back: deque[Stream] = deque()
        """Complete requests that are not handled while too much is queued for the peer's windows."""
        self.kept = 0
        """Bytes of complete requests and messages that are charged here and not to a claim."""
        self.charged = 0
        self.sent_before = 0
        """Bytes of DATA that were sent up to `progress_since`."""
        self.created = self.now
        self.requests_checked = self.unparsed_since = self.block_since = self.progress_since = self.now
        self._partial = False
        """`unparsed` is the beginning of a frame, since `unparsed_since`."""
        self._uncharged = 0
        """Units of work that are not yet counted in `_work`."""
        self.queued = 0
        """Bytes of queued DATA of all streams."""
        self.answers = 0
        """The part of `queued` that belongs to `defers_to_peer` streams."""
        self.window = _DEFAULT_WINDOW
        """The peer's connection window: bytes of DATA we may still send."""
        self.granted = _DEFAULT_WINDOW
        """All that it was so far: what is not left in `window` was sent."""
        self.initial_window = _DEFAULT_WINDOW
        """The peer's window for a new stream."""
        self.frame_limit = LEAST_FRAME_LIMIT
        """The largest payload we send in one frame."""
        self.timed_out = False
        """See `session.Session`."""
        self.strikes = 0
        """PINGs that came too soon since we last sent DATA or trailers."""
        self.spent = 0
        """Units of work in this turn, including those that streams count in `take` and `hand_over`."""
        self.turn_limit = TURN_WORK
        self._work = TokenBucket(WORK_BURST, self.now, WORK_RATE)
        self._pauses = TokenBucket(MAX_PAUSES, self.now, _PAUSES_PER_SECOND)
        self._paused = False
        """It exceeded its rate of work, and is not read."""
        self._more = False
        """Complete frames may be left in `unparsed`."""
        self._asked = False
        """Another turn was requested."""
        self.max_credit = 0
        """Upper bound of the `credit` of all streams."""
        # Where streams wait: see `flow.py`. The times say since when a window is closed.
        self.senders: deque[Stream] = deque()
        self.blocked: dict[Stream, float] = {}
        self.drained: deque[Stream] = deque()
        self.window_waiters: dict[Stream, float] = {}
        self.room_waiters: OrderedDict[Stream, None] = OrderedDict()
        self.blocks: HeaderBlocks[Head] = HeaderBlocks(server.head, server.varying, LIST_LIMIT)
        self.unparsed = b""
        self.started = False
        """The preface was received."""
        self.partial_block: bytearray | None = None
        """A header block that CONTINUATION frames complete."""
        self.block_stream = self.block_ends = self.continuations = 0
        self.last_stream = -1
        """The highest stream identifier the client has used."""
        self.skipped: list[range] = []
        """Identifiers below it that the client never used: those streams are closed (RFC 9113, 5.1.1)."""
        self.closed_streams: dict[int, int] = {}
        """Stream identifier -> who reset it, for the last ones."""
        self.closed_floor = 0
        """The highest identifier that was dropped from `closed_streams`."""
        self.ungranted = 0
        """Bytes of DATA received for which the connection window was not opened again."""
        self.table_update_due = False
        """The next header block must begin with a dynamic table size update (RFC 7541, 4.2)."""
        self.empty_frames = TokenBucket(EMPTY_FRAMES_BURST, self.now, REFILL_RATE)
        self.early_resets = TokenBucket(EARLY_RESETS_BURST, self.now, REFILL_RATE)
        self.last_ping: float | None = None
        self._probed: float | None = None
        """When a silent peer was sent a PING that it has not reacted to."""
        self.resetting_stalled = False
        """More stalled streams are left than were reset in the last sweep."""
        self.drain_state = SERVING
        settings = (
            (SET_MAX_STREAMS, server.max_streams),
            (SET_INITIAL_WINDOW, STREAM_WINDOW),
            (SET_LIST_SIZE, LIST_LIMIT),
        )
        output.write(
            frame(SETTINGS, 0, 0, b"".join(SETTING.pack(*setting) for setting in settings))
            + frame(WINDOW_UPDATE, 0, 0, NUMBER.pack(CONNECTION_WINDOW - _DEFAULT_WINDOW))
        )

    # --- the reactor's Session

    @property
    def at_limit(self) -> bool:
        """Read data is left for another turn, or the connection exceeded its rate of work. Never because of
        queued answers: WINDOW_UPDATE must be read.
        """
        return self._more or self._paused

    @property
    def answers_need_reading(self) -> bool:
        """Always: the peer's windows open by frames that we read."""
        return True

    @property
    def incomplete(self) -> bool:
        """The preface, a frame or a header block is incomplete."""
        return not self.at_limit and (
            bool(self.unparsed) or self.partial_block is not None or not self.started
        )

    @property
    def idle(self) -> bool:
        """No stream is open."""
        return not self.streams

    @property
    def has_pending(self) -> bool:
        """`resume` may have something to do."""
        return bool(self.senders or self.ready or self._held_back or self.drained or self.room_waiters)

    def receive(self, data: bytes) -> bool:
        """See `session.Session`: parse them, then hand over what is complete. What exceeds the work of one
        turn is kept for the next.
        """
        if not self.reading:
            return True
        self.server.received += len(data)
        self.unparsed = self.unparsed + data if self.unparsed else data
        self._work_on()
        return self._more or self._paused or not self.reading

    def _work_on(self) -> None:
        """One turn. The work of the last one is charged first: a connection beyond its rate is not read until
        `sweep` finds it within the rate, and is closed if that happens too often.
        """
        if not self.reading:
            return
        server = self.server
        self._asked = False
        self.now = now = server.clock()
        self._uncharged += self.spent
        self.spent = 0
        if self._uncharged > _CHARGED_AT_ONCE:
            owed, self._uncharged = self._uncharged, 0
            if not self._work.spend(now, owed) and not self._paused:
                self._paused = True
                if not self._pauses.spend(now):
                    self.fail(ENHANCE_YOUR_CALM, "more work than a connection may cause, time after time")
                    return
        if self._paused:
            return
        if now != server.round_at:
            server.begin_round(now)
        is_short = server.spent >= ROUND_WORK or self.output.short_turn
        self.turn_limit = SHORT_TURN_WORK if is_short else TURN_WORK
        data, self.unparsed = self.unparsed, b""
        try:
            position = 0 if self.started else self._begin(data)
            if self.started:
                position = self._parse(data, position)
            if position == len(data) or not self.reading:
                self._partial = False
            else:
                self.unparsed = data[position:]
                if position or not self._partial:
                    self._partial = True
                    self.unparsed_since = now
        except ConnectionFault as fault:
            self.fail(fault.code, str(fault))
        else:
            self.resume()
        server.spent += self.spent

    def ask(self) -> None:
        """Request another turn, after those of other connections."""
        if not self._asked and not self._paused:
            self._asked = True
            self.output.call_next_turn(self._work_on)

    def resume(self) -> None:
        """Send what windows and `UNSENT_LIMIT` allow, then handle what was read, as far as the limits allow.
        The connection window is opened again only when all of it is handled.
        """
        if self.senders:
            pump(self)
        ready, back = self.ready, self._held_back
        hold = (
            QUEUED_LIMIT_OVER
            if self.queued > QUEUED_LIMIT_OVER and self.output.account.over
            else QUEUED_LIMIT
        )
        if self.output.held_back:
            hold = -1  # handle no new request, however little is queued
        while ready or (back and self.queued <= hold):
            if self.spent >= self.turn_limit:
                self.ask()
                break
            if back and self.queued <= hold:
                stream = back.popleft()
            else:
                stream = ready.popleft()
                if self.queued > hold and stream.defers_to_peer and stream.open:
                    stream.return_claim()
                    back.append(stream)
                    continue
            self.spent += HANDLING_WORK
            try:
                stream.hand_over()
            except MustStop:
                raise
            except Exception as fault:  # noqa: BLE001 - logged, and the stream is reset
                broken(self, stream, fault)
        if self.ungranted >= _GRANTED_FROM and not ready and not back and self.reading:
            self.output.write(frame(WINDOW_UPDATE, 0, 0, NUMBER.pack(self.ungranted)))
            self.ungranted = 0
        if self._more:
            self.ask()
        if self.drained:
            tell_drained(self)
        if self.room_waiters:
            tell_room(self)
        charge(self)

    def eof(self) -> None:
        """The peer sends nothing more, so it can open no window: the connection is over."""
        self.gone()
        self.output.cut()

    def gone(self) -> None:
        """The connection is closed: free its streams and tell the application, in several rounds if there are
        many.
        """
        self.reading = False
        self.unparsed = b""
        streams, self.streams = self.streams, {}
        for stream in streams.values():
            stream.open = False  # only this for each: there may be 16,000
        self.queued = self.answers = self.unfinished = 0
        self.blocked.clear()
        self.window_waiters.clear()
        self.room_waiters.clear()
        self.senders.clear()
        self.drained.clear()
        self._held_back.clear()
        # The socket may stay open until the peer has read the GOAWAY; nothing is kept meanwhile.
        self.partial_block = None
        self.blocks.forget()
        self.closed_streams.clear()
        self.skipped.clear()
        self._more = self._paused = False
        self.server.free_streams(streams.values())
        hand_over_ready(self)
        charge(self)

    def refuse(self, status: int, text: bytes) -> None:
        """The rest of a frame did not arrive in time."""
        self.fail(ENHANCE_YOUR_CALM, f"{status}: {text.decode()}")

    def sweep(self, now: float) -> None:
        """Once a second: resume a connection that is within its rate of work again, enforce time limits, and
        send a PING to a silent peer, which is cut if it does not answer.
        """
        if self._paused and self._work.spend(now, 0):
            self._paused = False
            self.ask()
        self.timed_out = is_late(self, now)
        if self.unfinished and now - self.requests_checked >= REQUEST_CHECK_SECONDS:
            self.requests_checked = now
            give_up_late(self, now)
        check_progress(self, now)
        if self._probed is None:
            if now - self.now > PROBE_SECONDS:
                self._probed = now
                self.output.write(frame(PING, 0, 0, _ALIVE_PING))
        elif self.now > self._probed:
            self._probed = None
        elif now - self._probed > PROBE_ANSWER_SECONDS:
            self.output.cut()

    def drain(self) -> None:
        """The server stops: no new streams; close once the open ones have ended."""
        start_drain(self)

    # --- used by streams to answer

    def put_block(self, number: int, block: bytes, flags: int) -> None:
        """Send a header block of a stream, with CONTINUATION frames if it is long."""
        if self.table_update_due:
            block = b"\x20" + block
            self.table_update_due = False
        if len(block) <= LEAST_FRAME_LIMIT:
            self.output.write(frame(HEADERS, flags | END_HEADERS, number, block))
            return
        pieces = [block[i : i + LEAST_FRAME_LIMIT] for i in range(0, len(block), LEAST_FRAME_LIMIT)]
        parts = [frame(HEADERS, flags, number, pieces[0])]
        parts += [frame(CONTINUATION, 0, number, piece) for piece in pieces[1:-1]]
        parts.append(frame(CONTINUATION, END_HEADERS, number, pieces[-1]))
        self.output.write(b"".join(parts))

    @property
    def plain(self) -> bool:
        """A small answer with constant header blocks may be written directly."""
        return not self.table_update_due and self.output.unsent < UNSENT_LIMIT

    # --- inside: sending

    def fail(self, code: int, text: str) -> None:
        """Connection error: send GOAWAY and close (RFC 9113, 5.4.1)."""
        if not self.reading:
            return
        debug = text.encode()[:_DEBUG_LIMIT]
        last = NUMBER.pack(max(self.last_stream, 0))
        self.output.write(frame(GOAWAY, 0, 0, last + NUMBER.pack(code) + debug))
        self.finish()

    def finish(self) -> None:
        """Close the connection once what was written is sent."""
        self.output.finish()
        self.gone()

    # --- inside: reading

    def _begin(self, data: bytes) -> int:
        """Check the preface and that SETTINGS is the first frame (RFC 9113, 3.4); the offset of the first
        frame, 0 if too little is here.
        """
        if not data.startswith(PREFACE[: len(data)]):
            raise ConnectionFault(PROTOCOL_ERROR, "the connection preface is not that of HTTP/2")
        end = len(PREFACE)
        if len(data) < end + FRAME_HEAD.size:
            return 0
        head, flags, _ = read_head(data, end)
        if head & 0xFF != SETTINGS or flags & ACK:
            raise ConnectionFault(PROTOCOL_ERROR, "the first frame is not SETTINGS")
        self.started = True
        return end

    def _parse(self, data: bytes, position: int) -> int:
        """Handle complete frames, as many as the turn allows; the offset of the rest."""
        size = len(data)
        streams = self.streams
        start = position + 9
        self._more = False
        while start <= size and self.reading:
            spent = self.spent
            if spent >= self.turn_limit:
                self._more = True
                break
            self.spent = spent + 1
            head, flags, number = read_head(data, position)
            length = head >> 8
            stop = start + length
            if length > MAX_FRAME:
                raise ConnectionFault(FRAME_SIZE_ERROR, f"a frame of {length} bytes; at most {MAX_FRAME}")
            if stop > size:
                break
            kind = head & 0xFF
            if self.partial_block is not None and (kind != CONTINUATION or number != self.block_stream):
                raise ConnectionFault(PROTOCOL_ERROR, "a header block is interrupted")
            if kind == DATA:
                self.ungranted += length
                stream = streams.get(number)
                if flags > END_STREAM or not length or stream is None or stream.half_closed:
                    other_data(self, data, start, stop, flags, number)
                else:
                    stream.allowed -= length
                    receive_data(self, stream, data, start, stop, flags)
            elif kind == HEADERS and flags & ~END_STREAM == END_HEADERS and self.last_stream < number < 2**31:
                stream = open_stream(self, number, data[start:stop], flags & END_STREAM)
                if stream is not None:
                    stop = self._take_rest(stream, data, stop, size)
            elif kind == WINDOW_UPDATE and length == 4:
                window_update(self, number, data, start)
            else:
                other_frame(self, kind, flags, number & MAX_WINDOW, data[start:stop])
            position = stop
            start = position + 9
        return position

    def _take_rest(self, stream: Stream, data: bytes, position: int, size: int) -> int:
        """If the rest of the request that has just been opened follows in one whole DATA frame, as most
        clients send it, take it: nothing else can be known of its stream yet. A Content-Length that it does
        not have is left to `receive_data`. Else it has begun. The offset of the next frame.
        """
        start = position + 9
        if start >= size:
            begin_message(self, stream)
            return position
        head, flags, number = read_head(data, position)
        length: int = head >> 8
        stop = start + length
        ungranted = self.ungranted + length
        if (
            number != stream.number
            or flags != END_STREAM
            or head & 0xFF  # not DATA
            or not 0 < length <= MAX_FRAME
            or stop > size
            or (stream.expected is not None and stream.expected != length)
            or ungranted > CONNECTION_WINDOW
        ):
            begin_message(self, stream)
            return position
        self.ungranted = ungranted
        stream.half_closed = True
        if stream.expected is not None:
            stream.expected = 0
        try:
            stream.take_whole(data, start, stop)
        except MustStop:
            raise
        except Exception as fault:  # noqa: BLE001 - logged, and the stream is reset
            broken(self, stream, fault)
        return stop

    # --- inside: faults of streams

    def attempt(self, stream: Stream, call: Callable[..., None], *arguments: object) -> None:
        """Call a callback of a stream: an exception resets this stream only."""
        try:
            call(*arguments)
        except MustStop:
            raise
        except Exception as fault:  # noqa: BLE001 - logged, and the stream is reset
            broken(self, stream, fault)
