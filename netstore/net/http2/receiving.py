"""DATA frames from the client, and the windows it may send them in (RFC 9113, 5.2 and 6.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from netstore.errors import MustStop
from netstore.net.http2.bounds import CONNECTION_WINDOW, STREAM_WINDOW
from netstore.net.http2.charging import count_empty_frame
from netstore.net.http2.closing import broken, on_closed_stream, stream_error
from netstore.net.http2.frames import (
    END_STREAM,
    FLOW_CONTROL_ERROR,
    MAX_WINDOW,
    NUMBER,
    PADDED,
    PROTOCOL_ERROR,
    STREAM_CLOSED,
    WINDOW_UPDATE,
    ConnectionFault,
    frame,
    unpadded,
)

if TYPE_CHECKING:
    from netstore.net.http2.connection import Http2Connection
    from netstore.net.http2.stream import Stream


def grant(connection: Http2Connection, stream: Stream, allowed: int) -> None:
    """Open the client's window of a stream to `allowed` bytes, unless it is larger already."""
    more = allowed - stream.allowed
    if more > 0:
        stream.allowed = allowed
        connection.output.write(frame(WINDOW_UPDATE, 0, stream.number, NUMBER.pack(more)))


def receive_data(  # noqa: PLR0917 - called for each frame: its fields are not packed into an object
    connection: Http2Connection, stream: Stream, data: bytes, start: int, stop: int, ended: int
) -> None:
    """DATA of an open stream, already subtracted from `Stream.allowed`."""
    if connection.ungranted > CONNECTION_WINDOW:
        raise ConnectionFault(FLOW_CONTROL_ERROR, "more DATA than the connection's window")
    stream.received += stop - start
    if stream.allowed < 0:
        stream_error(connection, stream.number, FLOW_CONTROL_ERROR)
        return
    if stream.expected is not None:
        stream.expected -= stop - start
        if stream.expected < 0 or (ended and stream.expected):
            stream_error(connection, stream.number, PROTOCOL_ERROR)
            return
    if ended:
        stream.half_closed = True
        if stream.since is not None:
            stream.since = None
            connection.unfinished -= 1
    if stream.open:
        try:
            stream.take(data, start, stop, ended)
        except MustStop:
            raise
        except Exception as fault:  # noqa: BLE001 - logged, and the stream is reset
            broken(connection, stream, fault)
    if not ended and stream.allowed < STREAM_WINDOW // 2 and stream.open and not stream.waits:
        grant(connection, stream, STREAM_WINDOW)


def other_data(  # noqa: PLR0917 - called for each frame: its fields are not packed into an object
    connection: Http2Connection, data: bytes, start: int, stop: int, flags: int, number: int
) -> None:
    """DATA that is padded or empty, or whose stream is closed or half-closed."""
    if connection.ungranted > CONNECTION_WINDOW:
        raise ConnectionFault(FLOW_CONTROL_ERROR, "more DATA than the connection's window")
    number &= MAX_WINDOW
    counted = stop - start
    if flags & PADDED:
        start, stop = unpadded(data, start, stop)
    ended = flags & END_STREAM
    stream = connection.streams.get(number)
    if start == stop and not ended:
        count_empty_frame(connection)
    if stream is None:
        on_closed_stream(connection, number, "DATA")
    elif stream.half_closed:
        stream_error(connection, number, STREAM_CLOSED)
    else:
        stream.allowed -= counted
        receive_data(connection, stream, data, start, stop, ended)
