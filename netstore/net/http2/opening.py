"""Header blocks: HEADERS and CONTINUATION frames, the streams they open, and trailers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from netstore.errors import MustStop
from netstore.net.http2.bounds import LIST_LIMIT, MAX_CONTINUATIONS, MAX_STREAMS_OVER, MAX_UNFINISHED
from netstore.net.http2.charging import begin_message, complete_message
from netstore.net.http2.closing import CLOSING, RESET_BY_US, WARNED, on_closed_stream, remember, stream_error
from netstore.net.http2.frames import (
    COMPRESSION_ERROR,
    END_HEADERS,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    FRAME_SIZE_ERROR,
    INTERNAL_ERROR,
    NUMBER,
    PADDED,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    RST_STREAM,
    STREAM_CLOSED,
    WITH_PRIORITY,
    ConnectionFault,
    StreamFault,
    frame,
    unpadded,
)
from netstore.net.http2.head import trailers_allowed
from netstore.net.http2.hpackcache import BadBlock, LargeList

if TYPE_CHECKING:
    from netstore.net.http2.connection import Http2Connection
    from netstore.net.http2.head import Head
    from netstore.net.http2.stream import Stream

_REFUSED_WORK: Final = 8
_OPEN_WORK: Final = 6
"""With the frame that has the rest of the request."""
_SKIPPED_KNOWN: Final = 64


def headers(connection: Http2Connection, flags: int, number: int, payload: bytes) -> None:
    """A HEADERS frame that is padded, has a priority, is followed by CONTINUATION, or has trailers."""
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
        _block_done(connection, number, block, flags & END_STREAM)
    else:
        connection.partial_block = bytearray(block)
        connection.block_stream = number
        connection.block_ends = flags & END_STREAM
        connection.block_since = connection.now
        connection.continuations = 0


def continuation(connection: Http2Connection, flags: int, payload: bytes) -> None:
    """A CONTINUATION frame, whose stream was already compared."""
    block = connection.partial_block
    if block is None:
        raise ConnectionFault(PROTOCOL_ERROR, "a CONTINUATION of nothing")
    block += payload
    connection.continuations += 1
    if connection.continuations > MAX_CONTINUATIONS or len(block) > LIST_LIMIT:
        raise ConnectionFault(
            ENHANCE_YOUR_CALM,
            f"a header block of more than {LIST_LIMIT} bytes, or {MAX_CONTINUATIONS} CONTINUATIONs",
        )
    if flags & END_HEADERS:
        connection.partial_block = None
        _block_done(connection, connection.block_stream, bytes(block), connection.block_ends)


def _block_done(connection: Http2Connection, number: int, block: bytes, ended: int) -> None:
    if number > connection.last_stream:
        stream = open_stream(connection, number, block, ended)
        if stream is not None:
            begin_message(connection, stream)
    else:
        _trailers(connection, number, block, ended)


def open_stream(connection: Http2Connection, number: int, block: bytes, ended: int) -> Stream | None:
    """Open a stream for a complete header block, or refuse it. Returns the stream if more of the request is
    to come: the caller takes that, or calls `begin_message`.
    """
    if number != connection.last_stream + 2:
        _pass_over(connection, number)
    connection.last_stream = number
    found = connection.blocks.find(block)
    if found is None:
        found = _read_block(connection, number, block)
        if found is None:
            return None
    head, timeout = found
    server, streams = connection.server, connection.streams
    is_crowded = len(streams) >= server.crowd or connection.drain_state == CLOSING
    if is_crowded and _is_refused(connection, ended):
        stream_error(connection, number, REFUSED_STREAM)
        return None
    if ended and head.content_length:
        stream_error(connection, number, PROTOCOL_ERROR)
        return None
    try:
        stream = server.application.open(connection, number, head, timeout)
    except MustStop:
        raise
    except Exception as fault:  # noqa: BLE001 - logged by `failed`; no stream is opened
        connection.output.write(frame(RST_STREAM, 0, number, NUMBER.pack(INTERNAL_ERROR)))
        remember(connection, number, RESET_BY_US)
        server.failed(head, fault)
        return None
    connection.spent += _OPEN_WORK
    streams[number] = stream
    if connection.drain_state == WARNED:
        connection.attempt(stream, stream.drain)
        if not stream.open:
            return None
    if not ended:
        return stream
    _take_end(connection, stream)
    return None


def _pass_over(connection: Http2Connection, number: int) -> None:
    """The client opens another stream than the next one (RFC 9113, 5.1.1)."""
    if not number & 1:
        raise ConnectionFault(PROTOCOL_ERROR, f"stream {number} is not the client's to open")
    if len(connection.skipped) < _SKIPPED_KNOWN:
        connection.skipped.append(range(connection.last_stream + 2, number, 2))


def _read_block(connection: Http2Connection, number: int, block: bytes) -> tuple[Head, bytes | None] | None:
    """The meaning of a block that is not remembered; None if it resets its stream."""
    blocks = connection.blocks
    try:
        head, timeout = blocks.read(block)
    except BadBlock as fault:
        raise _block_error(fault) from None
    except StreamFault as fault:
        connection.spent += blocks.cost * _REFUSED_WORK
        blocks.cost = 0
        stream_error(connection, number, fault.code)
        return None
    connection.spent += blocks.cost + head.cost
    blocks.cost = head.cost = 0
    return head, timeout


def _is_refused(connection: Http2Connection, ended: int) -> bool:
    """No further stream is opened now. Asked only from `Http2Server.crowd` streams on, or when the server
    stops.
    """
    count = len(connection.streams)
    return (
        count >= connection.server.max_streams
        or (count >= MAX_STREAMS_OVER and connection.output.account.over)
        or connection.drain_state == CLOSING
        or (not ended and connection.unfinished >= MAX_UNFINISHED)
    )


def _block_error(fault: BadBlock) -> ConnectionFault:
    """The connection error for a header block that cannot be decoded (RFC 9113, 4.3)."""
    code = ENHANCE_YOUR_CALM if isinstance(fault, LargeList) else COMPRESSION_ERROR
    return ConnectionFault(code, str(fault))


def _take_end(connection: Http2Connection, stream: Stream) -> None:
    """The request ends with its HEADERS or trailers, without END_STREAM on DATA."""
    stream.half_closed = True
    complete_message(connection, stream)
    if stream.open:
        connection.attempt(stream, stream.take, b"", 0, 0, END_STREAM)


def _trailers(connection: Http2Connection, number: int, block: bytes, ended: int) -> None:
    """A complete header block of a stream that was opened before: trailers, or an error."""
    try:
        fields = connection.blocks.decode(block)
    except BadBlock as fault:
        raise _block_error(fault) from None
    connection.spent += connection.blocks.cost
    connection.blocks.cost = 0
    stream = connection.streams.get(number)
    if stream is None:
        on_closed_stream(connection, number, "HEADERS")
    elif stream.half_closed:
        stream_error(connection, number, STREAM_CLOSED)
    elif not ended or stream.expected or not trailers_allowed(fields):
        stream_error(connection, number, PROTOCOL_ERROR)
    else:
        _take_end(connection, stream)
