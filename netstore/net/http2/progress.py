"""Time limits on a peer, checked once a second: late frames, slow requests, and windows that stay closed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from netstore.net.exchange import LOW_WATER
from netstore.net.http2.bounds import (
    BLOCK_SECONDS,
    ENDED_AT_ONCE,
    FRAME_SECONDS,
    PREFACE_SECONDS,
    REQUEST_CHECK_SECONDS,
    REQUEST_RATE,
    REQUEST_SECONDS,
    STALL_RATE,
    STALL_SECONDS,
    STREAMS_PER_UNIT,
    UNSENT_LIMIT,
)
from netstore.net.http2.closing import give_up
from netstore.net.http2.frames import CANCEL, ENHANCE_YOUR_CALM

if TYPE_CHECKING:
    from netstore.net.http2.connection import Http2Connection
    from netstore.net.http2.stream import Stream


def is_late(connection: Http2Connection, now: float) -> bool:
    """The preface, a header block or a frame took longer than its time limit."""
    if connection.at_limit or connection.output.paused:
        connection.unparsed_since = connection.block_since = now
        return False  # the rest may have arrived and not been read by us
    if not connection.started:
        return now - connection.created > PREFACE_SECONDS
    if connection.partial_block is not None and now - connection.block_since > BLOCK_SECONDS:
        return True
    return bool(connection.unparsed) and now - connection.unparsed_since > FRAME_SECONDS


def give_up_late(connection: Http2Connection, now: float) -> None:
    """Reset requests that are slower than `REQUEST_RATE`, at most `ENDED_AT_ONCE` in a sweep; the others
    start a new period. O(open streams), charged.
    """
    connection.spent += len(connection.streams) // STREAMS_PER_UNIT
    limit = now - REQUEST_SECONDS
    late = []
    for stream in connection.streams.values():
        if stream.since is not None and stream.since < limit and stream.awaited:
            if stream.waits:
                stream.since = now
                stream.received = 0
            elif stream.received < REQUEST_SECONDS * REQUEST_RATE:
                late.append(stream)
            else:
                stream.since = now
                stream.received = 0
    for stream in late[:ENDED_AT_ONCE]:
        give_up(connection, stream, CANCEL)
    if len(late) > ENDED_AT_ONCE:
        connection.requests_checked = now - REQUEST_CHECK_SECONDS
    connection.resume()


def check_progress(connection: Http2Connection, now: float) -> None:
    """Enforce that the peer's windows let at least `STALL_RATE` through while answers are queued. A socket
    that takes nothing is handled by the reactor instead.

    Streams whose own window was closed all the time are reset, those with most queued bytes first, a limited
    number in a sweep, until the others hold little: the client may read the other streams without knowing of
    these. If the connection's window is the cause, or stream windows open a little now and then, the
    connection is closed. O(waiting streams), charged.
    """
    if connection.resetting_stalled:
        _reset_stalled(connection, now - STALL_SECONDS)
        return
    sent = connection.granted - connection.window
    unsent = connection.output.unsent
    waits = (
        connection.queued > LOW_WATER
        or connection.window_waiters
        or (connection.room_waiters and unsent <= LOW_WATER)
    )
    if not waits or unsent >= UNSENT_LIMIT:
        enough = True
    elif now - connection.progress_since <= STALL_SECONDS:
        return
    else:
        enough = sent - connection.sent_before >= STALL_SECONDS * STALL_RATE
    connection.progress_since = now
    connection.sent_before = sent
    if not enough and not (connection.window > 0 and _reset_stalled(connection, now - STALL_SECONDS)):
        connection.fail(ENHANCE_YOUR_CALM, "flow-control windows closed for too long")


def _reset_stalled(connection: Http2Connection, limit: float) -> bool:
    """Reset streams whose window has been closed since `limit` or longer; True if there were any to reset."""
    connection.spent += (len(connection.blocked) + len(connection.window_waiters)) // STREAMS_PER_UNIT
    stalled = [stream for stream, since in connection.window_waiters.items() if since <= limit]
    blocked = [stream for stream, since in connection.blocked.items() if since <= limit]
    blocked.sort(key=_queued_of, reverse=True)
    held = sum(map(_queued_of, blocked))
    for stream in blocked:
        if held <= LOW_WATER:
            break
        held -= stream.queued
        stalled.append(stream)
    for stream in stalled[:ENDED_AT_ONCE]:
        give_up(connection, stream, ENHANCE_YOUR_CALM)
    connection.resetting_stalled = len(stalled) > ENDED_AT_ONCE
    if stalled:
        connection.resume()
    return bool(stalled)


def _queued_of(stream: Stream) -> int:
    return stream.queued
