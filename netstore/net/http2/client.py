"""The client side of an HTTP/2 connection, without I/O (RFC 9113): what gRPC needs, and no more.

Bytes that arrived go in by `receive`, which returns what happened; bytes to be sent are collected in
`output`. The peer may make us hold at most `STREAM_WINDOW` bytes for each stream and `CONNECTION_WINDOW` in
all: windows are opened again by `consumed` only. What it may make us send is bounded too (`ANSWER_LIMIT`).
Server push is disabled.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

import msgspec
from hpack import Decoder, Encoder, HPACKError, NeverIndexedHeaderTuple

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
    LEAST_FRAME_LIMIT,
    MAX_FRAME,
    MAX_WINDOW,
    NUMBER,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    PROTOCOL_ERROR,
    PUSH_PROMISE,
    RST_STREAM,
    SET_ENABLE_PUSH,
    SET_INITIAL_WINDOW,
    SET_LIST_SIZE,
    SET_MAX_FRAME,
    SET_MAX_STREAMS,
    SET_TABLE_SIZE,
    SETTING,
    SETTINGS,
    WINDOW_UPDATE,
    WITH_PRIORITY,
    ConnectionFault,
    frame,
    unpadded,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    Field = tuple[bytes, bytes]

STREAM_WINDOW: Final = 1024 * 1024
"""Bytes that one stream may send before they are consumed."""

CONNECTION_WINDOW: Final = 4 * 1024 * 1024
"""The same for all streams together."""

LIST_LIMIT: Final = 64 * 1024
"""Size of a header list that is accepted, and of its encoded block."""

ANSWER_LIMIT: Final = 256 * 1024
"""Bytes of answers to a peer's control frames that wait to be sent."""

EMPTY_LIMIT: Final = 1000
"""Empty DATA frames that a stream may bring in a row."""

_INITIAL_WINDOW: Final = 65_535
"""Windows before SETTINGS (RFC 9113, 6.9.2)."""

_HEAD_BYTES: Final = FRAME_HEAD.size
_LARGEST_STREAM: Final = 2**31 - 1
_NEVER_INDEXED: Final = (b"authorization", b"token")
_PRIORITY_BYTES: Final = 5
_TABLE_BYTES: Final = 4096
"""The largest table that header lists are encoded with (RFC 9113, 6.5.2: the value before SETTINGS)."""
_CREDIT_SHARE: Final = 4
"""A window is opened again when this part of it was consumed: less often, the smaller the frames are."""


class Fields(msgspec.Struct, frozen=True):
    """A stream's header list or, when a head came before it, its trailers."""

    stream: int
    fields: list[tuple[bytes, bytes]]
    is_end: bool


class Data(msgspec.Struct, frozen=True):
    """Bytes of a stream. `charged` is what `consumed` must be told: padding counts too."""

    stream: int
    data: bytes
    charged: int
    is_end: bool


class Reset(msgspec.Struct, frozen=True):
    """The peer ended a stream with an error code."""

    stream: int
    code: int


class GoingAway(msgspec.Struct, frozen=True):
    """The peer takes no new streams; those above `last` were not processed."""

    last: int
    code: int
    text: str


class Pong(msgspec.Struct, frozen=True):
    """The answer to a `ping`."""


Event = Fields | Data | Reset | GoingAway | Pong


class _Stream(msgspec.Struct):
    """A stream that is open on one side at least."""

    window: int
    """Bytes that the peer lets us send."""
    unsent: deque[memoryview] = msgspec.field(default_factory=deque)
    ends: bool = False
    """END_STREAM follows the unsent bytes."""
    is_sent: bool = False
    """END_STREAM was sent."""
    held: int = 0
    """Bytes that came and are not consumed."""
    credit: int = 0
    """Bytes that were consumed, and not yet returned to the window."""
    empty: int = 0
    """Empty DATA frames since the last other one."""


