"""How streams end: answered, reset by either side, or lost with the connection; and the resets remembered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from netstore.net.http2.charging import charge, complete_message, count_early_reset
from netstore.net.http2.flow import cancel_room
from netstore.net.http2.frames import (
    INTERNAL_ERROR,
    NO_ERROR,
    NUMBER,
    PROTOCOL_ERROR,
    RST_STREAM,
    STREAM_CLOSED,
    ConnectionFault,
    frame,
)

if TYPE_CHECKING:
    from netstore.net.http2.connection import Http2Connection
    from netstore.net.http2.stream import Stream

_LOSS_WORK: Final = 10
_CLOSED_KNOWN: Final = 1_024

# How far a graceful shutdown has come.
SERVING: Final = 0
WARNED: Final = 1
CLOSING: Final = 2

# How a stream was closed early.
RESET_BY_US: Final = 1
RESET_BY_PEER: Final = 2


def close(connection: Http2Connection, stream: Stream) -> None:
    """The response is complete. If the request is not, the stream is reset with NO_ERROR (RFC 9113, 8.1)."""
    stream.open = False
    if stream.kept or stream.claim is not None:
        stream.free()
    if stream.since is not None:
        complete_message(connection, stream)
    if connection.streams.pop(stream.number, None) is not None and not stream.half_closed:
        connection.output.write(frame(RST_STREAM, 0, stream.number, NUMBER.pack(NO_ERROR)))
        remember(connection, stream.number, RESET_BY_US)
    if connection.drain_state == CLOSING and not connection.streams:
        connection.finish()


def reset(connection: Http2Connection, stream: Stream, code: int) -> None:
    """Send RST_STREAM and drop what was still to be sent."""
    stream.open = False
    if connection.streams.pop(stream.number, None) is None:
        return
    _drop(connection, stream)
    connection.output.write(frame(RST_STREAM, 0, stream.number, NUMBER.pack(code)))
    remember(connection, stream.number, RESET_BY_US)
    finish_if_drained(connection)


def finish_if_drained(connection: Http2Connection) -> None:
    """Close the connection if that is all that is left of a graceful shutdown. `close` has this inline."""
    if connection.drain_state == CLOSING and not connection.streams:
        connection.finish()


def _drop(connection: Http2Connection, stream: Stream) -> None:
    """Free the queue and the memory of a stream, and take it out of all waiting lists."""
    complete_message(connection, stream)
    stream.free()
    connection.blocked.pop(stream, None)
    if stream.awaiting_room:
        cancel_room(connection, stream)
    dropped = stream.drop()
    connection.queued -= dropped
    if stream.defers_to_peer:
        connection.answers -= dropped
    if connection.room_waiters:
        connection.ask()


def give_up(connection: Http2Connection, stream: Stream, code: int) -> None:
    """Reset a stream. `lost` is called first, so that the application is told even if sending fails."""
    if stream.open:
        stream.open = False
        connection.attempt(stream, stream.lost)
    reset(connection, stream, code)


def broken(connection: Http2Connection, stream: Stream, fault: Exception) -> None:
    """A callback of a stream raised: reset the stream with INTERNAL_ERROR."""
    give_up(connection, stream, INTERNAL_ERROR)
    connection.server.failed(stream, fault)


def stream_error(connection: Http2Connection, number: int, code: int) -> None:
    """Reset a stream for a stream error of the client; counted as an early reset."""
    count_early_reset(connection)
    stream = connection.streams.pop(number, None)
    connection.output.write(frame(RST_STREAM, 0, number, NUMBER.pack(code)))
    remember(connection, number, RESET_BY_US)
    if stream is not None:
        lose(connection, stream)
    finish_if_drained(connection)


def lose(connection: Http2Connection, stream: Stream) -> None:
    """Free a stream that was reset, and tell the application."""
    connection.spent += _LOSS_WORK
    _drop(connection, stream)
    if stream.open:
        stream.open = False
        connection.attempt(stream, stream.lost)


def remember(connection: Http2Connection, number: int, fate: int) -> None:
    """Remember who reset a stream. Only the last `_CLOSED_KNOWN` are known; `closed_floor` is the highest
    number that was forgotten.
    """
    ended = connection.closed_streams
    ended[number] = fate
    if len(ended) > _CLOSED_KNOWN:
        oldest = next(iter(ended))
        del ended[oldest]
        connection.closed_floor = max(connection.closed_floor, oldest)


def on_closed_stream(connection: Http2Connection, number: int, what: str) -> None:
    """Handle a frame for a stream that is not open, by how the stream was closed (RFC 9113, 5.1)."""
    check_not_idle(connection, number, what)
    fate = connection.closed_streams.get(number)
    if fate == RESET_BY_US:
        return  # it was in flight when we reset the stream
    if fate == RESET_BY_PEER or number <= connection.closed_floor:
        count_early_reset(connection)
        connection.output.write(frame(RST_STREAM, 0, number, NUMBER.pack(STREAM_CLOSED)))
    elif any(number in gap for gap in connection.skipped):
        raise ConnectionFault(PROTOCOL_ERROR, f"{what} on stream {number}, which was passed over")
    else:
        raise ConnectionFault(STREAM_CLOSED, f"{what} on stream {number}, which has ended")


def check_not_idle(connection: Http2Connection, number: int, what: str) -> None:
    """ConnectionFault for a frame on a stream in state "idle" (RFC 9113, 5.1)."""
    if not number & 1 or number > connection.last_stream:
        raise ConnectionFault(PROTOCOL_ERROR, f"{what} on stream {number}, which is not open")


def free_orphan(connection: Http2Connection, stream: Stream) -> None:
    """Free a stream whose connection is closed, and tell the application that it ended."""
    stream.since = None
    if stream.queued:
        stream.drop()
    connection.attempt(stream, stream.free)
    if not stream.ended:
        connection.attempt(stream, stream.lost)
    hand_over_ready(connection)
    charge(connection)


def hand_over_ready(connection: Http2Connection) -> None:
    """Call `hand_over` of the streams in `ready` on a closed connection: no request is handled, the streams
    only report their end.
    """
    ready = connection.ready
    while ready:
        stream = ready.popleft()
        connection.attempt(stream, stream.hand_over)
