"""Frames other than DATA and the common HEADERS: WINDOW_UPDATE, SETTINGS, PING, RST_STREAM and the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from netstore.net.http2.bounds import FRAME_LIMIT, IDLE_PING_SECONDS, MAX_PING_STRIKES, PING_SECONDS
from netstore.net.http2.charging import count_early_reset, count_empty_frame
from netstore.net.http2.closing import (
    CLOSING,
    RESET_BY_PEER,
    SERVING,
    WARNED,
    check_not_idle,
    finish_if_drained,
    lose,
    remember,
    stream_error,
)
from netstore.net.http2.flow import set_initial_window, unblock, window_opened
from netstore.net.http2.frames import (
    ACK,
    CONTINUATION,
    ENHANCE_YOUR_CALM,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    GOAWAY,
    HEADERS,
    LEAST_FRAME_LIMIT,
    MAX_WINDOW,
    NO_ERROR,
    NUMBER,
    PING,
    PRIORITY,
    PROTOCOL_ERROR,
    PUSH_PROMISE,
    RST_STREAM,
    SET_ENABLE_PUSH,
    SET_INITIAL_WINDOW,
    SET_MAX_FRAME,
    SET_TABLE_SIZE,
    SETTING,
    SETTINGS,
    WINDOW_UPDATE,
    ConnectionFault,
    frame,
)
from netstore.net.http2.opening import continuation, headers

if TYPE_CHECKING:
    from netstore.net.http2.connection import Http2Connection

_SETTINGS_PER_UNIT: Final = 4
_EARLY_SECONDS: Final = 1.0
_LARGEST_FRAME_LIMIT: Final = 2**24 - 1
_DEFAULT_TABLE: Final = 4_096
_DRAIN_PING: Final = b"draining"


def other_frame(connection: Http2Connection, kind: int, flags: int, number: int, payload: bytes) -> None:
    """Every frame that `Http2Connection` does not handle in its parsing loop."""
    if kind == HEADERS:
        headers(connection, flags, number, payload)
    elif kind == CONTINUATION:
        continuation(connection, flags, payload)
    elif kind == RST_STREAM:
        _rst_stream(connection, number, payload)
    elif kind == SETTINGS:
        _settings(connection, flags, number, payload)
    elif kind == PING:
        _ping(connection, flags, number, payload)
    elif kind == GOAWAY:
        if number:
            raise ConnectionFault(PROTOCOL_ERROR, "GOAWAY on a stream")
        if len(payload) < 8:
            raise ConnectionFault(FRAME_SIZE_ERROR, "a GOAWAY of less than 8 bytes")
        count_empty_frame(connection)
    elif kind == PRIORITY:
        if not number:
            raise ConnectionFault(PROTOCOL_ERROR, "PRIORITY on no stream")
        if len(payload) != 5:
            stream_error(connection, number, FRAME_SIZE_ERROR)
        count_empty_frame(connection)
    elif kind == WINDOW_UPDATE:
        raise ConnectionFault(FRAME_SIZE_ERROR, "a WINDOW_UPDATE that is not 4 bytes")
    elif kind == PUSH_PROMISE:
        raise ConnectionFault(PROTOCOL_ERROR, "a client cannot push")
    else:
        count_empty_frame(connection)


def window_update(connection: Http2Connection, number: int, data: bytes, start: int) -> None:
    """A WINDOW_UPDATE frame of the right length."""
    more = NUMBER.unpack_from(data, start)[0] & MAX_WINDOW
    number &= MAX_WINDOW
    if number == 0:
        if not more:
            raise ConnectionFault(PROTOCOL_ERROR, "a WINDOW_UPDATE of nothing")
        connection.window += more
        connection.granted += more
        if connection.window > MAX_WINDOW:
            raise ConnectionFault(FLOW_CONTROL_ERROR, "the connection's window is larger than 2^31-1")
        return
    stream = connection.streams.get(number)
    if stream is None:
        check_not_idle(connection, number, "WINDOW_UPDATE")
    elif not more:
        stream_error(connection, number, PROTOCOL_ERROR)
    else:
        stream.credit += more
        connection.max_credit = max(connection.max_credit, stream.credit)
        window = connection.initial_window + stream.credit
        if window > MAX_WINDOW:
            stream_error(connection, number, FLOW_CONTROL_ERROR)
        elif window > 0:
            if stream in connection.blocked:
                unblock(connection, stream)
            if window > stream.queued and stream in connection.window_waiters:
                window_opened(connection, stream)


def _rst_stream(connection: Http2Connection, number: int, payload: bytes) -> None:
    if len(payload) != 4:
        raise ConnectionFault(FRAME_SIZE_ERROR, "a RST_STREAM that is not 4 bytes")
    stream = connection.streams.pop(number, None)
    if stream is None:
        check_not_idle(connection, number, "RST_STREAM")
        count_empty_frame(connection)
        return
    remember(connection, number, RESET_BY_PEER)
    if connection.now - stream.opened_at < _EARLY_SECONDS:
        count_early_reset(connection)
    lose(connection, stream)
    finish_if_drained(connection)


def _settings(connection: Http2Connection, flags: int, number: int, payload: bytes) -> None:
    if number:
        raise ConnectionFault(PROTOCOL_ERROR, "SETTINGS on a stream")
    if len(payload) % 6 or (flags & ACK and payload):
        raise ConnectionFault(FRAME_SIZE_ERROR, f"SETTINGS of {len(payload)} bytes")
    count_empty_frame(connection)
    if flags & ACK:
        return
    connection.spent += len(payload) // 6 // _SETTINGS_PER_UNIT
    window = connection.initial_window
    for name, value in SETTING.iter_unpack(payload):
        if name == SET_INITIAL_WINDOW:
            if value > MAX_WINDOW:
                raise ConnectionFault(FLOW_CONTROL_ERROR, "an initial window larger than 2^31-1")
            window = value
        else:
            _set(connection, name, value)
    if window != connection.initial_window:
        set_initial_window(connection, window)
    connection.output.write(frame(SETTINGS, ACK, 0))


def _set(connection: Http2Connection, name: int, value: int) -> None:
    if name == SET_MAX_FRAME:
        if not LEAST_FRAME_LIMIT <= value <= _LARGEST_FRAME_LIMIT:
            raise ConnectionFault(PROTOCOL_ERROR, f"a frame limit of {value}")
        connection.frame_limit = min(value, FRAME_LIMIT)
    elif name == SET_TABLE_SIZE:
        # We put nothing into the peer's table, but a smaller one must be acknowledged in the next block
        # (RFC 7541, 4.2).
        connection.table_update_due = connection.table_update_due or value < _DEFAULT_TABLE
    elif name == SET_ENABLE_PUSH and value > 1:
        raise ConnectionFault(PROTOCOL_ERROR, "ENABLE_PUSH is 0 or 1")


def _ping(connection: Http2Connection, flags: int, number: int, payload: bytes) -> None:
    if number:
        raise ConnectionFault(PROTOCOL_ERROR, "PING on a stream")
    if len(payload) != 8:
        raise ConnectionFault(FRAME_SIZE_ERROR, "a PING that is not 8 bytes")
    if flags & ACK:
        count_empty_frame(connection)
        if payload == _DRAIN_PING and connection.drain_state == WARNED:
            connection.drain_state = CLOSING
            last = NUMBER.pack(max(connection.last_stream, 0))
            connection.output.write(frame(GOAWAY, 0, 0, last + NUMBER.pack(NO_ERROR)))
            finish_if_drained(connection)
        return
    connection.output.write(frame(PING, ACK, 0, payload))
    last_ping, connection.last_ping = connection.last_ping, connection.now
    apart = PING_SECONDS if connection.streams else IDLE_PING_SECONDS
    if last_ping is not None and connection.now - last_ping < apart:
        connection.strikes += 1
        if connection.strikes > MAX_PING_STRIKES:
            raise ConnectionFault(ENHANCE_YOUR_CALM, "too_many_pings")


def start_drain(connection: Http2Connection) -> None:
    """Begin a graceful shutdown. GOAWAY is sent twice with a round trip (a PING) between, so that no request
    in flight is lost (RFC 9113, 6.8).
    """
    if connection.drain_state == SERVING and connection.reading:
        connection.drain_state = WARNED
        connection.output.write(
            frame(GOAWAY, 0, 0, NUMBER.pack(MAX_WINDOW) + NUMBER.pack(NO_ERROR))
            + frame(PING, 0, 0, _DRAIN_PING)
        )
        for stream in list(connection.streams.values()):
            if stream.open:
                connection.attempt(stream, stream.drain)