class ClientConnection:
    """One connection. Its methods raise `ConnectionFault` for what the peer must not send; then the
    connection is to be closed, after `output`, which names the error, was sent.
    """

    def __init__(self) -> None:
        settings = (
            (SET_ENABLE_PUSH, 0),
            (SET_INITIAL_WINDOW, STREAM_WINDOW),
            (SET_LIST_SIZE, LIST_LIMIT),
        )
        self.output = bytearray(PREFACE)
        """Bytes to be sent; the caller removes what it sends."""
        self.output += frame(SETTINGS, 0, 0, b"".join(SETTING.pack(*setting) for setting in settings))
        self.output += frame(WINDOW_UPDATE, 0, 0, NUMBER.pack(CONNECTION_WINDOW - _INITIAL_WINDOW))
        self.max_streams = _LARGEST_STREAM
        """Streams that the peer allows to be open."""
        self.is_going_away = False
        """The peer accepts no new streams."""
        self._streams: dict[int, _Stream] = {}
        self._next = 1
        self._input = bytearray()
        self._encoder = Encoder()
        self._decoder = Decoder(max_header_list_size=LIST_LIMIT)
        self._block: tuple[int, int, bytearray] | None = None
        """Stream, flags and fragments of a header block that is not complete."""
        self._window = self._initial_window = _INITIAL_WINDOW
        self._frame_limit = LEAST_FRAME_LIMIT
        self._held = 0
        self._credit = 0
        self._answered = 0
        """Bytes in `output` that the peer's control frames caused, at least since it was empty."""
        self.is_http2 = False
        """The peer began as HTTP/2 does, with SETTINGS."""

    @property
    def open_streams(self) -> int:
        """How many streams are open."""
        return len(self._streams)

    def open(self, fields: Sequence[Field], *, is_end: bool = False) -> int:
        """Open a stream and send its header list; the stream's number."""
        stream = self._next
        self._next += 2
        coded = self._encoder.encode(
            [NeverIndexedHeaderTuple(*each) if each[0] in _NEVER_INDEXED else each for each in fields]
        )
        limit = self._frame_limit
        for at in range(0, len(coded), limit):
            flags = END_HEADERS if at + limit >= len(coded) else 0
            if at == 0 and is_end:
                flags |= END_STREAM
            self.output += frame(CONTINUATION if at else HEADERS, flags, stream, coded[at : at + limit])
        self._streams[stream] = _Stream(self._initial_window, is_sent=is_end)
        return stream

    def send(self, stream: int, data: bytes, *, is_end: bool = False) -> None:
        """Send bytes on a stream as soon as the peer's windows allow. Nothing for a stream that has ended."""
        opened = self._streams.get(stream)
        if opened is None or opened.ends or opened.is_sent:
            return
        if data:
            opened.unsent.append(memoryview(data))
        opened.ends = is_end
        self._pump(stream, opened)

    def unsent(self, stream: int) -> int:
        """Bytes of a stream that wait for the peer's windows."""
        opened = self._streams.get(stream)
        return 0 if opened is None else sum(map(len, opened.unsent))

    def reset(self, stream: int) -> None:
        """Give up a stream: nothing of it is sent or reported any more."""
        opened = self._streams.pop(stream, None)
        if opened is not None:
            self._return(opened.held)
            self.output += frame(RST_STREAM, 0, stream, NUMBER.pack(CANCEL))

    def consumed(self, stream: int, charged: int) -> None:
        """The caller holds these bytes of a stream no longer: the peer may send as many again."""
        opened = self._streams.get(stream)
        if opened is None:
            return  # what it held was returned when it ended
        opened.held -= charged
        self._open_window(stream, opened, charged)
        self._return(charged)

    def ping(self) -> None:
        """Ask the peer for a `Pong`."""
        self.output += frame(PING, 0, 0, b"netstore")

    def close(self, code: int = 0, text: str = "") -> None:
        """Tell the peer that the connection ends."""
        self.output += frame(GOAWAY, 0, 0, NUMBER.pack(0) + NUMBER.pack(code) + text.encode())

    def receive(self, data: bytes) -> list[Event]:
        """Process bytes from the peer; what they brought, in order."""
        self._input += data
        events: list[Event] = []
        at, held = 0, self._input
        try:
            while len(held) - at >= _HEAD_BYTES:
                head, flags, stream = FRAME_HEAD.unpack_from(held, at)
                length, kind = head >> 8, head & 0xFF
                _expect(length <= MAX_FRAME, "a frame")
                if len(held) - at - _HEAD_BYTES < length:
                    break
                at += _HEAD_BYTES
                self._take(kind, flags, stream & _LARGEST_STREAM, bytes(held[at : at + length]), events)
                at += length
        except ConnectionFault as fault:
            self.close(fault.code, str(fault))
            raise
        del held[:at]
        return events

    def _take(self, kind: int, flags: int, stream: int, payload: bytes, events: list[Event]) -> None:
        if not self.is_http2 and (kind != SETTINGS or flags & ACK):
            raise ConnectionFault(PROTOCOL_ERROR, "the first frame is not SETTINGS")
        if self._block is not None and (kind != CONTINUATION or stream != self._block[0]):
            raise ConnectionFault(PROTOCOL_ERROR, "a header block was interrupted")
        if kind == DATA:
            self._take_data(flags, stream, payload, events)
        elif kind == HEADERS:
            self._take_headers(flags, stream, payload, events)
        elif kind == CONTINUATION:
            if self._block is None:
                raise ConnectionFault(PROTOCOL_ERROR, "CONTINUATION of no header block")
            self._add_to_block(flags, payload, events)
        elif kind == RST_STREAM:
            _expect(len(payload) == NUMBER.size, "RST_STREAM")
            if self._end(stream):
                events.append(Reset(stream, NUMBER.unpack(payload)[0]))
        elif kind == SETTINGS:
            self._take_settings(flags, payload)
        elif kind == PING:
            _expect(len(payload) == NUMBER.size * 2, "PING")
            if flags & ACK:
                events.append(Pong())
            else:
                self._answer(frame(PING, ACK, 0, payload))
        elif kind == GOAWAY:
            _expect(len(payload) >= NUMBER.size * 2, "GOAWAY")
            self.is_going_away = True
            last, code = NUMBER.unpack_from(payload)[0], NUMBER.unpack_from(payload, 4)[0]
            events.append(GoingAway(last & _LARGEST_STREAM, code, payload[8:200].decode("utf-8", "replace")))
        elif kind == WINDOW_UPDATE:
            self._take_window(stream, payload)
        elif kind == PUSH_PROMISE:
            raise ConnectionFault(PROTOCOL_ERROR, "a push, which is disabled")
        elif kind == PRIORITY:
            _expect(len(payload) == _PRIORITY_BYTES, "PRIORITY")

    def _take_data(self, flags: int, stream: int, payload: bytes, events: list[Event]) -> None:
        charged = len(payload)
        start, stop = unpadded(payload, 0, charged) if flags & PADDED else (0, charged)
        self._held += charged
        if self._held > CONNECTION_WINDOW:
            raise ConnectionFault(FLOW_CONTROL_ERROR, "more data than the connection's window")
        opened = self._streams.get(stream)
        if opened is None:  # it was reset here, while this was under way
            if not 0 < stream < self._next:
                raise ConnectionFault(PROTOCOL_ERROR, "DATA of a stream that was not opened")
            self._return(charged)
            return
        is_end = bool(flags & END_STREAM)
        if start == stop and not is_end:
            opened.empty += 1
            if opened.empty > EMPTY_LIMIT:
                raise ConnectionFault(ENHANCE_YOUR_CALM, f"more than {EMPTY_LIMIT} empty DATA frames")
            self._open_window(stream, opened, charged)
            self._return(charged)
            return
        opened.empty = 0
        opened.held += charged
        if opened.held > STREAM_WINDOW:
            raise ConnectionFault(FLOW_CONTROL_ERROR, "more data than the stream's window")
        events.append(Data(stream, payload[start:stop], charged, is_end))
        if is_end:
            self._end(stream)

    def _take_headers(self, flags: int, stream: int, payload: bytes, events: list[Event]) -> None:
        if not 0 < stream < self._next or not stream % 2:
            raise ConnectionFault(PROTOCOL_ERROR, "HEADERS of a stream that was not opened")
        start, stop = unpadded(payload, 0, len(payload)) if flags & PADDED else (0, len(payload))
        if flags & WITH_PRIORITY:
            start += _PRIORITY_BYTES
        if start > stop:
            raise ConnectionFault(FRAME_SIZE_ERROR, "HEADERS is too short")
        self._block = stream, flags, bytearray()
        self._add_to_block(flags, payload[start:stop], events)

    def _add_to_block(self, flags: int, fragment: bytes, events: list[Event]) -> None:
        assert self._block is not None  # noqa: S101 - the callers made sure
        stream, opening_flags, coded = self._block
        coded += fragment
        if len(coded) > LIST_LIMIT:
            raise ConnectionFault(ENHANCE_YOUR_CALM, f"a header block of more than {LIST_LIMIT} bytes")
        if not flags & END_HEADERS:
            return
        self._block = None
        try:
            decoded = self._decoder.decode(bytes(coded), raw=True)
        except HPACKError as error:
            raise ConnectionFault(COMPRESSION_ERROR, str(error) or "a header block is malformed") from None
        if stream not in self._streams:
            return  # it was reset here; the block still had to be decoded, for the table
        is_end = bool(opening_flags & END_STREAM)
        events.append(Fields(stream, [(bytes(name), bytes(value)) for name, value in decoded], is_end))
        if is_end:
            self._end(stream)

    def _take_settings(self, flags: int, payload: bytes) -> None:
        self.is_http2 = True
        if flags & ACK:
            return
        _expect(len(payload) % SETTING.size == 0, "SETTINGS")
        for number, value in SETTING.iter_unpack(payload):
            if number == SET_INITIAL_WINDOW:
                if value > MAX_WINDOW:
                    raise ConnectionFault(FLOW_CONTROL_ERROR, "an initial window of 2^31 or more")
                for opened in self._streams.values():
                    opened.window += value - self._initial_window
                self._initial_window = value
            elif number == SET_MAX_FRAME and value >= LEAST_FRAME_LIMIT:
                self._frame_limit = min(value, MAX_FRAME)
            elif number == SET_MAX_STREAMS:
                self.max_streams = value
            elif number == SET_TABLE_SIZE:
                self._encoder.header_table_size = min(value, _TABLE_BYTES)
        self._answer(frame(SETTINGS, ACK, 0))
        self._pump_all()

    def _take_window(self, stream: int, payload: bytes) -> None:
        _expect(len(payload) == NUMBER.size, "WINDOW_UPDATE")
        more = NUMBER.unpack(payload)[0] & MAX_WINDOW
        self._charge(_HEAD_BYTES)  # small windows make small frames
        if stream == 0:
            self._window += more
            if not more or self._window > MAX_WINDOW:
                raise ConnectionFault(FLOW_CONTROL_ERROR, "the connection's window")
            self._pump_all()
            return
        opened = self._streams.get(stream)
        if opened is not None:
            opened.window += more
            if not more or opened.window > MAX_WINDOW:
                raise ConnectionFault(FLOW_CONTROL_ERROR, "a stream's window")
            self._pump(stream, opened)

    def _pump_all(self) -> None:
        for stream, opened in list(self._streams.items()):
            self._pump(stream, opened)

    def _pump(self, stream: int, opened: _Stream) -> None:
        """Send what the windows allow."""
        unsent = opened.unsent
        while unsent:
            room = min(opened.window, self._window, self._frame_limit)
            if room <= 0:
                return
            data = unsent.popleft()
            if len(data) > room:
                unsent.appendleft(data[room:])
                data = data[:room]
            opened.window -= len(data)
            self._window -= len(data)
            is_last = opened.ends and not unsent
            self.output += FRAME_HEAD.pack(len(data) << 8 | DATA, END_STREAM if is_last else 0, stream)
            self.output += data
            opened.is_sent |= is_last
        if opened.ends and not opened.is_sent:
            self.output += frame(DATA, END_STREAM, stream)
            opened.is_sent = True

    def _end(self, stream: int) -> bool:
        """The peer ended a stream. Whether it was open. What we have not sent is dropped: gRPC's servers end
        a stream only when they are done with it. The connection's window is opened for what was not consumed,
        because the caller may keep it as long as it likes.
        """
        opened = self._streams.pop(stream, None)
        if opened is None:
            return False
        self._return(opened.held)
        if not opened.is_sent:
            self.output += frame(RST_STREAM, 0, stream, NUMBER.pack(CANCEL))
        return True

    def _return(self, size: int) -> None:
        """Bytes of some stream are held no longer."""
        self._held -= size
        self._credit += size
        if self._credit >= CONNECTION_WINDOW // _CREDIT_SHARE:
            self.output += frame(WINDOW_UPDATE, 0, 0, NUMBER.pack(self._credit))
            self._credit = 0

    def _open_window(self, stream: int, opened: _Stream, size: int) -> None:
        opened.credit += size
        if opened.credit >= STREAM_WINDOW // _CREDIT_SHARE:
            self.output += frame(WINDOW_UPDATE, 0, stream, NUMBER.pack(opened.credit))
            opened.credit = 0

    def _answer(self, sent: bytes) -> None:
        """Send what a frame of the peer asks for."""
        self._charge(len(sent))
        self.output += sent

    def _charge(self, size: int) -> None:
        if not self.output:
            self._answered = 0
        self._answered += size
        if self._answered > ANSWER_LIMIT:
            raise ConnectionFault(ENHANCE_YOUR_CALM, f"more than {ANSWER_LIMIT} bytes of answers not taken")


def _expect(holds: bool, what: str) -> None:
    if not holds:
        raise ConnectionFault(FRAME_SIZE_ERROR, f"{what} has the wrong size")
