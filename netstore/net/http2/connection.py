"""One HTTP/2 connection: its frames read, streams fed, windows kept, and its end."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Final

from netstore.errors import MustStop
from netstore.net.allowance import Allowance
from netstore.net.exchange import LOW_WATER
from netstore.net.hpackcache import BadBlock, HeaderBlocks, LargeList
from netstore.net.http2.bounds import (
    BLOCK_SECONDS,
    CONNECTION_WINDOW,
    CONTINUATIONS,
    CROWD,
    DEPARTED_AT_ONCE,
    EARLY_RESETS,
    FORGIVEN,
    FRAME_SECONDS,
    GIVEN,
    GIVEN_OVER,
    HANDLED,
    HELD_LIMIT,
    HELD_OVER,
    HOLD,
    HOLD_OVER,
    IDLE_FRAMES,
    IDLE_PING_SECONDS,
    LIST_LIMIT,
    LOOK_SECONDS,
    PACE,
    PAUSES,
    PER_SECOND,
    PING_SECONDS,
    PING_STRIKES,
    PREFACE_SECONDS,
    PROBE_ANSWER_SECONDS,
    PROBE_SECONDS,
    REQUEST_RATE,
    REQUEST_SECONDS,
    SHORT_SLICE,
    SLICE,
    STALL_RATE,
    STALL_SECONDS,
    STREAM_COST,
    STREAM_WINDOW,
    STREAMS_OVER,
    TOLD_AT_ONCE,
    UNFINISHED,
    WORK_BURST,
    WORK_RATE,
)
from netstore.net.http2.frames import (
    ACK,
    CANCEL,
    COMPRESSION_ERROR,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    FLOW_CONTROL_ERROR,
    FRAME_HEAD,
    FRAME_SIZE_ERROR,
    GOAWAY,
    HEADERS,
    INTERNAL_ERROR,
    MAX_FRAME,
    MAX_WINDOW,
    NO_ERROR,
    NUMBER,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    PROTOCOL_ERROR,
    PUSH_PROMISE,
    REFUSED_STREAM,
    RST_STREAM,
    SET_ENABLE_PUSH,
    SET_INITIAL_WINDOW,
    SET_LIST_SIZE,
    SET_MAX_FRAME,
    SET_MAX_STREAMS,
    SET_TABLE_SIZE,
    SETTING,
    SETTINGS,
    STREAM_CLOSED,
    WINDOW_UPDATE,
    WITH_PRIORITY,
    ConnectionFault,
    StreamFault,
    frame,
    unpadded,
)
from netstore.net.http2.head import trailers_allowed

if TYPE_CHECKING:
    from collections.abc import Callable

    from netstore.net.http1 import Output
    from netstore.net.http2.head import Head
    from netstore.net.http2.server import Http2Server
    from netstore.net.http2.stream import Stream

_PAUSES_PER_SECOND: Final = 1 / 60
_REFUSED_WORK: Final = 8
_LOSS_WORK: Final = 10
_OPEN_WORK: Final = 5
_SETTINGS_PER_UNIT: Final = 4
_STREAMS_PER_UNIT: Final = 8
_EARLY_SECONDS: Final = 1.0
_CHARGED_AT_ONCE: Final = SLICE // 4

_SMALLEST_FRAME_LIMIT: Final = 16_384
_LARGEST_FRAME_LIMIT: Final = 2**24 - 1
_FRAME_WANTED: Final = 64 * 1024
_DEFAULT_WINDOW: Final = 65_535
_DEFAULT_TABLE: Final = 4_096
_ENDED_KNOWN: Final = 1_024
_GAPS_KNOWN: Final = 64
_DEBUG_LIMIT: Final = 256
_DRAIN_PING: Final = b"draining"
_ALIVE_PING: Final = b"alive..."

# How far a graceful end has come.
_SERVING: Final = 0
_WARNED: Final = 1
_CLOSING: Final = 2

# What became of a stream that is no more.
_RESET_BY_US: Final = 1
_RESET_BY_PEER: Final = 2


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
        "_kept",
        "_last",
        "_last_ping",
        "_line",
        "_looked",
        "_more",
        "_owed",
        "_parked",
        "_partial",
        "_paused",
        "_pauses",
        "_probed",
        "_resetting",
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
        "answers",
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
        """When it had its last turn: when something was read last, or was still to be worked off."""
        self.streams: dict[int, Stream] = {}
        self.ready: deque[Stream] = deque()
        """Streams that have something to be handled, in the order it came."""
        self.held = 0
        """Bytes of messages that have not come whole, counted by the application."""
        self.unfinished = 0
        """Open streams that are not complete: those with `since`."""
        self._held_back: deque[Stream] = deque()
        self._kept = 0
        """Bytes of whole requests and messages that are charged here, and not to a claim."""
        self._charged = 0
        self.moved = 0
        """Bytes of DATA that were sent since `_stalled_since`."""
        self._created = self.now
        self._looked = self._rest_since = self._block_since = self._stalled_since = self.now
        self._partial = False
        self._owed = 0
        self.queued = 0
        """Bytes of DATA of all streams that wait for their turn or a window."""
        self.answers = 0
        """Those of them that are of `patient` streams."""
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
        self._blocked: dict[Stream, float] = {}
        """Streams that have something to send and no window, and since when."""
        self._turn: deque[Stream] = deque()
        self._parked: dict[Stream, float] = {}
        """Streams that want room and whose own window has none, and since when."""
        self._line: OrderedDict[Stream, None] = OrderedDict()
        """Those whose window has: they wait for the connection. In the order they came."""
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
        self._idle = Allowance(IDLE_FRAMES, self.now, PER_SECOND)
        self._early = Allowance(EARLY_RESETS, self.now, PER_SECOND)
        self._last_ping: float | None = None
        self._probed: float | None = None
        self._resetting = False
        """More streams are stalled than were reset in one sweep."""
        self._drain = _SERVING
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
    def idle(self) -> bool:
        """No stream is open."""
        return not self.streams

    @property
    def has_pending(self) -> bool:
        """`resume` may have something to do."""
        return bool(self._turn or self.ready or self._held_back or self._watered or self._line)

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
        self._slice = SHORT_SLICE if self.output.hurried else server.turn(self.now)
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
                    stream.set_aside()
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
            self.output.write(frame(WINDOW_UPDATE, 0, 0, NUMBER.pack(self._taken)))
            self._taken = 0
        if self._more:
            self._ask()
        if self._watered:
            self._tell_drained()
        if self._line:
            self._tell_room()
        self._charge()

    def _charge(self) -> None:
        """See that the account says what is held here: answers that wait for windows, messages that are not
        whole, whole ones that have no claim, streams, what was read and is not parsed, and what is remembered
        of header blocks.
        """
        block = self._block
        lasting = STREAM_COST * len(self.streams) + self._blocks.held + self._kept
        held = self.queued + self.held + lasting + len(self._rest)
        if block is not None:
            held += len(block)
        if held != self._charged:
            self.output.account.charge(held - self._charged, lasting)
            self._charged = held

    def keep(self, more: int) -> None:
        """A stream keeps so many bytes more, or fewer, of what came whole. Charged at once: answers are given
        at any time, and what is idle is not looked at again.
        """
        self._kept += more
        self._charge()

    @property
    def holds_too_much(self) -> bool:
        """Requests and messages that are not whole have come to their bound, which is lower once the memory
        for all is spent.
        """
        held = self.held
        return held > HELD_LIMIT or (held > HELD_OVER and self.output.account.over)

    @property
    def takes_answers(self) -> bool:
        """One more answer may wait here: few bytes do, or the memory for all is not spent. What waits is
        charged first, because answers come many at once, when the reads of a round are done.
        """
        if self.queued <= HOLD_OVER:
            return True
        self._charge()
        return not self.output.account.over

    @property
    def is_crowded(self) -> bool:
        """As much waits for windows as may, of all streams together."""
        return self.queued > CROWD or self.output.account.over

    def began(self, stream: Stream) -> None:
        """A stream has part of a message."""
        if stream.since is None:
            self.unfinished += 1
        stream.since = self.now
        stream.came = 0

    def completed(self, stream: Stream) -> None:
        """What a stream had in part is complete, or will not be."""
        if stream.since is not None:
            stream.since = None
            self.unfinished -= 1

    def widen(self, stream: Stream, allowed: int) -> None:
        """The client may send so many bytes on this stream, or more where it may already."""
        more = allowed - stream.allowed
        if more > 0:
            stream.allowed = allowed
            self.output.write(frame(WINDOW_UPDATE, 0, stream.number, NUMBER.pack(more)))

    def await_drain(self, stream: Stream) -> None:
        """A stream wants to know, once, when it has drained."""
        if not stream.awaiting_drain:
            stream.awaiting_drain = True
            if stream.queued <= LOW_WATER // 2:
                self._watered.append(stream)

    def _tell_drained(self) -> None:
        """Tell the streams whose queue is short that they have drained, if the network takes what is sent.
        Those whose window is closed do not stand here, so that nothing walks over them.
        """
        watered = self._watered
        for _ in range(len(watered)):
            if self.output.unsent > LOW_WATER // 2:
                break
            if self.spent >= self._slice:
                self._ask()
                break
            stream = watered.popleft()
            if stream.queued > LOW_WATER // 2:
                continue  # more was given to it meanwhile; it comes here again as that drains
            stream.awaiting_drain = False
            if stream.open:
                self.spent += HANDLED
                self.attempt(stream, stream.drained)

    @property
    def takes_more(self) -> bool:
        """More of a long answer may be given to this connection, as far as what waits on it goes."""
        if self.output.unsent >= PACE:
            return False
        answers = self.answers
        return answers <= GIVEN_OVER or (answers <= GIVEN and not self.output.account.over)

    def takes_whole(self, size: int) -> bool:
        """An answer of so many bytes may be given in one piece, though all of it may have to wait here."""
        return self.answers + size <= (GIVEN_OVER if self.output.account.over else GIVEN)

    def want_room(self, stream: Stream) -> None:
        """A stream wants to know, once, when it has `room`. For who has seen that it has none."""
        if not stream.wanting:
            stream.wanting = True
            if stream.window > stream.queued:
                self._line[stream] = None
            else:
                self._parked[stream] = self.server.clock()

    def unwant(self, stream: Stream) -> None:
        """A stream needs no room any more."""
        stream.wanting = False
        self._parked.pop(stream, None)
        self._line.pop(stream, None)

    def _tell_room(self) -> None:
        """Tell the first streams in line that there is room. Whoever is left is reached without fail: either
        there is no room, and what makes some calls `resume` (a window that opens, what is sent, a stream that
        is dropped), or a turn is asked for here.
        """
        line = self._line
        told = 0
        while line and self.window > 0 and self.output.unsent <= LOW_WATER and self.takes_more:
            if told >= TOLD_AT_ONCE or self.spent >= self._slice:
                self._ask()
                break
            stream, _ = line.popitem(last=False)
            if stream.window <= stream.queued:
                self.spent += 1
                self._parked[stream] = self.server.clock()  # the peer took a part of its window back
                continue
            stream.wanting = False
            told += 1
            self.spent += HANDLED
            self.attempt(stream, stream.drained)

    def eof(self) -> None:
        """The peer sends nothing more, and so can open no window: the connection is over."""
        self.gone()
        self.output.cut()

    def gone(self) -> None:
        """The connection is closed: nothing more is sent on any stream. What each holds is freed, and who
        waits for it told, now or, if there are many, in the rounds that follow.
        """
        self.reading = False
        self._rest = b""
        streams, self.streams = self.streams, {}
        for stream in streams.values():
            stream.open = False  # no more than this of each: there may be 16,000
        self.queued = self.answers = self.unfinished = 0
        self._blocked.clear()
        self._parked.clear()
        self._line.clear()
        self._turn.clear()
        self._watered.clear()
        self._held_back.clear()
        # The connection may stay for a while, until its peer has read why it ends: it keeps nothing then.
        self._block = None
        self._blocks.forget()
        self._ended.clear()
        self._gaps.clear()
        self._more = self._paused = False
        self.server.depart(streams.values())
        self.hand_over_ready()
        self._charge()

    def let_go(self, stream: Stream) -> None:
        """The connection is gone, and this was one of its streams: free what it holds, and tell who waits for
        its end.
        """
        stream.since = None
        if stream.queued:
            stream.drop()
        self.attempt(stream, stream.free)
        if not stream.ended:
            self.attempt(stream, stream.lost)
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
        if self.busy or self.output.paused:
            self._rest_since = self._block_since = now
            return False  # the rest may be here, or wait to be read
        if not self._started:
            return now - self._created > PREFACE_SECONDS
        if self._block is not None and now - self._block_since > BLOCK_SECONDS:
            return True
        return bool(self._rest) and now - self._rest_since > FRAME_SECONDS

    def _give_up_late(self, now: float) -> None:
        """Reset requests of which too little came in their time, so many at once; the others begin another.
        O(open streams), charged.
        """
        self.spent += len(self.streams) // _STREAMS_PER_UNIT
        limit = now - REQUEST_SECONDS
        late = []
        for stream in self.streams.values():
            if stream.since is not None and stream.since < limit and stream.awaited:
                if stream.waits:
                    stream.since = now
                    stream.came = 0
                elif stream.came < REQUEST_SECONDS * REQUEST_RATE:
                    late.append(stream)
                else:
                    stream.since = now
                    stream.came = 0
        for stream in late[:DEPARTED_AT_ONCE]:
            self._give_up(stream, CANCEL)
        if len(late) > DEPARTED_AT_ONCE:
            self._looked = now - LOOK_SECONDS
        self.resume()

    def _check_progress(self, now: float) -> None:
        """See that a peer that asks for answers lets them through. What the network does not take is the
        reactor's to judge.

        Streams whose own window has been closed all the while are reset, the heaviest first and so many in a
        sweep, until the others hold little: whoever reads the others may not know of them. Where it is the
        window of the connection, or the windows of streams are opened a little now and then, the connection
        is closed. O(streams that wait), charged.
        """
        if self._resetting:
            self._reset_stalled(now - STALL_SECONDS)
            return
        unsent = self.output.unsent
        waits = self.queued > LOW_WATER or self._parked or (self._line and unsent <= LOW_WATER)
        if not waits or unsent >= PACE:
            enough = True
        elif now - self._stalled_since <= STALL_SECONDS:
            return
        else:
            enough = self.moved >= STALL_SECONDS * STALL_RATE
        self._stalled_since = now
        self.moved = 0
        if not enough and not (self.window > 0 and self._reset_stalled(now - STALL_SECONDS)):
            self._fail(ENHANCE_YOUR_CALM, "too little of what was asked for is let through by the windows")

    def _reset_stalled(self, limit: float) -> bool:
        """Reset streams whose window has been closed since before then; whether there were any that hold
        much.
        """
        self.spent += (len(self._blocked) + len(self._parked)) // _STREAMS_PER_UNIT
        stalled = [stream for stream, since in self._parked.items() if since <= limit]
        blocked = [stream for stream, since in self._blocked.items() if since <= limit]
        blocked.sort(key=_queued_of, reverse=True)
        held = sum(map(_queued_of, blocked))
        for stream in blocked:
            if held <= LOW_WATER:
                break
            held -= stream.queued
            stalled.append(stream)
        for stream in stalled[:DEPARTED_AT_ONCE]:
            self._give_up(stream, ENHANCE_YOUR_CALM)
        self._resetting = len(stalled) > DEPARTED_AT_ONCE
        if stalled:
            self.resume()
        return bool(stalled)

    def drain(self) -> None:
        """The server stops: no new streams; close once those that are open have ended.

        The peer is told twice, with a round trip between, so that no request on its way is lost (RFC 9113,
        6.8).
        """
        if self._drain == _SERVING and self.reading:
            self._drain = _WARNED
            self.output.write(
                frame(GOAWAY, 0, 0, NUMBER.pack(MAX_WINDOW) + NUMBER.pack(NO_ERROR))
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
        return not self._shrink and self.output.unsent < PACE

    def enqueue(self, stream: Stream, size: int) -> None:
        """A stream has so many more bytes queued."""
        self.queued += size
        if stream.patient:
            self.answers += size
        if stream.turning:
            return
        if stream.window > 0:
            stream.turning = True
            self._turn.append(stream)
            self._pump()
        else:
            self._blocked[stream] = self.server.clock()
        self._charge()

    def close(self, stream: Stream) -> None:
        """A stream's answer is sent whole. One whose request was not is reset without blame (RFC 9113,
        8.1).
        """
        stream.open = False
        stream.free()
        if stream.since is not None:
            self.completed(stream)
        if self.streams.pop(stream.number, None) is not None and not stream.half_closed:
            self.output.write(frame(RST_STREAM, 0, stream.number, NUMBER.pack(NO_ERROR)))
            self._remember(stream.number, _RESET_BY_US)
        if self._drain == _CLOSING and not self.streams:
            self._finish()

    def reset(self, stream: Stream, code: int) -> None:
        """Give a stream up, whatever was still to be sent."""
        stream.open = False
        if self.streams.pop(stream.number, None) is None:
            return
        self._drop(stream)
        self.output.write(frame(RST_STREAM, 0, stream.number, NUMBER.pack(code)))
        self._remember(stream.number, _RESET_BY_US)
        if self._drain == _CLOSING and not self.streams:
            self._finish()

    def _drop(self, stream: Stream) -> None:
        """Forget what a stream had queued, and what it was to complete."""
        self.completed(stream)
        stream.free()
        self._blocked.pop(stream, None)
        if stream.wanting:
            self.unwant(stream)
        dropped = stream.drop()
        self.queued -= dropped
        if stream.patient:
            self.answers -= dropped
        if self._line:
            self._ask()

    # --- inside: sending

    def _pump(self) -> None:
        """Frame what is queued, one frame of each stream in turn."""
        while self._turn and self.window > 0 and self.output.unsent < PACE:
            if self.spent >= self._slice:
                self._ask()
                break
            self._frame_some(PACE - self.output.unsent)

    def _frame_some(self, most: int) -> None:
        """Frame about so many bytes, which are written at once: each write has its price."""
        turn = self._turn
        framed: list[bytes | memoryview] = []
        while turn and self.window > 0 and most > 0 and self.spent < self._slice:
            self.spent += 1
            stream = turn.popleft()
            room = min(self.initial_window + stream.credit, self.window, self.frame_limit)
            if room <= 0 or not stream.queued:
                stream.turning = False
                if stream.queued:
                    self._blocked[stream] = self.server.clock()
                continue
            size = min(stream.queued, room)
            framed.append(FRAME_HEAD.pack(size << 8, 0, stream.number))
            stream.fill(size, framed)
            stream.credit -= size
            self.window -= size
            self.queued -= size
            if stream.patient:
                self.answers -= size
            self.moved += size
            self.strikes = FORGIVEN
            most -= size
            if stream.awaiting_drain and stream.queued <= LOW_WATER // 2 < stream.queued + size:
                self._watered.append(stream)
            if stream.queued:
                turn.append(stream)
                continue
            stream.turning = False
            if stream.ended:  # its trailers follow
                self.output.write_all(framed)
                framed = []
                stream.sent()
        if framed:
            self.output.write_all(framed)

    def _fail(self, code: int, text: str) -> None:
        """End the connection for a fault of the peer."""
        if not self.reading:
            return
        debug = text.encode()[:_DEBUG_LIMIT]
        last = NUMBER.pack(max(self._last, 0))
        self.output.write(frame(GOAWAY, 0, 0, last + NUMBER.pack(code) + debug))
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
        if len(data) < end + FRAME_HEAD.size:
            return 0
        head, flags, _ = FRAME_HEAD.unpack_from(data, end)
        if head & 0xFF != SETTINGS or flags & ACK:
            raise ConnectionFault(PROTOCOL_ERROR, "the first frame is not SETTINGS")
        self._started = True
        return end

    def _parse(self, data: bytes, position: int) -> int:
        """Take every whole frame, or as many as a turn allows; where the rest begins."""
        size = len(data)
        streams = self.streams
        unpack = FRAME_HEAD.unpack_from
        start = position + 9
        self._more = False
        while start <= size and self.reading:
            spent = self.spent
            if spent >= self._slice:
                self._more = True
                break
            self.spent = spent + 1
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
                self._other(kind, flags, number & MAX_WINDOW, data[start:stop])
            position = stop
            start = position + 9
        return position

    def _data(self, stream: Stream, data: bytes, start: int, stop: int, ended: int) -> None:
        """DATA of an open stream, which was already counted against its window."""
        if self._taken > CONNECTION_WINDOW:
            raise ConnectionFault(FLOW_CONTROL_ERROR, "more DATA than the connection's window")
        stream.came += stop - start
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
        if not ended and stream.allowed < STREAM_WINDOW // 2 and stream.open and not stream.waits:
            self.widen(stream, STREAM_WINDOW)

    def _odd_data(self, data: bytes, start: int, stop: int, flags: int, number: int) -> None:
        """DATA that is padded, empty, or of no stream that can take it."""
        if self._taken > CONNECTION_WINDOW:
            raise ConnectionFault(FLOW_CONTROL_ERROR, "more DATA than the connection's window")
        number &= MAX_WINDOW
        counted = stop - start
        if flags & PADDED:
            start, stop = unpadded(data, start, stop)
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
            head, timeout = blocks.find(block) or blocks.read(block)
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
            or (len(self.streams) >= STREAMS_OVER and self.output.account.over)
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
                self.output.write(frame(RST_STREAM, 0, number, NUMBER.pack(INTERNAL_ERROR)))
                self._remember(number, _RESET_BY_US)
                self.server.failed(head, fault)
                return
            self.spent += _OPEN_WORK
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
            self.attempt(stream, stream.take, b"", 0, 0, END_STREAM)

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
        more = NUMBER.unpack_from(data, start)[0] & MAX_WINDOW
        number &= MAX_WINDOW
        if number == 0:
            if not more:
                raise ConnectionFault(PROTOCOL_ERROR, "a WINDOW_UPDATE of nothing")
            self.window += more
            if self.window > MAX_WINDOW:
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
            if window > MAX_WINDOW:
                self._blame(number, FLOW_CONTROL_ERROR)
            elif window > 0:
                if stream in self._blocked:
                    self._unblock(stream)
                if window > stream.queued and stream in self._parked:
                    self._unpark(stream)

    def _unblock(self, stream: Stream) -> None:
        """A stream whose window was closed may send again."""
        del self._blocked[stream]
        stream.turning = True
        self._turn.append(stream)

    def _unpark(self, stream: Stream) -> None:
        """A stream that wants room has it, as far as its own window goes."""
        del self._parked[stream]
        self._line[stream] = None

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
            start, stop = unpadded(payload, start, stop)
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
        for name, value in SETTING.iter_unpack(payload):
            if name == SET_INITIAL_WINDOW:
                if value > MAX_WINDOW:
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
        if window + self._widest > MAX_WINDOW:
            self.spent += len(self.streams) // _STREAMS_PER_UNIT
            self._widest = max((stream.credit for stream in self.streams.values()), default=0)
            if window + self._widest > MAX_WINDOW:
                raise ConnectionFault(FLOW_CONTROL_ERROR, "a stream's window is larger than 2^31-1")
        wider = window > self.initial_window
        self.initial_window = window
        if wider and self._blocked:
            self.spent += len(self._blocked) // _STREAMS_PER_UNIT
            for stream in [each for each in self._blocked if window + each.credit > 0]:
                self._unblock(stream)
        if wider and self._parked:
            self.spent += len(self._parked) // _STREAMS_PER_UNIT
            for stream in [each for each in self._parked if window + each.credit > each.queued]:
                self._unpark(stream)

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
                last = NUMBER.pack(max(self._last, 0))
                self.output.write(frame(GOAWAY, 0, 0, last + NUMBER.pack(NO_ERROR)))
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
            self.output.write(frame(RST_STREAM, 0, number, NUMBER.pack(STREAM_CLOSED)))
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
        self.output.write(frame(RST_STREAM, 0, number, NUMBER.pack(code)))
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

    def attempt(self, stream: Stream, call: Callable[..., None], *arguments: object) -> None:
        """The edge of a stream: what it raises ends this stream, and whoever is called after it is called."""
        try:
            call(*arguments)
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


def _queued_of(stream: Stream) -> int:
    return stream.queued
